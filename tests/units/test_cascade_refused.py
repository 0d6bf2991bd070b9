"""Rows that a fitted cascade cannot take: one clear sentence, and served, nobody else's request fails with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler

from headway.cascade import Feature, Features, Lookup, fit_cascade
from headway.cascade.run import FittedCascade
from headway.errors import CascadeError
from headway.serve.child import Replica

WORDS = ("bad", "poor", "stale", "tea", "cup", "good", "fine", "fresh")
LIKE = "rows must be like those that it was fitted on"


def texts(many: int = 400) -> list[str]:
    return [" ".join(line) for line in np.random.default_rng(1).choice(WORDS, size=(many, 4))]


@pytest.fixture(scope="module")
def of_texts() -> FittedCascade:
    given = texts()
    labels = [sum(text.count(word) for word in WORDS[5:]) > 1 for text in given]
    union = make_union(TfidfVectorizer(), TfidfVectorizer(analyzer="char", ngram_range=(2, 3)))
    return fit_cascade(make_pipeline(union, LogisticRegression()), given, labels, tolerance=0.2, folds=2, batch_size=50)


@pytest.fixture(scope="module")
def of_numbers() -> FittedCascade:
    rows = np.random.default_rng(2).normal(size=(400, 2))
    scaled = ColumnTransformer([("left", StandardScaler(), [0]), ("right", "passthrough", [1])])
    pipeline = make_pipeline(scaled, LogisticRegression())
    return fit_cascade(pipeline, rows, rows.sum(axis=1) > 0, tolerance=0.2, folds=2, batch_size=50)


@pytest.fixture(scope="module")
def of_tables() -> FittedCascade:
    rows = np.random.default_rng(3).normal(size=(400, 3))
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    return fit_cascade(pipeline, rows, rows.sum(axis=1) > 0, tolerance=0.2, folds=2, batch_size=50)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("text", "rows: a str is one row; give a list of rows"),
        (None, "rows: a NoneType has no length; give a list, an array or a frame"),
        ([None], f"feature '.*': cannot take the row None: AttributeError: .*; {LIKE}"),
        (["good tea", "bad cup", None, "tea"], "cannot take row 2 of 4, counted from 0, None: AttributeError"),
        (["good tea", float("nan")], "cannot take row 1 of 2, counted from 0, nan: (ValueError|AttributeError): "),
        (["good tea", ["bad", "cup"]], r"cannot take row 1 of 2, counted from 0, \['bad', 'cup'\]: AttributeError"),
        (["good tea", 7], "cannot take row 1 of 2, counted from 0, 7: AttributeError: 'int' object"),
    ],
)
@pytest.mark.parametrize("form", ["fitted", "compiled"])
def test_what_is_no_text_is_named(of_texts: FittedCascade, form: str, rows: Any, says: str) -> None:
    made = of_texts if form == "fitted" else of_texts.compiled(texts(50))
    for ask in (made.predict, made.predict_proba, made.reference().predict):
        with pytest.raises(CascadeError, match=says):
            ask(rows)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (np.zeros((3, 1)), "rows: no column 1; they have 0"),
        (np.zeros(3), "rows: no column .*: a row is one value"),
        (np.array([[0.0, 1.0], [np.nan, 1.0], [0.0, np.nan]]), r"cannot take row 1 of 3, .*ValueError: .*NaN"),
        (np.array([["a", "b"]]), "cannot take the row .*ValueError: could not convert string to float"),
        ([[0.0, 1.0], None], "rows: no column"),
    ],
)
def test_what_are_no_two_numbers_is_named(of_numbers: FittedCascade, rows: Any, says: str) -> None:
    with pytest.raises(CascadeError, match=says):
        of_numbers.predict(rows)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([[0.0, 1.0, 2.0], [0.0, 1.0]], r"cannot take row 1 of 2, counted from 0, \[0.0, 1.0\]: ValueError"),
        ([[0.0, 1.0]] * 4, "cannot take row 0 of 4, .*ValueError: X has 2 features, but StandardScaler is expecting 3"),
        (np.zeros((4, 2)), "cannot take row 0 of 4, .*ValueError: X has 2 features, but StandardScaler is expecting 3"),
        (np.zeros((2, 3, 1)), "cannot take row 0 of 2, .*ValueError: Found array with dim 3"),
        (np.array([[0.0, 1.0, 2.0], [0.0, 1.0, np.inf]]), "cannot take row 1 of 2, .*ValueError: .*infinity"),
    ],
)
def test_tables_of_another_width_are_named(of_tables: FittedCascade, rows: Any, says: str) -> None:
    with pytest.raises(CascadeError, match=says):
        of_tables.predict(rows)


def test_what_passes_when_it_is_tried_again_blames_no_row() -> None:
    calls = []

    def passing(rows: list[Any]) -> list[Any]:
        calls.append(rows)
        if len(calls) == 1:
            raise KeyError("gone for a moment")
        return rows

    known = Features({"p": Feature(passing)}).known([1.0, 2.0, 3.0])
    with pytest.raises(CascadeError, match=r"failed for 3 rows with KeyError: .*blamed, since row 2 of 3, .* alone"):
        known.block("p")
    alone = Features({"p": Feature(lambda rows: [1 / row for row in rows])}).known([1.0, 0.0, 3.0])
    with pytest.raises(CascadeError, match=r"'p': cannot take row 1 of 3, counted from 0, 0.0: ZeroDivisionError"):
        alone.block("p")


@pytest.mark.parametrize("given", [None, 7, "text"])
@pytest.mark.parametrize("how", ["block", "compute"])
def test_what_a_look_up_gives_is_its_own_fault_and_asked_for_once(how: str, given: Any) -> None:
    calls = []

    def fetch(keys: list[Any]) -> Any:
        calls.append(keys)
        return given

    known = Features({"p": Feature(Lookup(fetch))}).known(["a", "b"])
    says = (
        f"feature 'p': look-up: the source gave {given!r} for 'a', 'b'; a row for each key in their order, or a mapping"
    )
    with pytest.raises(CascadeError, match=says):
        known.block("p") if how == "block" else known.compute(["p"])
    assert calls == [["a", "b"]]


@pytest.mark.parametrize("how", ["block", "compute"])
def test_a_key_that_cannot_be_looked_up_is_its_rows_fault(how: str) -> None:
    calls: list[Any] = []

    def fetch(keys: list[Any]) -> Any:
        calls.append(keys)

    known = Features({"p": Feature(Lookup(fetch))}).known(["a", {"b": 1}])
    with pytest.raises(CascadeError, match=r"feature 'p': cannot take row 1 of 2, .*TypeError: .*unhashable"):
        known.block("p") if how == "block" else known.compute(["p"])
    assert calls == []


def test_a_batch_of_no_rows_has_no_answers(of_texts: FittedCascade, of_tables: FittedCascade) -> None:
    nothing: list[Any] = [[], np.array([], dtype=object)]
    for empty in nothing:
        assert of_texts.predict(empty).tolist() == []
        assert of_texts.predict_proba(empty).shape == (0, 2)
        assert of_texts.member(0).predict(list(empty)) == []
    assert of_tables.predict(np.zeros((0, 3))).tolist() == []


def test_served_only_the_bad_row_fails(of_texts: FittedCascade) -> None:
    class Whole:
        def predict(self, batch: list[Any]) -> list[Any]:
            said: list[Any] = of_texts.predict(batch).tolist()
            return said

    good = ["good fine tea cup", "bad poor stale tea", "fresh fresh tea cup"]
    batch = [good[0], None, good[1], 7, good[2]]
    for model in (Whole(), of_texts.member(0), of_texts.member(-1)):
        said, _ = Replica(model, []).run(batch, 0.0)
        assert [said[0], said[2], said[4]] == model.predict(good)
        for refused, row in ((said[1], "None"), (said[3], "7")):
            assert isinstance(refused, CascadeError)
            assert f"cannot take the row {row}: AttributeError" in str(refused)
