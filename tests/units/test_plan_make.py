"""What planning says when it stops early, when nothing fits, and when there is something to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headway.domains.pipeline.declare import ReplicaConfig
from headway.errors import PlanError, ProfileError
from headway.plan import Infeasible, Plan, current_plan, diff
from headway.plan.difference import predict
from headway.plan.infeasible import SCHEMA
from headway.plan.make import make
from headway.plan.oracle import Oracle
from headway.plan.search import Expansion, Limits, Node, best_first
from headway.plan.smallest import least_promise_s
from headway.profile import Profile, Row
from headway.sim.outcome import promise_holds
from headway.sim.simulation import simulate
from headway.spec.model import Spec
from headway.trace import Trace

ROWS = [
    Row(stage, hardware, batch, mean_s * factor, p50_s=mean_s * factor, p95_s=1.2 * mean_s * factor)
    for stage, means in {"a": {1: 0.02, 2: 0.03, 4: 0.05}, "b": {1: 0.04, 2: 0.05, 4: 0.08}}.items()
    for hardware, factor in (("cpu", 1.0), ("gpu", 0.4))
    for batch, mean_s in means.items()
]
PROFILE = Profile.from_rows(ROWS)


def spec(slo: dict[str, Any] | None = None, limits: dict[str, Any] | None = None, **fields: Any) -> Spec:
    return Spec.from_dict(
        {
            "slo": {"latency": "150ms", "percentile": 95, **(slo or {})},
            "supply": {"cpu": {"price": "$0.2/h", **(limits or {})}, "gpu": {"price": "$0.7/h", **(limits or {})}},
            "stages": {"a": {}, "b": {"after": "a"}},
            **fields,
        }
    )


@pytest.fixture(scope="module")
def trace() -> Trace:
    return Trace.gamma(60.0, 3.0, requests=800, seed=2)


def refusal(*problem: Any, **options: Any) -> dict[str, Any]:
    with pytest.raises(Infeasible) as caught:
        make(*problem, **options)
    assert str(caught.value) == caught.value.to_dict()["text"]
    return caught.value.to_dict()


def test_a_search_without_a_budget_proves_what_it_found(trace: Trace) -> None:
    plan = make(spec(), PROFILE, trace, feasibility="trace", explained=False)
    assert plan.gap_ratio == 0.0
    assert plan.lower_bound_usd_per_hour == plan.cost_usd_per_hour
    assert plan.provenance["stop"] == "optimal"


def test_a_search_stopped_by_its_budget_says_how_far_it_can_be(trace: Trace) -> None:
    whole = make(spec(), PROFILE, trace, feasibility="trace", explained=False)
    greedy = make(spec(), PROFILE, trace, feasibility="trace", planner="greedy", explained=False)
    assert greedy.cost_usd_per_hour > whole.cost_usd_per_hour, "the case must leave the search something to do"
    stopped = make(spec(), PROFILE, trace, feasibility="trace", budget=1, explained=False)
    assert stopped.cost_usd_per_hour == greedy.cost_usd_per_hour
    assert stopped.gap_ratio is not None
    assert stopped.gap_ratio > 0
    assert stopped.lower_bound_usd_per_hour is not None
    assert stopped.lower_bound_usd_per_hour <= whole.cost_usd_per_hour
    assert stopped.reasons[0].code == "gap"
    assert stopped.provenance["stop"] == "budget"


def test_progress_is_told(trace: Trace) -> None:
    heard: list[str] = []
    make(spec(), PROFILE, trace, feasibility="trace", progress=heard.append)
    assert any("greedy plan" in text for text in heard)
    assert any("frontier" in text for text in heard)


def test_a_promise_below_the_fastest_request_names_the_stage_and_what_is_possible(trace: Trace) -> None:
    """Fastest: 8 ms at a and 16 ms at b."""
    told = refusal(spec({"latency": "20ms"}), PROFILE, trace, feasibility="trace")
    assert (told["schema"], told["feasible"], told["code"]) == (SCHEMA, False, "slo_below_service_time")
    assert told["stage"] == "b"
    assert told["smallest_slo_s"] == pytest.approx(0.024)
    hair_above = spec({"latency": f"{told['smallest_slo_s'] * 1e3 + 1e-6}ms"})
    oracle = Oracle(hair_above, PROFILE, trace, feasibility="trace")
    assert oracle.feasible({name: ReplicaConfig("gpu", 1024) for name in "ab"})


@pytest.mark.parametrize("limit", [{"max": 1}, {"max": 3}])
def test_too_little_supply_names_the_stage_that_runs_out(trace: Trace, limit: dict[str, Any]) -> None:
    heavy = trace.scale_time(0.2)
    told = refusal(spec({"latency": "80ms"}, limit), PROFILE, heavy, feasibility="trace", seed=1)
    assert told["code"] == "capacity"
    assert told["stage"] in ("a", "b")
    if told["smallest_slo_s"] is not None:
        slo = {"latency": f"{told['smallest_slo_s'] * 1e3 + 1e-3}ms"}
        plan = make(spec(slo, limit), PROFILE, heavy, feasibility="trace", seed=1, explained=False)
        assert plan.feasible


def test_a_limit_of_supply_counts_over_all_stages() -> None:
    """Each stage alone could have two; together they may not have three."""
    steady = Trace.from_arrivals(np.arange(400) / 40, duration_s=10.0)
    only_cpu = Profile.from_rows(row for row in ROWS if row.hardware == "cpu" and row.batch_size == 1)
    slo = {"latency": "100ms"}
    free = make(spec(slo), only_cpu, steady, feasibility="trace", explained=False)
    assert sum(c.to_dict()["replicas"] for c in free.stages.values()) == 3
    told = refusal(spec(slo, {"max": 2}), only_cpu, steady, feasibility="trace")
    assert told["code"] == "capacity"
    enough = make(spec(slo, {"max": 3}), only_cpu, steady, feasibility="trace", explained=False)
    assert enough.cost_usd_per_hour == free.cost_usd_per_hour


def test_a_pool_bounds_what_its_replicas_can_do(trace: Trace) -> None:
    shared = {"pools": {"host": {"cores": 2}}}
    limits = {"pool": "host"}
    told = refusal(spec({"latency": "60ms"}, limits, **shared), PROFILE, trace, feasibility="trace")
    assert told["code"] == "capacity"
    calm = trace.scale_time(10.0)
    plan = make(spec(None, limits, **shared), PROFILE, calm, feasibility="trace", explained=False)
    assert simulate(plan, calm, mode="mean").holds
    assert all(config.to_dict()["replicas"] <= 2 for config in plan.stages.values())


def test_an_accuracy_out_of_reach_is_refused(trace: Trace) -> None:
    stages = {
        "a": {"variants": {"small": {"accuracy": 0.8}, "large": {"accuracy": 0.9}}},
        "b": {"after": "a", "accuracy": 0.95},
    }
    rows = [
        *(Row("a", "cpu", 1, s, variant=v) for v, s in (("small", 0.01), ("large", 0.03))),
        Row("b", "cpu", 1, 0.01),
    ]
    profile = Profile.from_rows(rows)
    told = refusal(spec({"accuracy": 0.9}, stages=stages), profile, trace)
    assert (told["code"], told["stage"]) == ("accuracy", "a")
    calm = trace.scale_time(4.0)
    cheap = make(spec({"accuracy": 0.75}, stages=stages), profile, calm, feasibility="trace", explained=False)
    good = make(spec({"accuracy": 0.85}, stages=stages), profile, calm, feasibility="trace", explained=False)
    assert (cheap.variants["a"], good.variants["a"]) == ("small", "large")
    assert good.accuracy == pytest.approx(0.9 * 0.95)
    assert cheap.cost_usd_per_hour <= good.cost_usd_per_hour


def test_a_measured_table_of_accuracies_replaces_the_product(trace: Trace) -> None:
    stages = {"a": {"variants": {"small": {"accuracy": 0.8}, "large": {"accuracy": 0.9}}}, "b": {"after": "a"}}
    rows = [Row("a", "cpu", 1, 0.01, variant=v) for v in ("small", "large")] + [Row("b", "cpu", 1, 0.01)]
    table = [{"variants": {"a": "small"}, "accuracy": 0.97}]
    measured = spec({"accuracy": 0.95}, stages=stages, accuracy=table)
    plan = make(measured, Profile.from_rows(rows), trace.scale_time(4.0), feasibility="trace", explained=False)
    assert (plan.variants["a"], plan.accuracy) == ("small", 0.97)


def test_more_than_the_budget_is_refused_with_the_cost_that_is_needed(trace: Trace) -> None:
    least = make(spec(), PROFILE, trace, feasibility="trace", explained=False).cost_usd_per_hour
    told = refusal(spec({"max_cost": f"${least - 0.01}/h"}), PROFILE, trace, feasibility="trace")
    assert told["code"] == "budget"
    assert told["cost_usd_per_hour"] == pytest.approx(least)
    assert make(spec({"max_cost": f"${least}/h"}), PROFILE, trace, feasibility="trace", explained=False).feasible


def test_windows_are_judged_window_by_window() -> None:
    """One burst in ten windows breaks the promise over all requests, yet keeps it in nine windows of ten."""
    even = np.arange(100) / 10
    burst = np.full(40, 5.05)
    trace = Trace.from_arrivals(np.sort(np.append(even, burst)), duration_s=10.0)
    whole = make(spec({"latency": "100ms"}), PROFILE, trace, feasibility="trace", explained=False)
    windows = {"latency": "100ms", "window": "1s", "objective": "90%"}
    windowed = make(spec(windows), PROFILE, trace, feasibility="trace", explained=False)
    assert windowed.cost_usd_per_hour < whole.cost_usd_per_hour
    outcome = simulate(windowed, trace, mode="mean")
    assert outcome.holds
    assert outcome.miss_rate > 0.05


def test_windows_may_hold_where_the_percentile_over_all_requests_cannot() -> None:
    """Nearly all requests of one window are too slow whatever is bought: more than 5 % of all, but in one window."""
    columns = {"visits.b": np.r_[np.zeros(50), np.ones(10), np.zeros(40)]}
    trace = Trace.from_arrivals(np.r_[np.arange(50) / 10, 5 + np.arange(10) / 10, 6 + np.arange(40) / 10], columns)
    promise = {"latency": "15ms", "window": "1s", "objective": "80%"}
    rows = Profile.from_rows([Row("a", "cpu", 1, 0.01), Row("b", "cpu", 1, 0.02)])
    assert make(spec(promise), rows, trace, feasibility="trace", explained=False).feasible
    told = refusal(spec({"latency": "15ms"}), rows, trace, feasibility="trace")
    assert told["smallest_slo_s"] == pytest.approx(0.03)


@pytest.mark.parametrize("window", [(None, None), (1.0, 0.5), (0.7, 0.9)])
def test_the_least_promise_is_the_least_that_holds(window: tuple[float | None, float | None]) -> None:
    rng = np.random.default_rng(1)
    arrival_s, latency_s = np.sort(rng.random(200) * 9), rng.exponential(1.0, 200)
    least_s = least_promise_s(arrival_s, latency_s, 90.0, *window)
    assert promise_holds(arrival_s, latency_s > least_s, 90.0, *window)
    assert not promise_holds(arrival_s, latency_s > np.nextafter(least_s, 0), 90.0, *window)


NOW = {"a": {"hardware": "gpu", "replicas": 4, "max_batch_size": 4}, "b": {"hardware": "gpu", "replicas": 6}}


def test_what_runs_today_stands_beside_the_plan(trace: Trace) -> None:
    plan = make(spec(current=NOW), PROFILE, trace, seed=1, explained=False)
    [reason] = [reason for reason in plan.reasons if reason.code == "current"]
    assert reason.values["current_usd_per_hour"] == pytest.approx(7.0)
    assert reason.values["saved_usd_per_hour"] == pytest.approx(7.0 - plan.cost_usd_per_hour)


def test_what_runs_today_need_not_be_profiled(trace: Trace) -> None:
    cpu_only = Profile.from_rows(row for row in ROWS if row.hardware == "cpu")
    plan = make(spec(current=NOW), cpu_only, trace, feasibility="trace", explained=False)
    [reason] = [reason for reason in plan.reasons if reason.code == "current"]
    assert "stage 'a' (variant 'default') was not profiled on 'gpu'" in reason.text


def test_a_batch_size_of_today_that_was_not_profiled_is_doubted(trace: Trace) -> None:
    today = {**NOW, "b": {"hardware": "cpu", "replicas": 6, "max_batch_size": 16}}
    plan = make(spec(current=today), PROFILE, trace, feasibility="trace", explained=False)
    [reason] = [reason for reason in plan.reasons if reason.code == "current"]
    doubt = "b: batches hold up to 16 items; the largest that was measured, 4"
    assert doubt in reason.text
    assert doubt in predict(current_plan(plan.spec, plan.profile), trace).predicted["low_confidence"]


def test_a_plan_carries_the_rows_of_what_runs_today(trace: Trace) -> None:
    plan = make(spec(current=NOW), PROFILE, trace, seed=1, explained=False)
    assert {config.to_dict()["hardware"] for config in plan.stages.values()} == {"cpu"}, "the case must move off gpu"
    today = predict(current_plan(plan.spec, plan.profile), trace)
    assert today.predicted == predict(current_plan(plan.spec, PROFILE), trace).predicted
    told = diff(today, plan)
    assert told["predicted"]["from"]["p99_s"] < told["predicted"]["to"]["p99_s"]
    assert any(text.startswith("P99 rises from") for text in told["risks"])
    assert not any("rises" in text for text in diff(plan, today)["risks"])


def test_a_difference_is_the_same_both_ways_round(trace: Trace) -> None:
    plan = make(spec(current=NOW), PROFILE, trace, seed=1, explained=False)
    now = current_plan(plan.spec, PROFILE)
    there, back = diff(now, plan), diff(plan, now)
    assert there["cost_usd_per_hour"]["saved"] == pytest.approx(-back["cost_usd_per_hour"]["saved"])
    assert [(c["stage"], c["field"], c["from"], c["to"]) for c in there["changes"]] == [
        (c["stage"], c["field"], c["to"], c["from"]) for c in back["changes"]
    ]
    assert diff(plan, plan)["changes"] == []
    assert any("moves from" in text or "gives up" in text for text in there["risks"])
    assert there["evidence"]
    with pytest.raises(PlanError, match="different stages"):
        diff(plan, Plan(spec(stages={"a": {}}), PROFILE, {"a": ReplicaConfig("cpu")}))
    with pytest.raises(PlanError, match="current"):
        current_plan(spec())


def test_what_is_missing_is_an_error_and_never_zero(trace: Trace) -> None:
    only_a = Profile.from_rows(row for row in ROWS if row.stage == "a")
    with pytest.raises(ProfileError, match="'b'"):
        make(spec(), only_a, trace)
    with pytest.raises(PlanError, match="no request"):
        make(spec(), PROFILE, Trace.from_arrivals([], duration_s=5.0))
    with pytest.raises(PlanError, match="did you mean 'greedy'"):
        make(spec(), PROFILE, trace, planner="greed")
    with pytest.raises(PlanError, match="valid: robust, trace"):
        make(spec(), PROFILE, trace, feasibility="hopeful")
    free = Spec.from_dict({"slo": {"latency": "1s"}, "supply": {"cpu": {"price": "$0/h"}}, "stages": {"a": {}}})
    with pytest.raises(PlanError, match="give it a price or max"):
        make(free, PROFILE, trace, feasibility="trace")


def test_requests_in_one_clump_can_be_resampled_into_nothing() -> None:
    """Some resampled traces hold no request at all; they break no promise."""
    clump = Trace.from_arrivals(np.linspace(50.0, 50.2, 40), duration_s=100.0)
    assert make(spec(), PROFILE, clump, seed=1, explained=False).feasible


def test_best_first_search_returns_all_the_cheapest_and_its_bound() -> None:
    costs = {"a": 2.0, "b": 1.0, "c": 1.0, "d": 3.0}
    nodes = [Node(cost, 0, name) for name, cost in costs.items()]
    seen: list[str] = []

    def expand(node: Node[str]) -> Expansion[str]:
        seen.append(node.state)
        return Expansion(complete=node.state != "b")

    found = best_first(nodes, expand, 9.0, Limits(lambda: len(seen), 10, ties=5, tie_budget=10))
    assert (found.best, found.best_cost, found.lower_bound, found.stop) == (("c",), 1.0, 1.0, "optimal")
    assert seen == ["b", "c"]
    seen.clear()
    stopped = best_first(
        nodes, lambda node: (seen.append(node.state), Expansion())[1], 9.0, Limits(lambda: len(seen), 3)
    )
    assert (stopped.best, stopped.lower_bound, stopped.stop) == ((), 3.0, "budget")
    seen.clear()
    nothing = best_first(nodes, lambda node: Expansion(), 9.0, Limits(lambda: 0, 10))
    assert (nothing.stop, nothing.lower_bound) == ("exhausted", 9.0)
