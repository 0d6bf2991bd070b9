"""What an infeasible promise is answered with: the true cause, and the smallest promise that supply can keep."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from headway.domains.pipeline.declare import ReplicaConfig
from headway.plan.infeasible import Infeasible
from headway.plan.make import make
from headway.plan.oracle import Oracle
from headway.plan.smallest import CLOSER, promise_s
from headway.profile import Profile, Row
from headway.spec.model import Spec
from headway.trace import Trace

MEANS = {"detect": {1: 0.05, 2: 0.08}, "line": {1: 0.03, 4: 0.09}, "photo": {1: 0.1}, "merge": {1: 0.005}}
PROFILE = Profile.from_rows(
    Row(stage, "cpu", size, mean_s, p50_s=mean_s, p95_s=1.2 * mean_s, p99_s=1.4 * mean_s)
    for stage, means in MEANS.items()
    for size, mean_s in means.items()
)
STAGES: dict[str, Any] = {
    "detect": {},
    "line": {"after": "detect", "fan_out": 2.5},
    "photo": {"after": "detect", "probability": 0.3},
    "merge": {"after": ["line", "photo"], "gather": True},
}


def spec(latency: str, stages: dict[str, Any], **limits: Any) -> Spec:
    cpu = {"price": "$0.2/h", **limits}
    return Spec.from_dict({"slo": {"latency": latency}, "supply": {"cpu": cpu}, "stages": stages})


@pytest.fixture(scope="module")
def bursty() -> Trace:
    return Trace.gamma(14.0, 1.5, seconds=40, seed=3)


def refusal(*problem: Any, **options: Any) -> dict[str, Any]:
    with pytest.raises(Infeasible) as caught:
        make(*problem, explained=False, **options)
    return caught.value.to_dict()


def test_the_smallest_promise_is_that_of_the_best_candidate_that_supply_has(bursty: Trace) -> None:
    """Five replicas for four stages: the fifth must not go unused."""
    told = refusal(spec("200ms", STAGES, max=5), PROFILE, bursty, feasibility="trace")
    oracle = Oracle(spec("200ms", STAGES, max=5), PROFILE, bursty, feasibility="trace")
    every = itertools.product(
        *([ReplicaConfig("cpu", r, size) for r in (1, 2) for size in means] for means in MEANS.values())
    )
    candidates = [dict(zip(MEANS, configs, strict=True)) for configs in every]
    best_s = min(promise_s(oracle, stages) for stages in candidates if oracle.supplied(stages))
    assert told["code"] == "capacity"
    assert best_s <= told["smallest_slo_s"] <= best_s / (1 - CLOSER)
    assert "can be kept" in told["text"]


def test_in_robust_mode_the_smallest_promise_is_feasible_and_less_is_not(bursty: Trace) -> None:
    told = refusal(spec("200ms", STAGES, max=5), PROFILE, bursty, seed=1)
    smallest_s = told["smallest_slo_s"]
    enough = spec(f"{1.01 * smallest_s}s", STAGES, max=5)
    assert make(enough, PROFILE, bursty, seed=1, explained=False).feasible
    refusal(spec(f"{0.85 * smallest_s}s", STAGES, max=5), PROFILE, bursty, seed=1)


def test_scarce_replicas_go_where_the_work_is() -> None:
    """One stage has nearly all the work of four: an equal share of 24 replicas would leave it far too slow."""
    stages: dict[str, Any] = {"a": {}, "b": {"after": "a"}, "c": {"after": "b"}, "d": {"after": "c"}}
    rows = Profile.from_rows(Row(name, "cpu", 1, 0.2 if name == "c" else 0.001) for name in stages)
    trace = Trace.poisson(rate=90, seconds=20, seed=2)
    told = refusal(spec("202ms", stages, max=24), rows, trace, feasibility="trace")
    assert told["smallest_slo_s"] < 0.4


TAIL = Profile.from_rows([Row("a", "cpu", 1, 0.05, p50_s=0.045, p95_s=0.08, p99_s=0.15)])


@pytest.mark.parametrize("planner", ["exact", "greedy"])
@pytest.mark.parametrize("limits", [{}, {"max": 50}])
def test_a_tail_of_service_times_above_the_promise_is_named(planner: str, limits: dict[str, Any]) -> None:
    """No wait is to blame: one request in a hundred takes longer than promised by itself."""
    trace = Trace.poisson(rate=10, seconds=60, seed=1)
    told = refusal(spec("100ms", {"a": {}}, **limits), TAIL, trace, planner=planner)
    assert (told["code"], told["stage"]) == ("slo_below_service_time", "a")
    assert "without any waiting" in told["text"]
    assert "max and pool" not in told["text"]
    assert 0.14 < told["smallest_slo_s"] < 0.2


def test_limits_of_supply_are_named_only_where_there_are_any(bursty: Trace) -> None:
    told = refusal(spec("200ms", STAGES, max=5), PROFILE, bursty, feasibility="trace")
    assert "max and pool" in told["text"]
    assert told["stage"] in ("detect", "line")
