"""Measuring real models in real processes: what is recorded, and what a failing cell costs the others."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.e2e.profiling.measuring import MODELS, QUICK, SPLIT, TEXTS, cells, problems, run, spec_of

from headway.errors import ProfileError
from headway.profile import Profile, Row
from headway.profile.cell import Effort
from headway.profile.measure import Progress
from headway.profile.record import Recorder
from headway.profile.target import models
from headway.serve.model_ref import HardwareView
from headway.serve.wire import Payload
from headway.spec.model import Spec


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
    profile = run(spec, folder, batch_sizes=[1, 2, 4], effort=Effort(2, 3, 4, warmup=0, timeout_s=4.0))
    assert [row.batch_size for row in profile.rows] == [1]
    assert problems(profile) == [("failed", "a", "cpu", 2), ("skipped", "a", "cpu", 4)]
    assert "took longer than 4 s" in profile.stamp["problems"][0]["text"]


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
