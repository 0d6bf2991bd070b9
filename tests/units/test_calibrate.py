"""Calibration by its parts: overheads in files, fits on samples worked by hand, what a server tells, and the verb."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headway.cli.app import main
from headway.domains.pipeline.declare import ReplicaConfig
from headway.domains.pipeline.live import live_station
from headway.errors import ProfileError, ServeError
from headway.plan.plan import Plan
from headway.profile import Overheads, Profile, RecordedVisits, Row, refit
from headway.serve.calibrate import Compared, fit, fit_all, observe
from headway.serve.observed import StageItems
from headway.serve.run import running_in_thread
from headway.sim.outcome import StageOutcome
from headway.sim.simulation import contexts, simulate
from headway.spec.model import Spec
from headway.testing.examples import tiny_plan, tiny_profile
from headway.testing.observed import simulated_observation
from headway.trace import Trace

OVERHEADS = Overheads(0.001, {"first": 0.0005}, {"first": 0.4})


def calibrated() -> Profile:
    return replace(tiny_profile(), overheads=OVERHEADS)


# In files


def test_overheads_come_back_from_csv_and_from_a_plan(tmp_path: Path) -> None:
    calibrated().write(tmp_path / "p.csv")
    assert Profile.read(tmp_path / "p.csv").overheads == OVERHEADS
    plan = replace(tiny_plan(), profile=calibrated())
    assert Plan.from_dict(json.loads(plan.to_json())).profile.overheads == OVERHEADS
    assert plan.hash != tiny_plan().hash


def test_a_profile_without_overheads_is_not_calibrated_and_says_so(tmp_path: Path) -> None:
    tiny_profile().write(tmp_path / "p.csv")
    assert Profile.read(tmp_path / "p.csv").overheads is None
    trace = Trace.poisson(rate=10, seconds=5, seed=1)
    for profile, known in ((tiny_profile(), False), (calibrated(), True)):
        assert simulate(replace(tiny_plan(), profile=profile), trace).provenance["calibrated"] is known


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], "must be {request_s"),
        ({"request_s": 0.1}, "batch_s is missing"),
        ({"batch_s": {}}, "request_s is missing"),
        ({"request_s": 0.1, "batch_s": {}, "batches_s": {}}, "'batches_s'; did you mean 'batch_s'"),
        ({"request_s": 0.1, "batch_s": {"first": "1ms"}}, "batch_s.first is '1ms'; it must be a number of seconds"),
        ({"request_s": True, "batch_s": {}}, "request_s is True"),
        ({"request_s": -0.1, "batch_s": {}}, "request_s is -0.1"),
        ({"request_s": 0.1, "batch_s": {}, "utilization": {"first": float("nan")}}, "utilization.first is nan"),
        ({"request_s": 0.1, "batch_s": {}, "low_confidence": "late"}, "low_confidence is 'late'; it must be a list"),
        ({"request_s": 0.1, "batch_s": {"frist": 0.1}}, "no rows for stage 'frist'; did you mean 'first'"),
    ],
)
def test_overheads_that_are_not_understood_are_an_error(value: Any, text: str) -> None:
    with pytest.raises(ProfileError) as error:
        Profile.from_dict({**tiny_profile().to_dict(), "overheads": value})
    assert text in str(error.value)


def test_a_subset_keeps_the_overheads_of_its_stages() -> None:
    other = calibrated().subset([("second", "default", "cpu")])
    assert other.overheads == Overheads(0.001)


# In predictions


def test_service_times_hold_the_overhead_once_and_sleeping_workers_leave_it_to_the_server() -> None:
    plain, loaded = tiny_profile(), calibrated()
    with_it, without = (profile.service("first", "default", "cpu").mean_at(4) for profile in (loaded, plain))
    assert with_it == pytest.approx(without + 0.0005)
    bare = loaded.service("first", "default", "cpu", overhead=False)
    np.testing.assert_array_equal(bare.table(4, True), plain.service("first", "default", "cpu").table(4, True))
    assert loaded.service("second", "default", "cpu").mean_at(1) == 0.05
    plan = replace(tiny_plan(), profile=loaded)
    config = plan.stages["first"]
    assert isinstance(config, ReplicaConfig)
    assert live_station(contexts(plan)["first"], config).max_batch_size == config.max_batch_size


def test_a_load_far_above_the_calibrated_one_is_doubted() -> None:
    plan = replace(tiny_plan(), profile=replace(calibrated(), overheads=Overheads(0.0, {}, {"second": 0.1})))
    calm, busy = (simulate(plan, Trace.poisson(rate=r, seconds=100, seed=1)).low_confidence for r in (5, 25))
    assert calm == ()
    assert any("second" in doubt and "calibrated at 0.10" in doubt for doubt in busy)


def test_what_was_doubted_when_it_was_calibrated_is_doubted_in_what_is_predicted_with_it(tmp_path: Path) -> None:
    trace = Trace.poisson(rate=10, seconds=5, seed=1)
    late = "client: 1% of the requests were sent 327 ms after their time, or later"
    seen = simulated_observation(tiny_plan(), Trace.poisson(rate=10, seconds=20, seed=1), seed=1)
    for doubts in ((), (late,)):
        observed = replace(seen, outcome=replace(seen.outcome, low_confidence=doubts))
        fit_all(tiny_plan(), [observed, observed]).profile.write(tmp_path / "p.csv")
        profile = Profile.read(tmp_path / "p.csv")
        assert profile.overheads is not None
        assert profile.overheads.low_confidence == doubts
        plan = replace(tiny_plan(), profile=profile.subset([("first", "default", "cpu"), ("second", "default", "cpu")]))
        predicted = simulate(Plan.from_dict(json.loads(plan.to_json())), trace).low_confidence
        assert [doubt for doubt in predicted if late in doubt] == [
            f"its profile's calibration is in doubt: {doubt}" for doubt in doubts
        ]


# Fits


def test_too_few_samples_say_nothing() -> None:
    service = tiny_profile().service("first", "default", "cpu")
    few = np.full(refit.MIN_SAMPLES - 1, 0.03)
    assert refit.batch_overhead(service, np.ones(few.size, np.int64), few) is None
    assert refit.request_overhead(few, few) is None
    assert refit.start_delay(few, few, few) is None
    assert refit.observed_rows(tiny_profile().rows, np.ones(few.size, np.int64), few) == ()
    assert refit.observed_visits({"first": np.arange(few.size)}, {}) is None
    assert refit.scale_factors({"first": np.empty(0, np.int64)}) == {}


def test_rows_that_no_constant_explains_are_replaced_where_they_were_observed() -> None:
    rng = np.random.default_rng(1)
    service = tiny_profile().service("first", "default", "cpu")
    size = np.repeat([1, 3, 4], [200, 200, refit.MIN_SAMPLES - 1])
    times_s = 1.5 * service.table(4, sampled=True)[size, rng.integers(0, 256, size.size)]
    found = refit.fit_stage(tiny_profile(), "first", "default", "cpu", size, times_s)
    assert [row.batch_size for row in found.rows] == [1]
    assert found.overhead is not None
    assert found.overhead.value == 0.0
    (row,) = found.rows
    assert row.evidence == "observed"
    assert row.samples == 200
    assert row.mean_s == pytest.approx(0.03, rel=0.05)
    fitted = refit.refitted(calibrated(), {"first": found}, 0.002, {"first": 0.3}, {"requests": 9})
    assert [r.evidence for r in fitted.rows] == ["observed", "imported", "imported"]
    assert fitted.overheads == Overheads(0.002, {"first": 0.0}, {"first": 0.3})
    assert fitted.stamp["calibration"] == {"requests": 9}


def test_a_stall_is_no_part_of_a_row() -> None:
    times_s = np.array([0.02] * 99 + [30.0])
    (row,) = refit.observed_rows([Row("first", "cpu", 1, 0.02)], np.ones(100, np.int64), times_s)
    assert row.mean_s == row.p99_s == 0.02


def test_a_batch_is_late_by_the_time_since_its_item_and_a_replica_were_there() -> None:
    n = refit.MIN_SAMPLES
    # One replica, always behind: each batch starts 2 ms after the one before it ended, while its item waited.
    start_s = np.arange(n) * 0.012
    delay = refit.start_delay(np.full(n, -0.002), start_s, start_s + 0.010)
    assert delay is not None
    assert delay.value == pytest.approx(0.002)
    # Always a replica free: 3 ms after the item came.
    delay = refit.start_delay(start_s - 0.003, start_s, start_s + 0.005)
    assert delay is not None
    assert delay.value == pytest.approx(0.003)


def test_observed_visits_keep_requests_and_their_correlation() -> None:
    request = np.arange(1, 3001)
    found = refit.observed_visits({"a": request, "b": np.repeat(request[::3], 2)}, {"a": "small"})
    assert isinstance(found, RecordedVisits)
    assert len(found.counts["a"]) == refit.VISITS_KEPT
    assert set(found.counts["a"]) == {1}
    assert set(found.counts["b"]) == {0, 2}
    assert found.variants == {"a": "small"}


# What a server tells


def told(**changes: Any) -> dict[str, Any]:
    stats: dict[str, Any] = {
        "request": [1, 2, 3, 4, 5], "arrival_s": [0.0, 0.1, 0.2, 0.3, 0.3], "queue_wait_s": [1.0, 0.9, 0.8, 0.0, 0.0],
        "service_s": [1.0, 1.0, 1.0, 0.5, 0.5], "batch_size": [4, 2, 2, 1, 1],
    }  # fmt: skip
    return {**stats, **changes}


def test_items_are_put_together_to_the_batches_that_they_were_in() -> None:
    items = StageItems.of("a", told())
    batches = items.batches()
    # Of the batch of four, three items came before the time that was asked for.
    assert batches.batch_size.tolist() == [2, 1, 1]
    assert batches.arrival_s.tolist() == [0.1, 0.3, 0.3]
    np.testing.assert_allclose(batches.service_s, [1.0, 0.5, 0.5])
    assert StageItems.of("a", {name: [] for name in told()}).batches().batch_size.size == 0


@pytest.mark.parametrize("stats", [{}, told(request=None), told(batch_size=[1])])
def test_a_server_that_tells_too_little_is_named(stats: dict[str, Any]) -> None:
    with pytest.raises(ServeError, match="stage 'a': /stats lacks"):
        StageItems.of("a", stats)


def test_an_error_relates_to_what_was_measured() -> None:
    assert Compared(0.11, 0.1, 0.12, 0.1).error_ratio == pytest.approx(0.1)
    assert Compared(0.0, 0.0, 0.0, 0.0).error_ratio is None
    assert Compared(1.0, 1.0, 1.0, float("inf")).to_dict()["measured"] is None


def test_measurements_near_saturation_are_doubted_as_predictions_are() -> None:
    from headway.sim.confidence import near_saturation

    stage = StageOutcome(1, 1, np.zeros(1), 0.95, 1.0, 0.0, peak_utilization_10s=1.2)
    assert len(near_saturation({"a": stage})) == 2


# Live


def sleeping_plan() -> Plan:
    spec = Spec.from_dict({"slo": {"latency": "1s"}, "supply": {"cpu": {"price": "$1/h"}}, "stages": {"a": {}}})
    profile = Profile.from_rows([Row("a", "cpu", 1, 0.004), Row("a", "cpu", 2, 0.006)])
    return Plan(spec, profile, {"a": ReplicaConfig("cpu", 2, 2)})


def test_calibrate_writes_a_profile_that_later_predictions_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HEADWAY_")]:
        monkeypatch.delenv(name)
    sleeping_plan().write("plan.json")
    for seed, name in enumerate(("t.csv", "u.csv")):
        Trace.poisson(rate=100.0, requests=60, seed=seed).write(name)
    with pytest.raises(SystemExit) as stop:
        main(["calibrate", "plan.json", "--trace", "t.csv", "--test", "u.csv", "-o", "fitted.csv", "--json"])
    assert stop.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["requests"]["answered"] == 60
    fitted = Profile.read("fitted.csv")
    assert fitted.overheads is not None
    assert fitted.overheads.request_s == pytest.approx(found["overheads"]["request_s"]["value"], rel=1e-3)
    assert fitted.stamp["calibration"]["plan_hash"] == sleeping_plan().hash
    assert set(found["errors"]) == {"before", "after", "test"}
    before, after = (found["errors"][when]["p50_s"] for when in ("before", "after"))
    assert after["measured"] == before["measured"] > 0.004
    # Serving takes time, so what includes it is predicted to take longer.
    assert after["predicted"] > before["predicted"]


def test_a_server_of_another_plan_or_with_other_clients_is_refused() -> None:
    trace = Trace.poisson(rate=100.0, requests=5, seed=1)
    with running_in_thread(sleeping_plan()) as server:
        with pytest.raises(ServeError, match="another plan"):
            observe(server.url, tiny_plan(), trace)
        # As if a request of another client's were in flight.
        server.engine.counts.offered += 1
        with pytest.raises(ServeError, match="other clients"):
            observe(server.url, sleeping_plan(), trace)
        server.engine.counts.offered -= 1


def test_spells_that_say_too_little_alone_are_fitted_together() -> None:
    plan = replace(sleeping_plan(), stages={"a": ReplicaConfig("cpu", 2)})
    traces = [Trace.poisson(rate=100.0, requests=refit.MIN_SAMPLES - 1, seed=seed) for seed in (1, 2)]
    with running_in_thread(plan) as server:
        spells = [observe(server.url, plan, trace) for trace in traces]
    with pytest.raises(ServeError, match="use a longer trace"):
        fit(plan, spells[0])
    found = fit_all(plan, spells)
    assert found.request.samples == sum(spell.trace.requests for spell in spells)
    assert found.fits["a"].overhead is not None
    batches = sum(spell.items["a"].batches().batch_size.size for spell in spells)
    assert found.fits["a"].overhead.samples <= batches
    assert found.profile.stamp["calibration"]["requests"] == found.request.samples
