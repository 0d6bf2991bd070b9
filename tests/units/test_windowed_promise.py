"""A promise by windows reads the same everywhere: what counts is the share of windows in which it was kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from headway.plan.make import make
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.report import terminal, words
from headway.report.html import render
from headway.report.story import Story
from headway.sim.outcome import Outcome, promise_holds
from headway.sim.simulation import compare, simulate
from headway.spec.model import Spec
from headway.trace import Trace

SLO = {"latency": "100ms", "percentile": 99, "window": "10s", "objective": "50%"}


@pytest.fixture(scope="module")
def bursts() -> Trace:
    """Calm windows and two windows with bursts that hold most of the requests."""
    calm = np.arange(600) / 10
    return Trace.from_arrivals(np.sort(np.r_[calm, np.repeat([15.0, 35.0], 400)]), duration_s=60.0)


@pytest.fixture(scope="module")
def plan(bursts: Trace) -> Plan:
    document = {"slo": SLO, "supply": {"cpu": {"price": "$0.2/h"}}, "stages": {"a": {}}}
    profile = Profile.from_rows([Row("a", "cpu", 1, 0.02)])
    return make(Spec.from_dict(document), profile, bursts, feasibility="trace")


def printed(view: Any) -> str:
    console = Console(width=100, no_color=True, force_terminal=False)
    with console.capture() as capture:
        console.print(view)
    return " ".join(capture.get().split())


def test_an_outcome_carries_the_windows_that_it_is_judged_by(plan: Plan, bursts: Trace) -> None:
    outcome = simulate(plan, bursts, mode="mean")
    told = outcome.to_dict()
    assert outcome.holds
    assert told["miss_rate"] > 0.1, "over all requests the promise must be broken"
    assert (told["slo_window_s"], told["slo_objective"]) == (10.0, 0.5)
    assert told["windows_kept"] == pytest.approx(4 / 6)
    assert promise_holds(outcome.arrival_s, outcome.missed, 99.0, 10.0, told["windows_kept"])
    assert not promise_holds(outcome.arrival_s, outcome.missed, 99.0, 10.0, told["windows_kept"] + 0.01)


def test_an_outcome_without_windows_says_nothing_of_them() -> None:
    whole = Outcome(np.array([0.0, 1.0]), np.array([0.1, 0.5]), np.zeros(2, np.int8), 0.3, 99.0)
    assert [whole.to_dict()[name] for name in ("slo_window_s", "slo_objective", "windows_kept")] == [None] * 3
    assert "windows" not in printed(terminal.outcome_view(whole))
    assert "windows_kept" not in compare(whole.to_dict(), whole.to_dict())["figures"]


def test_the_terminal_says_what_was_promised_and_kept(plan: Plan, bursts: Trace) -> None:
    said = printed(terminal.outcome_view(simulate(plan, bursts, mode="mean").to_dict()))
    assert "99% within 100 ms in 50% of the windows of 10 s kept" in said
    assert "kept in 66.7% of them" in said
    assert "of all requests" in said


def test_a_plan_is_worded_by_the_windows_kept(plan: Plan) -> None:
    assert plan.feasible
    assert plan.predicted["windows_kept"] == pytest.approx(4 / 6)
    said = "; ".join(words.prediction(plan))
    assert "kept in 66.7% of the windows (50% needed)" in said
    assert "allowed" not in said


def test_resampled_traces_are_worded_by_windows_as_well(plan: Plan, bursts: Trace) -> None:
    robust = make(plan.spec, plan.profile, bursts, seed=1, explained=False)
    assert robust.predicted["windows_kept_p97"] >= 0.5
    assert "of the windows on 97% of 40 resampled traces" in "; ".join(words.prediction(robust))


def test_outcomes_are_compared_by_windows(plan: Plan, bursts: Trace) -> None:
    before = simulate(plan, bursts, mode="mean").to_dict()
    after = {**before, "windows_kept": 1.0}
    assert compare(before, after)["figures"]["windows_kept"]["difference"] == pytest.approx(2 / 6)
    assert "windows kept" in printed(terminal.predicted_measured_view(before, after))


def test_the_report_says_it_in_tiles_and_beside_costs(plan: Plan, bursts: Trace) -> None:
    other = {"cost_usd_per_hour": 0.1, "miss_rate": 0.55, "windows_kept": 0.25, "feasible": False}
    measured = replace(simulate(plan, bursts, mode="mean"), kind="measured")
    html = render(Story("Bursts", plan, baselines=(("other", other),), measured=measured))
    assert "SLO 100\xa0ms, kept in 66.7% of windows" in html
    assert f"{measured.requests:,} requests, kept in 66.7% of windows" in html
    assert ">kept in 25% of windows</text>" in html
    assert "misses 55%" not in html
    assert "55% miss" not in html
