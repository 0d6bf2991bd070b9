"""What LLM engines keep to, whatever their policies: the oracle, jumps, conservation, causality, and no peeking."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.llm_oracle import Oracle
from tests.laws.llm_systems import STEP, lone_vtc, mlfq_fleet, random_fleet, random_work

from headway.fleet import llm_kernel
from headway.fleet.engines import Engine, LlmFleet
from headway.fleet.llm_run import LlmOutcome, LlmWork, outcome_of, rules_of, simulate_llm
from headway.fleet.llm_state import DECODING, DONE, PREFILLING, REFUSED, WAITING, Rules, State
from headway.fleet.step_time import StepTime
from headway.policy.kv_admission import admission
from headway.policy.scheduling import ORDERS, order
from headway.policy.token_routing import token_router
from headway.trace import Trace

SEEDS = st.integers(0, 2**32 - 1)
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
Fleets = Callable[[np.random.Generator], LlmFleet]
ALL_FLEETS = pytest.mark.parametrize("fleet_of", [random_fleet, mlfq_fleet, lone_vtc])


@settings(max_examples=120, deadline=None)
@given(SEEDS, st.booleans(), st.booleans())
def test_the_kernel_equals_the_oracle(seed: int, chunked: bool, jump: bool) -> None:
    rng = np.random.default_rng(seed)
    work = random_work(rng, int(rng.integers(1, 60)), rate_per_s=float(rng.choice([2.0, 12.0, 60.0])))
    engine = Engine(
        dataclasses.replace(STEP, overhead_s=0.0),
        kv_tokens=int(rng.integers(92, 200)),
        token_budget=int(rng.integers(8, 64)),
        most_running=int(rng.integers(1, 8)),
        batching="decode-first" if chunked else "prefill-first",
    )
    watermark, block = float(rng.choice([0.0, 0.1])), int(rng.choice([1, 4]))
    fleet = LlmFleet((engine,), admission=admission("optimistic", watermark=watermark), block_tokens=block)
    outcome = simulate_llm(fleet, work, jump=jump)
    oracle = Oracle(
        engine.step.floor_s, engine.step.token_s, engine.step.kv_token_s, engine.step.pair_s,
        engine.kv_tokens // block, block, engine.token_budget, engine.most_running, watermark, chunked,
    )  # fmt: skip
    made = work.requests
    jobs = oracle.serve(list(zip(made.arrival_s.tolist(), made.prompt.tolist(), made.output.tolist(), strict=True)))
    np.testing.assert_allclose(outcome.first_s, [job.first_s for job in jobs], **CLOSE)
    np.testing.assert_allclose(outcome.done_s, [job.done_s for job in jobs], **CLOSE)
    assert outcome.preempted.tolist() == [job.preempted for job in jobs]
    assert outcome.iterations == oracle.iterations


@ALL_FLEETS
@settings(max_examples=150, deadline=None)
@given(SEEDS)
def test_jumps_change_nothing(fleet_of: Fleets, seed: int) -> None:
    rng = np.random.default_rng(seed)
    fleet = fleet_of(rng)
    work = random_work(rng, int(rng.integers(1, 60)), rate_per_s=float(rng.choice([2.0, 12.0, 60.0])))
    naive, jumped = (simulate_llm(fleet, work, seed=seed, jump=jump) for jump in (False, True))
    assert jumped.engine.tolist() == naive.engine.tolist()
    assert jumped.preempted.tolist() == naive.preempted.tolist()
    assert jumped.tally.tolist() == naive.tally.tolist()
    for name in ("start_s", "first_s", "done_s", "busy_s"):
        np.testing.assert_allclose(getattr(jumped, name), getattr(naive, name), **CLOSE)


@ALL_FLEETS
@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_requests_and_blocks_are_conserved_at_every_step(fleet_of: Fleets, seed: int) -> None:
    rng = np.random.default_rng(seed)
    fleet, work = fleet_of(rng), random_work(rng, 40, rate_per_s=40.0)
    rules = rules_of(fleet, work, seed)
    state = State.of(fleet.columns, rules, work.requests)
    for until_s in [*np.arange(0.0, 4.0, 0.097), np.inf]:
        llm_kernel.advance(fleet.columns, rules, work.requests, state, float(until_s))
        for engine in range(fleet.size):
            check_memory(fleet, rules, work, state, engine)
        assert not np.any((state.done_s < np.inf) & (state.first_s == np.inf))
    assert set(state.status.tolist()) <= {DONE, REFUSED}
    assert np.array_equal(np.isfinite(state.done_s), state.status == DONE)
    assert np.all(state.cache.free + state.cache.evictable == fleet.columns.capacity)
    assert np.all(state.made[state.status == DONE] == work.requests.output[state.status == DONE])
    for books in (state.queued, state.waiting_tokens, state.reserved, state.residue, state.kv, state.running):
        assert not books.any()


def check_memory(fleet: LlmFleet, rules: Rules, work: LlmWork, state: State, engine: int) -> None:
    """Assert that an engine's blocks add up: what requests hold, what is cached, what is free."""
    running = [r for r in range(work.requests.arrival_s.size) if state.engine[r] == engine]
    decoding = [r for r in running if state.status[r] == DECODING]
    prefilling = [r for r in running if state.status[r] == PREFILLING]
    waiting = [r for r in running if state.status[r] == WAITING]
    assert state.running[engine] == len(decoding) + len(prefilling)
    assert state.waiting[engine] == len(waiting)
    context = {r: int(state.context[r] + state.it[engine] - state.entered[r]) for r in decoding}
    assert state.kv[engine] == sum(context.values())
    # A span under way has taken the blocks of its first iteration.
    grown = 1 if state.span[engine] > 0 and state.decodes[engine] > 0 else 0
    own = sum(-(-(context[r] + grown) // fleet.block_tokens) for r in decoding)
    own += sum(-(-int(state.total[r]) // fleet.block_tokens) for r in prefilling)
    own -= rules.hash_blocks * sum(int(state.shared[r]) for r in running)
    used = rules.hash_blocks * int(np.count_nonzero(state.cache.ref[engine] > 0))
    unused = rules.hash_blocks * int(np.count_nonzero(state.cache.ref[engine] == 0))
    assert state.cache.evictable[engine] == unused
    assert state.cache.free[engine] >= 0
    assert state.cache.free[engine] + unused + used + own == fleet.columns.capacity[engine]
    assert int(state.cache.ref[engine][state.cache.ref[engine] > 0].sum()) == sum(int(state.shared[r]) for r in running)
    assert state.queued[engine] == sum(int(state.todo[r]) for r in prefilling) + sum(
        int(state.work[r]) for r in waiting
    )


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_nothing_before_its_cause(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fleet, work = random_fleet(rng), random_work(rng, 40)
    outcome = simulate_llm(fleet, work, seed=seed)
    served = np.isfinite(outcome.done_s)
    assert np.all(outcome.start_s[served] >= outcome.arrival_s[served])
    assert np.all(outcome.first_s[served] > outcome.start_s[served])
    assert np.all(outcome.done_s[served] >= outcome.first_s[served])
    again = simulate_llm(fleet, work, seed=seed)
    assert again.done_s.tobytes() == outcome.done_s.tobytes()


@ALL_FLEETS
@settings(max_examples=60, deadline=None)
@given(SEEDS, st.floats(0.05, 0.95))
def test_no_decision_depends_on_an_output_that_is_not_made_yet(fleet_of: Fleets, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    fleet, work = fleet_of(rng), random_work(rng, 40)
    before = simulate_llm(fleet, work, seed=seed)
    at_s = float(np.quantile(before.done_s[np.isfinite(before.done_s)], share))
    longer = np.where(before.done_s > at_s, np.minimum(30, work.requests.output + 7), work.requests.output)
    other = dataclasses.replace(work, requests=work.requests._replace(output=longer))
    after = simulate_llm(fleet, other, seed=seed)
    for name in ("start_s", "first_s", "done_s"):
        one, two = getattr(before, name), getattr(after, name)
        assert np.array_equal(one <= at_s, two <= at_s)
        np.testing.assert_allclose(one[one <= at_s], two[one <= at_s], **CLOSE)


@pytest.mark.parametrize("name", ["fcfs", "sjf", "larry"])
def test_compiled_and_plain_are_equal_to_the_last_bit(name: str) -> None:
    rng = np.random.default_rng(5)
    work = random_work(rng, 30, rate_per_s=30.0)
    fleet = dataclasses.replace(
        random_fleet(np.random.default_rng(6), engines=2),
        router=token_router("sal"),
        order=order(name, max_wait_s=1.0),
        prefix_cache=True,
    )
    assert served(fleet, work, plain=True).done_s.tobytes() == served(fleet, work, plain=False).done_s.tobytes()


def served(fleet: LlmFleet, work: LlmWork, *, plain: bool) -> LlmOutcome:
    """Serve with the kernel compiled, or with the same source as Python runs it."""
    rules = rules_of(fleet, work, 3)
    state = State.of(fleet.columns, rules, work.requests)
    run = llm_kernel.advance.py_func if plain else llm_kernel.advance  # type: ignore[attr-defined]
    run(fleet.columns, rules, work.requests, state, np.inf)
    return outcome_of(work, state)


def test_one_prompt_at_a_time_is_a_queue_with_general_service() -> None:
    # One request at once and one output token: M/G/1, first come first served (Pollaczek and Khinchine).
    rng, requests, token_s, rate = np.random.default_rng(1), 200_000, 1e-3, 8.0
    prompt = rng.choice([50.0, 200.0], requests, p=[0.8, 0.2])
    trace = Trace.from_arrivals(
        np.cumsum(rng.exponential(1 / rate, requests)), {"input_tokens": prompt, "output_tokens": np.ones(requests)}
    )
    engine = Engine(StepTime(1e-9, token_s), 10_000, token_budget=10_000, most_running=1, batching="prefill-first")
    outcome = simulate_llm(LlmFleet((engine,)), LlmWork.of(trace))
    mean_s, square = 80 * token_s, (0.8 * 50**2 + 0.2 * 200**2) * token_s**2
    expected_s = rate * square / (2 * (1 - rate * mean_s))
    assert float(outcome.wait_s.mean()) == pytest.approx(expected_s, rel=0.03)


@pytest.mark.parametrize("batching", ["decode-first", "prefill-first", "static"])
def test_first_come_first_served_starts_in_order_of_arrival(batching: str) -> None:
    rng = np.random.default_rng(7)
    work = random_work(rng, 200, rate_per_s=30.0)
    engine = Engine(STEP, 200, token_budget=32, most_running=6, batching=batching)
    outcome = simulate_llm(LlmFleet((engine,)), work)
    assert np.all(np.diff(outcome.start_s) >= 0.0)


def test_a_maximum_wait_bounds_what_short_work_first_starves() -> None:
    # A long prompt against a stream of short ones that alone would fill the engine.
    n = 4_000
    prompt = np.where(np.arange(n) == 50, 400.0, 40.0)
    trace = Trace.from_arrivals(
        np.arange(n) * 0.0125, {"input_tokens": prompt, "output_tokens": np.ones(n), "max_tokens": np.ones(n)}
    )
    engine = Engine(StepTime(1e-6, 3.2e-4), 4_000, token_budget=400, most_running=1, batching="prefill-first")
    waits_s = {}
    for most_s in (math.inf, 2.0):
        fleet = LlmFleet((engine,), order=order("sjf", max_wait_s=most_s))
        waits_s[most_s] = float(simulate_llm(fleet, LlmWork.of(trace)).wait_s[50])
    assert waits_s[math.inf] > 10.0
    assert waits_s[2.0] <= 2.0 + 0.2


@pytest.mark.parametrize("name", list(ORDERS))
def test_every_order_serves_every_request(name: str) -> None:
    rng = np.random.default_rng(11)
    work = random_work(rng, 120, rate_per_s=40.0)
    engine = Engine(STEP, 160, token_budget=32, most_running=6)
    outcome = simulate_llm(LlmFleet((engine,), order=order(name)), work)
    assert outcome.answered == outcome.offered


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.booleans())
def test_only_what_no_engine_can_hold_is_refused(seed: int, split: bool) -> None:
    rng = np.random.default_rng(seed)
    fleet, work = random_fleet(rng, engines=4), random_work(rng, 40)
    small = [dataclasses.replace(engine, kv_tokens=fleet.block_tokens * 9) for engine in fleet.engines]
    # Prompts come to the first two; the one large engine may be any of those that take them, or of those that decode.
    large = int(rng.integers(4))
    engines = [*small[:large], dataclasses.replace(small[large], kv_tokens=200), *small[large + 1 :]]
    if split:
        roles = ("prefill", "prefill", "decode", "decode")
        engines = [dataclasses.replace(engine, role=role) for engine, role in zip(engines, roles, strict=True)]
    outcome = simulate_llm(dataclasses.replace(fleet, engines=tuple(engines)), work, seed=seed)
    blocks = -(-(work.requests.prompt + work.requests.limit) // fleet.block_tokens)
    held = np.array([engine.kv_tokens // fleet.block_tokens for engine in engines])
    fits = blocks <= held.max()
    if split:
        prompts = -(-work.requests.prompt // fleet.block_tokens)
        fits = (prompts <= held[:2].max()) & (blocks <= held[2:].max())
    assert np.array_equal(np.isfinite(outcome.done_s), fits)


@pytest.mark.parametrize("jump", [True, False])
def test_prequal_hears_of_first_tokens_and_sends_little_to_the_slow_engine(jump: bool) -> None:
    """A fifth of the speed: the slow engine's latency is known for what it is, and it gets far less than half."""
    quick = Engine(StepTime(floor_s=0.01, token_s=2e-5, kv_token_s=1e-7, overhead_s=0.0), kv_tokens=50_000)
    slow = dataclasses.replace(quick, step=dataclasses.replace(quick.step, floor_s=0.05, token_s=1e-4))
    rng = np.random.default_rng(2)
    arrival_s = np.cumsum(rng.exponential(1 / 8, 400))
    columns = {"input_tokens": np.full(400, 500), "output_tokens": np.full(400, 50)}
    work = LlmWork.of(Trace.from_arrivals(arrival_s, columns))
    fleet = LlmFleet((quick, slow), router=token_router("prequal"), report_s=0.5)
    rules = rules_of(fleet, work, 1)._replace(jump=jump)
    state = State.of(fleet.columns, rules, work.requests)
    llm_kernel.advance(fleet.columns, rules, work.requests, state, math.inf)
    servers = state.balance.servers
    assert servers.latency_s[1] > 2.5 * servers.latency_s[0] > 0.0
    assert np.mean(state.engine == 1) < 0.25


def test_prequal_does_not_run_after_the_quickest_of_many_engines() -> None:
    """First tokens are heard of late; sending by them alone would be worse than sending anywhere."""
    engine = Engine(StepTime(floor_s=0.005, token_s=5e-5, kv_token_s=1e-7, overhead_s=0.0), kv_tokens=100_000)
    rng = np.random.default_rng(3)
    arrival_s = np.cumsum(rng.exponential(1 / 100, 3000))
    columns = {"input_tokens": np.minimum(rng.lognormal(6.0, 0.9, 3000).astype(int) + 1, 6000),
               "output_tokens": np.minimum(rng.geometric(1 / 100, 3000), 1000)}  # fmt: skip
    work = LlmWork.of(Trace.from_arrivals(arrival_s, columns))
    mean_s = {name: float(np.mean(simulate_llm(LlmFleet((engine,) * 8, router=token_router(name), report_s=0.5), work,
                                               seed=1).ttft_s)) for name in ("prequal", "random")}  # fmt: skip
    assert mean_s["prequal"] < mean_s["random"]
