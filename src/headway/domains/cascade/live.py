"""The server's station of a gear plan: a worker process for every model on every device that holds it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headway.cascade import ValidationTable
from headway.domains.cascade.declare import CascadeStage
from headway.domains.cascade.family import cascade_stage, planned_table
from headway.domains.cascade.gears import GearPlan
from headway.domains.cascade.live_answers import ABOUT, ANSWER, Rehearsal
from headway.domains.cascade.live_check import SHARE, Checks
from headway.domains.cascade.live_devices import Timeouts
from headway.domains.cascade.live_drift import Drift
from headway.domains.cascade.live_station import CascadeLive
from headway.domains.cascade.wrapped import wrapped
from headway.domains.pipeline.declare import ReplicaConfig
from headway.domains.pipeline.live import batch_timeout_s
from headway.errors import PlanError, nearest
from headway.plan.config import StageContext
from headway.serve.batcher import FIRST_BATCH_TIMEOUT_S
from headway.serve.model_ref import HardwareView, ModelRef, sleeping
from headway.serve.replica import MakeStarter, StartWorker, worker_starter

_NUMBERED = re.compile(r"^(.*:)(\d+)$")


def live_station(
    context: StageContext,
    plan: GearPlan,
    folder: str = ".",
    starter: MakeStarter = worker_starter,
    seed: int = 0,
    check_share: float = SHARE,
) -> CascadeLive:
    """Return the station of a gear plan; models' files are looked up in `folder`, workers come from `starter`.

    A family without models is rehearsed: its workers sleep for times drawn from the profile, and what they say is that
    of validation samples, in the order in which the simulator has them under `seed`. Raises SpecError when a model is
    missing, PlanError for a family that has some models only, or a table that is not the one of the plan.
    """
    stage = cascade_stage(context)
    rehearsed = _is_rehearsed(context.name, stage, plan)
    table = _table(context.name, stage, plan, needed=rehearsed)
    starters = _starters(context, stage, plan, folder, starter, rehearsed)
    # A rehearsal knows no answers to compare where its table has scores alone.
    comparable = not rehearsed or (table is not None and table.predicted is not None)
    return CascadeLive(
        context.name,
        plan,
        [
            {model: starters[name, number] for model, name in enumerate(plan.models) if name in group.models}
            for number, group in enumerate(group for group in plan.placement for _ in range(group.devices))
        ],
        [_timeouts(context, plan.hardware, name, size) for name, size in plan.max_batch_size],
        Drift(table, plan.models, context.name),
        Checks(len(plan.models) - 1, check_share, seed) if comparable and check_share > 0 else None,
        Rehearsal(table, plan.models, context.name, seed) if rehearsed and table is not None else None,
    )


def _is_rehearsed(name: str, stage: CascadeStage, plan: GearPlan) -> bool:
    for model in plan.models:
        if model not in stage.models:
            raise PlanError(f"stages.{name}: {model!r} is not a declared model{nearest(model, stage.models)}")
    without = [model for model in plan.models if stage.models[model].model is None]
    if without and len(without) < len(plan.models):
        raise PlanError(
            f"stages.{name}.models.{without[0]}: has no model where others have one; give every model of the family "
            "one to serve it, or none to rehearse it"
        )
    return bool(without)


def _table(name: str, stage: CascadeStage, plan: GearPlan, needed: bool) -> ValidationTable | None:
    """The validation table; served models do without, where it is not at hand, and are then not watched for drift."""
    if not needed and not Path(stage.table).is_file():
        return None
    return planned_table(stage.table, plan.table, f"stages.{name}")


def _starters(
    context: StageContext,
    stage: CascadeStage,
    plan: GearPlan,
    folder: str,
    starter: MakeStarter,
    rehearsed: bool,
) -> dict[tuple[str, int], StartWorker]:
    """What starts a model on a device, by the device's number; one for all devices that look alike to the model."""
    supply = context.spec.supply[plan.hardware]
    children = tuple(edge.child for edge in context.spec.graph.children[context.name])
    made: dict[tuple[str, HardwareView], StartWorker] = {}
    out: dict[tuple[str, int], StartWorker] = {}
    for number in range(plan.devices):
        view = HardwareView(plan.hardware, supply.threads, device_of(supply.device, number))
        for name, size in plan.max_batch_size:
            if (name, view) not in made:
                ref, options = _worker(context, stage, plan.hardware, name, size, folder, rendered=not children)
                made[name, view] = starter(
                    ref, view, name=f"{context.name}.{name}", options=options,
                    children=() if rehearsed else (ABOUT, ANSWER),
                )  # fmt: skip
            out[name, number] = made[name, view]
    return out


def _worker(
    context: StageContext, stage: CascadeStage, hardware: str, name: str, size: int, folder: str, rendered: bool
) -> tuple[ModelRef, Mapping[str, Any]]:
    """What a worker loads for a model, and with which options."""
    if stage.models[name].model is None:
        # What serving adds comes by itself.
        service = context.profile.service(context.name, name, hardware, overhead=False)
        return sleeping(service, size, sampled=True), {}
    return wrapped(stage, name, folder, f"stages.{context.name}", rendered=rendered)


def _timeouts(context: StageContext, hardware: str, name: str, size: int) -> Timeouts:
    as_replica = ReplicaConfig(hardware, max_batch_size=size, variant=name)
    return Timeouts(FIRST_BATCH_TIMEOUT_S, batch_timeout_s(context, as_replica))


def device_of(first: str | None, number: int) -> str | None:
    """Return what a device is called for a model: those of one hardware are numbered on from the declared one.

    >>> device_of("cuda:0", 2), device_of("cpu", 2)
    ('cuda:2', 'cpu')
    """
    match = _NUMBERED.match(first) if first is not None else None
    return f"{match[1]}{int(match[2]) + number}" if match else first
