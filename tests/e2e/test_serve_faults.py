"""What a served plan does when workers die or hang, clients misbehave, and more is asked than can be done."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.e2e.fault_models import MODEL

from headway.domains.pipeline.declare import ReplicaConfig
from headway.domains.pipeline.live import live_station
from headway.errors import ServeError
from headway.plan.config import StageContext
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.serve.app import HttpLimits
from headway.serve.engine import Limits
from headway.serve.http1 import Client, Reply
from headway.serve.run import LiveServer, ServeOptions, bind, running_in_thread
from headway.spec.model import Spec

INFER = "/v2/models/orders/infer"
HANG_S = 1.0
CLIENT_S = 0.4
REPLICAS = 2


def make_plan(folder: Path, *, mean_s: float = 0.001, slo: str = "10s", **options: Any) -> Plan:
    """A stage whose workers obey; without a promise that matters, for those who want no part in its admission."""
    (folder / "model.py").write_text(MODEL)
    stage = {"model": f"{folder / 'model.py'}:Obedient", "options": {"folder": str(folder), **options}}
    document = {
        "name": "orders",
        "slo": {"latency": slo},
        "supply": {"cpu": {"price": "$1/h"}},
        "stages": {"do": stage},
    }
    rows = [Row("do", "cpu", size, mean_s) for size in (1, 4)]
    config = ReplicaConfig("cpu", REPLICAS, max_batch_size=4)
    return Plan(Spec.from_dict(document), Profile.from_rows(rows), {"do": config})


@contextlib.contextmanager
def serving(plan: Plan, **options: Any) -> Iterator[LiveServer]:
    config = plan.stages["do"]
    assert isinstance(config, ReplicaConfig)
    station = live_station(StageContext("do", plan.spec.stages["do"], plan.spec, plan.profile), config)
    station.batch_timeout_s = station.first_batch_timeout_s = HANG_S
    http = HttpLimits(max_body_bytes=4 * 2**20, body_timeout_s=CLIENT_S, keep_alive_s=20.0)
    with running_in_thread(plan, ServeOptions(http=http, **options), stations={"do": station}) as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("orders")
    with serving(make_plan(folder)) as server:
        yield server


@pytest.fixture(autouse=True)
def sound_before_and_after(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test begins and ends with all replicas at work, nothing in flight, and every request ended once."""
    server = request.getfixturevalue("server") if "server" in request.fixturenames else None
    if server is not None:
        assert_sound(server)
    yield
    if server is not None:
        assert_sound(server)


def assert_sound(server: LiveServer) -> None:
    def sound() -> bool:
        stats = ask(server, "GET", "/stats")
        requests, stage = stats["requests"], stats["stages"]["do"]
        ended = sum(requests[status] for status in ("answered", "rejected", "dropped", "failed"))
        assert requests["offered"] == ended + requests["in_flight"]
        return bool(requests["in_flight"] == 0 and stage["replicas"]["ready"] == REPLICAS and stats["ready"])

    assert wait_until(sound)
    assert [outcome(reply) for reply in order(server, [f"say {i}" for i in range(40)])] == [
        (200, str(i)) for i in range(40)
    ]


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if condition():
            return True
        time.sleep(0.01)
    return False


def body(text: str) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": [text]}]}).encode()


def ask(server: LiveServer, method: str, path: str) -> Any:
    async def main() -> Reply:
        client = Client(server.url)
        try:
            return await client.request(method, path)
        finally:
            await client.close()

    return json.loads(asyncio.run(main()).body)


def order(
    server: LiveServer, texts: list[str], meanwhile: Callable[[], None] | None = None, timeout: str | None = None
) -> list[Reply]:
    """Ask for everything at once; `meanwhile` runs beside it in a thread of its own. Replies come in order."""

    async def main() -> list[Reply]:
        client = Client(server.url, max_connections=64)
        headers = {} if timeout is None else {"x-request-timeout": timeout}
        asked = [client.request("POST", INFER, body(text), headers) for text in texts]
        try:
            acting = asyncio.to_thread(meanwhile or (lambda: None))
            *replies, _ = await asyncio.gather(*asked, acting)
            return replies
        finally:
            await client.close()

    return asyncio.run(main())


def outcome(reply: Reply) -> tuple[int, str]:
    """The status, and what was said: the answer's text, or the error's sentence."""
    said = json.loads(reply.body)
    return reply.status, said["outputs"][0]["data"][0] if reply.status == 200 else said["error"]


def pids(server: LiveServer) -> list[int]:
    return list(ask(server, "GET", "/stats")["stages"]["do"]["pids"])


def restarts(server: LiveServer) -> int:
    return int(ask(server, "GET", "/stats")["stages"]["do"]["restarts"])


# Workers


def test_workers_killed_at_random_moments_lose_nothing_and_answer_nothing_twice(server: LiveServer) -> None:
    rng = np.random.default_rng(1)
    before = restarts(server)
    stop = threading.Event()

    def kill() -> None:
        # Large bodies take long enough to be written and read that some of these moments are in the middle of it.
        while not stop.wait(rng.uniform(0.0, 0.15)):
            if alive := pids(server):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(rng.choice(alive)), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    texts = [f"say {i} " + "x" * int(rng.choice([0, 1000, 500_000])) for i in range(180)]
    try:
        replies = [reply for at in range(0, len(texts), 60) for reply in order(server, texts[at : at + 60])]
    finally:
        stop.set()
        killer.join()
    ends = Counter(reply.status for reply in replies)
    assert set(ends) <= {200, 500}
    for text, reply in zip(texts, replies, strict=True):
        status, said = outcome(reply)
        assert said == text.partition(" ")[2] if status == 200 else "3 times" in said
    assert ends[200] > 150
    assert restarts(server) - before >= 5


def test_all_replicas_killed_at_once_come_back_and_finish_what_they_had(server: LiveServer) -> None:
    def kill() -> None:
        for pid in pids(server):
            os.kill(pid, signal.SIGKILL)

    texts = [f"sleep 0.01{i:03}" for i in range(60)]
    assert [outcome(reply) for reply in order(server, texts, kill)] == [(200, text.split()[1]) for text in texts]


@pytest.mark.parametrize("fault", ["die", "exit", "close", "garble", "hang"])
def test_a_worker_lost_in_the_middle_of_a_batch_costs_none_of_its_requests(server: LiveServer, fault: str) -> None:
    before = restarts(server)
    texts = ["say a", f"once:{fault} b", "say c", "say d"]
    assert [outcome(reply) for reply in order(server, texts)] == [(200, letter) for letter in "abcd"]
    assert wait_until(lambda: restarts(server) == before + 1)


def test_a_worker_that_the_system_has_stopped_is_replaced(server: LiveServer) -> None:
    stopped = pids(server)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    assert [outcome(reply) for reply in order(server, ["say a", "say b"])] == [(200, "a"), (200, "b")]
    assert wait_until(lambda: len(pids(server)) == REPLICAS)
    for pid in set(stopped) & set(pids(server)):
        os.kill(pid, signal.SIGCONT)


def test_an_input_that_always_kills_fails_alone(server: LiveServer) -> None:
    texts = ["say a", "die b", "say c", "say d"]
    replies = [outcome(reply) for reply in order(server, texts)]
    assert [replies[at] for at in (0, 2, 3)] == [(200, "a"), (200, "c"), (200, "d")]
    status, said = replies[1]
    assert status == 500
    assert "the worker died, hung or refused the batch 3 times" in said


@pytest.mark.parametrize(("fault", "says"), [("raise", "ValueError: b"), ("allocate", "MemoryError")])
def test_a_model_that_raises_fails_the_one_request_that_made_it(server: LiveServer, fault: str, says: str) -> None:
    before = restarts(server)
    replies = [outcome(reply) for reply in order(server, ["say a", f"{fault} b", "say c", "say d"])]
    assert [replies[at] for at in (0, 2, 3)] == [(200, "a"), (200, "c"), (200, "d")]
    assert replies[1][0] == 500
    assert says in replies[1][1]
    assert restarts(server) == before


def test_a_model_that_prints_without_end_blocks_nobody(server: LiveServer) -> None:
    assert [outcome(reply)[0] for reply in order(server, ["print a"] * 8)] == [200] * 8


def test_a_worker_that_dies_while_it_starts_is_started_again(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, deaths_at_start=3)
    for _ in range(2):
        with pytest.raises(ServeError, match="died of signal SIGKILL before it answered"), serving(plan):
            pass
    with serving(plan) as server:
        # Two more deaths at the start, of the worker that is to replace the one that dies now.
        for number in range(2):
            (tmp_path / f"death at start {number}").unlink()
        said = [outcome(reply) for reply in order(server, ["say a", "once:die b", "say c"])]
        assert said == [(200, letter) for letter in "abc"]
        assert wait_until(lambda: ask(server, "GET", "/stats")["stages"]["do"]["replicas"]["ready"] == REPLICAS)


# Clients


@contextlib.contextmanager
def connection(server: LiveServer, *sent: bytes) -> Iterator[socket.socket]:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10.0) as raw:
        for part in sent:
            raw.sendall(part)
        yield raw


def everything(raw: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := raw.recv(1 << 16):
            found += part
    return found


def frame(text: str, *headers: str) -> bytes:
    lines = [f"POST {INFER} HTTP/1.1", "host: x", f"content-length: {len(body(text))}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body(text)


def statuses(found: bytes) -> list[int]:
    return [int(part[:3]) for part in found.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize("sent", [b"GET /healthz HTTP/1.1\r\nx-a: ", frame("say a")[:-1]], ids=["header", "body"])
def test_a_client_that_trickles_is_told_so_and_cut_off(server: LiveServer, sent: bytes) -> None:
    stop = threading.Event()

    def trickle(raw: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not stop.wait(0.05):
                raw.sendall(b" ") if sent.startswith(b"GET") else stop.wait(0.05)

    with connection(server, sent) as raw:
        thread = threading.Thread(target=trickle, args=(raw,))
        thread.start()
        found = everything(raw)
        stop.set()
        thread.join()
    assert statuses(found) == [408]
    assert json.loads(found.partition(b"\r\n\r\n")[2])["error"].endswith(f"did not arrive within {CLIENT_S:g} s")


def test_a_client_that_does_not_read_its_answers_is_cut_off_and_delays_nobody(server: LiveServer) -> None:
    large = frame("say " + "x" * 2_000_000)
    with connection(server) as raw:
        raw.setblocking(False)
        sent = 0
        end_s = time.monotonic() + 20.0
        cut_off = False
        while not cut_off and time.monotonic() < end_s:
            try:
                sent += raw.send(large[sent % len(large) :])
            except BlockingIOError:
                assert outcome(order(server, ["say a"])[0]) == (200, "a")
            except ConnectionError:
                cut_off = True
    assert cut_off


def test_work_of_clients_that_vanish_is_not_done_unless_it_has_begun(server: LiveServer, tmp_path: Path) -> None:
    options = server.engine.plan.spec.stages["do"].variant("default").options  # type: ignore[attr-defined]
    before = ask(server, "GET", "/stats")["requests"]
    with contextlib.ExitStack() as busy, contextlib.ExitStack() as gone:
        for _ in range(REPLICAS):
            busy.enter_context(connection(server, frame("sleep 0.5")))
        assert wait_until(lambda: ask(server, "GET", "/stats")["stages"]["do"]["running"] == REPLICAS)
        for number in range(6):
            gone.enter_context(connection(server, frame(f"note {number}")))
        assert wait_until(lambda: ask(server, "GET", "/stats")["stages"]["do"]["queued"] == 6)
        gone.close()
        assert wait_until(lambda: ask(server, "GET", "/stats")["requests"]["dropped"] == before["dropped"] + 6)
    assert outcome(order(server, ["note last"])[0]) == (200, "last")
    assert (Path(options["folder"]) / "notes").read_text() == "last\n"


def test_a_client_that_ends_its_side_but_waits_gets_its_answer(server: LiveServer) -> None:
    with connection(server, frame("sleep 0.2")) as raw:
        raw.shutdown(socket.SHUT_WR)
        assert statuses(everything(raw))[-1] == 200


def test_a_client_that_vanishes_in_the_middle_of_anything_leaves_nothing_behind(server: LiveServer) -> None:
    whole = frame("say a")
    for length in (1, 20, len(whole) - len(body("say a")), len(whole) - 1, len(whole)):
        for _ in range(5):
            with connection(server, whole[:length]) as raw:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


HEAD = f"POST {INFER} HTTP/1.1\r\nhost: x\r\n".encode()
CHUNKS = b"transfer-encoding: chunked\r\n\r\n"
LAST = "connection: close"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (HEAD + b"content-length: -1\r\n\r\n{}", [400]),
        (HEAD + b"content-length: 1e9\r\n\r\n{}", [400]),
        (HEAD + b"content-length: 99999999999\r\n\r\n{}", [413]),
        (frame("say a", "content-length: 7"), [400]),
        (frame("say a", "transfer-encoding: chunked"), [400]),
        (frame("say a", "x-request-timeout: soon", LAST), [400]),
        (HEAD + CHUNKS + b"zz\r\n", [400]),
        (HEAD + b"connection: close\r\n" + CHUNKS + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body("a")), body("a")), [200]),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", [400]),
        (b"GET /healthz HTTP/1.1\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", [431]),
        (frame("sleep 0.1") + frame("say a") + frame("say a", LAST), [200, 200, 200]),
        (frame("sleep 0.1") + b"nonsense\r\n\r\n", [200, 400]),
    ],
)
def test_odd_requests_get_one_answer_each_and_then_the_connection_ends(
    server: LiveServer, sent: bytes, expected: list[int]
) -> None:
    with connection(server, sent) as raw:
        found = everything(raw)
    assert statuses(found) == expected
    if expected[-1] >= 400:
        error = json.loads(found.rpartition(b"\r\n\r\n")[2])["error"]
        assert error
        assert "\n" not in error


# Load


def test_three_times_the_load_is_answered_or_refused_at_once_and_forgotten_afterwards(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, mean_s=0.02, slo="300ms")
    rate = 3 * REPLICAS * 4 / (4 * 0.02)

    async def main(url: str) -> list[Reply]:
        client = Client(url, max_connections=2000)
        replies: list[Reply] = []
        sent = client.frame("POST", INFER, body("sleep 0.02"))
        for _ in range(int(2 * rate)):
            client.send(sent, replies.append, 30.0)
            await asyncio.sleep(1 / rate)
        while len(replies) < int(2 * rate):
            await asyncio.sleep(0.01)
        await client.close()
        return replies

    with serving(plan, limits=Limits(timeout_s=5.0)) as server:
        replies = asyncio.run(main(server.url))
        ends = Counter(reply.status for reply in replies)
        assert set(ends) == {200, 429}
        refused = next(reply for reply in replies if reply.status == 429)
        assert json.loads(refused.body)["error"] == ("there is too much to do to answer within 0.3 s; try again later")
        requests = ask(server, "GET", "/stats")["requests"]
        assert (requests["answered"], requests["rejected"]) == (ends[200], ends[429])
        assert [outcome(reply)[0] for reply in order(server, ["say a"] * 10)] == [200] * 10


# The command line


def serve_command(*arguments: str) -> tuple[int, str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "headway", "serve", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr.strip().splitlines()


def test_a_port_in_use_is_one_sentence_and_exit_1(tmp_path: Path) -> None:
    make_plan(tmp_path).write(tmp_path / "plan.json")
    with contextlib.closing(bind("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = f"error: port {port} on 127.0.0.1 is in use; choose another, or 0 for a free one"
        assert serve_command(str(tmp_path / "plan.json"), "--port", str(port)) == (1, "", [sentence])


def test_a_plan_of_another_version_is_one_sentence_and_exit_1(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    make_plan(tmp_path).write(path)
    path.write_text(path.read_text().replace("headway.plan/1", "headway.plan/2"))
    code, printed, errors = serve_command(str(path), "--port", "0")
    assert (code, printed, len(errors)) == (1, "", 1)
    assert "headway.plan/2" in errors[0]
    assert "headway.plan/1" in errors[0]
