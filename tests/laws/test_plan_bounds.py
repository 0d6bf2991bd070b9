"""What exact search prunes by: bounds that must hold for every configuration, batch size and draw."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.domains.pipeline.declare import ReplicaConfig
from headway.plan.demand import StageDemand, Tails, dropped_work
from headway.plan.exact import carrying
from headway.plan.oracle import Oracle
from headway.profile import Profile, Row
from headway.sim.draws import batch_key, bits_for, draw
from headway.sim.replicas import ReplicaStation
from headway.sim.station import Arrivals, Floats
from headway.sim.worklaw import work_bounds, work_gains
from headway.sim.workload import Workload
from headway.spec.graph import Graph
from headway.spec.model import Spec
from headway.trace import Trace


@st.composite
def tables(draw: st.DrawFn) -> Floats:
    """Latencies by batch size and quantile, rising in both."""
    sizes, columns = draw(st.integers(1, 6)), draw(st.sampled_from([1, 2, 4, 16]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = rng.exponential(draw(st.sampled_from([0.1, 1.0])), (sizes, columns)) ** draw(st.sampled_from([1, 4]))
    values = 0.05 + np.cumsum(np.cumsum(steps, axis=0), axis=1)
    return np.vstack([values[:1], values])


def batch_draws(seed: int, batches: int, columns: int) -> list[int]:
    key, bits = batch_key(seed, "s"), bits_for(columns)
    return [draw(key, batch, bits) if columns > 1 else 0 for batch in range(batches)]


@given(tables(), st.integers(0, 1000), st.lists(st.integers(0, 6), min_size=1, max_size=60))
@settings(deadline=None)
def test_consecutive_batches_take_at_least_what_the_work_law_says(table: Floats, seed: int, sizes: list[int]) -> None:
    """However they are filled; a batch may also hold nothing that counts, and then takes what one item takes."""
    filled = [min(size, table.shape[0] - 1) for size in sizes]
    columns = table.shape[1]
    took_s = [table[max(1, n), q] for n, q in zip(filled, batch_draws(seed, len(filled), columns), strict=True)]
    bounds = work_bounds(work_gains(table), batch_key(seed, "s"), bits_for(columns), len(filled))
    assert bounds[0].credit_s(100) == 0.0
    for bound in bounds:
        assert bound.work_s > 0
        assert bound.credit_s(1) >= 0
        surplus = np.array(took_s) - bound.work_s * np.array(filled)
        runs = [surplus[low:high] for low, high in itertools.combinations(range(len(filled) + 1), 2)]
        for servers in (1, 2, 4):
            # As many of the batches that took longest as there are further servers may be left out.
            least_s = min(float(np.sort(run)[: max(0, run.size - servers + 1)].sum()) for run in runs)
            assert least_s >= -bound.credit_s(servers) - 1e-9


@given(tables(), st.integers(0, 10_000), st.integers(1, 4), st.floats(0.2, 3.0), st.floats(1.0, 5.0))
@settings(max_examples=150, deadline=None)
def test_no_schedule_misses_less_than_the_capacity_bound(
    table: Floats, seed: int, replicas: int, load: float, patience: float
) -> None:
    """A stage alone, with drawn times: as many requests are late as `least_late` says, or more."""
    columns = table.shape[1]
    mean_s = float((table[-1].mean()) / (table.shape[0] - 1))
    trace = Trace.gamma(load * replicas / mean_s, 3.0, requests=40, seed=seed)
    work = Workload.of(Graph.build({"s": {}}), trace, seed)
    tails = Tails.of(work, {"s": float(table[1].min())})
    slo_s = patience * float(table[1].mean())
    demand = StageDemand.of(work, tails, "s", slo_s)
    left = work.run("s", ReplicaStation.always("s", table, replicas), {})
    late = int(np.count_nonzero(work.completion({"s": left}) - trace.arrival_s > slo_s + 1e-9))
    for bound in work_bounds(work_gains(table), batch_key(seed, "s"), bits_for(columns), trace.requests):
        assert demand.least_late(bound, replicas) <= late


@pytest.mark.parametrize("slow_s", [5.0, 20.0])
def test_the_capacity_bound_allows_for_slow_batches_that_end_too_late_to_count(slow_s: float) -> None:
    """All requests come at once, and batches are quick or slow: those still running at the end have cost nothing."""
    table = np.array([[1.0, 1.0, 1.0, slow_s]] * 2)
    for requests, seed in itertools.product(range(20, 30), range(60)):
        items = np.arange(requests, dtype=np.int32)
        arrivals = Arrivals(np.zeros(requests), items, items)
        left = ReplicaStation.always("s", table, 5).run(arrivals, seed=seed, record=False)
        due_s = np.full(requests, slow_s + 1.0)
        demand = StageDemand(np.ones(requests), np.zeros(requests), due_s, np.arange(requests))
        late = int(np.count_nonzero(left.done_s > slow_s + 1.0 + 1e-9))
        for bound in work_bounds(work_gains(table), batch_key(seed, "s"), 2, requests):
            assert demand.least_late(bound, 5) <= late


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0.1, 2)), min_size=1, max_size=8), st.floats(0.1, 3))
@settings(deadline=None)
def test_giving_up_what_is_late_loses_the_least_work(jobs: list[tuple[float, float]], patience_s: float) -> None:
    """Against the least over all subsets of whole jobs, which no fluid schedule can lose more than."""
    release_s = np.array(sorted(at for at, _ in jobs))
    work_s = np.array([work for _, work in jobs])
    lost = dropped_work(release_s, release_s + patience_s, work_s, 1.0)
    least = np.inf
    for kept in itertools.product([False, True], repeat=len(jobs)):
        free, fits = -np.inf, True
        for at in np.flatnonzero(kept):
            free = max(free, release_s[at]) + work_s[at]
            fits = fits and free <= release_s[at] + patience_s
        if fits:
            least = min(least, float(work_s.sum() - work_s[np.array(kept)].sum()))
    assert -1e-9 <= lost <= least + 1e-9


SHAPES = (
    {"a": {}, "b": {"after": "a"}},
    {"a": {}, "b": {"after": "a", "fan_out": 2.0, "probability": 0.5}},
    {"a": {}, "b": {}, "c": {"after": ["a", "b"]}},
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Spec, Profile, Trace, str]:
    shape = draw(st.sampled_from(SHAPES))
    rows = []
    for name in shape:
        for hardware, factor in (("cpu", 1.0), ("gpu", 0.4)):
            base_s, spread = 1e-3 * factor * draw(st.integers(10, 40)), draw(st.sampled_from([1.1, 2.0]))
            for batch, more in ((1, 1.0), (3, draw(st.sampled_from([1.2, 2.5])))):
                mean_s = base_s * more
                row = Row(name, hardware, batch, mean_s, p50_s=mean_s, p95_s=mean_s * spread, p99_s=mean_s * spread**2)
                rows.append(row)
    value = {
        "slo": {"latency": f"{draw(st.integers(60, 200))}ms", "percentile": draw(st.sampled_from([80, 95]))},
        "supply": {"cpu": {"price": "$1/h"}, "gpu": {"price": "$3/h"}},
        "stages": shape,
    }
    if draw(st.booleans()):
        value["slo"] |= {"window": "2s", "objective": draw(st.sampled_from(["60%", "90%"]))}  # type: ignore[operator]
    trace = Trace.gamma(draw(st.sampled_from([20.0, 40.0])), 2.0, requests=150, seed=draw(st.integers(0, 1000)))
    return Spec.from_dict(value), Profile.from_rows(rows), trace, draw(st.sampled_from(["trace", "robust"]))


@given(cases())
@settings(max_examples=20, deadline=None, derandomize=True)
def test_no_part_of_a_feasible_plan_is_ever_dropped(case: tuple[Spec, Profile, Trace, str]) -> None:
    spec, profile, trace, feasibility = case
    oracle = Oracle(spec, profile, trace, feasibility=feasibility, seed=1)
    order = spec.graph.order
    variants = dict.fromkeys(order, "default")
    space = [
        ReplicaConfig(hardware, replicas, batch)
        for hardware in spec.supply for batch in (1, 3) for replicas in (1, 2, 4)
    ]  # fmt: skip
    plans = list(itertools.product(space, repeat=len(order)))
    feasible = [
        dict(zip(order, plan, strict=True))
        for plan in plans[:: max(1, len(plans) // 150)]
        if oracle.feasible(dict(zip(order, plan, strict=True)))
    ]
    kept = {name: set(carrying(oracle, name, space, variants)) for name in order}
    for stages in feasible:
        for name in order:
            assert stages[name] in kept[name]
        for depth in range(len(order)):
            assert oracle.may_be_feasible({name: stages[name] for name in order[:depth]}, variants)
