"""The fleet domain: which servers and policies a stage may be given, what they cost, and the stations that run them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headway.domains.fleet.config import CoresConfig, FleetConfig, LlmConfig, parse_config
from headway.domains.fleet.declare import CORES, LIVE, LLM, FleetStage
from headway.domains.fleet.times import DECLARED, engine_times, fleet_stage, parallelisms, service_table
from headway.errors import PlanError, ProfileError
from headway.plan.config import Evidence, OwnPromise, StageContext
from headway.profile import Profile

if TYPE_CHECKING:
    from headway.plan.oracle import Oracle
    from headway.serve.run import ServeOptions
    from headway.serve.station import LiveStation
    from headway.sim.station import Station
    from headway.sim.worklaw import LeastTimes
    from headway.spec.model import Hardware, Spec, Stage
    from headway.trace import Trace

MOST_REPLICAS = 256
"""Servers of a stage beyond which no plan is looked for."""
NO_CHOICE = ("replicas", "max_wait_s")
"""Fields of a configuration that no list of choices decides."""


class FleetDomain:
    """Servers of one hardware behind a balancer: LLM engines, or workers on cores."""

    kind = "fleet"
    declaration = FleetStage
    tunable = frozenset({"routing"})
    live_fields = frozenset(LIVE)
    tunes_itself = (
        "sends each request by the loads of engines that are there, which nobody here starts or stops; another plan "
        "(PUT /plan) changes how many of them are used, their limits and the policies"
    )

    @property
    def planners(self) -> Mapping[str, Any]:
        """A quick way to a feasible plan: the first of every choice, and the fewest servers by bisection."""
        return {"greedy": fewest_servers}

    instead_of_profile = "model:, such as llama-2-7b"

    def needs_no_profile(self, stage: Stage) -> bool:
        """Whether shipped figures, or the trace, say how long work takes."""
        if not isinstance(stage, FleetStage):
            return False
        return stage.servers == CORES or stage.model is not None or stage.step is not None

    def parse_config(self, value: Mapping[str, Any], where: str) -> FleetConfig:
        """Return the configuration that a mapping describes, as written under `current:` or found in a plan."""
        return parse_config(value, where)

    def cost_usd_per_hour(self, context: StageContext, config: FleetConfig) -> float:
        """The accelerators of all engines, or the servers, times the price of one."""
        return _units(config) * _supply(context, config.hardware).price_usd_per_hour

    def holds(self, config: FleetConfig) -> Mapping[str, int]:
        """Its accelerators or servers, of their hardware."""
        return {config.hardware: _units(config)}

    def startup_s(self, context: StageContext, config: FleetConfig) -> float:
        """Seconds from asking for a server to its first request."""
        return _supply(context, config.hardware).startup_s

    def configs(self, context: StageContext, max_cost_usd_per_hour: float) -> Iterator[FleetConfig]:
        """Every choice that is declared, with every number of servers, at most so dear."""
        for single in self.singles(context):
            price = self.cost_usd_per_hour(context, single)
            most = self.most_replicas(context, single)
            if price > 0 and max_cost_usd_per_hour < math.inf:
                most = min(most, int(max_cost_usd_per_hour / price + 1e-9))
            for replicas in range(least_replicas(single), most + 1):
                yield dataclasses.replace(single, replicas=replicas)

    def most_usd_per_hour(self, context: StageContext, items: int) -> float:
        """A server for every item, or as many as supply allows, of the dearest kind."""
        return max(
            min(items, self.most_replicas(context, single)) * self.cost_usd_per_hour(context, single)
            for single in self.singles(context)
        )

    def most_replicas(self, context: StageContext, config: FleetConfig) -> int:
        """How many servers of this kind supply allows, or are worth a look."""
        allowed = _supply(context, config.hardware).max_replicas
        each = _units(config) // config.replicas
        return MOST_REPLICAS if allowed is None else min(MOST_REPLICAS, allowed // each)

    def problems(self, spec: Spec, name: str) -> list[str]:
        """What supply cannot hold of what a stage declares, as far as that shows without a profile."""
        try:
            next(self.singles(StageContext(name, spec.stages[name], spec, Profile(()))))
        except ProfileError:
            return []
        except PlanError as error:
            return [str(error)]
        return []

    def singles(self, context: StageContext) -> Iterator[FleetConfig]:
        """Every choice that is declared and that supply can hold, with one server; the first of every list comes first.

        Raises PlanError where supply holds none.
        """
        short: list[FleetConfig] = []
        held = False
        for single in self._declared(context):
            if least_replicas(single) <= self.most_replicas(context, single):
                held = True
                yield single
            else:
                short.append(single)
        if short and not held:
            raise PlanError(f"stages.{context.name}: {_beyond_supply(context, short)}")

    def _declared(self, context: StageContext) -> Iterator[FleetConfig]:
        stage = fleet_stage(context)
        for hardware in self.hardware(context):
            if stage.servers == CORES:
                quanta: Sequence[float | None] = stage.quantum_s or (None,)
                for quantum_s, routing, queues in itertools.product(quanta, stage.routings, stage.queues):
                    yield CoresConfig(hardware, 1, quantum_s, routing, queues)
                continue
            for parallel, budget, running, routing, order, admission, batching, prefill in itertools.product(
                parallelisms(context, hardware),
                stage.token_budget,
                stage.most_running,
                stage.routings,
                stage.order,
                stage.admission,
                stage.batching,
                stage.prefill_engines,
            ):
                if budget >= running or batching != "decode-first":
                    yield LlmConfig(
                        hardware, 1, parallel, budget, running, routing, order, admission, stage.max_wait_s, batching,
                        prefill,
                    )  # fmt: skip

    def hardware(self, context: StageContext) -> tuple[str, ...]:
        """Hardware that servers may be: as declared, else any of supply for which times are known.

        Raises ProfileError where they are not known for what is declared, or for any.
        """
        stage = fleet_stage(context)
        usable, refused = [], None
        for name in stage.hardware_names or context.spec.supply:
            try:
                if stage.servers == LLM:
                    parallelisms(context, name)
                else:
                    service_table(context, name, sampled=False)
            except ProfileError as error:
                if stage.hardware_names is not None:
                    raise
                refused = error
            else:
                usable.append(name)
        if not usable and refused is not None:
            raise refused
        return tuple(usable)

    def moves(self, context: StageContext, config: FleetConfig) -> Iterator[tuple[str, FleetConfig]]:
        """One server more or less, or another of the declared choices in one field."""
        if config.replicas > least_replicas(config):
            yield "remove_replica", dataclasses.replace(config, replicas=config.replicas - 1)
        if config.replicas < self.most_replicas(context, config):
            yield "add_replica", dataclasses.replace(config, replicas=config.replicas + 1)
        now = dataclasses.asdict(config)
        for single in self.singles(context):
            other = {name: value for name, value in dataclasses.asdict(single).items() if name not in NO_CHOICE}
            changed = {name: value for name, value in other.items() if value != now[name]}
            if len(changed) == 1:
                found = dataclasses.replace(config, **changed)
                if least_replicas(found) <= config.replicas <= self.most_replicas(context, found):
                    yield f"change_{next(iter(changed))}", found

    def richest(self, context: StageContext, variant: str | None, share: float) -> Iterator[FleetConfig]:
        """As many servers as supply allows, of every choice that decides how quick one is; the quickest first."""
        known: dict[object, FleetConfig] = {}
        for single in self.singles(context):
            replicas = max(least_replicas(single), int(share * self.most_replicas(context, single) + 1e-9))
            known.setdefault(self.work_law(single), dataclasses.replace(single, replicas=replicas))
        yield from sorted(known.values(), key=lambda config: self._quickest_s(context, config, sampled=False))

    def shortage(self, context: StageContext) -> str:
        """How many servers supply allows, and what a class is promised that more of them would not mend."""
        most = max(self.singles(context), key=lambda single: self.most_replicas(context, single))
        count = self.most_replicas(context, most)
        stage = fleet_stage(context)
        what = "engines" if stage.servers == LLM else "servers"
        text = f"at most {count} {what} of {most.hardware} were looked at"
        if stage.classes:
            return f"{text}, and the promises to {', '.join(stage.classes)} must be kept too"
        return text

    def promises(self, context: StageContext, trace: Trace, *, sampled: bool) -> list[OwnPromise]:
        """What classes are promised, and the least that it could be on the quickest servers declared."""
        from headway.domains.fleet.build import promises

        different = {self.work_law(single): single for single in self.singles(context)}
        return list(promises(context, different.values(), trace, sampled=sampled))

    def fastest_s(self, context: StageContext, variant: str | None, *, sampled: bool) -> float:
        """The shortest request alone on the quickest hardware."""
        return min(self._quickest_s(context, single, sampled=sampled) for single in self.singles(context))

    def _quickest_s(self, context: StageContext, config: FleetConfig, *, sampled: bool) -> float:
        if isinstance(config, LlmConfig):
            return engine_times(context, config.hardware, config.tensor_parallel).step.seconds(1, pairs=1)
        table = service_table(context, config.hardware, sampled=sampled)
        return 2.0 * fleet_stage(context).network_s + (0.0 if table is None else float(table.min()))

    def capacity(self, config: FleetConfig) -> int:
        """Number of servers."""
        return config.replicas

    def work_law(self, config: FleetConfig) -> tuple[object, ...]:
        """What `least_times` depends on: how quick a server is, and how much it takes at once."""
        if isinstance(config, LlmConfig):
            return (
                config.hardware, config.tensor_parallel, config.token_budget, config.most_running, config.batching,
                bool(config.prefill_engines),
            )  # fmt: skip
        return (config.hardware,)

    def least_times(self, context: StageContext, config: FleetConfig, trace: Trace, *, sampled: bool) -> LeastTimes:
        """Return what each request of a trace takes at least, alone and of a server's time."""
        from headway.domains.fleet.build import least_times

        return least_times(context, config, trace, sampled=sampled)

    def evidence(self, context: StageContext, config: FleetConfig) -> Evidence | None:
        """Return what the times of engines rest on; of cores the profile's rows say it."""
        if not isinstance(config, LlmConfig):
            return None
        known = engine_times(context, config.hardware, config.tensor_parallel)
        where = f"{known.tensor_parallel} x {config.hardware}" if known.tensor_parallel > 1 else config.hardware
        of = f"what iterations take of {known.model or 'the model'} on {where}"
        wrong = ""
        if known.error_ratio is not None:
            wrong = f", off by {100 * known.error_ratio:.2g}% on average {known.error_on}"
            wrong += "; without context and attention" * (known.source != DECLARED)
        elif known.source == DECLARED:
            wrong = ", how far off is not said"
        text = f"{of} is {'a ' * (known.evidence == 'prior')}{known.evidence}{wrong}; {known.source}"
        return Evidence(known.evidence, text, known.error_ratio)

    def batches_s(self, context: StageContext, config: FleetConfig) -> Sequence[float] | None:
        """The least that a request takes, of which its live station says how many times longer they take of late."""
        return (self._quickest_s(context, config, sampled=False),) if isinstance(config, LlmConfig) else None

    def station(self, context: StageContext, config: FleetConfig, *, sampled: bool) -> Station:
        """The simulator's station of a configuration."""
        from headway.domains.fleet.build import station

        return station(context, config, sampled=sampled)

    def live(self, context: StageContext, config: FleetConfig) -> LiveStation:
        """The server's station of a configuration. Raises SpecError or ServeError for what cannot be served."""
        from headway.domains.fleet.live import live_station

        return live_station(context, config)

    def serve_alone(
        self,
        context: StageContext,
        config: FleetConfig,
        options: ServeOptions,
        more: Mapping[str, Any],
        *,
        announce: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        """Run a gateway in front of the engines that are there until told to stop. Raises ServeError."""
        from headway.domains.fleet.live import serve_alone

        serve_alone(context, config, options, more, announce=announce, warn=warn)


def fewest_servers(oracle: Oracle, variants: Mapping[str, str]) -> Mapping[str, FleetConfig] | None:
    """Return the cheapest plan that a person would find, for a spec of one fleet: the first of every list of choices
    but hardware and parallelism, and of those that keep the promise the fewest servers. None when none is found."""
    if len(oracle.spec.stages) != 1:
        return None
    ((name, context),) = oracle.contexts.items()
    firsts: dict[tuple[str, int], FleetConfig] = {}
    for single in DOMAIN.singles(context):
        firsts.setdefault((single.hardware, _units(single)), single)
    best: dict[str, FleetConfig] | None = None
    for single in sorted(firsts.values(), key=lambda single: oracle.cost_usd_per_hour(name, single)):
        found = _fewest(oracle, name, single, variants, math.inf if best is None else oracle.total_cost(best))
        best = best if found is None else found
    return best


def _fewest(
    oracle: Oracle, name: str, single: FleetConfig, variants: Mapping[str, str], below_usd_per_hour: float
) -> dict[str, FleetConfig] | None:
    """The fewest servers of one kind that keep the promise, where they cost less than so much."""
    from headway.plan.exact import needed_capacity

    price = oracle.cost_usd_per_hour(name, single)
    most = DOMAIN.most_replicas(oracle.contexts[name], single)
    if price > 0 and below_usd_per_hour < math.inf:
        most = min(most, math.ceil(below_usd_per_hour / price - 1e-9) - 1)

    def feasible(replicas: int) -> bool:
        return oracle.feasible({name: dataclasses.replace(single, replicas=replicas)})

    needed = needed_capacity(oracle, name, single, DOMAIN.work_law(single), variants)
    low = max(needed, least_replicas(single)) - 1
    step = 1
    high = low + step
    while high <= most and not feasible(high):
        step *= 2
        low, high = high, high + step
    if high > most:
        if low >= most or not feasible(most):
            return None
        high = most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if feasible(middle) else (middle, high)
    return {name: dataclasses.replace(single, replicas=high)}


def least_replicas(config: FleetConfig) -> int:
    """Return how many servers a configuration needs at least: one, beside those that only compute prompts.

    >>> least_replicas(LlmConfig("a100-80gb", prefill_engines=2))
    3
    """
    return 1 + config.prefill_engines if isinstance(config, LlmConfig) else 1


def _beyond_supply(context: StageContext, short: Sequence[FleetConfig]) -> str:
    """The choice that needs the fewest of all that supply cannot hold, and how many it has."""
    least = min(short, key=lambda single: least_replicas(single) * _units(single))
    needed, most = least_replicas(least) * _units(least), _supply(context, least.hardware).max_replicas
    has = f"at most {MOST_REPLICAS} engines are looked at" if most is None else f"supply has max: {most}"
    why = f"engines on {_units(least)} of {least.hardware} each"
    if isinstance(least, LlmConfig) and least.prefill_engines:
        why = f"prefill_engines: {least.prefill_engines} and an engine that decodes, on {_units(least)} each,"
    return f"{why} need {needed} of {least.hardware}, and {has}"


def _units(config: FleetConfig) -> int:
    """What is bought: accelerators, or servers."""
    return config.accelerators if isinstance(config, LlmConfig) else config.replicas


def _supply(context: StageContext, hardware: str) -> Hardware:
    if hardware not in context.spec.supply:
        raise PlanError(f"stages.{context.name}.hardware: {hardware!r} is not in supply")
    return context.spec.supply[hardware]


DOMAIN = FleetDomain()
