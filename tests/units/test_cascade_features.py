"""Feature generators: what is computed, when, how often, and from which form of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import StandardScaler

from headway.cascade.features import Feature, Features, Spent
from headway.cascade.rows import as_block, column_names, count, select, stack, take
from headway.errors import CascadeError


class Counting:
    """A generator that remembers how many rows it was given each time."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def __call__(self, rows: list[float]) -> Any:
        self.given.append(len(rows))
        return np.asarray(rows, float).reshape(len(rows), -1)


def ticking() -> Any:
    ticks = iter(range(1000))
    return lambda: float(next(ticks))


FORMS = {
    "list": [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}, {"a": 5.0, "b": 6.0}],
    "pandas": pd.DataFrame({"a": [1.0, 3.0, 5.0], "b": [2.0, 4.0, 6.0]}, index=[7, 7, 9]),
    "polars": pl.DataFrame({"a": [1.0, 3.0, 5.0], "b": [2.0, 4.0, 6.0]}),
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_every_form_are_counted_taken_and_selected_alike(form: str) -> None:
    rows = FORMS[form]
    assert count(rows) == 3
    assert list(column_names(rows)) == ["a", "b"]
    last = take(rows, np.array([2, 0]))
    assert list(select(last, "a")) == [5.0, 1.0]
    assert np.asarray(select(last, ("b", "a"))).tolist() == [[6.0, 5.0], [2.0, 1.0]]


@pytest.mark.parametrize("form", ["pandas", "polars"])
def test_columns_of_a_frame_may_be_named_by_place(form: str) -> None:
    assert list(select(FORMS[form], 1)) == [2.0, 4.0, 6.0]


def test_columns_of_arrays_are_places() -> None:
    dense = np.arange(6.0).reshape(3, 2)
    assert select(dense, 1).tolist() == [1.0, 3.0, 5.0]
    assert select(sparse.csr_array(dense), (1,)).toarray().tolist() == [[1.0], [3.0], [5.0]]


@pytest.mark.parametrize("form", FORMS)
def test_an_unknown_column_is_named_with_the_nearest(form: str) -> None:
    with pytest.raises(CascadeError, match=r"no column 'bb'; did you mean 'b'\?; they have a, b"):
        select(FORMS[form], "bb")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"a": 1}, None], "row 1, counted from 0, has no column 'a'; it is a NoneType"),
        ([{"a": 1}, {"b": 1, "c": 2}], "row 1, counted from 0, has no column 'a'; it has b, c"),
        ([{"a": 1}, {}], "row 1, counted from 0, has no column 'a'; it has no columns"),
        ([None, {"a": 1}], "no column 'a'; they have no columns: a row is one value"),
    ],
)
def test_the_row_that_lacks_a_column_is_named(rows: Any, says: str) -> None:
    for of in ("a", ("a",)):
        with pytest.raises(CascadeError, match=says):
            select(rows, of)


@pytest.mark.parametrize("row", ["text", b"text", {"text": "a"}])
def test_one_row_is_no_batch(row: Any) -> None:
    with pytest.raises(CascadeError, match=f"a {type(row).__name__} is one row; give a list of rows"):
        count(row)


def test_a_generator_has_no_length() -> None:
    with pytest.raises(CascadeError, match="a generator has no length"):
        count(row for row in [1, 2])


def test_stacking_is_sparse_when_one_block_is() -> None:
    dense = np.ones((2, 1))
    assert isinstance(stack([dense, dense]), np.ndarray)
    mixed = stack([dense, sparse.csr_array([[0.0], [2.0]])])
    assert sparse.issparse(mixed)
    assert mixed.format == "csr"
    assert mixed.toarray().tolist() == [[1, 0], [1, 2]]


def test_what_no_model_can_take_is_refused() -> None:
    with pytest.raises(CascadeError, match="feature 'cube': gave 3 dimensions"):
        as_block(np.zeros((1, 1, 1)), "cube")
    with pytest.raises(CascadeError, match="feature 'ragged': its rows have different lengths"):
        as_block([[1.0], [1.0, 2.0]], "ragged")


def test_only_what_is_asked_for_is_computed_and_shared_prefixes_once() -> None:
    prefix, left, never = Counting(), Counting(), Counting()
    features = Features(
        {
            "left": Feature(left, needs=("prefix",)),
            "right": Feature(lambda block: -block, needs=("prefix",)),
            "prefix": Feature(prefix),
            "never": Feature(never),
        }
    )
    known = features.known([1.0, 2.0])
    assert known.stacked(["left", "right"]).tolist() == [[1.0, -1.0], [2.0, -2.0]]
    assert known.block("left").tolist() == [[1.0], [2.0]]
    assert (prefix.given, left.given, never.given) == ([2], [2], [])


def test_narrowing_cuts_what_is_known_and_computes_the_rest_for_fewer_rows() -> None:
    cheap, dear = Counting(), Counting()
    features = Features({"cheap": Feature(cheap), "dear": Feature(dear)})
    known = features.known([1.0, 2.0, 3.0, 4.0])
    known.block("cheap")
    fewer = known.only(np.array([3, 1])).only(np.array([1]))
    assert fewer.stacked(["cheap", "dear"]).tolist() == [[2.0, 2.0]]
    assert (cheap.given, dear.given) == ([4], [1])
    assert fewer.has("dear")
    assert not known.has("dear")


def test_columns_come_before_what_is_needed() -> None:
    features = Features(
        {"size": Feature(len_of, of="text"), "per": Feature(lambda price, size: price / size[:, 0], ("size",), "price")}
    )
    rows = pd.DataFrame({"text": ["ab", "abcd"], "price": [10.0, 10.0]})
    assert features.known(rows).block("per").tolist() == [[5.0], [2.5]]


def len_of(texts: Any) -> Any:
    return np.array([[len(text)] for text in texts], float)


def test_seconds_are_those_of_a_generator_alone() -> None:
    features = Features({"inner": Feature(lambda rows: rows), "outer": Feature(lambda rows: rows, needs=("inner",))})
    spent = Spent()
    known = features.known([1.0, 2.0], spent=spent, clock=ticking())
    known.block("outer")
    known.only(np.array([0])).block("outer")
    assert spent.seconds == {"inner": 1.0, "outer": 1.0}
    assert spent.rows == {"inner": 2, "outer": 2}


def test_fitting_copies_transformers_and_gives_the_training_blocks() -> None:
    scaler, texts = StandardScaler(), ["a b", "b c", "c d"]
    features = Features(
        {"tfidf": Feature(TfidfVectorizer(token_pattern=r"\w"), of="text"), "size": Feature(scaler, of=("n",))}
    )
    rows = pd.DataFrame({"text": texts, "n": [1.0, 2.0, 6.0]})
    fitted, known = features.fit(rows)
    assert not hasattr(scaler, "mean_")
    again = fitted.known(rows)
    assert np.allclose(again.stacked(fitted).toarray(), known.stacked(fitted).toarray())
    assert np.allclose(again.block("size")[:, 0], (rows["n"] - 3.0) / rows["n"].std(ddof=0))
    with pytest.raises(Exception, match="not fitted"):
        features.known(rows).block("size")


def test_a_bound_method_stays_as_it_was_fitted() -> None:
    scaler = StandardScaler().fit([[0.0], [2.0]])
    fitted, _ = Features({"n": Feature(scaler.transform)}).fit([[10.0], [20.0]])
    assert fitted.known([[2.0]]).block("n").tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            {"word": Feature(len, needs=("clen",)), "clean": Feature(len)},
            "'word': needs 'clen', which is none; did you",
        ),
        ({"a": Feature(len, needs=("b",)), "b": Feature(len, needs=("a",))}, "need each other in a circle"),
        ({"a": Feature(StandardScaler(), ("b",), "x"), "b": Feature(len)}, "'a': a transformer takes one input"),
    ],
)
def test_a_graph_that_cannot_be_is_refused(features: dict[str, Feature], message: str) -> None:
    with pytest.raises(CascadeError, match=message):
        Features(features)


def test_an_unknown_feature_is_named_with_the_nearest() -> None:
    with pytest.raises(CascadeError, match=r"none is called 'wrod'; did you mean 'word'\?"):
        Features({"word": Feature(len)}).closure(["wrod"])


def test_a_generator_must_give_one_line_per_row() -> None:
    known = Features({"short": Feature(lambda rows: rows[1:])}).known([1.0, 2.0])
    with pytest.raises(CascadeError, match="feature 'short': gave 1 rows for 2"):
        known.block("short")


def test_a_row_that_a_generator_cannot_take_is_named_by_its_place_among_all_rows() -> None:
    lower = Features({"text": Feature(lambda rows: [[len(row.lower())] for row in rows])})
    with pytest.raises(CascadeError, match=r"^feature 'text': cannot take the row None: AttributeError: 'NoneType'"):
        lower.known([None]).block("text")
    known = lower.known(["a", "b", "c", None, "e", None]).only(np.array([1, 4, 3, 5]))
    with pytest.raises(
        CascadeError, match=r"cannot take row 3 of 6, counted from 0, None: .*; rows must be like those"
    ):
        known.block("text")


def test_what_is_wrong_with_a_source_is_no_fault_of_a_row() -> None:
    def gone(rows: Any) -> Any:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone") as raised:
        Features({"text": Feature(gone)}).known(["a"]).block("text")
    assert raised.value.__notes__ == ["while feature 'text' was computed for 1 rows"]
