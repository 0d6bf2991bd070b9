"""Laws of every simulation: conservation, causality, determinism, work conservation, order, and what capacity costs."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.sim_systems import Setting, System, chain, random_table, replicas, systems

from headway.domains.pipeline.declare import ReplicaConfig
from headway.plan.plan import Plan
from headway.sim import simulate
from headway.sim.draws import batch_key, draw
from headway.sim.outcome import Outcome
from headway.sim.station import Departures, Floats
from headway.sim.workload import Workload
from headway.testing.examples import tiny_plan, tiny_profile, tiny_spec
from headway.trace import Trace


@settings(max_examples=80, deadline=None)
@given(systems())
def test_every_item_and_every_request_is_accounted_for(system: System) -> None:
    left, work = system.by_recursion(), system.work
    for stage in work.graph.order:
        arrivals = work.arrivals(stage, left)
        parts = [left[stage].item, *left[stage].lost]
        assert np.sort(np.concatenate(parts)).tolist() == np.sort(arrivals.item).tolist(), stage
        assert arrivals.item.size <= work.items[stage].count
    done_s = work.completion(left)
    lost = {int(work.items[stage].request[i]) for stage in left for gone in left[stage].lost for i in gone}
    assert lost == set(np.flatnonzero(np.isinf(done_s)).tolist()), "unanswered are exactly those that lost an item"


@settings(max_examples=60, deadline=None)
@given(systems(), st.floats(-1.0, 12.0))
def test_requests_are_conserved_at_any_moment(system: System, until_s: float) -> None:
    simulation = system.event_simulation()
    simulation.advance(until_s)
    left = simulation.departures()
    done_s = system.work.completion(left)
    assert not np.isneginf(done_s).any(), "a request that has not come yet is in flight, not answered"
    answered = np.isfinite(done_s)
    assert np.all(done_s[answered] <= until_s)
    assert not answered[system.work.trace.arrival_s > until_s].any()


@settings(max_examples=80, deadline=None)
@given(systems())
def test_nothing_happens_before_its_cause(system: System) -> None:
    left, work = system.by_recursion(), system.work
    for stage in work.graph.order:
        arrivals, table = work.arrivals(stage, left), system.settings[stage].service_s
        assert np.all(np.diff(arrivals.arrival_s) >= 0), "arrivals in order of time"
        assert np.all(np.diff(left[stage].done_s) >= 0), "departures in order of time"
        assert np.all(left[stage].start_s >= arrivals.arrival_s)
        assert np.all(np.diff(left[stage].start_s[np.isfinite(left[stage].start_s)]) >= 0), "first come, first served"
        start_s = np.full(work.items[stage].count, np.nan)
        start_s[arrivals.item] = left[stage].start_s
        assert np.all(left[stage].done_s >= start_s[left[stage].item] + table[1:].min())
        least_s = work.trace.arrival_s[work.items[stage].request[left[stage].item]] + system.station(stage).fastest_s()
        assert np.all(left[stage].done_s >= least_s)


def single_stage(rate: float, table: Floats, count: int, wait_s: float = 0.0, seed: int = 1) -> System:
    trace = Trace.poisson(rate=rate, requests=4000, seed=seed)
    work = Workload.of(chain("only"), trace, seed)
    return System(work, {"only": Setting(table, replicas(count), wait_s)})


def batches(system: System) -> tuple[Departures, Floats, Floats, np.ndarray]:
    """Return departures and each batch's start, end and size; drawn times make (start, end) unique."""
    left = system.by_recursion()["only"]
    done_s = np.empty(left.item.size)
    done_s[left.item] = left.done_s
    spans, sizes = np.unique(np.stack([left.start_s, done_s], axis=1), axis=0, return_counts=True)
    assert spans.shape[0] == left.batches
    return left, spans[:, 0], np.sort(spans[:, 1]), sizes


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("load", [0.4, 0.9, 1.5])
def test_no_replica_idles_while_something_is_queued(load: float, count: int) -> None:
    table = random_table(np.random.default_rng(count), 4, 1 << 14, on_grid=False)
    rate = load * count * 4 / float(table[4].mean())
    system = single_stage(rate, table, count)
    left, starts, ends, sizes = batches(system)
    assert sizes.max() <= 4
    assert sizes.sum() == 4000
    arrival_s = system.work.trace.arrival_s
    moments = np.unique(np.concatenate([arrival_s, left.start_s, ends]))
    queued = np.searchsorted(arrival_s, moments, "right") - np.searchsorted(left.start_s, moments, "right")
    busy = np.searchsorted(starts, moments, "right") - np.searchsorted(ends, moments, "right")
    assert busy.max() <= count
    assert np.all(busy[queued > 0] == count)
    assert (queued > 0).any()


def test_a_replica_waits_for_a_full_batch_but_not_longer_than_told() -> None:
    table = random_table(np.random.default_rng(0), 4, 1 << 14, on_grid=False)
    system = single_stage(4 / float(table[4].mean()), table, 6, wait_s=0.05)
    left, _, ends, _ = batches(system)
    arrival_s = system.work.trace.arrival_s
    first = np.flatnonzero(np.diff(left.start_s, prepend=-1.0) > 0)
    size = np.diff(np.append(first, arrival_s.size))
    start_s, oldest_s = left.start_s[first], arrival_s[first]
    early = (size < 4) & (start_s < oldest_s + 0.05)
    assert not early.any(), "a partial batch starts only when its oldest item has waited long enough"
    held = start_s > oldest_s + 0.05
    freed = np.isin(start_s[held], ends)
    assert freed.all(), "a longer wait ends when a replica becomes free"
    assert (size == 4).any()
    assert (size < 4).any()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 999), st.integers(1, 6), st.floats(0.2, 2.0))
def test_more_replicas_never_raise_a_wait_in_one_fifo_stage(seed: int, count: int, load: float) -> None:
    """For batches of one, as item k takes the k-th service time whatever the number of replicas (Kiefer-Wolfowitz)."""
    table = random_table(np.random.default_rng(seed), 1, 256, on_grid=False)
    rate = load * count / float(table[1].mean())
    few, more = (single_stage(rate, table, n, seed=seed).by_recursion()["only"].start_s for n in (count, count + 1))
    assert np.all(more <= few)


def test_a_slower_stage_never_finishes_anything_sooner_with_batches_of_one() -> None:
    table = random_table(np.random.default_rng(3), 1, 256, on_grid=False)
    quick, slow = (single_stage(40.0, scaled, 4).by_recursion()["only"] for scaled in (table, table * 1.25))
    assert np.all(slow.start_s >= quick.start_s)


def test_batch_draws_are_uniform_and_independent_of_everything_but_seed_stage_and_index() -> None:
    n, bits = 1 << 13, 6
    keys = [batch_key(seed, stage) for seed, stage in ((1, "a"), (1, "b"), (2, "a"))]
    seen = [np.array([draw(key, k, bits) for k in range(n)]) for key in keys]
    for drawn in seen:
        assert drawn.min() == 0
        assert drawn.max() == 63
        expected = n / 64
        chi_square = float(((np.bincount(drawn) - expected) ** 2 / expected).sum())
        assert 20 < chi_square < 120, "63 degrees of freedom: mean 63, standard deviation 11.2"
        assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 4 / np.sqrt(n)
    for one, other in ((0, 1), (0, 2)):
        assert abs(np.corrcoef(seen[one], seen[other])[0, 1]) < 4 / np.sqrt(n)


def outcome_bytes(outcome: Outcome) -> bytes:
    return json.dumps(outcome.to_dict(), sort_keys=True).encode() + outcome.latency_s.tobytes()


def test_same_seed_same_bytes_and_another_seed_others() -> None:
    plan, trace = tiny_plan(), Trace.poisson(rate=30, seconds=60, seed=2)
    first, again, other = (outcome_bytes(simulate(plan, trace, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_threads_change_nothing() -> None:
    """Kernels run without the interpreter's lock on arrays of their own: results are those of one thread."""
    plan = tiny_plan()
    traces = [Trace.poisson(rate=35, seconds=120, seed=seed) for seed in range(8)]
    wider = Plan(
        tiny_spec(), tiny_profile(),
        {"first": ReplicaConfig("cpu", replicas=3, max_batch_size=4), "second": ReplicaConfig("cpu", replicas=3)},
    )  # fmt: skip

    def job(at: int) -> bytes:
        return outcome_bytes(simulate((plan, wider)[at % 2], traces[at // 2], seed=at))

    alone = [job(at) for at in range(16)]
    for _ in range(3):
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(job, range(16))) == alone


@settings(max_examples=20, deadline=None)
@given(st.lists(systems(max_stages=3), min_size=2, max_size=4))
def test_threads_change_nothing_in_the_event_kernel(several: list[System]) -> None:
    def job(system: System) -> list[float]:
        simulation = system.event_simulation()
        simulation.advance(np.inf)
        return system.work.completion(simulation.departures()).tolist()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(job, several)) == [job(system) for system in several]


def test_cost_is_the_integral_of_capacity_held() -> None:
    plan, trace = tiny_plan(), Trace.from_arrivals(np.array([10.0, 20.0, 3610.0]), duration_s=9000.0)
    outcome = simulate(plan, trace, mode="mean")
    span_s = float((outcome.arrival_s + outcome.latency_s).max()) - 10.0
    assert outcome.cost_usd == pytest.approx(4 * 0.20 * span_s / 3600, rel=1e-12)
    assert outcome.startup_cost_usd == pytest.approx(4 * 0.20 * 5 / 3600, rel=1e-12)
    assert sum(stage.cost_usd for stage in outcome.stages.values()) == outcome.cost_usd
    for stage in outcome.stages.values():
        assert stage.capacity_s == pytest.approx(2 * span_s, rel=1e-12)
        assert stage.utilization == pytest.approx(stage.service_s / stage.capacity_s, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(systems(max_stages=1), st.floats(0.0, 3.0), st.floats(3.0, 12.0))
def test_held_capacity_adds_up_over_time(system: System, middle_s: float, end_s: float) -> None:
    """Replica-seconds over an interval are those over its parts, and cover all the work done in it."""
    simulation = system.event_simulation()
    simulation.advance(np.inf)
    whole = simulation.held_s("s0", 0.0, end_s)
    parts = simulation.held_s("s0", 0.0, middle_s) + simulation.held_s("s0", middle_s, end_s)
    assert whole == pytest.approx(parts)
    assert whole <= len(system.settings["s0"].windows) * end_s + 1e-9
    assert simulation.held_s("s0", 0.0, 1e6) >= simulation.departures()["s0"].busy_s - 1e-9
