"""The published planners on cases small enough to work out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headway.domains.pipeline.coarse import coarse_grained
from headway.domains.pipeline.declare import ReplicaConfig
from headway.domains.pipeline.inferline import Greedy
from headway.plan import Infeasible, Plan
from headway.plan.make import baselines, make
from headway.plan.oracle import Oracle
from headway.profile import Profile, Row
from headway.sim.simulation import simulate
from headway.spec.model import Spec
from headway.trace import Trace

CHOICE = {"a": "default", "b": "default"}


def spec(slo_ms: float, b: dict[str, Any] | None = None, percentile: float = 99) -> Spec:
    return Spec.from_dict(
        {
            "slo": {"latency": f"{slo_ms}ms", "percentile": percentile},
            "supply": {"cpu": {"price": "$1/h"}, "gpu": {"price": "$4/h"}},
            "stages": {"a": {}, "b": {"after": "a", **(b or {})}},
        }
    )


def profile(**means_ms: dict[int, float]) -> Profile:
    """`a_gpu={1: 10}` is stage a on hardware gpu, batch of one in 10 ms."""
    return Profile.from_rows(
        Row(*key.split("_"), batch, mean_ms / 1000)  # type: ignore[arg-type]
        for key, sizes in means_ms.items()
        for batch, mean_ms in sizes.items()
    )


BLACK_BOX = profile(
    a_cpu={1: 40, 2: 60, 4: 80},
    a_gpu={1: 10, 2: 15, 4: 25},
    b_cpu={1: 20, 2: 30, 4: 50, 8: 60},
)


@pytest.fixture
def even() -> Trace:
    """100 requests per second for 10 s, and 12 more at one instant."""
    return Trace.from_arrivals(np.sort(np.append(np.arange(1000) / 100, np.full(12, 5.0))), duration_s=10.0)


def test_cg_mean_replicates_the_unit_for_the_mean_rate(even: Trace) -> None:
    """Batches of 2 take 15 + 30 <= 60 ms, of 4 they take 75; a unit carries 2 / 30 ms = 66.7 of 101.2 requests/s."""
    found = coarse_grained(Oracle(spec(60), BLACK_BOX, even, feasibility="trace"), CHOICE, peak=False)
    assert found == {"a": ReplicaConfig("gpu", 2, 2), "b": ReplicaConfig("cpu", 2, 2)}


def test_cg_peak_replicates_it_for_the_fullest_window_of_the_promise(even: Trace) -> None:
    """In 60 ms there are 6 even requests and the burst of 12: 300 requests/s, and 4.5 units."""
    found = coarse_grained(Oracle(spec(60), BLACK_BOX, even, feasibility="trace"), CHOICE, peak=True)
    assert found == {"a": ReplicaConfig("gpu", 5, 2), "b": ReplicaConfig("cpu", 5, 2)}


def test_the_unit_is_as_fast_as_its_slowest_stage_at_the_load_that_it_sees(even: Trace) -> None:
    """Two items of b per request: a unit carries 33.3 requests/s."""
    oracle = Oracle(spec(60, {"fan_out": 2}), BLACK_BOX, even, feasibility="trace")
    found = coarse_grained(oracle, CHOICE, peak=False)
    assert found is not None
    assert found["b"].replicas == 4


def test_only_batch_sizes_common_to_all_stages_count(even: Trace) -> None:
    """A batch of 8 is profiled at b alone."""
    found = coarse_grained(Oracle(spec(1000), BLACK_BOX, even, feasibility="trace"), CHOICE, peak=False)
    assert found is not None
    assert {config.max_batch_size for config in found.values()} == {4}


def test_a_black_box_slower_than_the_promise_is_none(even: Trace) -> None:
    assert coarse_grained(Oracle(spec(29), BLACK_BOX, even, feasibility="trace"), CHOICE, peak=False) is None
    with pytest.raises(Infeasible) as caught:
        make(spec(29), BLACK_BOX, even, planner="cg-mean", feasibility="trace")
    assert caught.value.obstacle.code == "slo_below_service_time"


def test_a_baseline_that_breaks_the_promise_says_so() -> None:
    bursty = Trace.from_arrivals(np.repeat(np.arange(20) * 1.0, 30), duration_s=20.0)
    plan = make(spec(60), BLACK_BOX, bursty, planner="cg-mean", feasibility="trace", explained=False)
    assert not plan.feasible
    assert plan.predicted["miss_rate"] > 0.01
    assert plan.lower_bound_usd_per_hour is None
    facts = baselines(spec(60), BLACK_BOX, bursty, feasibility="trace")
    assert (facts["cg-mean"]["feasible"], facts["greedy"]["feasible"]) == (False, True)
    assert facts["cg-peak"]["cost_usd_per_hour"] > facts["cg-mean"]["cost_usd_per_hour"]
    assert facts["cg-peak"]["miss_rate"] < facts["cg-mean"]["miss_rate"]


def test_initialize_gives_the_bottleneck_one_replica_after_the_other() -> None:
    """Independent of the planner: fastest hardware, batch 1, and argmin of replicas x throughput / visits."""
    rows = profile(a_cpu={1: 10}, b_cpu={1: 25})
    trace = Trace.gamma(30.0, 3.0, requests=600, seed=4)
    promised = spec(70, percentile=95)
    rate, replicas = trace.rate_per_s, {"a": 1, "b": 1}
    throughput = {"a": 100.0, "b": 40.0}
    assert rate < min(throughput.values())
    while not simulate(
        Plan(promised, rows, {n: ReplicaConfig("cpu", r) for n, r in replicas.items()}), trace, mode="mean"
    ).holds:
        replicas[min(replicas, key=lambda n: replicas[n] * throughput[n])] += 1
    found = Greedy(Oracle(promised, rows, trace, feasibility="trace"), CHOICE).initialize()
    assert found == {n: ReplicaConfig("cpu", r) for n, r in replicas.items()}
    assert replicas["b"] > replicas["a"]


def test_a_promise_is_infeasible_when_the_service_time_exceeds_it_not_when_it_does_not() -> None:
    """The printed pseudo-code has this test the wrong way round."""
    rows = profile(a_cpu={1: 10}, b_cpu={1: 25})
    trace = Trace.poisson(rate=5.0, seconds=20.0, seed=1)
    loose = make(spec(300), rows, trace, planner="greedy", feasibility="trace", explained=False)
    assert loose.cost_usd_per_hour == 2.0
    with pytest.raises(Infeasible) as caught:
        make(spec(30), rows, trace, planner="greedy", feasibility="trace")
    assert caught.value.obstacle.code == "slo_below_service_time"


def test_a_batch_increase_that_costs_nothing_is_taken_when_nothing_else_lowers_the_cost() -> None:
    """With a strict comparison of costs no batch would ever grow, and no replica would be spared by it."""
    rows = profile(a_cpu={1: 10, 2: 11, 4: 12}, b_cpu={1: 1})
    trace = Trace.poisson(rate=250.0, seconds=8.0, seed=1)
    greedy = Greedy(Oracle(spec(60), rows, trace, feasibility="trace"), CHOICE)
    start = greedy.initialize()
    assert start is not None
    assert start["a"].replicas >= 3
    found = greedy.run()
    assert found is not None
    assert found["a"].max_batch_size > 1
    assert found["a"].replicas < start["a"].replicas
    assert ("increase_batch", "a") in greedy.steps


def test_hardware_is_downgraded_when_the_stage_planned_anew_is_cheaper() -> None:
    rows = profile(a_gpu={1: 10}, a_cpu={1: 30}, b_cpu={1: 5})
    trace = Trace.poisson(rate=10.0, seconds=20.0, seed=1)
    plan = make(spec(200), rows, trace, planner="greedy", feasibility="trace", explained=False)
    assert plan.stages["a"].to_dict()["hardware"] == "cpu"
    tight = make(spec(30), rows, trace, planner="greedy", feasibility="trace", explained=False)
    assert tight.stages["a"].to_dict()["hardware"] == "gpu"
