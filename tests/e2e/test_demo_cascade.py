"""The demo of a cascade from the command line: real models, real HTTP, answers held against labels, all files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.e2e.demos import told_by

from headway.demo.cascade import run, scenario
from headway.errors import HeadwayError
from headway.plan.plan import Plan

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    return told_by(tmp_path_factory.mktemp("demo"), "cascade")


def test_every_answer_is_counted_in_its_window_and_held_against_its_label(told: tuple[Path, dict[str, Any]]) -> None:
    _, result = told
    requests, timeline = result["measured"]["requests"], result["timeline"]
    assert requests["offered"] == sum(window["requests"] for window in timeline["windows"]) > 10
    assert requests["answered"] == sum(sum(window["exits"]) for window in timeline["windows"])
    assert requests["failed"] == 0
    assert result["predicted"]["provenance"]["trace_hash"] == result["measured"]["provenance"]["trace_hash"]
    # Ten classes: whoever guesses is right in one of ten. A machine that is too busy may answer nothing in time.
    assert timeline["accuracy"] > 0.6 if requests["answered"] > 20 else True
    assert result["measured"]["accuracy"] == timeline["accuracy"]
    assert len(timeline["gears"]) == len(result["plan"]["stages"]["digits"]["gears"])
    assert all(sum(window["held"]) == pytest.approx(1.0, abs=1e-6) for window in timeline["windows"])


def test_single_models_are_told_beside_the_gears(told: tuple[Path, dict[str, Any]]) -> None:
    _, result = told
    others = result["others"]
    assert {"small alone", "medium alone", "large alone"} <= set(others)
    assert others["small alone"]["accuracy"] < others["large alone"]["accuracy"]
    assert result["slo"]["accuracy"] <= result["predicted"]["accuracy"] + 0.05


def test_the_files_stand_alone(told: tuple[Path, dict[str, Any]]) -> None:
    folder, result = told
    names = {"report.html", "plan.json", "profile.csv", "profile.json", "validation.csv", "trace.csv",
             "predicted.json", "measured.json", "demo.json"}  # fmt: skip
    assert {path.name for path in folder.iterdir() if path.is_file()} == names
    assert "Gears over time" in (folder / "report.html").read_text(encoding="utf-8")
    assert Plan.read(folder / "plan.json").spec.stages["digits"].kind == "cascade"
    assert json.loads((folder / "demo.json").read_text(encoding="utf-8")) == result


def test_the_day_has_a_night_a_noon_and_a_spike() -> None:
    rates = scenario.Rates(10.0, 60.0, 240.0)
    trace = scenario.day(rates, 100.0, images=50, seed=3)
    begin = 100.0 * scenario.SPIKE_AT
    counts, _ = np.histogram(trace.arrival_s, [0, 10, 45, 55, begin, begin + 10.0, 90, 100])
    night, _, noon, _, spike, _, late = counts
    assert night < 3 * late
    assert 2 * night < noon < spike
    images = trace.columns["payload"]
    assert set(images) == set(range(50))
    assert np.bincount(images.astype(int)).max() - np.bincount(images.astype(int)).min() <= 1


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    with pytest.raises(HeadwayError, match=r"scikit-learn.*pip install 'headway\[learn\]'$"):
        run.main(tmp_path)
