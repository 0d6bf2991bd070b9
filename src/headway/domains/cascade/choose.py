"""Which gear plan for which wish: the most accurate in time, the quickest that is right enough, the fewest devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from headway.domains.cascade.family import Family
from headway.domains.cascade.gears import GearPlan
from headway.domains.cascade.planner import TooFew
from headway.domains.cascade.station import CascadeStation
from headway.errors import PlanError
from headway.sim.outcome import percentile
from headway.sim.station import Arrivals
from headway.trace import Trace

MOST_DEVICES = 512


@dataclass(frozen=True, slots=True)
class Judgment:
    """What a gear plan does on a trace: its accuracy, and a percentile of its latency."""

    plan: GearPlan
    accuracy: float
    latency_s: float


class Judge:
    """Simulates gear plans of a family on one trace with mean service times; every plan sees the same samples."""

    def __init__(self, family: Family, trace: Trace, *, percent: float = 95.0, seed: int = 0) -> None:
        self.family, self.percent, self.seed = family, percent, seed
        items = np.arange(trace.requests, dtype=np.int32)
        self._arrivals = Arrivals(trace.arrival_s, items, items, attributes=trace.columns)
        self.judged = 0

    def judge(self, plan: GearPlan) -> Judgment:
        """Return what a plan does."""
        self.judged += 1
        tables = {name: self.family.service[name].table(size, sampled=False) for name, size in plan.max_batch_size}
        station = CascadeStation(self.family.where, plan, tables, self.family.table)
        left = station.run(self._arrivals, seed=self.seed, record=False)
        latency_s = left.done_s - self._arrivals.arrival_s[left.item]
        return Judgment(plan, left.accuracy or 0.0, percentile(latency_s, self.percent))


def best(
    judgments: Iterable[Judgment], *, latency_s: float | None = None, accuracy: float | None = None
) -> Judgment | None:
    """Return the most accurate within `latency_s`, or the quickest that is right as often as `accuracy`, or with both
    the most accurate of those that keep both; None when none keeps what is asked.

    Raises PlanError when nothing is asked.
    """
    if latency_s is None and accuracy is None:
        raise PlanError("gears are chosen by a latency, an accuracy or both; give at least one")
    kept = [
        one
        for one in judgments
        if (latency_s is None or one.latency_s <= latency_s + 1e-9)
        and (accuracy is None or one.accuracy >= accuracy - 1e-12)
    ]
    if latency_s is None:
        return min(kept, key=lambda one: (one.latency_s, -one.accuracy), default=None)
    return max(kept, key=lambda one: (one.accuracy, -one.latency_s), default=None)


def fewest(
    plans: Callable[[int], Sequence[GearPlan]], judge: Judge, latency_s: float, accuracy: float
) -> Judgment | None:
    """Return a plan of the fewest devices that keeps both promises, found by bisection; None up to `MOST_DEVICES`.

    `plans(devices)` are the candidates; TooFew counts as none.
    """

    def at(devices: int) -> Judgment | None:
        try:
            listed = plans(devices)
        except TooFew:
            return None
        judged = (best([judge.judge(plan)], latency_s=latency_s, accuracy=accuracy) for plan in listed)
        return next((one for one in judged if one is not None), None)

    low, high = 0, 1
    while (found := at(high)) is None and high < MOST_DEVICES:
        low, high = high, 2 * high
    while found is not None and high - low > 1:
        middle = (low + high) // 2
        fewer = at(middle)
        low, high, found = (middle, high, found) if fewer is None else (low, middle, fewer)
    return found
