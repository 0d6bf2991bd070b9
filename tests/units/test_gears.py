"""Gears: made beforehand, kept in a file, and told from what a server runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headway.errors import PlanError
from headway.plan.plan import Plan
from headway.policy.drift import service_ratio
from headway.policy.scaling import Decision, Gear, StageSeen, Terms
from headway.testing.examples import tiny_plan
from headway.trace import Trace
from headway.tune import gears as gears_of
from headway.tune.gears import make_gears, prepared, read, running_gear, to_dicts
from headway.tune.simulated import Simulated
from headway.tune.terms import terms

WIDER = {"name": "2x", "rate_ratio": 2.0, "cost_usd_per_hour": 1.0, "stages": {"first": {"max_batch_size": 2}}}


def written(path: Path, *gears: dict[str, Any], **head: Any) -> Path:
    value = {"schema": "headway.gears/1", "plan_hash": tiny_plan().hash, "gears": list(gears), **head}
    path.write_text(json.dumps(value))
    return path


def test_gears_are_made_once_and_read_from_their_file_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, trace, path = tiny_plan(), Trace.poisson(rate=20, seconds=60, seed=1), tmp_path / "gears.json"

    def two(plan: Plan, trace: Trace, *, progress: Any) -> tuple[Gear, ...]:
        return make_gears(plan, trace, (2.0, 3.0), budget=20, progress=progress)

    monkeypatch.setattr(gears_of, "make_gears", two)
    made = prepared(path, plan, trace)
    assert [gear.name for gear in made] == ["2x", "3x"]
    assert json.loads(path.read_text())["trace_hash"] == trace.hash
    assert prepared(path, plan, trace) == made
    # Without the trace, how many items a request brings is drawn anew; what is changed to is the same.
    assert to_dicts(prepared(path, plan)) == to_dicts(made)


def test_without_the_file_the_trace_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"gears\.json: there is no such file of gears; give the trace"):
        prepared(tmp_path / "gears.json", tiny_plan())


def test_gears_stand_in_rising_order_with_the_capacity_of_their_batches(tmp_path: Path) -> None:
    least = {**WIDER, "name": "1.5x", "rate_ratio": 1.5, "stages": {"second": {"replicas": 3}}}
    half, twice = read(written(tmp_path / "gears.json", WIDER, least), tiny_plan())
    assert (half.name, half.stages["second"].replicas, half.stages["first"].max_batch_size) == ("1.5x", 3, 4)
    assert (twice.name, twice.stages["first"].max_batch_size) == ("2x", 2)
    # Dollars are those of the plan's own price list: five and four replicas.
    assert [half.cost_usd_per_hour, twice.cost_usd_per_hour] == pytest.approx([1.0, 0.8])


@pytest.mark.parametrize(
    ("gear", "head", "says"),
    [
        ({}, {"schema": "headway.gears/9"}, "schema is 'headway.gears/9'; this version reads 'headway.gears/1'"),
        ({}, {"plan_hash": "0123"}, "these gears are of plan 0123, not of "),
        ({"rate_ratio": 1.0}, {}, "gear '2x': rate_ratio is 1; it must be above 1"),
        ({"stages": {"frist": {}}}, {}, "'frist' is not a stage of the plan; did you mean 'first'?"),
        ({"stages": {"first": {"hardware": "gpu"}}}, {}, "gear '2x': first changes hardware, which cannot change"),
        ({"stages": {"first": {"max_batch_size": 0}}}, {}, "first"),
        ({"stages": []}, {}, "a gear needs a name, a rate_ratio and stages"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_its_name(
    tmp_path: Path, gear: dict[str, Any], head: dict[str, Any], says: str
) -> None:
    with pytest.raises(PlanError) as refused:
        read(written(tmp_path / "gears.json", {**WIDER, **gear}, **head), tiny_plan())
    assert str(refused.value).startswith(f"{tmp_path / 'gears.json'}: ")
    assert says in str(refused.value)


def test_the_gear_that_a_server_runs_is_known_by_its_batches(tmp_path: Path) -> None:
    plan = tiny_plan()
    same = {**WIDER, "name": "1.2x", "rate_ratio": 1.2, "stages": {"first": {"replicas": 3}}}
    gears = read(written(tmp_path / "gears.json", same, WIDER), plan)
    about: Terms = replace(terms(plan, Trace.poisson(rate=20, seconds=60, seed=1)), gears=gears)

    def live(**first: Any) -> Plan:
        return replace(plan, stages={**plan.stages, "first": replace(plan.stages["first"], **first)})  # type: ignore[type-var]

    assert running_gear(plan, live(replicas=7), about) is None
    assert running_gear(plan, live(replicas=7), about, likely="1.2x") == "1.2x"
    assert running_gear(plan, live(max_batch_size=2), about, likely="1.2x") == "2x"
    with pytest.raises(PlanError, match="stage 'first' has another max_batch_size there"):
        running_gear(plan, live(max_batch_size=3), about)


def test_batches_of_another_gear_are_not_held_against_this_one(tmp_path: Path) -> None:
    single = {**WIDER, "stages": {"first": {"max_batch_size": 1, "replicas": 6}}}
    plan, trace = tiny_plan(), Trace.poisson(rate=120, seconds=40, seed=1)
    gears = read(written(tmp_path / "gears.json", single), plan)
    about = replace(terms(plan, trace), gears=gears)
    pipeline = Simulated(plan, trace, about)

    def seen_after(seconds: float) -> StageSeen:
        assert pipeline.wait(seconds)
        return pipeline.observe().stages["first"]

    in_batches = seen_after(20.0)
    assert in_batches.items / in_batches.batches > 1.5
    pipeline.apply(Decision({"first": 6, "second": 2}, gear="2x"))
    # What was begun before is finished; of what comes, every batch holds one.
    later = [seen_after(5.0) for _ in range(2)]
    assert later[1].items - later[0].items == later[1].batches - later[0].batches > 200
    assert later[1].items < 1.05 * later[1].batches
    assert service_ratio(gears[0].stages["first"], later[1]) == 1.0
    assert later[1].arrived > in_batches.arrived
