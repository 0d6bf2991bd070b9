"""A plan served over real HTTP by real worker processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.e2e.serve_models import MODELS
from tests.e2e.serving import INFER, body, gated, make_plan, outputs, wait_until

from headway.plan.plan import Plan
from headway.serve.app import HttpLimits
from headway.serve.engine import Limits
from headway.serve.run import LiveServer, ServeOptions, running_in_thread


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    path = tmp_path_factory.mktemp("models") / "models.py"
    path.write_text(MODELS)
    return lambda name: f"{path}:{name}"


@pytest.fixture(scope="module")
def pages(models: Callable[[str], str]) -> Iterator[LiveServer]:
    plan = make_plan(
        {
            "read": {"model": models("Read")},
            "word": {"after": "read", "model": models("Upper")},
            "number": {"after": "read", "model": models("Double")},
            "collect": {"after": ["word", "number"], "model": models("Collect")},
        }
    )
    http = HttpLimits(max_body_bytes=100_000)
    with running_in_thread(plan, ServeOptions(http=http)) as server:
        yield server


@pytest.fixture
def client(pages: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=pages.url, timeout=60.0) as client:
        yield client


def test_health_and_metadata_follow_the_protocol(client: httpx.Client) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    for path in ("/v2/models/pages", "/v2/models/pages/versions/1"):
        found = client.get(path).json()
        assert (found["name"], found["versions"]) == ("pages", ["1"])
        assert [output["name"] for output in found["outputs"]] == ["collect"]
        assert client.get(path + "/ready").json() == {"name": "pages", "ready": True}


def test_data_decide_the_branches_and_a_join_collects_them_in_order(client: httpx.Client) -> None:
    for path in (INFER, "/v2/models/pages/versions/1/infer"):
        answer = client.post(path, json=body("b 21 a 2", id="q1"))
        assert json.loads(outputs(answer)["collect"][0]) == {"words": ["B", "A"], "numbers": [42, 4]}
        assert answer.json()["id"] == "q1"
    assert client.post(INFER, json=body("")).json()["outputs"] == []


def test_bytes_and_tensors_arrive_through_the_binary_extension(client: httpx.Client) -> None:
    def post(datatype: str, shape: list[int], blob: bytes) -> httpx.Response:
        described = {"name": "x", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(blob)}}
        head = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        return client.post(INFER, content=head + blob, headers=headers)

    numbers = np.array([1.5, 2.5], "<f4")
    for response, says in (
        (post("BYTES", [1], struct.pack("<I", 2) + b"\xff\x00"), repr(b"\xff\x00").upper()),
        (post("FP32", [2], numbers.tobytes()), repr(numbers).upper()),
    ):
        assert response.status_code == 200, response.text
        length = int(response.headers["Inference-Header-Content-Length"])
        (size,) = struct.unpack_from("<I", response.content, length)
        assert json.loads(response.content[length + 4 : length + 4 + size])["words"] == [says]


def test_an_input_that_the_model_refuses_fails_alone(client: httpx.Client) -> None:
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda text: client.post(INFER, json=body(text)), ["a", "bad", "b", "bad", "c", "d"]))
    assert [response.status_code for response in found] == [200, 500, 200, 500, 200, 200]
    assert found[1].json() == {"error": "stage 'read': ValueError: cannot read it"}


def test_operators_see_plan_statistics_and_metrics(client: httpx.Client, pages: LiveServer) -> None:
    client.post(INFER, json=body("a 1"))
    assert Plan.from_dict(client.get("/plan").json()).hash == pages.engine.plan.hash
    stats = client.get("/stats?samples=true").json()
    assert stats["requests"]["in_flight"] == 0
    assert len(stats["stages"]["read"]["queue_wait_s"]) == stats["stages"]["read"]["items_held"] > 0
    assert client.get(f"/stats?since_s={stats['now_s']}").json()["stages"]["read"]["items_held"] == 0
    text = client.get("/metrics").text
    for name in (
        'headway_request_duration_seconds_bucket{le="+Inf",pipeline="pages",stage=""}',
        'headway_queue_wait_seconds_count{pipeline="pages",stage="read"}',
        'headway_batch_size_sum{pipeline="pages",stage="word"}',
        'headway_queue_depth{pipeline="pages",stage="read"} 0.0',
        'headway_replicas{hardware="cpu",stage="read",state="ready"} 1.0',
        'headway_slo_violations_total{slo="latency"}',
        'headway_goodput_ratio{slo="latency"}',
        'headway_cost_dollars_total{pipeline="pages"}',
        'headway_requests_total{pipeline="pages",status="answered"}',
    ):
        assert name in text


@pytest.mark.parametrize(
    ("method", "path", "content", "headers", "status", "says"),
    [
        ("POST", INFER, b"{", {}, 400, "not an inference request"),
        ("POST", INFER, b"x" * 100_001, {}, 413, "larger than 100000 bytes"),
        ("POST", INFER, b"{}", {"x-request-timeout": "soon"}, 400, "x-request-timeout"),
        ("POST", INFER, b"{}", {"x-request-timeout": "-1"}, 400, "x-request-timeout"),
        ("POST", INFER, b"{}", {"inference-header-content-length": "9e9"}, 400, "not a number of bytes"),
        ("POST", "/v2/models/page/infer", b"{}", {}, 404, "did you mean 'pages'"),
        ("POST", "/v2/models/pages/versions/2/infer", b"{}", {}, 404, "no such version"),
        ("GET", "/v2/models/other", b"", {}, 404, "no model 'other'"),
        ("GET", "/nowhere", b"", {}, 404, "nothing at /nowhere"),
        ("DELETE", "/plan", b"", {}, 405, "DELETE"),
        ("GET", "/stats?since_s=then", b"", {}, 400, "since_s"),
    ],
)
def test_wrong_requests_are_answered_with_one_clear_sentence(
    client: httpx.Client, method: str, path: str, content: bytes, headers: dict[str, str], status: int, says: str
) -> None:
    found = client.request(method, path, content=content, headers=headers)
    assert found.status_code == status
    assert says in found.json()["error"]


def test_a_body_without_a_declared_size_is_cut_off_at_the_limit(client: httpx.Client) -> None:
    assert client.post(INFER, content=(b"x" * 10_000 for _ in range(11))).status_code == 413


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.binary(max_size=80) | st.text(max_size=40).map(lambda text: json.dumps(body(text))[:-3].encode()))
def test_no_body_breaks_the_server(client: httpx.Client, content: bytes) -> None:
    found = client.post(INFER, content=content)
    assert found.status_code == 400
    assert found.json()["error"]


def raw_connection(server: LiveServer) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30.0)


def test_a_body_that_trickles_in_times_out(models: Callable[[str], str]) -> None:
    plan = make_plan({"echo": {"model": models("Echo")}})
    options = ServeOptions(http=HttpLimits(body_timeout_s=0.3))
    with running_in_thread(plan, options) as server, raw_connection(server) as connection:
        connection.sendall(b"POST " + INFER.encode() + b" HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{")
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_a_header_that_is_too_large_is_refused_and_the_server_goes_on(client: httpx.Client) -> None:
    for headers in ({"x-long": "x" * 200_000}, {f"x-{i}": "x" * 1000 for i in range(200)}):
        found = client.post(INFER, json=body("a"), headers=headers)
        assert found.status_code == 431
        assert "larger than 65536 bytes" in found.json()["error"]
    assert client.get(f"/healthz?{'x' * 60_000}", headers={"x-long": "x" * 10_000}).status_code == 431
    # What follows a long body on the same connection is measured on its own.
    for _ in range(2):
        assert client.post(INFER, content=b"x" * 99_000, headers={"x-long": "x" * 60_000}).status_code == 400


def test_a_header_that_never_ends_is_cut_off(pages: LiveServer) -> None:
    with raw_connection(pages) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nx-long: ")
        with contextlib.suppress(ConnectionError):  # the server listens no longer than it must
            for _ in range(20):
                connection.sendall(b"x" * 10_000)
        assert connection.recv(100).startswith(b"HTTP/1.1 431")


def test_clients_that_vanish_do_no_harm(pages: LiveServer, client: httpx.Client) -> None:
    sent = json.dumps(body("a")).encode()
    head = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(sent)}\r\n\r\n".encode()
    for part in (head + sent, head + sent[:5], head[:10]):
        for _ in range(10):
            with raw_connection(pages) as connection:
                connection.sendall(part)
    assert client.post(INFER, json=body("a")).status_code == 200
    settled = wait_until(lambda: client.get("/stats").json()["requests"]["in_flight"] == 0)
    assert settled


def test_a_killed_worker_loses_nothing_and_answers_nothing_twice(models: Callable[[str], str]) -> None:
    plan = make_plan({"slow": {"model": models("Slow")}}, replicas=2)
    with running_in_thread(plan) as server, httpx.Client(base_url=server.url, timeout=60.0) as client:
        stop = threading.Event()

        def kill() -> None:
            while not stop.wait(0.4):
                pids = server.engine.stats()["stages"]["slow"]["pids"]
                # Both must be there: on a busy machine a restart can take longer than the pause between two kills.
                if len(pids) == 2:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pids[0], signal.SIGKILL)

        def retries() -> int:
            return int(client.get("/stats").json()["stages"]["slow"]["retries"])

        killer = threading.Thread(target=kill)
        killer.start()
        found: list[httpx.Response] = []
        try:
            with ThreadPoolExecutor(16) as threads:
                # A worker that was idle when it was killed had nothing to lose.
                while len(found) < 300 or (retries() == 0 and len(found) < 6000):
                    numbers = range(len(found), len(found) + 100)
                    found += threads.map(lambda i: client.post(INFER, json=body(str(i))), numbers)
        finally:
            stop.set()
            killer.join()
        stats = client.get("/stats").json()
    count = len(found)
    assert [outputs(response)["slow"] for response in found] == [[str(i)] for i in range(count)]
    assert stats["requests"] | {"late": 0} == {
        "offered": count, "answered": count, "rejected": 0, "dropped": 0, "failed": 0, "late": 0, "in_flight": 0,
    }  # fmt: skip
    assert stats["stages"]["slow"]["restarts"] > 0
    assert stats["stages"]["slow"]["retries"] > 0


def test_overload_is_refused_late_requests_are_dropped_and_the_server_recovers(
    models: Callable[[str], str], tmp_path: Path
) -> None:
    plan, gate = gated(models, tmp_path)
    options = ServeOptions(limits=Limits(queue_limit=4))
    with running_in_thread(plan, options) as server, httpx.Client(base_url=server.url, timeout=60.0) as client:

        def ask_until(count: int, condition: Callable[[dict[str, Any]], bool], **headers: str) -> list[httpx.Response]:
            """Ask so many times at once while the gate is shut, and open it when the condition holds."""
            gate.unlink(missing_ok=True)
            with ThreadPoolExecutor(count) as threads:
                asked = [threads.submit(client.post, INFER, json=body("x"), headers=headers) for _ in range(count)]
                reached = wait_until(lambda: condition(client.get("/stats").json()))
                gate.touch()
                assert reached
                return [task.result() for task in asked]

        # One request is worked on and four wait.
        found = ask_until(12, lambda stats: stats["requests"]["rejected"] == 7)
        assert sorted(response.status_code for response in found) == [200] * 5 + [429] * 7
        assert all(response.headers["retry-after"] == "1" for response in found if response.status_code == 429)
        assert client.post(INFER, json=body("x")).status_code == 200

        def too_late(stats: dict[str, Any]) -> bool:
            if stats["stages"]["gated"]["queued"] + stats["requests"]["dropped"] < 2:
                return False
            time.sleep(0.15)
            return True

        found = ask_until(3, too_late, **{"x-request-timeout": "150ms"})
        assert [response.status_code for response in found].count(504) >= 2
        assert client.post(INFER, json=body("x")).status_code == 200
        counts = client.get("/stats").json()["requests"]
    assert (counts["offered"], counts["rejected"]) == (17, 7)


def test_a_token_guards_all_but_the_probes(models: Callable[[str], str]) -> None:
    plan = make_plan({"echo": {"model": models("Echo")}})
    with (
        running_in_thread(plan, ServeOptions(token="s3cret")) as server,
        httpx.Client(base_url=server.url, timeout=60.0) as client,
    ):
        for path in ("/healthz", "/v2/health/live", "/v2/health/ready"):
            assert client.get(path).status_code == 200
        for shown in ({}, {"authorization": "Bearer wrong"}, {"authorization": "s3cret"}):
            for found in (client.get("/plan", headers=shown), client.post(INFER, json=body("x"), headers=shown)):
                assert found.status_code == 401
                assert found.headers["www-authenticate"] == "Bearer"
        shown = {"authorization": "Bearer s3cret"}
        assert client.post(INFER, json=body("x"), headers=shown).status_code == 200


def test_a_stage_without_a_model_sleeps_its_profiled_time() -> None:
    with running_in_thread(make_plan({"a": {}, "b": {"after": "a"}})) as server, httpx.Client(timeout=60.0) as client:
        begin_s = time.monotonic()
        assert outputs(client.post(server.url + INFER, json=body("x"))) == {"b": ["x"]}
        assert time.monotonic() - begin_s >= 0.02
