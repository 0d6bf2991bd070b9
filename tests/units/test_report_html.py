"""The HTML report: well-formed, self-contained, escaped, the same bytes each time, whole with whatever is at hand."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.units.well_formed import checked

from headway.demo.tell import explanation
from headway.errors import HeadwayError
from headway.plan.plan import Plan, Reason
from headway.profile import Profile, Row
from headway.report.charts import CostBar, cost_bars
from headway.report.fragments import outcome_fragment, plan_fragment
from headway.report.html import render, write
from headway.report.story import Story, story_from_files
from headway.sim.outcome import Outcome, StageOutcome
from headway.spec.model import Spec
from headway.trace.trace import Trace

GOLDENS = Path(__file__).parent.parent / "goldens" / "report"
EVIL = "<script>alert(1)</script> & \"quoted\" 'single'"
HEADINGS = (
    "The deployment",
    "Predicted against measured",
    "Queue waits",
    "Cost",
    "Cost against the SLO",
    "Traffic",
    "Reasons",
    "Profile",
    "Provenance",
)


def outcome(requests: int = 2000, kind: str = "simulated", unanswered: int = 0) -> tuple[Trace, Outcome]:
    rng = np.random.default_rng(7)
    trace = Trace.poisson(40.0, seed=7, requests=requests)
    latency, status = rng.lognormal(-1.5, 0.4, requests), np.zeros(requests, np.int8)
    latency[:unanswered], status[:unanswered] = np.inf, 1
    waits = {name: StageOutcome(requests, requests, rng.exponential(0.02, requests), 0.5, 9.0, 0.01) for name in NAMES}
    return trace, Outcome(trace.arrival_s, latency, status, 0.9, 99.0, waits, cost_usd=0.04, kind=kind)


PLAN = Plan.read(GOLDENS / "plan.json")
NAMES = tuple(PLAN.stages)


@pytest.fixture
def story() -> Story:
    (trace, predicted), (_, measured) = outcome(), outcome(kind="measured", unanswered=3)
    return Story(
        title="Reading documents",
        plan=PLAN,
        production_plan=PLAN,
        baselines=(
            ("greedy", {"cost_usd_per_hour": 4.35, "miss_rate": 0.006, "p99_s": 0.8, "feasible": True}),
            ("mean", {"cost_usd_per_hour": 2.75, "miss_rate": 0.18, "p99_s": None, "feasible": False}),
            ("unknown", {}),
        ),
        predicted=predicted,
        measured=measured,
        interval={"p50_s": (0.2, 0.24), "p99_s": (0.5, 0.7)},
        trace=trace,
        profile=PLAN.profile,
        notes=("One note.",),
        provenance={"machine": {"cpu_count": 2}},
    )


def test_whole_story_is_well_formed_and_has_every_section(story: Story) -> None:
    html = render(story)
    checker = checked(html)
    assert re.findall(r"<h2>(.*?)</h2>", html) == list(HEADINGS)
    assert checker.tags.count("svg") == 2 * 7
    assert html.count('role="img"') == html.count("<svg") == len(re.findall(r'<svg[^>]* aria-label="[^"]+"', html))


def test_nothing_is_loaded_from_elsewhere(story: Story) -> None:
    html = render(story)
    assert re.search(r"https?:|//[a-z]|@import|url\((?!#)", html.replace("// Tooltips", "")) is None


def test_same_story_same_bytes(story: Story, tmp_path: Path) -> None:
    write(story, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == render(replace(story)).encode()


def test_what_comes_from_outside_is_escaped(story: Story) -> None:
    plan = replace(PLAN, reasons=(Reason(EVIL, EVIL, EVIL),), predicted={**PLAN.predicted, "low_confidence": [EVIL]})
    evil = replace(
        story,
        title=EVIL,
        plan=plan,
        production_plan=plan,
        baselines=((EVIL, {"cost_usd_per_hour": 1.0, "feasible": False, "note": EVIL}),),
        notes=(EVIL,),
        provenance={EVIL: {EVIL: EVIL}},
    )
    html = render(evil)
    checker = checked(html)
    assert checker.tags.count("script") == 1
    assert "<script>alert" not in html
    assert sum(EVIL in words for words in checker.words) >= 7


@pytest.mark.parametrize(
    ("missing", "gone"),
    [
        ({"measured": None}, "Predicted against measured"),
        ({"baselines": ()}, "Cost"),
        ({"trace": None}, "Traffic"),
        ({"interval": None}, None),
        ({"profile": None}, None),
        ({"notes": ()}, None),
        ({"predicted": None}, None),
        ({"production_plan": None}, None),
        ({"predicted": None, "measured": None, "trace": None, "baselines": (), "interval": None}, "Traffic"),
    ],
)
def test_missing_parts_leave_the_rest_whole(story: Story, missing: Mapping[str, Any], gone: str | None) -> None:
    html = render(replace(story, **missing))
    checked(html)
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert gone not in headings
    assert set(headings) - {"Predicted latency"} == set(headings) & set(HEADINGS)


def test_a_bare_plan_makes_a_report() -> None:
    bare = replace(PLAN, predicted={}, lower_bound_usd_per_hour=None, headroom_ratio=None, reasons=(), frontier=())
    html = render(Story("Bare", replace(bare, stage_predictions={}, provenance={})))
    checked(html)
    assert "Not yet simulated" in html
    assert re.findall(r"<h2>(.*?)</h2>", html) == ["The deployment", "Profile", "Provenance"]


def test_the_verdict_follows_the_measurement(story: Story) -> None:
    assert "Promise kept when measured" in render(story)
    _, broken = outcome(kind="measured", unanswered=100)
    html = render(replace(story, measured=broken))
    assert "Promise broken when measured on this machine: 5% missed" in html
    assert "Promise kept" not in html


def test_without_a_measurement_the_verdict_is_the_planners(story: Story) -> None:
    alone = replace(story, measured=None, predicted=None, production_plan=None)
    assert "Predicted to keep the promise" in render(alone)
    assert "Predicted to break the promise" in render(replace(alone, plan=replace(PLAN, feasible=False)))


def test_all_unanswered_is_drawn_and_said() -> None:
    _, nothing = outcome(50, "measured", unanswered=50)
    html = render(Story("Nothing", PLAN, measured=nothing))
    checked(html)
    assert "∞" in html


def words_of(markup: str) -> list[tuple[float, str]]:
    """The texts of a drawing, each with where it begins."""
    found = re.findall(r'<text x="([-0-9.]+)"[^>]*>([^<]*)</text>', markup)
    return [(float(at), word) for at, word in found]


def test_a_plan_below_the_accuracy_floor_is_not_said_to_be_late(story: Story) -> None:
    facts = {"cost_usd_per_hour": 2.0, "miss_rate": 0.0, "feasible": False}
    spec = PLAN.spec.to_dict()
    spec["slo"]["accuracy"] = 0.9
    plan = replace(PLAN, spec=Spec.from_dict(spec))
    told = replace(story, plan=plan, production_plan=plan)
    less = render(replace(told, baselines=[("small", {**facts, "accuracy": 0.8})]))
    assert "below the accuracy floor</text>" in less
    assert "breaks the promise</text>" not in less.split("<h2>Cost</h2>")[1]
    assert "breaks the promise</text>" in render(replace(told, baselines=[("small", facts)])).split("<h2>Cost</h2>")[1]


def test_no_words_stand_across_the_line_of_the_bound() -> None:
    bars = [CostBar("own", 1.12, own=True), CostBar("small", 0.76, False, broken="below the accuracy floor")]
    drawn = str(cost_bars([*bars, CostBar("peak", 5.6)], 1.12, 760.0, "id"))
    (bound,) = re.findall(r'<line x1="([0-9.]+)"[^>]*class="bound"', drawn)
    words = {word: at for at, word in words_of(drawn)}
    assert words["below the accuracy floor"] > float(bound)
    assert words["$0.76/h"] > float(bound)


def test_what_was_not_measured_is_told_in_sentences(story: Story) -> None:
    cells = [{"status": "failed", "stage": EVIL, "batch_size": size, "text": "out of memory"} for size in (4, 8)]
    absent = {"status": "skipped", "stage": "read", "hardware": "gpu", "text": "no device 'cuda:0'"}
    profile = replace(PLAN.profile, stamp={**PLAN.profile.stamp, "problems": [*cells, absent]})
    plan = replace(PLAN, profile=profile)
    said = " ".join(checked(render(replace(story, profile=profile, plan=plan, production_plan=plan))).words)
    assert f"failed: {EVIL}, 4; {EVIL}, 8: out of memory" in said
    assert "skipped: read, gpu: no device 'cuda:0'" in said
    assert "{'status'" not in said
    assert "What was not measured" not in render(story)


def test_a_run_of_its_own_is_told_from_the_planners_prediction(story: Story) -> None:
    told = story_from_files(GOLDENS / "plan.json", [GOLDENS / "predicted.json"])
    html = render(told)
    assert "Predicted when it was planned: P50" in html
    assert "Predicted is a run of its own, of " in html
    assert "a dotted line joins them" in html
    assert "a run of its own" not in render(story)


def test_evidence_is_a_column_only_where_it_differs(story: Story) -> None:
    rows = [Row("a", "cpu", 1, 0.1, evidence="measured"), Row("a", "cpu", 2, 0.1, evidence="measured")]
    same = render(replace(story, profile=Profile.from_rows(rows)))
    assert "Every row is measured." in same
    assert ">evidence</th>" not in same
    both = render(replace(story, profile=Profile.from_rows([rows[0], replace(rows[1], evidence="prior")])))
    assert ">evidence</th>" in both


def test_what_was_never_answered_is_said_in_words() -> None:
    answered, never = outcome(100)[1], outcome(100, unanswered=10)[1]
    quick = replace(answered, latency_s=answered.latency_s / 20)
    assert explanation(told_run(answered, never)).count("not answered in time") == 2
    assert "answered in time, as predicted, at P95" in explanation(told_run(never, never))
    assert "unlike predicted, answered in time at P99" in explanation(told_run(never, answered))
    assert "20× at P50" in explanation(told_run(quick, answered))
    for before, after in ((answered, never), (never, never), (never, answered)):
        assert not re.search(r"\binf\b|∞|—", explanation(told_run(before, after)))


def told_run(predicted: Outcome, measured: Outcome) -> Any:
    """The part of a run of the demo that its explanation reads."""
    return SimpleNamespace(slowdowns={"detect": 1.1}, explained=predicted, measured=measured)


def test_hundred_thousand_requests_stay_small(story: Story) -> None:
    trace, many = outcome(100_000)
    html = render(replace(story, trace=trace, predicted=many, measured=replace(many, kind="measured")))
    assert len(html.encode()) < 400_000


def test_story_from_files_takes_summaries(tmp_path: Path) -> None:
    told = story_from_files(GOLDENS / "plan.json", [GOLDENS / "measured.json", GOLDENS / "predicted.json"])
    html = render(told)
    checked(html)
    assert told.title == "documents"
    assert "Predicted against measured" in html
    assert "sparse" in html.split("<body>")[1]


def test_story_from_files_refuses_what_it_cannot_tell(tmp_path: Path) -> None:
    plan, predicted = GOLDENS / "plan.json", GOLDENS / "predicted.json"
    with pytest.raises(HeadwayError, match="second predicted outcome"):
        story_from_files(plan, [predicted, predicted])
    with pytest.raises(HeadwayError, match=r"schema is 'headway\.plan/1'"):
        story_from_files(plan, [plan])
    with pytest.raises(HeadwayError, match="cannot read"):
        story_from_files(plan, [tmp_path / "missing.json"])
    (tmp_path / "bad.json").write_text("[1")
    with pytest.raises(HeadwayError, match="not an outcome's JSON"):
        story_from_files(plan, [tmp_path / "bad.json"])


def test_fragments_are_well_formed_and_escaped() -> None:
    for html in (plan_fragment(PLAN), outcome_fragment(outcome()[1])):
        checked(html)
        assert "recognize" in html
    figures = {**json.loads((GOLDENS / "measured.json").read_text(encoding="utf-8")), "kind": EVIL}
    assert "<script" not in outcome_fragment(figures)
