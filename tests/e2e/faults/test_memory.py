"""What a served plan does when a model takes more memory than its process may have: the allocations are real."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from tests.e2e.faults.served import BATCH, REPLICAS, ask, make_plan, order, outcome, restarts, serving
from tests.e2e.serving import wait_until

from headway.serve.http1 import Reply
from headway.serve.run import LiveServer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")

SPARE_MB = 100
SHARE_MB = 60
"""One input's fits into what a worker has to spare, two at a time do not."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server whose workers limit their own memory when they are set up, and are not taken to hang."""
    with serving(make_plan(tmp_path_factory.mktemp("orders"), spare_mb=SPARE_MB), hang_s=60.0) as server:
        yield server


def test_an_input_that_takes_all_memory_fails_alone_and_gives_it_back(server: LiveServer) -> None:
    before = restarts(server)
    for _ in range(REPLICAS):
        replies = [outcome(reply) for reply in order(server, ["say a", "fill b", "say c", f"need {SHARE_MB}"])]
        assert [replies[at] for at in (0, 2, 3)] == [(200, "a"), (200, "c"), (200, str(SHARE_MB))]
        assert replies[1][0] == 500
        assert "MemoryError" in replies[1][1]
    assert restarts(server) == before


def test_a_batch_for_which_memory_is_short_is_answered_one_by_one(server: LiveServer) -> None:
    before = restarts(server)
    folder = server.engine.plan.spec.stages["do"].variant("default").options["folder"]  # type: ignore[attr-defined]
    replies: list[Reply] = []

    def stage() -> dict[str, int]:
        return dict(ask(server, "GET", "/stats?timings=false")["stages"]["do"])

    def let_go() -> None:
        try:
            assert wait_until(lambda: stage()["queued"] == BATCH)
        finally:
            open(f"{folder}/let go", "w").close()

    def ask_for_more() -> None:
        assert wait_until(lambda: stage()["running"] == REPLICAS)
        replies.extend(order(server, [f"need {SHARE_MB}"] * BATCH, let_go))

    order(server, ["wait let go"] * REPLICAS, ask_for_more)
    assert [outcome(reply) for reply in replies] == [(200, str(SHARE_MB))] * BATCH
    assert ask(server, "GET", "/stats?samples=true")["stages"]["do"]["batch_size"][-BATCH:] == [BATCH] * BATCH
    assert restarts(server) == before
