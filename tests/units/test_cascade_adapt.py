"""Pipelines taken apart: one transformer is one generator, and the parts together are the pipeline."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from headway.cascade.adapt import Parts, adapt, scorer
from headway.cascade.candidates import Trained, full
from headway.cascade.features import Feature, Features
from headway.errors import CascadeError

WORDS = ("good", "bad", "fine", "poor", "tea", "cup", "dog", "food")


def texts(many: int = 60, seed: int = 1) -> tuple[list[str], NDArray[np.int64]]:
    draws = np.random.default_rng(seed)
    chosen = draws.integers(len(WORDS), size=(many, 6))
    labels = ((chosen == 0) | (chosen == 2)).sum(axis=1) > ((chosen == 1) | (chosen == 3)).sum(axis=1)
    return [" ".join(WORDS[place] for place in row) for row in chosen], labels.astype(np.int64)


def lower(rows: Any) -> list[str]:
    return [row.lower() for row in rows]


def word_and_char() -> list[tuple[str, Any]]:
    return [("word", TfidfVectorizer()), ("char", TfidfVectorizer(analyzer="char", ngram_range=(2, 3)))]


def same_as_pipeline(pipeline: Any, rows: Any, labels: Any, exactly: bool = True) -> Parts:
    """Fit the parts and the pipeline on the same rows, and hold what they say of these rows against each other."""
    parts = adapt(pipeline, rows)
    trained = Trained.fit(parts, rows, labels)
    said = trained.model(full(parts)).scores(trained.features.known(rows).stacked(parts.inputs))
    expected = pipeline.fit(rows, labels).predict_proba(rows)
    assert np.array_equal(said, expected) if exactly else np.allclose(said, expected, atol=1e-9)
    return parts


def test_a_union_gives_one_generator_per_transformer() -> None:
    parts = same_as_pipeline(
        Pipeline([("union", FeatureUnion(word_and_char())), ("model", LogisticRegression())]), *texts()
    )
    assert parts.inputs == ("word", "char")
    assert set(parts.features) == {"word", "char"}


def test_what_comes_before_is_shared_and_what_comes_after_goes_to_the_model() -> None:
    pipeline = Pipeline(
        [
            ("lower", FunctionTransformer(lower)),
            ("union", FeatureUnion(word_and_char(), transformer_weights={"char": 0.5})),
            ("scale", MaxAbsScaler()),
            ("model", LogisticRegression()),
        ]
    )
    parts = same_as_pipeline(pipeline, *texts())
    assert parts.inputs == ("word", "char.weighted")
    assert parts.features["word"].needs == parts.features["char"].needs == ("lower",)
    assert parts.features.closure(["char.weighted"]) == ("lower", "char", "char.weighted")
    assert [name for name, _ in parts.model.steps] == ["scale", "model"]


def test_branches_that_start_with_the_same_object_share_it() -> None:
    counts = CountVectorizer()
    union = make_union(make_pipeline(counts, MaxAbsScaler()), make_pipeline(counts, FunctionTransformer()))
    parts = same_as_pipeline(make_pipeline(union, LogisticRegression()), *texts())
    assert parts.inputs == ("pipeline-1", "pipeline-2")
    assert len(parts.features) == 3


def test_a_pipeline_without_a_union_is_one_generator() -> None:
    parts = same_as_pipeline(make_pipeline(CountVectorizer(), MaxAbsScaler(), LogisticRegression()), *texts())
    assert parts.inputs == ("maxabsscaler",)
    bare = adapt(make_pipeline(LogisticRegression()), np.zeros((2, 2)))
    assert bare.inputs == ("rows",)
    assert bare.features.known(np.ones((2, 2))).block("rows").shape == (2, 2)


def table() -> tuple[pd.DataFrame, NDArray[np.int64]]:
    rows, labels = texts()
    draws = np.random.default_rng(2)
    kind = draws.choice(["x", "y"], size=len(rows))
    return pd.DataFrame({"text": rows, "kind": kind, "n": draws.normal(size=len(rows)), "m": labels + 0.5}), labels


def test_columns_are_resolved_whichever_way_they_are_written() -> None:
    rows, labels = table()
    columns = ColumnTransformer(
        [
            ("text", TfidfVectorizer(), "text"),
            ("kind", OneHotEncoder(), [1]),
            ("number", StandardScaler(), make_column_selector(dtype_include="number")),
            ("none", "drop", ["m"]),
        ],
    )
    parts = same_as_pipeline(
        Pipeline([("columns", columns), ("model", LogisticRegression())]), rows, labels, exactly=False
    )
    assert parts.inputs == ("text", "kind", "number")
    assert [parts.features[name].of for name in parts.inputs] == ["text", (1,), ("n", "m")]


@pytest.mark.parametrize(
    "of", [slice("n", "m"), slice(2, 4), [False, False, True, True]], ids=["names", "places", "mask"]
)
def test_the_remainder_is_a_generator_too(of: Any) -> None:
    rows, labels = table()
    columns = ColumnTransformer([("scaled", StandardScaler(), of)], remainder=OneHotEncoder())
    parts = same_as_pipeline(
        Pipeline([("columns", columns), ("model", LogisticRegression())]), rows, labels, exactly=False
    )
    assert [parts.features[name].of for name in parts.inputs] == [("n", "m"), ("text", "kind")]


def test_arrays_have_columns_by_place() -> None:
    draws = np.random.default_rng(3)
    rows = draws.normal(size=(50, 3))
    columns = ColumnTransformer([("first", StandardScaler(), [0])], remainder="passthrough")
    pipeline = Pipeline([("columns", columns), ("model", LogisticRegression())])
    parts = same_as_pipeline(pipeline, rows, (rows[:, 0] > 0).astype(int))
    assert parts.inputs == ("first", "remainder")
    assert parts.features["remainder"].of == (1, 2)


@pytest.mark.parametrize(
    "pipeline", [LogisticRegression(), Pipeline([("only", StandardScaler()), ("end", "passthrough")]), 7]
)
def test_what_is_no_pipeline_is_refused(pipeline: Any) -> None:
    with pytest.raises(CascadeError, match=r"cannot be taken apart; give a scikit-learn Pipeline"):
        adapt(pipeline, [])


def test_columns_after_another_transformer_are_refused() -> None:
    columns = ColumnTransformer([("first", StandardScaler(), [0])])
    with pytest.raises(CascadeError, match="ColumnTransformer after another transformer"):
        adapt(make_pipeline(StandardScaler(), columns, LogisticRegression()), np.zeros((2, 2)))


def test_parts_are_checked() -> None:
    with pytest.raises(CascadeError, match=r"none is called 'wrod'; did you mean 'word'"):
        Parts(Features({"word": Feature(len)}), ("wrod",), LogisticRegression())
    with pytest.raises(CascadeError, match="its model takes no features"):
        Parts(Features({"word": Feature(len)}), (), LogisticRegression())


def test_distances_of_two_classes_are_two_scores() -> None:
    rows = np.array([[-1.0], [-2.0], [1.0], [2.0]])
    model = scorer(LinearSVC().fit(rows, ["no", "no", "yes", "yes"]))
    said = model.scores(rows)
    assert said.shape == (4, 2)
    assert model.classes[said.argmax(axis=1)].tolist() == ["no", "no", "yes", "yes"]


@pytest.mark.parametrize(
    ("model", "message"), [(7, "a int gives no scores"), (StandardScaler(), "gives no scores"), (len, "give classes")]
)
def test_a_model_must_give_scores_of_known_classes(model: Any, message: str) -> None:
    with pytest.raises(CascadeError, match=message):
        scorer(model)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (np.zeros((3, 4)), r"shape \(3, 4\) for 3 rows and 2 classes \(no, yes\); one score per class is needed"),
        (np.zeros((2, 2)), r"shape \(2, 2\) for 3 rows"),
        ([{"no": 1.0}] * 3, "it gave a list that is no table of numbers"),
    ],
)
def test_scores_are_one_per_row_and_class(said: Any, message: str) -> None:
    with pytest.raises(CascadeError, match=message):
        scorer(lambda block: said, classes=["no", "yes"]).scores(np.zeros((3, 1)))


@pytest.mark.parametrize("options", [{"zipmap": False}, {}], ids=["array", "maps"])
def test_an_onnx_file_is_a_model(tmp_path: Path, options: dict[str, bool]) -> None:
    from skl2onnx import to_onnx

    rows = np.random.default_rng(4).normal(size=(80, 3)).astype(np.float32)
    fitted = LogisticRegression().fit(rows, (rows[:, 0] + rows[:, 1] > 0).astype(int))
    path = tmp_path / "model.onnx"
    path.write_bytes(to_onnx(fitted, rows[:1], options=options).SerializeToString())
    model = scorer(path, classes=[0, 1])
    assert np.allclose(model.scores(rows.astype(np.float64)), fitted.predict_proba(rows), atol=1e-5)
    path.unlink()
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.scores(rows), model.scores(rows))
