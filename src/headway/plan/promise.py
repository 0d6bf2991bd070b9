"""Does a promise hold, by how much is it broken, and how to say so: the one place for the criterion that applies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headway.sim.outcome import most_misses, promise_holds, windows_kept
from headway.sim.station import Floats
from headway.spec.model import Slo

Missed = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Criterion:
    """When a promise counts as kept: over all requests, or in the share `objective` of windows of `window_s`.

    >>> Criterion(99.0).exceeded_text(0.0173)
    'miss 1.73% (1% allowed)'
    """

    percent: float
    window_s: float | None = None
    objective: float | None = None

    @classmethod
    def of(cls, slo: Slo) -> Criterion:
        """Return the criterion of a spec's promise."""
        if slo.window_s is None or slo.objective is None:
            return cls(slo.percentile)
        return cls(slo.percentile, slo.window_s, slo.objective)

    @property
    def allowed(self) -> float:
        """The share of requests, or of windows, that may break the promise."""
        return 1 - (self.percent / 100 if self.objective is None else self.objective)

    def holds(self, arrival_s: Floats, missed: Missed) -> bool:
        """Return whether the promise is kept by requests of which some miss."""
        return promise_holds(arrival_s, missed, self.percent, self.window_s, self.objective)

    def broken(self, arrival_s: Floats, missed: Missed) -> float:
        """Return the share that breaks the promise: of the requests, or of the windows."""
        if self.window_s is None:
            return int(np.count_nonzero(missed)) / max(1, missed.size)
        return 1 - windows_kept(arrival_s, missed, self.percent, self.window_s)

    def most_misses(self, arrival_s: Floats) -> int:
        """Return the largest number of misses with which the promise can still be kept."""
        return most_misses(arrival_s, self.percent, self.window_s, self.objective)

    def broken_text(self, broken: float) -> str:
        """Return what follows "would": `miss 2%`, or `break the promise in 2% of the windows of 60 s`."""
        if self.window_s is None:
            return f"miss {100 * broken:.3g}%"
        return f"break the promise in {100 * broken:.3g}% of the windows of {duration_text(self.window_s)}"

    def exceeded_text(self, broken: float) -> str:
        """Return `broken_text` with what is allowed."""
        return f"{self.broken_text(broken)} ({100 * self.allowed:.3g}% allowed)"

    def text(self, latency_s: float) -> str:
        """Return the promise in words: `99% within 300 ms`, with the windows where there are any."""
        whole = f"{self.percent:g}% within {duration_text(latency_s)}"
        if self.window_s is None or self.objective is None:
            return whole
        return f"{whole} in {100 * self.objective:g}% of the windows of {duration_text(self.window_s)}"


def duration_text(value_s: float, *, up: bool = False) -> str:
    """Return a duration as a person reads it: seconds from 1 s on, milliseconds below; `up` never understates it.

    >>> duration_text(19.34), duration_text(19.34, up=True), duration_text(0.03), duration_text(3600.0)
    ('19.3 s', '19.4 s', '30 ms', '3600 s')
    """
    if value_s <= 0 or not math.isfinite(value_s):
        return f"{value_s:g} s"
    seconds = round(value_s * 1e3, 1) >= 1000
    value, unit, figures = (value_s, "s", 3) if seconds else (value_s * 1e3, "ms", 4)
    digits = max(0, figures - 1 - math.floor(math.log10(value)))
    rounded = math.ceil(value * 10**digits - 1e-9) / 10**digits if up else round(value, digits)
    return f"{rounded:.6g} {unit}"
