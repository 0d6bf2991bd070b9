"""Headway's gear plans: for so many devices, the most accurate cascade at every rate that they carry in time.

A gear serves up to the rate at which its cascade takes a given share of the devices, work split as well as can be and
in batches as large as a slice of the promise allows. Which share and which slice is best depends on how bursty the
traffic is: a small family of plans is made for each number of devices, and whoever knows the traffic chooses by
simulation. A gear whose 95th percentile at its own rate is beyond the promise is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from headway.cascade.search import Judged
from headway.domains.cascade.family import MOST_STEPS, Family, work_s
from headway.domains.cascade.gears import WINDOW_S, Gear, GearPlan, Group
from headway.domains.cascade.place import balance, model_sets, peak_utilization, placements
from headway.domains.cascade.trial import Trial
from headway.errors import PlanError

Floats = NDArray[np.float64]

UTILIZATIONS = (0.5, 0.65, 0.8, 0.95)
"""Shares of the devices that a gear may take at its highest rate."""
SLICES = (0.05, 0.15, 0.4)
"""Shares of the promise that one batch may take."""
QUEUE_SHARES = (0.0, 0.1)
"""Shares of the promise for which an item may wait for its first batch to fill."""
RANGES = 12
"""Load ranges of equal width up to the highest rate; neighbors that share a cascade share a gear."""
WINDOW_SHARE = 0.25
"""The share of the promise within which a change of load must show."""
LEAST_WINDOW_S = 0.01
COUNTED = 30
"""Arrivals at the highest rate that a window must show on average: fewer tell little of the rate."""


@dataclass(frozen=True)
class Unserved:
    """Why devices are too few: the range of rates that they cannot serve, and the model that takes most of them."""

    from_per_s: float
    to_per_s: float
    model: str

    def text(self, devices: int) -> str:
        """Return it as a sentence."""
        plural = "s" if devices != 1 else ""
        return (
            f"{devices} device{plural} cannot serve {self.from_per_s:.4g} to {self.to_per_s:.4g} requests/s; model "
            f"{self.model!r} of the cheapest cascade takes most of them"
        )


class TooFew(PlanError):
    """So many devices do not carry the highest rate; `unserved` says which range and which model."""

    def __init__(self, where: str, devices: int, unserved: Unserved) -> None:
        super().__init__(f"{where}: {unserved.text(devices)}")
        self.unserved = unserved


class GearPlanner:
    """Makes gear plans of one family under a promise of `latency_s` at a percentile; nothing is kept between planners.

    Cascades have `max_steps` steps at most; with 1 gears only switch between models.
    """

    def __init__(self, family: Family, latency_s: float, max_steps: int = MOST_STEPS) -> None:
        self.family, self.latency_s, self.max_steps = family, latency_s, max_steps
        self._judged: dict[tuple[tuple[str, int], ...], Judged] = {}
        self._trials: dict[tuple[object, ...], Trial] = {}
        self._split: dict[tuple[object, ...], tuple[tuple[float, ...], ...]] = {}

    def plans(self, devices: int) -> list[GearPlan]:
        """Return the plans for so many devices, each once. Raises TooFew when they do not carry the highest rate."""
        found: dict[GearPlan, None] = {}
        short: TooFew | None = None
        for sizes in self.sizes():
            try:
                placement = self.place(sizes, devices)
            except TooFew as error:
                short = error
                continue
            for utilization in UTILIZATIONS:
                for share in QUEUE_SHARES:
                    plan = self.plan(sizes, placement, utilization, share * self.latency_s)
                    if plan is not None:
                        found[plan] = None
        if not found and short is not None:
            raise short
        return list(found)

    def sizes(self) -> list[dict[str, int]]:
        """Return the choices of largest batches."""
        listed = (self.family.batch_sizes(share * self.latency_s) for share in SLICES)
        return list({tuple(sizes.items()): sizes for sizes in listed}.values())

    def plan(
        self, sizes: Mapping[str, int], placement: tuple[Group, ...], utilization: float, max_wait_s: float
    ) -> GearPlan | None:
        """Return the plan whose gears take `utilization` of the devices at most; None when they cannot serve it all."""
        make = _Gears(self, sizes, placement, utilization, max_wait_s)
        gears = make.gears([placement])
        most = self.family.max_rate_per_s
        if not gears or gears[-1].up_to_per_s < most:
            return None
        window_s = min(1.0, max(COUNTED / most, LEAST_WINDOW_S, min(WINDOW_S, WINDOW_SHARE * self.latency_s)))
        placed = {name for group in placement for name in group.models}
        return GearPlan(
            self.family.hardware,
            placement,
            tuple((name, size) for name, size in sizes.items() if name in placed),
            gears,
            make.gears(_less_one(placement)),
            window_s,
            table=self.family.table_hash,
        )

    def judged(self, sizes: Mapping[str, int]) -> Judged:
        """Return the cascades worth a gear when batches are that large."""
        key = tuple(sizes.items())
        if key not in self._judged:
            self._judged[key] = self.family.cascades(sizes, self.max_steps)
        return self._judged[key]

    def place(self, sizes: Mapping[str, int], devices: int) -> tuple[Group, ...]:
        """Return the placement that is expected to be right most often. Raises TooFew when none carries the load.

        Low rates are taken to be more frequent than high ones (Zipf's law over the ranges; CascadeServe, section 3.2).
        """
        models, memory_mb = tuple(sizes), self.family.memory_mb
        if memory_mb is None or sum(memory_mb.values()) <= self.family.device_mb:
            choices: list[tuple[Group, ...]] = [(Group(models, devices),)]
        else:
            sets = model_sets({name: memory_mb[name] for name in models}, self.family.device_mb)
            choices = list(placements(sets, devices))
        judged = self.judged(sizes)
        work = work_s(judged, models, self.family.cost_s(sizes))
        edges = self.family.max_rate_per_s * np.arange(1, RANGES + 1) / RANGES
        weight = 1 / np.arange(1, RANGES + 1)
        best, value, reached = choices[0], -1.0, 0.0
        for placement in choices:
            rates = max(UTILIZATIONS) / peak_utilization(placement, models, work)
            reached = max(reached, float(rates.max()))
            if rates.max() < self.family.max_rate_per_s:
                continue
            served = np.where(rates[:, None] >= edges, judged.accuracy[:, None], 0.0).max(axis=0)
            if float(served @ weight) > value + 1e-12:
                best, value = placement, float(served @ weight)
        if value < 0:
            dearest = models[int(np.argmax(work[int(np.argmin(work.sum(axis=1)))]))]
            raise TooFew(self.family.where, devices, Unserved(reached, self.family.max_rate_per_s, dearest))
        return tuple(group for group in best if group.devices)

    def predicted_s(self, gear: Gear, sizes: Mapping[str, int], placement: tuple[Group, ...]) -> float:
        """Return a gear's 95th percentile at its highest rate, alone."""
        key = tuple(sizes.items()), placement
        if key not in self._trials:
            self._trials[key] = Trial(self.family, sizes, placement)
        return self._trials[key].p95_s(gear)

    def split(
        self, judged: Judged, row: int, sizes: Mapping[str, int], placement: tuple[Group, ...]
    ) -> tuple[tuple[float, ...], ...]:
        """Return per step of a cascade the share of its work that each group of devices does, split at best."""
        cascade = judged.cascade(row)
        if len(placement) == 1:
            return ((1.0,),) * len(cascade)
        key = cascade, tuple(sizes.items()), placement
        if key not in self._split:
            reaching = dict(zip(cascade.models, judged.reaching[row].tolist(), strict=False))
            shares = balance(placement, reaching, self.family.cost_s(sizes))[1]
            self._split[key] = tuple(shares.get(name, (0.0,) * len(placement)) for name in cascade.models)
        return self._split[key]


@dataclass(frozen=True)
class _Gears:
    """Makes the gears of one plan, for all its devices and for what is left of them."""

    planner: GearPlanner
    sizes: Mapping[str, int]
    placement: tuple[Group, ...]
    utilization: float
    max_wait_s: float

    def gears(self, left: Sequence[tuple[Group, ...]]) -> tuple[Gear, ...]:
        """Return the gears that hold whichever of the placements is left, by rising rate."""
        if not left or not all(left):
            return ()
        family, judged = self.planner.family, self.planner.judged(self.sizes)
        work = work_s(judged, tuple(self.sizes), family.cost_s(self.sizes))
        busy = np.max([peak_utilization(placement, tuple(self.sizes), work) for placement in left], axis=0)
        rates = self.utilization / busy
        out: list[Gear] = []
        for row in ladder(judged.accuracy, rates, family.max_rate_per_s):
            gear = self._gear(judged, row, float(rates[row]), out[-1].up_to_per_s if out else 0.0)
            latency_s = max(self.planner.predicted_s(gear, self.sizes, placement) for placement in left)
            if latency_s <= self.planner.latency_s:
                split = self.planner.split(judged, row, self.sizes, left[0])
                out.append(replace(gear, latency_s=latency_s, load_split=split))
        return tuple(out)

    def _gear(self, judged: Judged, row: int, rate_per_s: float, below_per_s: float) -> Gear:
        cascade = judged.cascade(row)
        # As many as come within the wait at the gear's lowest rate: for more, the wait alone would be the trigger.
        queued = min(self.sizes[cascade.models[0]], max(1, int(below_per_s * self.max_wait_s)))
        return Gear(
            cascade,
            rate_per_s,
            (queued, *[1] * (len(cascade) - 1)),
            self.max_wait_s if queued > 1 else 0.0,
            accuracy=float(judged.accuracy[row]),
            utilization=self.utilization,
        )


def _less_one(placement: tuple[Group, ...]) -> list[tuple[Group, ...]]:
    """What is left when one device of each group is lost."""
    left = []
    for at, group in enumerate(placement):
        fewer = (*placement[:at], replace(group, devices=group.devices - 1), *placement[at + 1 :])
        left.append(tuple(each for each in fewer if each.devices))
    return left


def ladder(accuracy: Floats, rates_per_s: Floats, most_per_s: float) -> list[int]:
    """Return the cascades that serve ranges of equal width up to `most_per_s`: in each the most accurate that can.

    They stand by rising rate; ranges that none carries are left out.

    >>> ladder(np.array([0.9, 0.8]), np.array([30.0, 200.0]), 100.0)
    [0, 1]
    """
    rows: list[int] = []
    for upper in most_per_s * np.arange(1, RANGES + 1) / RANGES:
        able = np.flatnonzero(rates_per_s >= upper)
        if able.size:
            row = int(able[np.lexsort((-rates_per_s[able], -accuracy[able]))[0]])
            if row not in rows:
                rows.append(row)
    return rows
