"""The LLM engines and requests that benchmarks use: a made-up shape for speed, real traces for policies."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from headway.errors import HeadwayError
from headway.fleet.engines import Engine, LlmFleet
from headway.fleet.llm_run import LlmWork
from headway.fleet.roofline import roofline
from headway.fleet.step_time import StepTime
from headway.policy.kv_admission import Admission, admission
from headway.policy.scheduling import Order, order
from headway.policy.token_routing import token_router
from headway.trace import Trace

PROTOTYPE = StepTime(floor_s=0.0064, token_s=64e-6, kv_token_s=0.26e-6, overhead_s=0.0036)
"""10 ms up to 100 tokens, 64 microseconds for each beyond, 0.26 for each token of context: Llama-2-7B on an A100."""

KV_TOKENS, CHUNK, MOST_RUNNING = 80_000, 512, 128
SPEED_UP = 3.6
"""How many times as fast as it came the conversation trace is played to four engines."""

MAX_WAIT_S = 30.0
"""The longest that a request may wait in these benchmarks before it goes first."""


def engine(**changes: object) -> Engine:
    """Return the engine that policies are compared on, with some fields changed."""
    made = Engine(PROTOTYPE, KV_TOKENS, CHUNK, MOST_RUNNING)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def fleet(
    router: str,
    engines: int = 4,
    *,
    ordered: Order | None = None,
    admitted: Admission | None = None,
    made: Engine | None = None,
    **changes: object,
) -> LlmFleet:
    """Return equal engines behind a balancer by the name of its policy, with some fields changed."""
    each = made or engine()
    base = LlmFleet(
        (each,) * engines, token_router(router), ordered or order("fcfs"), admitted or admission("optimistic")
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def shaped(requests: int, rate_per_s: float, seed: int) -> LlmWork:
    """Return requests of 656 prompt and 206 output tokens in the mean, log-normal, Poisson arrivals."""
    rng = np.random.default_rng(seed)
    prompt = np.minimum(rng.lognormal(6.0, 1.0, requests), 6000).astype(np.int64) + 1
    output = np.minimum(rng.lognormal(5.0, 0.8, requests), 2000).astype(np.int64) + 2
    columns = {"input_tokens": prompt, "output_tokens": output, "max_tokens": output}
    return LlmWork.of(Trace.from_arrivals(np.cumsum(rng.exponential(1 / rate_per_s, requests)), columns))


def a100() -> StepTime:
    """Return what iterations of Llama-2-7B on an A100 take, without attention within prompts."""
    return dataclasses.replace(roofline("llama-2-7b", "a100-80gb").step, pair_s=0.0)


def real(path: Path | None, bench: str) -> Trace:
    """Return a real trace with tokens. Raises HeadwayError."""
    if path is None:
        raise HeadwayError(f"bench {bench}: give a trace with tokens, such as the Azure conversation trace, by --trace")
    return Trace.read(path)


def slices(trace: Trace, count: int, speed_up: float) -> Sequence[Trace]:
    """Return a trace in so many parts of equally many requests, each from its own time 0 and played faster."""
    edges = np.linspace(0, trace.requests, count + 1).astype(int)
    found = []
    for low, high in itertools.pairwise(edges.tolist()):
        arrival_s = (trace.arrival_s[low:high] - trace.arrival_s[low]) / speed_up
        found.append(Trace.from_arrivals(arrival_s, {key: col[low:high] for key, col in trace.columns.items()}))
    return found
