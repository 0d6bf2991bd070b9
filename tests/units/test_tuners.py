"""What each tuner does in situations that a person can check."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from headway.errors import HeadwayError
from headway.policy.drift import scale_ratio, service_ratio
from headway.policy.envelopes import quantile, running_counts
from headway.policy.scaling import Gear, Observation, StageSeen, Terms
from headway.policy.scaling_baselines import AutoScale, Ds2, Threshold
from headway.policy.scaling_drain import draining
from headway.policy.scaling_headway import PLAN, Headway, Memory
from headway.policy.scaling_inferline import InferLine
from headway.policy.scaling_inferline import Memory as Published
from headway.policy.tuners import TUNERS, parameters, written
from headway.testing.examples import tiny_plan
from headway.testing.scaling import example_terms, steady
from headway.trace import Trace
from headway.tune.advise import named
from headway.tune.simulated import simulate_tuner
from headway.tune.terms import terms

GOLDENS = Path(__file__).parent.parent / "goldens" / "tune"


def seen_with(seen: Observation, **stages: StageSeen) -> Observation:
    return dataclasses.replace(seen, stages={**seen.stages, **stages})


def test_a_window_counts_what_lies_after_its_begin_up_to_now() -> None:
    counts = running_counts(np.array([1.0, 2.0, 3.0]), 3.0, np.array([1.0, 1.5, 2.0]))
    assert counts.tolist() == [1, 2, 2]


@pytest.mark.parametrize(("z", "exact"), [(-2.326, 77.0), (1.645, 117.0), (3.09, 132.0)])
def test_the_band_is_that_of_poisson_counts_where_they_are_poisson(z: float, exact: float) -> None:
    """Quantiles of a Poisson law of mean 100 at 1 %, 95 % and 99.9 %, from its exact distribution."""
    assert float(quantile(np.array([100.0]), np.array([100.0]), z)[0]) == pytest.approx(exact, abs=2.0)


def test_inferline_scales_up_by_the_steepest_exceeding_window() -> None:
    known = example_terms()
    decision, memory = InferLine(known).decide(steady(known, 2.0), None)
    # 3 and 2 replicas for 100/s, so 6 and 4 for 200/s.
    assert decision.replicas == {"first": 6, "second": 4}
    assert memory.level == pytest.approx(decision.values["rate_per_s"] / 100.0)


def test_inferline_waits_before_it_scales_down_and_then_uses_the_lowest_utilization() -> None:
    known = example_terms()
    more = {name: StageSeen(ready=6) for name in known.stages}
    seen = dataclasses.replace(steady(known), stages=more)
    assert not InferLine(known).decide(seen, Published(changed_s=seen.now_s - 14.0))[0].acts
    decision, _ = InferLine(known).decide(seen, Published(changed_s=seen.now_s - 15.0))
    # rho is 2/3 and 1/2: both are sized by 1/2, so that the first keeps 4 where its own would give 3.
    assert decision.replicas == {"first": 4, "second": 2}
    assert decision.code == "scale_down"


def test_inferline_comes_back_after_it_went_below_the_plan() -> None:
    known = example_terms()
    fewer = {name: StageSeen(ready=1) for name in known.stages}
    back = dataclasses.replace(steady(known), stages=fewer)
    decision, _ = InferLine(known).decide(back, Published(changed_s=0.0, level=0.3))
    assert decision.replicas["first"] >= 3
    assert not InferLine(known).decide(steady(known), Published(changed_s=59.0))[0].acts


def test_autoscale_gives_a_replica_up_only_after_it_idled_long_enough() -> None:
    known = example_terms()
    chosen = AutoScale(known, wait_s=120.0)
    seen = steady(known, 2.0)
    decision, memory = chosen.decide(seen, None)
    assert decision.replicas["first"] == 6
    for now_s, first in ((seen.now_s + 119.0, 6), (seen.now_s + 120.0, 3)):
        quiet = dataclasses.replace(steady(known, 1.0, now_s), stages={n: StageSeen(ready=6) for n in known.stages})
        decision, memory = chosen.decide(quiet, memory)
        assert decision.replicas["first"] == first


def test_autoscale_counts_on_what_a_replica_carries_within_the_promise_unless_told_otherwise() -> None:
    known = dataclasses.replace(example_terms(), headroom_ratio=1.5)
    seen = steady(known, 1.5)
    assert AutoScale(known).decide(seen, None)[0].replicas == {"first": 3, "second": 2}
    # 4.5 and 3 replicas.
    assert AutoScale(known, unit_ratio=1.0).decide(seen, None)[0].replicas == {"first": 5, "second": 3}


def test_a_plan_hands_its_headroom_over() -> None:
    plan, trace = tiny_plan(), Trace.poisson(20.0, 60, seed=1)
    for ratio, carried in ((None, 1.0), (1.25, 1.25)):
        assert terms(dataclasses.replace(plan, headroom_ratio=ratio), trace).headroom_ratio == carried


def test_autoscale_sees_requests_in_the_system_too() -> None:
    known = example_terms()
    stuck = seen_with(steady(known), first=StageSeen(ready=3, queued=100))
    # A promise of 300 ms leaves the first stage 100 ms: five items of 20 ms each.
    assert AutoScale(known, by_items=True).decide(stuck, None)[0].replicas["first"] == 20


def test_ds2_follows_true_rates_and_pauses_the_pipeline_when_told_so() -> None:
    known = example_terms()
    busy = StageSeen(ready=3, items=1000, batches=1000, busy_s=25.0, arrived=6000)
    seen = seen_with(steady(known), first=busy)
    decision, looked_s = Ds2(known, pause_s=5.0).decide(seen, None)
    # 100/s at 40/s per replica; the second stage has no observations and keeps to its profile: 50/s at 33/s.
    assert decision.replicas == {"first": 3, "second": 2}
    assert decision.pause_s == 0.0
    assert looked_s == seen.now_s
    again = dataclasses.replace(seen, now_s=seen.now_s + 5.0)
    assert not Ds2(known).decide(again, looked_s)[0].acts
    fewer = seen_with(steady(known, 3.0), first=busy)
    assert Ds2(known, pause_s=5.0).decide(fewer, None)[0].pause_s == 5.0


def test_the_threshold_has_a_tolerance_a_limit_upwards_and_a_memory_downwards() -> None:
    known = example_terms()
    target = known.stages["first"].max_provisioning(known.rate_per_s)

    def decide(ratio: float, ready: int = 3, memory: object = None) -> tuple[int, object]:
        seen = seen_with(steady(known), first=StageSeen(ready=ready, utilization=target * ratio))
        decision, after = Threshold(known).decide(seen, memory)  # type: ignore[arg-type]
        return decision.replicas["first"], after

    assert decide(1.09)[0] == 3
    assert decide(1.3)[0] == 4
    assert decide(0.5, ready=6)[0] == 3
    memory = dataclasses.replace(Threshold(known).decide(steady(known), None)[1], looked_s=0.0)
    memory = dataclasses.replace(memory, wanted=((0.0, {"first": 6, "second": 2}),))
    assert decide(0.5, ready=6, memory=memory)[0] == 6


def test_headway_adds_what_drains_the_backlog_of_the_start_up() -> None:
    known = example_terms()
    seen = steady(known, 2.0)
    base = Headway(known, drain=False).decide(seen, None)[0].replicas
    decision, memory = Headway(known).decide(seen, None)
    assert decision.replicas["first"] > 2 * base["first"]
    assert decision.expected["drained_s"] > decision.expected["ready_s"] == 5.0
    ready = {name: StageSeen(ready=n) for name, n in decision.replicas.items()}
    later = dataclasses.replace(steady(known, 2.0, 66.0), stages=ready)
    drained, _ = Headway(known).decide(later, memory)
    assert drained.code == "drained"
    assert drained.replicas == Headway(known).provided(memory.level)[1]


def test_no_backlog_is_expected_where_late_requests_are_refused() -> None:
    known = dataclasses.replace(example_terms(), refuses_late=True)
    decision, memory = Headway(known).decide(steady(known, 2.0), None)
    assert decision.replicas == Headway(known).provided(memory.level)[1]


def test_the_fluid_model_counts_what_waits_upstream_and_what_will_come() -> None:
    stages = example_terms().stages
    seen = Observation(10.0, 0.0, np.empty(0), {"first": StageSeen(ready=3), "second": StageSeen(ready=2)})
    needed, left = draining(stages, seen, {"first": 30, "second": 0}, 200.0, {}, 2.0, 1.0, 100.0)
    # 150/s pass: 30 + 50 x 2 wait in 2 s, and leave with 200/s that go on coming within a second: 330/s at 50/s each.
    assert needed["first"] == pytest.approx(330 / 50)
    # The second stage gets every other one, in batches of two at 50/s; 100/s of its own items fit, so 75/s pass.
    assert needed["second"] == pytest.approx(330 * 0.5 / 50)
    assert left


def test_a_rise_that_is_under_way_is_a_floor_for_when_replicas_are_ready() -> None:
    known = example_terms()
    stages = {name: StageSeen(ready=stage.replicas) for name, stage in known.stages.items()}
    # 100/s for 50 s, then 10/s more every second: 200/s now, 250/s in the five seconds of a start-up.
    rising = np.concatenate(
        [np.arange(0.0, 50.0, 0.01), 50.0 + 10.0 * (np.sqrt(1.0 + np.arange(1, 1500) / 500.0) - 1.0)]
    )
    seen = Observation(60.0, 0.0, rising[rising <= 60.0], stages)
    chosen, ready = Headway(known, drain=False), {name: StageSeen(ready=50) for name in stages}
    decision, memory = chosen.decide(seen, None)
    assert memory.floor == pytest.approx(2.5, abs=0.1)
    assert decision.replicas == chosen.provided(memory.floor)[1]
    assert decision.values["forecast_level"] == pytest.approx(memory.floor, abs=1e-3)
    assert Headway(known, forecast=False).decide(seen, None)[1].floor == 0.0
    # The floor stays until 15 s have brought no change, then goes with the rise.
    later = dataclasses.replace(steady(known, 2.0, 70.0), stages=ready)
    assert chosen.decide(later, memory)[1].floor == memory.floor
    assert chosen.decide(dataclasses.replace(later, now_s=76.0), memory)[1].floor == 0.0


def test_drift_counts_only_beyond_chance_and_tolerance() -> None:
    stage = example_terms().stages["second"]
    # Batches of 1.5 items take 35 ms as profiled.
    few, many = (StageSeen(ready=1, batches=n, items=3 * n // 2, busy_s=n * 0.0525) for n in (10, 400))
    assert service_ratio(stage, few) == 1.0
    assert service_ratio(stage, many) == pytest.approx(1.5)
    assert service_ratio(stage, StageSeen(ready=1)) == 1.0
    assert scale_ratio(stage, StageSeen(ready=1, arrived=2180), 4000) == 1.0
    assert scale_ratio(stage, StageSeen(ready=1, arrived=3000), 4000) == pytest.approx(1.5)


def test_slower_service_is_answered_with_replicas_and_named() -> None:
    known = example_terms()
    slow = StageSeen(ready=3, batches=1000, items=1000, busy_s=40.0, arrived=6000)
    decision, memory = Headway(known).decide(seen_with(steady(known), first=slow), None)
    assert memory.work == {"first": pytest.approx(2.0)}
    assert decision.replicas["first"] >= 6
    assert "first 2.00 times" in decision.text


def geared() -> Terms:
    known = example_terms()
    gears = tuple(
        Gear(f"{ratio:g}x", ratio,
             {n: dataclasses.replace(s, replicas=s.replicas + int(4 * ratio)) for n, s in known.stages.items()})
        for ratio in (1.5, 2.5)
    )  # fmt: skip
    return dataclasses.replace(known, gears=gears)


def test_the_gear_that_reaches_the_level_is_taken_and_left_again() -> None:
    known = geared()
    decision, memory = Headway(known, drain=False).decide(steady(known, 2.0), None)
    assert decision.gear == "2.5x"
    assert decision.replicas == {"first": 13, "second": 12}
    beyond, _ = Headway(known, drain=False).provided(5.0)
    assert beyond is not None
    assert beyond.name == "2.5x"
    calm = dataclasses.replace(
        steady(known, 1.0, 120.0), gear="2.5x", stages={n: StageSeen(ready=13) for n in known.stages}
    )
    back, _ = Headway(known, drain=False).decide(calm, memory)
    assert back.gear == PLAN
    assert back.replicas == {"first": 3, "second": 2}


def test_a_new_plan_is_asked_for_once_per_cause() -> None:
    known = example_terms()
    seen, chosen = steady(known, 1.5, 400.0), Headway(known, drain=False)
    held = {n: StageSeen(ready=r) for n, r in chosen.provided(1.5)[1].items()}
    memory = Memory(changed_s=390.0, level=1.5, off_s=90.0)
    seen = dataclasses.replace(seen, stages=held)
    decision, memory = chosen.decide(seen, memory)
    assert decision.replan is not None
    assert decision.replan.startswith("traffic: for 300 s")
    assert decision.code == "replan"
    assert chosen.decide(seen, memory)[0].replan is None


def test_supply_is_not_exceeded_and_its_end_is_named() -> None:
    known = example_terms()
    limited = dataclasses.replace(known.stages["first"], max_replicas=4)
    known = dataclasses.replace(known, stages={**known.stages, "first": limited})
    decision, _ = Headway(known).decide(steady(known, 3.0), None)
    assert decision.replicas["first"] == 4
    assert decision.replan is not None
    assert decision.replan.startswith("supply of first")


def test_an_unknown_tuner_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(HeadwayError, match="did you mean 'inferline'"):
        named("inferlin", example_terms())


def test_a_tuner_is_written_with_its_parameters() -> None:
    assert written("none") == ("none", {})
    assert written("autoscale, wait_s=60, by_items=no") == ("autoscale", {"wait_s": 60.0, "by_items": False})
    known = example_terms()
    assert named("headway,lull_s=30,forecast=no", known) == Headway(known, lull_s=30.0, forecast=False)
    for name in TUNERS:
        assert set(parameters(name).values()) <= {"float", "float | None", "bool"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("autoscale,unit=1", "it can be told wait_s, rate_window_s, unit_ratio, by_items"),
        ("autoscale,unit_ratio", "not WHAT=VALUE"),
        ("none,wait_s=1", "it has no parameters"),
        ("ds2,pause_s=-1", "pause_s is '-1'; it is a number, 0 or more"),
        ("ds2,pause_s=inf", "0 or more"),
        ("ds2,pause_s=soon", "0 or more"),
        ("autoscale,by_items=1", "by_items is '1'; it is yes or no"),
        ("autoscale,rate_window_s=0", "rate_window_s is 0.0; it is more than 0 s and at most 60 s"),
        ("autoscale,rate_window_s=90", "at most 60 s"),
        ("autoscale,unit_ratio=0", "unit_ratio is 0.0; it is at least 1"),
        ("ds2,interval_s=0", "interval_s is 0.0; it is more than 0 s and at most 60 s"),
        ("ds2,interval_s=61", "at most 60 s"),
        ("threshold,sync_s=0", "sync_s is 0.0; it is more than 0 s"),
        ("threshold,tolerance=1.5", "tolerance is 1.5; it is at least 0 and at most 1"),
        ("headway,drain_s=0", "drain_s is 0.0; it is more than 0 s"),
        ("", "tuner is ''"),
    ],
)
def test_a_parameter_that_a_tuner_does_not_know_is_refused(text: str, says: str) -> None:
    with pytest.raises(HeadwayError) as caught:
        named(text, example_terms())
    assert says in str(caught.value)


@pytest.mark.parametrize("name", TUNERS)
@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_every_number_of_every_tuner_is_finite_and_in_its_range(name: str, value: float) -> None:
    for what in (what for what, kind in parameters(name).items() if kind != "bool"):
        with pytest.raises(ValueError, match=f"^{what} is .*; it is "):
            TUNERS[name](example_terms(), **{what: value})


@pytest.mark.parametrize(("by_items", "counted"), [(False, "the rate needs"), (True, "the rate and the items")])
def test_autoscale_says_what_it_counted(by_items: bool, counted: str) -> None:
    known = example_terms()
    decision, _ = AutoScale(known, by_items=by_items).decide(steady(known, 3.0), None)
    assert counted in decision.text
    assert ("items" in decision.text) == by_items


def test_decisions_are_those_of_the_golden_file() -> None:
    """A spike of 60 s at 2.5 times the planned rate, as a person has read it through."""
    plan, planned_on = tiny_plan(), Trace.poisson(40.0, 300, seed=1)
    live = Trace.spike(40.0, 2.5, at_s=30.0, for_s=60.0, seconds=180.0, seed=4)
    about = terms(plan, planned_on)
    made = {}
    for name in ("headway", "inferline", "autoscale"):
        entries = simulate_tuner(plan, live, named(name, about), about, seed=4, mode="mean").entries
        made[name] = [f"{e.at_s:.2f} {dict(e.held)} -> {dict(e.decision.replicas)}: {e.decision.text}" for e in entries]
    text = json.dumps(made, indent=2) + "\n"
    assert text == (GOLDENS / "decisions.json").read_text(encoding="utf-8")
