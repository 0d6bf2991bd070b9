"""From a stage's configuration to what simulates it, and to the least that its requests take."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from headway.domains.fleet.config import FleetConfig, LlmConfig
from headway.domains.fleet.cores_station import SERVICE, CoresStation
from headway.domains.fleet.least import cores_least, llm_least
from headway.domains.fleet.leaving import CLASS, kinds, slo_classes
from headway.domains.fleet.llm_station import LlmStation, work_of
from headway.domains.fleet.times import engine_times, fleet_stage, service_table
from headway.errors import PlanError
from headway.fleet.engines import Engine, LlmFleet
from headway.plan.config import StageContext
from headway.policy.kv_admission import admission
from headway.policy.routing import router
from headway.policy.scheduling import order
from headway.policy.token_routing import token_router
from headway.sim.station import Floats, Station
from headway.sim.worklaw import LeastTimes


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


def llm_fleet(context: StageContext, config: LlmConfig) -> LlmFleet:
    """Return the engines of a configuration behind their balancer."""
    known = engine_times(context, config.hardware, config.tensor_parallel)
    engine = Engine(
        known.step,
        known.kv_tokens,
        token_budget=config.token_budget,
        most_running=config.most_running,
        swap_token_s=known.swap_token_s,
    )
    max_wait_s = math.inf if config.max_wait_s is None else config.max_wait_s
    return LlmFleet(
        (engine,) * config.replicas,
        token_router(config.routing),
        order(config.order, max_wait_s=max_wait_s),
        admission(config.admission),
        report_s=fleet_stage(context).reports_every_s,
    )


def least_times(
    context: StageContext, config: FleetConfig, columns: Mapping[str, Floats], requests: int, *, sampled: bool
) -> LeastTimes:
    """Return what each request takes at least, by the trace's columns."""
    stage = fleet_stage(context)
    classes = slo_classes(stage)
    kind = kinds(columns.get(CLASS), requests, len(classes), context.name)
    if isinstance(config, LlmConfig):
        known = engine_times(context, config.hardware, config.tensor_parallel)
        work = work_of(context.name, np.zeros(requests), columns, stage.max_output_tokens).requests
        prompt, output = work.prompt.astype(np.float64), work.output.astype(np.float64)
        engine = (known.step, known.kv_tokens, config.token_budget, config.most_running)
        return llm_least(*engine, prompt, output, classes, kind)
    table = service_table(context, config.hardware, sampled=sampled)
    service_s = columns.get(SERVICE, np.zeros(requests)) if table is None else np.full(requests, table.min())
    workers = context.spec.supply[config.hardware].threads
    return cores_least(service_s, workers, stage.network_s, classes, kind)


def _agree(context: StageContext, config: FleetConfig) -> None:
    servers = fleet_stage(context).servers
    if config.to_dict()["servers"] != servers:
        raise PlanError(
            f"stages.{context.name}: the configuration is one of servers: {config.to_dict()['servers']}, and the stage "
            f"declares servers: {servers}"
        )
    if config.hardware not in context.spec.supply:
        raise PlanError(f"stages.{context.name}.hardware: {config.hardware!r} is not in supply")
