"""The exact planner against exhaustive search: every candidate of a tiny space, by increasing cost, judged anew."""

from __future__ import annotations

import bisect
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headway.domains.pipeline.declare import ReplicaConfig
from headway.plan import Infeasible, Plan
from headway.plan.make import make
from headway.plan.oracle import HOLD_SHARE, TRACES, block_s, derive
from headway.profile import Profile, Row
from headway.sim.items import build_items
from headway.sim.simulation import simulate
from headway.spec.model import Spec
from headway.trace import Trace

Stages = dict[str, ReplicaConfig]
Judge = Callable[[Stages], bool]

SHAPES: dict[str, dict[str, Any]] = {
    "tandem": {"a": {}, "b": {"after": "a"}},
    "branch": {"a": {}, "b": {"after": "a", "probability": 0.5}, "c": {"after": "a", "probability": 0.4}},
    "fan": {"a": {}, "b": {"after": "a", "fan_out": 2.0}},
    "join": {"a": {}, "b": {}, "c": {"after": ["a", "b"]}},
    "gather": {"a": {}, "b": {"after": "a", "fan_out": 1.6}, "c": {"after": "b", "gather": True}},
}


def candidates(spec: Spec, profile: Profile) -> Iterator[tuple[float, Stages]]:
    """Every plan that supply allows and that meets the accuracy floor, cheapest first."""
    most = {name: offer.max_replicas or 0 for name, offer in spec.supply.items()}
    per_stage = [
        [
            ReplicaConfig(row.hardware, replicas, row.batch_size, row.variant)
            for row in profile.rows
            if row.stage == name
            for replicas in range(1, most[row.hardware] + 1)
        ]
        for name in spec.stages
    ]
    priced = []
    for configs in itertools.product(*per_stage):
        held = Counter[str]()
        for config in configs:
            held[config.hardware] += config.replicas
        if any(held[name] > most[name] for name in held):
            continue
        cost = math.fsum(n * spec.supply[name].price_usd_per_hour for name, n in held.items())
        accuracy = math.prod(
            spec.stages[name].variant(config.variant).accuracy or 1.0  # type: ignore[attr-defined]
            for name, config in zip(spec.stages, configs, strict=True)
        )
        if spec.slo.accuracy is None or accuracy >= spec.slo.accuracy - 1e-12:
            priced.append((cost, dict(zip(spec.stages, configs, strict=True))))
    return iter(sorted(priced, key=lambda pair: pair[0]))


def least_cost(spec: Spec, profile: Profile, judge: Judge) -> float | None:
    return next((cost for cost, stages in candidates(spec, profile) if judge(stages)), None)


def robust_judge(spec: Spec, profile: Profile, trace: Trace, seed: int) -> Judge:
    """Feasibility as DESIGNED: drawn times, K resampled traces, of which 97 % keep the promise."""
    seeds = [derive(seed, k) for k in range(TRACES)]
    traces = [trace.resample(block_s(trace, spec.slo.latency_s), s) for s in seeds]
    order = list(range(TRACES))

    def judge(stages: Stages) -> bool:
        plan, failed = Plan(spec, profile, stages), 0
        for k in list(order):
            if not simulate(plan, traces[k], seed=seeds[k]).holds:
                failed += 1
                order.remove(k)
                order.insert(0, k)
                if TRACES - failed < HOLD_SHARE * TRACES:
                    return False
        return True

    return judge


def plain_judge(spec: Spec, profile: Profile, trace: Trace, seed: int) -> Judge:
    """InferLine's estimator in plain Python: mean times, first come first served, one queue per stage.

    Only the ways of the requests through the graph are taken from the simulator, since they are drawn.
    """
    ways = build_items(spec.graph, trace, seed)
    requests = {name: items.request.tolist() for name, items in ways.items()}
    arrivals = trace.arrival_s.tolist()
    allowed = math.floor(trace.requests * (100 - spec.slo.percentile) / 100 + 1e-9)

    known: dict[tuple[ReplicaConfig, ...], list[float]] = {}

    def judge(stages: Stages) -> bool:
        done: dict[str, list[float]] = {}
        finish = [0.0] * trace.requests
        for name in spec.graph.order:
            config = stages[name]
            key = tuple(stages[n] for n in spec.graph.order[: len(done) + 1])
            if key not in known:
                ready = _ready(spec, ways, name, trace, done)
                mean_s = profile.service(name, config.variant, config.hardware).mean_at
                known[key] = _serve(ready, config.replicas, config.max_batch_size, mean_s)
            done[name] = known[key]
            for item, request in enumerate(requests[name]):
                finish[request] = max(finish[request], done[name][item])
        late = sum(end - arrival > spec.slo.latency_s + 1e-9 for end, arrival in zip(finish, arrivals, strict=True))
        return late <= allowed

    return judge


def _ready(spec: Spec, ways: Mapping[str, Any], name: str, trace: Trace, done: dict[str, list[float]]) -> list[float]:
    """When each item of a stage can start."""
    items, parents = ways[name], [edge.parent for edge in spec.graph.parents[name]]
    if not parents:
        return [float(trace.arrival_s[r]) for r in items.request]
    ready = [0.0] * items.count
    if name in spec.graph.joins:
        for above in spec.graph.region[name]:
            for at, to in enumerate(ways[above].joins[name]):
                if to >= 0:
                    ready[to] = max(ready[to], done[above][at])
        return ready
    first = ways[parents[0]].first_child[name]
    for at, end_s in enumerate(done[parents[0]]):
        for child in range(first[at], first[at + 1]):
            ready[child] = end_s
    return ready


def _serve(ready: list[float], replicas: int, batch: int, mean_s: Callable[[int], float]) -> list[float]:
    queue = sorted(range(len(ready)), key=lambda item: ready[item])
    times = [ready[item] for item in queue]
    free, end_s, at = [-math.inf] * replicas, [0.0] * len(ready), 0
    while at < len(queue):
        start = max(min(free), times[at])
        until = min(at + batch, bisect.bisect_right(times, start))
        free[free.index(min(free))] = finish = start + mean_s(until - at)
        for item in queue[at:until]:
            end_s[item] = finish
        at = until
    return end_s


def document(shape: str, slo_ms: float, most: int, **slo: Any) -> dict[str, Any]:
    return {
        "slo": {"latency": f"{slo_ms}ms", "percentile": 95, **slo},
        "supply": {"cpu": {"price": "$0.2/h", "max": most}, "gpu": {"price": "$0.7/h", "max": most}},
        "stages": {name: dict(fields) for name, fields in SHAPES[shape].items()},
    }


def rows_of(
    draw: st.DrawFn, name: str, batches: tuple[int, ...], variant: str = "default", speed: float = 1.0
) -> list[Row]:
    """One model on both kinds of hardware: its batches gain little or much, its tail is light or heavy."""
    base_ms, gain = draw(st.integers(8, 40)), draw(st.sampled_from([0.1, 0.5, 1.0]))
    rows = []
    for hardware, factor in (("cpu", 1.0), ("gpu", draw(st.sampled_from([0.3, 0.6])))):
        spread = draw(st.sampled_from([1.0, 1.1, 1.6]))
        for batch in batches:
            mean_s = 1e-3 * factor * speed * base_ms * (1 + gain * (batch - 1))
            tail = {"p50_s": mean_s, "p95_s": mean_s * spread, "p99_s": mean_s * spread**2}
            rows.append(Row(name, hardware, batch, mean_s, variant=variant, **tail))
    return rows


def traces(draw: st.DrawFn, requests: int) -> Trace:
    rate, cv = draw(st.sampled_from([15.0, 30.0])), draw(st.sampled_from([1.0, 3.0]))
    return Trace.gamma(rate, cv, requests=requests, seed=draw(st.integers(0, 10_000)))


@st.composite
def problems(draw: st.DrawFn, requests: int = 300) -> tuple[Spec, Profile, Trace]:
    shape = draw(st.sampled_from(sorted(SHAPES)))
    large = len(SHAPES[shape]) == 2
    batches = (1, 2, 4) if large else (1, 3)
    rows = [row for name in SHAPES[shape] for row in rows_of(draw, name, batches)]
    spec = Spec.from_dict(document(shape, draw(st.integers(60, 250)), 4 if large else 3))
    return spec, Profile.from_rows(rows), traces(draw, requests)


@st.composite
def problems_with_variants(draw: st.DrawFn) -> tuple[Spec, Profile, Trace]:
    value = document("tandem", draw(st.integers(60, 250)), 3, accuracy=draw(st.sampled_from([0.7, 0.8, 0.88])))
    accuracies = {"small": 0.85, "large": 0.95}
    for fields in value["stages"].values():
        fields["variants"] = {name: {"accuracy": accuracy} for name, accuracy in accuracies.items()}
    rows = [
        row for name in value["stages"] for variant in accuracies
        for row in rows_of(draw, name, (1, 2), variant, 1.0 if variant == "large" else 0.5)
    ]  # fmt: skip
    return Spec.from_dict(value), Profile.from_rows(rows), traces(draw, 200)


def found_cost(problem: tuple[Spec, Profile, Trace], feasibility: str) -> float | None:
    """What exact search proves to be the least cost; None when it says that nothing keeps the promise."""
    try:
        plan = make(*problem, feasibility=feasibility, seed=1, explained=False)
    except Infeasible:
        return None
    assert plan.gap_ratio == 0.0
    assert plan.feasible
    return plan.cost_usd_per_hour


@given(problems())
@settings(max_examples=15, deadline=None, derandomize=True)
def test_exact_search_finds_what_exhaustive_search_finds_on_the_given_trace(
    problem: tuple[Spec, Profile, Trace],
) -> None:
    known = least_cost(problem[0], problem[1], plain_judge(*problem, seed=1))
    assert found_cost(problem, "trace") == (None if known is None else pytest.approx(known))


def slow_and_quick() -> tuple[Spec, Profile, Trace]:
    """Variants so different that what is known of one choice must not be used for another."""
    value = document("tandem", 60, 3, accuracy=0.8)
    for fields in value["stages"].values():
        fields["variants"] = {"small": {"accuracy": 0.85}, "large": {"accuracy": 0.95}}
    means_s = {
        ("a", "small"): (0.004, 0.0044), ("a", "large"): (0.015, 0.0165),
        ("b", "small"): (0.004, 0.0044), ("b", "large"): (0.014, 0.021),
    }  # fmt: skip
    rows = [
        Row(stage, hardware, batch, mean_s * (0.3 if (hardware, stage) == ("gpu", "a") else 1.0), variant=variant)
        for (stage, variant), means in means_s.items()
        for hardware in ("cpu", "gpu") for batch, mean_s in enumerate(means, 1)
    ]  # fmt: skip
    return Spec.from_dict(value), Profile.from_rows(rows), Trace.gamma(15.0, 3.0, requests=200, seed=2)


@given(problems_with_variants())
@example(slow_and_quick())
@settings(max_examples=12, deadline=None, derandomize=True)
def test_exact_search_chooses_variants_as_exhaustive_search_does(problem: tuple[Spec, Profile, Trace]) -> None:
    known = least_cost(problem[0], problem[1], plain_judge(*problem, seed=1))
    assert found_cost(problem, "trace") == (None if known is None else pytest.approx(known))


@given(problems(requests=200))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_exact_search_finds_what_exhaustive_search_finds_on_resampled_traces(
    problem: tuple[Spec, Profile, Trace],
) -> None:
    known = least_cost(problem[0], problem[1], robust_judge(*problem, seed=1))
    assert found_cost(problem, "robust") == (None if known is None else pytest.approx(known))


@given(problems())
@settings(max_examples=4, deadline=None, derandomize=True)
def test_the_plain_simulator_judges_as_the_shipped_one(problem: tuple[Spec, Profile, Trace]) -> None:
    spec, profile, trace = problem
    judge = plain_judge(spec, profile, trace, seed=1)
    every = [stages for _, stages in candidates(spec, profile)]
    for stages in every[:: max(1, len(every) // 40)]:
        outcome = simulate(Plan(spec, profile, stages), trace, seed=1, mode="mean")
        assert judge(stages) == outcome.holds
