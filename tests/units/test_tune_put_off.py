"""What a tuner decides while another change of the plan is in its way: it waits, within bounds, and says so."""

from __future__ import annotations

from typing import Any, cast

import pytest

from headway.plan.plan import Plan
from headway.policy.scaling import Decision
from headway.testing.examples import tiny_plan
from headway.trace import Trace
from headway.tune.live import RETRY_S, Live
from headway.tune.server import Server
from headway.tune.terms import terms

BUSY = "a change to plan 1234 is starting; wait for its end"


class Scripted:
    """A server as a tuner sees it: its clock and the change under way are set by the test."""

    def __init__(self) -> None:
        self.live = tiny_plan()
        self.now_s = 100.0
        self.starting = False
        self.asked: list[tuple[Plan, float]] = []

    def plan(self) -> Plan:
        return self.live

    def change(self, plan: Plan, pause_s: float = 0.0) -> dict[str, Any]:
        self.asked.append((plan, pause_s))
        if self.starting:
            return {"error": BUSY, "busy": True}
        self.live = plan
        return {"state": "starting", "changes": []}

    def stats(self, arrivals_after: int) -> dict[str, Any]:
        stage = {
            "items": 0, "queued": 0, "running": 0, "batches": 0, "busy_s": 0.0,
            "replicas": {"ready": 1, "starting": 0, "draining": 0},
        }  # fmt: skip
        counts = dict.fromkeys(("offered", "answered", "rejected", "dropped", "failed", "late", "in_flight"), 0)
        return {
            "now_s": self.now_s,
            "uptime_s": 100.0,
            "plan_hash": self.live.hash,
            "swap": {"state": "starting" if self.starting else "idle", "now": None, "last": None},
            "arrivals": {"cursor": 0, "missed": 0, "first_s": None, "gaps_us": []},
            "requests": counts,
            "stages": {name: dict(stage) for name in self.live.stages},
        }


@pytest.fixture
def server() -> Scripted:
    return Scripted()


def tuner(server: Scripted) -> Live:
    plan = tiny_plan()
    return Live(cast(Server, server), plan, terms(plan, Trace.poisson(rate=20, seconds=300, seed=1)), act=True)


def more(server: Scripted, replicas: int = 3, pause_s: float = 0.0) -> Decision:
    return Decision(dict.fromkeys(server.live.stages, replicas), "scale_up", "more comes", pause_s=pause_s)


def replicas(plan: Plan) -> set[int]:
    return {config.to_dict()["replicas"] for config in plan.stages.values()}


def test_it_asks_again_once_the_other_change_has_ended(server: Scripted) -> None:
    live = tuner(server)
    server.starting = True
    applied = live.apply(more(server))
    assert applied["waits"] == f"{BUSY}; asked again when it has ended, within {RETRY_S:g} s"
    assert "error" not in applied
    for _ in range(8):
        server.now_s += 0.25
        live.observe()
    assert len(server.asked) == 1, "nothing is asked while the other change is known to start"
    server.starting = False
    server.now_s += 0.25
    live.observe()
    assert replicas(server.live) == {3}
    assert live.happened(0.0)["waited"] == "asked again after 2.2 s"
    live.observe()
    assert len(server.asked) == 2


def test_it_waits_no_longer_than_a_decision_is_worth(server: Scripted) -> None:
    live = tuner(server)
    server.starting = True
    live.apply(more(server))
    server.now_s += RETRY_S
    live.observe()
    server.starting = False
    live.observe()
    assert server.live == tiny_plan()
    assert live.happened(0.0)["waited"] == f"given up after {RETRY_S:g} s: another change was still starting"


def test_a_later_decision_takes_the_place_of_the_one_that_waits(server: Scripted) -> None:
    live = tuner(server)
    server.starting = True
    live.apply(more(server))
    live.apply(more(server, replicas=4))
    server.starting = False
    live.observe()
    assert replicas(server.live) == {4}


def test_a_pause_goes_with_the_change(server: Scripted) -> None:
    live = tuner(server)
    live.apply(more(server, pause_s=2.5))
    assert [pause_s for _, pause_s in server.asked] == [2.5]
