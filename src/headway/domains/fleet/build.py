"""From a stage's configuration to what simulates it, and to the least that its requests take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from headway.domains.fleet.config import CoresConfig, FleetConfig, LlmConfig
from headway.domains.fleet.cores_station import SERVICE, CoresStation
from headway.domains.fleet.least import cores_least, llm_alone, llm_least
from headway.domains.fleet.leaving import CLASS, kinds, slo_classes
from headway.domains.fleet.llm_station import LlmStation, work_of
from headway.domains.fleet.times import engine_times, fleet_stage, service_table
from headway.errors import PlanError, ProfileError
from headway.fleet.engines import Engine, LlmFleet
from headway.fleet.llm_slo import SloClass
from headway.plan.config import OwnPromise, StageContext
from headway.policy.kv_admission import admission
from headway.policy.routing import router
from headway.policy.scheduling import order
from headway.policy.token_routing import token_router
from headway.sim.outcome import percentile
from headway.sim.station import Floats, Ints, Station
from headway.sim.worklaw import LeastTimes
from headway.trace import Trace
from headway.trace.prompts import PROMPT


def station(context: StageContext, config: FleetConfig, *, sampled: bool) -> Station:
    """Return the simulator's station of a configuration. Raises PlanError where it is not of the stage's servers."""
    stage = fleet_stage(context)
    _agree(context, config)
    classes = slo_classes(stage)
    if isinstance(config, LlmConfig):
        fleet = llm_fleet(context, config)
        return LlmStation(context.name, fleet, classes, stage.max_output_tokens)
    from headway.fleet.rack_run import RackSetup

    setup = RackSetup(
        workers=(context.spec.supply[config.hardware].threads,) * config.replicas,
        router=router(config.routing),
        quantum_s=math.inf if config.quantum_s is None else config.quantum_s,
        switch_s=stage.switch_s,
        queues=config.queues,
        slo_s=tuple(each.e2e_s for each in classes) or (1.0,),
        send_s=stage.network_s,
        reply_s=stage.network_s,
        report_every_s=stage.reports_every_s,
        loss=stage.report_loss,
    )
    table = service_table(context, config.hardware, sampled=sampled)
    return CoresStation(context.name, setup, classes, table, stage.affinity)


def llm_engine(context: StageContext, config: LlmConfig) -> Engine:
    """Return what each engine of a configuration is. Raises ProfileError for times that are not known."""
    known = engine_times(context, config.hardware, config.tensor_parallel)
    return Engine(
        known.step,
        known.kv_tokens,
        token_budget=config.token_budget,
        most_running=config.most_running,
        batching=config.batching,
        swap_token_s=known.swap_token_s,
    )


def llm_fleet(context: StageContext, config: LlmConfig) -> LlmFleet:
    """Return the engines of a configuration behind their balancer. Raises ProfileError for times that are not known."""
    stage, engine = fleet_stage(context), llm_engine(context, config)
    max_wait_s = math.inf if config.max_wait_s is None else config.max_wait_s
    return LlmFleet(
        tuple(replace(engine, role=role) for role in config.roles),
        token_router(config.routing),
        order(config.order, max_wait_s=max_wait_s),
        admission(config.admission),
        prefix_cache=stage.prefix_cache,
        report_s=stage.reports_every_s,
        transfer_token_s=transfer_token_s(context, config),
    )


def transfer_token_s(context: StageContext, config: LlmConfig) -> float:
    """Return what handing a token's keys and values over to another engine takes, 0 where none are handed over.

    Raises ProfileError where it is neither declared nor known of the accelerator.
    """
    stage = fleet_stage(context)
    if not config.prefill_engines:
        return 0.0
    if stage.transfer_token_s is not None:
        return stage.transfer_token_s
    known_s = engine_times(context, config.hardware, config.tensor_parallel).swap_token_s
    if math.isinf(known_s):
        raise ProfileError(
            f"stages.{context.name}: what handing a token's keys and values over takes on {config.hardware!r} is not "
            "known; give transfer_token"
        )
    return known_s


def least_times(context: StageContext, config: FleetConfig, trace: Trace, *, sampled: bool) -> LeastTimes:
    """Return what each request of a trace takes at least."""
    classes, kind = _classes(context, trace)
    if isinstance(config, LlmConfig):
        prompt, output, more = _llm_requests(context, config, trace)
        return llm_least(llm_engine(context, config), prompt, output, classes, kind, **more)
    workers = context.spec.supply[config.hardware].threads
    service_s = _service_s(context, config, trace, sampled=sampled)
    return cores_least(service_s, workers, fleet_stage(context).network_s, classes, kind)


def promises(
    context: StageContext, configs: Iterable[FleetConfig], trace: Trace, *, sampled: bool
) -> Iterator[OwnPromise]:
    """Return what classes are promised, with the least that the promised share of their requests can take."""
    classes, kind = _classes(context, trace)
    alone_s = [_alone_s(context, config, trace, sampled=sampled) for config in configs]
    for number, each in enumerate(classes):
        for at, (field, means) in enumerate(PROMISES.items()):
            promised_s, own = getattr(each, f"{field}_s"), kind == number
            if math.isfinite(promised_s) and own.any():
                least_s = min(percentile(times_s[at][own], context.spec.slo.percentile) for times_s in alone_s)
                yield OwnPromise(f"{each.name}.{field}", means, promised_s, least_s)


PROMISES = {"ttft": "the first token", "tpot": "a token after the first", "e2e": "the whole"}
"""What a class may be promised, and what that means."""


def _classes(context: StageContext, trace: Trace) -> tuple[tuple[SloClass, ...], Ints]:
    classes = slo_classes(fleet_stage(context))
    return classes, kinds(trace.columns.get(CLASS), trace.requests, len(classes), context.name)


def _alone_s(context: StageContext, config: FleetConfig, trace: Trace, *, sampled: bool) -> tuple[Floats, ...]:
    """The least time of each request to the first token, per token, and of the whole; workers make no tokens."""
    if isinstance(config, LlmConfig):
        prompt, output, more = _llm_requests(context, config, trace)
        return llm_alone(llm_engine(context, config), prompt, output, **more)
    whole_s = _service_s(context, config, trace, sampled=sampled) + 2.0 * fleet_stage(context).network_s
    return whole_s, np.zeros(whole_s.size), whole_s


def _llm_requests(context: StageContext, config: LlmConfig, trace: Trace) -> tuple[Floats, Floats, dict[str, Any]]:
    """Tokens of prompts and answers, and what else the least that they take depends on."""
    stage, columns = fleet_stage(context), trace.columns
    prompts = trace.prompts if stage.prefix_cache else None
    arrival_s = np.zeros(trace.requests)
    work = work_of(context.name, arrival_s, columns, stage.max_output_tokens, prompts, trace.name).requests
    more: dict[str, Any] = {"transfer_token_s": transfer_token_s(context, config)}
    if prompts is not None:
        unseen = prompts.unseen_tokens(columns[PROMPT].astype(np.int64), work.prompt)
        more |= {"unseen": unseen.astype(np.float64), "block_tokens": prompts.block_tokens}
    return work.prompt.astype(np.float64), work.output.astype(np.float64), more


def _service_s(context: StageContext, config: CoresConfig, trace: Trace, *, sampled: bool) -> Floats:
    """The least that each request computes: as the trace says, or by the profile."""
    table = service_table(context, config.hardware, sampled=sampled)
    if table is not None:
        return np.full(trace.requests, table.min())
    return np.asarray(trace.columns.get(SERVICE, np.zeros(trace.requests)))


def _agree(context: StageContext, config: FleetConfig) -> None:
    servers = fleet_stage(context).servers
    if config.to_dict()["servers"] != servers:
        raise PlanError(
            f"stages.{context.name}: the configuration is one of servers: {config.to_dict()['servers']}, and the stage "
            f"declares servers: {servers}"
        )
    if config.hardware not in context.spec.supply:
        raise PlanError(f"stages.{context.name}.hardware: {config.hardware!r} is not in supply")
