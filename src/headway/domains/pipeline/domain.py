"""The pipeline domain: what its stages may be configured as, what that costs, and the stations that run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.domains.pipeline.declare import DEFAULT_VARIANT, MAX_REPLICAS, ConfigText, ModelStage, ReplicaConfig
from headway.errors import PlanError
from headway.plan.config import StageContext

if TYPE_CHECKING:
    from headway.plan.oracle import Oracle
    from headway.serve.replica import MakeStarter
    from headway.serve.station import LiveStation
    from headway.sim.replicas import ReplicaStation
    from headway.sim.setup import StageSetup
    from headway.sim.worklaw import Gains


class PipelineDomain:
    """Replicated, batching model servers with one central queue per stage."""

    kind = "pipeline"
    declaration = ModelStage
    tunable = frozenset({"replicas", "max_batch_size", "max_wait_s"})

    @property
    def planners(self) -> Mapping[str, Callable[[Oracle, Mapping[str, str]], Mapping[str, ReplicaConfig] | None]]:
        """The published planners that know this kind of stage, by name."""
        from headway.domains.pipeline.coarse import coarse_grained
        from headway.domains.pipeline.inferline import Greedy

        return {
            "greedy": lambda oracle, variants: Greedy(oracle, variants).run(),
            "cg-mean": lambda oracle, variants: coarse_grained(oracle, variants, peak=False),
            "cg-peak": lambda oracle, variants: coarse_grained(oracle, variants, peak=True),
        }

    def richest(self, context: StageContext, variant: str | None, share: float) -> Iterator[ReplicaConfig]:
        """Replicas as many as supply allows, with batches of 1, 2, 4 and so on at most; the fastest hardware first."""
        name = variant if variant is not None else DEFAULT_VARIANT
        for hardware in self.hardware_by_latency(context, name):
            sizes = self.batch_sizes(context, name, hardware)
            most = min(self.most_replicas(context, hardware, np.inf), MOST_RICHEST)
            replicas = max(1, int(share * most + 1e-9))
            for batch in dict.fromkeys(max(s for s in sizes if s <= 1 << p) for p in range(sizes[-1].bit_length() + 1)):
                yield ReplicaConfig(hardware, replicas, batch, name)

    def parse_config(self, value: Mapping[str, Any], where: str) -> ReplicaConfig:
        """Return the configuration that a mapping describes, as written under `current:` or found in a plan."""
        known = {name: value[name] for name in value if name != "max_wait_s"}
        config = ConfigText.read(known, where)
        wait_s = value.get("max_wait_s", config.max_wait_s)
        if isinstance(wait_s, bool) or not isinstance(wait_s, int | float) or not 0 <= wait_s < np.inf:
            raise PlanError(f"{where}.max_wait_s: {wait_s!r} must be a number of seconds, at least 0")
        return _with(config, max_wait_s=float(wait_s))

    def cost_usd_per_hour(self, context: StageContext, config: ReplicaConfig) -> float:
        """Replicas times the price of their hardware."""
        return config.replicas * context.spec.supply[config.hardware].price_usd_per_hour

    def holds(self, config: ReplicaConfig) -> Mapping[str, int]:
        """Its replicas, of their hardware."""
        return {config.hardware: config.replicas}

    def startup_s(self, context: StageContext, config: ReplicaConfig) -> float:
        """Seconds from asking for a replica to its first batch: the capacity's delay plus the model's, as measured."""
        rows = [r.startup_s for r in context.profile.rows if (r.stage, r.variant, r.hardware)
                == (context.name, config.variant, config.hardware) and r.startup_s is not None]  # fmt: skip
        return context.spec.supply[config.hardware].startup_s + max(rows, default=0.0)

    def hardware(self, context: StageContext, variant: str) -> tuple[str, ...]:
        """Hardware that a variant may run on: declared, priced and profiled."""
        profiled = context.profile.hardware(context.name, variant)
        declared = self._stage(context).hardware_names
        allowed = declared if declared is not None else tuple(context.spec.supply)
        for name in declared or ():
            if name not in profiled:
                context.profile.service(context.name, variant, name)
        usable = tuple(name for name in allowed if name in profiled)
        if not usable:
            context.profile.service(context.name, variant, allowed[0])
        return usable

    def hardware_by_latency(self, context: StageContext, variant: str) -> list[str]:
        """The hardware that a variant may run on, lowest mean latency of a batch of one first."""
        names = self.hardware(context, variant)
        return sorted(names, key=lambda name: context.profile.service(context.name, variant, name).mean_at(1))

    def batch_sizes(self, context: StageContext, variant: str, hardware: str) -> tuple[int, ...]:
        """Batch sizes considered: those profiled, up to the declared cap."""
        cap = self._stage(context).max_batch_size
        sizes = context.profile.service(context.name, variant, hardware).batch_sizes
        return tuple(size for size in sizes if cap is None or size <= cap)

    def configs(self, context: StageContext, max_cost_usd_per_hour: float) -> Iterator[ReplicaConfig]:
        """Variant x hardware x batch size x replicas, at most so dear; `max_wait_s` is 0."""
        for variant in self._stage(context).variant_names:
            for hardware in self.hardware(context, variant):
                supply = context.spec.supply[hardware]
                most = self.most_replicas(context, hardware, max_cost_usd_per_hour)
                if supply.price_usd_per_hour == 0 and supply.max_replicas is None and supply.pool is None:
                    raise PlanError(
                        f"supply.{hardware}: free and unlimited hardware leaves nothing to plan; give it a price or max"
                    )
                for batch in self.batch_sizes(context, variant, hardware):
                    for replicas in range(1, most + 1):
                        yield ReplicaConfig(hardware, replicas, batch, variant)

    def most_usd_per_hour(self, context: StageContext, items: int) -> float:
        """The dearest hardware with a replica for every item, or as many as supply allows."""
        names = {h for variant in self._stage(context).variant_names for h in self.hardware(context, variant)}
        return max(
            min(items, self.most_replicas(context, name, np.inf)) * context.spec.supply[name].price_usd_per_hour
            for name in names
        )

    def most_replicas(self, context: StageContext, hardware: str, max_cost_usd_per_hour: float) -> int:
        """Replicas of one hardware that budget, count limit and pool allow this stage."""
        supply = context.spec.supply[hardware]
        most = MAX_REPLICAS
        if supply.price_usd_per_hour > 0 and max_cost_usd_per_hour < np.inf:
            most = int(max_cost_usd_per_hour / supply.price_usd_per_hour + 1e-9)
        if supply.max_replicas is not None:
            most = min(most, supply.max_replicas)
        if supply.pool is not None:
            # More replicas of a stage than the pool has room for can never compute at once.
            most = min(most, context.spec.pools[supply.pool].cores // supply.threads)
        return most

    def moves(self, context: StageContext, config: ReplicaConfig) -> Iterator[tuple[str, ReplicaConfig]]:
        """One replica more or less, the next batch size up or down, another hardware, another variant."""
        sizes = self.batch_sizes(context, config.variant, config.hardware)
        larger = [size for size in sizes if size > config.max_batch_size]
        smaller = [size for size in sizes if size < config.max_batch_size]
        if config.replicas > 1:
            yield "remove_replica", _with(config, replicas=config.replicas - 1)
        yield "add_replica", _with(config, replicas=config.replicas + 1)
        if larger:
            yield "increase_batch", _with(config, max_batch_size=larger[0])
        if smaller:
            yield "decrease_batch", _with(config, max_batch_size=smaller[-1])
        for hardware in self.hardware(context, config.variant):
            if hardware != config.hardware:
                known = self.batch_sizes(context, config.variant, hardware)
                batch = max(size for size in known if size <= config.max_batch_size)
                yield "change_hardware", _with(config, hardware=hardware, max_batch_size=batch)
        for variant in self._stage(context).variant_names:
            if variant != config.variant and config.hardware in context.profile.hardware(context.name, variant):
                known = self.batch_sizes(context, variant, config.hardware)
                batch = max(size for size in known if size <= config.max_batch_size)
                yield "change_variant", _with(config, variant=variant, max_batch_size=batch)

    def station(self, context: StageContext, config: ReplicaConfig, *, sampled: bool) -> ReplicaStation:
        """The simulator's station of a configuration."""
        from headway.sim.replicas import ReplicaStation

        service = context.profile.service(context.name, config.variant, config.hardware)
        table = service.table(config.max_batch_size, sampled)
        return ReplicaStation.always(context.name, table, config.replicas, config.max_wait_s)

    def setup(self, context: StageContext, config: ReplicaConfig, *, sampled: bool) -> StageSetup:
        """How the event kernel runs a configuration, shared cores included."""
        from headway.sim.setup import ReplicaGroup, StageSetup

        supply = context.spec.supply[config.hardware]
        service = context.profile.service(context.name, config.variant, config.hardware)
        table = service.table(config.max_batch_size, sampled)
        group = ReplicaGroup(table, config.replicas, pool=supply.pool, threads=supply.threads)
        return StageSetup([group], config.max_wait_s)

    def fastest_s(self, context: StageContext, variant: str | None, *, sampled: bool) -> float:
        """The quickest service of a variant on any hardware: no item is done sooner."""
        names = [variant] if variant is not None else list(self._stage(context).variant_names)
        return min(
            float(context.profile.service(context.name, name, hardware).table(1, sampled)[1].min())
            for name in names
            for hardware in self.hardware(context, name)
        )

    def capacity(self, config: ReplicaConfig) -> int:
        """Batches that can be served at once."""
        return config.replicas

    def work_law(self, config: ReplicaConfig) -> tuple[str, str, int]:
        """What `work_gains` depends on."""
        return config.variant, config.hardware, config.max_batch_size

    def work_gains(self, context: StageContext, config: ReplicaConfig, *, sampled: bool) -> Gains:
        """What each item costs the capacity at least, as in `headway.sim.worklaw`."""
        from headway.sim.worklaw import work_gains

        service = context.profile.service(context.name, config.variant, config.hardware)
        return work_gains(service.table(config.max_batch_size, sampled))

    def live(self, context: StageContext, config: ReplicaConfig) -> LiveStation:
        """The server's station of a configuration."""
        from headway.domains.pipeline.live import live_station

        return live_station(context, config)

    def live_with(self, context: StageContext, config: ReplicaConfig, starter: MakeStarter) -> LiveStation:
        """The server's station of a configuration, with workers that come from `starter`."""
        from headway.domains.pipeline.live import live_station

        return live_station(context, config, starter=starter)

    def _stage(self, context: StageContext) -> ModelStage:
        stage = context.stage
        if not isinstance(stage, ModelStage):
            raise PlanError(f"stages.{context.name}: kind {stage.kind!r} is not planned by the pipeline domain")
        return stage


MOST_RICHEST = 1024
"""Replicas beyond which no promise is looked for."""


def _with(config: ReplicaConfig, **changes: Any) -> ReplicaConfig:
    return ReplicaConfig(**{**config.to_dict(), **changes})


DOMAIN = PipelineDomain()
