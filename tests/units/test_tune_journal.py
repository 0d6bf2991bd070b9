"""The journal survives crashes: whole lines only, whatever was cut short."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from headway.errors import HeadwayError
from headway.policy.tuners import tuner
from headway.testing.examples import tiny_plan
from headway.trace import Trace
from headway.tune.journal import Journal, read
from headway.tune.simulated import simulate_tuner
from headway.tune.terms import terms


def test_every_decision_is_followed_by_what_happened(tmp_path: Path) -> None:
    plan, about = tiny_plan(), terms(tiny_plan(), Trace.poisson(40.0, 200, seed=1))
    live = Trace.spike(40.0, 2.5, at_s=20.0, for_s=20.0, seconds=80.0, seed=3)
    with Journal(tmp_path / "decisions.jsonl") as journal:
        journal.started({"tuner": "headway"})
        entries = simulate_tuner(plan, live, tuner("headway", about), about, listener=journal).entries
    lines = read(tmp_path / "decisions.jsonl")
    decided = [line for line in lines if line["kind"] == "decided"]
    happened = {line["number"]: line for line in lines if line["kind"] == "happened"}
    assert len(decided) == len(entries) > 1
    for line in decided:
        assert line["why"]
        assert happened[line["number"]]["at_s"] > line["at_s"]
        assert 0 <= happened[line["number"]]["misses"] <= happened[line["number"]]["requests"]


@pytest.mark.parametrize("cut", [1, 20, 200_000])
def test_a_line_cut_short_is_not_read_and_removed_when_opened_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "decisions.jsonl"
    with Journal(path) as journal:
        journal.started({"tuner": "a"})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind": "' + b"x" * cut)
    assert [line["tuner"] for line in read(path)] == ["a"]
    with Journal(path) as journal:
        assert path.read_bytes() == whole
        journal.started({"tuner": "b"})
    assert [line["tuner"] for line in read(path)] == ["a", "b"]


def test_a_full_disk_is_one_sentence_and_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "decisions.jsonl"
    whole_write = os.write
    with Journal(path) as journal:
        journal.started({"tuner": "a"})
        monkeypatch.setattr(os, "write", lambda file, data: whole_write(file, data[:10]))
        with pytest.raises(HeadwayError, match=r"decisions\.jsonl: cannot write the journal"):
            journal.started({"tuner": "b"})
    assert [json.loads(line)["tuner"] for line in path.read_text().splitlines()] == ["a"]


@pytest.mark.parametrize("held", ["no line at all", '{"name": "a plan"}\n{"half', "hello\n", '{"kind": "started"}\n'])
def test_a_file_that_is_no_journal_is_left_as_it_is(tmp_path: Path, held: str) -> None:
    path = tmp_path / "model.bin"
    path.write_text(held)
    with pytest.raises(HeadwayError, match=r"model\.bin: not a journal of decisions"):
        Journal(path)
    assert path.read_text() == held


def test_a_journal_whose_first_line_was_cut_short_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    with Journal(path) as journal:
        journal.started({"tuner": "a"})
    whole = path.read_bytes()
    for length in (0, 1, 20, len(whole) - 1):
        path.write_bytes(whole[:length])
        with Journal(path) as journal:
            journal.started({"tuner": "a"})
        assert path.read_bytes() == whole


def test_what_is_no_journal_is_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text('{"kind": "started"}\nnot json\n')
    with pytest.raises(HeadwayError, match=r"other\.jsonl:2: not a line of JSON"):
        read(path)
    with pytest.raises(HeadwayError, match="cannot read the journal"):
        read(tmp_path / "none.jsonl")


def test_a_second_writer_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    with Journal(path) as journal:
        journal.started({"tuner": "a"})
        assert len(read(path)) == 1
        with pytest.raises(HeadwayError, match=r"decisions\.jsonl: another tuner writes this journal"):
            Journal(path)
        journal.started({"tuner": "a"})
    with Journal(path) as journal:
        journal.started({"tuner": "b"})
    assert [line["tuner"] for line in read(path)] == ["a", "a", "b"]
