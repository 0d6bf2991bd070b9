"""Measuring that is interrupted, cut short or repeated: what is kept, and what is measured again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.profiling.measuring import MODELS, SPLIT, TEXTS, problems, run, spec_of

from headway.serve.wire import Payload


def test_a_recording_that_the_budget_cut_is_told_and_done_again(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "cells.json"
    stages = {**SPLIT, "split": {"model": "m.py:Split"}}
    cut = run(spec_of(stages), folder, batch_sizes=[1], budget_s=1e-9, resume=path)
    assert {record.left_out for record in cut.visits} == {len(TEXTS) - 1}
    assert ("warning", None, None, None) in problems(cut)
    assert any(p["text"].startswith("visits rest on 1 of 4 samples") for p in cut.stamp["problems"])
    whole = run(spec_of(stages), folder, batch_sizes=[1], resume=path)
    assert {(record.samples, record.left_out) for record in whole.visits} == {(len(TEXTS), 0)}
    assert problems(whole) == []
    # What is taken from the file has been recorded no less.
    known = run(spec_of(stages), folder, batch_sizes=[1], resume=path)
    assert known.stamp["samples"]["recorded"] == len(TEXTS)


def test_a_measurement_goes_on_where_it_stopped(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "cells.json"
    spec = spec_of(
        {"a": {"model": "m.py:Split"}, "word": {"model": "m.py:Upper", "after": "a"}, "number": {"after": "a"}}
    )
    first = run(spec, folder, batch_sizes=[1], resume=path)
    both = run(spec, folder, batch_sizes=[1, 2], resume=path)
    assert len(both.rows) == 4
    assert [row for row in both.rows if row.batch_size == 1] == list(first.rows)
    assert both.visits == first.visits != ()
    again = run(spec, folder, batch_sizes=[1, 2], resume=path)
    assert (again.rows, again.visits) == (both.rows, both.visits)


def test_what_was_finished_before_an_interruption_is_kept(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "cells.json"
    script = tmp_path / "interrupted.py"
    script.write_text(
        "import os, signal\n"
        "from headway.profile.measure import measure\n"
        "from headway.serve.wire import Payload\n"
        "from headway.spec.model import Spec\n"
        "spec = Spec.from_dict({'slo': {'latency': '9s'}, 'supply': {'cpu': {'price': '$1/h'}},\n"
        "                       'stages': {'a': {'model': 'm.py:Upper'}}})\n"
        "def stop(state):\n"
        "    if 'batch 1' in str(state):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        f"measure(spec, [Payload('text', b'a')], folder={str(folder)!r}, resume={str(path)!r}, progress=stop)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert "KeyboardInterrupt" in done.stderr
    kept = json.loads(path.read_text())["cells"]
    assert list(kept) == ["a/default/cpu/1"]
    profile = run(spec_of({"a": {"model": "m.py:Upper"}}), folder, [Payload("text", b"a")], resume=path)
    assert profile.rows[0].to_dict() == kept["a/default/cpu/1"]["row"]
    assert len(profile.rows) == 2


def test_a_resumed_measurement_starts_no_process_for_what_is_known(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "cells.json"
    spec = spec_of({"a": {"model": "m.py:Upper"}})
    run(spec, folder, batch_sizes=[1], resume=path)
    states: list[str] = []
    run(spec, folder, batch_sizes=[1], resume=path, progress=lambda state: states.append(str(state)))
    assert states == []


@pytest.mark.parametrize("change", ["model", "options", "samples", "device"])
def test_what_has_changed_is_measured_again(folder: Path, tmp_path: Path, change: str) -> None:
    path = tmp_path / "cells.json"
    stage: dict[str, Any] = {"model": "m.py:Split"}
    run(spec_of({"a": stage}), folder, batch_sizes=[1], resume=path)
    # A mark that only a kept row can carry.
    value = json.loads(path.read_text())
    for cell in value["cells"].values():
        cell["row"]["samples"] = 12345
    path.write_text(json.dumps(value))
    kept = run(spec_of({"a": stage}), folder, batch_sizes=[1], resume=path)
    assert kept.rows[0].samples == 12345
    samples, supply = TEXTS, {"cpu": {"price": "$1/h"}}
    if change == "model":
        (folder / "m.py").write_text(MODELS + "\n# changed\n")
    elif change == "options":
        stage = {**stage, "options": {"times": 3}}
    elif change == "samples":
        samples = TEXTS[:2]
    else:
        supply = {"cpu": {"price": "$1/h", "device": "cpu"}}
    renewed = run(spec_of({"a": stage}, **supply), folder, samples, batch_sizes=[1], resume=path)
    assert renewed.rows[0].samples != 12345
