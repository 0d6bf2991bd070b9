"""The planners of gears against brute force on small spaces, and the split of load against its dual."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.units.cascade_family import profile, spec

from headway.cascade import judge
from headway.domains.cascade.baselines import restricted
from headway.domains.cascade.family import Family, work_s
from headway.domains.cascade.gears import Gear, Group
from headway.domains.cascade.halves import chosen_on
from headway.domains.cascade.passes import FourPasses, NoGears, queue_lengths
from headway.domains.cascade.place import balance, model_sets, peak_utilization, placements
from headway.domains.cascade.planner import GearPlanner, ladder
from headway.domains.cascade.trial import Trial
from headway.domains.cascade.unserved import TooFew
from headway.plan.config import StageContext


@pytest.fixture
def family(tmp_path: Path) -> Family:
    return family_of(tmp_path)


def family_of(folder: Path, **fields: Any) -> Family:
    declared = spec(folder, **fields)
    return Family.of(StageContext("cascade", declared.stages["cascade"], declared, profile("cascade")), "gpu")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_program_splits_load_as_well_as_its_dual_allows(seed: int) -> None:
    """The least utilization of the busiest device is the most work of any set of models, over devices that hold any."""
    rng = np.random.default_rng(seed)
    names = [f"m{at}" for at in range(int(rng.integers(1, 5)))]
    groups = [
        Group(tuple(sorted(rng.choice(names, rng.integers(1, len(names) + 1), replace=False))), int(rng.integers(1, 4)))
        for _ in range(int(rng.integers(1, 4)))
    ]
    groups.append(Group(tuple(names), 1))
    rates = {name: float(rng.choice([0.0, 1.0, 5.0, 40.0])) for name in names}
    time_s = {name: float(rng.uniform(0.01, 1.0)) for name in names}
    u, split = balance(groups, rates, time_s)
    work = np.array([rates[name] * time_s[name] for name in names])
    assert u == pytest.approx(float(peak_utilization(groups, names, work)), abs=1e-6)
    for name, shares in split.items():
        assert sum(shares) == pytest.approx(1.0, abs=1e-6)
        assert all(share <= 1e-9 or name in group.models for share, group in zip(shares, groups, strict=True))
    for at, group in enumerate(groups):
        busy = sum(rates[name] * time_s[name] * shares[at] for name, shares in split.items())
        assert busy <= u * group.devices + 1e-6


def test_a_model_that_is_nowhere_cannot_be_served() -> None:
    assert peak_utilization([Group(("a",), 2)], ["a", "b"], np.array([1.0, 0.1])) == np.inf
    assert peak_utilization([Group(("a",), 2)], ["a", "b"], np.array([1.0, 0.0])) == 0.5


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_sets_of_models_fit_and_nothing_can_be_added(seed: int) -> None:
    rng = np.random.default_rng(seed)
    memory_mb = {f"m{at}": float(rng.integers(1, 9)) for at in range(5)}
    for chosen in (sets := model_sets(memory_mb, 9.0)):
        free = 9.0 - sum(memory_mb[name] for name in chosen)
        assert free >= 0
        assert all(memory_mb[name] > free for name in memory_mb if name not in chosen)
    assert {name for chosen in sets for name in chosen} == set(memory_mb)
    for groups in itertools.islice(placements(sets, 7), 50):
        assert sum(group.devices for group in groups) == 7


def test_many_devices_are_still_all_placed() -> None:
    sets = [("a",), ("b",), ("c",), ("d",), ("e",)]
    listed = list(placements(sets, 61))
    assert 1 < len(listed) <= 3000
    assert all(sum(group.devices for group in groups) == 61 for groups in listed)


def test_every_range_is_served_by_the_most_accurate_cascade_that_can() -> None:
    rng = np.random.default_rng(1)
    accuracy, rates = rng.random(40), rng.uniform(1, 130, 40)
    rows = ladder(accuracy, rates, 100.0)
    assert list(rates[rows]) == sorted(rates[rows])
    for upper in 100 * np.arange(1, 13) / 12:
        serving = next((row for row in rows if rates[row] >= upper), None)
        able = np.flatnonzero(rates >= upper)
        assert (serving is None) == (able.size == 0)
        if serving is not None:
            assert accuracy[serving] <= accuracy[able].max()


def test_gears_serve_as_much_as_they_say(family: Family) -> None:
    planner = GearPlanner(family, 0.1)
    table = family.table.take(chosen_on(family.table))
    for plan in planner.plans(2):
        sizes = dict(plan.max_batch_size)
        cost_s = family.cost_s(sizes)
        for gear in plan.gears:
            work = work_s(judge(table, [gear.cascade], cost_s), tuple(sizes), cost_s)
            busy = peak_utilization(plan.placement, tuple(sizes), gear.up_to_per_s * work[0])
            assert float(busy) == pytest.approx(gear.utilization)
            assert gear.latency_s is not None
            assert gear.latency_s <= 0.1
        assert plan.gears[-1].up_to_per_s >= family.max_rate_per_s
        accuracies = [gear.accuracy for gear in plan.gears if gear.accuracy is not None]
        assert accuracies == sorted(accuracies, reverse=True)


@pytest.mark.parametrize("fields", [{}, {"device_memory": "350MB"}])
@pytest.mark.parametrize("accuracy", [None, 0.85])
def test_every_plan_of_a_baseline_is_one_of_gears(
    tmp_path: Path, fields: dict[str, Any], accuracy: float | None
) -> None:
    """So gears never need more devices than one model, switching models or one cascade for all loads."""
    plans = {name: make(3) for name, make in restricted(family_of(tmp_path, **fields), 0.1, accuracy, 600.0).items()}
    gears = set(plans.pop("gears"))
    assert all(plans.values())
    for listed in plans.values():
        assert gears.issuperset(listed)


def test_what_must_be_carried_may_be_less_than_what_gears_are_made_for(tmp_path: Path) -> None:
    family = family_of(tmp_path, max_rate="700/s")
    with pytest.raises(TooFew):
        GearPlanner(family_of(tmp_path, max_rate="2000/s"), 0.1).plans(1)
    plans = GearPlanner(family, 0.1, up_to_per_s=2000.0).plans(1)
    assert plans
    assert all(plan.gears[-1].up_to_per_s >= 700.0 for plan in plans)
    assert any(len(plan.gears) > 1 for plan in plans)


def test_gears_with_a_device_less_serve_no_more(family: Family) -> None:
    for plan in GearPlanner(family, 0.1).plans(3):
        whole = {str(gear.cascade): gear.up_to_per_s for gear in plan.gears}
        assert plan.gears_less_one
        for gear in plan.gears_less_one:
            assert gear.up_to_per_s <= whole.get(str(gear.cascade), np.inf)


def test_too_few_devices_are_named_with_what_they_cannot_serve(tmp_path: Path) -> None:
    with pytest.raises(TooFew) as caught:
        GearPlanner(family_of(tmp_path, max_rate="9000/s"), 0.1).plans(1)
    assert caught.value.unserved.to_per_s == 9000
    assert 0 < caught.value.unserved.from_per_s < 9000
    assert caught.value.unserved.model == "small"


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("latency_s", [0.03, 0.2])
def test_four_passes_are_feasible_and_no_better_than_trying_everything(
    family: Family, devices: int, latency_s: float
) -> None:
    passes = FourPasses(family, devices, latency_s=latency_s, ranges=3)
    try:
        plan = passes.run()
    except NoGears:
        plan = None
    trial = Trial(family, passes.sizes, (Group(passes.models, devices),))
    best = [exhaustive(passes, trial, upper, latency_s, devices) for upper in passes.upper_per_s.tolist()]
    if plan is None:
        assert None in best
        return
    for gear, most in zip(plan.gears, best, strict=True):
        assert trial.p95_s(bare(gear)) <= latency_s
        assert gear.utilization is not None
        assert gear.utilization <= 1 + 1e-9
        assert most is not None
        assert gear.accuracy is not None
        assert gear.accuracy <= most + 1e-12


def bare(gear: Gear) -> Gear:
    return dataclasses.replace(gear, accuracy=None, latency_s=None, utilization=None, load_split=())


def exhaustive(passes: FourPasses, trial: Trial, upper: float, latency_s: float, devices: int) -> float | None:
    """The most accurate cascade that keeps the latency in one range with any queue, when all models are everywhere."""
    found = None
    for row in range(len(passes.judged)):
        cascade = passes.judged.cascade(row)
        reaching = dict(zip(cascade.models, passes.judged.reaching[row], strict=False))
        if sum(upper * share * passes.time_s[name] for name, share in reaching.items()) > devices * (1 + 1e-9):
            continue
        for queued in queue_lengths(passes.sizes[cascade.models[0]]):
            wait_s = 0.25 * latency_s if queued > 1 else 0.0
            gear = Gear(cascade, upper, (queued, *[1] * (len(cascade) - 1)), wait_s)
            if trial.p95_s(gear) <= latency_s:
                found = max(found or 0.0, float(passes.judged.accuracy[row]))
    return found


def test_four_passes_reach_a_floor_or_say_how_far_they_come(family: Family) -> None:
    plan = FourPasses(family, 3, accuracy=0.9, ranges=4).run()
    weight = (1 / np.arange(1, 5)) / (1 / np.arange(1, 5)).sum()
    assert float(np.array([gear.accuracy for gear in plan.gears]) @ weight) >= 0.9
    with pytest.raises(NoGears, match="is the most that it allows"):
        FourPasses(family, 3, accuracy=0.999, ranges=4).run()
    with pytest.raises(NoGears, match=r"range up to .* fails with model"):
        FourPasses(family, 1, latency_s=0.0001, ranges=4).run()


def test_four_passes_take_models_off_devices_that_are_too_full(tmp_path: Path) -> None:
    family = family_of(tmp_path, device_memory="350MB")
    passes = FourPasses(family, 4, latency_s=0.2, ranges=3)
    plan = passes.run()
    assert family.memory_mb is not None
    for group in plan.placement:
        assert sum(family.memory_mb[name] for name in group.models) <= 350.0
    assert sum(group.devices for group in plan.placement) == 4
    assert [entry.step for entry in passes.log[-4:]] == ["search", "assign", "place", "batch"] or any(
        entry.fault is not None for entry in passes.log
    )
