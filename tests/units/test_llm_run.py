"""LLM fleets by example: timings that a person can check, memory, prefixes, roles, start-up, reports, and errors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest

from headway.errors import HeadwayError, TraceError
from headway.fleet.engines import Engine, LlmFleet
from headway.fleet.llm_run import LlmOutcome, LlmWork, simulate_llm
from headway.fleet.llm_slo import SloClass, kept, tokens_per_tenant
from headway.fleet.step_time import StepTime
from headway.policy.kv_admission import admission
from headway.policy.scheduling import order
from headway.policy.token_routing import token_router
from headway.trace import Trace
from headway.trace.prompts import PROMPT, Prompts

STEP = StepTime(floor_s=0.01, token_s=1e-4)
ENGINE = Engine(STEP, kv_tokens=10_000, token_budget=200, most_running=16)


def work(rows: Sequence[tuple[float, int, int]], **columns: Sequence[float]) -> LlmWork:
    """Return requests of (arrival, prompt tokens, output tokens)."""
    arrival_s, prompt, output = np.array(rows, np.float64).T
    given = {"input_tokens": prompt, "output_tokens": output, **columns}
    return LlmWork.of(Trace.from_arrivals(arrival_s, given), max_output_tokens=64)


def serve(rows: Sequence[tuple[float, int, int]], *engines: Engine, **changes: object) -> LlmOutcome:
    """Serve requests with engines, one as it is unless others are given."""
    fleet = dataclasses.replace(LlmFleet(engines or (ENGINE,)), **changes)  # type: ignore[arg-type]
    return simulate_llm(fleet, work(rows))


def test_a_prompt_is_computed_in_chunks_and_then_a_token_at_a_time() -> None:
    outcome = serve([(1.0, 500, 4)])
    # 200 + 200 + 100 tokens, then three more tokens at the floor.
    assert outcome.ttft_s[0] == pytest.approx(0.02 + 0.02 + 0.01)
    assert outcome.e2e_s[0] == pytest.approx(0.05 + 3 * 0.01)
    assert outcome.tpot_s[0] == pytest.approx(0.01)
    assert outcome.normalized_s[0] == pytest.approx(0.08 / 4)


def test_decoding_goes_on_beside_the_chunks_of_a_prompt_or_stands_still() -> None:
    rows = [(0.0, 100, 6), (0.025, 400, 2)]
    beside = serve(rows)
    # Three iterations of 200 tokens carry a token of the first request each.
    assert beside.done_s[0] == pytest.approx(0.01 + 0.01 + 0.01 + 0.02 + 0.02 + 0.01)
    alone = serve(rows, dataclasses.replace(ENGINE, batching="prefill-first"))
    assert alone.first_s[1] == pytest.approx(0.03 + 0.04)
    assert alone.done_s[0] == pytest.approx(0.03 + 0.04 + 3 * 0.01)


def test_a_static_batch_lets_nobody_in_before_all_have_left() -> None:
    engine = dataclasses.replace(ENGINE, batching="static")
    outcome = serve([(0.0, 100, 3), (0.0, 100, 9), (0.005, 100, 2)], engine)
    assert outcome.start_s[2] == pytest.approx(outcome.done_s[1])


def test_memory_that_runs_out_sends_the_last_one_back() -> None:
    engine = dataclasses.replace(ENGINE, kv_tokens=160)
    outcome = serve([(0.0, 60, 40), (0.0, 60, 40)], engine, admission=admission("optimistic", watermark=0.0))
    assert outcome.preempted.tolist() == [0, 1]
    assert outcome.done_s[1] > outcome.done_s[0]
    assert outcome.wasted_ratio > 0.3
    reserved = serve([(0.0, 60, 40), (0.0, 60, 40)], engine, admission=admission("reserve"))
    assert reserved.preemptions == 0
    assert reserved.start_s[1] == pytest.approx(reserved.done_s[0])


def test_copying_memory_out_is_preferred_where_it_is_cheaper() -> None:
    rows = [(0.0, 60, 40), (0.0, 60, 40)]
    engine = dataclasses.replace(ENGINE, step=StepTime(0.01, 1e-3), kv_tokens=160)
    computed = serve(rows, engine, admission=admission("optimistic", watermark=0.0))
    copied = serve(
        rows, dataclasses.replace(engine, swap_token_s=1e-6), admission=admission("optimistic", watermark=0.0)
    )
    assert (computed.swapped, copied.swapped) == (0, 1)
    assert copied.wasted_ratio == 0.0
    assert copied.done_s[1] < computed.done_s[1]


def test_headroom_grows_after_a_preemption() -> None:
    engine = dataclasses.replace(ENGINE, kv_tokens=320)
    rows = [(0.01 * at, 40, 50) for at in range(40)]
    plain = serve(rows, engine, admission=admission("optimistic", watermark=0.0))
    adaptive = serve(rows, engine, admission=admission("headroom", watermark=0.0))
    assert 0 < adaptive.preemptions < plain.preemptions


def test_what_could_never_fit_is_refused_and_the_rest_is_served() -> None:
    outcome = serve([(0.0, 20_000, 2), (0.0, 10, 2)])
    assert outcome.answered == 1
    assert math.isinf(outcome.done_s[0])


def test_begins_of_prompts_are_computed_once() -> None:
    columns = {
        "input_tokens": [96, 96, 96], "output_tokens": [1, 1, 1], PROMPT: [0, 1, 2],
    }  # fmt: skip
    trace = Trace.from_arrivals([0.0, 1.0, 2.0], columns)
    prompts = Prompts.of([[1, 2, 3], [1, 2, 4], [9, 2, 4]], block_tokens=32)
    fleet = LlmFleet((ENGINE,), prefix_cache=True)
    outcome = simulate_llm(fleet, LlmWork.of(trace, prompts, max_output_tokens=64))
    assert outcome.cached.tolist() == [0, 64, 0]
    assert outcome.hit_ratio == pytest.approx(64 / 288)


def test_what_is_cached_gives_way_to_what_runs() -> None:
    columns = {"input_tokens": [96, 150, 96], "output_tokens": [1, 1, 1], PROMPT: [0, 1, 0]}
    prompts = Prompts.of([[1, 2, 3], [4, 5, 6, 7, 8]], block_tokens=32)
    trace = Trace.from_arrivals([0.0, 1.0, 2.0], columns)
    fleet = LlmFleet((dataclasses.replace(ENGINE, kv_tokens=224),), prefix_cache=True)
    outcome = simulate_llm(fleet, LlmWork.of(trace, prompts, max_output_tokens=64))
    # The second prompt needs the end of the first one's memory, not its begin.
    assert outcome.cached.tolist() == [0, 0, 64]


def test_a_prompt_goes_where_its_begin_is() -> None:
    rng = np.random.default_rng(4)
    rows = [[int(kind) * 10 + at for at in range(4)] for kind in rng.integers(0, 6, 120)]
    columns = {"input_tokens": np.full(120, 128.0), "output_tokens": np.full(120, 2.0), PROMPT: np.arange(120)}
    made = LlmWork.of(
        Trace.from_arrivals(np.arange(120) * 0.02, columns), Prompts.of(rows, block_tokens=32), max_output_tokens=64
    )
    fleet = LlmFleet((ENGINE,) * 3, token_router("round-robin"), prefix_cache=True)
    blind = simulate_llm(fleet, made).hit_ratio
    aware = simulate_llm(dataclasses.replace(fleet, router=token_router("prefix-aware")), made)
    assert aware.hit_ratio > blind
    for kind in range(6):
        where = {int(aware.engine[at]) for at, row in enumerate(rows) if row[0] == kind * 10}
        assert len(where) == 1


def test_prefill_and_decode_on_engines_of_their_own() -> None:
    rows = [(0.1 * at, 150, 20) for at in range(30)]
    roles = [dataclasses.replace(ENGINE, role=role) for role in ("prefill", "decode")]
    outcome = serve(rows, *roles, router=token_router("least-prefill"), transfer_token_s=1e-5)
    assert outcome.answered == 30
    assert outcome.first_s[0] == pytest.approx(0.015)
    assert outcome.done_s[0] == pytest.approx(0.015 + 150e-5 + 19 * 0.01)
    computed = outcome.tally[:, 3]
    assert (computed[0], computed[1]) == (30 * 150, 0)
    assert outcome.engine.tolist() == [1] * 30


def test_a_decode_engine_takes_over_from_when_it_is_ready_until_it_is_stopped() -> None:
    prefill, decode = (dataclasses.replace(ENGINE, role=role) for role in ("prefill", "decode"))
    later, until = dataclasses.replace(decode, ready_s=3.0), dataclasses.replace(decode, stop_s=5.0)
    rows = [(0.1 * at, 150, 20) for at in range(80)]
    outcome = serve(rows, prefill, later, until)
    assert outcome.answered == 80
    assert set(outcome.engine[outcome.first_s < 3.0].tolist()) == {2}
    assert set(outcome.engine[outcome.first_s > 5.0].tolist()) == {1}
    # Where none is ready what was handed over waits for the first that is.
    alone = serve(rows[:3], prefill, later)
    assert alone.answered == 3
    assert alone.done_s.min() == pytest.approx(3.0 + 19 * 0.01)


def test_an_engine_with_a_larger_budget_is_as_fast_as_one_with_a_smaller() -> None:
    step = StepTime(floor_s=0.01, token_s=1e-4)
    engines = [Engine(step, kv_tokens=100_000, token_budget=budget, most_running=64) for budget in (512, 2048)]
    rows = [(0.05 * at, 400, 20) for at in range(400)]
    outcome = serve(rows, *engines, router=token_router("weighted-round-robin"))
    assert np.bincount(outcome.engine).tolist() == [200, 200]


@pytest.mark.parametrize("rule", ["optimistic", "reserve", "headroom", "peak"])
def test_an_engine_for_prompts_alone_needs_memory_for_prompts_alone(rule: str) -> None:
    prefill = dataclasses.replace(ENGINE, role="prefill", kv_tokens=320)
    decode = dataclasses.replace(ENGINE, role="decode", kv_tokens=100_000)
    made = LlmFleet((prefill, decode), admission=admission(rule, watermark=0.0), transfer_token_s=1e-5)
    outcome = simulate_llm(made, work([(0.001 * at, 150, 60) for at in range(4)]))
    assert outcome.answered == 4
    # Two prompts are held at once.
    assert outcome.start_s[1] < outcome.first_s[0] + 1e-9


def test_tenants_are_called_what_one_likes_as_long_as_they_are_numbered() -> None:
    columns = {"input_tokens": [9.0, 9.0], "output_tokens": [2.0, 2.0]}
    many = LlmWork.of(Trace.from_arrivals([0.0, 1.0], {**columns, "tenant": [1e12, 7.0]}))
    assert many.requests.tenant.tolist() == [1, 0]
    with pytest.raises(TraceError, match="between two whole numbers"):
        LlmWork.of(Trace.from_arrivals([0.0, 1.0], {**columns, "tenant": [0.2, 0.7]}))


def test_a_replica_serves_from_when_it_is_ready_until_it_is_stopped() -> None:
    engines = dataclasses.replace(ENGINE, ready_s=2.0), dataclasses.replace(ENGINE, stop_s=5.0)
    outcome = serve([(0.2 * at, 100, 20) for at in range(50)], *engines, router=token_router("round-robin"))
    assert outcome.answered == 50
    for engine, arrival_s in zip(outcome.engine.tolist(), outcome.arrival_s.tolist(), strict=True):
        assert engine == 1 if arrival_s < 2.0 else True
        assert engine == 0 if arrival_s >= 5.0 else True
    assert {0, 1} == set(outcome.engine.tolist())


def test_requests_wait_for_the_first_replica_and_are_lost_without_one() -> None:
    late = serve([(0.0, 100, 2)], dataclasses.replace(ENGINE, ready_s=3.0))
    assert late.start_s[0] == pytest.approx(3.0)
    gone = serve([(4.0, 100, 2)], dataclasses.replace(ENGINE, stop_s=3.0))
    assert (gone.answered, gone.engine.tolist()) == (0, [-1])


def test_a_bounded_number_per_engine_keeps_the_rest_with_the_balancer() -> None:
    rows = [(0.001 * at, 100, 5) for at in range(12)]
    two = dataclasses.replace(ENGINE, most_running=2)
    outcome = serve(rows, two, two, router=token_router("central"))
    assert outcome.answered == 12
    inside = [(outcome.start_s <= at) & (outcome.done_s > at) for at in np.arange(0.0, 0.5, 0.003)]
    assert max(int(np.count_nonzero(now)) for now in inside) <= 4
    assert np.all(np.diff(outcome.start_s) >= -0.02)


def test_old_reports_herd_and_what_was_sent_since_prevents_it() -> None:
    rng = np.random.default_rng(5)
    rows = [(float(at), int(tokens), 4) for at, tokens in zip(
        np.cumsum(rng.exponential(0.012, 600)), rng.lognormal(4.5, 1.0, 600) + 1, strict=True)]  # fmt: skip
    engines = (dataclasses.replace(ENGINE, kv_tokens=50_000),) * 4
    mean_s = {
        name: float(np.mean(serve(rows, *engines, router=token_router("least-prefill"), **signal).ttft_s))
        for name, signal in {
            "fresh": {}, "old": {"report_s": 1.0, "deltas": False}, "with sent": {"report_s": 1.0},
        }.items()
    }  # fmt: skip
    assert mean_s["fresh"] < mean_s["with sent"] < mean_s["old"]


def test_tenants_are_served_alike_by_vtc() -> None:
    rows = [(0.002 * at, 100, 10) for at in range(300)]
    tenant = [0.0 if at % 4 else 1.0 for at in range(300)]
    engine = dataclasses.replace(ENGINE, most_running=4)
    served = {}
    for name in ("fcfs", "vtc"):
        outcome = simulate_llm(LlmFleet((engine,), order=order(name)), work(rows, tenant=tenant))
        served[name] = tokens_per_tenant(outcome, 0.6)
    assert served["fcfs"][0] > 2.0 * served["fcfs"][1]
    assert served["vtc"][0] < 1.5 * served["vtc"][1]


def test_promises_by_class() -> None:
    outcome = serve([(0.0, 500, 4), (10.0, 100, 1)])
    classes = [SloClass("fast", ttft_s=0.02), SloClass("steady", tpot_s=0.01 + 1e-9)]
    assert kept(outcome, classes, np.array([0, 0], np.int32)).tolist() == [False, True]
    assert kept(outcome, classes, np.array([1, 1], np.int32)).tolist() == [True, True]
    with pytest.raises(HeadwayError, match="not above 0"):
        SloClass("none", ttft_s=0.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"batching": "chunked"}, "batching is 'chunked'"),
        ({"role": "prefil"}, "did you mean 'prefill'"),
        ({"kv_tokens": 0}, "kv_tokens is 0"),
        ({"kv_tokens": math.nan}, "kv_tokens is nan; a whole number"),
        ({"kv_tokens": 1600.5}, "kv_tokens is 1600.5; a whole number"),
        ({"most_running": math.nan}, "most_running is nan"),
        ({"ready_s": math.nan}, "ready_s must be at least 0"),
        ({"token_budget": 8}, "must be at least as large"),
        ({"ready_s": 5.0, "stop_s": 5.0}, "before stop_s"),
    ],
)
def test_invalid_engines_are_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(HeadwayError, match=says):
        dataclasses.replace(ENGINE, **change)  # type: ignore[arg-type]


def test_invalid_fleets_are_refused() -> None:
    decode = dataclasses.replace(ENGINE, role="decode")
    prefill = dataclasses.replace(ENGINE, role="prefill")
    for engines, says in (((), "no engine"), ((decode,), "both"), ((decode, prefill), "stand before")):
        with pytest.raises(HeadwayError, match=says):
            LlmFleet(engines)
    for more, says in (
        ({"report_s": math.nan}, "report_s is nan"),
        ({"transfer_token_s": math.nan}, "transfer_token_s is nan"),
        ({"block_tokens": 1.5}, "block_tokens is 1.5"),
        ({"router": "sal"}, r"router is 'sal'; a policy is needed, such as token_router\('sal'\)"),
        ({"admission": "reserve"}, "admission is 'reserve'"),
    ):
        with pytest.raises(HeadwayError, match=says):
            LlmFleet((ENGINE,), **more)  # type: ignore[arg-type]
    with pytest.raises(HeadwayError, match="below one block"):
        LlmFleet((dataclasses.replace(ENGINE, kv_tokens=8),))
    with pytest.raises(HeadwayError, match="prefix_cache needs"):
        simulate_llm(LlmFleet((ENGINE,), prefix_cache=True), work([(0.0, 1, 1)]))
    prompts = Prompts.of([[1]], block_tokens=20)
    trace = Trace.from_arrivals([0.0], {"input_tokens": [1], "output_tokens": [1], PROMPT: [0]})
    with pytest.raises(HeadwayError, match="multiple"):
        simulate_llm(LlmFleet((ENGINE,), prefix_cache=True), LlmWork.of(trace, prompts))


def test_traces_without_what_is_needed_are_refused() -> None:
    with pytest.raises(TraceError, match="no column 'input_tokens'"):
        LlmWork.of(Trace.from_arrivals([0.0]))
    long = Trace.from_arrivals([0.0], {"input_tokens": [1], "output_tokens": [9000]})
    with pytest.raises(TraceError, match="raise max_output_tokens"):
        LlmWork.of(long)
    below = Trace.from_arrivals([0.0], {"input_tokens": [-1], "output_tokens": [1]})
    with pytest.raises(TraceError, match="below 0"):
        LlmWork.of(below)
    for column, value, says in (
        ("input_tokens", 1e20, r"'input_tokens' has the value 1e\+20 in request 0"),
        ("tenant", 1e20, "'tenant' has a value below 0, above"),
    ):
        huge = Trace.from_arrivals([0.0], {"input_tokens": [1], "output_tokens": [1], column: [value]})
        with pytest.raises(TraceError, match=says):
            LlmWork.of(huge)
    short = Trace.from_arrivals([0.0], {"input_tokens": [1], "output_tokens": [1], PROMPT: [3]})
    with pytest.raises(TraceError, match="goes beyond"):
        LlmWork.of(short, Prompts.of([[1]], 16))


def test_what_others_keep_cached_is_computed_again_and_not_copied() -> None:
    """Computing the few tokens anew that are a request's own is cheaper than to copy all of them out and back."""
    requests, blocks = 30, 50
    arrival_s, answers = 0.05 * np.arange(requests), np.full(requests, 100.0)
    columns = {
        "input_tokens": np.full(requests, 16.0 * (blocks + 1)),
        "output_tokens": answers,
        "max_tokens": answers,
        PROMPT: np.arange(float(requests)),
    }

    def served(common: bool, swap_token_s: float) -> LlmOutcome:
        rows = [[*range(blocks), 10**6 + n] if common else list(range(n * 100, n * 100 + 51)) for n in range(requests)]
        load = LlmWork.of(Trace.from_arrivals(arrival_s, columns), Prompts.of(rows, 16))
        kv_tokens = 16 * (blocks + 60 if common else 6 * blocks + 20)
        engine = Engine(StepTime(0.01, 6e-5, 2e-7), kv_tokens, token_budget=512, swap_token_s=swap_token_s)
        return simulate_llm(LlmFleet((engine,), prefix_cache=True, admission=admission("optimistic")), load)

    alone, copied = served(True, math.inf), served(True, 2e-5)
    assert copied.preemptions > copied.swapped == 0
    assert np.array_equal(alone.done_s, copied.done_s)
    assert served(False, 2e-5).swapped > 0
