"""Whether a server does worse since its plan was changed: what is compared, and the rule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NOISE_Z = 3.0
"""Standard deviations by which a count may exceed what is allowed without meaning anything."""


@dataclass(frozen=True, slots=True)
class Watch:
    """How a change of plan is watched after it was made. It is taken back when, within `window_s`,

    - a stage is left without a live replica, or more than `max_restarts` workers die in the stages that changed;
    - the share of requests that miss the promise exceeds that of the window before by more than `miss_tolerance`,
      beyond noise, though not more than `load_tolerance` times more requests come. Under more load requests are late
      for another reason, and a change that only adds replicas is never at fault.
    """

    window_s: float = 10.0
    miss_tolerance: float = 0.05
    load_tolerance: float = 0.1
    max_restarts: int = 2


@dataclass(frozen=True, slots=True)
class Seen:
    """Requests that arrived in a span of time: how many came, how many of them have ended or are late, and missed."""

    span_s: float
    offered: int
    judged: int
    missed: int

    @classmethod
    def of(cls, span: tuple[float, float], arrivals: Floats, ended: Floats, slo_s: float, overdue: int = 0) -> Seen:
        """Return what was seen of requests that arrived in (from, to].

        `arrivals`: when each came; `ended`: rows of arrival and latency, infinite for what was not answered; `overdue`
        are requests of this span that have no answer yet and are late already.
        """
        begin_s, end_s = span
        latency_s = ended[(ended[:, 0] > begin_s) & (ended[:, 0] <= end_s), 1]
        missed = int(np.count_nonzero(latency_s > slo_s)) + overdue
        offered = int(np.count_nonzero((arrivals > begin_s) & (arrivals <= end_s)))
        return cls(end_s - begin_s, offered, latency_s.size + overdue, missed)

    @property
    def share(self) -> float:
        """The share of requests that missed the promise."""
        return self.missed / self.judged if self.judged else 0.0


def worse(before: Seen, after: Seen, watch: Watch) -> str | None:
    """Return in one sentence why requests do worse than before, or None when they do not or nothing can be said.

    >>> worse(Seen(10.0, 100, 100, 1), Seen(10.0, 100, 100, 30), Watch())
    '30 of 100 requests missed the promise since the change, and 1 of 100 before it'
    >>> worse(Seen(10.0, 100, 100, 1), Seen(10.0, 200, 200, 60), Watch()) is None  # twice the load
    True
    """
    if not before.judged or not after.judged:
        return None
    likely = before.offered * after.span_s / before.span_s * (1.0 + watch.load_tolerance)
    if after.offered > likely + NOISE_Z * math.sqrt(likely):
        return None
    allowed = min(1.0, before.share + watch.miss_tolerance)
    # Both shares are known only as well as their numbers of requests let them be.
    variance = allowed * (1.0 - allowed) * (1.0 / after.judged + 1.0 / before.judged)
    if after.share <= allowed + NOISE_Z * math.sqrt(variance):
        return None
    return (
        f"{after.missed} of {after.judged} requests missed the promise since the change, "
        f"and {before.missed} of {before.judged} before it"
    )
