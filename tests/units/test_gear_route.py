"""Hard items that pass over cheap steps: planned where it saves work, simulated as planned, refused where not known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.cascade_systems import random_station
from tests.units.cascade_family import profile, spec, table

from headway.cascade import ValidationTable
from headway.domains.cascade import DOMAIN
from headway.domains.cascade.gears import GearPlan, parse_gear_plan
from headway.domains.cascade.route import LEAST_SAVED, skips
from headway.errors import PlanError
from headway.plan.config import StageContext
from headway.policy.cascading import answers, first_step
from headway.sim.station import Arrivals


def with_hardness(known: ValidationTable, noise: float) -> ValidationTable:
    """Hardness that tells, less and less well, of which samples the small model is not certain."""
    rng = np.random.default_rng(0)
    hardness = -known.certainty["small"] + rng.normal(0, noise, known.samples)
    assert known.predicted is not None
    return ValidationTable(known.labels, dict(known.predicted), dict(known.certainty), hardness=hardness)


def plans(folder: Path, known: ValidationTable, **fields: Any) -> tuple[StageContext, list[GearPlan]]:
    known.write(folder / "validation.csv")
    declared = spec(folder, **fields)
    context = StageContext("cascade", declared.stages["cascade"], declared, profile("cascade"))
    return context, DOMAIN.planner(context, "gpu").plans(2)


def test_gears_skip_where_hardness_tells_and_do_the_same_with_less_work(tmp_path: Path) -> None:
    context, made = plans(tmp_path, with_hardness(table(), 0.02), hardness="size")
    routed = [plan for plan in made if any(gear.skip for gear in plan.gears)]
    assert routed
    plan = routed[0]
    plain = replace(plan, gears=tuple(replace(gear, skip=()) for gear in plan.gears))
    assert parse_gear_plan(plan.to_dict(), "s") == plan
    items = np.arange(2_000, dtype=np.int32)
    arrivals = Arrivals(np.cumsum(np.random.default_rng(1).exponential(1 / 150, items.size)), items, items)
    with_skips, without = (
        DOMAIN.station(context, each, sampled=False).run(arrivals, seed=1, record=False) for each in (plan, plain)
    )
    assert with_skips.busy_s < without.busy_s
    assert with_skips.accuracy is not None
    assert without.accuracy is not None
    assert with_skips.accuracy >= without.accuracy - 0.01


@pytest.mark.parametrize(("noise", "fields"), [(1e3, {"hardness": "size"}), (0.02, {}), (0.02, {"tolerance": "10%"})])
def test_nothing_is_skipped_where_hardness_tells_nothing_is_not_declared_or_what_is_certified_is_without(
    tmp_path: Path, noise: float, fields: dict[str, Any]
) -> None:
    fields = {"hardness": "size", **fields} if "tolerance" in fields else fields
    _, made = plans(tmp_path, with_hardness(table(), noise), **fields)
    assert [gear.skip for plan in made for gear in plan.gears if gear.skip] == []


def test_a_table_without_hardness_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"cascade\.hardness: the table .*validation\.csv does not say how hard"):
        plans(tmp_path, table(), hardness="size")
    context, made = plans(tmp_path, table())
    routed = replace(
        made[0], gears=tuple(replace(gear, skip=(0.5,)) for gear in made[0].gears if len(gear.cascade) > 1)
    )
    items = np.arange(5, dtype=np.int32)
    with pytest.raises(PlanError, match="the validation table does not say how hard its samples are"):
        DOMAIN.station(context, routed, sampled=False).run(Arrivals(items * 1.0, items, items), seed=1, record=False)


@pytest.mark.parametrize(
    ("skip", "words"),
    [((0.5, 0.9, 1.0), "fewer than steps"), ((0.9, 0.5), "do not fall"), (("hard",), "must be a number")],
)
def test_a_skip_that_cannot_be_is_refused(tmp_path: Path, skip: tuple[Any, ...], words: str) -> None:
    _, made = plans(tmp_path, table())
    value = next(plan for plan in made if any(len(gear.cascade) == 3 for gear in plan.gears)).to_dict()
    gear = next(gear for gear in value["gears"] if len(gear["steps"]) == 3)
    gear["skip"] = list(skip)
    with pytest.raises(PlanError, match=words):
        parse_gear_plan(value, "stages.s")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_skips_save_work_and_no_right_answer_on_the_samples_that_they_were_chosen_on(seed: int) -> None:
    rng = np.random.default_rng(seed)
    station = random_station(rng)
    known, cost_s = station.table, {name: float(rng.uniform(1, 20)) for name in station.plan.models}
    assert known.hardness is not None
    for gear in station.plan.gears:
        cascade = gear.cascade
        found = skips(cascade, known, cost_s)
        assert list(found) == sorted(found)
        assert len(found) < len(cascade)

        def run(skip: tuple[float, ...], cascade: Any = cascade) -> tuple[float, float]:
            work_s = credit = 0.0
            for sample, hardness in enumerate(known.hardness.tolist()):  # type: ignore[union-attr]
                for at in range(first_step(hardness, skip), len(cascade)):
                    name = cascade.models[at]
                    work_s += cost_s[name]
                    if answers(float(known.certainty[name][sample]), cascade.thresholds[at]):
                        credit += float(known.credit[name][sample])
                        break
            return work_s, credit

        before, after = run(()), run(found)
        assert after[1] >= before[1]
        if found:
            assert after[0] < before[0] * (1 - LEAST_SAVED)
