"""The outcome's figures: percentiles, promises and windows against their definitions, and one case worked by hand."""

from __future__ import annotations

import dataclasses
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.domains.pipeline.declare import ReplicaConfig
from headway.errors import HeadwayError, PlanError
from headway.plan.plan import Plan
from headway.profile import Profile, RecordedVisits, Row
from headway.sim import compare, interval, simulate
from headway.sim.outcome import (
    ANSWERED,
    DROPPED,
    IN_FLIGHT,
    Outcome,
    allowed_misses,
    by_window,
    most_misses,
    percentile,
    promise_holds,
    required,
)
from headway.spec.model import Spec
from headway.testing.examples import tiny_plan, tiny_profile
from headway.trace import Trace

GOLDEN = Path(__file__).parent.parent / "goldens" / "sim" / "outcome.json"
PERCENTS = [0.1, 1, 10, 25, 50, 75, 90, 95, 97, 99, 99.5, 99.9, 99.95, 99.99, 99.999, 100]


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.5, math.inf]), min_size=1, max_size=60), st.sampled_from(PERCENTS))
def test_a_percentile_is_the_smallest_value_that_enough_values_do_not_exceed(
    values: list[float], percent: float
) -> None:
    share = Fraction(str(percent)) / 100
    expected = min(v for v in values if sum(w <= v for w in values) >= share * len(values))
    assert percentile(np.array(values), percent) == expected


@given(st.integers(0, 10**9), st.sampled_from(PERCENTS))
def test_ranks_are_exact_for_any_number_of_requests(requests: int, percent: float) -> None:
    exact = math.ceil(Fraction(str(percent)) * requests / 100)
    assert required(requests, percent) == exact
    assert allowed_misses(requests, percent) == requests - exact


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=200), st.sampled_from(PERCENTS))
def test_a_promise_holds_exactly_when_its_percentile_is_within_it(latency: list[float], percent: float) -> None:
    latency_s = np.array(latency)
    outcome = Outcome(
        np.arange(latency_s.size) * 1.0, latency_s, np.zeros(latency_s.size, np.int8), 0.5, float(percent)
    )
    assert outcome.holds == (outcome.p(percent) <= 0.5 + 1e-9)
    assert outcome.holds == (outcome.misses <= allowed_misses(outcome.requests, percent))


ARRIVALS = st.lists(st.integers(0, 100), min_size=1, max_size=50).map(lambda ticks: np.sort(np.array(ticks)) / 4.0)


@given(ARRIVALS, st.sampled_from([0.25, 1.0, 7.0, 100.0]))
def test_windows_are_tumbling_from_the_first_arrival(arrival_s: np.ndarray, window_s: float) -> None:
    number = np.arange(arrival_s.size)
    windows = by_window(arrival_s, number, window_s)
    assert np.concatenate(windows).tolist() == number.tolist()
    expected: dict[int, list[int]] = {}
    for at, time_s in enumerate(arrival_s):
        expected.setdefault(int((time_s - arrival_s[0]) / window_s), []).append(at)
    assert [w.tolist() for w in windows] == list(expected.values())


@given(ARRIVALS, st.randoms(use_true_random=False), st.sampled_from([50, 75, 99]), st.sampled_from([0.5, 0.9, 1.0]))
def test_a_promise_in_windows_must_hold_in_that_share_of_them(
    arrival_s: np.ndarray, random: Any, percent: float, objective: float
) -> None:
    missed = np.array([random.random() < 0.3 for _ in arrival_s])
    windows = by_window(arrival_s, missed, 2.0)
    kept = sum(w.sum() <= allowed_misses(w.size, percent) for w in windows)
    holds = promise_holds(arrival_s, missed, percent, 2.0, objective)
    assert holds == (Fraction(int(kept), len(windows)) >= Fraction(str(objective)))
    if holds:
        assert missed.sum() <= most_misses(arrival_s, percent, 2.0, objective)


def test_the_most_misses_can_be_reached() -> None:
    """Three windows of 1, 4 and 2 requests of which one may be lost: the largest, plus what the others allow."""
    arrival_s = np.array([0.0, 10.0, 10.1, 10.2, 10.3, 20.0, 20.1])
    assert most_misses(arrival_s, 50, 10.0, 0.6) == 4 + 0 + 1
    missed = np.array([False, True, True, True, True, True, False])
    assert promise_holds(arrival_s, missed, 50, 10.0, 0.6)
    assert not promise_holds(arrival_s, missed, 50)


def test_the_worst_five_minutes() -> None:
    arrival_s = np.array([100.0, 399.9, 400.0, 500.0, 2000.0])
    latency_s = np.array([0.1, 0.2, 0.9, 0.3, 0.4])
    outcome = Outcome(arrival_s, latency_s, np.zeros(5, np.int8), 1.0, 99.0)
    assert outcome.worst_5m_p99_s == 0.9
    one_window = Outcome(arrival_s[:2], latency_s[:2], np.zeros(2, np.int8), 1.0, 99.0)
    assert one_window.worst_5m_p99_s == 0.2


def test_a_request_is_late_only_beyond_rounding() -> None:
    outcome = Outcome(np.zeros(3), np.array([0.3, 0.1 + 0.2, 0.30001]), np.zeros(3, np.int8), 0.3, 99.0)
    assert outcome.missed.tolist() == [False, False, True]


@pytest.mark.parametrize("requests", [0, 1, 3])
def test_json_never_holds_what_json_cannot_say(requests: int) -> None:
    nothing = np.full(requests, np.inf)
    outcome = Outcome(np.arange(requests) * 1.0, nothing, np.full(requests, IN_FLIGHT, np.int8), 0.3, 99.0)
    text = json.loads(json.dumps(outcome.to_dict(), allow_nan=False))
    assert text["p99_s"] is None
    assert text["mean_s"] is None
    assert text["requests"]["in_flight"] == requests
    overload = Trace.from_arrivals(np.zeros(50), {"visits.second": np.zeros(50)})
    starved = simulate(tiny_plan(), overload, mode="mean", drop_after_s=0.01).to_dict()
    json.dumps(starved, allow_nan=False)
    assert starved["requests"]["dropped"] == 42, "two batches of four start at once, the rest is given up"


def test_loads_that_rest_on_few_samples_are_told() -> None:
    plan = tiny_plan()
    trace = Trace.poisson(rate=5, seconds=20, seed=1)

    def told(visits: RecordedVisits, requests: Trace = trace) -> list[str]:
        known = dataclasses.replace(plan, profile=dataclasses.replace(plan.profile, visits=(visits,)))
        return list(simulate(known, requests, seed=1).low_confidence)

    counts = {"first": (1,), "second": (1,)}
    unvisited = {"first": (1, 1), "second": (0, 0)}
    assert told(RecordedVisits(counts)) == []
    assert told(RecordedVisits(counts, left_out=9)) == ["visits rest on 1 of 10 samples"]
    assert told(RecordedVisits(unvisited)) == ["second: no sample reached it, so its load rests on the declared edges"]
    given_visits = Trace.from_arrivals(trace.arrival_s, {f"visits.{name}": np.ones(trace.requests) for name in counts})
    assert told(RecordedVisits(unvisited, left_out=9), given_visits) == []


def test_status_arrays_of_unequal_length_are_an_error() -> None:
    with pytest.raises(HeadwayError, match="one entry per request"):
        Outcome(np.zeros(2), np.zeros(3), np.zeros(2, np.int8), 0.3, 99.0)


def test_a_simulation_worked_by_hand() -> None:
    """Two replicas per stage; the first takes 20 ms for one request and 60 ms for four, the second 50 ms.

    At 0 five requests come: one replica takes four (to 0.06), the other one (to 0.02). The sixth, at 0.01, waits for
    the latter and is done at 0.04. Of the four, two go on and end at 0.11: late, and just as many as one in four.
    At 100 one request takes both stages (0.07), at 400 one takes the first (0.02). Capacity is held for 400.02 s.
    """
    spec = Spec.from_dict(
        {
            "name": "golden",
            "slo": {"latency": "100ms", "percentile": 75},
            "supply": {"cpu": {"price": "$0.20/h", "startup": "5s"}},
            "stages": {"first": {}, "second": {"after": "first"}},
        }
    )
    stages = {"first": ReplicaConfig("cpu", 2, 4), "second": ReplicaConfig("cpu", 2)}
    visits = {"visits.second": np.array([1, 0, 1, 0, 0, 0, 1, 0])}
    trace = Trace.from_arrivals(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.01, 100.0, 400.0]), visits)
    outcome = simulate(Plan(spec, tiny_profile(), stages), trace, mode="mean")
    assert outcome.latency_s == pytest.approx([0.11, 0.06, 0.11, 0.06, 0.02, 0.03, 0.07, 0.02], abs=1e-9)
    found = outcome.to_dict()
    provenance = found.pop("provenance")
    assert set(provenance) == {"plan_hash", "trace_hash", "seed", "mode", "headway", "calibrated"}
    golden = json.loads(GOLDEN.read_text())
    assert list(found) == list(golden), "the same figures in the same order"
    for key, value in golden.items():
        if key == "stages":
            assert list(found["stages"]) == list(value)
            for name, stage in value.items():
                assert found["stages"][name] == pytest.approx(stage, rel=1e-9, abs=1e-9), name
        elif isinstance(value, float):
            assert found[key] == pytest.approx(value, rel=1e-9), key
        else:
            assert found[key] == value, key


@given(st.integers(0, 50), st.floats(5, 150), st.sampled_from([None, 0.0, 0.05, 0.3]))
def test_every_request_offered_is_counted_once(seed: int, rate: float, drop_after_s: float | None) -> None:
    trace = Trace.poisson(rate=rate, seconds=4, seed=seed)
    outcome = simulate(tiny_plan(), trace, seed=seed, drop_after_s=drop_after_s)
    counts = outcome.counts()
    ways = ("answered", "dropped", "rejected", "failed", "in_flight")
    assert counts["offered"] == trace.requests == sum(counts[way] for way in ways)
    assert np.array_equal(np.isinf(outcome.latency_s), outcome.status != ANSWERED)
    assert counts["dropped"] == np.count_nonzero(outcome.status == DROPPED)
    assert outcome.misses == counts["late"] + counts["offered"] - counts["answered"]
    for stage in outcome.stages.values():
        assert 0 <= stage.utilization <= 1 + 1e-12, "no work outside the time that capacity is held for"


def test_what_is_no_whole_outcome_is_refused_by_what_it_lacks() -> None:
    with pytest.raises(HeadwayError, match="the first outcome lacks kind, requests, p50_s"):
        compare({"schema": "headway.outcome/1"}, {})


def test_a_comparison_sets_figures_side_by_side() -> None:
    rest = dict.fromkeys(("p95_s", "mean_s", "worst_5m_p99_s"))
    fast = {
        **rest,
        "kind": "measured",
        "p50_s": 0.1,
        "p99_s": 0.4,
        "cost_usd": 0.0,
        "miss_rate": None,
        "requests": {"offered": 3},
    }
    slow = {
        **rest,
        "kind": "simulated",
        "p50_s": 0.2,
        "p99_s": 0.3,
        "cost_usd": 1.0,
        "miss_rate": 0.5,
        "requests": {"offered": 4},
    }
    result = compare(fast, slow)
    assert result["figures"]["p50_s"] == {"a": 0.1, "b": 0.2, "difference": 0.1, "ratio": 2.0}
    assert result["figures"]["p99_s"]["ratio"] == pytest.approx(0.75)
    assert result["figures"]["cost_usd"] == {"a": 0.0, "b": 1.0, "difference": 1.0, "ratio": None}
    assert result["figures"]["miss_rate"] == {"a": None, "b": 0.5, "difference": None, "ratio": None}
    assert result["figures"]["mean_s"]["a"] is None
    assert (result["a"], result["b"]) == ("measured", "simulated")
    outcome = simulate(tiny_plan(), Trace.poisson(rate=10, seconds=30, seed=1)).to_dict()
    same = compare(outcome, outcome)["figures"]
    assert all(figure["difference"] == 0 and figure["ratio"] in (1, None) for figure in same.values())


def test_the_interval_covers_another_seed_of_the_same_system() -> None:
    plan, trace = tiny_plan(), Trace.poisson(rate=20, seconds=60, seed=5)
    limits = interval(plan, trace, seed=0, runs=40)
    low, high = limits["p50_s"]
    assert low < high
    inside = sum(low <= simulate(plan, trace, seed=seed).p(50) <= high for seed in range(100, 120))
    assert inside >= 16
    assert limits == interval(plan, trace, seed=0, runs=40)


def test_reasons_to_distrust_a_prediction_are_named() -> None:
    rows = [Row("first", "cpu", 1, 0.02, evidence="prior"), Row("second", "cpu", 1, 0.05)]
    stages = {"first": ReplicaConfig("cpu"), "second": ReplicaConfig("cpu", replicas=3)}
    plan = Plan(tiny_plan().spec, Profile.from_rows(rows), stages)
    calm = simulate(plan, Trace.poisson(rate=5, seconds=100, seed=1)).low_confidence
    assert calm == ("first: its profile holds a prior, not a measurement",)
    busy = simulate(plan, Trace.poisson(rate=49, seconds=100, seed=1)).low_confidence
    assert any("first: mean utilization 0.9" in reason for reason in busy)
    assert any("first: the busiest 10 s offer" in reason for reason in busy)
    assert simulate(tiny_plan(), Trace.poisson(rate=5, seconds=100, seed=1)).low_confidence == ()


def test_batches_larger_than_any_that_was_measured_are_simulated_with_a_doubt() -> None:
    profile = Profile.from_rows(
        [Row("first", "cpu", 1, 0.02), Row("first", "cpu", 4, 0.05), Row("second", "cpu", 1, 0.05)]
    )
    trace = Trace.from_arrivals(np.zeros(16))

    def predicted(batch: int) -> Outcome:
        stages = {"first": ReplicaConfig("cpu", max_batch_size=batch), "second": ReplicaConfig("cpu", replicas=16)}
        return simulate(Plan(tiny_plan().spec, profile, stages), trace, mode="mean")

    measured, beyond = predicted(4), predicted(8)
    doubt = "first: batches hold up to 8 items; the largest that was measured, 4"
    assert {*beyond.low_confidence} == {doubt, *measured.low_confidence} != {*measured.low_confidence}
    # Two batches of 8, each as long as two of 4: nothing is gained by what was not seen.
    assert beyond.p(100) == measured.p(100) == pytest.approx(4 * 0.05 + 0.05)


def test_an_unknown_mode_is_an_error() -> None:
    with pytest.raises(PlanError, match="valid: sampled, mean"):
        simulate(tiny_plan(), Trace.from_arrivals(np.zeros(1)), mode="worst")
