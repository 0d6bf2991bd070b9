"""Which gear plan is chosen for which wish, and what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.units.cascade_family import profile, spec

from headway.cascade import Cascade, Step
from headway.domains.cascade.baselines import restricted
from headway.domains.cascade.choose import Judge, Judgment, best, fewest
from headway.domains.cascade.family import Family
from headway.domains.cascade.gears import Gear, GearPlan, Group
from headway.domains.cascade.unserved import TooFew, Unserved
from headway.errors import PlanError
from headway.plan.config import StageContext
from headway.trace import Trace


def some(devices: int = 1) -> GearPlan:
    gear = Gear(Cascade((Step("small"),)), 9.0, (1,))
    return GearPlan("gpu", (Group(("small",), devices),), (("small", 4),), (gear,))


QUICK, RIGHT, BOTH = (Judgment(some(), *figures) for figures in ((0.80, 0.02), (0.95, 0.30), (0.90, 0.10)))


def test_each_wish_has_its_best() -> None:
    listed = [QUICK, RIGHT, BOTH]
    assert best(listed, latency_s=0.2) is BOTH
    assert best(listed, latency_s=1.0) is RIGHT
    assert best(listed, accuracy=0.85) is BOTH
    assert best(listed, accuracy=0.70) is QUICK
    assert best(listed, latency_s=0.2, accuracy=0.85) is BOTH
    assert best(listed, latency_s=0.2, accuracy=0.94) is None
    with pytest.raises(PlanError, match="at least one"):
        best(listed)


@pytest.mark.parametrize("needed", [1, 2, 3, 7, 8, 100])
def test_bisection_finds_the_fewest_devices(needed: int) -> None:
    class Known(Judge):
        def __init__(self) -> None:
            pass

        def judge(self, plan: GearPlan) -> Judgment:
            return Judgment(plan, 0.9, 0.1 if plan.devices >= needed else 0.9)

    def plans(devices: int) -> Sequence[GearPlan]:
        if devices < needed // 2:
            raise TooFew("stages.x", devices, Unserved(1.0, 2.0, "small"))
        return [some(devices)]

    found = fewest(plans, Known(), latency_s=0.2, accuracy=0.8)
    assert found is not None
    assert found.plan.devices == needed
    assert fewest(plans, Known(), latency_s=0.2, accuracy=0.99) is None


def test_baselines_are_the_same_space_with_something_taken_away(tmp_path: Path) -> None:
    declared = spec(tmp_path)
    context = StageContext("cascade", declared.stages["cascade"], declared, profile("cascade"))
    family = Family.of(context, "gpu")
    plans = {name: make(2) for name, make in restricted(family, 0.1, 0.85).items()}
    assert all(len(plan.gears) == 1 and len(plan.gears[0].cascade) == 1 for plan in plans["static-model"])
    assert all(len(gear.cascade) == 1 for plan in plans["switching"] for gear in plan.gears)
    assert any(len(plan.gears) > 1 for plan in plans["switching"])
    assert all(len(plan.gears) == 1 for plan in plans["static-cascade"])
    assert any(len(plan.gears[0].cascade) > 1 for plan in plans["static-cascade"])
    assert any(len(plan.gears) > 1 and len(plan.gears[0].cascade) > 1 for plan in plans["gears"])
    judge = Judge(family, Trace.poisson(150.0, seconds=4.0, seed=1))
    gears = best(map(judge.judge, plans["gears"]), latency_s=0.1)
    switching = best(map(judge.judge, plans["switching"]), latency_s=0.1)
    assert gears is not None
    assert switching is not None
    assert gears.accuracy >= switching.accuracy
