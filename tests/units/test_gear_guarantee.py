"""What a plan of gears says of its accuracy: the bound it is certified to, or that it is an estimate, on how many."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tests.units import cascade_family
from tests.units.cascade_family import profile, spec

from headway.cascade import Cascade, Step, ValidationTable, certify, samples_needed
from headway.domains.cascade import DOMAIN, family
from headway.domains.cascade.baselines import restricted
from headway.domains.cascade.family import Family
from headway.domains.cascade.gears import Gear
from headway.domains.cascade.halves import judged_on
from headway.domains.cascade.objectives import most_accurate
from headway.domains.cascade.planner import GearPlanner
from headway.errors import PlanError
from headway.plan import Plan
from headway.plan.config import StageContext
from headway.plan.make import make
from headway.report.terminal import plan_view
from headway.trace import Trace

TOLERANCE = 0.08


def trace(seed: int = 1) -> Trace:
    return Trace.gamma(150.0, 2.0, seconds=6.0, seed=seed)


def family_of(folder: Path, among: int = 1, **fields: Any) -> Family:
    declared = spec(folder, **fields)
    context = StageContext("cascade", declared.stages["cascade"], declared, profile("cascade"))
    return Family.of(context, "gpu", among)


def test_a_plan_says_to_which_bound_it_is_certified_and_on_how_many_samples(tmp_path: Path) -> None:
    declared = spec(tmp_path, {"accuracy": 0.85}, tolerance=f"{100 * TOLERANCE:g}%")
    plan = make(declared, profile("cascade"), trace(), feasibility="trace", seed=1, explained=False)
    told = json.loads(plan.to_json())["stages"]["cascade"]["guarantee"]
    half = judged_on(cascade_family.table()).size
    assert set(told) == {"reference", "loss_bound", "confidence", "samples"}
    assert (told["reference"], told["confidence"], told["samples"]) == ("large", 0.95, half)
    assert -TOLERANCE < told["loss_bound"] <= TOLERANCE
    assert Plan.from_dict(json.loads(plan.to_json())).stages == plan.stages
    console = Console(width=160, file=io.StringIO())
    console.print(plan_view(plan))
    assert isinstance(console.file, io.StringIO)
    shown = " ".join(console.file.getvalue().split())
    assert f"{100 * told['loss_bound']:.3g} points of accuracy against large with 95% confidence" in shown
    assert f"certified on {half} samples" in shown
    assert [reason.values["evidence"] for reason in plan.reasons if reason.code == "evidence"] == ["certified"]


def test_the_bound_is_the_largest_of_its_gears(tmp_path: Path) -> None:
    known = family_of(tmp_path, tolerance="20%")
    choice = known.cascades(dict.fromkeys(("small", "medium", "large"), 4), max_steps=1)
    alone = Cascade((Step("large"),))
    gears = [Gear(cascade, 100.0 * (at + 1), (1,)) for at, cascade in enumerate(choice.certificates)]
    bounds = [choice.certificates[gear.cascade].loss_bound for gear in gears]
    whole, dearest = known.guarantee(gears, choice), known.guarantee([Gear(alone, 1.0, (1,))], choice)
    assert whole is not None
    assert dearest is not None
    assert (whole.loss_bound, whole.reference) == (max(bounds), "large")
    # Which model is the most accurate is not known, so the dearest may lose against another.
    assert (dearest.loss_bound, dearest.reference) == (choice.certificates[alone].loss_bound, "medium")
    passing_over = known.guarantee([replace(gears[0], skip=(0.5,))], choice)
    assert passing_over is not None
    assert passing_over.loss_bound == 0.2


def test_without_a_tolerance_it_is_an_estimate_on_so_many_samples(tmp_path: Path) -> None:
    plan = make(spec(tmp_path, {"accuracy": 0.85}), profile("cascade"), trace(), feasibility="trace", seed=1)
    (reason,) = (reason for reason in plan.reasons if reason.code == "evidence")
    assert "estimate on 300 samples" in reason.text
    assert "guarantee" not in plan.to_dict()["stages"]["cascade"]
    found = most_accurate(spec(tmp_path), profile("cascade"), trace(), 2)
    assert any("estimate on 300 samples" in reason.text for reason in found.reasons)


@pytest.mark.parametrize(("samples", "floor"), [(60, 0.85), (20, None)])
def test_an_accuracy_on_few_samples_is_doubted(tmp_path: Path, samples: int, floor: float | None) -> None:
    cascade_family.table(samples).write(tmp_path / "validation.csv")
    slo = {} if floor is None else {"accuracy": floor}
    plan = make(spec(tmp_path, slo), profile("cascade"), trace(), feasibility="trace", seed=1, explained=False)
    doubts = " ".join(plan.predicted["low_confidence"])
    assert f"an estimate on {judged_on(cascade_family.table(samples)).size} samples" in doubts
    assert (f"the same {samples} samples chose its gears" in doubts) == (samples < 40)
    assert ("is the floor" in doubts) == (floor is not None)


def test_an_accuracy_on_many_samples_is_not_doubted(tmp_path: Path) -> None:
    cascade_family.table(4000).write(tmp_path / "validation.csv")
    plan = make(spec(tmp_path), profile("cascade"), trace(), feasibility="trace", seed=1, explained=False)
    assert not any("estimate" in doubt for doubt in plan.predicted["low_confidence"])


@pytest.mark.parametrize("among", [1, 3])
@pytest.mark.parametrize("hardness", [False, True])
def test_all_that_is_certified_for_a_plan_holds_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hardness: bool, among: int
) -> None:
    """Each sequence of tests may err by its share of what is allowed: together, by no more than is declared."""
    risks: list[float] = []

    def recorded(*given: Any, confidence: float, **named: Any) -> Any:
        risks.append(1.0 - confidence)
        return certify(*given, confidence=confidence, **named)

    fields: dict[str, Any] = {"tolerance": "10%"}
    if hardness:
        table = cascade_family.table()
        hard = np.random.default_rng(0).random(table.samples)
        ValidationTable(table.labels, table.predicted, table.certainty, hardness=hard).write(
            tmp_path / "validation.csv"
        )
        fields["hardness"] = "size"
    monkeypatch.setattr(family, "certify", recorded)
    monkeypatch.setattr("headway.domains.cascade.route.certify", recorded)
    planner = GearPlanner(family_of(tmp_path, among, **fields), 0.1)
    for devices in (1, 2, 3):
        planner.plans(devices)
    assert len(risks) >= 2
    assert sum(risks) * among <= 0.05 + 1e-12
    assert len(set(risks)) == 1


def test_a_baseline_is_certified_with_what_it_is_compared_with(tmp_path: Path) -> None:
    plans = {name: make(2) for name, make in restricted(family_of(tmp_path, tolerance="10%"), 0.1, 0.85).items()}
    gears = set(plans.pop("gears"))
    for listed in plans.values():
        assert gears.issuperset(listed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"samples": 0}, r"guarantee\.samples: 0 must be"),
        ({"sampels": 3}, r"guarantee\.sampels: unknown; did you mean 'samples'"),
        ({"reference": 3}, r"guarantee\.reference: 3 is not text"),
        ({"loss_bound": "1%"}, r"guarantee\.loss_bound: '1%' must be a number"),
    ],
)
def test_a_guarantee_that_makes_no_sense_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    declared = spec(tmp_path, tolerance="10%")
    context = StageContext("cascade", declared.stages["cascade"], declared, profile("cascade"))
    fields = next(iter(DOMAIN.configs(context, 4.0))).to_dict()
    assert DOMAIN.parse_config(fields, "current.cascade").to_dict() == fields
    with pytest.raises(PlanError, match=said):
        DOMAIN.parse_config({**fields, "guarantee": {**fields["guarantee"], **change}}, "current.cascade")


def test_how_many_samples_the_whole_table_needs_is_said(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="samples like these are needed to certify") as refusal:
        family_of(tmp_path, tolerance="1%").cascades(dict.fromkeys(("small", "medium", "large"), 4))
    found = re.search(r"about ([\d,]+) samples .* table does: ([\d,]+) in all, where it has 600", str(refusal.value))
    assert found is not None
    half, whole = (int(number.replace(",", "")) for number in found.groups())
    assert whole == 2 * half


def test_where_more_is_lost_than_tolerated_samples_and_a_tolerance_that_would_do_are_said(tmp_path: Path) -> None:
    sizes = dict.fromkeys(("small", "medium", "large"), 4)
    with pytest.raises(PlanError) as refusal:
        family_of(tmp_path, tolerance="0.01%").cascades(sizes)
    said = str(refusal.value)
    assert "thresholds" not in said
    found = re.search(r"samples .*to certify, which half of the table does: ([\d,]+) in all, where it has 600", said)
    assert found is not None
    assert int(found.group(1).replace(",", "")) >= 2 * samples_needed(0.0001, 0.0)
    largest = re.search(r"a tolerance of ([\d.]+)% can be declared", said)
    assert largest is not None
    assert family_of(tmp_path, tolerance=f"{largest.group(1)}%").cascades(sizes).certificates
