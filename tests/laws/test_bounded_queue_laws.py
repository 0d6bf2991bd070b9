"""Bounded queues before LLM engines: a place is a request that an engine runs, and who finds none waits in front."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from headway.fleet.engines import Engine, LlmFleet
from headway.fleet.llm_kernel import advance
from headway.fleet.llm_run import LlmWork, outcome_of, rules_of, simulate_llm
from headway.fleet.llm_state import State
from headway.fleet.step_time import StepTime
from headway.policy.token_routing import token_router
from headway.trace import Trace

ENGINE = Engine(StepTime(floor_s=0.01, token_s=1e-4), kv_tokens=50_000, token_budget=200, most_running=3)
DEPTHS = {"central": 1, "jbsq": 2}


def burst(requests: int, seed: int) -> LlmWork:
    """Requests that come faster than a few engines serve them, for a while."""
    rng = np.random.default_rng(seed)
    tokens = {"input_tokens": rng.integers(20, 400, requests), "output_tokens": rng.integers(1, 20, requests)}
    return LlmWork.of(Trace.from_arrivals(np.cumsum(rng.exponential(0.01, requests)), tokens), max_output_tokens=20)


@pytest.mark.parametrize("name", list(DEPTHS))
@pytest.mark.parametrize("places", [(3,), (3, 3), (1, 4)])
def test_an_engine_never_has_more_than_its_bound_and_nobody_waits_while_a_place_is_free(
    name: str, places: tuple[int, ...]
) -> None:
    fleet = LlmFleet(tuple(dataclasses.replace(ENGINE, most_running=most) for most in places), token_router(name))
    work = burst(40, seed=len(places))
    engines, rules = fleet.columns, rules_of(fleet, work, seed=1)
    state = State.of(engines, rules, work.requests)
    bounds, held = DEPTHS[name] * np.array(places), 0
    for until_s in np.arange(0.0, 5.0, 0.0171):
        advance(engines, rules, work.requests, state, until_s)
        has = state.running + state.waiting
        assert np.all(has <= bounds)
        came, sent = np.count_nonzero(work.requests.arrival_s <= until_s), np.count_nonzero(state.engine >= 0)
        assert came == sent or np.all(has == bounds)
        held = max(held, came - sent)
    assert held > 0
    assert outcome_of(work, state).answered == 40


@pytest.mark.parametrize("engines", [1, 2])
def test_a_bound_that_nobody_reaches_changes_nothing(engines: int) -> None:
    """With a place for everybody times are those of the fewest outstanding, draw by draw."""
    fleet = LlmFleet((dataclasses.replace(ENGINE, most_running=60),) * engines, token_router("least-outstanding"))
    free = simulate_llm(fleet, burst(60, seed=3), seed=2)
    for name in DEPTHS:
        bounded = simulate_llm(dataclasses.replace(fleet, router=token_router(name)), burst(60, seed=3), seed=2)
        assert np.allclose(bounded.ttft_s, free.ttft_s)
        assert np.allclose(bounded.done_s, free.done_s)


@pytest.mark.parametrize("name", list(DEPTHS))
def test_waiting_in_front_of_one_engine_takes_no_longer_than_waiting_in_it(name: str) -> None:
    """In order of arrival the engine is as busy either way, so means are alike; and places are given as they come."""
    free, bounded = (
        simulate_llm(LlmFleet((ENGINE,), token_router(router)), burst(60, seed=4)) for router in
        ("least-outstanding", name)
    )  # fmt: skip
    assert np.mean(bounded.ttft_s) == pytest.approx(np.mean(free.ttft_s), rel=0.02)
    assert all(before <= after for before, after in pairwise(bounded.start_s.tolist()))
