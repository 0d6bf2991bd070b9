"""What a tuner asks of a server: what is in its way it waits for, within bounds, and what came of it is its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from headway.errors import PlanError
from headway.plan.plan import Plan
from headway.policy.scaling import Decision, Observation, hold
from headway.testing.examples import tiny_plan
from headway.trace import Trace
from headway.tune.effect import Judged
from headway.tune.journal import Journal, read
from headway.tune.live import RETRY_S, Live
from headway.tune.loop import run
from headway.tune.server import Server
from headway.tune.terms import terms
from headway.tune.told import Told

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


class Crash(BaseException):
    """The tuner's process ends here and now."""


class Once:
    """A tuner that asks for three replicas everywhere when it is first asked, and for nothing after."""

    name = "once"

    def decide(self, observation: Observation, memory: Any) -> tuple[Decision, Any]:
        if memory is not None:
            return hold(observation, "said"), memory
        return Decision(dict.fromkeys(observation.stages, 3), "scale_up", "more comes"), True


def journaled(server: Scripted, path: Path, **how: Any) -> list[dict[str, Any]]:
    """The lines of a tuner that is told to end after its first look but one."""
    plan = tiny_plan()
    about = terms(plan, Trace.poisson(rate=20, seconds=300, seed=1))
    live = Live(cast(Server, server), plan, about, **how)
    looks = iter([True, False])
    live.wait = lambda seconds: next(looks)  # type: ignore[method-assign]
    live.judged = lambda since_s: Judged(0, 0, 0, None)  # type: ignore[method-assign]
    with Journal(path) as journal:
        journal.started({"tuner": "once"})
        run(Once(), live, listener=Told(journal, lambda entry: None, lambda text: None))
    return read(path)


def test_what_a_tuner_asks_for_is_on_disk_before_the_server_is_asked(server: Scripted, tmp_path: Path) -> None:
    path, change = tmp_path / "decisions.jsonl", server.change
    found: list[dict[str, Any]] = []

    def crashes(plan: Plan, pause_s: float = 0.0) -> dict[str, Any]:
        change(plan, pause_s)
        found.extend(read(path))
        raise Crash

    server.change = crashes  # type: ignore[method-assign]
    with pytest.raises(Crash):
        journaled(server, path, act=True)
    assert found == read(path)
    assert [line["kind"] for line in found] == ["started", "decided"]
    assert found[1]["asked"] == {"plan_hash": server.live.hash}
    assert (found[1]["to"], found[1]["applied"]) == (dict.fromkeys(server.live.stages, 3), {})


@pytest.mark.parametrize("refused", [False, True])
def test_what_a_server_answered_is_a_line_of_its_own(server: Scripted, tmp_path: Path, refused: bool) -> None:
    if refused:
        server.change = lambda plan, pause_s=0.0: {"error": "supply is at its end"}  # type: ignore[method-assign]
    lines = journaled(server, tmp_path / "decisions.jsonl", act=True)
    assert [line["kind"] for line in lines] == ["started", "decided", "applied", "happened"]
    _, decided, applied, happened = lines
    assert applied["number"] == decided["number"] == happened["number"]
    assert applied["applied"]["plan_hash"] == decided["asked"]["plan_hash"]
    assert applied["applied"].get("error") == ("supply is at its end" if refused else None)


def test_advice_is_one_line_since_nothing_is_asked_for(server: Scripted, tmp_path: Path) -> None:
    lines = journaled(server, tmp_path / "decisions.jsonl")
    assert [line["kind"] for line in lines] == ["started", "decided", "happened"]
    assert lines[1]["applied"] == {"advised": True}
    assert "asked" not in lines[1]


def test_a_tuner_refuses_a_server_that_keeps_another_promise_and_ends_when_it_is_given_one(
    server: Scripted, tmp_path: Path
) -> None:
    plan = tiny_plan()
    slo = plan.spec.slo.model_copy(update={"latency_s": 9.0})
    stricter = replace(plan, spec=plan.spec.model_copy(update={"slo": slo}))
    live = tuner(server)
    server.live = stricter
    for late in (lambda: tuner(server), live.observe):
        with pytest.raises(
            PlanError, match=r"keeps another promise: slo\.latency is .*9.* there and .*; give the plan"
        ):
            late()
