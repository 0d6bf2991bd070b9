"""Every miss counts at one stage: the one at which the request lost most time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.serve.calibrate import compared, fit
from headway.serve.misses import Stays, miss_rates, usual_s
from headway.testing.examples import tiny_plan
from headway.testing.observed import simulated_observation
from headway.trace import Trace


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 40))
def test_the_shares_add_up_to_the_miss_rate_of_the_requests_that_were_served(
    seed: int, stages: int, requests: int
) -> None:
    rng = np.random.default_rng(seed)
    visited = rng.random((stages, requests)) < 0.7
    request = {str(at): np.flatnonzero(row) for at, row in enumerate(visited)}
    stays = Stays(rng.random(requests) < 0.3, request, {n: rng.exponential(1.0, r.size) for n, r in request.items()})
    shares = miss_rates(stays, usual_s([stays, stays]))
    assert sum(shares.values()) == pytest.approx(float(np.mean(stays.missed & visited.any(axis=0))))
    assert all(share >= 0.0 for share in shares.values())


def test_time_at_a_stage_is_that_with_an_item_there() -> None:
    request, arrival_s, done_s = np.array([0, 0, 1]), np.array([0.0, 1.0, 5.0]), np.array([2.0, 3.0, 6.0])
    stays = Stays.of(np.array([True, False]), {"fanned": (request, arrival_s, done_s)})
    assert stays.stay_s["fanned"].tolist() == [3.0, 1.0]
    assert miss_rates(stays, {"fanned": 0.0}) == {"fanned": 0.5}


def slowed(stage: str, factor: float) -> Plan:
    """The tiny plan with one stage whose work takes longer than is known."""
    plan = tiny_plan()
    rows = [
        replace(r, mean_s=factor * r.mean_s, p50_s=None, p95_s=None, p99_s=None) if r.stage == stage else r
        for r in plan.profile.rows
    ]
    return replace(plan, profile=Profile.from_rows(rows))


@pytest.mark.parametrize("stage", ["first", "second"])
def test_a_stage_that_takes_longer_than_predicted_is_where_the_misses_are(stage: str) -> None:
    trace = Trace.poisson(rate=18.0, seconds=60.0, seed=3)
    seen = simulated_observation(slowed(stage, {"first": 5.0, "second": 4.0}[stage]), trace)
    found = compared(tiny_plan(), seen)
    other = {"first": "second", "second": "first"}[stage]
    surplus = {name: found[name]["miss_rate"].measured - found[name]["miss_rate"].predicted for name in (stage, other)}
    assert surplus[stage] > 0.05
    assert surplus[stage] > 3 * abs(surplus[other])
    shares = sum(found[name]["miss_rate"].measured for name in (stage, other))
    assert shares == pytest.approx(found[""]["miss_rate"].measured)


def test_predictions_from_means_alone_are_doubted_until_more_is_known() -> None:
    plan, trace = tiny_plan(), Trace.poisson(rate=10.0, seconds=60.0, seed=3)
    means = [replace(row, p50_s=None, p95_s=None, p99_s=None) for row in plan.profile.rows]
    known = replace(plan, profile=Profile.from_rows(means))
    seen = simulated_observation(known, trace)
    doubts = fit(known, seen).to_dict()["low_confidence"]
    assert [doubt.partition(":")[0] for doubt in doubts] == list(plan.stages)
    assert all("holds means alone" in doubt and "p50_s, p95_s and p99_s" in doubt for doubt in doubts)
    spread = [Row(r.stage, r.hardware, r.batch_size, r.mean_s, p50_s=r.mean_s, evidence="measured") for r in means]
    assert not fit(replace(plan, profile=Profile.from_rows(spread)), seen).low_confidence
