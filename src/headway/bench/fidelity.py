"""How far predictions are from what a live server does: sleeping models over HTTP, and the document pipeline."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from headway.bench import BenchOptions, Row
from headway.errors import HeadwayError
from headway.plan.plan import Plan
from headway.profile import Profile
from headway.profile import Row as ProfileRow
from headway.sim.simulation import interval, simulate
from headway.spec.model import Spec
from headway.trace import Trace

REQUESTS = 20_000
QUICK_REQUESTS = 500
RATE_PER_S = 150.0
CV = 2.0
DEMO_TIMEOUT_S = 600
SLEEPING: dict[str, tuple[float, float, int, int]] = {
    "detect": (20.0, 10.0, 4, 6),
    "person": (30.0, 12.0, 4, 5),
    "merge": (15.0, 5.0, 2, 5),
}
"""Stages of sleeping models: milliseconds of a batch (fixed and per item), largest batch, replicas."""


def fidelity(options: BenchOptions) -> list[Row]:
    """Predicted against measured latency at utilization up to 0.7."""
    return [*sleeping(options), *demo(options)]


def sleeping_plan() -> Plan:
    """Return the pipeline of sleeping models: three stages, one conditional and one joining, drawn service times."""
    stages = {"detect": {}, "person": {"after": "detect", "probability": 0.7}, "merge": {"after": ["detect", "person"]}}
    spec = Spec.from_dict(
        {"name": "sleeping", "slo": {"latency": "500ms"}, "supply": {"cpu": {"price": "$0.05/h"}}, "stages": stages}
    )
    rows, configs = [], {}
    for name, (fixed_ms, item_ms, batch, replicas) in SLEEPING.items():
        for size in range(1, batch + 1):
            mean_s = (fixed_ms + item_ms * size) / 1e3
            rows.append(
                ProfileRow(name, "cpu", size, mean_s, p50_s=mean_s * 0.99, p95_s=mean_s * 1.1, p99_s=mean_s * 1.2)
            )
        fields = {"hardware": "cpu", "replicas": replicas, "max_batch_size": batch}
        configs[name] = _domain(spec, name).parse_config(fields, name)
    return Plan(spec, Profile.from_rows(rows), configs)


def sleeping(options: BenchOptions) -> list[Row]:
    """20,000 requests against models that sleep as long as their profile says: what HTTP, queues and hops add."""
    from headway.serve.calibrate import LETS_ALL_IN
    from headway.serve.replay import replay
    from headway.serve.run import running

    plan = sleeping_plan()
    trace = Trace.gamma(RATE_PER_S, CV, requests=QUICK_REQUESTS if options.quick else REQUESTS, seed=options.seed)
    predicted = simulate(plan, trace, seed=options.seed)
    with running(plan, limits=LETS_ALL_IN) as server:
        measured = replay(server.url, trace, payloads=["page"], seed=options.seed)
    busiest = max(stage.utilization for stage in predicted.stages.values())
    rows = [
        Row("fidelity/sleeping/utilization", busiest, "of the busiest stage", bar="<= 0.7"),
        Row("fidelity/sleeping/answered", measured.counts()["answered"], "requests", baseline=trace.requests),
    ]
    for percent, bar in ((50, "<= 5%"), (95, None), (99, "<= 10%")):
        rows.append(_error(f"fidelity/sleeping/p{percent}", predicted.p(percent), measured.p(percent), bar))
    rows += _resolution(plan, trace, options)
    return rows


def demo(options: BenchOptions) -> list[Row]:
    """The demo as a user runs it: real models, this machine's cores, predicted and measured from its own JSON.

    The bar is 15 % plus the simulator's own interval for that number of requests.
    """
    command = [sys.executable, "-m", "headway", "demo", "--json", *(["--seconds", "10"] if options.quick else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEMO_TIMEOUT_S, check=False)
    if done.returncode:
        raise HeadwayError(f"bench fidelity: the demo failed: {done.stderr.strip()[-400:]}")
    story: dict[str, Any] = msgspec.json.decode(done.stdout)
    predicted, measured, own = story["predicted"], story["measured"], story["interval"]
    busiest = max(stage["utilization"] for stage in predicted["stages"].values())
    rows = [Row("fidelity/demo/utilization", busiest, "of the busiest stage")]
    for key, barred in (("p50_s", True), ("p95_s", True), ("p99_s", False)):
        rows.append(_demo_error(f"fidelity/demo/{key[:-2]}", predicted[key], measured[key], own[key], barred))
    return rows


def _demo_error(name: str, predicted_s: float, measured_s: float, own_s: Sequence[float], barred: bool) -> Row:
    """The measured figure, and how far it lies outside the simulator's own interval, relative to the prediction."""
    low_s, high_s = own_s
    outside_s = max(low_s - measured_s, measured_s - high_s, 0.0)
    ratio = outside_s / predicted_s
    return Row(name, measured_s * 1e3, "ms", baseline=predicted_s * 1e3, ratio=ratio, bar="<= 15%" if barred else None)


def _error(name: str, predicted_s: float, measured_s: float, bar: str | None) -> Row:
    ratio = abs(measured_s - predicted_s) / measured_s
    return Row(name, measured_s * 1e3, "ms", baseline=predicted_s * 1e3, ratio=ratio, bar=bar)


def _resolution(plan: Plan, trace: Trace, options: BenchOptions) -> list[Row]:
    """How far two simulations of the same trace differ by their draws alone: no prediction can be closer for sure."""
    own = interval(plan, trace, seed=options.seed, runs=10)
    return [
        Row(f"fidelity/sleeping/{key[:-2]}-interval", (own[key][1] - own[key][0]) * 1e3, "ms wide")
        for key in ("p50_s", "p99_s")
    ]


def _domain(spec: Spec, stage: str) -> Any:
    from headway.spec.kinds import load_domain

    return load_domain(spec.stages[stage].kind)
