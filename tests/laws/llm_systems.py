"""Random fleets of LLM engines and the work they get, small enough that memory is short and much happens."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from headway.fleet.engines import BATCHINGS, Engine, LlmFleet
from headway.fleet.llm_run import LlmWork
from headway.fleet.step_time import StepTime
from headway.policy.kv_admission import RULES, admission
from headway.policy.scheduling import MLFQ, ORDERS, VTC, order
from headway.policy.token_routing import TOKEN_ROUTERS, token_router
from headway.trace import Trace
from headway.trace.prompts import PROMPT, Prompts

BLOCK = 4
PROMPT_BLOCK = 8
STEP = StepTime(floor_s=0.011, token_s=3e-4, kv_token_s=1.3e-5, pair_s=1.7e-6, overhead_s=0.0007)
ROUTERS = ("round-robin", "random", "power-of-d", "least-loaded", "least-outstanding", "jbsq", *TOKEN_ROUTERS)


def random_fleet(rng: np.random.Generator, engines: int | None = None) -> LlmFleet:
    """Return engines of one to three kinds with random policies; a prompt of 60 tokens always fits."""
    count = int(rng.integers(1, 4)) if engines is None else engines
    batching = str(rng.choice(list(BATCHINGS)))
    made = tuple(
        Engine(
            dataclasses.replace(STEP, token_s=STEP.token_s * float(rng.uniform(0.5, 2.0))),
            kv_tokens=int(rng.integers(92, 260)),
            token_budget=int(rng.integers(8, 64)),
            most_running=int(rng.integers(1, 8)),
            batching=batching,
            swap_token_s=float(rng.choice([math.inf, 2e-5])),
        )
        for _ in range(count)
    )
    return LlmFleet(
        made,
        token_router(str(rng.choice(ROUTERS))),
        order(
            str(rng.choice(list(ORDERS))), max_wait_s=float(rng.choice([math.inf, 0.5])), reach_tokens=60.0,
            bypass=int(rng.choice([0, 2])),
        ),
        admission(str(rng.choice(list(RULES))), watermark=float(rng.choice([0.0, 0.05])), most_headroom=8.0),
        block_tokens=int(rng.choice([1, BLOCK])),
        prefix_cache=bool(rng.integers(2)),
        report_s=float(rng.choice([0.0, 0.21])),
        deltas=bool(rng.integers(2)),
    )  # fmt: skip


def mlfq_fleet(rng: np.random.Generator) -> LlmFleet:
    """Return random engines that take what waits by `mlfq`, the one order in which what runs gives way."""
    fleet = random_fleet(rng)
    return dataclasses.replace(fleet, order=fleet.order._replace(code=MLFQ))


def lone_vtc(rng: np.random.Generator) -> LlmFleet:
    """Return one random engine that is fair to tenants: what it owes them must be known whenever one comes."""
    fleet = random_fleet(rng, engines=1)
    return dataclasses.replace(fleet, order=fleet.order._replace(code=VTC, max_wait_s=math.inf))


def random_work(rng: np.random.Generator, requests: int, rate_per_s: float = 12.0) -> LlmWork:
    """Return requests of up to 60 prompt and 30 output tokens, of three tenants, some with common begins."""
    rows: list[tuple[int, list[int]]] = []
    for _ in range(requests):
        prompt = int(rng.integers(1, 60))
        shared = [int(rng.integers(3)) * 100 + at for at in range(int(rng.integers(0, 5)))]
        own = list(range(10_000 + 100 * len(rows), 10_000 + 100 * len(rows) + prompt // PROMPT_BLOCK + 1))
        rows.append((prompt, (shared + own)[: prompt // PROMPT_BLOCK + 1]))
    output = rng.integers(1, 30, requests)
    columns = {
        "input_tokens": np.array([prompt for prompt, _ in rows], np.float64),
        "output_tokens": output.astype(np.float64),
        "predicted_tokens": np.maximum(1.0, output * rng.uniform(0.3, 2.0, requests)),
        "tenant": rng.integers(0, 3, requests).astype(np.float64),
        PROMPT: np.arange(requests, dtype=np.float64),
    }
    trace = Trace.from_arrivals(np.cumsum(rng.exponential(1.0 / rate_per_s, requests)), columns)
    return LlmWork.of(trace, Prompts.of([row for _, row in rows], PROMPT_BLOCK), max_output_tokens=30)
