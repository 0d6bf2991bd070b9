"""Measuring real models in real processes: what is recorded, what a failing cell costs the others, what is resumed."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from headway.errors import ProfileError
from headway.profile import Profile, Row
from headway.profile.cell import Effort
from headway.profile.measure import Progress, measure
from headway.profile.record import Recorder
from headway.profile.target import models
from headway.serve.model_ref import HardwareView
from headway.serve.wire import Payload
from headway.spec.model import Spec

MODELS = '''
import os, time

class Split:
    """Words of a text go to `word`; "empty" chooses nothing, a number goes to `number` as well."""
    def __init__(self, times=1):
        self.times = times
    def predict(self, batch):
        return [{"word": [w for w in text.split() if w.isalpha()] * self.times,
                 "number": [w for w in text.split() if w.isdigit()]} for text in batch]

class Upper:
    def predict(self, batch):
        return [text.upper() for text in batch]

class Count:
    """Takes what the parents made, by stage; the text must be in capitals if it went through Upper."""
    def predict(self, batch):
        return [{name: sorted(parts) for name, parts in item.items()} for item in batch]

class OnlyCapitals:
    def predict(self, batch):
        return [text if text.isupper() else ValueError("not in capitals") for text in batch]

class Pairs:
    """Cannot do more than two at once: exits."""
    def predict(self, batch):
        if len(batch) > 2:
            os._exit(3)
        return batch

class Slow:
    """Hangs on more than one."""
    def predict(self, batch):
        if len(batch) > 1:
            time.sleep(600)
        return batch

class Picky:
    def predict(self, batch):
        return [ValueError("odd") if "odd" in text else text for text in batch]

class Never:
    def predict(self, batch):
        raise RuntimeError("never works")

class Counts:
    """Writes the size of every batch to a file."""
    def __init__(self, path):
        self.path = path
    def predict(self, batch):
        with open(self.path, "a") as out:
            print(len(batch), file=out)
        return batch

class Lazy:
    def predict(self, batch):
        time.sleep(0.02 * len(batch))
        return batch
'''
QUICK = Effort(min_repeats=2, good_repeats=3, max_repeats=4, warmup=1, timeout_s=30.0)
TEXTS = [Payload("text", text) for text in (b"a b 1", b"c", b"", b"d e f")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m.py").write_text(MODELS)
    return tmp_path


def spec_of(stages: Mapping[str, Any], **supply: Any) -> Spec:
    supply = supply or {"cpu": {"price": "$1/h"}}
    return Spec.from_dict({"slo": {"latency": "9s"}, "supply": supply, "stages": dict(stages)})


def run(spec: Spec, folder: Path, samples: list[Payload] = TEXTS, **kw: Any) -> Profile:
    given = {"effort": QUICK, "batch_sizes": [1, 2], "log": lambda line: None, **kw}
    return measure(spec, samples, folder=folder, **given)


def cells(profile: Profile) -> list[tuple[str, str, str, int]]:
    return [(row.stage, row.variant, row.hardware, row.batch_size) for row in profile.rows]


def problems(profile: Profile) -> list[tuple[Any, ...]]:
    names = ("status", "stage", "hardware", "batch_size")
    return [tuple(problem.get(name) for name in names) for problem in profile.stamp.get("problems", [])]


SPLIT = {
    "split": {"model": "m.py:Split", "variants": {"once": {}, "twice": {"options": {"times": 2}}}},
    "word": {"model": "m.py:Upper", "after": "split"},
    "check": {"model": "m.py:OnlyCapitals", "after": "word"},
    "number": {"model": "m.py:Upper", "after": "split"},
    "count": {"model": "m.py:Count", "after": ["word", "number"]},
    "all": {"model": "m.py:Count", "after": "word", "gather": True},
}


def test_every_cell_is_measured_with_what_its_parents_made(folder: Path, tmp_path: Path) -> None:
    states: list[Progress] = []
    profile = run(spec_of(SPLIT), folder, progress=states.append, date="2026-01-31")
    assert cells(profile) == [
        (stage, variant, "cpu", size)
        for stage, variants in (("split", ("once", "twice")), *((s, ("default",)) for s in list(SPLIT)[1:]))
        for variant in variants
        for size in (1, 2)
    ]
    # OnlyCapitals refuses what Upper has not made, so its row shows that its inputs came from there.
    assert problems(profile) == []
    for row in profile.rows:
        assert row.evidence == "measured"
        assert 2 <= (row.samples or 0) <= 4
        assert 0 < (row.p50_s or 0) <= (row.p95_s or 0) <= (row.p99_s or 0)
        assert (row.startup_s or 0) > 0
        assert (row.memory_mb or 0) > 1
    assert profile.stamp["date"] == "2026-01-31"
    assert profile.stamp["samples"]["recorded"] == len(TEXTS)
    assert (states[-1].done, states[-1].total) == (14, 14)
    profile.write(tmp_path / "p.csv")
    assert Profile.read(tmp_path / "p.csv") == profile


def test_visits_are_recorded_per_sample_for_every_choice_of_variants(folder: Path) -> None:
    profile = run(spec_of(SPLIT), folder, batch_sizes=[1])
    once, twice = profile.visits_for({"split": "once"}), profile.visits_for({"split": "twice"})
    assert once is not None
    assert twice is not None
    both = {"split": (1, 1, 1, 1), "number": (1, 0, 0, 0), "count": (1, 1, 0, 1), "all": (1, 1, 0, 1)}
    assert once.counts == {**both, "word": (2, 1, 0, 3), "check": (2, 1, 0, 3)}
    assert twice.counts == {**both, "word": (4, 2, 0, 6), "check": (4, 2, 0, 6)}


def test_no_visits_are_recorded_where_only_declared_probabilities_decide(folder: Path) -> None:
    spec = spec_of(
        {
            "a": {"model": "m.py:Upper"},
            "b": {"model": "m.py:OnlyCapitals", "after": "a", "probability": 1e-9},
            "c": {"after": "a"},
        }
    )
    profile = run(spec, folder, batch_sizes=[1])
    assert profile.visits == ()
    # The edge to b was drawn for no sample; b is measured all the same, with what a made.
    assert cells(profile) == [("a", "default", "cpu", 1), ("b", "default", "cpu", 1)]
    assert problems(profile) == [("skipped", "c", None, None)]


def test_joins_get_results_by_stage_and_pairs_stay_with_their_item(folder: Path) -> None:
    spec = spec_of(SPLIT)
    recorder = Recorder(
        spec.graph, models(spec, folder), dict.fromkeys(SPLIT, HardwareView("cpu")), seed=0, timeout_s=30.0
    )
    recording = asyncio.run(recorder.run(TEXTS, lambda count: count == 2))
    assert recording.samples == 2
    text = {
        name: [
            {stage: [p.data for p in parts] for stage, parts in item.items()}
            if isinstance(item, Mapping)
            else item.data
            for item in inputs
        ]
        for name, inputs in recording.inputs.items()
    }
    assert text["word"][:2] == [b"a", b"b"]
    assert text["count"][0] == {"word": [b"A", b"B"], "number": [b"1"]}
    assert text["all"] == [{"word": [b"A", b"B"]}, {"word": [b"A", b"B"] * 2}, {"word": [b"C"]}, {"word": [b"C"] * 2}]


def test_a_crash_of_one_cell_is_told_and_loses_no_other(folder: Path) -> None:
    spec = spec_of({"a": {"model": "m.py:Pairs"}, "b": {"model": "m.py:Upper"}})
    profile = run(spec, folder, batch_sizes=[1, 2, 4, 8])
    assert [key[0] + str(key[3]) for key in cells(profile)] == ["a1", "a2", "b1", "b2", "b4", "b8"]
    assert problems(profile) == [("failed", "a", "cpu", 4), ("failed", "a", "cpu", 8)]
    assert "exited with code 3" in profile.stamp["problems"][0]["text"]


def test_a_cell_that_hangs_is_given_up_and_larger_ones_are_not_tried(folder: Path) -> None:
    spec = spec_of({"a": {"model": "m.py:Slow"}})
    profile = run(spec, folder, batch_sizes=[1, 2, 4], effort=Effort(2, 3, 4, warmup=0, timeout_s=1.0))
    assert [row.batch_size for row in profile.rows] == [1]
    assert problems(profile) == [("failed", "a", "cpu", 2), ("skipped", "a", "cpu", 4)]
    assert "took longer than 1 s" in profile.stamp["problems"][0]["text"]


def test_inputs_that_a_model_refuses_are_left_out_and_told(folder: Path) -> None:
    spec = spec_of({"a": {"model": "m.py:Picky"}, "b": {"model": "m.py:Upper", "after": "a"}})
    samples = [Payload("text", b"odd"), Payload("text", b"even"), Payload("text", b"odd too")]
    profile = run(spec, folder, samples)
    assert len(profile.rows) == 4
    assert problems(profile) == [("failed", "a", None, None)]
    assert "ValueError: odd" in profile.stamp["problems"][0]["text"]


def test_a_model_that_cannot_be_set_up_is_told_once_and_its_traceback_shown_once(folder: Path) -> None:
    (folder / "m.py").write_text(MODELS + "\nclass Broken:\n    def setup(self, hardware):\n        1 / 0\n"
                                          "    def predict(self, batch):\n        return batch\n")  # fmt: skip
    spec = spec_of(
        {
            "a": {"model": "m.py:Nope"},
            "b": {"model": "m.py:Upper", "after": "a"},
            "c": {"model": "m.py:Broken"},
            "d": {"model": "m.py:Upper"},
        }
    )
    shown: list[str] = []
    profile = run(spec, folder, batch_sizes=[1, 2, 4], log=shown.append)
    assert problems(profile) == [
        ("failed", "a", "cpu", 1),
        ("skipped", "b", "cpu", 1),
        ("failed", "c", "cpu", 1),
        ("skipped", "b", "cpu", 2),
        ("skipped", "b", "cpu", 4),
    ]
    assert "there is no class 'Nope'" in profile.stamp["problems"][0]["text"]
    assert sum("Traceback" in line for line in shown) == 1


def test_an_error_of_every_input_is_shown_once_and_its_text_is_one_line(folder: Path) -> None:
    (folder / "m.py").write_text(MODELS.replace('"never works"', '"boom\\nsecond line"'))
    spec = spec_of({"a": {"model": "m.py:Never"}, "b": {"model": "m.py:Upper"}})
    shown: list[str] = []
    profile = run(spec, folder, log=shown.append)
    assert "RuntimeError: boom second line" in profile.stamp["problems"][0]["text"]
    assert sum("Traceback" in line for line in shown) == sum("] second line" in line for line in shown) == 1
    assert shown[-1].endswith(" more tracebacks like those above")


def test_a_stage_that_never_works_leaves_those_below_without_input(folder: Path) -> None:
    spec = spec_of(
        {"a": {"model": "m.py:Never"}, "b": {"model": "m.py:Upper", "after": "a"}, "c": {"model": "m.py:Upper"}}
    )
    profile = run(spec, folder, batch_sizes=[1])
    assert cells(profile) == [("c", "default", "cpu", 1)]
    assert problems(profile) == [
        ("failed", "a", None, None),
        ("failed", "a", "cpu", 1),
        ("skipped", "b", "cpu", 1),
    ]
    with pytest.raises(ProfileError, match=r"nothing could be measured; the first reason: .*never works"):
        run(spec_of({"a": {"model": "m.py:Never"}}), folder, batch_sizes=[1])


def test_warm_up_batches_come_on_top_of_those_that_count(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "batches"
    spec = spec_of({"a": {"model": "m.py:Counts", "options": {"path": str(log)}}})
    profile = run(spec, folder, effort=Effort(min_repeats=4, good_repeats=4, max_repeats=4, warmup=3))
    assert [row.samples for row in profile.rows] == [4, 4]
    assert log.read_text().split() == ["1"] * 7 + ["2"] * 7


def test_hardware_that_is_not_here_is_skipped_and_told(folder: Path) -> None:
    spec = spec_of({"a": {"model": "m.py:Upper"}}, gpu={"price": "$2/h", "device": "cuda:97"}, cpu={"price": "$1/h"})
    profile = run(spec, folder, batch_sizes=[1])
    assert cells(profile) == [("a", "default", "cpu", 1)]
    assert problems(profile) == [("skipped", "a", "gpu", None)]
    assert "no device 'cuda:97'" in profile.stamp["problems"][0]["text"]


def test_batches_beyond_the_promised_latency_are_not_measured(folder: Path) -> None:
    spec = Spec.from_dict(
        {
            "slo": {"latency": "1ms"},
            "supply": {"cpu": {"price": "$1/h"}},
            "stages": {"a": {"model": "m.py:Lazy", "max_batch_size": 4}},
        }
    )
    profile = run(spec, folder, batch_sizes=None)
    assert [row.batch_size for row in profile.rows] == [1]
    assert problems(profile) == [("skipped", "a", "cpu", 2), ("skipped", "a", "cpu", 4)]


def test_without_budget_left_batch_size_one_is_measured_and_the_rest_is_told(folder: Path) -> None:
    spec = spec_of({"a": {"model": "m.py:Upper"}, "b": {"model": "m.py:Upper"}})
    profile = run(spec, folder, budget_s=1e-9)
    assert [row.batch_size for row in profile.rows] == [1, 1]
    assert all(row.samples == QUICK.min_repeats for row in profile.rows)
    assert problems(profile) == [("skipped", "a", "cpu", 2), ("skipped", "b", "cpu", 2)]
    assert profile.stamp["samples"]["recorded"] == 1


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


def test_a_stage_that_no_sample_reaches_is_told(folder: Path) -> None:
    stages = {"split": {"model": "m.py:Split"}, "word": {"model": "m.py:Upper", "after": "split"}}
    stages["number"] = {"model": "m.py:Upper", "after": "split"}
    profile = run(spec_of(stages), folder, [Payload("text", b"a b")], batch_sizes=[1])
    assert ("warning", "number", None, None) in problems(profile)


def test_the_time_that_models_take_to_start_is_not_taken_from_the_samples(folder: Path) -> None:
    (folder / "m.py").write_text(
        MODELS + "\nclass Late(Upper):\n    def setup(self, hardware):\n        time.sleep(0.3)\n"
    )
    spec = spec_of({"a": {"model": "m.py:Late"}, "b": {"after": "a"}})
    recorder = Recorder(spec.graph, models(spec, folder), {"a": HardwareView("cpu")}, seed=0, timeout_s=30.0)
    asyncio.run(recorder.run(TEXTS, lambda count: False))
    assert recorder.starting_s >= 0.3


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


def test_more_items_than_a_request_may_have_are_told(folder: Path) -> None:
    spec = spec_of(
        {
            "a": {"model": "m.py:Split", "options": {"times": 10_001}},
            "word": {"model": "m.py:Upper", "after": "a"},
            "number": {"after": "a"},
            "other": {"model": "m.py:Upper"},
        }
    )
    profile = run(spec, folder, [Payload("text", b"a")], batch_sizes=[1])
    assert any("the request grew beyond 10000 items" in problem["text"] for problem in profile.stamp["problems"])
    assert {"a", "other"} <= {row.stage for row in profile.rows}


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


def test_it_can_be_called_where_an_event_loop_runs(folder: Path) -> None:
    async def notebook() -> tuple[Row, ...]:
        return run(spec_of({"a": {"model": "m.py:Upper"}}), folder, batch_sizes=[1]).rows

    assert len(asyncio.run(notebook())) == 1


def test_wrong_arguments_are_refused(folder: Path) -> None:
    spec = spec_of({"a": {"model": "m.py:Upper"}})
    with pytest.raises(ProfileError, match="no samples"):
        run(spec, folder, [])
    with pytest.raises(ProfileError, match="budget_s is 0"):
        run(spec, folder, budget_s=0)


@pytest.mark.demo
@pytest.mark.skipif(importlib.util.find_spec("rapidocr") is None, reason="needs the demo extra")
def test_real_document_models_are_measured(tmp_path: Path) -> None:
    from headway.demo.pages import pages

    spec = spec_of(
        {
            "detect": {"model": "headway.demo.document:Detect", "options": {"size": 480}},
            "orient": {"model": "headway.demo.document:Orient", "after": "detect"},
            "recognise": {"model": "headway.demo.document:Recognise", "after": "orient"},
        }
    )
    found = [Payload("raw", page.image) for page in pages(3, seed=1)]
    profile = run(spec, tmp_path, found, batch_sizes=[1])
    assert [row.stage for row in profile.rows] == ["detect", "orient", "recognise"]
    (visits,) = profile.visits
    assert visits.counts["detect"] == (1, 1, 1)
    assert visits.counts["orient"] == visits.counts["recognise"]
    assert sum(visits.counts["orient"]) > 0
