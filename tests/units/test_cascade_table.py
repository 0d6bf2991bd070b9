"""The validation table: what belongs into one, its file, and its splits."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headway.cascade.table import ValidationTable
from headway.errors import CascadeError

LABELS = ["x", "y", "x", "y"]
PREDICTED = {"a": ["x", "x", "x", "y"], "b": ["x", "y", "y", "y"]}
CERTAINTY = {"a": [0.9, 0.5, 0.7, 0.8], "b": [1.0, 0.9, 0.6, 0.7]}


def table() -> ValidationTable:
    return ValidationTable(LABELS, PREDICTED, CERTAINTY)


def same(one: ValidationTable, other: ValidationTable) -> bool:
    def columns(which: ValidationTable) -> list[Any]:
        groups = (which.predicted, which.certainty, which.score, which.credit)
        listed = [None if group is None else {name: c.tolist() for name, c in group.items()} for group in groups]
        return [None if which.labels is None else which.labels.tolist(), *listed]

    return columns(one) == columns(other)


def test_it_says_what_is_right() -> None:
    assert table().correct["a"].tolist() == [True, False, True, True]
    assert (table().accuracy("a"), table().accuracy("b"), len(table())) == (0.75, 0.75, 4)
    assert repr(table()) == "ValidationTable(4 samples, models a, b)"


def test_columns_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        table().credit["a"][0] = 0.0


def test_it_survives_pickling_and_its_file(tmp_path: Path) -> None:
    numbered = ValidationTable([0, 1, 2], {"a": [0, -1, 2]}, {"a": [0.1, 1 / 3, 1e-17]})
    graded = ValidationTable(None, None, CERTAINTY, {"a": [0.5, 0.0, 1.0, 0.25], "b": [1.0, 1.0, 0.5, 0.0]})
    for one in (table(), numbered, graded):
        one.write(tmp_path / "table.csv")
        assert same(ValidationTable.read(tmp_path / "table.csv"), one)
        assert same(pickle.loads(pickle.dumps(one)), one)


def test_graded_credits_are_not_right_or_wrong() -> None:
    graded = ValidationTable(None, None, {"a": [1.0, 2.0]}, {"a": [0.5, 1.0]})
    assert (graded.graded, graded.accuracy("a")) == (True, 0.75)
    with pytest.raises(CascadeError, match="use `credit`"):
        _ = graded.correct
    assert ValidationTable(None, None, {"a": [1.0]}, {"a": [1.0]}).correct["a"].tolist() == [True]


@pytest.mark.parametrize(
    ("labels", "predicted", "certainty", "said"),
    [
        ([], {"a": []}, {"a": []}, "it has no samples"),
        (LABELS, {}, {}, "it has no model"),
        (["x"] * 4, PREDICTED, CERTAINTY, "all 4 samples have the label 'x'; accuracy on one class"),
        (["x", None, "y", "y"], PREDICTED, CERTAINTY, "the label is missing for 1 of 4 samples, first for sample 1"),
        ([0.0, math.nan, 1.0, 1.0], {"a": [0, 0, 0, 0]}, {"a": [1, 1, 1, 1]}, "the label is missing for 1 of 4"),
        (LABELS[:3], PREDICTED, CERTAINTY, "3 labels for 4 samples"),
        (
            LABELS,
            PREDICTED,
            {**CERTAINTY, "a": [0.9, math.nan, 1, math.nan]},
            "certainty of model 'a' is missing for 2",
        ),
        (LABELS, PREDICTED, {**CERTAINTY, "a": ["hi"] * 4}, "certainty of model 'a' is not made of numbers"),
        (LABELS, {"a": PREDICTED["a"]}, CERTAINTY, "model 'b' has no predictions"),
        (LABELS, PREDICTED, {"a": CERTAINTY["a"]}, "model 'b' has no certainty"),
        (LABELS, {**PREDICTED, "b": ["x"]}, CERTAINTY, "predictions of model 'b' has 1 samples where others have 4"),
        (LABELS, {**PREDICTED, "b": [0, 1, 0, 1]}, CERTAINTY, "model 'b' predicts 0 where labels are like 'x'"),
        (LABELS, {**PREDICTED, "b": [[0]] * 4}, CERTAINTY, "has the shape"),
        (None, PREDICTED, CERTAINTY, "nothing says which answers are right"),
    ],
)
def test_what_is_no_table_is_refused(labels: Any, predicted: Any, certainty: Any, said: str) -> None:
    with pytest.raises(CascadeError, match=said):
        ValidationTable(labels, predicted, certainty)


@pytest.mark.parametrize(
    ("score", "said"), [([0.5, 1.5], "go from 0.5 to 1.5"), ([0.5, math.nan], "score of model 'a' is missing for 1")]
)
def test_a_score_is_a_credit(score: list[float], said: str) -> None:
    with pytest.raises(CascadeError, match=said):
        ValidationTable(None, None, {"a": [1.0, 1.0]}, {"a": score})


def test_an_unknown_model_is_named_with_the_nearest() -> None:
    with pytest.raises(CascadeError, match="no model 'smal'; did you mean 'small'"):
        ValidationTable([0, 1], {"small": [0, 1]}, {"small": [1, 1]}).accuracy("smal")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sample,model\n0,a\n", "line 1: no column 'certainty'"),
        ("sample,model,certanty\n", "line 1: unknown column 'certanty'; did you mean 'certainty'"),
        ("sample,model,certainty,score\n0,a,1\n", "line 2: 3 values where the header names 4"),
        ("sample,model,certainty,score\n0,a,1,1\n0,a,1,1\n", "line 3: sample '0' of model 'a' stands there twice"),
        ("sample,model,certainty,score\n0,a,1,1\n1,b,1,1\n", "model 'b' has no row for sample '0'"),
        ("sample,model,certainty,score\n0,a,1,1\n0,b,1,1\n1,b,1,1\n", "model 'a' has no row for sample '1'"),
        ("sample,model,certainty,score\n0,a,,1\n", "certainty of model 'a' is not made of numbers"),
        (
            "sample,model,label,predicted,certainty\n0,a,x,x,1\n1,a,y,x,1\n0,b,y,x,1\n1,b,y,y,1\n",
            "sample '0' has the label 'x' in the rows of 'a' and 'y'",
        ),
        ("sample,model,certainty,score\n", "it has no model"),
        ("sample,model,label,predicted,certainty\n", "it has no model; a row per sample and model must follow"),
        (
            "sample,model,label,predicted,certainty\n0,a,x,x,1\n1,a,nan,x,1\n",
            "line 3: the label is 'nan'; leave the sample out",
        ),
        ("sample,model,label,predicted,certainty\n0,a,x,NaN,1\n", "line 2: the predicted is 'NaN'"),
        (
            "sample,model,label,predicted,certainty\n0,a,x,x,1\n1,a,y,y,inf\n",
            "line 3: the certainty is 'inf'; a finite",
        ),
        ("sample,model,certainty,score\n0,a,-Infinity,1\n", "line 2: the certainty is '-Infinity'"),
        (
            "sample,model,label,predicted,certainty\n0,a,cat,Cat,1\n1,a,dog,Dog,1\n",
            "model 'a' predicts 'Cat', 'Dog' where labels are 'cat', 'dog'; both must spell the same",
        ),
        ("", "no column 'sample'"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(CascadeError, match=said) as refusal:
        ValidationTable.read(path)
    assert str(refusal.value).startswith(f"{path}: ")


def test_whole_numbers_are_the_same_however_they_are_written(tmp_path: Path) -> None:
    """As pandas writes a column of whole numbers in which one was missing for a while."""
    path = tmp_path / "table.csv"
    path.write_text("sample,model,label,predicted,certainty\n0,a,3.0,3,0.5\n1,a,-2.0,3,0.5\n2,a,1.0,1.00,0.5\n")
    read = ValidationTable.read(path)
    assert read.correct["a"].tolist() == [True, False, True]
    assert read.labels is not None
    assert read.labels.tolist() == [3, -2, 1]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CascadeError, match=r"none\.csv: cannot read the table"):
        ValidationTable.read(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CascadeError, match="a CSV file in UTF-8 is needed"):
        ValidationTable.read(tmp_path / "binary.csv")


def numbered(samples: int) -> ValidationTable:
    """A table whose certainties number its samples; one label in ten is 1."""
    labels = np.arange(samples) % 10 == 0
    return ValidationTable(labels, {"a": labels}, {"a": np.arange(samples)})


def test_rows_are_taken_by_place_or_mask() -> None:
    whole = numbered(20)
    assert whole.take([3, 1, 3]).certainty["a"].tolist() == [3.0, 1.0, 3.0]
    assert whole.take(np.arange(20) > 17).certainty["a"].tolist() == [18.0, 19.0]
    with pytest.raises(CascadeError, match="no rows are taken"):
        whole.take([])


def test_parts_are_disjoint_stratified_and_reproducible() -> None:
    whole = numbered(1000)
    parts = whole.split([0.5, 0.2, 0.3], seed=3)
    rows = [set(part.certainty["a"].tolist()) for part in parts]
    assert set().union(*rows) == set(range(1000))
    assert sum(map(len, rows)) == 1000
    for part, share in zip(parts, (0.5, 0.2, 0.3), strict=True):
        assert part.labels is not None
        assert part.labels.sum() == pytest.approx(100 * share, abs=1)
        assert len(part) == pytest.approx(1000 * share, abs=2)
    assert all(same(*pair) for pair in zip(parts, whole.split([0.5, 0.2, 0.3], seed=3), strict=True))
    assert not same(parts[0], whole.split([0.5, 0.2, 0.3], seed=4)[0])
    assert len(whole.split([0.25], seed=0)[0]) == pytest.approx(250, abs=2)


@pytest.mark.parametrize(
    ("shares", "said"), [([0.7, 0.5], "1 together at most"), ([0.5, 0.0], "above 0"), ([], "cannot split")]
)
def test_shares_that_are_none_are_refused(shares: list[float], said: str) -> None:
    with pytest.raises(CascadeError, match=said):
        numbered(20).split(shares, seed=0)


def test_a_part_that_gets_no_sample_is_an_error() -> None:
    with pytest.raises(CascadeError, match="more samples or fewer parts"):
        numbered(11).split([0.98, 0.001, 0.001, 0.001], seed=0)
