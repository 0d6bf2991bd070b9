"""What a person is shown of a tuner beside a server: every decision, one that only asks for another plan included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headway.cli.app import main
from headway.policy.scaling import Decision
from headway.report.tuning import tuning_view, watched_view
from headway.testing.examples import tiny_plan
from headway.tune.loop import Entry

LASTING = "for 300 s it has been 2.13 times the planned traffic"
TEXT = "replicas for 2.13 times the planned traffic"
AGAIN = Entry(0, 300.0, {"a": 5}, Decision({"a": 5}, "replan", TEXT, replan=LASTING))
BOTH = Entry(1, 301.0, {"a": 5}, Decision({"a": 6}, "scale_up", TEXT, replan=LASTING))
MORE = Entry(2, 302.0, {"a": 6}, Decision({"a": 7}, "scale_up", TEXT))
LINES = [
    f"plan again: {LASTING}",
    f"a 5 → 6: {TEXT}",
    f"plan again: {LASTING}",
    f"a 6 → 7: {TEXT}",
]


def found() -> dict[str, Any]:
    decisions = [entry.to_dict() for entry in (AGAIN, BOTH, MORE)]
    return {"acts": True, "seconds": 400.0, "decisions": decisions, "happened": {"misses": 0, "requests": 9}}


def test_the_end_of_a_watch_shows_why_another_plan_is_due() -> None:
    assert watched_view(found()).splitlines()[1:] == [f"  {line}" for line in LINES]


def test_a_decision_is_told_with_why_another_plan_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def decided(*_: object, tell: Callable[[Entry], None], **__: object) -> dict[str, Any]:
        for entry in (AGAIN, BOTH, MORE):
            tell(entry)
        return found()

    monkeypatch.setattr("headway.tune.live.tune_live", decided)
    tiny_plan().write(tmp_path / "plan.json")
    with pytest.raises(SystemExit) as caught:
        main(["tune", str(tmp_path / "plan.json"), "--url", "http://127.0.0.1:1"])
    assert caught.value.code == 0
    assert capsys.readouterr().err.splitlines() == LINES


@pytest.mark.parametrize(
    ("tuner", "kept", "says"),
    [
        ("none", True, "no decision: this tuner leaves the plan as it is"),
        ("none", False, "this tuner leaves the plan as it is, and the plan breaks the promise here"),
        ("headway", True, "the traffic stays within what the plan was made for"),
        ("threshold", False, "tuner threshold saw no reason to change replicas, though the promise is broken"),
    ],
)
def test_no_decision_is_explained_by_the_tuner_and_by_what_came_of_it(tuner: str, kept: bool, says: str) -> None:
    outcome = {"miss_rate": 0.0 if kept else 0.8, "p99_s": 0.2, "slo_holds": kept, "cost_usd": 1.0}
    advice = {"tuner": tuner, "with": outcome, "without": outcome, "decisions": []}
    assert str(tuning_view(advice).renderables[-1]).strip().endswith(says)
