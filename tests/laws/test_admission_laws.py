"""Laws of admission by the promise: exact where that can be, shared by simulator and server, and goodput holds."""

from __future__ import annotations

import asyncio
from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.laws.test_live_laws import SHAPES, assert_same_completions, cases, play, rounding_decides

from headway.domains.pipeline.declare import ReplicaConfig
from headway.plan.plan import Plan
from headway.policy.admission import SLACK, Load, Terms, in_time
from headway.profile import Profile
from headway.profile.profile import Row
from headway.serve.batcher import BatchStation
from headway.serve.engine import Engine, Limits
from headway.sim.jit import kernel
from headway.sim.outcome import ANSWERED, REJECTED
from headway.sim.promise import admission_terms
from headway.sim.simulation import simulate
from headway.spec.model import Spec
from headway.testing.live import fake_starter, fake_stations, run_virtual
from headway.trace import Trace

MEANS = {1: 0.02, 4: 0.05, 8: 0.08}


def make_plan(shape: str, replicas: int, batch: int, slo_s: float, pool: int | None = None) -> Plan:
    supply = {"cpu": {"price": "$1/h"} if pool is None else {"price": "$1/h", "pool": "host"}}
    document = {"slo": {"latency": f"{slo_s * 1e3:g}ms"}, "supply": supply, "stages": SHAPES[shape]}
    if pool is not None:
        document["pools"] = {"host": {"cores": pool}}
    rows = [
        Row(name, "cpu", size, mean_s, p50_s=0.99 * mean_s, p95_s=1.1 * mean_s, p99_s=1.2 * mean_s)
        for name in SHAPES[shape]
        for size, mean_s in MEANS.items()
    ]
    configs = {name: ReplicaConfig("cpu", replicas, batch) for name in SHAPES[shape]}
    return Plan(Spec.from_dict(document), Profile.from_rows(rows), configs)


def capacity_per_s(plan: Plan) -> float:
    """Requests per second that a plan serves at most, in full batches."""
    terms = admission_terms(plan)
    assert terms is not None
    full_s = [terms.service_s[first + size - 1] for first, size in zip(terms.first, terms.size, strict=True)]
    work_s = [n * s / size for n, s, size in zip(terms.items, full_s, terms.size, strict=True)]
    replicas = [config.to_dict()["replicas"] for config in plan.stages.values()]
    return min([r / w for r, w in zip(replicas, work_s, strict=True)] + [cores / sum(work_s) for cores in terms.cores])


@st.composite
def states(draw: st.DrawFn) -> tuple[Terms, Load, float, float]:
    plan = make_plan(
        draw(st.sampled_from(sorted(SHAPES))),
        2,
        draw(st.sampled_from([1, 4, 8])),
        1.0,
        draw(st.sampled_from([None, 2])),
    )
    terms = admission_terms(plan)
    assert terms is not None
    now_s = draw(st.floats(0.0, 10.0))
    stages = range(len(terms.head_s))
    replicas = [draw(st.integers(0, 4)) for _ in stages]
    busy = [draw(st.integers(0, most)) for most in replicas]
    load = Load(
        [draw(st.integers(0, 40)) for _ in stages],
        [n * draw(st.integers(1, size)) for n, size in zip(busy, terms.size, strict=True)],
        busy,
        [n * (now_s - draw(st.floats(0.0, 0.1))) for n in busy],
        replicas,
        [draw(st.sampled_from([1.0, 1.5])) for _ in stages],
    )
    return terms, load, now_s, draw(st.floats(0.01, 3.0))


compiled = kernel(in_time)


@settings(max_examples=40, deadline=None)
@given(states())
def test_compiled_admission_decides_as_the_source_does(state: tuple[Terms, Load, float, float]) -> None:
    terms, load, now_s, promise_s = state
    whole = {"first", "size", "pool", "threads", "cores", "queued", "running", "busy", "replicas"}
    arrays = [
        kind(**{k: np.array(v, np.int64 if k in whole else np.float64) for k, v in value._asdict().items()})
        for kind, value in ((Terms, terms), (Load, load))
    ]
    assert compiled(*arrays, now_s, promise_s) == in_time(*state)


@settings(max_examples=80, deadline=None)
@given(states(), st.integers(0, 5), st.integers(1, 30), st.floats(0.0, 1.0))
def test_more_ahead_or_a_tighter_promise_lets_nobody_in_who_was_refused(
    state: tuple[Terms, Load, float, float], at: int, more: int, less_s: float
) -> None:
    terms, load, now_s, promise_s = state
    queued = list(load.queued)
    queued[at % len(queued)] += more
    before = in_time(terms, load, now_s, promise_s)
    assert in_time(terms, load._replace(queued=queued), now_s, promise_s) <= before
    assert in_time(terms, load, now_s, promise_s - less_s) <= before


def test_where_nothing_waits_everybody_is_let_in_whatever_the_promise() -> None:
    terms = admission_terms(make_plan("nested", 2, 4, 1.0, pool=2))
    assert terms is not None
    idle = Load(*([0] * 6,) * 3, [0.0] * 6, [2] * 6, [3.0] * 6)
    assert in_time(terms, idle, 5.0, 1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.3, 3.0), st.floats(1.2, 9.0))
def test_with_one_replica_and_constant_times_exactly_the_late_are_refused(seed: int, load: float, slo: float) -> None:
    service_s = MEANS[1]
    plan = make_plan("single", 1, 1, slo * service_s)
    trace = Trace.poisson(rate=load / service_s, requests=300, seed=seed)
    outcome = simulate(plan, trace, mode="mean", admission=True)
    free_s = -np.inf
    expected = []
    for arrival_s in trace.arrival_s:
        wait_s = max(0.0, free_s - arrival_s)
        let_in = wait_s == 0.0 or wait_s * (1.0 + SLACK) + service_s <= plan.spec.slo.latency_s
        expected.append(ANSWERED if let_in else REJECTED)
        if let_in:
            free_s = max(free_s, arrival_s) + service_s
    assert outcome.status.tolist() == expected
    assert outcome.counts()["late"] == 0


def same_when_live(case: tuple[Plan, Trace], slo_s: float) -> None:
    drawn, trace = case
    spec = Spec.from_dict({**drawn.spec.to_dict(), "slo": {"latency": f"{slo_s * 1e3:g}ms"}})
    plan = Plan(spec, drawn.profile, drawn.stages)
    assume(not rounding_decides(plan, trace))

    async def main() -> np.ndarray:
        clock = asyncio.get_running_loop().time
        stations = fake_stations(plan, batch_timeout_s=1e9)
        latency_s, _ = await play(Engine(plan, stations=stations, clock=clock, limits=Limits(queue_limit=0)), trace)
        return latency_s

    assert_same_completions(trace, run_virtual(main), simulate(plan, trace, mode="mean", admission=True).latency_s)


@settings(max_examples=15, deadline=None)
@given(cases(), st.sampled_from([0.06, 0.1, 0.2]))
def test_the_server_refuses_whom_the_simulator_refuses(case: tuple[Plan, Trace], slo_s: float) -> None:
    same_when_live(case, slo_s)


@settings(max_examples=10, deadline=None)
@given(cases(pooled=True), st.sampled_from([0.06, 0.1, 0.2]))
def test_so_it_does_where_stages_share_cores(case: tuple[Plan, Trace], slo_s: float) -> None:
    same_when_live(case, slo_s)


@pytest.mark.parametrize("pool", [None, 2])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("shape", ["single", "tandem", "join"])
def test_three_times_the_load_leaves_the_goodput_where_it_was(shape: str, batch: int, pool: int | None) -> None:
    depth = 1 if shape == "single" else 3
    plan = make_plan(shape, 4, batch, 5.0 * depth * MEANS[batch], pool)
    rate = capacity_per_s(plan)
    trace = Trace.poisson(rate=3.0 * rate, seconds=20.0, seed=1)
    guarded, open_door = (simulate(plan, trace, seed=1, admission=admission) for admission in (True, False))
    assert (1.0 - guarded.miss_rate) * trace.requests >= 0.9 * rate * trace.duration_s
    assert 1.0 - open_door.miss_rate < 0.2 * (1.0 - guarded.miss_rate)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8, 0.95])
@pytest.mark.parametrize("shape", ["single", "fan", "join"])
def test_at_any_load_refusing_saves_more_misses_than_it_costs(shape: str, load: float) -> None:
    plan = make_plan(shape, 2, 4, 0.15 if shape == "single" else 0.45)
    trace = Trace.gamma(load * capacity_per_s(plan), 2.0, requests=4000, seed=1)
    missed = [simulate(plan, trace, seed=1, admission=admission).miss_rate for admission in (True, False)]
    assert missed[0] <= missed[1] + 1 / trace.requests


def test_workers_that_are_slower_than_profiled_are_noticed_and_fewer_let_in() -> None:
    plan = make_plan("single", 4, 1, 0.2)
    service_s, slower = MEANS[1], 2.0
    rate = 4 / (slower * service_s)
    trace = Trace.poisson(rate=3.0 * rate, seconds=10.0, seed=1)

    async def main(known_s: tuple[float, ...]) -> np.ndarray:
        start = fake_starter(lambda n: slower * service_s)
        station = BatchStation("a", start, replicas=4, max_batch_size=1, service_s=known_s)
        engine = Engine(plan, stations={"a": station}, clock=asyncio.get_running_loop().time)
        return (await play(engine, trace))[0]

    good = [
        np.count_nonzero((run_virtual(partial(main, known_s)) <= 0.2) & (trace.arrival_s > 2.0))
        for known_s in ((service_s,), ())
    ]
    assert good[0] >= 0.9 * 8.0 * rate
    assert good[1] < 0.1 * good[0]
