"""What the terminal shows of the plan, outcomes and difference in `goldens/report`, as the text files beside them.

After a wanted change of texts: `UPDATE_GOLDENS=1 pytest tests/units/test_report_terminal.py`, then read the diff.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from headway.plan.plan import Plan
from headway.report import format as fmt
from headway.report import terminal
from headway.report.calibration import calibration_view

GOLDENS = Path(__file__).parent.parent / "goldens" / "report"
COLUMNS = 80
INTERVAL = {"p50_s": (0.225, 0.241), "p95_s": (0.44, 0.49), "p99_s": (0.58, 0.69)}
BASELINES: dict[str, dict[str, Any]] = {
    "InferLine greedy": {"cost_usd_per_hour": 4.35, "miss_rate": 0.0061, "p99_s": 0.81, "feasible": True},
    "CG-Mean": {"cost_usd_per_hour": 2.75, "miss_rate": 0.184, "p99_s": None, "feasible": False, "note": "coarse"},
    "no figures": {},
}


def load(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))
    return value


def compared_plans() -> Any:
    from headway.report.words import plan_facts

    return terminal.comparison_view({"this plan": plan_facts(Plan.read(GOLDENS / "plan.json")), **BASELINES})


VIEWS: dict[str, Callable[[], Any]] = {
    "plan": lambda: terminal.plan_view(Plan.read(GOLDENS / "plan.json")),
    "outcome": lambda: terminal.outcome_view(load("measured")),
    "gears_plan": lambda: terminal.plan_view(Plan.read(GOLDENS / "gears_plan.json")),
    "gears_predicted": lambda: terminal.outcome_view(load("gears_predicted")),
    "comparison": compared_plans,
    "predicted_measured": lambda: terminal.predicted_measured_view(load("predicted"), load("measured"), INTERVAL),
    "gears_compared": lambda: terminal.predicted_measured_view(load("gears_predicted"), load("gears_measured")),
    "diff": lambda: terminal.diff_view(load("diff")),
    "calibration": lambda: calibration_view(load("calibration")),
}


def printed(view: object, columns: int = COLUMNS) -> str:
    console = Console(width=columns, no_color=True, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(view)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_the_golden_texts(name: str) -> None:
    seen, golden = printed(VIEWS[name]()), GOLDENS / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDENS"):
        golden.write_text(seen, encoding="utf-8")
    assert seen == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("columns", [COLUMNS, 120])
@pytest.mark.parametrize("name", VIEWS)
def test_views_fit_and_need_no_color(name: str, columns: int) -> None:
    seen = printed(VIEWS[name](), columns)
    assert max(map(len, seen.splitlines())) <= columns
    assert "\x1b" not in seen


def test_square_brackets_are_text_and_not_styles() -> None:
    diff = {**load("diff"), "risks": ["[bold red]loud[/]"], "to": "[b]plan[/b]"}
    seen = printed(terminal.diff_view(diff))
    assert "[bold red]loud[/]" in seen
    assert "[b]plan[/b]" in seen


def test_a_difference_without_changes_says_so() -> None:
    same = {"from": "a", "to": "b", "changes": [], "cost_usd_per_hour": {"from": 1.0, "to": 1.0, "saved": 0.0}}
    assert "No stage changes." in printed(terminal.diff_view(same))


def test_a_dearer_plan_is_not_said_to_save() -> None:
    dearer = {"from": "a", "to": "b", "cost_usd_per_hour": {"from": 1.0, "to": 1.5, "saved": -0.5}}
    seen = printed(terminal.diff_view(dearer))
    assert "costs $0.50/h more" in seen
    assert "saves" not in seen


def test_unknown_is_a_dash_and_unanswered_is_infinite() -> None:
    seen = printed(terminal.comparison_view({"known": {"p99_s": None}, "unknown": {}})).splitlines()
    assert "∞" in next(line for line in seen if "known" in line and "unknown" not in line)
    assert "∞" not in next(line for line in seen if "unknown" in line)
    assert fmt.usd(None) == fmt.percent(math.nan) == fmt.times(None) == fmt.DASH


UNITS_S = {"µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


@given(st.floats(min_value=1e-6, max_value=1e6))
def test_durations_keep_three_digits(value_s: float) -> None:
    figure, unit = fmt.duration(value_s).split(" ")
    assert float(figure.replace(",", "")) * UNITS_S[unit] == pytest.approx(value_s, rel=0.0051)


@pytest.mark.parametrize(("value_s", "text"), [(2.54e-12, "0 ms"), (-9e-10, "0 ms"), (1e-9, "0.001 µs")])
def test_durations_below_a_nanosecond_are_nothing(value_s: float, text: str) -> None:
    assert fmt.duration(value_s) == text


@given(st.floats(min_value=1e-5, max_value=1.0))
def test_percentages_come_close_however_small(share: float) -> None:
    shown = float(fmt.percent(share).rstrip("%")) / 100
    assert shown == pytest.approx(share, rel=0.051)


@given(st.floats(min_value=1e-4, max_value=1e6))
def test_dollars_come_close(value: float) -> None:
    assert float(fmt.usd(value).lstrip("$").replace(",", "")) == pytest.approx(value, rel=0.05)


@pytest.mark.parametrize(
    ("bound", "said"),
    [
        (None, "no lower bound is known"),
        (3.55, "proven cheapest"),
        (3.195, "at most 10% of the cost could still be saved"),
        (4.0, "below the lower bound"),
    ],
)
def test_optimality_says_what_the_bound_allows(bound: float | None, said: str) -> None:
    plan = replace(Plan.read(GOLDENS / "plan.json"), lower_bound_usd_per_hour=bound)
    assert said in printed(terminal.plan_view(plan), 160)
