"""A device that is lost on the way: what holds for every run, and the promise where the plan says that it holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.cascade_systems import random_station
from tests.units.cascade_family import profile, spec

from headway.domains.cascade.choose import Judge
from headway.domains.cascade.family import Family
from headway.domains.cascade.loss import Loss, run_with_loss, without
from headway.domains.cascade.planner import GearPlanner
from headway.domains.cascade.station import CascadeStation
from headway.errors import PlanError
from headway.plan.config import StageContext
from headway.sim.station import Arrivals
from headway.trace import Trace


def losing(rng: np.random.Generator) -> tuple[CascadeStation, int]:
    """A station whose plan has gears for a lost device, and a group of which one can be lost."""
    station = random_station(rng)
    group = int(rng.integers(len(station.plan.placement)))
    left = {name for at, each in enumerate(station.plan.placement) if at != group for name in each.models}
    less = tuple(gear for gear in station.plan.gears if left.issuperset(gear.cascade.models))
    return dataclasses.replace(station, plan=dataclasses.replace(station.plan, gears_less_one=less)), group


def some_arrivals(rng: np.random.Generator, count: int = 60) -> Arrivals:
    items = np.arange(count, dtype=np.int32)
    return Arrivals(np.sort(rng.random(count)) * 4, items, items)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 6.0))
def test_every_item_leaves_once_and_nothing_changes_before_the_loss(seed: int, at_s: float) -> None:
    rng = np.random.default_rng(seed)
    station, group = losing(rng)
    arrivals = some_arrivals(rng)
    if not station.plan.gears_less_one:
        with pytest.raises(PlanError, match="no gears for one fewer"):
            run_with_loss(station, arrivals, Loss(at_s, group), seed=1)
        return
    left = run_with_loss(station, arrivals, Loss(at_s, group), seed=1)
    assert sorted(left.item.tolist()) == list(range(60))
    assert np.all(left.done_s >= arrivals.arrival_s[left.item])
    assert left.credit.size == 60
    never = station.run(arrivals, seed=1, record=False)
    before = {int(item): done for item, done in zip(never.item, never.done_s, strict=True) if done <= at_s}
    same = {int(item): done for item, done in zip(left.item, left.done_s, strict=True) if int(item) in before}
    assert same == before


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_loss_after_the_end_is_none_and_one_at_the_beginning_is_a_smaller_plan(seed: int) -> None:
    rng = np.random.default_rng(seed)
    station, group = losing(rng)
    if not station.plan.gears_less_one:
        return
    arrivals = some_arrivals(rng)
    late = run_with_loss(station, arrivals, Loss(1e6, group), seed=1)
    assert late.done_s.tolist() == station.run(arrivals, seed=1, record=False).done_s.tolist()
    early = run_with_loss(station, arrivals, Loss(0.0, group), seed=1)
    smaller = dataclasses.replace(station, plan=without(station.plan, group))
    assert early.done_s.tolist() == smaller.run(arrivals, seed=1, record=False).done_s.tolist()


@pytest.mark.parametrize("memory", [None, "350MB"])
def test_the_promise_holds_with_a_device_lost_where_the_plan_says_so(tmp_path: Path, memory: str | None) -> None:
    fields: dict[str, Any] = {} if memory is None else {"device_memory": memory}
    declared = spec(tmp_path, **fields)
    context = StageContext("cascade", declared.stages["cascade"], declared, profile("cascade"))
    family, latency_s = Family.of(context, "gpu"), 0.1
    checked = 0
    for plan in GearPlanner(family, latency_s).plans(4):
        if not plan.gears_less_one:
            continue
        rate = 0.9 * min(plan.gears_less_one[-1].up_to_per_s, plan.gears[-1].up_to_per_s)
        judge = Judge(family, Trace.poisson(rate, seconds=4.0, seed=1))
        for group in range(len(plan.placement)):
            assert judge.judge(plan, Loss(2.0, group)).latency_s <= latency_s, plan
            checked += 1
    assert checked > 20
