"""What a server does with clients that trickle, vanish, ask for odd things, or do not listen."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.faults.served import (
    CLIENT_S,
    INFER,
    REPLICAS,
    ask,
    body,
    frame,
    make_plan,
    order,
    outcome,
    serving,
)
from tests.e2e.serving import wait_until

from headway.serve.run import LiveServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that waits for its workers, but not for its clients."""
    with serving(make_plan(tmp_path_factory.mktemp("orders")), hang_s=60.0, client_s=CLIENT_S) as server:
        yield server


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


def test_work_of_clients_that_vanish_is_not_done_unless_it_has_begun(server: LiveServer) -> None:
    options = server.engine.plan.spec.stages["do"].variant("default").options  # type: ignore[attr-defined]
    folder = Path(options["folder"])
    before = ask(server, "GET", "/stats")["requests"]
    with contextlib.ExitStack() as busy, contextlib.ExitStack() as gone:
        for _ in range(REPLICAS):
            busy.enter_context(connection(server, frame("wait until let go")))
        try:
            assert wait_until(lambda: ask(server, "GET", "/stats")["stages"]["do"]["running"] == REPLICAS)
            for number in range(6):
                gone.enter_context(connection(server, frame(f"note {number}")))
            assert wait_until(lambda: ask(server, "GET", "/stats")["stages"]["do"]["queued"] == 6)
            gone.close()
            assert wait_until(lambda: ask(server, "GET", "/stats")["requests"]["dropped"] == before["dropped"] + 6)
        finally:
            (folder / "until let go").touch()
    assert outcome(order(server, ["note last"])[0]) == (200, "last")
    assert (folder / "notes").read_text() == "last\n"


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
