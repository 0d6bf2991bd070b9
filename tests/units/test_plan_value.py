"""The plan as a value and as a file: whole, self-contained, and refused when it is not one.

After a wanted change of the file: `UPDATE_GOLDENS=1 pytest tests/units/test_plan_value.py`, then read the diff.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headway.domains.pipeline.declare import ReplicaConfig
from headway.errors import PlanError
from headway.plan import Plan
from headway.plan.make import make
from headway.plan.plan import PREDICTED
from headway.profile import Profile, Row
from headway.sim.simulation import simulate
from headway.testing.examples import tiny_plan, tiny_profile, tiny_spec
from headway.trace import Trace

GOLDEN = Path(__file__).resolve().parent.parent / "goldens" / "plan" / "tiny.json"


@pytest.fixture(scope="module")
def trace() -> Trace:
    """Forty seconds: a request every 1/32 s, and bursts of six every five seconds. Exact on every machine."""
    bursts = np.repeat(np.arange(8) * 5.0, 6)
    return Trace.from_arrivals(np.sort(np.concatenate([np.arange(1280) / 32, bursts])), duration_s=40.0, name="even")


@pytest.fixture(scope="module")
def plan(trace: Trace) -> Plan:
    return make(tiny_spec(), tiny_profile(), trace, seed=1)


def test_the_tiny_plan_reads_as_it_did(plan: Plan) -> None:
    text = json.dumps(plan.to_dict(), indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_GOLDENS"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_it_comes_back_from_its_file_byte_for_byte(plan: Plan, tmp_path: Path) -> None:
    plan.write(tmp_path / "plan.json")
    again = Plan.read(tmp_path / "plan.json")
    assert again.to_json() == plan.to_json()
    assert again.hash == plan.hash
    assert Plan.from_dict(json.loads(GOLDEN.read_text())).to_dict() == json.loads(GOLDEN.read_text())


def test_it_carries_all_that_a_simulation_needs(plan: Plan, trace: Trace, tmp_path: Path) -> None:
    plan.write(tmp_path / "plan.json")
    again = Plan.read(tmp_path / "plan.json")
    before, after = simulate(plan, trace, seed=2), simulate(again, trace, seed=2)
    np.testing.assert_array_equal(before.latency_s, after.latency_s)
    whole = Plan(tiny_spec(), tiny_profile(), plan.stages)
    np.testing.assert_array_equal(before.latency_s, simulate(whole, trace, seed=2).latency_s)


def test_it_embeds_only_the_rows_that_it_uses(trace: Trace) -> None:
    rows = [*tiny_profile().rows, Row("first", "gpu", 1, 0.015), Row("third", "cpu", 1, 0.015)]
    value = tiny_spec().to_dict()
    value["supply"]["gpu"] = {"price": "$9/h"}
    found = make(type(tiny_spec()).from_dict(value), Profile.from_rows(rows), trace, feasibility="trace")
    assert {(row.stage, row.hardware) for row in found.profile.rows} == {("first", "cpu"), ("second", "cpu")}


def test_it_holds_what_the_format_promises(plan: Plan) -> None:
    value = plan.to_dict()
    assert value["schema"] == "headway.plan/1"
    assert set(value["predicted"]) >= {"p50_s", "p95_s", "p99_s", "miss_rate", "miss_rate_p97", "worst_5m_p99_s"}
    for fields in value["stages"].values():
        of_every_stage = set(PREDICTED) - {"figures", "cascade", "rejected"}
        assert set(fields) >= {"variant", "hardware", "replicas", "max_batch_size", "max_wait_s", *of_every_stage}
    assert {reason["code"] for reason in value["reasons"]} >= {"optimal", "headroom", "judged"}
    assert value["envelope"][-1]["window_s"] == 60.0
    assert value["provenance"]["plan_hash"] == plan.hash
    assert not {"time", "date", "timestamp", "created"} & set(value["provenance"])


def test_the_hash_is_of_what_would_be_deployed(plan: Plan) -> None:
    bare = Plan(plan.spec, plan.profile, plan.stages)
    assert bare.hash == plan.hash
    first = plan.stages["first"]
    assert isinstance(first, ReplicaConfig)
    more = {**plan.stages, "first": ReplicaConfig("cpu", first.replicas + 1, first.max_batch_size)}
    assert Plan(plan.spec, plan.profile, more).hash != plan.hash


def test_it_is_hashable_and_equal_to_what_is_read_back(plan: Plan) -> None:
    again = Plan.from_dict(json.loads(plan.to_json()))
    assert again == plan
    assert len({plan, again, tiny_plan()}) == 2
    assert len({plan.spec, again.spec}) == 1
    assert plan != plan.to_dict()


def test_it_can_be_printed_and_shown(plan: Plan) -> None:
    lines = str(plan).splitlines()
    assert lines[0].startswith("tiny: ")
    assert len(lines) == 2 + len(plan.stages)
    assert repr(plan).startswith("Plan('tiny', 2 stages, ")
    assert plan._repr_html_().startswith("<div")


def test_money_is_written_without_noise() -> None:
    stages = {name: ReplicaConfig("cpu", replicas=count) for name, count in (("first", 1), ("second", 2))}
    bare = Plan(tiny_spec(), tiny_profile(), stages)
    assert '"cost_usd_per_hour": 0.6,' in bare.to_json()


@pytest.mark.parametrize("change", [("profile", []), ("spec", "x"), ("reasons", ["x"]), ("stages", {"first": 3})])
def test_no_sentence_about_a_plan_is_pythons(plan: Plan, change: tuple[str, Any]) -> None:
    with pytest.raises(PlanError, match=f"not a complete plan: {change[0]}.* must be") as caught:
        Plan.from_dict({**plan.to_dict(), change[0]: change[1]})
    assert "object has no" not in str(caught.value)


def without(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        for key in path[:-1]:
            value = value[key]
        del value[path[-1]]

    return change


def replaced(new: Any, *path: str) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        for key in path[:-1]:
            value = value[key]
        value[path[-1]] = new

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replaced("headway.plan/2", "schema"), ["headway.plan/2", "headway.plan/1"]),
        (without("schema"), ["None", "headway.plan/1"]),
        (without("spec"), ["spec"]),
        (without("profile"), ["profile"]),
        (without("stages"), ["stages"]),
        (without("stages", "second"), ["second"]),
        (replaced({"hardware": "cpu"}, "stages", "third"), ["third", "stage"]),
        (replaced("tpu", "stages", "first", "hardwear"), ["stages.first", "hardwear", "hardware"]),
        (replaced(0, "stages", "first", "replicas"), ["stages.first.replicas"]),
        (replaced(-1.0, "stages", "first", "max_wait_s"), ["stages.first.max_wait_s"]),
        (replaced([], "stages"), ["plan"]),
        (replaced({}, "spec"), ["slo"]),
        (replaced({"rows": [{"stage": "first"}]}, "profile"), ["profile"]),
        (replaced([{"text": "no code"}], "reasons"), ["code"]),
        (replaced(7, "provenance"), ["plan"]),
    ],
)
def test_what_is_not_a_plan_is_refused_in_one_clear_error(
    plan: Plan, tmp_path: Path, change: Callable[[dict[str, Any]], None], words: list[str]
) -> None:
    value = copy.deepcopy(json.loads(plan.to_json()))
    change(value)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(value))
    with pytest.raises(PlanError) as caught:
        Plan.read(path)
    assert str(path) in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "\xff"])
def test_what_is_not_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(PlanError, match=r"plan\.json"):
        Plan.read(path)
    with pytest.raises(PlanError, match="cannot read"):
        Plan.read(tmp_path / "absent.json")


def test_stages_must_be_the_specs() -> None:
    with pytest.raises(PlanError, match="do not match"):
        Plan(tiny_spec(), tiny_profile(), {"first": ReplicaConfig("cpu")})


def test_the_gap_is_relative_to_the_cost() -> None:
    bare = tiny_plan()
    assert bare.gap_ratio is None
    half = Plan(bare.spec, bare.profile, bare.stages, lower_bound_usd_per_hour=bare.cost_usd_per_hour / 2)
    assert half.gap_ratio == pytest.approx(0.5)
    proven = Plan(bare.spec, bare.profile, bare.stages, lower_bound_usd_per_hour=bare.cost_usd_per_hour)
    assert proven.gap_ratio == 0.0
