"""The simulator's station of a cascade: which validation sample an item is, and what the gears make of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.cascade import ValidationTable
from headway.domains.cascade.gears import Gear, GearPlan
from headway.domains.cascade.halves import Rows, judged_on
from headway.domains.cascade.record import CascadeRecord, told
from headway.domains.cascade.rows import gear_row
from headway.errors import PlanError
from headway.sim.station import Arrivals, Departures, Floats, Ints

if TYPE_CHECKING:
    from headway.domains.cascade.kernel import Gears, Models, Scratch

SAMPLE = "sample"
"""The column of a trace that says which validation sample each request is, counted from 0."""
KEPT_ITEMS = 50_000
"""Of traces with up to so many items it is kept which samples they are."""


@dataclass(frozen=True)
class Served:
    """What a cascade did: the departures, and which model answered each of them (by its place among the plan's models).

    `switches`: changes of gear as (time, gear), none where the caller did not ask to record; `held_s`: seconds in each
    gear by these, from the first arrival to the last departure.
    """

    departures: Departures
    answered_by: Ints
    switches: tuple[tuple[float, int], ...]
    held_s: Floats


@dataclass(frozen=True)
class CascadeStation:
    """Devices of one hardware that serve a cascade by gears.

    `service_s[model]` is a latency table as `headway.profile.service` makes it, by model of the plan. An item is the
    validation sample that the trace's column `sample` names; without it, the samples on which no cascade was chosen
    come in a shuffled order (by `seed`), each once before any comes again.

    >>> from headway.cascade import Cascade, Step, ValidationTable
    >>> from headway.domains.cascade.gears import Group
    >>> table = ValidationTable([0, 1], {"small": [0, 0]}, {"small": [0.9, 0.6]})
    >>> plan = GearPlan("cpu", (Group(("small",), 1),), (("small", 1),), (Gear(Cascade((Step("small"),)), 9.0, (1,)),))
    >>> station = CascadeStation("s", plan, {"small": np.array([[0.0], [1.0]])}, table)
    >>> arrivals = Arrivals(np.array([0.0, 0.5]), np.arange(2, dtype=np.int32), np.arange(2, dtype=np.int32))
    >>> left = station.run(arrivals, seed=0, record=True)
    >>> left.done_s.tolist(), float(left.credit.mean())
    ([1.0, 2.0], 0.5)
    """

    name: str
    plan: GearPlan
    service_s: Mapping[str, Floats]
    table: ValidationTable

    @property
    def capacity(self) -> int:
        """Number of devices."""
        return self.plan.devices

    def fastest_s(self) -> float:
        """The quickest batch of any model that an item may start at."""
        return min(float(self.service_s[name][1:].min()) for gear in self.plan.gears for name in gear.starts)

    def run(self, arrivals: Arrivals, *, seed: int, record: bool) -> Departures:
        """Serve all arrivals (see `headway.domains.cascade.kernel.serve_cascade`)."""
        return self.serve(arrivals, seed=seed, record=record).departures

    def serve(self, arrivals: Arrivals, *, seed: int, record: bool) -> Served:
        """Serve all arrivals and say by which gears. Raises PlanError for a sample that the table does not have."""
        from headway.domains.cascade import kernel
        from headway.sim.draws import batch_key

        n = arrivals.arrival_s.size
        sample = self._samples(arrivals, seed)
        scratch = kernel.Scratch.of(n, len(self.plan.models), self.capacity)
        out = kernel.Out.of(n, record=record, deadlines=bool(arrivals.deadline_s.size))
        key = batch_key(seed, self.name) if self.models.bits else 0
        busy_s = kernel.serve_cascade(
            arrivals.arrival_s, sample, arrivals.deadline_s, key, self.models, self.gears, scratch, out
        )
        left, lost = int(scratch.counters[kernel.LEFT]), int(scratch.counters[kernel.LOST])
        answered_by = out.answered_by[:left]
        credit = self._credit[answered_by, sample[out.left[:left]]]
        kept = int(scratch.counters[kernel.SWITCHES]) if record else 0
        switches = tuple(zip(out.switched_s[:kept].tolist(), out.switched_to[:kept].tolist(), strict=True))
        held_s = self._held_s(arrivals, out.done_s[:left], switches)
        departures = Departures(
            out.done_s[:left],
            arrivals.item[out.left[:left]],
            out.start_s,
            arrivals.item[out.dropped[:lost]],
            np.empty(0, np.int32),
            int(scratch.counters[kernel.BATCHES]),
            float(busy_s),
            credit=credit,
            told=self._told(arrivals, scratch, switches, held_s, answered_by, float(credit.sum())) if record else {},
        )
        return Served(departures, answered_by, switches, held_s)

    def _told(
        self,
        arrivals: Arrivals,
        scratch: Scratch,
        switches: tuple[tuple[float, int], ...],
        held_s: Floats,
        answered_by: Ints,
        credit: float,
    ) -> dict[str, Any]:
        from headway.domains.cascade.kernel import SKIPPED

        names = self.plan.models
        record = CascadeRecord(
            {(False, at): seconds for at, seconds in enumerate(held_s.tolist())},
            len(switches),
            dict(zip(names, np.bincount(answered_by, minlength=len(names)).tolist(), strict=True)),
            dict(zip(names, scratch.escalated.tolist(), strict=True)),
            int(scratch.counters[SKIPPED]),
            credit,
        )
        first = [(float(arrivals.arrival_s[0]), len(self.plan.gears) - 1)] if arrivals.arrival_s.size else []
        return told(record, ((from_s, False, gear) for from_s, gear in (*first, *switches)))

    def _held_s(self, arrivals: Arrivals, done_s: Floats, switches: tuple[tuple[float, int], ...]) -> Floats:
        """Seconds in each gear from the first arrival to the last departure; the cheapest gear is the first."""
        held_s = np.zeros(len(self.plan.gears))
        if done_s.size:
            since_s, gear = float(arrivals.arrival_s[0]), held_s.size - 1
            for until_s, following in (*switches, (float(done_s[-1]), 0)):
                held_s[gear] += max(0.0, until_s - since_s)
                since_s, gear = until_s, following
        return held_s

    def _samples(self, arrivals: Arrivals, seed: int) -> Ints:
        """Which sample each arrival is: known in advance to nobody, the same under every configuration."""
        size = self.table.samples
        if SAMPLE in arrivals.attributes:
            given = arrivals.attributes[SAMPLE][arrivals.request[arrivals.item]]
            if given.size and not (np.all(given == np.floor(given)) and given.min() >= 0 and given.max() < size):
                raise PlanError(
                    f"stages.{self.name}: the trace's column {SAMPLE!r} goes from {given.min():g} to {given.max():g}; "
                    f"whole numbers from 0 to {size - 1} name a sample of the validation table"
                )
            return given.astype(np.int32)
        asked = _asked if arrivals.request.size <= KEPT_ITEMS else _asked.__wrapped__
        return asked(seed, self.name, arrivals.request.size, self.table)[arrivals.item]

    @cached_property
    def models(self) -> Models:
        """The plan's models as the kernel takes them; the devices that hold the fewest models go first."""
        from headway.domains.cascade.kernel import Models
        from headway.sim.draws import bits_for

        names = self.plan.models
        columns = max(self.service_s[name].shape[1] for name in names)
        tables = [np.broadcast_to(self.service_s[name], (len(self.service_s[name]), columns)) for name in names]
        groups = sorted(self.plan.placement, key=lambda group: len(group.models))
        holds = [[name in group.models for name in names] for group in groups for _ in range(group.devices)]
        return Models(
            service_s=np.concatenate([table.ravel() for table in tables]),
            offset=np.cumsum([0, *(table.size for table in tables[:-1])]),
            bits=bits_for(columns),
            max_batch=np.array([size for _, size in self.plan.max_batch_size], np.int64),
            certainty=np.stack([self.table.certainty[name] for name in names]),
            holds=np.array(holds),
            hardness=np.array([] if self.table.hardness is None else self.table.hardness, np.float64),
        )

    @cached_property
    def gears(self) -> Gears:
        """The plan's gears as the kernel takes them. Raises PlanError where they need what the table lacks."""
        if self.table.hardness is None and any(gear.skip for gear in self.plan.gears):
            raise PlanError(
                f"stages.{self.name}: the plan's gears skip steps for hard items, and the validation table does not "
                "say how hard its samples are; give it the column hardness"
            )
        return gear_arrays(self.plan.gears, self.plan)

    @cached_property
    def _credit(self) -> Floats:
        return np.stack([self.table.credit[name] for name in self.plan.models])


def gear_arrays(gears: tuple[Gear, ...], plan: GearPlan) -> Gears:
    """Return gears as the kernel takes them, with the models numbered as in the plan."""
    from headway.domains.cascade.kernel import Gears

    rows = [gear_row(gear, plan.models) for gear in gears]
    longest, skipping = max(len(row.steps) for row in rows), max(len(row.skip) for row in rows)
    return Gears(
        upper_per_s=np.array([row.up_to_per_s for row in rows]),
        steps=np.array([[*row.steps, *[-1] * (longest - len(row.steps))] for row in rows]),
        skip=np.array([[*row.skip, *[np.inf] * (skipping - len(row.skip))] for row in rows]).reshape(
            len(rows), skipping
        ),
        threshold=np.array([row.threshold for row in rows]),
        following=np.array([row.following for row in rows]),
        asked=np.array([row.asked for row in rows]),
        min_queue=np.array([row.min_queue for row in rows]),
        max_wait_s=np.array([row.max_wait_s for row in rows]),
        window_s=plan.window_s,
        alpha_per_s=plan.alpha_per_s,
    )


@lru_cache(maxsize=64)
def _asked(seed: int, stage: str, items: int, table: ValidationTable) -> Ints:
    """Which sample each request is: a planner asks for the same traces thousands of times."""
    return shuffled(seed, stage, items, judged_on(table))


def shuffled(seed: int, stage: str, items: int, samples: Rows) -> Ints:
    """Return which of these samples each item is: all in a random order, again and again, each time in another one.

    Where the first items of two runs are the same, so are their samples. Less is left to chance than by drawing each.

    >>> shuffled(1, "s", 4, np.arange(2)).reshape(2, 2).sum(axis=1).tolist()
    [1, 1]
    """
    rounds = itertools.islice(sample_rounds(seed, stage, samples), -(-items // samples.size))
    return np.concatenate([np.empty(0, np.int32), *rounds]).astype(np.int32)[:items]


def sample_rounds(seed: int, stage: str, samples: Rows) -> Iterator[Rows]:
    """Yield these samples in a random order, again and again: what `shuffled` gives items as they come.

    >>> next(sample_rounds(1, "s", np.arange(4))).tolist() == shuffled(1, "s", 4, np.arange(4)).tolist()
    True
    """
    from headway.sim.items import stream

    rng = stream(seed, f"sample:{stage}")
    while True:
        yield rng.permutation(samples)
