"""Small specs of fleets, and requests for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from headway.spec.model import Spec
from headway.trace import Trace

GPUS = {"a100-80gb": {"price": "$2/h"}, "h100-80gb": {"price": "$5/h", "startup": "30s"}}
ENGINES: dict[str, Any] = {
    "kind": "fleet",
    "hardware": ["a100-80gb", "h100-80gb"],
    "model": "llama-2-7b",
    "tensor_parallel": [1, 2],
    "token_budget": [256, 512],
    "most_running": 64,
    "classes": {"chat": {"ttft": "2s"}, "batch": {"e2e": "60s"}},
    "upstreams": ["http://127.0.0.1:9"],
}
SERVERS: dict[str, Any] = {
    "kind": "fleet",
    "servers": "cores",
    "quantum": ["20ms", "200ms"],
    "network": "1ms",
    "report_loss": 0.1,
    "classes": {"short": {"e2e": "300ms"}, "long": {"e2e": "2s"}},
}


def llm_spec(slo: dict[str, Any] | None = None, **fields: Any) -> Spec:
    """Return a spec of one fleet of LLM engines."""
    stage = {**ENGINES, **fields}
    return Spec.from_dict({"slo": {"latency": "60s", **(slo or {})}, "supply": GPUS, "stages": {"answer": stage}})


def cores_spec(**fields: Any) -> Spec:
    """Return a spec of one fleet of servers with four workers each."""
    return Spec.from_dict(
        {
            "slo": {"latency": "2s"},
            "supply": {"cpu-4": {"price": "$0.2/h", "threads": 4, "max": 6}},
            "stages": {"look": {**SERVERS, **fields}},
        }
    )


def chats(rate_per_s: float, seconds: float, seed: int, input_tokens: float = 900, output_tokens: float = 60) -> Trace:
    """Return requests with tokens, one in five of the second class."""
    trace = Trace.gamma(rate_per_s, 2.0, seconds, seed=seed).with_tokens(input_tokens, output_tokens, seed=seed)
    kind = (np.random.default_rng(seed).random(trace.requests) < 0.2).astype(float)
    return Trace.from_arrivals(trace.arrival_s, {**trace.columns, "class": kind}, duration_s=trace.duration_s)


def looks(rate_per_s: float, seconds: float, seed: int) -> Trace:
    """Return requests that compute for 10 ms, and one in ten for 200 ms."""
    trace = Trace.poisson(rate_per_s, seconds, seed=seed)
    kind = (np.random.default_rng(seed).random(trace.requests) < 0.1).astype(float)
    columns = {"class": kind, "service_s": np.where(kind == 0, 0.01, 0.2), "session": np.arange(trace.requests) % 7.0}
    return Trace.from_arrivals(trace.arrival_s, columns, duration_s=trace.duration_s)
