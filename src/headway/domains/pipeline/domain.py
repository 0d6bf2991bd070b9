"""The pipeline domain: what its stages may be configured as, what that costs, and the stations that run it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from headway.domains.pipeline.declare import ConfigText, ModelStage, ReplicaConfig
from headway.errors import PlanError, nearest
from headway.plan.config import StageContext
from headway.spec.model import Spec

if TYPE_CHECKING:
    from headway.serve.station import LiveStation
    from headway.sim.eventsim import StageSetup
    from headway.sim.replicas import ReplicaStation


class PipelineDomain:
    """Replicated, batching model servers with one central queue per stage."""

    kind = "pipeline"
    declaration = ModelStage
    tunable = frozenset({"replicas", "max_batch_size", "max_wait_s"})

    def parse_config(self, value: Mapping[str, Any], where: str) -> ReplicaConfig:
        """Return the configuration that a mapping describes, as written under `current:` or found in a plan."""
        known = {name: value[name] for name in ("hardware", "replicas", "max_batch_size", "variant") if name in value}
        unknown = [name for name in value if name not in (*known, "max_wait", "max_wait_s", *_PREDICTED)]
        if unknown:
            valid = ("hardware", "replicas", "max_batch_size", "max_wait", "variant")
            raise PlanError(f"{where}.{unknown[0]}: not a field{nearest(unknown[0], valid)}; valid: {', '.join(valid)}")
        if "max_wait" in value:
            known["max_wait"] = value["max_wait"]
        try:
            text = ConfigText.model_validate(known)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise PlanError(f"{where}.{field}: {first['msg']}") from None
        wait_s = value.get("max_wait_s", text.max_wait_s)
        if isinstance(wait_s, bool) or not isinstance(wait_s, int | float) or not 0 <= wait_s < np.inf:
            raise PlanError(f"{where}.max_wait_s: {wait_s!r} must be a number of seconds, at least 0")
        return ReplicaConfig(text.hardware, text.replicas, text.max_batch_size, text.variant, float(wait_s))

    def cost_usd_per_hour(self, config: ReplicaConfig, spec: Spec) -> float:
        """Replicas times the price of their hardware."""
        return config.replicas * spec.supply[config.hardware].price_usd_per_hour

    def startup_s(self, context: StageContext, config: ReplicaConfig) -> float:
        """Seconds from asking for a replica until it takes its first batch: capacity's delay plus the model's, measured."""
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

    def most_replicas(self, context: StageContext, hardware: str, max_cost_usd_per_hour: float) -> int:
        """Replicas of one hardware that budget, count limit and pool allow this stage."""
        supply = context.spec.supply[hardware]
        most = 100_000
        if supply.price_usd_per_hour > 0:
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
        at = sizes.index(config.max_batch_size) if config.max_batch_size in sizes else 0
        if config.replicas > 1:
            yield "remove_replica", _with(config, replicas=config.replicas - 1)
        yield "add_replica", _with(config, replicas=config.replicas + 1)
        if at + 1 < len(sizes):
            yield "increase_batch", _with(config, max_batch_size=sizes[at + 1])
        if at > 0:
            yield "decrease_batch", _with(config, max_batch_size=sizes[at - 1])
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
        from headway.sim.eventsim import ReplicaGroup, StageSetup

        supply = context.spec.supply[config.hardware]
        service = context.profile.service(context.name, config.variant, config.hardware)
        table = service.table(config.max_batch_size, sampled)
        group = ReplicaGroup(table, config.replicas, pool=supply.pool, threads=supply.threads)
        return StageSetup([group], config.max_wait_s)

    def live(self, context: StageContext, config: ReplicaConfig) -> LiveStation:
        """The server's station of a configuration."""
        from headway.domains.pipeline.live import live_station

        return live_station(context, config)

    def _stage(self, context: StageContext) -> ModelStage:
        stage = context.stage
        if not isinstance(stage, ModelStage):
            raise PlanError(f"stages.{context.name}: kind {stage.kind!r} is not planned by the pipeline domain")
        return stage


_PREDICTED = ("utilization", "queue_wait_p99_s", "peak_utilization_10s", "cost_usd_per_hour")


def _with(config: ReplicaConfig, **changes: Any) -> ReplicaConfig:
    return ReplicaConfig(**{**config.to_dict(), **changes})


DOMAIN = PipelineDomain()
