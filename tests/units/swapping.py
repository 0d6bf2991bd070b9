"""Engines in virtual time whose plan can be changed, for the tests of changing it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from headway.domains.pipeline.declare import ReplicaConfig
from headway.errors import ServeError
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.serve.batcher import BatchStation
from headway.serve.engine import Engine, Limits
from headway.serve.replica import StartWorker, WorkerLike
from headway.serve.station import LiveStation
from headway.spec.model import Spec
from headway.testing.live import Behaviour, FakeWorker, echo, run_virtual

SERVICE_S = {"cpu": 0.02, "gpu": 0.005}


def make_plan(stages: dict[str, dict[str, Any]], pool: int | None = None, **configs: ReplicaConfig) -> Plan:
    cpu: dict[str, Any] = {"price": "$1/h", **({} if pool is None else {"pool": "host"})}
    document = {
        "slo": {"latency": "200ms"},
        "supply": {"cpu": cpu, "gpu": {"price": "$5/h", "max": 6}},
        "pools": {} if pool is None else {"host": {"cores": pool}},
        "stages": stages,
    }
    rows = [Row(n, h, size, s) for n in stages for h, s in SERVICE_S.items() for size in (1, 8)]
    return Plan(
        Spec.from_dict(document),
        Profile.from_rows(rows),
        {name: configs.get(name, ReplicaConfig("cpu")) for name in stages},
    )


def but(plan: Plan, **changes: Any) -> Plan:
    """Return the plan with fields of every stage, or of those named `stage__field`, changed."""
    stages = {}
    for name, config in plan.stages.items():
        assert isinstance(config, ReplicaConfig)
        own = {k.partition("__")[2] or k: v for k, v in changes.items() if "__" not in k or k.startswith(f"{name}__")}
        stages[name] = replace(config, **own)
    return replace(plan, stages=stages)


class Fakes:
    """Makes stations with fake workers; those of one kind of worker are alike, as with real ones.

    `start_s(stage)` is how long a start takes; `fails(stage)` says whether it comes to nothing.
    """

    def __init__(self, behaviour: Behaviour = echo) -> None:
        self.workers: list[FakeWorker] = []
        self.start_s: Callable[[str], float] = lambda stage: 0.0
        self.fails: Callable[[str], bool] = lambda stage: False
        self.service_s: Callable[[str, str], float] = lambda stage, hardware: SERVICE_S[hardware]
        self._behaviour = behaviour
        self._starters: dict[tuple[str, ...], StartWorker] = {}
        self._order = itertools.count()

    def __call__(self, plan: Plan, name: str) -> LiveStation:
        config = plan.stages[name]
        assert isinstance(config, ReplicaConfig)
        supply = plan.spec.supply[config.hardware]
        return BatchStation(
            name,
            self._starter(name, config.hardware, config.variant),
            replicas=config.replicas,
            max_batch_size=config.max_batch_size,
            max_wait_s=config.max_wait_s,
            threads=supply.threads,
            pool=supply.pool,
            hardware=config.hardware,
        )

    def _starter(self, name: str, hardware: str, variant: str) -> StartWorker:
        async def start() -> WorkerLike:
            await asyncio.sleep(self.start_s(name))
            if self.fails(name):
                raise ServeError(f"worker of {name}: no such weights")
            worker = FakeWorker(lambda n: self.service_s(name, hardware), self._behaviour, self._order)
            self.workers.append(worker)
            return worker

        return self._starters.setdefault((name, hardware, variant), start)


def play(plan: Plan, scenario: Callable[[Engine, Fakes], Coroutine[Any, Any, Any]], **limits: Any) -> Any:
    """Start an engine of fakes in virtual time, play the scenario, stop it; return what the scenario does."""

    async def main() -> Any:
        fakes = Fakes()
        engine = Engine(
            plan,
            stations={name: fakes(plan, name) for name in plan.spec.graph.order},
            clock=asyncio.get_running_loop().time,
            limits=Limits(**limits),
        )
        engine.swaps.make = fakes
        await engine.start()
        try:
            return await scenario(engine, fakes)
        finally:
            await engine.drain(1e6)
            await engine.stop()

    return run_virtual(main)


def assert_whole(engine: Engine) -> None:
    """Assert that every stage runs as the live plan says, none of them as another one."""
    for name, config in engine.plan.stages.items():
        station = engine.stations[name]
        assert isinstance(station, BatchStation)
        assert isinstance(config, ReplicaConfig)
        crew = station._crew
        found = ReplicaConfig(crew.way.hardware, len(crew.replicas), station.max_batch_size, config.variant)
        assert found == replace(config, max_wait_s=0.0), name
        assert station.max_wait_s == config.max_wait_s
        assert {replica.hardware for replica in crew.replicas} == {config.hardware}
    assert engine.plan_hash == engine.plan.hash
