"""Laws of the planners: who may be cheaper than whom, local optimality, feasibility, and the same bytes every time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headway.domains.pipeline.declare import ReplicaConfig
from headway.plan import Infeasible, Plan
from headway.plan.exact import variant_choices
from headway.plan.make import make
from headway.plan.oracle import TRACES, Oracle, block_s, derive
from headway.profile import Profile, Row
from headway.sim.simulation import simulate
from headway.spec.model import Spec
from headway.testing.examples import tiny_profile, tiny_spec
from headway.trace import Trace

Problem = tuple[Spec, Profile, Trace]

SHAPES: tuple[dict[str, Any], ...] = (
    {"a": {}, "b": {"after": "a"}},
    {"a": {}, "b": {"after": "a", "probability": 0.6}, "c": {"after": "a", "probability": 0.3}},
    {"a": {}, "b": {}, "c": {"after": ["a", "b"]}},
)
PRICES = {"cpu": 0.2, "gpu-a": 0.5, "gpu-b": 1.3}


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """A small pipeline on three kinds of hardware without limits."""
    shape = draw(st.sampled_from(SHAPES))
    rows = []
    for name in shape:
        base_s, gain = 1e-3 * draw(st.integers(10, 50)), draw(st.sampled_from([0.1, 0.6, 1.0]))
        for hardware, factor in (("cpu", 1.0), ("gpu-a", draw(st.sampled_from([0.4, 0.7]))), ("gpu-b", 0.25)):
            for batch in (1, 2, 4):
                mean_s = base_s * factor * (1 + gain * (batch - 1))
                rows.append(Row(name, hardware, batch, mean_s, p50_s=mean_s, p95_s=1.2 * mean_s, p99_s=1.5 * mean_s))
    value = {
        "slo": {"latency": f"{draw(st.integers(150, 400))}ms", "percentile": 95},
        "supply": {name: {"price": f"${price}/h"} for name, price in PRICES.items()},
        "stages": shape,
    }
    rate, cv = draw(st.sampled_from([20.0, 60.0])), draw(st.sampled_from([1.0, 3.0]))
    trace = Trace.gamma(rate, cv, requests=400, seed=draw(st.integers(0, 1000)))
    return Spec.from_dict(value), Profile.from_rows(rows), trace


def cost_of(problem: Problem, planner: str, feasibility: str) -> Plan:
    return make(*problem, planner=planner, feasibility=feasibility, seed=1, explained=False)


def keeps_the_promise(plan: Plan, trace: Trace, feasibility: str) -> bool:
    """The promise as the spec states it, by whole simulations that share nothing with the search."""
    if feasibility == "trace":
        return simulate(plan, trace, seed=1, mode="mean").holds
    seeds = [derive(1, k) for k in range(TRACES)]
    length_s = block_s(trace, plan.spec.slo.latency_s)
    kept = sum(simulate(plan, trace.resample(length_s, s), seed=s).holds for s in seeds)
    return kept >= 0.97 * TRACES


@given(problems(), st.sampled_from(["trace", "robust"]))
@settings(max_examples=16, deadline=None, derandomize=True)
def test_greedy_costs_no_less_than_exact_and_exact_no_less_than_its_bound(problem: Problem, feasibility: str) -> None:
    try:
        exact = cost_of(problem, "exact", feasibility)
    except Infeasible:
        with pytest.raises(Infeasible):
            cost_of(problem, "greedy", feasibility)
        return
    assert exact.lower_bound_usd_per_hour is not None
    assert 0 <= exact.lower_bound_usd_per_hour <= exact.cost_usd_per_hour + 1e-12
    assert keeps_the_promise(exact, problem[2], feasibility)
    assert exact.feasible
    try:
        greedy = cost_of(problem, "greedy", feasibility)
    except Infeasible:
        return
    assert keeps_the_promise(greedy, problem[2], feasibility)
    assert greedy.cost_usd_per_hour >= exact.cost_usd_per_hour - 1e-12
    assert greedy.lower_bound_usd_per_hour is None
    assert greedy.gap_ratio is None


def with_latency(problem: Problem, latency_s: float) -> Problem:
    spec = problem[0]
    return spec.model_copy(update={"slo": spec.slo.model_copy(update={"latency_s": latency_s})}), *problem[1:]


@given(problems(), st.floats(1.01, 2.0))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_a_looser_promise_never_costs_more_on_the_given_trace(problem: Problem, factor: float) -> None:
    looser = with_latency(problem, problem[0].slo.latency_s * factor)
    try:
        tight = cost_of(problem, "exact", "trace").cost_usd_per_hour
    except Infeasible:
        return
    assert cost_of(looser, "exact", "trace").cost_usd_per_hour <= tight + 1e-9


@given(problems())
@settings(max_examples=6, deadline=None, derandomize=True)
def test_a_looser_promise_never_costs_more_on_the_same_resampled_traces(problem: Problem) -> None:
    """The frontier judges every promise on the traces of the plan's own."""
    try:
        plan = make(*problem, seed=1)
    except Infeasible:
        return
    proven = [round(p["cost_usd_per_hour"], 9) for p in plan.frontier if p["proven"] and p["feasible"]]
    assert proven == sorted(proven, reverse=True)
    assert [p["slo_s"] for p in plan.frontier] == sorted(p["slo_s"] for p in plan.frontier)


def single_actions(spec: Spec, stages: dict[str, ReplicaConfig], oracle: Oracle) -> Iterator[dict[str, ReplicaConfig]]:
    """InferLine's actions that lower cost: a replica less, or a stage replanned on its next cheaper hardware."""
    for name, config in stages.items():
        if config.replicas > 1:
            fewer = ReplicaConfig(config.hardware, config.replicas - 1, config.max_batch_size)
            yield {**stages, name: fewer}
        cheaper = [h for h in spec.supply if PRICES[h] < PRICES[config.hardware]]
        if cheaper:
            below = max(cheaper, key=lambda h: PRICES[h])
            yield from replanned(stages, name, below, oracle)


def replanned(
    stages: dict[str, ReplicaConfig], name: str, hardware: str, oracle: Oracle
) -> Iterator[dict[str, ReplicaConfig]]:
    """Batch size 1 and replicas until it is feasible; then fewer replicas, and larger batches where that is stuck."""
    now = next(
        (grown for n in range(1, 60) if oracle.feasible(grown := {**stages, name: ReplicaConfig(hardware, n)})), None
    )
    while now is not None:
        config = now[name]
        fewer = {**now, name: ReplicaConfig(hardware, config.replicas - 1, config.max_batch_size)}
        larger = {**now, name: ReplicaConfig(hardware, config.replicas, 2 * config.max_batch_size)}
        if config.replicas > 1 and oracle.feasible(fewer):
            now = fewer
        elif config.max_batch_size < 4 and oracle.feasible(larger):
            now = larger
        else:
            yield now
            return


def worth_a_third_replica() -> Problem:
    """Stage c on cheap hardware: infeasible with one and two replicas, with ever fewer misses, feasible with three."""
    means_s = {"a": (0.010, 0.020, 0.040), "b": (0.048, 0.096, 0.192), "c": (0.0460, 0.0506, 0.0598)}
    rows = [
        Row(name, hardware, batch, mean_s * factor, p50_s=mean_s * factor, p95_s=1.2 * mean_s * factor,
            p99_s=1.5 * mean_s * factor)
        for name, means in means_s.items()
        for hardware, factor in (("cpu", 1.0), ("gpu-a", 0.4), ("gpu-b", 0.25))
        for batch, mean_s in zip((1, 2, 4), means, strict=True)
    ]  # fmt: skip
    value = {
        "slo": {"latency": "203ms", "percentile": 95},
        "supply": {name: {"price": f"${price}/h"} for name, price in PRICES.items()},
        "stages": SHAPES[1],
    }
    return Spec.from_dict(value), Profile.from_rows(rows), Trace.gamma(20.0, 3.0, requests=400, seed=400)


@given(problems(), st.sampled_from(["trace", "trace", "robust"]))
@example(worth_a_third_replica(), "robust")
@settings(max_examples=15, deadline=None, derandomize=True)
def test_no_single_action_makes_the_greedy_plan_cheaper(problem: Problem, feasibility: str) -> None:
    try:
        plan = cost_of(problem, "greedy", feasibility)
    except Infeasible:
        return
    oracle = Oracle(*problem, feasibility=feasibility, seed=1)
    stages: Any = dict(plan.stages)
    for changed in single_actions(problem[0], stages, oracle):
        cheaper = oracle.total_cost(changed) < plan.cost_usd_per_hour - 1e-9
        assert not (cheaper and oracle.feasible(changed)), changed


@given(problems(), st.floats(0.3, 3.0))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_the_oracle_counts_the_misses_of_the_simulator(problem: Problem, factor: float) -> None:
    spec, profile, trace = with_latency(problem, problem[0].slo.latency_s * factor)
    oracle = Oracle(spec, profile, trace, seed=3)
    stages = {name: ReplicaConfig("gpu-a", 2, 2) for name in spec.stages}
    known = oracle.judge(stages, all_traces=True)
    for k in (0, 7, TRACES - 1):
        outcome = simulate(Plan(spec, profile, stages), oracle.traces[k], seed=oracle.seeds[k])
        assert known.misses[k] == outcome.misses
        assert known.miss_rates[k] == outcome.miss_rate
    assert len(variant_choices(oracle)) == 1


PROGRAM = """
import sys
from headway.plan.make import make
from headway.testing.examples import tiny_profile, tiny_spec
from headway.trace import Trace
sys.stdout.write(make(tiny_spec(), tiny_profile(), Trace.poisson(rate=30, seconds=30, seed=1), seed=5).to_json())
"""


def test_the_same_inputs_and_seed_give_the_same_bytes_in_any_process(tmp_path: Path) -> None:
    texts = []
    for hash_seed in ("1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        texts.append(done.stdout)
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["provenance"]["seed"] == 5


def test_threads_and_a_small_cache_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = Trace.gamma(60.0, 3.0, requests=1500, seed=1)
    whole = make(tiny_spec(), tiny_profile(), trace, seed=5).to_json()
    monkeypatch.setattr("headway.plan.oracle.WORTH_THREADS", 1)
    monkeypatch.setattr("headway.plan.simulations.CACHE_BYTES", 1 << 18)
    assert make(tiny_spec(), tiny_profile(), trace, seed=5).to_json() == whole
