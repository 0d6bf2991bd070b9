"""The server's station of a gear plan: a worker process for every model on every device that holds it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.cascade import ValidationTable
from headway.domains.cascade.admit import Work, work_of
from headway.domains.cascade.declare import SIZE, CascadeStage
from headway.domains.cascade.family import cascade_stage, planned_table
from headway.domains.cascade.gears import GearPlan
from headway.domains.cascade.live_answers import ABOUT, ANSWER, Rehearsal
from headway.domains.cascade.live_check import SHARE, Checks
from headway.domains.cascade.live_devices import Layout, Timeouts
from headway.domains.cascade.live_drift import Drift
from headway.domains.cascade.live_flow import Ask
from headway.domains.cascade.live_route import Router, hardness_worker, size_bytes
from headway.domains.cascade.live_station import CascadeLive
from headway.domains.cascade.wrapped import wrapped
from headway.domains.pipeline.declare import ReplicaConfig
from headway.domains.pipeline.live import batch_timeout_s
from headway.errors import PlanError, nearest
from headway.plan.config import StageContext
from headway.serve.batcher import FIRST_BATCH_TIMEOUT_S
from headway.serve.model_ref import HardwareView, ModelRef, resolve, sleeping
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
    models = tuple(stage.models)
    # A rehearsal knows no answers to compare where its table has scores alone.
    comparable = not rehearsed or (table is not None and table.predicted is not None)
    make = _Make(context, stage, plan, folder, starter, rehearsed)
    return CascadeLive(
        context.name,
        plan,
        models,
        make.layout(),
        Drift(table, models, context.name),
        checks=Checks(check_share, seed) if comparable and check_share > 0 else None,
        rehearsal=Rehearsal(table, models, context.name, seed) if rehearsed and table is not None else None,
        hardness=size_bytes if stage.hardness == SIZE else None,
        router=None if rehearsed else make.router(),
        asked=None if table is None else _asked(context, plan, table, models),
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
    table = planned_table(stage.table, plan.table, f"stages.{name}")
    for model in stage.models:
        table.known(model)
    return table


def _asked(context: StageContext, plan: GearPlan, table: ValidationTable, models: tuple[str, ...]) -> Work:
    return work_of(plan, table, context.profile, context.name, models)


@dataclass(frozen=True)
class _Make:
    """Makes what starts workers; one for all devices that look alike to a model."""

    context: StageContext
    stage: CascadeStage
    plan: GearPlan
    folder: str
    starter: MakeStarter
    rehearsed: bool

    def layout(self) -> Layout:
        """Return which models each device holds, by what starts them."""
        plan, models = self.plan, tuple(self.stage.models)
        sizes = dict(plan.max_batch_size)
        made: dict[tuple[str, HardwareView], StartWorker] = {}
        devices: list[dict[int, StartWorker]] = []
        for group in plan.placement:
            for _ in range(group.devices):
                view = self._view(len(devices))
                for name in group.models:
                    if (name, view) not in made:
                        made[name, view] = self._start(name, view, sizes[name])
                devices.append({models.index(name): made[name, view] for name in group.models})
        timeouts = [_timeouts(self.context, plan.hardware, name, sizes.get(name, 1)) for name in models]
        return Layout(devices, plan.hardware, timeouts)

    def router(self) -> Router[Ask] | None:
        """Return what asks a worker how hard items are, where that takes a function."""
        written = self.stage.hardness
        if written is None or written == SIZE:
            return None
        ref, options = hardness_worker(resolve(written, self.folder, f"stages.{self.context.name}.hardness"))
        name = self.context.name
        start = self.starter(ref, self._view(0), name=f"{name}.hardness", options=options)
        return Router(name, start, lambda ask: ask.work.payload)

    def _view(self, number: int) -> HardwareView:
        supply = self.context.spec.supply[self.plan.hardware]
        return HardwareView(self.plan.hardware, supply.threads, device_of(supply.device, number))

    def _start(self, name: str, view: HardwareView, size: int) -> StartWorker:
        ref, options = self._worker(name, size)
        children = () if self.rehearsed else (ABOUT, ANSWER)
        return self.starter(ref, view, name=f"{self.context.name}.{name}", options=options, children=children)

    def _worker(self, name: str, size: int) -> tuple[ModelRef, Mapping[str, Any]]:
        """What a worker loads for a model, and with which options."""
        context = self.context
        if self.rehearsed:
            # What serving adds comes by itself.
            service = context.profile.service(context.name, name, self.plan.hardware, overhead=False)
            return sleeping(service, size, sampled=True), {}
        rendered = not context.spec.graph.children[context.name]
        return wrapped(self.stage, name, self.folder, f"stages.{context.name}", rendered=rendered)


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
