"""Live stations of cascades with fake workers, in engines in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from headway.cascade import Cascade, Step, ValidationTable
from headway.domains.cascade.admit import Work
from headway.domains.cascade.gears import Gear, GearPlan, Group
from headway.domains.cascade.live_answers import Rehearsal
from headway.domains.cascade.live_devices import Layout, Timeouts
from headway.domains.cascade.live_drift import Drift
from headway.domains.cascade.live_station import CascadeLive
from headway.domains.cascade.station import CascadeStation
from headway.errors import ServeError
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.serve.engine import Engine, Limits
from headway.serve.replica import StartWorker
from headway.serve.station import LiveStation
from headway.spec.model import Spec
from headway.testing.live import FakeWorker, fake_starter, run_virtual

SLO_S = 1.0


class Family:
    """Makes live stations of one family; workers of a model are alike, and take the times that the station has.

    `start_s` is how long a start takes; `fails(model)` says whether it comes to nothing. `workers` are all that were
    started, `of` the model of each.
    """

    def __init__(self, station: CascadeStation, seed: int = 1, start_s: float = 0.0) -> None:
        self.station, self.seed, self.start_s = station, seed, start_s
        self.fails: Callable[[str], bool] = lambda model: False
        self.workers: list[FakeWorker] = []
        self._starts = {name: self._start(name) for name in station.plan.models}

    def live(self, plan: GearPlan | None = None, batch_timeout_s: float = 1e9, **options: Any) -> CascadeLive:
        """Return the live station of a plan."""
        station, plan = self.station, plan or self.station.plan
        models = station.plan.models
        devices = [
            {models.index(name): self._starts[name] for name in group.models}
            for group in plan.placement
            for _ in range(group.devices)
        ]
        mean_s = {name: times.mean(axis=1) for name, times in station.service_s.items()}
        return CascadeLive(
            station.name,
            plan,
            models,
            Layout(devices, plan.hardware, [Timeouts(1e9, batch_timeout_s)] * len(models)),
            Drift(station.table, models, station.name),
            rehearsal=Rehearsal(station.table, models, station.name, self.seed),
            asked=Work.of(plan, station.table, mean_s, models),
            **options,
        )

    def __call__(self, plan: Plan, name: str) -> LiveStation:
        config = plan.stages[name]
        assert isinstance(config, GearPlan)
        return self.live(config)

    async def _before(self, name: str) -> None:
        await asyncio.sleep(self.start_s)
        if self.fails(name):
            raise ServeError(f"worker of {name}: no such weights")

    def _start(self, name: str) -> StartWorker:
        times = self.station.service_s[name]
        return fake_starter(lambda n: float(times[n, 0]), started=self.workers, before=lambda: self._before(name))

    @property
    def alive(self) -> int:
        """How many workers live."""
        return sum(not worker._dead.is_set() for worker in self.workers)


def plan_of(station: CascadeStation, folder: Path, plan: GearPlan | None = None) -> Plan:
    """Return a plan of one stage with the station's gears, or those of another plan for it."""
    path = folder / "validation.csv"
    station.table.write(path)
    models = station.plan.models
    stage = {"kind": "cascade", "models": {name: {} for name in models}, "table": str(path), "max_rate": "100/s"}
    supply = {"cpu": {"price": "$1/h"}, "gpu": {"price": "$5/h"}}
    spec = Spec.from_dict({"slo": {"latency": f"{SLO_S:g}s"}, "supply": supply, "stages": {station.name: stage}})
    sizes = dict(station.plan.max_batch_size)
    rows = [
        Row(station.name, hardware, n, float(station.service_s[name][n].mean()), variant=name)
        for hardware in supply for name in models for n in range(1, sizes[name] + 1)
    ]  # fmt: skip
    return Plan(spec, Profile.from_rows(rows), {station.name: plan or station.plan})


def scenario(
    family: Family,
    folder: Path,
    play: Callable[[Engine, CascadeLive], Coroutine[Any, Any, Any]],
    *,
    limits: Limits | None = None,
    **options: Any,
) -> Any:
    """Start an engine with the live station in virtual time, play the scenario with it, and stop it."""

    async def main() -> Any:
        ours = family.live(**options)
        engine = Engine(
            plan_of(family.station, folder, options.get("plan")),
            stations={family.station.name: ours},
            clock=asyncio.get_running_loop().time,
            limits=limits or Limits(queue_limit=0, keep_promise=False),
        )
        engine.swaps.make = family
        await engine.start()
        try:
            return await play(engine, ours)
        finally:
            await engine.drain(1e6)
            await engine.stop()

    return run_virtual(main)


def pair(alpha_per_s: float = 8.0, devices: int = 2) -> CascadeStation:
    """A dear gear (large alone), a cheap one (small, large for what is doubtful), and small alone for a lost device."""
    right = np.arange(200) % 4 > 0
    labels = np.arange(200) % 2
    table = ValidationTable(
        labels,
        {"small": np.where(right, labels, 1 - labels), "large": labels},
        {"small": np.where(right, 0.9, 0.1), "large": np.full(200, 0.95)},
    )
    small, large = Cascade((Step("small"),)), Cascade((Step("large"),))
    both = Cascade((Step("small", threshold=0.5), Step("large")))
    plan = GearPlan(
        "cpu",
        (Group(("small", "large"), devices),),
        (("small", 4), ("large", 4)),
        (Gear(large, 20.0, (1,)), Gear(both, 200.0, (1, 1))),
        (Gear(both, 40.0, (1, 1)), Gear(small, 200.0, (1,))),
        alpha_per_s=alpha_per_s,
    )
    times = {"small": 0.001, "large": 0.02}
    return CascadeStation("s", plan, {n: np.full((5, 1), s) for n, s in times.items()}, table)


def with_gears(plan: GearPlan, *gears: Gear) -> GearPlan:
    """Return the plan with other gears, and none for a lost device."""
    return replace(plan, gears=gears, gears_less_one=())
