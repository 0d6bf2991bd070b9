"""What the multi-level feedback queue keeps to: join by prompt, demotion by service, preemption by level alone.

What every policy keeps to, it does too: see `test_llm_laws`.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.laws.llm_systems import STEP

from headway.fleet.engines import Engine, LlmFleet
from headway.fleet.llm_run import LlmOutcome, LlmWork, simulate_llm
from headway.fleet.step_time import StepTime
from headway.policy.scheduling import Backlog, Waiting, level, order, rank
from headway.trace import Trace

SECONDS = st.floats(0.0, 1e4)
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
PLAIN = StepTime(floor_s=0.01, token_s=1e-4)


@given(SECONDS, SECONDS, SECONDS, st.floats(1e-4, 10.0))
def test_service_never_raises_a_level(prompt_s: float, made_s: float, more_s: float, quantum_s: float) -> None:
    assert level(prompt_s, made_s, quantum_s) <= level(prompt_s, made_s + more_s, quantum_s)


@given(SECONDS, st.floats(1e-4, 10.0))
def test_before_any_service_levels_are_buckets_of_prompts(prompt_s: float, quantum_s: float) -> None:
    joined = level(prompt_s, 0.0, quantum_s)
    assert quantum_s * 2.0**joined >= prompt_s
    assert joined == 0.0 or quantum_s * 2.0 ** (joined - 1.0) < prompt_s


@given(SECONDS, SECONDS)
def test_with_infinite_quanta_all_stay_on_one_level(prompt_s: float, made_s: float) -> None:
    assert level(prompt_s, made_s, math.inf) == 0.0


def test_what_a_preempted_request_has_made_counts_against_it() -> None:
    engine = Backlog(tokens=0.0, budget=512.0, memory=0.2, token_s=1e-4, step_s=0.01)
    fresh = Waiting(0.0, 100.0, 100.0, 50.0, 0.0)
    ranks = [rank(order("mlfq"), fresh._replace(made_tokens=float(made)), engine, 1.0) for made in (0, 1, 3, 7)]
    assert ranks == [0.0, 1.0, 2.0, 3.0]


def long_then(name: str, at_s: float, prompt: int, engine: Engine, max_wait_s: float = math.inf) -> LlmOutcome:
    """Serve a short prompt with a long answer, and at an instant another prompt with an answer of one token."""
    trace = Trace.from_arrivals(
        [0.0, at_s], {"input_tokens": [50, prompt], "output_tokens": [1000, 1], "max_tokens": [1000, 1]}
    )
    fleet = LlmFleet((engine,), order=order(name, max_wait_s=max_wait_s))
    return simulate_llm(fleet, LlmWork.of(trace))


ONE_AT_ONCE = Engine(PLAIN, kv_tokens=10_000, most_running=1)
SHORT_OF_MEMORY = Engine(PLAIN, kv_tokens=1536)


@pytest.mark.parametrize("batching", ["decode-first", "prefill-first"])
@pytest.mark.parametrize(("engine", "at_s", "prompt"), [(ONE_AT_ONCE, 1.0, 50), (SHORT_OF_MEMORY, 8.0, 900)])
@pytest.mark.parametrize("swap_token_s", [math.inf, 1e-6])
def test_a_long_answer_gives_way_to_a_later_short_one(
    engine: Engine, at_s: float, prompt: int, batching: str, swap_token_s: float
) -> None:
    engine = dataclasses.replace(engine, batching=batching, swap_token_s=swap_token_s)
    kept, gave_way = (long_then(name, at_s, prompt, engine) for name in ("fcfs", "mlfq"))
    assert kept.preemptions == 0
    assert kept.ttft_s[1] > 1.0
    assert gave_way.ttft_s[1] < 0.2
    assert gave_way.preempted.tolist() == [1, 0]
    assert gave_way.swapped == (swap_token_s < 1.0)
    assert gave_way.done_s[0] > kept.done_s[0]


def test_a_request_that_has_waited_long_enough_gives_way_no_more() -> None:
    bounded = long_then("mlfq", 1.0, 50, ONE_AT_ONCE, max_wait_s=0.5)
    assert bounded.preemptions == 0
    np.testing.assert_allclose(bounded.done_s, long_then("fcfs", 1.0, 50, ONE_AT_ONCE).done_s, **CLOSE)


def test_equal_levels_run_in_order_of_arrival() -> None:
    # Answers of one token have no service before they are whole: nobody is demoted, and equals do not preempt.
    rng = np.random.default_rng(3)
    trace = Trace.from_arrivals(
        np.cumsum(rng.exponential(0.02, 200)), {"input_tokens": np.full(200, 60.0), "output_tokens": np.ones(200)}
    )
    one, two = (
        simulate_llm(LlmFleet((Engine(STEP, 200, token_budget=32, most_running=2),), order=order(name)), LlmWork.of(
            trace, max_output_tokens=1)) for name in ("fcfs", "mlfq")
    )  # fmt: skip
    np.testing.assert_allclose(one.done_s, two.done_s, **CLOSE)
    assert two.preemptions == 0


def test_of_equal_levels_who_came_first_goes_first_preempted_or_not() -> None:
    # 0.02 s: the third, short, goes before the second, and is at the second's level when the fourth takes its place.
    trace = Trace.from_arrivals(
        [0.0, 0.005, 0.006, 0.13], {"input_tokens": [50, 800, 50, 50], "output_tokens": [2, 1, 100, 1]}
    )
    outcome = simulate_llm(LlmFleet((ONE_AT_ONCE,), order=order("mlfq")), LlmWork.of(trace))
    assert outcome.preempted[2] > 0
    assert outcome.start_s[1] == pytest.approx(outcome.done_s[3])


def test_a_maximum_wait_bounds_what_short_work_starves() -> None:
    n = 4_000
    prompt = np.where(np.arange(n) == 50, 400.0, 40.0)
    trace = Trace.from_arrivals(np.arange(n) * 0.0125, {"input_tokens": prompt, "output_tokens": np.ones(n)})
    engine = Engine(StepTime(1e-3, 3.2e-4), 4_000, token_budget=400, most_running=1, batching="prefill-first")
    waits_s = {}
    for most_s in (math.inf, 2.0):
        fleet = LlmFleet((engine,), order=order("mlfq", max_wait_s=most_s))
        waits_s[most_s] = float(simulate_llm(fleet, LlmWork.of(trace, max_output_tokens=1)).wait_s[50])
    assert waits_s[math.inf] > 10.0
    assert waits_s[2.0] <= 2.0 + 0.2
