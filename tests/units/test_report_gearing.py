"""Gears of a plan and what was made of them: rows, phrases, and the sections of the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.units.test_report_html import PLAN as WITHOUT
from tests.units.well_formed import checked

from headway.plan.plan import Plan
from headway.report import gearing_sections
from headway.report.gearing import certified, exits, gear_facts, gear_rows, gearings, held, use_facts, use_rows
from headway.report.html import render
from headway.report.story import Story, story_from_files

GOLDENS = Path(__file__).parent.parent / "goldens" / "report"
PLAN = Plan.read(GOLDENS / "gears_plan.json")


def load(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((GOLDENS / f"gears_{name}.json").read_text(encoding="utf-8"))
    return value


def words_of(story: Story) -> str:
    return " ".join(checked(render(story)).words)


def used(**changes: Any) -> dict[str, Any]:
    return {**load("predicted")["stages"]["cascade"]["cascade"], **changes}


def test_ranges_of_gears_meet_and_shares_are_whole() -> None:
    (gearing,) = gearings(PLAN)
    ranges = gearing.ranges_per_s
    assert ranges[0][0] == 0.0
    assert [high for _, high in ranges[:-1]] == [low for low, _ in ranges[1:]]
    assert len(gear_rows(gearing)) == len(gearing.gears) == len(gearing.names)
    assert sum(held(used()).values()) == pytest.approx(1.0)
    assert sum(exits(used()).values()) == pytest.approx(1.0)
    assert sum(int(row[1].replace(",", "")) for row in use_rows(used())) == sum(used()["exits"].values())


def test_what_is_not_known_is_a_dash_and_never_zero() -> None:
    nothing = used(gears=[], exits={}, accuracy=None)
    assert held(nothing) == {}
    assert exits(nothing) == {}
    assert dict(use_facts(nothing)) == {"gears": "—; 75 changes", "answered by": "—"}
    assert use_facts(None) == []
    (gearing,) = gearings(PLAN)
    bare = [{**gear, "accuracy": None, "latency_s": None, "utilization": None} for gear in gearing.gears]
    rows = gear_rows(replace(gearing, fields={**gearing.fields, "gears": bare}, used={}))
    assert {cell for row in rows for cell in row[4:]} == {"—"}


def test_a_lost_device_and_passed_over_steps_are_told_apart() -> None:
    gears = [{"gear": 0, "less_one": False, "held_s": 3.0}, {"gear": 0, "less_one": True, "held_s": 1.0}]
    facts = dict(use_facts(used(gears=gears, skipped=2)))
    assert facts["gears"] == "1 75%, with a device lost: 1 25%; 75 changes"
    assert facts["passed over"] == "the first step, for 2 hard items"
    (gearing,) = gearings(PLAN)
    skipping = [{**gearing.gears[0], "skip": [0.7]}, *gearing.gears[1:]]
    (row, *_) = gear_rows(replace(gearing, fields={**gearing.fields, "gears": skipping}))
    assert row[2].endswith("large, from hardness 0.7 not small")


def test_facts_say_what_is_certified_and_what_a_lost_device_does() -> None:
    (gearing,) = gearings(PLAN)
    guarantee = {"reference": "large", "loss_bound": 0.012, "confidence": 0.95, "samples": 4000}
    more = {**gearing.fields, "devices": 3, "guarantee": guarantee, "gears_less_one": gearing.gears[:2]}
    facts = dict(gear_facts(replace(gearing, fields=more)))
    assert facts["certified"] == certified(guarantee)
    assert "4,000 samples" in facts["certified"]
    assert facts["a device lost"] == "2 gears up to 237/s"
    assert "no tolerance is declared" in dict(gear_facts(gearing))["certified"]


def test_the_report_shows_gears_as_planned_predicted_and_measured() -> None:
    files = [GOLDENS / "gears_predicted.json", GOLDENS / "gears_measured.json"]
    said = words_of(story_from_files(GOLDENS / "gears_plan.json", files))
    for phrase in ("Gears", "Gears in use", "gear in force, predicted: 75 changes", "gear in force, measured: ",
                   "Right answers: 90.9% predicted, ", "Who answered, measured",
                   "small ≥ 0.432 → medium ≥ 0.203 → large",
                   "Accuracy measured", "time in gear", "answers by"):  # fmt: skip
        assert phrase in said, phrase


def test_a_plan_alone_shows_its_gears_and_other_plans_none() -> None:
    said = words_of(Story("Answers", PLAN))
    assert "Gears" in said
    assert "Accuracy predicted" in said
    assert "Gears in use" not in said
    assert gearing_sections.planned(Story("Pages", WITHOUT)) is None
    assert gearing_sections.used(Story("Pages", WITHOUT, predicted=load("predicted"))) is None


def test_changes_beyond_those_told_are_said_to_be_left_out() -> None:
    outcome = load("predicted")
    stage = outcome["stages"]["cascade"]
    stage["cascade"]["switches"] = 5000
    assert "predicted: 5,000 changes, the first 1,000 shown" in words_of(Story("Answers", PLAN, predicted=outcome))
    del stage["gear_history"]
    assert "gear in force" not in words_of(Story("Answers", PLAN, predicted=outcome))
