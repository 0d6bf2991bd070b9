"""LLM engines: how fast they are simulated, and what policies of balancers and engines are worth on a real trace."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator

import numpy as np

from headway.bench import BenchOptions, Row
from headway.bench.fleets.llm_cases import MAX_WAIT_S, SPEED_UP, a100, fleet, real, shaped, slices
from headway.bench.sim import best_s, mgc_each_s
from headway.fleet.engines import Engine, LlmFleet
from headway.fleet.llm_run import LlmOutcome, LlmWork, simulate_llm
from headway.policy.kv_admission import admission
from headway.policy.scheduling import Order, order
from headway.sim.estimate import Estimate
from headway.sim.outcome import percentile
from headway.sim.station import Floats

REQUESTS, QUICK_REQUESTS = 100_000, 3_000
MGC_REQUESTS = 1_000_000
RATE_PER_S = 4.0
FULL_RATE_PER_S = 5.0
SHORT_KV_TOKENS = 24_000
"""Memory for the run with all features: so little that requests are preempted."""

SLICES = 8
VIDUR_REQUESTS, QUICK_VIDUR_REQUESTS, QUICK_SIMPY_REQUESTS = 2_000, 100, 1_000
BASELINES = {"round-robin": 0.15, "least-loaded": 0.08}
"""What the best policy is compared with, and by which share its mean time to first token is to be lower at least."""

POLICIES: dict[str, tuple[str, Order]] = {
    **{name: (name, order("fcfs")) for name in (
        "round-robin", "random", "power-of-d", "least-loaded", "least-memory", "least-prefill", "lmetric", "sal",
        "first-token")},
    "first-token+sjf": ("first-token", order("sjf", max_wait_s=MAX_WAIT_S)),
    "first-token+larry": ("first-token", order("larry", max_wait_s=MAX_WAIT_S)),
    "first-token+aged": ("first-token", order("aged", max_wait_s=MAX_WAIT_S)),
    "lmetric+aged": ("lmetric", order("aged", max_wait_s=MAX_WAIT_S)),
}  # fmt: skip
"""Policies by name: the balancer's, and the order within the engines."""

BEST = "first-token+aged"
SHOWN = (BEST, "lmetric+aged", "first-token", "lmetric")
"""The best policy, and others beside it: the same order, and first come first served, which is routing alone."""

VIDUR_BAR = ">= 300"
WITHIN = f"<= {MAX_WAIT_S:g}"


def sim_llm(options: BenchOptions) -> Iterator[Row]:
    """One engine: nanoseconds per output token, as a ratio to M/G/8's time per request in the same run.

    Once with full reservation, prompts first and memory by the token, as in published kernels that jump; once with all
    that engines do: blocks, chunks of prompts beside decoding, optimistic admission and preemption.
    """
    count = QUICK_REQUESTS if options.quick else REQUESTS
    simple = Engine(a100(), kv_tokens=200_000, token_budget=6_001, most_running=256, batching="prefill-first")
    full = Engine(a100(), kv_tokens=SHORT_KV_TOKENS, token_budget=512, most_running=256)
    cases = {
        "jumps": (LlmFleet((simple,), admission=admission("reserve"), block_tokens=1), RATE_PER_S, "<= 0.07", True),
        "no-jumps": (LlmFleet((simple,), admission=admission("reserve"), block_tokens=1), RATE_PER_S, None, False),
        "full": (LlmFleet((full,)), FULL_RATE_PER_S, "<= 1.5", True),
        "full-no-jumps": (LlmFleet((full,)), FULL_RATE_PER_S, "<= 1.5", False),
    }
    mgc = 20_000 if options.quick else MGC_REQUESTS
    for name, (made, rate_per_s, bar, jump) in cases.items():
        work = shaped(count, rate_per_s, options.seed)
        tokens = int(work.requests.output.sum())
        before_s = mgc_each_s(options.seed, mgc)
        ours_s, _ = best_s(lambda m=made, w=work, j=jump: simulate_llm(m, w, jump=j).done_s)  # type: ignore[misc]
        mgc_s = min(before_s, mgc_each_s(options.seed, mgc))
        each_s = ours_s / tokens
        yield Row(
            f"sim-llm/{name}", each_s * 1e9, "ns per output token", baseline=mgc_s * 1e9, ratio=each_s / mgc_s, bar=bar
        )
        outcome = simulate_llm(made, work, jump=jump)
        yield Row(f"sim-llm/{name}/preemptions", outcome.preemptions / count, "per request")


def llm_routing(options: BenchOptions) -> Iterator[Row]:
    """Mean time to first token on parts of a real trace, four engines: the best policy against the usual ones.

    The bars are on a balancer and an order together, against others with first come first served within the engines;
    the rows of `first-token` and `lmetric` are what routing alone is worth. A maximum wait bounds how long a request
    may have waited when a later one is taken before it, and not the wait itself; both are held against it.
    """
    trace = real(options.trace_path, "llm-routing")
    parts = slices(trace, 2 if options.quick else SLICES, SPEED_UP)
    work = [LlmWork.of(part) for part in parts]
    mean_s: dict[str, list[float]] = {}
    passed_s: dict[str, float] = {}
    for name, (router, ordered) in POLICIES.items():
        found = [
            simulate_llm(fleet(router, ordered=ordered), each, seed=options.seed + at) for at, each in enumerate(work)
        ]
        mean_s[name] = [float(np.mean(outcome.ttft_s)) for outcome in found]
        passed_s[name] = max(map(passed_over_s, found))
        yield Row(f"llm-routing/{name}/ttft-mean", Estimate.of(mean_s[name]).mean, "s")
        longest_s = max(float(np.max(outcome.wait_s)) for outcome in found)
        yield Row(f"llm-routing/{name}/max-wait", longest_s, "s", bar=WITHIN if name == BEST else None)
    for name in SHOWN:
        for baseline, least in BASELINES.items():
            lower = [1.0 - ours / theirs for ours, theirs in zip(mean_s[name], mean_s[baseline], strict=True)]
            share = Estimate.of(lower)
            bar = f">= {least:.0%}" if name == BEST else None
            yield Row(f"llm-routing/{name}/below-{baseline}", share.mean, "of its mean TTFT")
            low = share.mean if np.isnan(share.low) else share.low
            yield Row(f"llm-routing/{name}/below-{baseline}/at-least", low, "of its mean TTFT", bar=bar)
    yield Row(f"llm-routing/{BEST}/max-passed-over", passed_s[BEST], "s", bar=WITHIN)


def passed_over_s(outcome: LlmOutcome) -> float:
    """Return the longest that a request had waited when one that came later began before it on the same engine.

    That is what a maximum wait bounds; 0 where nobody was passed over.
    """
    longest_s = 0.0
    for engine in np.unique(outcome.engine):
        on = outcome.engine == engine
        arrival_s, start_s = outcome.arrival_s[on], outcome.start_s[on]
        passed = (arrival_s[:, None] < arrival_s) & (start_s < start_s[:, None])
        waited_s = np.where(passed, start_s - arrival_s[:, None], 0.0)
        longest_s = max(longest_s, float(waited_s.max(initial=0.0)))
    return longest_s


def sim_llm_vidur(options: BenchOptions) -> Iterator[Row]:
    """Four engines with all features on a real trace: against Vidur with the same latency model, and against SimPy.

    Vidur takes the first requests of the trace, the same rules in SimPy take all, at an event per iteration.
    Percentiles are set beside each other. The bar is of the ratio to Vidur; where that is not installed, its row has no
    value, and the bar is of the ratio to SimPy.
    """
    from headway.bench.fleets import llm_simpy, llm_vidur

    trace = real(options.trace_path, "sim-llm-vidur")
    whole = slices(trace, 1, SPEED_UP)[0]
    made = fleet("round-robin")
    if llm_vidur.installed():
        few = whole.slice(0.0, float(whole.arrival_s[QUICK_VIDUR_REQUESTS if options.quick else VIDUR_REQUESTS]))
        work = LlmWork.of(few)
        before_s, outcome = _timed(made, work)
        first_s, done_s, theirs_s = llm_vidur.serve(made, work.requests)
        yield from _beside("vidur", min(before_s, _timed(made, work)[0]), theirs_s, outcome, first_s, done_s, VIDUR_BAR)
    else:
        why = f"{llm_vidur.MISSING}; the bar is of the ratio to SimPy instead"
        print(f"bench sim-llm-vidur: {why}", file=sys.stderr)
        yield Row("sim-llm-vidur/vidur", math.nan, "ns per request")
    work = LlmWork.of(whole.slice(0.0, float(whole.arrival_s[QUICK_SIMPY_REQUESTS])) if options.quick else whole)
    before_s, outcome = _timed(made, work)
    begun = time.process_time()
    first_s, done_s = llm_simpy.serve(made, work.requests)
    theirs_s = time.process_time() - begun
    bar = None if llm_vidur.installed() else VIDUR_BAR
    yield from _beside("simpy", min(before_s, _timed(made, work)[0]), theirs_s, outcome, first_s, done_s, bar)


def _timed(made: LlmFleet, work: LlmWork) -> tuple[float, LlmOutcome]:
    return best_s(lambda: simulate_llm(made, work).done_s)[0], simulate_llm(made, work)


def _beside(
    rival: str, ours_s: float, theirs_s: float, outcome: LlmOutcome, first_s: Floats, done_s: Floats, bar: str | None
) -> Iterator[Row]:
    each = 1e9 / outcome.offered
    name = f"sim-llm-vidur/{rival}"
    yield Row(name, ours_s * each, "ns per request", baseline=theirs_s * each, ratio=theirs_s / ours_s, bar=bar)
    for what, ours, theirs in (("ttft", outcome.first_s, first_s), ("e2e", outcome.done_s, done_s)):
        for percent in (50, 99):
            mine, other = (percentile(at_s - outcome.arrival_s, percent) for at_s in (ours, theirs))
            yield Row(f"{name}/{what}-p{percent}", mine, "s", baseline=other, ratio=mine / other)
