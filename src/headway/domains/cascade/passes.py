"""The planner of CascadeServe as published (arXiv 2406.14424, section 3): four passes that mend each other's proposals.

Search cascades, assign them to load ranges, place the models and balance the load, tune batches. Each pass is
optimistic; what a later one finds impossible goes back as an error that names the range and the model, and the pass
before it proposes something else. It ends when all four agree: a local optimum. Changed against the paper: all cascades
are judged, not a sample; utility in pruning counts the memory that is freed (Eq. 4 as printed counts what stays over);
a gear waits for its batch no longer than a share of the promise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from headway.cascade.search import Judged
from headway.domains.cascade.family import Family
from headway.domains.cascade.gears import Gear, GearPlan, Group
from headway.domains.cascade.place import balance
from headway.domains.cascade.trial import Trial
from headway.errors import PlanError

Floats = NDArray[np.float64]

RANGES = 8
WAIT_SHARE = 0.25
"""The share of the latency promise for which a gear may wait for its batch; the paper's trigger has no such end."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What a pass found impossible: in which load range, with which model, and why."""

    load_range: int
    model: str
    why: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log: what a pass changed, or the fault that it passed back."""

    step: str
    change: str
    fault: Fault | None = None

    def __str__(self) -> str:
        return f"{self.step}: {self.change}"


class NoGears(PlanError):
    """The four passes found no plan; `fault` says which range and model stood in the way, `log` how it came to that."""

    def __init__(self, where: str, upper_per_s: float, fault: Fault, log: tuple[Entry, ...]) -> None:
        super().__init__(
            f"{where}: no gears were found: the range up to {upper_per_s:.4g}/s fails with model {fault.model!r}: "
            f"{fault.why}"
        )
        self.fault, self.log = fault, log


class FourPasses:
    """Plans for a fixed number of devices: `latency_s` given, the most accurate in time; `accuracy` given, the quickest
    that is right so often, on average over the ranges. Exactly one of the two.

    Ranges are of equal width up to the family's highest rate, and by Zipf's law the lower ones are more frequent.
    `batched` judges placement by full batches instead of the paper's batches of one.
    """

    def __init__(
        self,
        family: Family,
        devices: int,
        *,
        latency_s: float | None = None,
        accuracy: float | None = None,
        ranges: int = RANGES,
        batched: bool = False,
    ) -> None:
        if (latency_s is None) == (accuracy is None):
            raise PlanError(f"{family.where}: give a latency or an accuracy to plan gears for, exactly one of the two")
        self.family, self.devices = family, devices
        self.latency_s, self.accuracy = latency_s, accuracy
        self.upper_per_s = family.max_rate_per_s * np.arange(1, ranges + 1) / ranges
        self.weight = (1 / np.arange(1, ranges + 1)) / (1 / np.arange(1, ranges + 1)).sum()
        longest_s = np.inf if latency_s is None else latency_s
        self.sizes = family.batch_sizes(longest_s)
        self.models = tuple(self.sizes)
        counted = self.sizes if batched else dict.fromkeys(self.sizes, 1)
        self.time_s = family.cost_s(counted)
        self.choice = family.cascades(counted)
        self.judged: Judged = self.choice.judged
        self.log: list[Entry] = []
        self.rows: list[int] = []
        self._most = [len(self.judged) - 1] * ranges
        self.placement: tuple[Group, ...] = ()
        self.queued = [1] * ranges
        self.predicted_s = [np.inf] * ranges
        self.splits: list[Mapping[str, tuple[float, ...]]] = []
        self.utilization = [0.0] * ranges
        self._least_copies = dict.fromkeys(self.models, 1)
        # Most rounds change one range: what the others were found to take is kept.
        self._balanced: dict[tuple[object, ...], tuple[float, dict[str, tuple[float, ...]]]] = {}
        self._trials: dict[tuple[Group, ...], Trial] = {}

    def run(self) -> GearPlan:
        """Return the plan. Raises NoGears when the first pass is left with an error."""
        steps = (self._search, self._assign, self._place, self._batch)
        at, fault = 0, None
        while at < len(steps):
            was = fault
            fault = steps[at](was)
            if fault is not None:
                self.log.append(Entry(steps[at].__name__[1:], f"{fault.why} (range {fault.load_range})", fault))
                at -= 1
                if at < 0:
                    raise NoGears(self.family.where, float(self.upper_per_s[fault.load_range]), fault, tuple(self.log))
            else:
                at += 1
        return self._plan()

    def _search(self, fault: Fault | None) -> Fault | None:
        """The cascades worth an assignment; a fault that arrives here is the user's: even the extreme ones fail."""
        if fault is None:
            self.log.append(Entry("search", f"{len(self.judged)} cascades, none both more accurate and cheaper"))
        return fault

    def _assign(self, fault: Fault | None) -> Fault | None:
        """Begin with the best in what is not promised; give a range with a fault the next along the Pareto set."""
        dearest, cheapest = len(self.judged) - 1, 0
        if not self.rows:
            self.rows = [dearest if self.latency_s is not None else cheapest] * self.upper_per_s.size
        elif fault is not None:
            if self.rows[fault.load_range] == cheapest:
                return fault
            self.rows[fault.load_range] -= 1
            self._most[fault.load_range] = self.rows[fault.load_range]
            self._least_copies = dict.fromkeys(self.models, 1)
        while self.accuracy is not None and self._accuracy() < self.accuracy - 1e-12:
            worth = [self._gain(at) for at in range(len(self.rows))]
            best = int(np.argmax(worth))
            if worth[best] <= 0:
                at = fault.load_range if fault is not None else 0
                return Fault(at, self.models[-1], f"an accuracy of {self._accuracy():.4g} is the most that it allows")
            self.rows[best] += 1
        names = ", ".join(str(self.judged.cascade(row)) for row in dict.fromkeys(self.rows))
        self.log.append(Entry("assign", names))
        return None

    def _gain(self, at: int) -> float:
        """What the next more accurate cascade adds in one range, by how frequent the range is."""
        row = self.rows[at]
        if row >= self._most[at]:
            return 0.0
        return float((self.judged.accuracy[row + 1] - self.judged.accuracy[row]) * self.weight[at])

    def _place(self, fault: Fault | None) -> Fault | None:
        """Take the least useful copies away from full replication until every device fits, then balance each range."""
        if fault is not None:
            self._least_copies[fault.model] += 1
            if self.family.memory_mb is None or self._least_copies[fault.model] > self.devices:
                self._least_copies[fault.model] -= 1
                return fault
        held = [set(self.models) for _ in range(self.devices)]
        while (over := self._overfull(held)) is not None:
            copy = self._least_useful(held, over)
            if copy is None:
                at = self._worst_range(held)
                return fault or Fault(at, self._most_work(at), "no model can be taken off a device that is too full")
            held[copy[0]].discard(copy[1])
        counts: dict[tuple[str, ...], int] = {}
        for models in held:
            key = tuple(name for name in self.models if name in models)
            counts[key] = counts.get(key, 0) + 1
        self.placement = tuple(Group(models, count) for models, count in counts.items() if models)
        self.splits = []
        for at in range(len(self.rows)):
            asked = self.placement, at, self.rows[at]
            if asked not in self._balanced:
                self._balanced[asked] = balance(self.placement, self._rates(at), self.time_s)
            self.utilization[at], split = self._balanced[asked]
            self.splits.append(split)
            if self.utilization[at] > 1 + 1e-9:
                why = f"its devices would be used {100 * self.utilization[at]:.0f} %"
                return Fault(at, self._most_work(at), why)
        self.log.append(Entry("place", "; ".join(f"{g.devices} x {'+'.join(g.models)}" for g in self.placement)))
        return None

    def _overfull(self, held: list[set[str]]) -> int | None:
        memory_mb = self.family.memory_mb
        if memory_mb is None:
            return None
        over = [sum(memory_mb[name] for name in models) - self.family.device_mb for models in held]
        return int(np.argmax(over)) if max(over) > 1e-9 else None

    def _least_useful(self, held: list[set[str]], device: int) -> tuple[int, str] | None:
        """The copy on a device that frees the most memory that is over, for the utilization that is left without it."""
        assert self.family.memory_mb is not None
        over = sum(self.family.memory_mb[name] for name in held[device]) - self.family.device_mb
        best, value = None, 0.0
        for name in sorted(held[device]):
            if sum(name in models for models in held) <= self._least_copies[name]:
                continue
            without = [models - {name} if at == device else models for at, models in enumerate(held)]
            busiest = max(self._busy(without, at) for at in range(len(self.rows)))
            util = min(over, self.family.memory_mb[name]) / max(busiest, 1e-12)
            if busiest <= 1 and util > value:
                best, value = (device, name), util
        return best

    def _busy(self, held: list[set[str]], at: int) -> float:
        groups = tuple(Group(tuple(models), 1) for models in held if models)
        return balance(groups, self._rates(at), self.time_s)[0]

    def _worst_range(self, held: list[set[str]]) -> int:
        return int(np.argmax([self._busy(held, at) for at in range(len(self.rows))]))

    def _rates(self, at: int) -> dict[str, float]:
        cascade = self.judged.cascade(self.rows[at])
        reaching = self.judged.reaching[self.rows[at]]
        return {
            name: float(self.upper_per_s[at] * share) for name, share in zip(cascade.models, reaching, strict=False)
        }

    def _most_work(self, at: int) -> str:
        rates = self._rates(at)
        return max(rates, key=lambda name: rates[name] * self.time_s[name])

    def _batch(self, fault: Fault | None) -> Fault | None:
        """Find for each range the least queue of the first model that is in time, simulated at its highest rate."""
        if self.placement not in self._trials:
            self._trials[self.placement] = Trial(self.family, self.sizes, self.placement)
        trial = self._trials[self.placement]
        for at, row in enumerate(self.rows):
            cascade = self.judged.cascade(row)
            found = None
            for queued in queue_lengths(self.sizes[cascade.models[0]]):
                gear = self._gear(at, queued)
                took_s = trial.p95_s(gear)
                if self.latency_s is None:
                    if found is None or took_s < found[1]:
                        found = queued, took_s
                elif took_s <= self.latency_s:
                    found = queued, took_s
                    break
            if found is None:
                return Fault(at, self._most_work(at), "no batch size keeps the latency")
            self.queued[at], self.predicted_s[at] = found
        self.log.append(Entry("batch", f"least queues {self.queued}"))
        return None

    def _gear(self, at: int, queued: int) -> Gear:
        cascade = self.judged.cascade(self.rows[at])
        wait_s = WAIT_SHARE * (self.latency_s if self.latency_s is not None else 1.0) if queued > 1 else 0.0
        return Gear(cascade, float(self.upper_per_s[at]), (queued, *[1] * (len(cascade) - 1)), wait_s)

    def _accuracy(self) -> float:
        return float(self.judged.accuracy[self.rows] @ self.weight)

    def _plan(self) -> GearPlan:
        gears: list[Gear] = []
        for at, row in enumerate(self.rows):
            gear = replace(
                self._gear(at, self.queued[at]),
                accuracy=float(self.judged.accuracy[row]),
                latency_s=self.predicted_s[at],
                utilization=self.utilization[at],
                load_split=tuple(self.splits[at][name] for name in self.judged.cascade(row).models),
            )
            gears.append(gear)
        placed = {name for group in self.placement for name in group.models}
        sizes = tuple((name, size) for name, size in self.sizes.items() if name in placed)
        guarantee, table = self.family.guarantee(gears, self.choice), self.family.table_hash
        return GearPlan(self.family.hardware, self.placement, sizes, tuple(gears), table=table, guarantee=guarantee)


def queue_lengths(most: int) -> list[int]:
    """Return the least queues that are tried: 1, 2, 4 and so on up to a full batch.

    >>> queue_lengths(6)
    [1, 2, 4, 6]
    """
    return sorted({*(1 << power for power in range(most.bit_length()) if 1 << power <= most), most})
