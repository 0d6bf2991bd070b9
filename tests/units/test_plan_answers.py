"""What the planner says when it cannot plan, when a baseline falls short, and which criterion its figures go by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headway.domains.pipeline.declare import ReplicaConfig
from headway.plan import Infeasible, Plan
from headway.plan import reasons as reasons_of_a_plan
from headway.plan.explain import headroom
from headway.plan.make import baselines, make
from headway.plan.oracle import Oracle
from headway.plan.promise import Criterion, duration_text
from headway.plan.smallest import promise_s
from headway.profile import Profile, Row
from headway.sim.outcome import promise_holds
from headway.spec.model import Spec
from headway.trace import Trace

PROFILE = Profile.from_rows(
    [
        *(Row("a", *cell) for cell in (("cpu", 1, 0.05), ("gpu", 1, 0.01), ("gpu", 8, 0.03))),
        *(Row("b", *cell) for cell in (("cpu", 1, 0.04), ("gpu", 1, 0.01))),
    ]
)
CODES = ("supply", "promise_broken")


def spec(slo: dict[str, Any] | None = None, cpu: int = 3, gpu: int = 1, **fields: Any) -> Spec:
    return Spec.from_dict(
        {
            "slo": {"latency": "300ms", **(slo or {})},
            "supply": {"cpu": {"price": "$0.20/h", "max": cpu}, "gpu": {"price": "$0.90/h", "max": gpu}},
            "stages": {"a": {}, "b": {"after": "a"}},
            **fields,
        }
    )


@pytest.fixture(scope="module")
def trace() -> Trace:
    return Trace.poisson(rate=30, seconds=60, seed=1)


def refusal(*problem: Any, **options: Any) -> dict[str, Any]:
    with pytest.raises(Infeasible) as caught:
        make(*problem, feasibility="trace", **options)
    return caught.value.to_dict()


def reasons(plan: Plan, *codes: str) -> list[Any]:
    return [reason for reason in plan.reasons if reason.code in codes]


def test_a_baseline_that_finds_nothing_proves_nothing(trace: Trace) -> None:
    """Both stages want the one GPU first; exact search gives it to one of them."""
    exact = make(spec(), PROFILE, trace, feasibility="trace", explained=False)
    assert exact.feasible
    assert exact.cost_usd_per_hour == pytest.approx(1.3)
    told = refusal(spec(), PROFILE, trace, planner="greedy")
    assert (told["code"], told["stage"], told["smallest_slo_s"]) == ("local", None, None)
    assert "exact planner" in told["text"]
    assert "infeasible" not in told["text"]


@pytest.mark.parametrize("planner", ["exact", "greedy", "cg-mean"])
def test_what_is_proven_is_said_by_every_planner(trace: Trace, planner: str) -> None:
    told = refusal(spec({"latency": "15ms"}), PROFILE, trace, planner=planner)
    assert (told["code"], told["stage"]) == ("slo_below_service_time", "a")


def test_a_baseline_that_ignores_supply_says_what_is_lacking(trace: Trace) -> None:
    plan = make(spec(), PROFILE, trace, planner="cg-mean", feasibility="trace")
    assert not plan.feasible
    [reason] = reasons(plan, "supply")
    assert reason.values == {"hardware": "gpu", "wanted": 2, "max": 1}
    assert not reasons(plan, "binding_constraint", "rejected", "headroom")
    assert "2 replicas" in baselines(spec(), PROFILE, trace, feasibility="trace")["cg-mean"]["note"]


def test_a_baseline_that_breaks_the_promise_gives_the_miss_rate(trace: Trace) -> None:
    bursty = Trace.from_arrivals(np.repeat(np.arange(20) * 1.0, 100), duration_s=20.0)
    plan = make(spec(gpu=50), PROFILE, bursty, planner="cg-mean", feasibility="trace", explained=False)
    [reason] = reasons(plan, *CODES)
    assert not plan.feasible
    assert reason.values["miss_rate"] == pytest.approx(plan.predicted["miss_rate"])
    assert "(1% allowed)" in reason.text
    good = make(spec(gpu=50), PROFILE, trace, planner="cg-peak", feasibility="trace", explained=False)
    assert bool(reasons(good, *CODES)) is not good.feasible


WINDOWS = {"latency": "100ms", "percentile": 95, "window": "1s", "objective": "80%"}


@pytest.fixture(scope="module")
def bursts() -> Trace:
    even = np.arange(300) / 10
    return Trace.from_arrivals(np.sort(np.r_[even, np.repeat([5.05, 15.05], 30)]), duration_s=30.0)


@pytest.mark.parametrize("slo", [WINDOWS, {"latency": "100ms", "percentile": 95}])
def test_the_oracle_tells_on_which_traces_the_promise_holds(bursts: Trace, slo: dict[str, Any]) -> None:
    oracle = Oracle(spec(slo), PROFILE, bursts, seed=1)
    stages = {"a": ReplicaConfig("gpu"), "b": ReplicaConfig("cpu", 3)}
    verdict = oracle.judge(stages, all_traces=True)
    assert len(verdict.held) == len(oracle.traces)
    own = oracle.spec.slo
    for k, trace in enumerate(oracle.traces):
        missed = oracle.simulations.finish_s(k, stages) - trace.arrival_s > own.latency_s + 1e-9
        held = promise_holds(trace.arrival_s, missed, own.percentile, own.window_s, own.objective)
        assert verdict.held[k] is held
        assert (verdict.broken[k] <= oracle.criterion.allowed + 1e-9) is held
    assert verdict.feasible is (verdict.held.count(False) <= oracle.may_fail)


def test_reasons_go_by_windows_where_the_promise_does(bursts: Trace) -> None:
    plan = make(spec(WINDOWS, gpu=50), PROFILE, bursts, seed=1)
    assert plan.feasible
    assert plan.predicted["miss_rate"] > 0.05, "the case must break the promise over all requests"
    [judged] = reasons(plan, "judged")
    assert judged.values["kept"] >= 0.97 * judged.values["traces"]
    assert "windows" in judged.text
    refused = reasons(plan, "rejected")
    assert refused
    for reason in refused:
        assert "windows of 1 s (20% allowed)" in reason.text
        assert reason.values["broken"] > 0.2
    [binding] = reasons(plan, "binding_constraint")
    assert "in 80% of the windows of 1 s" in binding.text


def test_windows_count_each_alone() -> None:
    criterion = Criterion(50.0, 1.0, 0.5)
    arrival_s = np.array([0.0, 0.5, 1.0, 1.5, 2.0])
    missed = np.array([True, True, True, False, False])
    assert criterion.broken(arrival_s, missed) == pytest.approx(1 / 3)
    assert criterion.holds(arrival_s, missed)


def test_too_small_a_budget_names_the_dearest_stage_and_a_promise_it_pays_for(trace: Trace) -> None:
    tight = {"latency": "60ms", "max_cost": "$1.25/h"}
    told = refusal(spec(tight, cpu=50, gpu=50), PROFILE, trace)
    assert told["code"] == "budget"
    assert told["stage"] in ("a", "b")
    assert "/h is needed" in told["text"]
    looser = {**tight, "latency": f"{told['smallest_slo_s'] * 1e3}ms"}
    assert make(spec(looser, cpu=50, gpu=50), PROFILE, trace, feasibility="trace", explained=False).feasible
    poor = refusal(spec({**tight, "max_cost": "$0.10/h"}, cpu=50, gpu=50), PROFILE, trace)
    assert poor["smallest_slo_s"] is None
    assert "none was found" in poor["text"]
    greedy = refusal(spec(tight, cpu=50, gpu=50), PROFILE, trace, planner="greedy")
    assert "is needed" not in greedy["text"]


def test_limits_of_supply_leave_a_smallest_promise(trace: Trace) -> None:
    """One of each: a on one kind of hardware and b on the other is all there is."""
    few = spec({"latency": "60ms"}, cpu=1, gpu=1)
    told = refusal(few, PROFILE, trace)
    assert told["code"] == "capacity"
    assert told["smallest_slo_s"] is not None
    enough = spec({"latency": f"{told['smallest_slo_s'] * 1e3 + 1e-3}ms"}, cpu=1, gpu=1)
    assert make(enough, PROFILE, trace, feasibility="trace", explained=False).feasible
    assert " s" in told["text"]
    assert "e+0" not in told["text"]


SIZES = {"small": {"accuracy": 0.8}, "large": {"accuracy": 0.9}}
SIZED = Profile.from_rows(
    [*(Row("a", "cpu", 1, s, variant=v) for v, s in (("small", 0.01), ("large", 0.02))), Row("b", "cpu", 1, 0.01)]
)


def sized(slo: dict[str, Any] | None = None, **b: Any) -> Spec:
    return spec(slo, cpu=50, stages={"a": {"variants": SIZES}, "b": {"after": "a", **b}})


def test_an_accuracy_out_of_reach_names_the_stage_and_the_best(trace: Trace) -> None:
    told = refusal(sized({"accuracy": 0.9}, accuracy=0.95), SIZED, trace)
    assert (told["code"], told["stage"]) == ("accuracy", "a")
    assert told["best_accuracy"] == pytest.approx(0.9 * 0.95)
    assert "0.855" in told["text"]


@pytest.mark.parametrize("planner", ["greedy", "cg-mean"])
def test_a_baseline_is_given_the_most_accurate_variants_and_says_so(trace: Trace, planner: str) -> None:
    plan = make(sized(accuracy=0.95), SIZED, trace, planner=planner, feasibility="trace", explained=False)
    assert plan.variants["a"] == "large"
    [reason] = reasons(plan, "baseline")
    assert "most accurate" in reason.text
    assert "large at a" in reason.text
    exact = make(sized(accuracy=0.95), SIZED, trace, feasibility="trace", budget=1, explained=False)
    assert planner != "greedy" or exact.cost_usd_per_hour <= plan.cost_usd_per_hour


def test_what_current_does_not_name_is_said(trace: Trace) -> None:
    now = {"a": {"hardware": "gpu", "replicas": 2}}
    plan = make(spec(gpu=50, current=now), PROFILE, trace, feasibility="trace", explained=False)
    [reason] = reasons(plan, "current")
    assert "does not name b" in reason.text
    assert reason.values["assumed"] == ["b"]


def test_what_is_feasible_has_no_headroom_below_one(trace: Trace) -> None:
    """The promise is the very latency that an overloaded candidate reaches: the least more traffic breaks it."""
    stages = {"a": ReplicaConfig("cpu", 1), "b": ReplicaConfig("cpu", 1)}
    loose = Oracle(spec(cpu=4), PROFILE, trace, feasibility="trace")
    tight = loose.with_slo(promise_s(loose, stages))
    assert tight.feasible(stages)
    assert headroom(tight, stages)[0] == 1.0
    broken = loose.with_slo(0.99 * promise_s(loose, stages))
    assert headroom(broken, stages)[0] < 1.0


def test_no_room_to_spare_is_said_in_words() -> None:
    assert "1.00" not in reasons_of_a_plan.headroom(1.0049, "a").text
    assert "no room to spare" in reasons_of_a_plan.headroom(1.0, "a").text
    assert "1.01" in reasons_of_a_plan.headroom(1.006, "a").text


@pytest.mark.parametrize(("value_s", "text"), [(19.34, "19.3 s"), (0.0241, "24.1 ms"), (1.0, "1 s"), (0.99999, "1 s")])
def test_durations_are_written_in_seconds_from_one_on(value_s: float, text: str) -> None:
    assert duration_text(value_s) == text


def test_stages_above_are_found_once_in_a_long_row_of_diamonds() -> None:
    """Twenty-four diamonds have 2 ** 24 paths; looked at one by one they would not end."""
    stages: dict[str, Any] = {"s0": {}}
    for n in range(24):
        stages |= {f"l{n}": {"after": f"s{n}"}, f"r{n}": {"after": f"s{n}"}}
        stages[f"s{n + 1}"] = {"after": [f"l{n}", f"r{n}"]}
    rows = Profile.from_rows(Row(name, "cpu", 1, 0.001) for name in stages)
    row = spec(stages=stages, cpu=50)
    oracle = Oracle(row, rows, Trace.from_arrivals([0.0]), feasibility="trace")
    assert oracle.simulations._above["s24"] == row.graph.order
