"""Laws of improving an incumbent: never dearer, still feasible, never below the optimum, and the bound untouched."""

from __future__ import annotations

import pytest

from headway.domains.pipeline.inferline import Greedy
from headway.plan.exact import search, variant_choices
from headway.plan.improve import improve
from headway.plan.make import greedy_start, make
from headway.plan.oracle import Oracle
from headway.profile import Profile, Row
from headway.spec.model import Spec
from headway.trace import Trace

SPEC = Spec.from_dict(
    {
        "slo": {"latency": "150ms"},
        "supply": {"cpu": {"price": "$0.05/h"}, "gpu": {"price": "$0.65/h"}},
        "stages": {"prepare": {}, "classify": {"after": "prepare"}},
    }
)
PROFILE = Profile.from_rows(
    [Row("prepare", "cpu", batch, 0.0005 + 0.008 * batch) for batch in (1, 2, 4)]
    + [Row("classify", "gpu", batch, 0.040 + 0.0185 * batch) for batch in (1, 2, 4)]
)


def oracle(seed: int) -> Oracle:
    trace = Trace.gamma(150.0, 2.0, requests=1_000, seed=seed)
    return Oracle(SPEC, PROFILE, trace, feasibility="trace", seed=seed)


@pytest.mark.parametrize("seed", range(4))
def test_an_improved_plan_is_feasible_and_lies_between_the_optimum_and_where_it_started(seed: int) -> None:
    judge = oracle(seed)
    (choice,) = variant_choices(judge)
    start = Greedy(judge, choice).initialize()
    assert start is not None
    better = improve(judge, start)
    assert judge.feasible(better)
    optimum = search(judge, start, judge.total_cost(start)).cost_usd_per_hour
    assert optimum - 1e-9 <= judge.total_cost(better) < judge.total_cost(start)


def test_a_budget_of_nothing_improves_nothing_by_exchanges() -> None:
    judge = oracle(1)
    start = greedy_start(judge, variant_choices(judge))
    assert start is not None
    before = judge.judged
    assert judge.total_cost(improve(judge, start, budget=0)) <= judge.total_cost(start)
    assert judge.judged - before <= 100


def test_a_plan_whose_search_stops_early_is_never_dearer_than_greedy_and_states_an_honest_bound() -> None:
    for seed in range(4):
        trace = oracle(seed).trace
        greedy, short, whole = (
            make(SPEC, PROFILE, trace, planner=planner, feasibility="trace", seed=seed, budget=budget, explained=False)
            for planner, budget in (("greedy", None), ("exact", 40), ("exact", None))
        )
        assert whole.cost_usd_per_hour - 1e-9 <= short.cost_usd_per_hour <= greedy.cost_usd_per_hour + 1e-9
        assert short.lower_bound_usd_per_hour is not None
        assert short.lower_bound_usd_per_hour <= whole.cost_usd_per_hour + 1e-9
        assert short.feasible
