"""What a tuner asks of a server: what is in its way it waits for, within bounds, and what came of it is its own."""

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
        self.last: dict[str, Any] | None = None

    def plan(self) -> Plan:
        return self.live

    def change(self, plan: Plan, pause_s: float = 0.0) -> dict[str, Any]:
        self.asked.append((plan, pause_s))
        if self.starting:
            return {"error": BUSY, "busy": True}
        self.live = plan
        return {"id": len(self.asked), "to": plan.hash, "state": "starting", "why": "", "changes": []}

    def ended(self, state: str, why: str = "") -> None:
        """The change that was asked for last has ended."""
        self.last = {"id": len(self.asked), "to": self.live.hash, "state": state, "why": why}

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
            "swap": {"state": "starting" if self.starting else "idle", "now": None, "last": self.last},
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
    at_s = live.now_s
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
    assert live.happened(at_s)["waited"] == "asked again after 2.2 s"
    live.observe()
    assert len(server.asked) == 2


def test_it_waits_no_longer_than_a_decision_is_worth(server: Scripted) -> None:
    live = tuner(server)
    server.starting = True
    at_s = live.now_s
    live.apply(more(server))
    server.now_s += RETRY_S
    live.observe()
    server.starting = False
    live.observe()
    assert server.live == tiny_plan()
    assert live.happened(at_s)["waited"] == f"given up after {RETRY_S:g} s: another change was still starting"


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


def test_what_became_of_a_change_is_that_of_the_decision_it_was_asked_for_with(server: Scripted) -> None:
    live = tuner(server)
    first_s = live.now_s
    first = live.apply(more(server))
    server.ended("rolled_back", "it was slower")
    server.now_s += 1.0
    live.observe()
    second_s = live.now_s
    second = live.apply(more(server, replicas=4))
    server.ended("kept")
    server.now_s += 1.0
    live.observe()
    server.last = {"id": 99, "to": "9999", "state": "failed", "why": "an operator's"}
    server.now_s += 1.0
    live.observe()
    found = [live.happened(at_s)["swap"] for at_s in (first_s, second_s)]
    assert [swap["id"] for swap in found] == [first["change"], second["change"]]
    assert [swap["state"] for swap in found] == ["rolled_back", "kept"]
    assert found[0]["why"] == "it was slower"
    assert "swap" not in live.happened(50.0), "nothing was asked for then"


def test_a_decision_that_waits_is_not_said_to_have_made_the_change_in_its_way(server: Scripted) -> None:
    live = tuner(server)
    server.starting = True
    at_s = live.now_s
    live.apply(more(server))
    server.last = {"id": 99, "to": "9999", "state": "kept", "why": "an operator's"}
    server.now_s += 1.0
    live.observe()
    assert "swap" not in live.happened(at_s)
    live.apply(more(server, replicas=4))
    assert live.happened(at_s)["waited"] == "a later decision took its place"
