"""The codes that programs branch on: what the planner says, and what the page lists, agree."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import headway.plan
from headway.plan.make import make
from headway.plan.plan import Reason
from headway.profile import Profile, Row
from headway.spec.model import Spec
from headway.trace import Trace

PAGE = Path(__file__).parent.parent.parent / "docs" / "files.md"
PROFILE = Profile.from_rows(
    Row("a", "cpu", batch, mean_s * batch**0.7, variant=variant)
    for variant, mean_s in (("small", 0.01), ("large", 0.02))
    for batch in (1, 4)
)
NOW = {"a": {"hardware": "cpu", "replicas": 9, "variant": "large"}}


def spec(accuracy: float | None, most: int = 50) -> Spec:
    slo = {"latency": "60ms", **({} if accuracy is None else {"accuracy": accuracy})}
    variants = {"small": {"accuracy": 0.8}, "large": {"accuracy": 0.9}}
    supply = {"cpu": {"price": "$1/h", "max": most}}
    return Spec.from_dict({"slo": slo, "supply": supply, "stages": {"a": {"variants": variants}}, "current": NOW})


@cache
def said() -> tuple[Reason, ...]:
    trace = Trace.gamma(100.0, 3.0, seconds=20, seed=1)
    plans = [
        make(spec(0.85), PROFILE, trace, seed=1),
        make(spec(None), PROFILE, trace, feasibility="trace", planner="greedy"),
        make(spec(None, most=1), PROFILE, trace, feasibility="trace", planner="cg-mean"),
    ]
    return tuple(reason for plan in plans for reason in plan.reasons)


def written(name: str, keyword: str) -> set[str]:
    """The codes, as constants, with which the planner's source makes objects of a class."""
    found: set[str] = set()
    for path in Path(headway.plan.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                first = node.args[:1] if getattr(node.func, "id", "") == name else []
                given = [*first, *(word.value for word in node.keywords if word.arg == keyword)]
                found |= {str(arg.value) for arg in given if isinstance(arg, ast.Constant)}
    return found


def page(heading: str) -> dict[str, set[str]]:
    part = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in part.splitlines() if line.startswith("| `")][1:]
    return {row[0].strip("| `"): set(re.findall(r"`([^`]+)`", row[1])) for row in rows}


def test_the_page_lists_the_codes_that_the_planner_writes() -> None:
    assert written("Reason", "") == set(page("Reasons of a plan"))
    assert written("Obstacle", "code") == set(page("Obstacles to a plan"))


def test_the_page_lists_the_values_of_every_reason() -> None:
    listed = page("Reasons of a plan")
    seen: dict[str, set[str]] = {}
    for reason in said():
        seen.setdefault(reason.code, set()).update(reason.values)
    for code, values in seen.items():
        assert values <= listed[code], code
    for code in ("optimal", "baseline", "supply", "promise_broken", "rejected", "headroom", "judged", "current"):
        assert seen[code] == listed[code], code
