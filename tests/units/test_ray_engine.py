"""The engine on Ray beside a Ray in virtual time: what it asks for, and that nothing is lost when replicas are."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.units.fake_ray import FakeRay

from headway.domains.pipeline.declare import ReplicaConfig
from headway.errors import ServeError, WorkerTimeout
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.serve.engine import Engine, Limits
from headway.serve.gate import Rejected
from headway.serve.ray_engine import engine as ray_engine
from headway.serve.ray_engine.engine import RayEngine
from headway.serve.ray_engine.runtime import Runtime
from headway.serve.run import LiveServer, ServeOptions
from headway.serve.wire import Payload
from headway.spec.model import Spec
from headway.testing.engine import check_engine
from headway.testing.live import fake_stations, run_virtual


def one_stage(replicas: int = 2, max_batch_size: int = 1, **supply: Any) -> Plan:
    document = {"slo": {"latency": "1s"}, "supply": {"cpu": {"price": "$1/h", **supply}}, "stages": {"only": {}}}
    rows = [Row("only", "cpu", size, 0.01) for size in (1, 4)]
    config = ReplicaConfig("cpu", replicas=replicas, max_batch_size=max_batch_size)
    return Plan(Spec.from_dict(document), Profile.from_rows(rows), {"only": config})


LET_ALL_IN = Limits(keep_promise=False, timeout_s=1e4)


def make_engine(plan: Plan, ray: FakeRay, limits: Limits = LET_ALL_IN) -> tuple[Engine, RayEngine]:
    made = RayEngine(ray, 0.5)
    stations = {name: made.station(plan, name) for name in plan.spec.graph.order}
    clock = asyncio.get_running_loop().time
    engine = Engine(plan, stations=stations, clock=clock, limits=limits)
    engine.swaps.make = made.station
    return engine, made


@asynccontextmanager
async def running(plan: Plan, ray: FakeRay, limits: Limits = LET_ALL_IN) -> Any:
    engine, made = make_engine(plan, ray, limits)
    try:
        await engine.start()
        yield engine
    finally:
        await engine.stop()
        await made.stop()


def run(plan: Plan, ray: FakeRay, use: Callable[[Engine], Awaitable[Any]], limits: Limits = LET_ALL_IN) -> Any:
    async def main() -> Any:
        async with running(plan, ray, limits) as engine:
            return await use(engine)

    return run_virtual(main)


def text(number: int) -> Payload:
    return Payload("text", str(number).encode())


class Ending(Engine):
    """An engine that ends its Ray with itself, as the server does."""

    made: RayEngine

    async def stop(self, grace_s: float = 5.0) -> None:
        await super().stop(grace_s)
        await self.made.stop()


def test_an_engine_on_ray_conforms() -> None:
    def make() -> Engine:
        plan = one_stage(max_batch_size=4)
        made = RayEngine(FakeRay(), 0.5)
        engine = Ending(
            plan,
            stations={"only": made.station(plan, "only")},
            clock=asyncio.get_running_loop().time,
            limits=Limits(keep_promise=False),
        )
        engine.made = made
        return engine

    check_engine(make)


def test_a_stage_is_one_deployment_with_the_replicas_of_the_plan() -> None:
    ray = FakeRay()

    async def use(engine: Engine) -> None:
        deployment = ray.of("only")
        assert (deployment.target, deployment.order.cpus) == (3, 1.0)
        assert deployment.order.environment["OMP_NUM_THREADS"] == "2"
        stats = engine.stats()["stages"]["only"]
        assert sorted(stats["pids"]) == sorted(replica.pid for replica in deployment.listed)
        assert stats["replicas"] == {"ready": 3, "starting": 0, "draining": 0}

    run(one_stage(3, threads=2), ray, use)
    assert ray.asked == [("only", 3)]
    assert ray.ended


def test_batches_are_formed_by_the_plan_and_never_outnumber_the_replicas() -> None:
    ray = FakeRay()

    async def use(engine: Engine) -> None:
        answers = await asyncio.gather(*(engine.infer(text(i)) for i in range(22)))
        assert [answer.results for answer in answers] == [(("only", text(i)),) for i in range(22)]
        deployment = ray.of("only")
        sizes = [size for replica in deployment.listed for size in replica.batches]
        assert (sum(sizes), max(sizes), deployment.most_at_once) == (22, 4, 2)

    run(one_stage(2, max_batch_size=4), ray, use)


@pytest.mark.parametrize("keep_promise", [True, False])
def test_who_would_come_too_late_is_refused_as_by_the_embedded_engine(keep_promise: bool) -> None:
    plan = one_stage(2, max_batch_size=4)

    async def let_in(engine: Engine) -> list[str]:
        """Ask for far more than the promise leaves time for, at one instant; return why each is not let in, if so."""
        found = []
        for number in range(1200):
            try:
                engine.submit(text(number), lambda answer: None)
                found.append("")
            except Rejected as refused:
                found.append(str(refused))
        await engine.drain(100.0)
        return found

    limits = Limits(keep_promise=keep_promise, queue_limit=0)

    async def embedded() -> list[str]:
        engine = Engine(plan, stations=fake_stations(plan), clock=asyncio.get_running_loop().time, limits=limits)
        await engine.start()
        try:
            return await let_in(engine)
        finally:
            await engine.stop()

    on_ray: list[str] = run(plan, FakeRay(service_s=0.01), let_in, limits)
    assert on_ray == run_virtual(embedded)
    late = "there is too much to do to answer within 1 s; try again later"
    assert set(on_ray) == ({"", late} if keep_promise else {""})


def test_a_count_is_raised_at_once_and_lowered_when_it_stays_low() -> None:
    ray = FakeRay()

    async def use(engine: Engine) -> None:
        engine.set_replicas("only", 4)
        await asyncio.sleep(1.0)
        assert len(engine.stats()["stages"]["only"]["pids"]) == 4
        engine.set_replicas("only", 1)
        engine.set_replicas("only", 2)
        await asyncio.sleep(5.0)
        assert engine.stats()["stages"]["only"]["replicas"] == {"ready": 2, "starting": 0, "draining": 0}

    run(one_stage(2), ray, use)
    assert ray.asked == [("only", 2), ("only", 4), ("only", 2)]


def test_a_replica_that_dies_is_replaced_by_ray_without_asking_for_another_number() -> None:
    ray = FakeRay()

    async def use(engine: Engine) -> None:
        before = engine.stats()["stages"]["only"]["pids"]
        ray.kill(ray.of("only").listed[0])
        await asyncio.sleep(5.0)
        stats = engine.stats()["stages"]["only"]
        assert len(set(stats["pids"]) & set(before)) == 1
        assert (len(stats["pids"]), stats["restarts"]) == (2, 1)

    run(one_stage(2), ray, use)
    assert ray.asked == [("only", 2)]


Step = tuple[str, int, float]
steps = st.lists(
    st.tuples(st.sampled_from(["kill", "scale", "ask"]), st.integers(0, 4), st.floats(0.0, 1.5)), max_size=12
)


@settings(max_examples=60)
@given(steps, st.booleans())
def test_whatever_dies_and_however_it_is_scaled_every_request_is_answered_once(
    script: list[Step], names_the_dead: bool
) -> None:
    ray = FakeRay()
    ray.names_the_dead = names_the_dead

    async def use(engine: Engine) -> tuple[int, list[bytes]]:
        asked, kills, ended = 0, 0, list[bytes]()
        for act, n, pause_s in script:
            if act == "kill" and kills < 2:  # an item whose replica died three times is given up, and rightly
                living = [r for r in ray.of("only").listed if r.running and not r.dead.is_set()]
                for replica in living[:1]:
                    kills += 1
                    ray.kill(replica)
            elif act == "scale":
                engine.set_replicas("only", n + 1)
            else:
                for _ in range(5 * n):
                    # Refused is not let in: all replicas died before they had proved themselves.
                    with contextlib.suppress(Rejected):
                        engine.submit(text(asked), lambda answer: ended.append(answer.results[0][1].data))
                        asked += 1
            await asyncio.sleep(pause_s)
        await engine.drain(100.0)
        last = [n + 1 for act, n, _ in script if act == "scale"][-1:] or [2]
        await asyncio.sleep(10.0)
        assert engine.stats()["stages"]["only"]["replicas"] == {"ready": last[0], "starting": 0, "draining": 0}
        assert ray.of("only").target == last[0]
        return asked, ended

    asked, ended = run(one_stage(2, max_batch_size=4), ray, use)
    assert Counter(ended) == Counter(str(i).encode() for i in range(asked))


def test_a_replica_that_hangs_is_lost_after_its_time_and_another_comes() -> None:
    async def main() -> None:
        ray = FakeRay(service_s=100.0)
        engine, made = make_engine(one_stage(1), ray)
        await engine.start()
        worker = engine.stations["only"]._crew.replicas[0].worker  # type: ignore[attr-defined]
        with pytest.raises(WorkerTimeout, match="took longer than 2 s for a batch and was killed"):
            await worker.predict([text(1)], timeout_s=2.0)
        await asyncio.sleep(5.0)
        assert engine.ready
        assert engine.stats()["stages"]["only"]["pids"] != [worker.pid]
        await engine.stop()
        await made.stop()

    run_virtual(main)


def test_another_way_of_running_a_stage_is_another_deployment_until_it_is_kept() -> None:
    ray = FakeRay()
    document = {
        "slo": {"latency": "1s"},
        "supply": {"cpu": {"price": "$1/h"}, "fast": {"price": "$2/h", "threads": 2}},
        "stages": {"only": {}},
    }
    profile = Profile.from_rows([Row("only", hardware, 1, 0.01) for hardware in ("cpu", "fast")])
    spec = Spec.from_dict(document)
    slow, fast = (Plan(spec, profile, {"only": ReplicaConfig(name, replicas=2)}) for name in ("cpu", "fast"))

    async def use(engine: Engine) -> None:
        answers = [asyncio.ensure_future(engine.infer(text(i))) for i in range(40)]
        await engine.swaps.swap(fast)
        assert len(ray.deployments) == 2
        answers += [asyncio.ensure_future(engine.infer(text(i))) for i in range(40)]
        assert {answer.status for answer in await asyncio.gather(*answers)} == {"answered"}
        await asyncio.sleep(120.0)
        assert ray.of("only").order.environment["OMP_NUM_THREADS"] == "2"
        assert set(engine.stats()["stages"]["only"]["pids"]) == {r.pid for r in ray.of("only").listed}

    run(slow, ray, use)
    assert ray.asked == [("only", 2), ("only", 2), ("only", 0)]


def test_a_model_that_cannot_be_set_up_is_told_in_its_own_words() -> None:
    async def use(engine: Engine) -> None:
        raise AssertionError("it must not start")

    with pytest.raises(ServeError, match=r"worker of only: the model cannot be set up: ValueError: no such weights$"):
        run(one_stage(1), FakeRay(broken="ValueError: no such weights"), use)


def test_a_replica_that_never_comes_is_waited_for_no_longer_than_its_start_may_take() -> None:
    async def use(engine: Engine) -> None:
        raise AssertionError("it must not start")

    with pytest.raises(ServeError, match="took longer than 120 s to be ready"):
        run(one_stage(1), FakeRay(startup_s=1e9), use)


def test_a_kind_that_starts_no_workers_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "load_domain", lambda kind: object())
    with pytest.raises(ServeError, match=r"stages\.only: kind 'pipeline' cannot be run on Ray"):
        RayEngine(FakeRay(), 0.5).station(one_stage(), "only")


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ServeError, match=r"pip install 'headway\[ray\]'"):
        Runtime()


def test_an_engine_that_is_not_known_is_named_with_those_that_are() -> None:
    with pytest.raises(ServeError, match=r"engine 'rya' is not known; did you mean 'ray'\?; valid: embedded, ray"):
        LiveServer(one_stage(), ServeOptions(engine="rya"))


STUCK = """
import asyncio, sys, threading
from headway.plan.plan import Plan
from headway.serve.ray_engine import runtime
from headway.serve.run import serve

class Stuck(runtime.Runtime):
    def _begin(self):
        print("starting", flush=True, file=sys.__stdout__)
        threading.Event().wait()

runtime.check_installed = lambda: None
runtime.Runtime = Stuck
serve(Plan.read(sys.argv[1]), engine="ray")
"""


def test_a_second_signal_stops_a_server_whose_ray_never_comes(tmp_path: Path) -> None:
    models = tmp_path / "models.py"
    models.write_text("class Same:\n    def predict(self, batch):\n        return batch\n")
    plan = one_stage()
    spec = Spec.from_dict({**plan.spec.to_dict(), "stages": {"only": {"model": f"{models}:Same"}}})
    replace(plan, spec=spec).write(tmp_path / "plan.json")
    command = [sys.executable, "-c", STUCK, str(tmp_path / "plan.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "starting\n"
            server.terminate()
            with pytest.raises(subprocess.TimeoutExpired):
                server.wait(0.3)
            server.terminate()
            assert server.wait(10.0) == 128 + signal.SIGTERM
        finally:
            server.kill()
