"""The same load with gears, simulated and served: the same gears at the same times, and the same answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headway.cascade import Cascade, Step, ValidationTable
from headway.domains.cascade.gears import Gear, GearPlan, Group
from headway.plan.make import make
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.serve.engine import Limits
from headway.serve.replay import replay
from headway.serve.run import ServeOptions, running_in_thread
from headway.sim.outcome import Outcome
from headway.sim.simulation import simulate
from headway.spec.load import load
from headway.spec.model import Spec
from headway.trace import Trace

MEAN_S = {"small": 0.001, "large": 0.008}
WINDOW_S = 1.0
FEW, MANY = 6, 40
"""Requests in a window; gears change at 20."""
FROM_S, UNTIL_S = 0.3, 0.6
"""Requests come in this part of a window. So one that is up to SLACK_S late is counted, and answered, in its own."""
SLACK_S = WINDOW_S - UNTIL_S
ATTEMPTS = 4
"""A machine that holds requests up for longer than that serves another load: it is tried again."""
PATIENT = ServeOptions(limits=Limits(keep_promise=False))


def table(samples: int = 80) -> ValidationTable:
    """The large model errs in a fifth; the small one is right where it is sure, of every second, else it guesses."""
    rng = np.random.default_rng(samples)
    labels, sure = rng.integers(0, 2, samples), np.arange(samples) % 2 == 0
    small = np.where(sure, labels, rng.integers(0, 2, samples))
    large = np.where(np.isin(np.arange(samples) % 10, (2, 7)), 1 - labels, labels)
    return ValidationTable(
        labels, {"small": small, "large": large}, {"small": np.where(sure, 0.9, 0.1), "large": np.full(samples, 0.9)}
    )


def rows(stage: str) -> list[Row]:
    return [Row(stage, "cpu", n, n**0.5 * mean_s, variant=name) for name, mean_s in MEAN_S.items() for n in (1, 2, 4)]


def geared_plan(folder: Path) -> Plan:
    """A gear that asks the large model where the small one is unsure, up to 20/s; and beyond, the small one alone."""
    path = folder / "validation.csv"
    table().write(path)
    stage = {"kind": "cascade", "models": {name: {} for name in MEAN_S}, "table": str(path), "max_rate": "200/s"}
    spec = Spec.from_dict(
        {"name": "sort", "slo": {"latency": "5s"}, "supply": {"cpu": {"price": "$1/h"}}, "stages": {"sort": stage}}
    )
    gears = (
        Gear(Cascade((Step("small", threshold=0.5), Step("large"))), 20.0, (1, 1)),
        Gear(Cascade((Step("small"),)), 200.0, (1,)),
    )
    config = GearPlan("cpu", (Group(tuple(MEAN_S), 1),), (("small", 4), ("large", 4)), gears, window_s=WINDOW_S)
    return Plan(spec, Profile.from_rows(rows("sort")), {"sort": config})


def load_of(windows: Sequence[int]) -> Trace:
    """The first request opens the first window, those of each window come well inside of it."""
    spread = [at * WINDOW_S + np.linspace(FROM_S, UNTIL_S, count) for at, count in enumerate(windows)]
    return Trace.from_arrivals(np.concatenate([[0.0], *spread]))


def served(plan: Plan, trace: Trace, most_late_s: float) -> Outcome:
    """Return what was measured when no request was held up for longer; at last, whatever was."""
    for _ in range(ATTEMPTS):
        with running_in_thread(plan, PATIENT) as server:
            measured = replay(server.url, trace)
        if float(measured.latency_s.max()) < most_late_s:
            break
    return measured


def cascade_of(outcome: Outcome, stage: str) -> dict[str, Any]:
    return dict(outcome.to_dict()["stages"][stage]["cascade"])


def test_simulator_and_server_take_the_same_gears_at_the_same_times(tmp_path: Path) -> None:
    plan, trace = geared_plan(tmp_path), load_of([FEW, MANY, FEW, FEW])
    predicted, measured = simulate(plan, trace, mode="mean"), served(plan, trace, SLACK_S)
    told = [outcome.to_dict()["stages"]["sort"] for outcome in (predicted, measured)]
    before, after = ([(row["gear"], row["less_one"]) for row in stage["gear_history"]] for stage in told)
    # It begins in the cheapest gear; after each window comes the gear for what came in it.
    assert before == after == [(1, False), (0, False), (1, False), (0, False)]
    times = np.array([[row["from_s"] for row in stage["gear_history"]] for stage in told])
    assert times[0] == pytest.approx([0.0, 1.0, 2.0, 3.0])
    # Windows are counted from the first arrival, which is late by no more than any request may be.
    assert np.abs(times[1] - times[0]).max() < SLACK_S
    first, second = (stage["cascade"] for stage in told)
    for name in ("exits", "escalations", "skipped", "switches", "credit", "accuracy"):
        assert first[name] == second[name], name
    assert first["exits"]["large"] == first["escalations"]["small"] > 0
    assert sum(first["exits"].values()) == trace.requests
    assert predicted.accuracy == measured.accuracy == pytest.approx(first["credit"] / trace.requests)
    # Before the first request, and from the last answer to the last question, the server has a gear as well.
    for here, there in zip(first["gears"], second["gears"], strict=True):
        assert there["held_s"] == pytest.approx(here["held_s"], abs=2 * SLACK_S)


def test_two_cascades_of_one_graph_are_counted_each_on_its_own(tmp_path: Path) -> None:
    for name, samples in (("sort", 80), ("grade", 120)):
        table(samples).write(tmp_path / f"{name}.csv")
    (tmp_path / "headway.yaml").write_text(f"""
name: letters
slo: {{latency: 1s, percentile: 90, accuracy: 0.77}}
supply:
  cpu: {{price: $1/h}}
stages:
  sort: &family
    kind: cascade
    models: {{small: {{}}, large: {{}}}}
    table: {tmp_path / "sort.csv"}
    max_rate: 20/s
  grade:
    <<: *family
    after: sort
    table: {tmp_path / "grade.csv"}
""")
    spec, trace = load(tmp_path / "headway.yaml"), Trace.from_arrivals(np.arange(40) * 0.05)
    plan = make(spec, Profile.from_rows([*rows("sort"), *rows("grade")]), trace, feasibility="trace")
    predicted, measured = simulate(plan, trace, mode="mean"), served(plan, trace, math.inf)
    assert {name: config.to_dict()["devices"] for name, config in plan.stages.items()} == {"sort": 1, "grade": 1}
    for name in plan.stages:
        # One device carries the best cascade at any of these rates, so that when items come changes no answer.
        (gear,) = plan.stages[name].to_dict()["gears"]
        assert [step["model"] for step in gear["steps"]] == ["small", "large"]
        first, second = cascade_of(predicted, name), cascade_of(measured, name)
        assert first["exits"] == second["exits"]
        assert first["credit"] == second["credit"]
        assert sum(first["exits"].values()) == predicted.stages[name].items == measured.stages[name].items == 40
    # What both stages answer rightly is right: the parts err independently.
    parts = [cascade_of(measured, name)["accuracy"] for name in plan.stages]
    assert parts[0] != parts[1]
    assert measured.accuracy == pytest.approx(parts[0] * parts[1])
