"""Engines that only compute prompts, others that only decode: nothing is lost or sped up on the way between them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.llm_systems import STEP, random_fleet, random_work

from headway.domains.fleet.least import llm_least
from headway.fleet import llm_kernel
from headway.fleet.engines import Engine, LlmFleet
from headway.fleet.llm_run import rules_of, simulate_llm
from headway.fleet.llm_state import COMING, DECODING, DONE, MOVES, MOVING, PREFILLING, REFUSED, WAITING, State
from headway.fleet.step_time import StepTime
from headway.policy.kv_admission import PEAK, admission
from headway.policy.token_routing import token_router
from headway.trace.prompts import Prompts

SEEDS = st.integers(0, 2**32 - 1)
CLOSE: Any = {"rtol": 1e-9, "atol": 1e-9}
TRANSFER_S = 3e-4


def apart(rng: np.random.Generator, prefill: int, decode: int, transfer_token_s: float = TRANSFER_S) -> LlmFleet:
    """Return a random fleet of so many engines of either kind."""
    fleet = random_fleet(rng, prefill + decode)
    batching = "prefill-first" if fleet.engines[0].batching == "static" else fleet.engines[0].batching
    roles = ["prefill"] * prefill + ["decode"] * decode
    engines = tuple(
        dataclasses.replace(engine, role=role, batching=batching)
        for engine, role in zip(fleet.engines, roles, strict=True)
    )
    return dataclasses.replace(fleet, engines=engines, transfer_token_s=transfer_token_s)


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_requests_and_blocks_are_conserved_at_every_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fleet, work = apart(rng, int(rng.integers(1, 3)), int(rng.integers(1, 3))), random_work(rng, 30, rate_per_s=40.0)
    rules, columns = rules_of(fleet, work, seed), fleet.columns
    state = State.of(columns, rules, work.requests)
    for until_s in [*np.arange(0.0, 3.0, 0.13), np.inf]:
        llm_kernel.advance(columns, rules, work.requests, state, float(until_s))
        where = [int(np.count_nonzero(state.status == s)) for s in range(7)]
        assert sum(where) == 30
        assert where[MOVING] == state.counters[MOVES]
        assert where[WAITING] == state.waiting.sum()
        assert where[PREFILLING] + where[DECODING] == state.running.sum()
        assert np.all(state.first_s[state.status == MOVING] <= until_s)
        assert np.all(state.cache.free >= 0)
    assert where[DONE] + where[REFUSED] == 30
    assert where[COMING] == 0
    assert np.all(state.cache.free + state.cache.evictable == columns.capacity)
    assert not state.reserved.any()


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_first_tokens_are_those_of_the_prefill_engines_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fleet, work = (
        apart(rng, int(rng.integers(1, 3)), 2),
        random_work(rng, 40, rate_per_s=float(rng.choice([5.0, 40.0]))),
    )
    # Other policies draw, or hold back, by how many engines there are, those that only decode included.
    fleet = dataclasses.replace(fleet, router=token_router("round-robin"))
    alone = tuple(dataclasses.replace(engine, role="both") for engine in fleet.engines if engine.role == "prefill")
    # An engine that only computes prompts has room for nothing else, whatever the answers may come to.
    if fleet.admission.code == PEAK:
        work = dataclasses.replace(work, requests=work.requests._replace(predicted=np.ones(40, np.int64)))
    ends = {"output": np.ones(40, np.int64), "limit": np.zeros(40, np.int64)}
    one_token = dataclasses.replace(work, requests=work.requests._replace(**ends))
    both = simulate_llm(fleet, work, seed=seed)
    first = simulate_llm(dataclasses.replace(fleet, engines=alone), one_token, seed=seed)
    np.testing.assert_allclose(both.first_s, first.first_s, **CLOSE)


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_what_is_handed_over_takes_its_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fleet, work = apart(rng, 1, 2), random_work(rng, 40)
    outcome = simulate_llm(fleet, work, seed=seed)
    several = np.isfinite(outcome.done_s) & (outcome.output > 1)
    moved_s = TRANSFER_S * outcome.prompt
    least_s = min(engine.step.seconds(1) for engine in fleet.engines) * (outcome.output - 1)
    assert np.all((outcome.done_s - outcome.first_s)[several] >= (moved_s + least_s)[several] - 1e-9)
    ended = np.isfinite(outcome.done_s) & (outcome.output == 1)
    assert np.array_equal(outcome.done_s[ended], outcome.first_s[ended])
    assert set(outcome.engine[several].tolist()) <= {1, 2}


@pytest.mark.parametrize("transfer_s", [0.0, TRANSFER_S])
def test_requests_that_never_meet_take_as_long_as_on_one_engine_and_the_way(transfer_s: float) -> None:
    rng = np.random.default_rng(4)
    fleet, work = apart(rng, 1, 1, transfer_s), random_work(rng, 25, rate_per_s=0.01)
    engines = tuple(dataclasses.replace(engine, step=STEP) for engine in fleet.engines)
    fleet = dataclasses.replace(fleet, engines=engines, admission=admission("reserve"), prefix_cache=False)
    one = dataclasses.replace(fleet, engines=(dataclasses.replace(engines[0], role="both"),))
    here, there = simulate_llm(one, work), simulate_llm(fleet, work)
    np.testing.assert_allclose(there.ttft_s, here.ttft_s, **CLOSE)
    way_s = np.where(here.output > 1, transfer_s * here.prompt, 0.0)
    np.testing.assert_allclose(there.e2e_s, here.e2e_s + way_s, **CLOSE)


def decoded(step: StepTime, most: int, moved: Sequence[tuple[float, int, int]]) -> list[float]:
    """Return when the last tokens are made of requests that come at a time with a context and tokens to make.

    Iteration by iteration: whoever has come joins as one begins, and makes a token in each one from the next on.
    """
    done_s = [math.inf] * len(moved)
    coming = sorted(range(len(moved)), key=lambda r: moved[r][0])
    running: dict[int, list[int]] = {}
    joined: list[int] = []
    now_s = 0.0
    while coming or running or joined:
        if not running and not joined:
            now_s = max(now_s, moved[coming[0]][0])
        while coming and moved[coming[0]][0] <= now_s and len(running) + len(joined) < most:
            joined.append(coming.pop(0))
        if running:
            now_s += step.seconds(len(running), sum(context for context, _ in running.values()))
        for r, job in list(running.items()):
            job[0] += 1
            job[1] -= 1
            if not job[1]:
                done_s[r] = now_s
                del running[r]
        running |= {r: [moved[r][1], moved[r][2]] for r in joined}
        joined = []
    return done_s


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.booleans())
def test_decode_engines_equal_a_naive_loop(seed: int, jump: bool) -> None:
    rng = np.random.default_rng(seed)
    work = random_work(rng, 30, rate_per_s=float(rng.choice([5.0, 40.0])))
    engine = Engine(STEP, kv_tokens=40_000, token_budget=64, most_running=int(rng.integers(2, 8)))
    fleet = LlmFleet(
        (dataclasses.replace(engine, role="prefill"), dataclasses.replace(engine, role="decode")),
        transfer_token_s=TRANSFER_S,
    )
    outcome = simulate_llm(fleet, work, jump=jump)
    several = np.flatnonzero(outcome.output > 1)
    moved = [
        (float(outcome.first_s[r] + TRANSFER_S * outcome.prompt[r]), int(outcome.prompt[r]), int(outcome.output[r]) - 1)
        for r in several
    ]
    np.testing.assert_allclose(outcome.done_s[several], decoded(STEP, engine.most_running, moved), **CLOSE)


@pytest.mark.parametrize("seed", range(10))
def test_bounds_hold_where_engines_have_roles(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fleet, work = apart(rng, 1, 1), random_work(rng, 60, rate_per_s=float(rng.choice([2.0, 30.0])))
    engines = tuple(dataclasses.replace(fleet.engines[0], role=role) for role in ("prefill", "decode"))
    outcome = simulate_llm(dataclasses.replace(fleet, engines=engines, prefix_cache=False), work, seed=seed)
    prompt, output = outcome.prompt.astype(float), outcome.output.astype(float)
    least = llm_least(engines[0], prompt, output, (), np.zeros(60, np.int32), transfer_token_s=TRANSFER_S)
    answered = np.isfinite(outcome.done_s)
    assert np.all(outcome.e2e_s >= least.alone_s - 1e-9)
    for work_s in least.work_s:
        assert work_s[answered].sum() <= outcome.busy_s.sum() * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_bounds_hold_where_begins_of_prompts_are_kept(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fleet, work = random_fleet(rng), random_work(rng, 60, rate_per_s=float(rng.choice([2.0, 30.0])))
    fleet = dataclasses.replace(fleet, engines=(fleet.engines[0],) * fleet.size, prefix_cache=True)
    outcome = simulate_llm(fleet, work, seed=seed)
    prompts = Prompts(work.requests.first_block, work.requests.blocks, work.prompt_block_tokens)
    unseen = prompts.unseen_tokens(np.arange(60), outcome.prompt).astype(float)
    least = llm_least(
        fleet.engines[0], outcome.prompt.astype(float), outcome.output.astype(float), (), np.zeros(60, np.int32),
        unseen=unseen, block_tokens=prompts.block_tokens,
    )  # fmt: skip
    answered = np.isfinite(outcome.done_s)
    assert np.all(outcome.e2e_s >= least.alone_s - 1e-9)
    for work_s in least.work_s:
        assert work_s[answered].sum() <= outcome.busy_s.sum() * (1 + 1e-12)
