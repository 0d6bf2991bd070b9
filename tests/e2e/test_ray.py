"""Plans served on a real Ray: one for all tests here, and one that a server starts and ends by itself.

The first is shared as long as one process runs the whole file, as `make test` has it (`--dist loadfile`).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.e2e.cascade_models import FAMILY
from tests.e2e.processes import descendants, listeners
from tests.e2e.ray_models import ON_RAY, named, paced, sleepers
from tests.e2e.serving import INFER, body, make_plan, outputs, wait_until
from tests.e2e.test_cascade_live import ask, context_of, gear_plan

from headway.cascade import Cascade, Step
from headway.domains.cascade.gears import Gear
from headway.errors import ServeError, WorkerTimeout
from headway.plan.plan import Plan
from headway.serve.ray_engine.runtime import FOLDER_PREFIX, local_ray
from headway.serve.replay import replay
from headway.serve.run import LiveServer, ServeOptions, running, running_in_thread
from headway.serve.wire import Payload
from headway.trace import Trace
from headway.tune.journal import Journal, read
from headway.tune.live import tune_live

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the `ray` extra"),
    # Ray's own warnings are Ray's to mend.
    pytest.mark.filterwarnings(r"ignore::Warning:ray\..*"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    path = tmp_path_factory.mktemp("models") / "models_on_ray.py"
    path.write_text(ON_RAY)
    return lambda name: f"{path}:{name}"


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with local_ray():
        yield


@contextlib.contextmanager
def on_ray(plan: Plan) -> Iterator[tuple[LiveServer, httpx.Client]]:
    with (
        running_in_thread(plan, ServeOptions(engine="ray")) as server,
        httpx.Client(base_url=server.url, timeout=60.0) as client,
    ):
        yield server, client


def pages(models: Callable[[str], str]) -> Plan:
    return make_plan(
        {
            "read": {"model": models("Read")},
            "word": {"after": "read", "model": models("Upper")},
            "number": {"after": "read", "model": models("Double")},
            "collect": {"after": ["word", "number"], "model": models("Collect")},
        }
    )


def test_answers_and_metrics_are_those_of_the_embedded_engine(ray: None, models: Callable[[str], str]) -> None:
    numbers = np.arange(60_000, dtype="<f4")
    head = json.dumps(
        {"inputs": [{"name": "x", "shape": [60_000], "datatype": "FP32", "parameters": {"binary_data_size": 240_000}}]}
    ).encode()

    def ask(client: httpx.Client) -> tuple[list[Any], dict[str, set[tuple[str, ...]]]]:
        texts = ["b 21 a 2", "", "bad", "7", "a b c 1 2 3"]
        with ThreadPoolExecutor(5) as threads:
            found = list(threads.map(lambda text: client.post(INFER, json=body(text)), texts))
        large = client.post(
            INFER, content=head + numbers.tobytes(), headers={"Inference-Header-Content-Length": str(len(head))}
        )
        answers = [(answer.status_code, answer.json()) for answer in [*found, large]]
        families = text_string_to_metric_families(client.get("/metrics").text)
        return answers, {
            family.name: {tuple(sorted(sample.labels.items())) for sample in family.samples} for family in families
        }

    plan = pages(models)
    with running_in_thread(plan) as server, httpx.Client(base_url=server.url, timeout=60.0) as client:
        embedded = ask(client)
    with on_ray(plan) as (_, client):
        answers, metrics = ask(client)
    assert answers == embedded[0]
    assert [status for status, _ in answers] == [200, 200, 500, 200, 200, 200]
    assert metrics == embedded[1]


def test_batches_and_replicas_follow_the_plan_and_its_changes_under_load(
    ray: None, models: Callable[[str], str]
) -> None:
    plan = make_plan({"sizes": {"model": models("Sizes")}}, max_batch_size=4, max_wait_s=0.01)
    stop = threading.Event()
    answered: list[tuple[int, int]] = []

    with on_ray(plan) as (server, client):

        def load() -> None:
            while not stop.is_set():
                size, pid = outputs(client.post(INFER, json=body("x")))["sizes"][0].split()
                answered.append((int(size), int(pid)))

        def replicas_are(count: int) -> bool:
            return wait_until(lambda: len({pid for _, pid in answered[-40:]}) == count, 60.0)

        with ThreadPoolExecutor(12) as threads:
            loads = [threads.submit(load) for _ in range(12)]
            try:
                assert replicas_are(1)
                server.engine._loop.call_soon_threadsafe(server.engine.set_replicas, "sizes", 2)
                assert replicas_are(2)
                assert wait_until(lambda: len(set(client.get("/stats").json()["stages"]["sizes"]["pids"])) == 2, 60.0)
                server.engine._loop.call_soon_threadsafe(server.engine.set_replicas, "sizes", 1)
                assert replicas_are(1)
            finally:
                stop.set()
            for each in loads:
                each.result()  # no request was lost or refused
        stats = client.get("/stats?samples=true").json()
    assert stats["requests"]["answered"] == stats["requests"]["offered"] == len(answered)
    sizes = stats["stages"]["sizes"]["batch_size"]
    assert sorted(sizes) == sorted(size for size, _ in answered)
    assert max(sizes) == 4
    assert stats["stages"]["sizes"]["batches"] == pytest.approx(sum(1 / size for size in sizes))


def test_a_plan_is_changed_under_load_and_what_cannot_be_started_changes_nothing(
    ray: None, models: Callable[[str], str]
) -> None:
    stop = threading.Event()
    answered: list[tuple[str, int, int]] = []
    hurried: list[int] = []
    with on_ray(named(models)) as (_, client), ThreadPoolExecutor(8) as threads:

        def load() -> None:
            while not stop.is_set():
                name, size, pid = outputs(client.post(INFER, json=body("x")))["only"][0].split()
                answered.append((name, int(size), int(pid)))

        def seen(name: str, replicas: int, most: int) -> bool:
            """Whether all answers come from one variant, so many replicas, and the largest batches are of `most`."""
            since = len(answered)

            def lately() -> bool:
                last = answered[max(since, len(answered) - 40) :]
                names, sizes, pids = zip(*last, strict=True) if last else ((), (), ())
                return len(last) == 40 and {*names} == {name} and max(sizes) == most and len({*pids}) == replicas

            return wait_until(lately)

        def put(plan: Plan, status: int) -> dict[str, Any]:
            found = client.put("/plan", content=plan.to_json(), params={"watch": "0s"})
            assert found.status_code == status, found.text
            value: dict[str, Any] = found.json()
            return value

        def refused() -> bool:
            found = client.post(INFER, json=body("x"), headers={"x-request-timeout": "1ms"})
            hurried.append(found.status_code)
            return found.status_code == 429 and "too much to do to answer within 0.001 s" in found.json()["error"]

        loads = [threads.submit(load) for _ in range(8)]
        try:
            assert seen("first", replicas=1, most=1)
            changes = put(named(models, replicas=2, max_batch_size=3), 200)["changes"]
            assert [change["field"] for change in changes] == ["replicas", "max_batch_size"]
            assert seen("first", replicas=2, most=3)
            second = named(models, variant="second", max_batch_size=3)
            put(second, 200)
            assert seen("second", replicas=1, most=3)
            assert wait_until(refused)
            refusal = put(named(models, variant="broken", replicas=2), 422)["error"]
            assert "nothing was changed" in refusal
            assert "no such weights" in refusal
            assert seen("second", replicas=1, most=3)
        finally:
            stop.set()
        for each in loads:
            each.result()  # no request was lost or refused but those in a hurry
        stats = client.get("/stats").json()
    assert (stats["plan_hash"], stats["swap"]["last"]["state"]) == (second.hash, "failed")
    counts = stats["requests"]
    assert counts["offered"] == len(answered) + len(hurried)
    assert counts["answered"] == len(answered) + hurried.count(200)
    assert counts["rejected"] == hurried.count(429) > 0


def running_on_ray(stage: str) -> int:
    """How many replicas of a stage Ray Serve says that it runs, in all of its applications."""
    from ray import serve

    deployments = [found.deployments.get(stage) for found in serve.status().applications.values()]
    return sum(found.replica_states.get("RUNNING", 0) for found in deployments if found is not None)  # type: ignore[call-overload, unused-ignore]


def test_a_tuner_scales_a_stage_through_rays_own_api_as_the_load_rises(ray: None, tmp_path: Path) -> None:
    plan, stop, last_s = sleepers(), threading.Event(), time.monotonic() + 60.0
    planned = Trace.poisson(rate=12.0, seconds=60.0, seed=3)
    with (
        on_ray(plan) as (server, client),
        Journal(tmp_path / "decisions.jsonl") as journal,
        ThreadPoolExecutor(1) as beside,
    ):
        assert running_on_ray("only") == 1
        watching = beside.submit(tune_live, plan, server.url, planned_on=planned, act=True, stop=stop, journal=journal)
        try:
            offered = replay(server.url, Trace.ramp(12.0, 48.0, 4.0, seed=1)).requests
            while running_on_ray("only") == 1 and time.monotonic() < last_s:
                offered += replay(server.url, Trace.poisson(rate=40.0, seconds=1.0, seed=2)).requests
        finally:
            stop.set()
        watching.result()
        assert wait_until(lambda: client.get("/stats").json()["stages"]["only"]["replicas"]["ready"] > 1)
        counts = client.get("/stats").json()["requests"]
    assert (counts["offered"], counts["failed"], counts["in_flight"]) == (offered, 0, 0), counts
    lines = read(tmp_path / "decisions.jsonl")
    decided = {line["number"]: line for line in lines if line["kind"] == "decided"}
    happened = {line["number"]: line for line in lines if line["kind"] == "happened"}
    assert decided[0]["code"] == "scale_up"
    assert {n: line["swap"]["id"] for n, line in happened.items() if "swap" in line} == {
        line["number"]: line["applied"]["change"]
        for line in lines
        if line["kind"] == "applied" and "change" in line["applied"]
    }


def test_a_change_that_makes_requests_late_is_taken_back_on_ray(ray: None, models: Callable[[str], str]) -> None:
    quick, slow = paced(models, "quick"), paced(models, "slow")
    stop, statuses = threading.Event(), list[int]()
    with on_ray(quick) as (_, client), ThreadPoolExecutor(4) as threads:

        def load() -> None:
            while not stop.wait(0.1):
                statuses.append(client.post(INFER, json=body("x")).status_code)

        def more(count: int) -> bool:
            so_far = len(statuses)
            return wait_until(lambda: len(statuses) >= so_far + count)

        loads = [threads.submit(load) for _ in range(4)]
        try:
            assert more(120)
            change = client.put("/plan", content=slow.to_json(), params={"watch": "2s"}).json()
            assert change["state"] == "watching", change
            assert wait_until(lambda: client.get("/stats").json()["swap"]["state"] == "idle")
            assert wait_until(lambda: running_on_ray("only") == 1)
            assert wait_until(lambda: statuses[-20:] == [200] * 20)
        finally:
            stop.set()
        for each in loads:
            each.result()
        stats = client.get("/stats").json()
        assert Plan.from_dict(client.get("/plan").json()).hash == stats["plan_hash"] == quick.hash
    last, counts = stats["swap"]["last"], stats["requests"]
    assert (last["id"], last["state"]) == (change["id"], "rolled_back")
    assert "missed the promise since the change" in last["why"]
    assert (counts["offered"], counts["failed"], counts["in_flight"]) == (len(statuses), 0, 0), counts


def test_a_killed_replica_loses_nothing_and_answers_nothing_twice(ray: None, models: Callable[[str], str]) -> None:
    plan = make_plan({"slow": {"model": models("Slow")}}, replicas=2, max_batch_size=2)
    with on_ray(plan) as (server, client):
        pids = server.engine.stats()["stages"]["slow"]["pids"]
        killed = threading.Event()

        def ask(number: int) -> httpx.Response:
            if number == 40:
                os.kill(pids[0], signal.SIGKILL)
                killed.set()
            return client.post(INFER, json=body(str(number)))

        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(ask, range(120)))
        assert killed.is_set()
        assert [outputs(response)["slow"] for response in found] == [[str(i)] for i in range(120)]

        def recovered() -> bool:
            stage = client.get("/stats").json()["stages"]["slow"]
            return stage["replicas"]["ready"] == 2 and pids[0] not in stage["pids"]

        assert wait_until(recovered, 60.0)
        stats = client.get("/stats").json()
    assert stats["requests"]["answered"] == stats["requests"]["offered"] == 120
    assert stats["stages"]["slow"]["restarts"] > 0


def test_a_replica_that_hangs_is_killed_and_replaced(ray: None, models: Callable[[str], str]) -> None:
    plan = make_plan({"hang": {"model": models("Hang")}}, max_batch_size=1)
    with on_ray(plan) as (server, client):
        assert outputs(client.post(INFER, json=body("proves itself")))["hang"] == ["proves itself"]
        (pid,) = client.get("/stats").json()["stages"]["hang"]["pids"]
        (replica,) = server.engine.stations["hang"]._crew.replicas  # type: ignore[attr-defined]
        hanging = replica.worker.predict([Payload("text", b"hang")], timeout_s=0.3)
        with pytest.raises(WorkerTimeout, match=r"took longer than 0.3 s for a batch and was killed"):
            asyncio.run_coroutine_threadsafe(hanging, server.engine._loop).result(60.0)
        assert outputs(client.post(INFER, json=body("fine")))["hang"] == ["fine"]
        assert wait_until(lambda: client.get("/stats").json()["stages"]["hang"]["pids"] not in ([], [pid]), 60.0)
        assert wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_model_that_cannot_be_set_up_stops_the_server_with_the_reason(
    ray: None, models: Callable[[str], str]
) -> None:
    plan = make_plan({"broken": {"model": models("Broken")}})
    with pytest.raises(ServeError, match=r"worker of broken: .*no such weights"), on_ray(plan):
        pass


def check_asks_for_a_token(port: int) -> None:
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", timeout=20.0)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="looks at processes as Linux shows them")
def test_a_server_starts_a_ray_of_its_own_on_loopback_and_leaves_nothing_of_it(
    models: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []

    def passed_on() -> list[str]:
        said.extend(capfd.readouterr().err.splitlines())
        return said

    plan = make_plan({"hang": {"model": models("Hang")}})
    with running(plan, engine="ray") as server, httpx.Client(base_url=server.url, timeout=60.0) as client:
        assert outputs(client.post(INFER, json=body("x")))["hang"] == ["x"]
        (worker,) = client.get("/stats").json()["stages"]["hang"]["pids"]
        started = descendants(server.process.pid)
        assert worker in started
        loopback = {"0100007F", "0" * 16 + "FFFF0000" + "0100007F"}
        assert set(listeners(started - {worker} | {server.process.pid}).values()) <= loopback
        # A replica opens a port of Ray Serve's that cannot be told where to listen.
        open_ports = [port for port, address in listeners({worker}).items() if address not in loopback]
        assert len(open_ports) <= 1
        for port in open_ports:
            check_asks_for_a_token(port)
        # Ray passes on what was printed when it next looks at its files.
        assert wait_until(lambda: "[hang] printed by the stage" in passed_on())
        server.process.terminate()
        assert server.process.wait(120.0) == 0
        assert server.process.stdout is not None
        assert server.process.stdout.read() == ""
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))
    assert not list(Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}{server.process.pid}-*"))
    assert all(line.startswith("[hang] ") for line in passed_on())


def test_a_cascade_has_its_models_on_ray_and_says_who_answered(ray: None, tmp_path: Path) -> None:
    path = tmp_path / "family.py"
    path.write_text(FAMILY)
    family = {name: {"model": f"{path}:{name.capitalize()}"} for name in ("small", "large")}
    spec, profile = context_of(tmp_path, family)
    plan = Plan(spec, profile, {"sort": gear_plan()})
    with on_ray(plan) as (server, client):
        answers = [ask(server, "x" * length) for length in (1, 9, 11, 19)]
        assert [answer["parameters"]["model"] for answer in answers] == ["small", "large", "large", "small"]
        families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
        for name, counts in (("exits", {"small": 2.0, "large": 2.0}), ("escalations", {"small": 2.0, "large": 0.0})):
            samples = families[f"headway_cascade_{name}"].samples
            assert {sample.labels["model"]: sample.value for sample in samples} == counts
        only = Gear(Cascade((Step("large"),)), 1000.0, (1,))
        wanted = replace(plan, stages={"sort": replace(gear_plan(devices=2), gears=(only,))})
        reply = client.put("/plan", params={"watch": "0s"}, content=wanted.to_json())
        assert (reply.status_code, reply.json().get("state")) == (200, "kept"), reply.text
        assert [ask(server, "x" * length)["parameters"]["model"] for length in (1, 19)] == ["large"] * 2
        stage = client.get("/stats").json()["stages"]["sort"]
        assert stage["replicas"]["ready"] == 2
        assert (stage["restarts"], len(set(stage["pids"]))) == (0, 4)
