"""The parts of a measurement that need no process: when to stop, what to feed, what to measure, what is kept."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.errors import ProfileError, SpecError
from headway.profile import Profile, RecordedVisits, Row
from headway.profile.cell import Effort, batches_of, nearest_rank, settled
from headway.profile.finished import Finished
from headway.profile.match import unmatched
from headway.profile.measure import ENOUGH_SAMPLES, RECORDING_SHARE, recorded_enough
from headway.profile.record import MAX_COMBINATIONS, ancestors, combinations
from headway.profile.said import Said
from headway.profile.samples import read_samples, samples_hash
from headway.profile.stamp import stamp
from headway.profile.target import absence, available_cores, models, targets
from headway.serve.wire import Payload
from headway.spec.model import Hardware, Spec

times = st.lists(st.floats(1e-6, 10.0), max_size=120)


@given(times, st.booleans())
def test_a_cell_is_never_settled_below_the_least_and_always_at_the_most(times_s: list[float], late: bool) -> None:
    effort = Effort(min_repeats=5, good_repeats=10, max_repeats=100)
    answer = settled(times_s, effort, out_of_time=late)
    if len(times_s) < 5:
        assert not answer
    elif len(times_s) >= 100 or late:
        assert answer


def test_a_steady_cell_settles_sooner_than_a_noisy_one() -> None:
    effort = Effort(min_repeats=2, good_repeats=10, max_repeats=10**6, precision=0.05)
    rng = random.Random(1)

    def needed(spread: float) -> int:
        times_s: list[float] = []
        while not settled(times_s, effort, out_of_time=False):
            times_s.append(1.0 + spread * (rng.random() - 0.5))
        return len(times_s)

    assert needed(0.0) == 10 < needed(1.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_repeats": 0},
        {"good_repeats": 3},
        {"max_repeats": 5},
        {"precision": 0.0},
        {"timeout_s": 0.0},
        {"warmup": -1},
    ],
)
def test_an_impossible_effort_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ProfileError):
        Effort(**wrong)


@given(st.integers(1, 20), st.integers(1, 30), st.integers())
def test_batches_use_every_input_equally_often(inputs: int, size: int, seed: int) -> None:
    batches = batches_of(range(inputs), size, random.Random(seed))
    drawn = [place for _ in range(inputs) for place in next(batches)]
    assert {drawn.count(place) for place in range(inputs)} == {size}


@given(st.lists(st.floats(0, 1), min_size=1), st.floats(1, 100))
def test_nearest_rank_is_the_least_value_that_enough_do_not_exceed(values: list[float], percent: float) -> None:
    rank = nearest_rank(values, percent)
    assert rank in values
    assert sum(v <= rank for v in values) >= percent / 100 * len(values) - 1e-9
    below = [v for v in values if v < rank]
    assert len(below) < percent / 100 * len(values) + 1e-9


def test_samples_come_in_order_of_name_with_the_codec_of_their_kind(tmp_path: Path) -> None:
    for name, data in {"b.txt": b"b", "a.png": b"\x89", "c.json": b'{"k": 1}', ".hidden": b"x"}.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder").mkdir()
    expected = [Payload("raw", b"\x89"), Payload("text", b"b"), Payload("json", b'{"k": 1}')]
    assert read_samples(tmp_path) == expected
    assert read_samples(tmp_path / "b.txt") == [Payload("text", b"b")]


def test_lines_are_samples(tmp_path: Path) -> None:
    file = tmp_path / "s.jsonl"
    file.write_text('"caf\\u00e9"\n\n{"k": [1]}\n3\n')
    assert read_samples(file) == [
        Payload("text", "café".encode()),
        Payload("json", b'{"k": [1]}'),
        Payload("json", b"3"),
    ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("s.jsonl", b'"a"\n{oops\n', r"s\.jsonl:2: not JSON"),
        ("s.jsonl", b"\n \n", "there are no samples"),
        ("s.json", b"\xff", r"s\.json: not JSON"),
        ("s.json", b"[" * 100_000, r"s\.json: not JSON"),
    ],
)
def test_malformed_samples_are_refused_with_their_place(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ProfileError, match=message):
        read_samples(tmp_path / name)


@given(st.integers(1, 1000), st.floats(0, 100), st.floats(0.1, 100))
def test_a_few_samples_are_all_recorded_within_the_budget_and_many_within_a_part_of_it(
    count: int, took_s: float, budget_s: float
) -> None:
    assert not recorded_enough(count, took_s, None)
    assert recorded_enough(count, budget_s, budget_s)
    assert recorded_enough(count, took_s, budget_s) <= (took_s >= RECORDING_SHARE * budget_s)
    if count < ENOUGH_SAMPLES and took_s < budget_s:
        assert not recorded_enough(count, took_s, budget_s)


def raised(name: str, *text: str, place: str = "predict") -> list[str]:
    lines = ["Traceback (most recent call last):", f'  File "m.py", line 3, in {place}', *text]
    return [f"[{name}] {line}" for line in lines]


def test_a_traceback_that_comes_again_is_shown_once_and_counted() -> None:
    shown: list[str] = []
    said = Said("a", shown.append)
    first = raised("a on cpu", "ValueError: 1 is odd", "and more")
    other = raised("a on cpu", "ValueError: 1 is odd", place="setup")
    join = "[a on cpu] During handling of the above exception, another exception occurred:"
    feed = [*first, *raised("a on cpu, batch size 2", "ValueError: 3 is odd", "and more"), *other, *first, join, *first]
    for line in ["[a on cpu] hello", *feed, "[a on cpu] hello"]:
        said(line)
    said.finish()
    assert shown == [
        "[a on cpu] hello", *first, *other, "[a on cpu] hello", "[a] 3 more tracebacks like those above"
    ]  # fmt: skip


def test_half_a_traceback_is_not_lost() -> None:
    shown: list[str] = []
    said = Said("a", shown.append)
    for line in raised("a"):
        said(line)
    said.finish()
    assert shown == raised("a")


def test_missing_and_oversized_samples_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProfileError, match="cannot read the samples"):
        read_samples(tmp_path / "nowhere")
    with pytest.raises(ProfileError, match="there are no samples"):
        read_samples(tmp_path)
    monkeypatch.setattr("headway.profile.samples.MAX_SAMPLE_BYTES", 4)
    monkeypatch.setattr("headway.profile.samples.MAX_TOTAL_BYTES", 6)
    (tmp_path / "a.txt").write_bytes(b"12345")
    with pytest.raises(ProfileError, match="5 bytes; a sample has at most 4"):
        read_samples(tmp_path)
    (tmp_path / "a.jsonl").write_text('"a long line"\n')
    with pytest.raises(ProfileError, match=r"a\.jsonl:1: a sample has at most"):
        read_samples(tmp_path / "a.jsonl")
    (tmp_path / "a.txt").write_bytes(b"1234")
    (tmp_path / "a.jsonl").write_bytes(b"123")
    with pytest.raises(ProfileError, match="at most 10000 samples and 6 bytes"):
        read_samples(tmp_path)


def test_the_hash_of_samples_tells_contents_kinds_and_order_apart() -> None:
    a, b = Payload("text", b"a"), Payload("text", b"b")
    cases = [[a], [b], [a, b], [b, a], [Payload("text", b"ab")], [Payload("raw", b"a")]]
    assert len({samples_hash(case) for case in cases}) == len(cases)


def spec_of(stages: dict[str, Any], **supply: Any) -> Spec:
    return Spec.from_dict({"slo": {"latency": "1s"}, "supply": supply or {"cpu": {"price": "$1/h"}}, "stages": stages})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m.py").write_text("class A:\n    def predict(self, batch):\n        return batch\n")
    return tmp_path


@pytest.mark.parametrize(
    ("largest", "asked", "sizes"),
    [(None, None, (1, 2, 4, 8, 16)), (6, None, (1, 2, 4, 6)), (1, None, (1,)), (4, [8, 1, 3, 3], (1, 3))],
)
def test_batch_sizes_are_powers_of_two_up_to_the_stages_largest(
    folder: Path, largest: int | None, asked: list[int] | None, sizes: tuple[int, ...]
) -> None:
    stage = {"model": "m.py:A"} | ({"max_batch_size": largest} if largest else {})
    spec = spec_of({"a": stage})
    (target,) = targets(spec, models(spec, folder), asked)
    assert target.batch_sizes == sizes


def test_a_batch_size_that_would_fill_the_memory_is_refused() -> None:
    with pytest.raises(ProfileError, match="batch_size must be a whole number from 1 to 4096"):
        Profile.from_rows([Row("a", "cpu", 1, 0.1), Row("a", "cpu", 1_000_000_000, 0.1)])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "`rows` must be a list"),
        ({"rows": ["x"]}, "`rows` must be a list"),
        ({"rows": [{"stage": "a"}]}, r"rows\[0\]: hardware is missing"),
        ({"rows": [{"stage": "a", "hardwear": "cpu"}]}, "unknown field 'hardwear'; did you mean 'hardware'"),
        ({"rows": [{"stage": "a", "hardware": "cpu", "batch_size": 1, "mean_s": "x"}]}, "mean_s must be a number"),
    ],
)
def test_a_profile_of_another_shape_is_refused_by_its_place(value: Any, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        Profile.from_dict(value)


PRICE = {"price": "$1/h"}


def test_rows_that_a_spec_has_no_use_for_are_told_with_the_nearest_name() -> None:
    spec = spec_of({"judge": {}, "a": {"variants": {"small": {}, "large": {}}}}, cpu=PRICE, gpu=PRICE)
    rows = [Row("judge", "cpu", 1, 0.1), Row("a", "cpu", 1, 0.1, variant="small")]
    assert unmatched(Profile.from_rows(rows), spec) == []
    rows += [Row("jugde", "cpu", 1, 0.1), Row("jugde", "cpu", 2, 0.1)]
    rows += [Row("a", "gqu", 1, 0.1, variant="smal")]
    assert unmatched(Profile.from_rows(rows), spec) == [
        "profile: 2 rows of stage 'jugde' are not used: the spec has no such name; did you mean 'judge'?",
        "profile: 1 row of hardware 'gqu' is not used: the spec has no such name; did you mean 'gpu'?",
        "profile: 1 row of stage 'a', variant 'smal' is not used: the spec has no such name; did you mean 'small'?",
    ]


def test_errors_of_a_profile_name_its_file_and_the_stage(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    Profile.from_rows([Row("a", "cpu", 1, 0.1)]).write(path)
    read = Profile.read(path)
    with pytest.raises(ProfileError, match=r"p\.csv: no rows for stage 'judge'; profiled: a"):
        read.service("judge", "default", "cpu")


def test_a_profile_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(ProfileError) as caught:
        Profile.read(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot read the profile: Is a directory"


def test_without_samples_one_empty_text_is_measured(folder: Path) -> None:
    import headway as hw

    profile = hw.profile(spec_of({"a": {"model": "m.py:A", "max_batch_size": 1}}), folder=folder, budget_s=0.1)
    assert profile.stamp["samples"]["count"] == 1


@pytest.mark.parametrize("sizes", [[2, 4], [0, 1], []])
def test_batch_sizes_without_one_are_refused(folder: Path, sizes: list[int]) -> None:
    spec = spec_of({"a": {"model": "m.py:A"}})
    with pytest.raises(ProfileError, match="include 1"):
        targets(spec, models(spec, folder), sizes)


def test_every_variant_is_measured_on_every_hardware_of_its_stage(folder: Path) -> None:
    spec = spec_of(
        {
            "a": {"model": "m.py:A", "variants": {"x": {}, "y": {"options": {"k": 1}}}},
            "b": {"model": "m.py:A", "after": "a", "hardware": "big"},
            "c": {"after": "a"},
        },
        cpu={"price": "$1/h"},
        big={"price": "$2/h", "threads": 100_000},
    )
    found = targets(spec, models(spec, folder))
    assert [target.label for target in found] == ["a/x on cpu", "a/y on cpu", "a/x on big", "a/y on big", "b on big"]
    assert [target.absent is None for target in found] == [True, True, False, False, False]
    assert found[1].model.options == {"k": 1}
    assert found[0].model.children == ("b", "c")


def test_a_spec_without_models_has_nothing_to_measure(folder: Path) -> None:
    with pytest.raises(ProfileError, match="no stage names a model"):
        models(spec_of({"a": {}}), folder)
    with pytest.raises(SpecError, match=r"stages\.a\.model: there is no file 'n\.py'"):
        models(spec_of({"a": {"model": "n.py:A"}}), folder)


def test_hardware_that_is_not_here_is_recognised() -> None:
    assert absence(Hardware(price="$1/h")) is None
    assert "device 'cuda:97'" in (absence(Hardware(price="$1/h", device="cuda:97")) or "")
    too_many = len(available_cores()) + 1
    assert f"{too_many} threads" in (absence(Hardware(price="$1/h", threads=too_many)) or "")


def test_choices_of_variants_are_all_or_one_change_at_a_time(folder: Path) -> None:
    few = spec_of(
        {
            "a": {"model": "m.py:A", "variants": {"x": {}, "y": {}}},
            "b": {"model": "m.py:A", "variants": {"x": {}, "y": {}, "z": {}}, "after": "a"},
            "last": {"model": "m.py:A", "variants": {"x": {}, "y": {}}, "after": "b"},
        }
    )
    found = combinations(few.graph, models(few, folder))
    assert len(found) == 6 == len({tuple(choice.items()) for choice in found})
    assert all(set(choice) == {"a", "b"} for choice in found)
    variants = {f"v{k}": {} for k in range(9)}
    names = ["a", "b", "c", "d"]
    many = spec_of(
        {
            n: {"model": "m.py:A", "variants": variants} | ({"after": names[i - 1]} if i else {})
            for i, n in enumerate(names)
        }
    )
    found = combinations(many.graph, models(many, folder))
    assert len(found) == 1 + 3 * 8 <= MAX_COMBINATIONS
    assert all(sum(v != "v0" for v in choice.values()) <= 1 for choice in found)


def test_ancestors_are_all_stages_above() -> None:
    spec = spec_of({"a": {}, "b": {"after": "a"}, "c": {"after": "a"}, "d": {"after": ["b", "c"]}, "e": {}})
    assert ancestors(spec.graph, "d") == ("a", "b", "c")
    assert ancestors(spec.graph, "a") == ancestors(spec.graph, "e") == ()


ROW = Row("a", "cpu", 1, 0.01, p50_s=0.01, samples=9, evidence="measured")
VISITS = [RecordedVisits({"a": (1, 1), "b": (0, 3)}, {"a": "x"}, left_out=2)]


def test_finished_cells_are_kept_for_those_who_measure_the_same(tmp_path: Path) -> None:
    path = tmp_path / "cells.json"
    first = Finished(path)
    first.add("a/x/cpu/1", "hash", ROW)
    first.add_visits("hash", VISITS)
    again = Finished(path)
    assert (again.row("a/x/cpu/1", "hash"), again.visits("hash")) == (ROW, VISITS)
    assert again.row("a/x/cpu/1", "other") is again.row("a/x/cpu/2", "hash") is again.visits("other") is None
    again.add("a/x/cpu/1", "other", ROW)
    assert Finished(path).row("a/x/cpu/1", "hash") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"schema": "other"}',
        '{"schema": "headway.measurements/1"}',
        '{"schema": "headway.measurements/1", "cells": {"a": {"made_from": "h", "row": {"stage": "a"}}}, "visits": {}}',
        '{"schema": "headway.measurements/1", "cells": {}, "visits": {"made_from": "h", "records": [3]}}',
    ],
)
def test_another_file_is_not_taken_for_finished_cells(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cells.json"
    path.write_text(text)
    with pytest.raises(ProfileError, match="not a file of finished measurements"):
        Finished(path)
    assert path.read_text() == text


@settings(max_examples=20)
@given(st.none() | st.just("2026-01-31"))
def test_a_stamp_is_json_and_carries_a_date_only_when_given_one(date: str | None) -> None:
    found = stamp([Payload("text", b"a")], date)
    assert json.loads(json.dumps(found)) == found
    assert found.get("date") == date
    assert found["samples"]["count"] == 1
