"""The server's station of a pipeline stage: worker processes with its model, or with a sleep where it has none."""

from __future__ import annotations

import os

from headway.domains.pipeline.declare import ModelStage, ReplicaConfig
from headway.errors import PlanError, ProfileError
from headway.plan.config import StageContext
from headway.serve.batcher import FIRST_BATCH_TIMEOUT_S, BatchStation
from headway.serve.model_ref import HardwareView, resolve, sleeping
from headway.serve.replica import MakeStarter, worker_starter
from headway.spec.model import Spec

HANGS_RATIO = 20.0
LEAST_BATCH_TIMEOUT_S = 10.0
"""Far beyond what a busy machine does to a batch, and soon enough for requests that wait half a minute."""


def live_station(
    context: StageContext, config: ReplicaConfig, folder: str = ".", starter: MakeStarter = worker_starter
) -> BatchStation:
    """Return the station of a configuration; a model's file is looked up in `folder`, workers come from `starter`.

    A stage without a model sleeps for times drawn from its profile. Raises SpecError when the model is missing, and
    ProfileError when there is neither model nor profile.
    """
    stage = context.stage
    if not isinstance(stage, ModelStage):
        raise PlanError(f"stages.{context.name}: kind {stage.kind!r} is not run by the pipeline domain")
    supply = context.spec.supply[config.hardware]
    variant = stage.variant(config.variant)
    children = tuple(edge.child for edge in context.spec.graph.children[context.name])
    if variant.model is None:
        # What serving adds comes by itself.
        service = context.profile.service(context.name, config.variant, config.hardware, overhead=False)
        ref = sleeping(service, config.max_batch_size, sampled=True)
    else:
        ref = resolve(variant.model, folder, f"stages.{context.name}.model")
    start = starter(
        ref,
        HardwareView(config.hardware, supply.threads, supply.device),
        name=context.name,
        options=variant.options,
        children=children,
        cores=None if supply.pool is None else pool_cores(context.spec, usable_cores()).get(supply.pool),
    )
    return BatchStation(
        context.name,
        start,
        replicas=config.replicas,
        max_batch_size=config.max_batch_size,
        max_wait_s=config.max_wait_s,
        threads=supply.threads,
        pool=supply.pool,
        render=not children,
        hardware=config.hardware,
        batch_timeout_s=batch_timeout_s(context, config),
        service_s=service_s(context, config),
        first_batch_timeout_s=FIRST_BATCH_TIMEOUT_S,
    )


def batch_timeout_s(context: StageContext, config: ReplicaConfig) -> float:
    """Return after how long a worker hangs for sure: `HANGS_RATIO` times what a full batch takes, not too little.

    Where the profile does not tell, it is what a first batch may take.
    """
    known_s = service_s(context, config)
    return max(LEAST_BATCH_TIMEOUT_S, HANGS_RATIO * known_s[-1]) if known_s else FIRST_BATCH_TIMEOUT_S


def service_s(context: StageContext, config: ReplicaConfig) -> tuple[float, ...]:
    """Return what batches of 1, 2, ... items take on average by the profile; nothing where it does not tell."""
    try:
        service = context.profile.service(context.name, config.variant, config.hardware)
        return tuple(service.table(config.max_batch_size, sampled=False)[1:].mean(axis=1).tolist())
    except ProfileError:
        return ()


def pool_cores(spec: Spec, usable: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return which of the usable cores each pool's workers are pinned to; none when the pools do not all fit.

    >>> from headway.spec.model import Spec
    >>> spec = Spec.from_dict({"slo": {"latency": "1s"}, "supply": {"cpu": {"price": "$1/h", "pool": "b"}},
    ...                        "pools": {"a": {"cores": 1}, "b": {"cores": 2}}, "stages": {"only": {}}})
    >>> pool_cores(spec, (0, 1, 2, 3))
    {'a': (0,), 'b': (1, 2)}
    """
    if sum(pool.cores for pool in spec.pools.values()) > len(usable):
        return {}
    out: dict[str, tuple[int, ...]] = {}
    at = 0
    for name, pool in spec.pools.items():
        out[name] = usable[at : at + pool.cores]
        at += pool.cores
    return out


def usable_cores() -> tuple[int, ...]:
    """Return the cores that this process may use; none where the system cannot pin."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()
