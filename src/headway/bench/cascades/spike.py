"""A cascade through a spike of five times the load, live: with hysteresis, without it, and without gears.

The devices are planned for four times the load, so that a backlog builds up while the spike lasts. What becomes of it
afterwards is the question: the load is low again, and a dear gear would be chosen if nothing were waiting. Everybody is
let in, as in the simulator; once more, with hysteresis, who would come too late is refused, and counts as late. The
family is made up (its table is drawn by a seed, and its models sleep), the server and its worker processes are real.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from headway.bench import BenchOptions, Row
from headway.cascade import ValidationTable
from headway.domains.cascade import DOMAIN
from headway.domains.cascade.gears import GearPlan
from headway.errors import PlanError
from headway.plan.config import StageContext
from headway.plan.plan import Plan
from headway.profile import Profile
from headway.profile import Row as ProfileRow
from headway.serve.engine import Limits
from headway.serve.replay import replay
from headway.serve.run import running
from headway.sim.outcome import percentile
from headway.sim.simulation import simulate
from headway.sim.station import Floats
from headway.spec.model import Spec
from headway.trace import Trace

STAGE, HARDWARE = "answer", "device"
MODELS = {"small": (0.016, 0.80), "medium": (0.060, 0.88), "large": (0.240, 0.93)}
"""Seconds for one item, and accuracy."""
SIZES = (1, 2, 4, 8, 16)
SAMPLES = 2_000
DEVICES = 3
PROMISE_S = 2.0
RATE_PER_S, SPIKE, PLANNED = 36.0, 5.0, 4.0
BEFORE_S, SPIKE_S, AFTER_S = 10.0, 4.0, 10.0
LOOKED_AT_S = SPIKE_S + 3.0
"""Requests are looked at that come from the beginning of the spike to three seconds after its end."""
SPARE = 0.75
"""The share of the promise that the chosen plan may use in the simulator."""
SIMULATED, QUICK_SIMULATED = 5, 1
RUNS, QUICK_RUNS = 3, 1
SERVED_SEED = 0
"""What a server draws validation samples with: the simulator is to have the same."""


def gears_spike(options: BenchOptions) -> Iterator[Row]:
    """The 95th percentile of requests in and after the spike, measured against the promise, and the accuracy."""
    with tempfile.TemporaryDirectory(prefix="headway-spike-") as folder:
        spec = made_up_spec(Path(folder))
        chosen = choose(spec, options)
        traces = [spike(options.seed + number) for number in range(QUICK_RUNS if options.quick else RUNS)]
        ways = {
            "hysteresis": chosen,
            "no-hysteresis": dataclasses.replace(chosen, alpha_per_s=0.0),
            "no-gears": dataclasses.replace(chosen, gears=chosen.gears[:1]),
        }
        for name, config in ways.items():
            plan = Plan(spec, profile(), {STAGE: config})
            # Without gears the backlog takes longer to work off than the trace lasts, and there is no doubt about it.
            yield from measured(name, plan, traces[:1] if name == "no-gears" else traces)
            if name == "hysteresis":
                p95, _ = live(plan, traces[0], Limits())
                yield Row("gears-spike/hysteresis/refusing-late", p95, "s", bar=f"<= {PROMISE_S:g}")
        cheapest = Plan(spec, profile(), {STAGE: dataclasses.replace(chosen, gears=chosen.gears[-1:])})
        yield Row("gears-spike/cheapest-gear/accuracy", predicted(cheapest, traces)[1], "share of answers")


def measured(name: str, plan: Plan, traces: Sequence[Trace]) -> Iterator[Row]:
    """Serve a plan for each trace: with hysteresis the worst keeps the promise, else the median breaks it."""
    runs = [live(plan, trace, Limits(keep_promise=False)) for trace in traces]
    measured_s = [latency_s for latency_s, _ in runs]
    head, holds = f"gears-spike/{name}", name == "hysteresis"
    yield Row(f"{head}/simulated", predicted(plan, traces)[0], "s")
    yield Row(f"{head}/median", median(measured_s), "s", bar=None if holds else f">= {PROMISE_S:g}")
    yield Row(f"{head}/worst", max(measured_s), "s", bar=f"<= {PROMISE_S:g}" if holds else None)
    yield Row(f"{head}/accuracy", mean(accuracy for _, accuracy in runs), "share of answers")


def predicted(plan: Plan, traces: Sequence[Trace]) -> tuple[float, float]:
    """Return what the simulator says of the same runs: the median of the percentiles, and the mean accuracy."""
    outcomes = [simulate(plan, trace, seed=SERVED_SEED) for trace in traces]
    latencies_s = [p95_s(trace, outcome.latency_s) for trace, outcome in zip(traces, outcomes, strict=True)]
    return median(latencies_s), mean(outcome.accuracy or 0.0 for outcome in outcomes)


def made_up_spec(folder: Path) -> Spec:
    """Return the family as one stage; its validation table is written to the folder."""
    path = folder / "validation.csv"
    table().write(path)
    stage = {
        "kind": "cascade",
        "models": {name: {} for name in MODELS},
        "table": str(path),
        "max_rate": f"{PLANNED * RATE_PER_S!r}/s",
    }
    return Spec.from_dict(
        {
            "name": "spike",
            "slo": {"latency": f"{PROMISE_S!r}s", "percentile": 95},
            "supply": {HARDWARE: {"price": "$1/h"}},
            "stages": {STAGE: stage},
        }
    )


def table() -> ValidationTable:
    """Return answers and certainties that tell right from wrong about as well as margins of trained models do."""
    rng = np.random.default_rng(0)
    labels, hardness = rng.integers(0, 4, SAMPLES), rng.random(SAMPLES)
    predicted, certainty = {}, {}
    for name, (_, accuracy) in MODELS.items():
        right = hardness + rng.normal(0, 0.03, SAMPLES) < accuracy
        predicted[name] = np.where(right, labels, (labels + 1) % 4)
        certainty[name] = np.clip(accuracy + 0.25 - hardness + rng.normal(0, 0.1, SAMPLES), 0, 1)
    return ValidationTable(labels, predicted, certainty)


def profile() -> Profile:
    """Return what batches of the models take: 0.4 of one item's time, and 0.6 for each item."""
    return Profile.from_rows(
        ProfileRow(STAGE, HARDWARE, size, item_s * (0.4 + 0.6 * size), variant=name)
        for name, (item_s, _) in MODELS.items()
        for size in SIZES
    )


def spike(seed: int) -> Trace:
    """Return Poisson arrivals: the base rate, five times that, and the base rate again."""
    rng = np.random.default_rng(seed)
    parts, begin_s = [], 0.0
    for rate, seconds in ((RATE_PER_S, BEFORE_S), (SPIKE * RATE_PER_S, SPIKE_S), (RATE_PER_S, AFTER_S)):
        count = rng.poisson(rate * seconds)
        parts.append(begin_s + np.sort(rng.random(count)) * seconds)
        begin_s += seconds
    return Trace.from_arrivals(np.concatenate(parts), duration_s=begin_s, name=f"spike seed={seed}")


def p95_s(trace: Trace, latency_s: Floats) -> float:
    """Return the 95th percentile of the requests that are looked at."""
    since_s = trace.arrival_s - BEFORE_S
    return percentile(latency_s[(since_s >= 0.0) & (since_s < LOOKED_AT_S)], 95)


def choose(spec: Spec, options: BenchOptions) -> GearPlan:
    """Return, of the planner's plans for the devices, the most accurate that keeps the promise with some to spare.

    It is judged in the simulator, on other draws of the spike than the one that is served.
    """
    context = StageContext(STAGE, spec.stages[STAGE], spec, profile())
    seeds = range(QUICK_SIMULATED if options.quick else SIMULATED)
    traces = [spike(1_000 * (options.seed + 1) + seed) for seed in seeds]
    best: tuple[float, GearPlan] | None = None
    for config in DOMAIN.planner(context, HARDWARE).switching(DEVICES):
        plan = Plan(spec, profile(), {STAGE: config})
        outcomes = [simulate(plan, trace, seed=options.seed) for trace in traces]
        worst_s = max(p95_s(trace, o.latency_s) for trace, o in zip(traces, outcomes, strict=True))
        accuracy = mean(outcome.accuracy or 0.0 for outcome in outcomes)
        if worst_s <= SPARE * PROMISE_S and (best is None or accuracy > best[0]):
            best = accuracy, config
    if best is None:
        raise PlanError(f"gears-spike: no gear plan for {DEVICES} devices keeps {PROMISE_S:g} s in the simulator")
    return best[1]


def live(plan: Plan, trace: Trace, limits: Limits) -> tuple[float, float]:
    """Serve the plan in a process of its own and replay the trace; return the percentile and the answers' accuracy."""
    told: dict[str, Any] = {}

    def keep(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        told.update(after["stages"][STAGE]["cascade"])

    with running(plan, limits=limits) as server:
        outcome = replay(server.url, trace, on_stats=keep)
    return p95_s(trace, outcome.latency_s), float(told["accuracy"])
