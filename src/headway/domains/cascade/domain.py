"""The cascade domain: gear plans for every number of devices, what they cost, and the station that runs them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from headway.domains.cascade.declare import CascadeStage
from headway.domains.cascade.gears import GearPlan, parse_gear_plan
from headway.errors import PlanError
from headway.plan.config import Evidence, StageContext

if TYPE_CHECKING:
    from headway.domains.cascade.family import Family
    from headway.domains.cascade.planner import GearPlanner
    from headway.domains.cascade.station import CascadeStation
    from headway.plan.oracle import Oracle
    from headway.serve.replica import MakeStarter
    from headway.serve.station import LiveStation
    from headway.serve.wire import Payload
    from headway.sim.worklaw import Gains
    from headway.spec.model import Hardware, Spec

MOST_DEVICES = 1024
"""Devices beyond which no plan is looked for."""
SPARE_RATIO = 2.0
"""Every number of devices is looked at up to this many times what the dearest cascade alone needs."""
BURST_RATIO = 16
"""A tight promise through bursts takes more: beyond, twice as many at a time up to so many times as many."""


class CascadeDomain:
    """Models of one family on devices that hold several of them, with a gear for every range of load."""

    kind = "cascade"
    declaration = CascadeStage
    tunable: frozenset[str] = frozenset()
    tunes_itself = (
        "changes its gear with the load by itself; plan again when /stats says under drift that more comes than its "
        "gears are made for"
    )

    @property
    def planners(self) -> Mapping[str, Any]:
        """A quick way to a feasible plan: the fewest devices, by bisection, for which one of the family is."""
        return {"greedy": fewest_devices}

    def parse_config(self, value: Mapping[str, Any], where: str) -> GearPlan:
        """Return the configuration that a mapping describes, as written under `current:` or found in a plan."""
        return parse_gear_plan(value, where)

    def cost_usd_per_hour(self, context: StageContext, config: GearPlan) -> float:
        """Devices times the price of their hardware."""
        return config.devices * self._supply(context, config.hardware).price_usd_per_hour

    def holds(self, config: GearPlan) -> Mapping[str, int]:
        """Its devices, of their hardware."""
        return {config.hardware: config.devices}

    def startup_s(self, context: StageContext, config: GearPlan) -> float:
        """Seconds from asking for a device until it has loaded the last of its models, one after the other."""
        loads: dict[str, float] = {}
        for row in context.profile.rows:
            if (row.stage, row.hardware) == (context.name, config.hardware) and row.startup_s is not None:
                loads[row.variant] = max(loads.get(row.variant, 0.0), row.startup_s)
        slowest_s = max(sum(loads.get(name, 0.0) for name in group.models) for group in config.placement)
        return self._supply(context, config.hardware).startup_s + slowest_s

    def configs(self, context: StageContext, max_cost_usd_per_hour: float) -> Iterator[GearPlan]:
        """A small family of gear plans for every number of devices that carries the highest rate, at most so dear.

        Of as many devices the most accurate come first: a search that compares few plans of equal cost sees them.
        """
        for hardware in self.hardware(context):
            planner = self.planner(context, hardware)
            price = self._supply(context, hardware).price_usd_per_hour
            if price == 0:
                most = self._usual_devices(context, planner)
            else:
                most = min(self.most_devices(context, planner.family), int(max_cost_usd_per_hour / price + 1e-9))
            for devices in range(1, most + 1):
                yield from _most_accurate_first(planner, devices)

    def most_usd_per_hour(self, context: StageContext, items: int) -> float:
        """As many devices as are worth a look, and of no more use than there are items at once."""
        dearest = 0.0
        for hardware in self.hardware(context):
            most = self._usual_devices(context, self.planner(context, hardware))
            dearest = max(dearest, most * self._supply(context, hardware).price_usd_per_hour)
        return dearest

    def moves(self, context: StageContext, config: GearPlan) -> Iterator[tuple[str, GearPlan]]:
        """One device more or less, with the gears that so many carry in batches of the same size."""
        planner = self.planner(context, config.hardware)
        for move, devices in (("remove_device", config.devices - 1), ("add_device", config.devices + 1)):
            if 1 <= devices <= self.most_devices(context, planner.family):
                for other in _plans(planner, devices):
                    if other.max_batch_size == config.max_batch_size:
                        yield move, other

    def richest(self, context: StageContext, variant: str | None, share: float) -> Iterator[GearPlan]:
        """The plans for as many devices as supply allows."""
        for hardware in self.hardware(context):
            planner = self.planner(context, hardware)
            yield from _plans(planner, max(1, int(share * self.most_devices(context, planner.family) + 1e-9)))

    def shortage(self, context: StageContext) -> str:
        """Up to which rate as many devices as supply allows serve, and the model that takes most of them."""
        found = []
        for hardware in self.hardware(context):
            planner = self.planner(context, hardware)
            devices = self.most_devices(context, planner.family)
            unserved = planner.unserved(devices)
            found.append((unserved.from_per_s, unserved.text(devices)))
        return max(found)[1]

    def too_slow(self, context: StageContext) -> str | None:
        """Why what is right often enough is late whatever the devices; None where there is no floor."""
        accuracy = context.spec.slo.accuracy
        if accuracy is None:
            return None
        slo_s = context.spec.slo.latency_s
        said = [self.planner(context, name).family.too_slow(accuracy, slo_s) for name in self.hardware(context)]
        return None if None in said or not said else said[0]

    def best_accuracy(self, context: StageContext) -> float:
        """The share of the samples asked about that any of the models is right about: nothing chooses better."""
        import numpy as np

        from headway.domains.cascade.family import declared_table
        from headway.domains.cascade.halves import judged_on

        stage = self._stage(context)
        table, _ = declared_table(stage, f"stages.{context.name}")
        right = np.max([table.credit[name] for name in stage.models], axis=0)
        return float(right[judged_on(table)].mean())

    def fastest_s(self, context: StageContext, variant: str | None, *, sampled: bool) -> float:
        """The quickest batch of the quickest model on any hardware."""
        return min(
            float(context.profile.service(context.name, name, hardware).table(1, sampled)[1].min())
            for name in self._stage(context).models
            for hardware in self.hardware(context)
        )

    def evidence(self, context: StageContext, config: GearPlan) -> Evidence:
        """How its accuracy is known: certified to a bound, or an estimate; both with the number of samples."""
        from headway.domains.cascade.doubts import asked
        from headway.domains.cascade.family import planned_table

        stage = self._stage(context)
        samples = asked(planned_table(stage.table, config.table, f"stages.{context.name}"))
        estimate = f"its accuracy is an estimate on {samples:,} samples of {stage.table}"
        if config.guarantee is None:
            return Evidence("estimated", f"{estimate}, and no bound: no tolerance is declared")
        return Evidence("certified", f"every gear {config.guarantee}; {estimate}")

    def doubts(
        self, context: StageContext, config: GearPlan, accuracy: float, columns: Collection[str]
    ) -> Sequence[str]:
        """Why the accuracy that was simulated may not be had: too few samples say so."""
        from headway.domains.cascade.doubts import doubts
        from headway.domains.cascade.family import planned_table

        table = planned_table(self._stage(context).table, config.table, f"stages.{context.name}")
        return doubts(table, accuracy, context.spec.slo.accuracy, columns)

    def batches_s(self, context: StageContext, config: GearPlan) -> Sequence[float] | None:
        """Mean seconds of 1, 2, ... items that come together, as the cheapest gear serves them with all that follows.

        None where the validation table is not at hand.
        """
        from pathlib import Path

        from headway.domains.cascade.admit import work_of
        from headway.domains.cascade.family import planned_table

        stage = self._stage(context)
        if not Path(stage.table).is_file():
            return None
        table = planned_table(stage.table, config.table, f"stages.{context.name}")
        return work_of(config, table, context.profile, context.name).batch_s

    def utilization_at(self, config: GearPlan, rate_per_s: float) -> float | None:
        """What of its devices the gear for a rate needs; None where that was not predicted."""
        from headway.policy.cascading import gear_at

        gear = config.gears[gear_at(rate_per_s, [each.up_to_per_s for each in config.gears])]
        return None if gear.utilization is None else gear.utilization * rate_per_s / gear.up_to_per_s

    def capacity(self, config: GearPlan) -> int:
        """Batches that can be served at once."""
        return config.devices

    def work_law(self, config: GearPlan) -> tuple[object, ...]:
        """What `work_gains` depends on: the models at which items may start, and their batches."""
        first = {name for gear in config.gears for name in gear.starts}
        return config.hardware, tuple((name, size) for name, size in config.max_batch_size if name in first)

    def work_gains(self, context: StageContext, config: GearPlan, *, sampled: bool) -> Gains:
        """The least that an item costs: its share of a batch of the model where it starts, whatever follows."""
        import numpy as np

        _, first = self.work_law(config)
        assert isinstance(first, tuple)
        least_s = math.inf
        for name, size in first:
            table = context.profile.service(context.name, name, config.hardware).table(size, sampled)
            least_s = min(least_s, float((table[1:] / np.arange(1, size + 1)[:, None]).min()))
        return [(least_s, np.zeros(1))]

    def station(self, context: StageContext, config: GearPlan, *, sampled: bool) -> CascadeStation:
        """The simulator's station. Raises PlanError when the validation table is not the one that was planned with."""
        from headway.domains.cascade.family import planned_table
        from headway.domains.cascade.station import CascadeStation

        stage = self._stage(context)
        table = planned_table(stage.table, config.table, f"stages.{context.name}")
        for name in config.models:
            if name not in stage.models:
                raise PlanError(
                    f"stages.{context.name}: {name!r} is not a declared model; {', '.join(stage.models)} are"
                )
        service_s = {
            name: context.profile.service(context.name, name, config.hardware).table(size, sampled)
            for name, size in config.max_batch_size
        }
        return CascadeStation(context.name, config, service_s, table)

    def live(self, context: StageContext, config: GearPlan) -> LiveStation:
        """The server's station of a configuration. Raises SpecError or PlanError for what cannot be served."""
        from headway.domains.cascade.live import live_station

        return live_station(context, config)

    def live_with(self, context: StageContext, config: GearPlan, starter: MakeStarter) -> LiveStation:
        """The server's station of a configuration, with workers that come from `starter`."""
        from headway.domains.cascade.live import live_station

        return live_station(context, config, starter=starter)

    def told_between(
        self, before: Mapping[str, Any], after: Mapping[str, Any], zero_s: float
    ) -> tuple[Mapping[str, Any], float | None]:
        """Its gears, who answered and how rightly between two `/stats`, as the simulated station tells it."""
        from headway.domains.cascade.record import told_between

        return told_between(before, after, zero_s)

    def lacking(self, spec: Spec, name: str) -> str | None:
        """The validation table of a stage, where it is not there."""
        from pathlib import Path

        stage = spec.stages[name]
        assert isinstance(stage, CascadeStage)
        return None if Path(stage.table).is_file() else stage.table

    def problems(self, spec: Spec, name: str) -> list[str]:
        """What is wrong with the validation table of a stage: nothing, or the first thing."""
        from headway.domains.cascade.family import declared_table
        from headway.errors import HeadwayError

        stage = spec.stages[name]
        assert isinstance(stage, CascadeStage)
        try:
            declared_table(stage, f"stages.{name}")
        except HeadwayError as error:
            return [str(error)]
        return []

    def validate(
        self,
        spec: Spec,
        name: str,
        samples: Sequence[Payload],
        labels: Sequence[str],
        *,
        folder: str | os.PathLike[str],
        progress: Callable[[int, int, str], None],
        log: Callable[[str], None] | None,
    ) -> str:
        """Ask a stage's models about the samples and write its validation table; return what it shows in a line."""
        from headway.domains.cascade.validate import write_table

        return write_table(spec, name, samples, labels, folder=folder, progress=progress, log=log)

    def hardware(self, context: StageContext) -> tuple[str, ...]:
        """Hardware that the devices may be of: declared, priced, and with a profile of every model."""
        stage = self._stage(context)
        allowed = stage.hardware_names or tuple(context.spec.supply)
        profiled = [set(context.profile.hardware(context.name, name)) for name in stage.models]
        usable = tuple(name for name in allowed if all(name in known for known in profiled))
        if not usable:
            for name in stage.models:
                context.profile.service(context.name, name, allowed[0])
        return usable

    def planner(self, context: StageContext, hardware: str) -> GearPlanner:
        """Return the maker of gear plans for a stage on one hardware."""
        from headway.domains.cascade.family import read_table

        stage, slo = self._stage(context), context.spec.slo
        _, table_hash = read_table(stage.table)
        known = (context.name, hardware, slo.latency_s, slo.accuracy, stage.model_dump_json())
        return _planner(_Asked((*known, context.profile.hash, table_hash), context, hardware))

    def most_devices(self, context: StageContext, family: Family) -> int:
        """What is worth a look: all that supply allows, or enough for bursts where a cascade is all that is planned."""
        allowed = self._supply(context, family.hardware).max_replicas or MOST_DEVICES
        usual = self._usual_devices(context, self.planner(context, family.hardware))
        # Among other stages no such number is found by doubling, and to look at each would take too long.
        return min(BURST_RATIO * usual, allowed, MOST_DEVICES) if len(context.spec.stages) == 1 else usual

    def _usual_devices(self, context: StageContext, planner: GearPlanner) -> int:
        """All that supply allows, or enough for the dearest cascade with room to spare."""
        allowed = self._supply(context, planner.family.hardware).max_replicas or MOST_DEVICES
        enough = math.ceil(SPARE_RATIO * planner.family.max_rate_per_s * planner.dearest_s()) + 1
        return min(enough, MOST_DEVICES, allowed)

    def _supply(self, context: StageContext, hardware: str) -> Hardware:
        if hardware not in context.spec.supply:
            raise PlanError(f"stages.{context.name}.hardware: {hardware!r} is not in supply")
        return context.spec.supply[hardware]

    def _stage(self, context: StageContext) -> CascadeStage:
        from headway.domains.cascade.family import cascade_stage

        return cascade_stage(context)


def fewest_devices(oracle: Oracle, variants: Mapping[str, str]) -> Mapping[str, GearPlan] | None:
    """Return the plan of the fewest devices that bisection finds feasible, for a spec of one cascade; None without."""
    if len(oracle.spec.stages) != 1:
        return None
    ((name, context),) = oracle.contexts.items()
    best: dict[str, GearPlan] | None = None
    for hardware in DOMAIN.hardware(context):
        planner = DOMAIN.planner(context, hardware)
        most = DOMAIN.most_devices(context, planner.family)
        low, high = 0, 1
        while (found := _feasible(oracle, name, planner, high)) is None and high < most:
            low, high = high, min(2 * high, most)
        while found is not None and high - low > 1:
            middle = (low + high) // 2
            fewer = _feasible(oracle, name, planner, middle)
            low, high, found = (middle, high, found) if fewer is None else (low, middle, fewer)
        if found is not None and (best is None or oracle.total_cost(found) < oracle.total_cost(best)):
            best = found
    return best


def _feasible(oracle: Oracle, name: str, planner: GearPlanner, devices: int) -> dict[str, GearPlan] | None:
    candidates = ({name: plan} for plan in _most_accurate_first(planner, devices))
    return next((stages for stages in candidates if oracle.feasible(stages)), None)


def _plans(planner: GearPlanner, devices: int) -> list[GearPlan]:
    """The plans for so many devices that may be right often enough; none when these are too few."""
    from headway.domains.cascade.unserved import TooFew

    try:
        return [plan for plan in planner.plans(devices) if planner.may_be_right(plan)]
    except TooFew:
        return []


def _most_accurate_first(planner: GearPlanner, devices: int) -> list[GearPlan]:
    return sorted(_plans(planner, devices), key=planner.usual_accuracy, reverse=True)


@dataclass(frozen=True)
class _Asked:
    """For whom plans are made; two of equal `known` get the same ones."""

    known: tuple[object, ...]
    context: StageContext = field(compare=False)
    hardware: str = field(compare=False)


@lru_cache(maxsize=8)
def _planner(asked: _Asked) -> GearPlanner:
    from headway.domains.cascade.family import Family
    from headway.domains.cascade.planner import GearPlanner

    slo = asked.context.spec.slo
    family = Family.of(asked.context, asked.hardware, len(DOMAIN.hardware(asked.context)))
    return GearPlanner(family, slo.latency_s, slo.accuracy)


DOMAIN = CascadeDomain()
