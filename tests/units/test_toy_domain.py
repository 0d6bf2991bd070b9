"""A third party's domain, installed beside Headway: one package, one entry point, and nothing else changes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headway.domains.pipeline import DOMAIN as PIPELINE
from headway.errors import PlanError, SpecError
from headway.plan import Infeasible, Plan, current_plan, diff
from headway.plan.config import StageContext
from headway.plan.make import baselines, make
from headway.profile import Profile, Row
from headway.report.html import render
from headway.report.story import Story
from headway.report.terminal import diff_view, outcome_view, plan_view
from headway.serve.engine import Engine
from headway.serve.wire import Payload
from headway.sim.simulation import simulate
from headway.spec.kinds import domain_names, load_domain
from headway.spec.model import Spec
from headway.testing.domain import Example, check_domain
from headway.testing.live import fake_stations, run_virtual
from headway.trace import Trace

HERE = Path(__file__).resolve().parent.parent / "toy"
SOURCE = Path(__file__).resolve().parents[2] / "src" / "headway"

TIERS = {
    "slow": {"delay": "180ms", "price": "$0.1/h"},
    "fast": {"delay": "60ms", "price": "$1/h"},
    "instant": {"delay": "5ms", "price": "$9/h"},
}
ALONE: dict[str, Any] = {
    "kind": "toy",
    "slo": {"latency": "100ms"},
    "supply": {"cpu": {"price": "$0.2/h"}},
    "tiers": TIERS,
}
MIXED: dict[str, Any] = {
    "name": "mixed",
    "slo": {"latency": "300ms"},
    "supply": {"cpu": {"price": "$0.2/h"}},
    "stages": {
        "read": {},
        "look": {"kind": "toy", "after": "read", "probability": 0.5, "tiers": TIERS},
        "merge": {"after": ["read", "look"]},
    },
}
ROWS = [Row("read", "cpu", 1, 0.02), Row("read", "cpu", 4, 0.05), Row("merge", "cpu", 1, 0.01)]


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package as an installer leaves it: its folder, and beside it what it registers."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(HERE / "headway_toy", site / "headway_toy", ignore=shutil.ignore_patterns("__pycache__"))
    info = site / "headway_toy-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: headway-toy\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[headway.domains]\ntoy = headway_toy:DOMAIN\n")
    sys.path.insert(0, str(site))
    try:
        yield site
    finally:
        sys.path.remove(str(site))
        for name in [name for name in sys.modules if name.startswith("headway_toy")]:
            del sys.modules[name]


@pytest.fixture
def trace() -> Trace:
    return Trace.gamma(20.0, 2.0, requests=400, seed=3)


@pytest.fixture
def mixed() -> tuple[Spec, Profile]:
    return Spec.from_dict(MIXED), Profile.from_rows(ROWS)


def test_nothing_in_headway_mentions_it() -> None:
    assert "toy" in domain_names()
    mentions = [path for path in SOURCE.rglob("*.py") if "toy" in path.read_text(encoding="utf-8").split()]
    assert mentions == []
    assert not [path for path in SOURCE.rglob("*.py") if "headway_toy" in path.read_text(encoding="utf-8")]


def test_it_conforms(mixed: tuple[Spec, Profile]) -> None:
    spec, profile = mixed
    check_domain(load_domain("toy"), Example(spec, profile, "look", 10.0))
    check_domain(PIPELINE, Example(spec, profile, "read", 1.0))


def test_its_declaration_is_checked_like_any() -> None:
    broken = {**MIXED, "stages": {"look": {"kind": "toy", "tiers": {"slow": {"delay": "1s", "prise": "$1/h"}}}}}
    with pytest.raises(SpecError, match="prise"):
        Spec.from_dict(broken)
    with pytest.raises(SpecError, match="did you mean"):
        Spec.from_dict({**MIXED, "stages": {"look": {"kind": "toyy", "tiers": TIERS}}})


@pytest.mark.parametrize("feasibility", ["trace", "robust"])
def test_alone_it_is_planned_exactly(trace: Trace, feasibility: str) -> None:
    plan = make(Spec.from_dict(ALONE), Profile(()), trace, feasibility=feasibility, seed=1)
    assert (plan.stages["toy"].to_dict(), plan.cost_usd_per_hour, plan.gap_ratio) == ({"tier": "fast"}, 1.0, 0.0)
    assert plan.predicted["p99_s"] == pytest.approx(0.06)
    assert plan.stage_predictions["toy"]["utilization"] == 0.0
    assert [r.values["config"] for r in plan.reasons if r.code == "rejected"] == [{"tier": "slow"}]
    assert plan.predicted["low_confidence"] == []


@pytest.mark.parametrize("feasibility", ["trace", "robust"])
def test_one_graph_mixes_it_with_models(mixed: tuple[Spec, Profile], trace: Trace, feasibility: str) -> None:
    spec, profile = mixed
    plan = make(spec, profile, trace, feasibility=feasibility, seed=1)
    assert plan.feasible
    assert plan.gap_ratio == 0.0
    again = Plan.from_dict(json.loads(plan.to_json()))
    assert again.to_json() == plan.to_json()
    outcome = simulate(again, trace, seed=1, mode="mean")
    assert outcome.holds
    looked = outcome.stages["look"].items
    assert 0 < looked < trace.requests
    assert outcome.stages["look"].cost_usd > 0
    shares = np.unique(np.round(outcome.latency_s[outcome.latency_s >= outcome.latency_s.max() - 1e-9], 6))
    assert shares.size == 1


def test_exact_search_finds_the_cheapest_mix(mixed: tuple[Spec, Profile], trace: Trace) -> None:
    """Every configuration of three stages, by cost, judged by the simulator."""
    spec, profile = mixed
    toy = load_domain("toy")
    best = make(spec, profile, trace, feasibility="trace", seed=1, explained=False)
    context = {"read": PIPELINE, "look": toy, "merge": PIPELINE}
    space = {n: list(context[n].configs(StageContext(n, spec.stages[n], spec, profile), 1.2)) for n in spec.stages}
    cheapest = min(
        plan.cost_usd_per_hour
        for read in space["read"] for look in space["look"] for merge in space["merge"]
        if (plan := Plan(spec, profile, {"read": read, "look": look, "merge": merge})).cost_usd_per_hour < 2.0
        and simulate(plan, trace, seed=1, mode="mean").holds
    )  # fmt: skip
    assert best.cost_usd_per_hour == pytest.approx(cheapest)


def test_an_impossible_promise_names_what_is_possible(mixed: tuple[Spec, Profile], trace: Trace) -> None:
    _, profile = mixed
    spec = Spec.from_dict({**MIXED, "slo": {"latency": "20ms"}})
    with pytest.raises(Infeasible) as caught:
        make(spec, profile, trace, feasibility="trace", seed=1)
    smallest_s = caught.value.obstacle.smallest_slo_s
    assert smallest_s is not None
    assert caught.value.obstacle.stage in spec.stages
    wider = Spec.from_dict({**MIXED, "slo": {"latency": f"{smallest_s * 1e3 + 1e-6}ms"}})
    assert make(wider, profile, trace, feasibility="trace", seed=1, explained=False).feasible


def test_planners_of_models_alone_say_so(mixed: tuple[Spec, Profile], trace: Trace) -> None:
    spec, profile = mixed
    with pytest.raises(PlanError, match="use the exact planner"):
        make(spec, profile, trace, planner="greedy")
    notes = baselines(spec, profile, trace, feasibility="trace")
    assert all("exact planner" in facts["note"] for facts in notes.values())


def test_it_stands_in_reports_and_differences(mixed: tuple[Spec, Profile], trace: Trace) -> None:
    _, profile = mixed
    now = {"read": {"hardware": "cpu", "replicas": 4}, "look": {"tier": "instant"}, "merge": {"hardware": "cpu"}}
    spec = Spec.from_dict({**MIXED, "current": now})
    plan = make(spec, profile, trace, feasibility="trace", seed=1)
    assert any(reason.code == "current" for reason in plan.reasons)
    change = diff(current_plan(spec, profile), plan)
    assert {"stage": "look", "field": "tier", "from": "instant", "to": plan.stages["look"].to_dict()["tier"]} in (
        change["changes"]
    )
    outcome = simulate(plan, trace, seed=1)
    for view in (plan_view(plan), outcome_view(outcome), diff_view(change)):
        assert view is not None
    assert "look" in render(Story("Mixed", plan, predicted=outcome))


def test_served_it_answers_beside_models(mixed: tuple[Spec, Profile], trace: Trace) -> None:
    spec, profile = mixed
    plan = make(spec, profile, trace, feasibility="trace", seed=1, explained=False)

    async def main() -> tuple[list[str], dict[str, Any]]:
        context = StageContext("look", spec.stages["look"], spec, profile)
        stations = {**fake_stations(plan), "look": load_domain("toy").live(context, plan.stages["look"])}
        engine = Engine(plan, stations=stations, clock=asyncio.get_running_loop().time)
        await engine.start()
        answers = await asyncio.gather(*(engine.infer(Payload("text", b"x")) for _ in range(20)))
        stats = engine.stats()
        await engine.drain()
        await engine.stop()
        return [answer.status for answer in answers], stats

    statuses, stats = run_virtual(main)
    assert statuses == ["answered"] * 20
    assert 0 < stats["stages"]["look"]["batches"] < 20
    assert stats["requests"]["in_flight"] == 0


def test_the_command_line_plans_simulates_compares_and_reports_it(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps({**ALONE, "current": {"toy": {"tier": "instant"}}}))
    (tmp_path / "spec.yaml").write_text(json.dumps({**ALONE, "current": {"toy": {"tier": "instant"}}}))
    Profile.from_rows([Row("toy", "cpu", 1, 1.0)]).write(tmp_path / "p.csv")
    Trace.poisson(20.0, seconds=10.0, seed=1).write(tmp_path / "t.csv")

    def run(*words: str) -> Any:
        environment = {**os.environ, "PYTHONPATH": str(installed), "NO_COLOR": "1"}
        command = [sys.executable, "-m", "headway", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if "--json" in words else done.stdout

    assert run("check", "spec.yaml", "--json")
    plan = run(
        "plan", "spec.yaml", "--profile", "p.csv", "--trace", "t.csv", "--seed", "1", "--json", "-o", "plan.json"
    )
    assert plan["stages"]["toy"]["tier"] == "fast"
    assert run("simulate", "plan.json", "--trace", "t.csv", "--json")["slo_holds"] is True
    assert run("diff", "spec.yaml", "plan.json", "--json")["changes"][0]["field"] == "tier"
    assert "toy" in run("simulate", "plan.json", "--trace", "t.csv")
    assert run("report", "plan.json")
