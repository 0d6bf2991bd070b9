"""Which gear plan for which wish: the most accurate in time, the quickest that is right enough, the fewest devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from headway.domains.cascade.family import Family
from headway.domains.cascade.gears import GearPlan
from headway.domains.cascade.halves import Rows, judged_on
from headway.domains.cascade.loss import Loss, run_with_loss
from headway.domains.cascade.station import SAMPLE, CascadeStation, shuffled
from headway.domains.cascade.unserved import TooFew
from headway.errors import PlanError
from headway.sim.outcome import percentile
from headway.sim.station import Arrivals, Departures, Floats
from headway.trace import Trace

MOST_DEVICES = 512


@dataclass(frozen=True, slots=True)
class Judgment:
    """What a gear plan does on a trace: its accuracy, and a percentile of its latency."""

    plan: GearPlan
    accuracy: float
    latency_s: float


class Judge:
    """Simulates gear plans of a family on one trace with mean service times; every plan sees the same samples.

    These are the table's samples that chose no cascade, or the given ones. `judged` counts the simulations.
    """

    def __init__(
        self, family: Family, trace: Trace, *, percent: float = 95.0, seed: int = 0, samples: Rows | None = None
    ) -> None:
        self.family, self.percent, self.seed = family, percent, seed
        items = np.arange(trace.requests, dtype=np.int32)
        columns = dict(trace.columns)
        if samples is not None or SAMPLE not in columns:
            asked = judged_on(family.table) if samples is None else samples
            columns[SAMPLE] = shuffled(seed, family.where, trace.requests, asked).astype(np.float64)
        self.arrivals = Arrivals(trace.arrival_s, items, items, attributes=columns)
        self.judged = 0

    def judge(self, plan: GearPlan, loss: Loss | None = None) -> Judgment:
        """Return what a plan does, with a device lost on the way or not."""
        left = self.run(plan, loss)
        return Judgment(plan, left.accuracy or 0.0, percentile(self.latency_s(left), self.percent))

    def run(self, plan: GearPlan, loss: Loss | None = None) -> Departures:
        """Return what becomes of every request under a plan."""
        self.judged += 1
        tables = {name: self.family.service[name].table(size, sampled=False) for name, size in plan.max_batch_size}
        station = CascadeStation(self.family.where, plan, tables, self.family.table)
        if loss is not None:
            return run_with_loss(station, self.arrivals, loss, seed=self.seed)
        return station.run(self.arrivals, seed=self.seed, record=False)

    def latency_s(self, left: Departures) -> Floats:
        """Return how long each departure took, in their order."""
        return left.done_s - self.arrivals.arrival_s[left.item]


def best(
    judgments: Iterable[Judgment], *, latency_s: float | None = None, accuracy: float | None = None
) -> Judgment | None:
    """Return the most accurate within `latency_s`, or the quickest that is right as often as `accuracy`, or with both
    the most accurate of those that keep both; None when none keeps what is asked.

    Raises PlanError when nothing is asked.
    """
    if latency_s is None and accuracy is None:
        raise PlanError("gears are chosen by a latency, an accuracy or both; give at least one")
    kept = [one for one in judgments if keeps(one, latency_s, accuracy)]
    if latency_s is None:
        return min(kept, key=lambda one: (one.latency_s, -one.accuracy), default=None)
    return max(kept, key=lambda one: (one.accuracy, -one.latency_s), default=None)


def keeps(one: Judgment, latency_s: float | None, accuracy: float | None) -> bool:
    """Return whether a plan keeps what is promised of it."""
    return (latency_s is None or one.latency_s <= latency_s + 1e-9) and (
        accuracy is None or one.accuracy >= accuracy - 1e-12
    )


def fewest(
    plans: Callable[[int], Sequence[GearPlan]], judge: Judge, latency_s: float, accuracy: float, first: int = 1
) -> Judgment | None:
    """Return a plan of the fewest devices that keeps both promises, found by bisection; None up to `MOST_DEVICES`.

    `plans(devices)` are the candidates; TooFew counts as none. `first` is the number that is tried first.
    """

    def at(devices: int) -> Judgment | None:
        try:
            listed = plans(devices)
        except TooFew:
            return None
        return next((one for one in map(judge.judge, listed) if keeps(one, latency_s, accuracy)), None)

    low, high = 0, first
    while (found := at(high)) is None and high < MOST_DEVICES:
        low, high = high, 2 * high
    while found is not None and high - low > 1:
        middle = (low + high) // 2
        fewer = at(middle)
        low, high, found = (middle, high, found) if fewer is None else (low, middle, fewer)
    return found
