"""What is expected of a decision and what happened stand in the same figures, and belong to the same change."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headway.policy.scaling import Decision, StageSeen, Terms
from headway.policy.tuners import TUNERS, tuner
from headway.testing.examples import tiny_plan
from headway.testing.scaling import example_terms, steady
from headway.trace import Trace
from headway.tune.effect import Effect, Judged, expected
from headway.tune.journal import Journal, read
from headway.tune.loop import REVIEW_S
from headway.tune.simulated import Simulated, simulate_tuner
from headway.tune.terms import terms

STARTUP_S = 5.0
NOTHING = Judged(0, 0, 0, None)


def started(latency_s: float = 0.2) -> Terms:
    """The terms of a plan whose replicas take a while to start."""
    about = terms(tiny_plan(), Trace.poisson(40.0, 200, seed=1))
    stages = {name: dataclasses.replace(stage, startup_s=STARTUP_S) for name, stage in about.stages.items()}
    return dataclasses.replace(about, stages=stages)


def reviewed(folder: Path, name: str) -> list[dict[str, Any]]:
    plan, about = tiny_plan(), started()
    live = Trace.spike(40.0, 2.5, at_s=20.0, for_s=30.0, seconds=120.0, seed=3)
    with Journal(folder / f"{name}.jsonl") as journal:
        journal.started({"tuner": name})
        simulate_tuner(plan, live, tuner(name, about), about, listener=journal)
    lines = read(folder / f"{name}.jsonl")
    decided = {line["number"]: line for line in lines if line["kind"] == "decided"}
    happened = [line for line in lines if line["kind"] == "happened"]
    assert sorted(decided) == sorted(line["number"] for line in happened)
    for line in happened:
        assert line["expected"] == decided[line["number"]]["expected"]
    return [{**line, "decided": decided[line["number"]]} for line in happened]


@pytest.mark.parametrize("name", sorted(set(TUNERS) - {"none"}))
def test_what_was_expected_and_what_happened_are_the_same_figures(tmp_path: Path, name: str) -> None:
    for line in reviewed(tmp_path, name):
        assert list(line["expected"]) == list(line["happened"])
        assert line["expected"]["miss_rate"] == pytest.approx(0.01)
        assert line["expected"]["latency_s"] == tiny_plan().spec.slo.latency_s


def test_replicas_are_ready_when_their_start_was_expected_to_end_and_the_backlog_goes_afterwards(
    tmp_path: Path,
) -> None:
    ups = [line for line in reviewed(tmp_path, "headway") if line["decided"]["code"] == "scale_up"]
    assert ups
    first = ups[0]
    assert first["expected"]["ready_s"] == STARTUP_S
    assert STARTUP_S <= first["happened"]["ready_s"] <= STARTUP_S + 0.25
    assert first["happened"]["drained_s"] >= first["happened"]["ready_s"]
    assert first["expected"]["rate_per_s"] > 40.0
    settled_s = first["decided"]["at_s"] + max(first["expected"]["ready_s"], first["expected"]["drained_s"] or 0.0)
    assert settled_s + REVIEW_S <= first["at_s"] < settled_s + REVIEW_S + 0.5


def test_the_figures_are_of_the_requests_that_came_once_the_effect_should_have_shown() -> None:
    plan, about = tiny_plan(), started()
    trace = Trace.poisson(rate=20.0, seconds=30.0, seed=2)
    environment = Simulated(plan, trace, about)
    while environment.wait(0.25):
        environment.observe()
    judged = environment.judged(10.0)
    effect = Effect(10.0 - STARTUP_S, Decision({"first": 2, "second": 2}, expected={"ready_s": STARTUP_S}), about)
    happened = effect.happened(judged, environment.now_s)
    late = trace.arrival_s > 10.0
    outcome = environment.outcome()
    assert judged.offered == int(late.sum())
    assert happened["rate_per_s"] == pytest.approx(late.sum() / (environment.now_s - 10.0), abs=1e-3)
    # What is still on its way when the trace ends is not judged yet.
    assert 0 <= judged.offered - judged.judged < 20
    assert judged.missed == pytest.approx(int(outcome.missed[late].sum()), abs=judged.offered - judged.judged)


def test_ready_and_drained_are_when_they_are_first_seen() -> None:
    about = example_terms()
    effect = Effect(60.0, Decision({"first": 4, "second": 3}, expected={"ready_s": 5.0, "drained_s": 6.0}), about)
    assert effect.settled_s == 66.0
    scenes = [(60.0, 3, 0), (64.0, 3, 50), (65.0, 4, 50), (66.0, 4, 5), (67.5, 4, 4), (70.0, 4, 90)]
    for now_s, first, queued in scenes:
        seen = {"first": StageSeen(ready=first, queued=queued), "second": StageSeen(ready=3, queued=6)}
        effect.look(dataclasses.replace(steady(about, now_s=now_s), stages=seen))
    happened = effect.happened(NOTHING, 70.0)
    assert (happened["ready_s"], happened["drained_s"]) == (5.0, 7.5)


def test_what_is_not_known_is_not_zero() -> None:
    about = example_terms()
    effect = Effect(60.0, Decision({"first": 9, "second": 9}, expected={"ready_s": 5.0}), about)
    effect.look(steady(about, now_s=80.0))
    assert set(effect.happened(NOTHING, 64.0).values()) == {None}
    assert effect.happened(NOTHING, 80.0)["rate_per_s"] == 0.0
    assert expected(Decision({"first": 9}), about)["drained_s"] is None
    assert Judged.of(3, np.array([0.1, np.inf]), about) == Judged(3, 2, 1, None)
