"""Plans and virtual-time runs of the live engine that its tests share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from headway.domains.pipeline.declare import ReplicaConfig
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.serve.batcher import BatchStation
from headway.serve.engine import Answer, Engine, Limits
from headway.serve.replica import StartWorker
from headway.serve.wire import Input, Payload, Result
from headway.spec.model import Spec
from headway.testing.live import Behaviour, echo, fake_starter, run_virtual

SERVICE_S = 0.01


def text(value: str) -> Payload:
    return Payload("text", value.encode())


def make_plan(stages: dict[str, dict[str, Any]], pool: int | None = None, **config: Any) -> Plan:
    hardware: dict[str, Any] = {"price": "$1/h", **({} if pool is None else {"pool": "host", "threads": 2})}
    pools = {} if pool is None else {"host": {"cores": pool}}
    spec = Spec.from_dict({"slo": {"latency": "1s"}, "supply": {"cpu": hardware}, "pools": pools, "stages": stages})
    rows = [Row(name, "cpu", size, SERVICE_S) for name in stages for size in (1, 8)]
    return Plan(spec, Profile.from_rows(rows), {name: ReplicaConfig("cpu", **config) for name in stages})


def upper(inputs: list[Input]) -> list[Result]:
    return [Result(value=text(item.data.decode().upper())) for item in inputs if isinstance(item, Payload)]


def run(
    plan: Plan,
    scenario: Callable[[Engine], Coroutine[Any, Any, Any]],
    behaviours: dict[str, Behaviour] | None = None,
    start: StartWorker | None = None,
    limits: Limits | None = None,
    **options: Any,
) -> Any:
    """Start an engine with fake workers in virtual time, play the scenario, stop it; return what the scenario does."""

    async def main() -> Any:
        stations = {}
        for name in plan.spec.graph.order:
            fields = plan.stages[name].to_dict()
            supply = plan.spec.supply["cpu"]
            stations[name] = BatchStation(
                name,
                start or fake_starter(lambda n: SERVICE_S, (behaviours or {}).get(name, echo)),
                replicas=fields["replicas"],
                max_batch_size=fields["max_batch_size"],
                max_wait_s=fields["max_wait_s"],
                threads=supply.threads,
                pool=supply.pool,
                **options,
            )
        engine = Engine(plan, stations=stations, clock=asyncio.get_running_loop().time, limits=limits)
        await engine.start()
        try:
            return await scenario(engine)
        finally:
            await engine.drain(1e6)
            await engine.stop()

    return run_virtual(main)


def values(answer: Answer) -> list[tuple[str, str]]:
    return [(stage, payload.data.decode()) for stage, payload in answer.results]


async def ask(engine: Engine, value: str = "x", timeout_s: float | None = None) -> Answer:
    return await engine.infer(text(value), timeout_s)
