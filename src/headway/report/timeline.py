"""How a cascade went over time, window by window: load, gears, who answered, how rightly and how fast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.report.curves import bin_width_s
from headway.sim.outcome import percentile

Floats = NDArray[np.float64]

MOST_WINDOWS = 32
UNKNOWN = -1
"""In place of a model's number, for a request that none answered."""


@dataclass(frozen=True, slots=True)
class Window:
    """What happened to the requests that came within a window; None where nothing can be said.

    `held`: the share of the window in each gear, from the dearest to the cheapest. `exits`: answers by model, from the
    cheapest to the dearest. Latencies are percentiles as promised; infinite where requests stayed unanswered.
    """

    start_s: float
    end_s: float
    requests: int
    held: tuple[float, ...]
    exits: tuple[int, ...]
    accuracy: float | None
    latency_s: float | None
    predicted_s: float | None = None

    @property
    def rate_per_s(self) -> float:
        """Requests per second."""
        return self.requests / (self.end_s - self.start_s)

    @property
    def answered(self) -> int:
        """Requests that a model answered."""
        return sum(self.exits)

    def to_dict(self) -> dict[str, Any]:
        """Return the window as JSON values; an infinite latency is null."""
        return {
            "start_s": self.start_s, "end_s": self.end_s, "requests": self.requests, "held": list(self.held),
            "exits": list(self.exits), "accuracy": self.accuracy,
            "latency_s": _finite(self.latency_s), "predicted_s": _finite(self.predicted_s),
        }  # fmt: skip


@dataclass(frozen=True)
class Timeline:
    """A cascade over time; `accuracy` is of all answers, `floor` what was promised of it, `switches` counts changes.

    >>> quiet = Window(0.0, 2.0, 10, (1.0,), (10,), 0.9, 0.05)
    >>> Timeline(("small",), ("small",), (quiet,), 0.1, 95.0, switches=0).windows[0].rate_per_s
    5.0
    """

    gears: tuple[str, ...]
    models: tuple[str, ...]
    windows: tuple[Window, ...]
    slo_s: float
    percentile: float
    switches: int
    accuracy: float | None = None
    floor: float | None = None

    @property
    def duration_s(self) -> float:
        """From the first window's begin to the last one's end."""
        return self.windows[-1].end_s - self.windows[0].start_s

    def held(self) -> tuple[float, ...]:
        """Return the share of the whole time in each gear."""
        spans = np.array([window.end_s - window.start_s for window in self.windows])
        shares = spans @ np.array([window.held for window in self.windows]) / spans.sum()
        return tuple(float(share) for share in shares)

    def exits(self) -> tuple[int, ...]:
        """Return how many requests each model answered."""
        return tuple(int(count) for count in np.sum([window.exits for window in self.windows], axis=0))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "gears": list(self.gears), "models": list(self.models), "switches": self.switches,
            "slo_s": self.slo_s, "percentile": self.percentile, "accuracy": self.accuracy, "floor": self.floor,
            "windows": [window.to_dict() for window in self.windows],
        }  # fmt: skip


def windows(
    arrival_s: Floats,
    latency_s: Floats,
    model: NDArray[np.int64],
    right: NDArray[np.bool_],
    held: Sequence[tuple[float, Sequence[float]]],
    *,
    duration_s: float,
    models: int,
    percent: float,
    predicted_s: Floats | None = None,
) -> tuple[Window, ...]:
    """Return what happened in windows of a round length, at most `MOST_WINDOWS` over the whole duration.

    One entry per request: arrival, latency (infinite when unanswered), which model answered (or `UNKNOWN`), whether
    rightly. `held`: at rising times, the seconds that each gear had been in force until then; in between they rise
    evenly. `predicted_s`: latencies of the same requests as predicted.
    """
    width_s = bin_width_s(duration_s, MOST_WINDOWS)
    edges = np.minimum(np.arange(math.ceil(duration_s / width_s - 1e-9) + 1) * width_s, duration_s)
    shares = _shares(held, edges)
    at = np.clip(np.searchsorted(edges, arrival_s, side="right") - 1, 0, len(edges) - 2)
    out = []
    for number in range(len(edges) - 1):
        mine = np.flatnonzero(at == number)
        answered = mine[model[mine] != UNKNOWN]
        predicted = None if predicted_s is None or not mine.size else percentile(predicted_s[mine], percent)
        out.append(
            Window(
                float(edges[number]),
                float(edges[number + 1]),
                int(mine.size),
                tuple(float(share) for share in shares[number]),
                tuple(int(n) for n in np.bincount(model[answered], minlength=models)),
                float(right[answered].mean()) if answered.size else None,
                percentile(latency_s[mine], percent) if mine.size else None,
                predicted,
            )
        )
    return tuple(out)


def _shares(held: Sequence[tuple[float, Sequence[float]]], edges: Floats) -> Floats:
    """The share of each window that each gear was in force, `[window, gear]`; what no sample covers is left out."""
    times = np.array([time_s for time_s, _ in held])
    seconds = np.array([list(each) for _, each in held], np.float64)
    until = np.stack([np.interp(edges, times, column) for column in seconds.T], axis=1)
    spent = np.maximum(np.diff(until, axis=0), 0.0)
    whole = spent.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(spent, whole, out=np.zeros_like(spent), where=whole > 0), np.float64)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
