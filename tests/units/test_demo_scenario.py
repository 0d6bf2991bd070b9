"""What the demo of a cascade tells beside its gears, on a family whose times and answers are given."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.units import cascade_family

from headway.cascade import Cascade, Step
from headway.demo.cascade import scenario
from headway.demo.cascade.scenario import CLASSES_OF, DEAREST, HARDWARE, STAGE
from headway.domains.cascade.gears import Gear, GearPlan, Group
from headway.plan.plan import Plan
from headway.trace import Trace


def plan_of(names: tuple[str, ...], folder: Path) -> Plan:
    """A plan of one gear on one device that holds these models and asks the first."""
    profile = cascade_family.profile(STAGE, HARDWARE)
    cascade_family.table().write(folder / "validation.csv")
    files = {name: folder / f"{name}.npz" for name in CLASSES_OF}
    spec = scenario.declared(files, folder, 1, scenario.Rates(20.0, 60.0, 140.0), 0.15)
    gear = Gear(Cascade((Step(names[0]),)), 140.0, (1,))
    gears = GearPlan(HARDWARE, (Group(names, 1),), tuple((name, 2) for name in names), (gear,))
    return Plan(scenario.with_floor(spec, 0.75), profile, {STAGE: gears})


@pytest.mark.parametrize("held", [("small",), ("medium",), ("small", "medium", "large")])
def test_every_model_of_the_family_is_told_whichever_the_gears_ask(held: tuple[str, ...], tmp_path: Path) -> None:
    plan = plan_of(held, tmp_path)
    others = scenario.alternatives(plan, Trace.poisson(rate=140.0, seconds=4.0, seed=1), seed=0)
    enough, *alone = others
    assert enough.startswith(f"{DEAREST} alone, ")
    assert alone == [f"{name} alone" for name in reversed(CLASSES_OF)]
    assert others["small alone"]["feasible"]
    assert others["small alone"]["accuracy"] < others["medium alone"]["accuracy"] < others["large alone"]["accuracy"]
    # The dearest model asks more of one device than there is; more of them keep the promise.
    assert others["large alone"]["miss_rate"] > 0.5 > 0.05 >= others[enough]["miss_rate"]
    assert others[enough]["cost_usd_per_hour"] > others["large alone"]["cost_usd_per_hour"]


def test_the_dearest_model_is_the_last_of_the_family() -> None:
    assert list(CLASSES_OF)[-1] == DEAREST
