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

from headway.cascade import Cascade, Step, ValidationTable, loss_bound
from headway.domains.cascade import DOMAIN
from headway.domains.cascade.family import SELECTION
from headway.domains.cascade.gears import Gear, GearPlan, parse_gear_plan
from headway.domains.cascade.route import LEAST_SAVED, certified_skips, skips
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


@pytest.mark.parametrize(("noise", "fields"), [(1e3, {"hardness": "size"}), (0.02, {})])
def test_nothing_is_skipped_where_hardness_tells_nothing_or_is_not_declared(
    tmp_path: Path, noise: float, fields: dict[str, Any]
) -> None:
    _, made = plans(tmp_path, with_hardness(table(), noise), **fields)
    assert [gear.skip for plan in made for gear in plan.gears if gear.skip] == []


def lost(known: ValidationTable, rows: Any, gear: Gear, reference: str) -> Any:
    """What each of these samples loses by a gear against a model, found by asking step by step."""
    assert known.hardness is not None
    out = []
    for sample in rows.tolist():
        for at in range(first_step(float(known.hardness[sample]), gear.skip), len(gear.cascade)):
            name = gear.cascade.models[at]
            if answers(float(known.certainty[name][sample]), gear.cascade.thresholds[at]):
                out.append(known.credit[reference][sample] - known.credit[name][sample])
                break
    return np.array(out)


def test_under_a_tolerance_what_is_skipped_is_certified_with_it(tmp_path: Path) -> None:
    known = with_hardness(table(1_200), 0.02)
    _, made = plans(tmp_path, known, hardness="size", tolerance="8%")
    chosen, others = known.parts((SELECTION, 1 - SELECTION), seed=0)
    reference = max(known.models, key=known.take(chosen).accuracy)
    gears = {gear for plan in made for gear in (*plan.gears, *plan.gears_less_one)}
    assert any(gear.skip for gear in gears)
    for gear in gears:
        for each in (gear, replace(gear, skip=())):
            loss = lost(known, others, each, reference)
            # Half of what may go wrong is for cascades with skips, half for those without.
            assert loss_bound(int((loss > 0).sum()), int((loss < 0).sum()), loss.size, 0.975) <= 0.08


def test_a_skip_that_cannot_be_certified_is_left_out_and_costs_no_gear() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 2_000)
    hardness = rng.random(2_000)
    sure = np.where(hardness > 0.5, 0.1, 0.9) + 0.05 * rng.random(2_000)
    # The dear model is right where the cheap one hands on, on the samples that choose; on the others it never is.
    half = ValidationTable(labels, {"a": labels, "b": labels}, {"a": sure, "b": np.ones(2_000)}, hardness=hardness)
    other = ValidationTable(labels, {"a": labels, "b": 1 - labels}, {"a": sure, "b": np.ones(2_000)}, hardness=hardness)
    cascade = Cascade((Step("a", threshold=0.05), Step("b")))
    cost_s = {"a": 3.0, "b": 4.0}
    low = Cascade((Step("a", threshold=0.5), Step("b")))
    assert skips(low, half, cost_s) == pytest.approx((0.5,), abs=0.05)
    assert certified_skips([low], half, half, cost_s, "a", 0.05, 0.95) == {low: skips(low, half, cost_s)}
    assert certified_skips([low], half, other, cost_s, "a", 0.05, 0.95) == {}
    assert certified_skips([cascade], half, half, cost_s, "a", 0.05, 0.95) == {}


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
