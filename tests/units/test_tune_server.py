"""How a tuner asks a server that is slow, stalls or ends: a question is repeated, a request to change is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from headway.errors import ServeError
from headway.serve.run import running_in_thread
from headway.testing.examples import tiny_plan
from headway.tune import patience
from headway.tune import server as asked
from headway.tune.patience import Gone, Patience, Silent
from headway.tune.server import Server


class Slow(ThreadingHTTPServer):
    """Answers with `{}` once `patience` questions have come; a request to change is never answered."""

    daemon_threads = True

    def __init__(self, patience: int) -> None:
        super().__init__(("127.0.0.1", 0), SlowHandler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.patience, self.came = patience, 0
        self.lock, self.over = threading.Lock(), threading.Event()


class SlowHandler(BaseHTTPRequestHandler):
    server: Slow

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.came += 1
            answers = self.server.came >= self.server.patience
        if not answers:
            self.server.over.wait(60.0)
            return
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_PUT(self) -> None:
        self.server.over.wait(60.0)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def slow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    monkeypatch.setattr(asked, "TIMEOUT_S", 0.5)
    with Slow(request.param) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield server
        server.over.set()
        server.shutdown()
        serving.join()


@pytest.mark.parametrize("slow", [patience.ATTEMPTS], indirect=True)
def test_a_question_that_is_not_answered_in_time_is_asked_again(slow: Slow) -> None:
    with Server(slow.url) as server:
        assert server.refuses_late is False
    assert slow.came == patience.ATTEMPTS


@pytest.mark.parametrize("slow", [patience.ATTEMPTS + 1], indirect=True)
def test_a_server_that_never_answers_is_named(slow: Slow) -> None:
    with Server(slow.url) as server, pytest.raises(ServeError, match="cannot be reached"):
        _ = server.refuses_late


@pytest.mark.parametrize("slow", [1], indirect=True)
def test_a_change_that_is_not_answered_is_one_that_failed(slow: Slow) -> None:
    with Server(slow.url) as server:
        assert "cannot be reached" in server.change(tiny_plan())["error"]


def test_a_server_tells_whether_it_refuses_what_would_come_late() -> None:
    with running_in_thread(tiny_plan()) as live, Server(live.url) as server:
        assert server.refuses_late is True


class Stalled:
    """A question that is answered after so many times; pauses are noted in place of being waited for."""

    def __init__(self, silent: int, error: type[Exception] = Silent, waits: int = 99) -> None:
        self.silent, self.error, self.waits = silent, error, waits
        self.paused: list[float] = []
        self.said: list[str] = []

    def ask(self) -> str:
        self.silent -= 1
        if self.silent >= 0:
            raise self.error("timed out")
        return "an answer"

    def pause(self, seconds: float) -> bool:
        self.paused.append(seconds)
        return len(self.paused) <= self.waits

    def outlast(self) -> str:
        return Patience(self.pause, self.said.append, lambda after_s: self.said.append("back")).outlast(self.ask)


def test_a_stall_is_outlived_with_growing_pauses_and_said_once() -> None:
    stalled = Stalled(silent=8)
    assert stalled.outlast() == "an answer"
    assert stalled.paused == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert stalled.said == ["timed out", "back"]
    stalled = Stalled(silent=0)
    assert (stalled.outlast(), stalled.said) == ("an answer", [])


def test_it_is_given_up_when_the_server_is_gone_the_time_is_over_or_patience_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = Stalled(silent=9, error=Gone)
    with pytest.raises(Gone):
        gone.outlast()
    assert (gone.paused, gone.said) == ([], [])
    over = Stalled(silent=9, waits=0)
    with pytest.raises(Silent, match=r"^timed out$"):
        over.outlast()
    assert len(over.paused) == patience.ATTEMPTS
    monkeypatch.setattr(patience, "PATIENCE_S", 0.0)
    with pytest.raises(Silent, match="timed out; given up after 0 s"):
        Stalled(silent=9).outlast()


def test_what_nothing_listens_at_is_gone() -> None:
    with running_in_thread(tiny_plan()) as live:
        url = live.url
    with Server(url) as server, pytest.raises(Gone, match="cannot be reached"):
        server.plan()
