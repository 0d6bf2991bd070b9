"""Headway's gear plans: for so many devices, the most accurate cascade at every rate that they carry in time.

A gear serves up to the rate at which its cascade takes a given share of the devices, work split as well as can be and
in batches as large as a slice of the promise allows. Which share and which slice is best depends on how bursty the
traffic is: a small family of plans is made for each number of devices, and whoever knows the traffic chooses by
simulation. One gear for all loads, of one model or of a cascade, is among them, and so is switching between models:
where the promise is loose, nothing is gained by switching. A gear whose 95th percentile at its own rate is beyond the
promise is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from headway.cascade import Cascade
from headway.cascade.search import Judged
from headway.domains.cascade.family import MOST_STEPS, Choice, Family, work_s
from headway.domains.cascade.gears import ALPHA_PER_S, WINDOW_S, Gear, GearPlan, Group
from headway.domains.cascade.place import balance, model_sets, peak_utilization, placements
from headway.domains.cascade.trial import Trial
from headway.domains.cascade.unserved import TooFew, Unserved

Floats = NDArray[np.float64]
Placement = tuple[Group, ...]

UTILIZATIONS = (0.5, 0.65, 0.8, 0.95)
"""Shares of the devices that a gear may take at its highest rate."""
OVERLOADS = (1.25, 1.75)
"""More than there is: for a promise that leaves time to work off what a burst has left, in a dearer gear."""
FULL = 0.95
"""The share of the devices that the highest rate may take in the cheapest gear."""
SLICES = (0.05, 0.15, 0.4)
"""Shares of the promise that one batch may take."""
QUEUE_SHARES = (0.0, 0.1)
"""Shares of the promise for which an item may wait for its first batch to fill."""
RANGES = 12
"""Load ranges of equal width up to the highest rate; neighbors that share a cascade share a gear."""
FREQUENT: Floats = 1 / np.arange(1, RANGES + 1)
"""How frequent rates of each range are taken to be (Zipf's law)."""
WINDOW_SHARE = 0.25
"""The share of the promise within which a change of load must show."""
LEAST_WINDOW_S = 0.01
COUNTED = 30
"""Arrivals at the highest rate that a window must show on average: fewer tell little of the rate."""
MARGINS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.5)
"""One gear for all loads is tried with the cheapest cascade that is so many standard errors above the floor: what is
right often enough on the samples that choose may not be so on others, or be so with less."""
SURELY = 4.0
"""Standard errors that the two halves of a table do not differ by."""


class GearPlanner:
    """Makes gear plans of one family under a promise of `latency_s` at a percentile; nothing is kept between planners.

    `accuracy` is the floor that plans of one gear are made for; without it they are of what the devices carry.
    Cascades have `max_steps` steps at most; with 1 gears only switch between models. Gears are made for rates up to
    `up_to_per_s`, the family's highest rate unless given: what must be carried may be less than what comes for a
    moment. With a tolerance cascades are certified once for each choice of batches, and single models again: all of
    these `sequences` of tests hold together.
    """

    def __init__(
        self,
        family: Family,
        latency_s: float,
        accuracy: float | None = None,
        *,
        max_steps: int = MOST_STEPS,
        up_to_per_s: float | None = None,
        sequences: int | None = None,
    ) -> None:
        self.family, self.latency_s, self.accuracy, self.max_steps = family, latency_s, accuracy, max_steps
        self.up_to_per_s = max(family.max_rate_per_s, up_to_per_s or 0.0)
        self.sequences = (len(self.sizes()) * (2 if max_steps > 1 else 1)) if sequences is None else sequences
        self._chosen: dict[tuple[tuple[str, int], ...], Choice] = {}
        self._work: dict[tuple[tuple[str, int], ...], Floats] = {}
        self._trials: dict[tuple[object, ...], Trial] = {}
        self._split: dict[tuple[object, ...], tuple[tuple[float, ...], ...]] = {}
        self._plans: dict[int, list[GearPlan]] = {}
        self._skips: dict[tuple[tuple[str, int], ...], dict[Cascade, tuple[float, ...]]] = {}
        self.single: GearPlanner | None = None
        if max_steps > 1:
            self.single = GearPlanner(
                family, latency_s, accuracy, max_steps=1, up_to_per_s=up_to_per_s, sequences=self.sequences
            )

    def plans(self, devices: int) -> list[GearPlan]:
        """Return the plans for so many devices, each once. Raises TooFew when they do not carry the highest rate."""
        if devices not in self._plans:
            made = [*self.switching(devices), *self.static(devices)]
            if self.single is not None:
                made += [*self.single.static(devices), *self.single.switching(devices)]
            self._plans[devices] = list(dict.fromkeys(made))
        if not self._plans[devices]:
            raise TooFew(self.family.where, devices, self.unserved(devices))
        return self._plans[devices]

    def switching(self, devices: int) -> Iterator[GearPlan]:
        """Yield plans whose gears take the same share of the devices, each at its highest rate."""
        for sizes in self.sizes():
            placement = self.place(sizes, devices)
            if placement is None:
                continue
            for utilization in (*UTILIZATIONS, *OVERLOADS):
                for share in QUEUE_SHARES:
                    plan = self.plan(sizes, placement, utilization, share * self.latency_s)
                    if plan is not None:
                        yield plan

    def static(self, devices: int) -> Iterator[GearPlan]:
        """Yield plans of one gear for all loads: the cheapest cascades that are right often enough.

        Without a floor the cheapest of all, and the most accurate that the devices carry at each utilization.
        """
        for sizes in self.sizes():
            for row in self._worth_alone(sizes, devices):
                placement = self.place_one(sizes, devices, row)
                if placement is None:
                    continue
                for share in QUEUE_SHARES:
                    gear = self._alone(sizes, row, [placement], share, self.family.max_rate_per_s)
                    less = self._alone(sizes, row, _less_one(placement), share, 0.0)
                    if gear is not None:
                        yield self.whole(sizes, placement, (gear,), () if less is None else (less,))

    def sizes(self) -> list[dict[str, int]]:
        """Return the choices of largest batches."""
        listed = (self.family.batch_sizes(share * self.latency_s) for share in SLICES)
        return list({tuple(sizes.items()): sizes for sizes in listed}.values())

    def plan(
        self, sizes: Mapping[str, int], placement: Placement, utilization: float, max_wait_s: float
    ) -> GearPlan | None:
        """Return the plan whose gears take `utilization` of the devices at most; None when they cannot serve it all."""
        make = _Gears(self, sizes, placement, utilization, max_wait_s)
        gears = make.gears([placement])
        carried = FULL / max(FULL, utilization)
        if not gears or carried * gears[-1].up_to_per_s < self.family.max_rate_per_s:
            return None
        less = replace(make, utilization=min(utilization, FULL))
        return self.whole(sizes, placement, gears, less.gears(_less_one(placement)))

    def judged(self, sizes: Mapping[str, int]) -> Judged:
        """Return the cascades worth a gear when batches are that large."""
        return self._choice(sizes).judged

    def work(self, sizes: Mapping[str, int]) -> Floats:
        """Return the device-seconds per item that each of these cascades asks of each model."""
        key = tuple(sizes.items())
        if key not in self._work:
            self._work[key] = work_s(self.judged(sizes), tuple(sizes), self.family.cost_s(sizes))
        return self._work[key]

    def place(self, sizes: Mapping[str, int], devices: int) -> Placement | None:
        """Return the placement that is expected to be right most often; None when none carries the highest rate.

        Low rates are taken to be more frequent than high ones (CascadeServe, section 3.2).
        """
        edges, accuracy = self._edges(), self.judged(sizes).accuracy
        best, value = None, -1.0
        for placement in self._choices(tuple(sizes), devices):
            rates = FULL / peak_utilization(placement, tuple(sizes), self.work(sizes))
            if rates.max() < self.family.max_rate_per_s:
                continue
            served = np.where(rates[:, None] >= edges, accuracy[:, None], 0.0).max(axis=0)
            if float(served @ FREQUENT) > value + 1e-12:
                best, value = placement, float(served @ FREQUENT)
        return best

    def place_one(self, sizes: Mapping[str, int], devices: int, row: int) -> Placement | None:
        """Return the placement of one cascade's models that carries most; None when none carries the highest rate."""
        models = tuple(name for name in sizes if name in self.judged(sizes).cascade(row).models)
        held = [at for at, name in enumerate(sizes) if name in models]
        work = self.work(sizes)[row, held]
        busy = [(float(peak_utilization(each, models, work)), each) for each in self._choices(models, devices)]
        least, best = min(busy, key=lambda pair: pair[0])
        return best if self.family.max_rate_per_s * least <= FULL else None

    def unserved(self, devices: int) -> Unserved:
        """Return which rates so many devices do not carry, in batches as large as the promise allows.

        That of the cheapest cascade that is right often enough where there is a floor, else of the cheapest.
        """
        sizes = self.sizes()[-1]
        judged, work, models = self.judged(sizes), self.work(sizes), tuple(sizes)
        able = np.flatnonzero(judged.accuracy >= (self.accuracy or 0.0))
        row = int(able[0]) if able.size else len(judged) - 1
        rates = [FULL / float(peak_utilization(each, models, work[row])) for each in self._choices(models, devices)]
        cascade = str(judged.cascade(row)) if self.accuracy is not None else "the cheapest cascade"
        return Unserved(max(rates), self.family.max_rate_per_s, models[int(np.argmax(work[row]))], cascade)

    def dearest_s(self) -> float:
        """Return the most device-seconds per item, one at a time, that a cascade takes which may be worth a gear.

        Where there is a floor, that of cascades which are surely right often enough; without, of all.
        """
        found = []
        for sizes in self.sizes():
            judged, alone = self.judged(sizes), self.family.cost_s(dict.fromkeys(sizes, 1))
            work = work_s(judged, tuple(sizes), alone).sum(axis=1)
            sure = np.flatnonzero(judged.accuracy >= (self.accuracy or 1.0) + SURELY * self._error(judged))
            found.append(float(work[: sure[0] + 1].max() if self.accuracy is not None and sure.size else work.max()))
        return max(found)

    def may_be_right(self, plan: GearPlan) -> bool:
        """Return whether any gear's cascade is right often enough to reach the floor, but for chance."""
        if self.accuracy is None:
            return True
        error = self._error(self.judged(self.sizes()[0]))
        return max(gear.accuracy or 0.0 for gear in plan.gears) >= self.accuracy - SURELY * error

    def usual_accuracy(self, plan: GearPlan) -> float:
        """Return how often a plan's gears are right on the half that chooses, low rates being the more frequent."""
        up_to = np.array([gear.up_to_per_s for gear in plan.gears])
        accuracy = np.array([gear.accuracy or 0.0 for gear in plan.gears])
        at = np.minimum(np.searchsorted(up_to, self._edges()), len(plan.gears) - 1)
        return float(accuracy[at] @ FREQUENT)

    def _edges(self) -> Floats:
        """The upper ends of the load ranges."""
        return self.up_to_per_s * np.arange(1, RANGES + 1) / RANGES

    def _choice(self, sizes: Mapping[str, int]) -> Choice:
        """The cascades worth a gear when batches are that large, with what is certain of them."""
        key = tuple(sizes.items())
        if key not in self._chosen:
            self._chosen[key] = self.family.cascades(sizes, self.max_steps, self.latency_s, self.sequences)
        return self._chosen[key]

    def _error(self, judged: Judged) -> float:
        """The standard error of the difference between a cascade's accuracies on the two halves of the table."""
        share = self.accuracy or 1.0
        return float(np.sqrt(2 * share * (1 - share) / judged.table.samples))

    def predicted_s(self, gear: Gear, sizes: Mapping[str, int], placement: Placement) -> float:
        """Return a gear's 95th percentile at its highest rate, alone."""
        key = tuple(sizes.items()), placement
        if key not in self._trials:
            self._trials[key] = Trial(self.family, sizes, placement)
        return self._trials[key].p95_s(gear)

    def split(
        self, judged: Judged, row: int, sizes: Mapping[str, int], placement: Placement
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

    def _worth_alone(self, sizes: Mapping[str, int], devices: int) -> list[int]:
        """The cascades worth being the only gear."""
        judged = self.judged(sizes)
        if self.accuracy is not None:
            least = (self.accuracy + margin * self._error(judged) for margin in MARGINS)
            able = (np.flatnonzero(judged.accuracy >= each) for each in least)
            return sorted({int(rows[0]) for rows in able if rows.size})
        busy = self.family.max_rate_per_s * self.work(sizes).sum(axis=1) / devices
        carried = [int(np.flatnonzero(busy <= share)[-1]) for share in UTILIZATIONS if np.any(busy <= share)]
        return sorted({0, *carried})

    def _alone(
        self, sizes: Mapping[str, int], row: int, left: Sequence[Placement], queue_share: float, least_per_s: float
    ) -> Gear | None:
        """One cascade as a gear for the highest rate of at least `least_per_s` that any of the placements bears."""
        if not left or not all(left):
            return None
        judged, models = self.judged(sizes), tuple(sizes)
        busy = max(float(peak_utilization(placement, models, self.work(sizes)[row])) for placement in left)
        rates = {min(self.up_to_per_s, share / busy) for share in UTILIZATIONS}
        first = judged.cascade(row).models[0]
        queued = sizes[first] if queue_share else 1
        gear = Gear(
            judged.cascade(row),
            0.0,
            (queued, *[1] * (len(judged.cascade(row)) - 1)),
            queue_share * self.latency_s if queued > 1 else 0.0,
            accuracy=float(judged.accuracy[row]),
        )
        for rate in sorted({rate for rate in rates if rate > least_per_s} | {least_per_s} - {0.0}, reverse=True):
            made = replace(gear, up_to_per_s=rate)
            latency_s = max(self.predicted_s(made, sizes, placement) for placement in left)
            if latency_s <= self.latency_s:
                split = self.split(judged, row, sizes, left[0])
                return replace(made, latency_s=latency_s, utilization=rate * busy, load_split=split)
        return None

    def _choices(self, models: tuple[str, ...], devices: int) -> list[Placement]:
        """The ways of placing these models on the devices."""
        memory_mb = self.family.memory_mb
        if memory_mb is None or sum(memory_mb[name] for name in models) <= self.family.device_mb:
            return [(Group(models, devices),)]
        sets = model_sets({name: memory_mb[name] for name in models}, self.family.device_mb)
        return [tuple(group for group in each if group.devices) for each in placements(sets, devices)]

    def _routed(self, gear: Gear, sizes: Mapping[str, int]) -> Gear:
        """The gear with the hardness from which items skip steps, where that is known of the family."""
        key = tuple(sizes.items())
        if key not in self._skips:
            self._skips[key] = self.family.skips(self.judged(sizes), sizes, self.sequences)
        return replace(gear, skip=self._skips[key].get(gear.cascade, ()))

    def whole(
        self,
        sizes: Mapping[str, int],
        placement: Placement,
        gears: tuple[Gear, ...],
        less: tuple[Gear, ...],
    ) -> GearPlan:
        """Return a plan of these gears, whose windows show a change of load soon enough."""
        gears, less = (tuple(self._routed(gear, sizes) for gear in each) for each in (gears, less))
        most = self.up_to_per_s
        placed = {name for group in placement for name in group.models}
        return GearPlan(
            self.family.hardware,
            placement,
            tuple((name, size) for name, size in sizes.items() if name in placed),
            gears,
            less,
            min(1.0, max(COUNTED / most, LEAST_WINDOW_S, min(WINDOW_S, WINDOW_SHARE * self.latency_s))),
            ALPHA_PER_S,
            self.family.table_hash,
            self.family.guarantee((*gears, *less), self._choice(sizes)),
        )


@dataclass(frozen=True)
class _Gears:
    """Makes the gears of one plan, for all its devices and for what is left of them."""

    planner: GearPlanner
    sizes: Mapping[str, int]
    placement: Placement
    utilization: float
    max_wait_s: float

    def gears(self, left: Sequence[Placement]) -> tuple[Gear, ...]:
        """Return the gears that hold whichever of the placements is left, by rising rate."""
        if not left or not all(left):
            return ()
        judged, work = self.planner.judged(self.sizes), self.planner.work(self.sizes)
        busy = np.max([peak_utilization(placement, tuple(self.sizes), work) for placement in left], axis=0)
        rates = self.utilization / busy
        out: list[Gear] = []
        for row in ladder(judged.accuracy, rates, self.planner.up_to_per_s):
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


def _less_one(placement: Placement) -> list[Placement]:
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
