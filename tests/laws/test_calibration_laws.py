"""Overheads are constants that change nothing else, and what was put into observations is found in them again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.test_plan_bruteforce import least_cost, robust_judge

from headway.domains.pipeline.declare import ReplicaConfig
from headway.errors import HeadwayError
from headway.plan.make import make
from headway.plan.plan import Plan
from headway.profile import Overheads, Profile, Row
from headway.profile.refit import MIN_SAMPLES, batch_overhead, middle, scale_factors, time_at_stages
from headway.serve.calibrate import Observation, compared, fit
from headway.sim.outcome import Outcome, StageOutcome, percentile
from headway.sim.simulation import event_simulation, simulate, workload
from headway.spec.model import Spec
from headway.testing.examples import tiny_plan, tiny_profile
from headway.testing.observed import simulated_observation
from headway.trace import Trace

SHAPES = {
    "tandem": {"a": {}, "b": {"after": "a"}},
    "branch": {"a": {}, "b": {"after": "a", "probability": 0.5}, "c": {"after": ["a", "b"]}},
    "gather": {"a": {}, "b": {"after": "a", "fan_out": 1.6}, "c": {"after": "b", "gather": True}},
}
seconds = st.floats(0.0, 0.02)


def with_overheads(plan: Plan, overheads: Overheads | None) -> Plan:
    return replace(plan, profile=replace(plan.profile, overheads=overheads))


def shaped(shape: str, **limits: object) -> Plan:
    """A plan of two replicas per stage, batches of four, and drawn service times."""
    spec = Spec.from_dict(
        {"slo": {"latency": "300ms"}, "supply": {"cpu": {"price": "$1/h", **limits}}, "stages": SHAPES[shape]}
    )
    rows = [
        Row(name, "cpu", size, s, p50_s=0.95 * s, p95_s=1.2 * s, p99_s=1.4 * s)
        for name in spec.stages
        for size, s in ((1, 0.02), (4, 0.05))
    ]
    return Plan(spec, Profile.from_rows(rows), {name: ReplicaConfig("cpu", 2, 4) for name in spec.stages})


def same(a: Outcome, b: Outcome) -> bool:
    return a.latency_s.tobytes() == b.latency_s.tobytes() and a.to_dict()["stages"] == b.to_dict()["stages"]


@given(st.sampled_from(sorted(SHAPES)), st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_overheads_of_zero_change_no_bit(shape: str, seed: int) -> None:
    plan, trace = shaped(shape), Trace.gamma(60.0, 2.0, requests=300, seed=seed)
    nothing = Overheads(0.0, dict.fromkeys(plan.stages, 0.0))
    assert same(simulate(plan, trace, seed=seed), simulate(with_overheads(plan, nothing), trace, seed=seed))


@given(st.sampled_from(sorted(SHAPES)), seconds, seconds, st.booleans(), st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_both_kernels_add_the_same_to_the_last_bit(
    shape: str, request_s: float, batch_s: float, drops: bool, seed: int
) -> None:
    plan = with_overheads(shaped(shape), Overheads(request_s, {"a": batch_s}))
    work = workload(plan, Trace.gamma(60.0, 2.0, requests=300, seed=seed), seed, 0.2 if drops else None)
    simulation = event_simulation(plan, work, sampled=True)
    simulation.advance(np.inf)
    outcome = simulate(plan, work.trace, seed=seed, drop_after_s=work.drop_after_s)
    assert (simulation.completion() - work.trace.arrival_s).tobytes() == outcome.latency_s.tobytes()


@given(st.sampled_from(sorted(SHAPES)), seconds, st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_a_requests_overhead_is_added_to_every_latency_and_to_no_wait(shape: str, request_s: float, seed: int) -> None:
    plan, trace = shaped(shape), Trace.gamma(60.0, 2.0, requests=300, seed=seed)
    bare, loaded = (simulate(with_overheads(plan, o), trace, seed=seed) for o in (None, Overheads(request_s)))
    np.testing.assert_allclose(loaded.latency_s, bare.latency_s + request_s, atol=1e-9)
    for name, stage in bare.stages.items():
        np.testing.assert_allclose(loaded.stages[name].queue_wait_s, stage.queue_wait_s, atol=1e-9)


@given(seconds, seconds, st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_a_larger_overhead_never_shortens_a_latency_of_one_stage(a_s: float, b_s: float, seed: int) -> None:
    spec = Spec.from_dict({"slo": {"latency": "1s"}, "supply": {"cpu": {"price": "$1/h"}}, "stages": {"a": {}}})
    profile = Profile.from_rows([Row("a", "cpu", 1, 0.02, p50_s=0.019, p95_s=0.024, p99_s=0.03)])
    plan = Plan(spec, profile, {"a": ReplicaConfig("cpu", replicas=2)})
    trace = Trace.gamma(60.0, 2.0, requests=300, seed=seed)
    less, more = (
        simulate(with_overheads(plan, Overheads(0.0, {"a": s})), trace, seed=seed).latency_s for s in sorted((a_s, b_s))
    )
    assert np.all(more >= less - 1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_exact_planner_is_exact_with_overheads_too(seed: int) -> None:
    plan = with_overheads(shaped("tandem", max=8), Overheads(0.02, {"a": 0.01, "b": 0.005}))
    trace = Trace.gamma(25.0, 1.5, requests=250, seed=seed)
    spec = plan.spec.model_copy(update={"slo": plan.spec.slo.model_copy(update={"latency_s": 0.18})})
    best = least_cost(spec, plan.profile, robust_judge(spec, plan.profile, trace, seed))
    assert best is not None
    found = make(spec, plan.profile, trace, seed=seed, explained=False)
    assert found.cost_usd_per_hour == pytest.approx(best)
    assert found.gap_ratio == 0.0
    assert found.provenance["calibrated"]


def test_a_promise_that_only_overheads_break_is_infeasible() -> None:
    plan = shaped("tandem", max=6)
    trace = Trace.gamma(20.0, 1.0, requests=200, seed=1)
    make(plan.spec, plan.profile, trace, explained=False)
    with pytest.raises(HeadwayError, match="promise"):
        make(plan.spec, replace(plan.profile, overheads=Overheads(0.3)), trace, explained=False)


@pytest.mark.parametrize("seed", range(4))
def test_the_fit_finds_the_overheads_that_were_put_in(seed: int) -> None:
    known = Overheads(0.0015, {"a": 0.0008, "b": 0.0004, "c": 0.0})
    told = shaped("branch")
    seen = simulated_observation(with_overheads(told, known), Trace.gamma(60.0, 2.0, requests=4000, seed=seed), seed)
    found = fit(told, seen, seed=seed)
    assert found.request.value == pytest.approx(known.request_s, abs=1e-5)
    for name, value_s in known.batch_s.items():
        overhead = found.fits[name].overhead
        assert overhead is not None
        # Its interval holds the truth 19 times in 20; a width and a half, nearly always.
        assert abs(overhead.value - value_s) <= 1.5 * overhead.half
        assert overhead.half < 0.0005
        assert not found.fits[name].rows
    assert found.profile.rows == told.profile.rows
    before, after = (abs(c[""]["p50_s"].error_ratio or 0.0) for c in (found.before, found.after))
    assert after < before


def started_late(seen: Observation, late_s: float) -> Observation:
    """What a server would have told that marks every start so much later, and ends everything when it did."""

    def stage(name: str) -> StageOutcome:
        told = seen.outcome.stages[name]
        gone_s = late_s * told.batches
        return replace(
            told, queue_wait_s=told.queue_wait_s + late_s, service_s=told.service_s - gone_s,
            utilization=told.utilization - gone_s / told.capacity_s,
        )  # fmt: skip

    items = {
        name: replace(each, queue_wait_s=each.queue_wait_s + late_s, service_s=each.service_s - late_s)
        for name, each in seen.items.items()
    }
    return replace(seen, items=items, outcome=replace(seen.outcome, stages={n: stage(n) for n in seen.outcome.stages}))


@pytest.mark.parametrize("late_s", [0.0, 0.0005, 0.0015])
def test_what_a_batch_starts_late_is_the_batchs_in_the_fit_and_in_what_was_measured(late_s: float) -> None:
    told = shaped("tandem")
    told = replace(told, stages=dict.fromkeys(told.stages, ReplicaConfig("cpu", 1, 4)))
    served = with_overheads(told, Overheads(0.001, {"a": 0.0015, "b": 0.0015}))
    seen = simulated_observation(served, Trace.gamma(30.0, 1.0, requests=1000, seed=1), 1)
    on_time, late = compared(served, seen, seed=1), compared(served, started_late(seen, late_s), seed=1)
    found = fit(told, started_late(seen, late_s), seed=1)
    for name in told.stages:
        for figure, value in on_time[name].items():
            assert late[name][figure].measured == pytest.approx(value.measured, abs=1e-9), figure
        overhead, p50 = found.fits[name].overhead, found.after[name]["service_p50_s"]
        assert overhead is not None
        assert overhead.value == pytest.approx(0.0015, abs=overhead.half + 1e-4)
        assert abs(p50.error_ratio or 0.0) < 0.02


def test_a_stage_that_waits_for_a_batch_to_fill_is_compared_by_its_starts() -> None:
    told = shaped("tandem")
    told = replace(told, stages=dict.fromkeys(told.stages, ReplicaConfig("cpu", 2, 4, max_wait_s=0.01)))
    seen = simulated_observation(told, Trace.gamma(60.0, 1.0, requests=1000, seed=1), 1)
    found = compared(told, seen, seed=1)
    for name, items in seen.items.items():
        assert found[name]["queue_wait_p50_s"].measured == percentile(items.queue_wait_s, 50)
        assert found[name]["service_p50_s"].measured == percentile(items.batches().service_s, 50)


@given(st.integers(0, 1000), st.floats(0.0, 0.001))
@settings(max_examples=20, deadline=None)
def test_slower_batches_never_fit_a_smaller_overhead(seed: int, more_s: float) -> None:
    rng = np.random.default_rng(seed)
    service = tiny_profile().service("first", "default", "cpu")
    size = rng.integers(1, 5, 400)
    times_s = service.table(4, sampled=True)[size, rng.integers(0, 256, 400)]
    less, more = batch_overhead(service, size, times_s), batch_overhead(service, size, times_s + more_s)
    assert less is not None
    assert more is not None
    assert more.value >= less.value


@given(st.lists(st.floats(0.001, 1.0), min_size=60, max_size=200), st.data())
@settings(max_examples=30, deadline=None)
def test_a_stall_moves_the_middle_by_no_more_than_the_values_are_apart(
    values: list[float], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(values) - 1))
    stalled = np.array(values)
    stalled[at] = 1000.0
    assert abs(middle(stalled).value - middle(np.array(values)).value) <= max(values) - min(values) + 1e-12


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_time_at_stages_is_the_length_of_the_union_of_the_items_times(items: list[tuple[int, float, float]]) -> None:
    request, arrival_s, for_s = (np.array(column) for column in zip(*items, strict=True))
    done_s = arrival_s + for_s
    numbers, found_s = time_at_stages(request, arrival_s, done_s)
    for number, at_s in zip(numbers, found_s, strict=True):
        spans = sorted((a, d) for r, a, d in zip(request, arrival_s, done_s, strict=True) if r == number)
        covered, until = 0.0, -np.inf
        for start, end in spans:
            covered += max(0.0, end - max(start, until))
            until = max(until, end)
        assert at_s == pytest.approx(covered, abs=1e-9)


def test_scale_factors_are_the_probabilities_and_fan_outs_of_the_graph() -> None:
    seen = simulated_observation(shaped("branch"), Trace.poisson(rate=50, requests=2000, seed=1), seed=3)
    factors = scale_factors({name: items.request for name, items in seen.items.items()})
    assert factors["a"].value == factors["c"].value == 1.0
    assert abs(factors["b"].value - 0.5) <= 1.5 * factors["b"].half


def test_what_was_seen_too_rarely_leaves_the_profile_as_it_was() -> None:
    seen = simulated_observation(tiny_plan(), Trace.poisson(rate=20, requests=MIN_SAMPLES, seed=1))
    found = fit(tiny_plan(), seen)
    assert found.fits["second"].overhead is None
    assert found.profile.rows == tiny_plan().profile.rows
    assert "second" not in (found.profile.overheads or Overheads(0.0)).batch_s
