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
from tests.e2e.serve_models import MODELS
from tests.e2e.serving import INFER, body, make_plan, outputs, wait_until
from tests.e2e.test_cascade_live import ask, context_of, gear_plan

from headway.cascade import Cascade, Step
from headway.domains.cascade.gears import Gear
from headway.domains.pipeline.declare import ReplicaConfig
from headway.errors import ServeError, WorkerTimeout
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.serve.ray_engine.runtime import FOLDER_PREFIX, local_ray
from headway.serve.run import LiveServer, ServeOptions, running, running_in_thread
from headway.serve.wire import Payload
from headway.spec.model import Spec

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the `ray` extra"),
    # Ray's own warnings are Ray's to mend.
    pytest.mark.filterwarnings(r"ignore::Warning:ray\..*"),
]

ON_RAY = '''
import os
import sys


class Sizes:
    """Says how large the batch was, and where it was worked on."""

    def predict(self, batch):
        time.sleep(0.03)
        return [f"{len(batch)} {os.getpid()}" for _ in batch]


class Named:
    """Says its name, how large the batch was, and where it was worked on."""

    def __init__(self, name):
        self.name = name

    def predict(self, batch):
        time.sleep(0.03)
        return [f"{self.name} {len(batch)} {os.getpid()}" for _ in batch]


class Hang:
    def predict(self, batch):
        print("printed by the stage")
        if "hang" in batch:
            time.sleep(1000)
        return list(batch)
'''


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    path = tmp_path_factory.mktemp("models") / "models_on_ray.py"
    path.write_text(MODELS + ON_RAY)
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
                assert len(set(client.get("/stats").json()["stages"]["sizes"]["pids"])) == 2
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


def named(models: Callable[[str], str], **config: Any) -> Plan:
    """One stage that says which of its variants has worked; the variant `broken` cannot be set up."""
    variants = {name: {"model": models("Named"), "options": {"name": name}} for name in ("first", "second")}
    document = {
        "name": "pages",
        "slo": {"latency": "60s"},
        "supply": {"cpu": {"price": "$1/h"}},
        "stages": {"only": {"variants": {**variants, "broken": {"model": models("Broken")}}}},
    }
    rows = [Row("only", "cpu", size, 0.03, variant=name) for name in (*variants, "broken") for size in (1, 8)]
    config = {"variant": "first", "max_batch_size": 1, **config}
    return Plan(Spec.from_dict(document), Profile.from_rows(rows), {"only": ReplicaConfig("cpu", **config)})


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


def descendants(pid: int) -> set[int]:
    """The process numbers of all that a process has started, directly or not."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found, more = set[int](), {pid}
    while more:
        found |= more
        more = {child for child, parent in parents.items() if parent in found} - found
    return found - {pid}


def listeners(pids: set[int]) -> dict[int, str]:
    """The ports that processes listen on, and the addresses, as the kernel writes them."""
    sockets = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(descriptor))
    out = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                address, _, port = fields[1].partition(":")
                out[int(port, 16)] = address
    return out


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
