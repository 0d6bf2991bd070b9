"""How a tuner asks a server that is slow to answer: a question is repeated, a request to change is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from headway.errors import ServeError
from headway.serve.run import running_in_thread
from headway.testing.examples import tiny_plan
from headway.tune import server as asked
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


@pytest.mark.parametrize("slow", [asked.ATTEMPTS], indirect=True)
def test_a_question_that_is_not_answered_in_time_is_asked_again(slow: Slow) -> None:
    with Server(slow.url) as server:
        assert server.refuses_late is False
    assert slow.came == asked.ATTEMPTS


@pytest.mark.parametrize("slow", [asked.ATTEMPTS + 1], indirect=True)
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
