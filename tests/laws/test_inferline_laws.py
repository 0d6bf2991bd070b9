"""Laws between the systems of the reproduction, on its own pipelines."""

from __future__ import annotations

import pytest

from headway.bench.inferline.grid import planned
from headway.bench.inferline.pipelines import PIPELINES
from headway.bench.inferline.workloads import gamma
from headway.plan import Plan
from headway.plan.oracle import Oracle

REQUESTS = 800


def plans(name: str, cv: float, seed: int, budget: int = 150) -> dict[str, Plan | None]:
    trace = gamma(60.0, cv, REQUESTS, seed)[0].planned
    systems = ("headway-trace", "inferline", "cg-mean", "cg-peak")
    return {system: planned(PIPELINES[name], trace, system, seed, budget) for system in systems}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("cv", [1.0, 4.0])
@pytest.mark.parametrize("name", PIPELINES)
def test_peak_is_never_cheaper_than_mean_nor_greedy_than_exact_in_the_same_mode(
    name: str, cv: float, seed: int
) -> None:
    found = plans(name, cv, seed)
    exact, greedy, mean, peak = (found[s] for s in ("headway-trace", "inferline", "cg-mean", "cg-peak"))
    assert mean is not None
    assert peak is not None
    assert peak.cost_usd_per_hour >= mean.cost_usd_per_hour
    if greedy is not None:
        assert exact is not None
        assert greedy.cost_usd_per_hour >= exact.cost_usd_per_hour - 1e-9
        assert exact.lower_bound_usd_per_hour is not None
        assert exact.lower_bound_usd_per_hour <= exact.cost_usd_per_hour + 1e-9


@pytest.mark.parametrize("name", PIPELINES)
def test_what_a_planner_returns_keeps_the_promise_on_the_trace_that_it_was_made_from(name: str) -> None:
    pipeline, trace = PIPELINES[name], gamma(60.0, 4.0, REQUESTS, 3)[0].planned
    oracle = Oracle(pipeline.spec(), pipeline.profile(), trace, feasibility="trace", seed=3)
    for system in ("headway-trace", "inferline"):
        plan = planned(pipeline, trace, system, 3, 60)
        assert plan is not None
        assert oracle.feasible(plan.stages)


def test_a_looser_promise_never_costs_more_where_both_are_proven() -> None:
    trace = gamma(60.0, 1.0, 400, 1)[0].planned
    found = [planned(PIPELINES["cascade"].vary(slo_ms=slo), trace, "headway-trace", 1, 20_000) for slo in (150, 300)]
    tight, loose = found
    assert tight is not None
    assert loose is not None
    assert tight.gap_ratio == loose.gap_ratio == 0.0
    assert loose.cost_usd_per_hour <= tight.cost_usd_per_hour + 1e-9
