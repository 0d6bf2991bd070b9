"""A fleet as it stands: the plan that a spec means without planning, and its policies, ready to be exchanged."""

from __future__ import annotations

import math
from typing import cast

from headway.domains.fleet.build import station
from headway.domains.fleet.compare import NEVER, Contest, CoresContest, LlmContest
from headway.domains.fleet.config import FleetConfig, LlmConfig
from headway.domains.fleet.cores_station import CoresStation
from headway.domains.fleet.declare import LLM, FleetStage
from headway.domains.fleet.llm_station import LlmStation
from headway.domains.fleet.times import fleet_stage
from headway.errors import PlanError
from headway.fleet.llm_slo import SloClass
from headway.plan.config import StageContext
from headway.plan.difference import current_plan
from headway.plan.plan import Plan
from headway.profile import Profile
from headway.spec.model import Spec
from headway.spec.units import duration_text


def deployed(spec: Spec, profile: Profile | None = None) -> Plan:
    """Return the plan of what runs: what `current:` says, else the engines that a lone fleet names as upstreams.

    Of these each has the first of every choice that the spec leaves. Raises PlanError where neither is said.
    """
    stages = list(spec.stages.items())
    if spec.current is None and len(stages) == 1:
        ((name, stage),) = stages
        if isinstance(stage, FleetStage) and stage.servers == LLM and stage.upstreams:
            return Plan(spec, profile or Profile(()), {name: _first(spec, stage)})
    if spec.current is None:
        raise PlanError(
            f"spec {spec.name!r} does not say what runs: give it current:, or a fleet of engines upstreams:, or make a "
            "plan with headway plan"
        )
    return current_plan(spec, profile)


def _first(spec: Spec, stage: FleetStage) -> LlmConfig:
    running = stage.most_running[0]
    budgets = [budget for budget in stage.token_budget if budget >= running]
    return LlmConfig(
        next(iter(stage.hardware_names or spec.supply)),
        len(stage.upstreams),
        stage.tensor_parallel[0],
        budgets[0] if budgets else max(stage.token_budget),
        running if budgets else min(stage.most_running),
        stage.routings[0],
        stage.order[0],
        stage.admission[0],
        stage.max_wait_s,
        stage.batching[0],
        stage.prefill_engines[0],
    )


def contest_of(plan: Plan) -> Contest:
    """Return a plan's only stage, a fleet, as `compare` wants it. Raises PlanError where it is none.

    Goodput counts by the declared classes; without any it is the plan's promise that has to be kept.
    """
    stages = list(plan.spec.stages.items())
    if len(stages) > 1 or not isinstance(stages[0][1], FleetStage):
        names = ", ".join(f"{name} ({stage.kind})" for name, stage in stages)
        raise PlanError(f"compare: policies are those of a fleet that stands alone; the plan's stages are {names}")
    ((name, stage),) = stages
    context = StageContext(name, stage, plan.spec, plan.profile)
    config = plan.stages[name]
    made = station(context, cast(FleetConfig, config), sampled=True)
    present = {axis: str(value) for axis, value in config.to_dict().items()}
    whole = (SloClass("all", e2e_s=plan.spec.slo.latency_s),)
    if isinstance(made, LlmStation):
        axes = ("routing", "order", "admission")
        return LlmContest(made, {axis: present[axis] for axis in axes}, made.classes or whole)
    assert isinstance(made, CoresStation)
    quanta = {NEVER: math.inf} | {duration_text(each): each for each in fleet_stage(context).quantum_s or ()}
    quantum_s = made.setup.quantum_s
    now = NEVER if quantum_s == math.inf else duration_text(quantum_s)
    chosen = {"routing": present["routing"], "queues": present["queues"], "quantum": now}
    return CoresContest(made, chosen, made.classes or whole, quanta | {now: quantum_s})
