"""Compiled models: the same scores within 1e-5, and used only where they were measured to be faster."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC
from treelite import gtil
from treelite import sklearn as treelite_sklearn

from headway.cascade.adapt import scorer
from headway.cascade.compiled import Compiled, CompiledText, Measured, compiled
from headway.cascade.features import Feature, Features
from headway.cascade.forest import flattened
from headway.cascade.model import Cascade, Step
from headway.cascade.run import FittedCascade
from headway.errors import CascadeError

ROWS = np.random.default_rng(1).normal(size=(300, 5)).astype(np.float32).astype(np.float64)
TWO = (ROWS[:, 0] + ROWS[:, 1] ** 2 > 0.5).astype(int)
THREE = np.digitize(ROWS[:, 0], [-0.5, 0.5])
HOLES = np.where(np.random.default_rng(2).random(ROWS.shape) < 0.2, np.nan, ROWS)


def ticking(steps: list[float]) -> Any:
    """A clock by which the model as it is and its compiled form take these seconds, in turn."""
    now_s, at = 0.0, 0

    def clock() -> float:
        nonlocal now_s, at
        if at % 2:
            now_s += steps[at // 2 % len(steps)]
        at += 1
        return now_s

    return clock


FASTER, SLOWER = [2.0, 1.0], [1.0, 2.0]


@pytest.mark.parametrize(
    ("model", "rows", "labels", "form"),
    [
        (LogisticRegression(), ROWS, TWO, "linear"),
        (LogisticRegression(), ROWS, THREE, "linear"),
        (LinearSVC(), ROWS, TWO, "linear"),
        (LinearSVC(), ROWS, THREE, "linear"),
        (Ridge(), ROWS, ROWS[:, 2] * 100, "linear"),
        (LinearRegression(), ROWS, ROWS[:, :2] * 100, "linear"),
        (LogisticRegression(), sparse.csr_matrix(ROWS), TWO, "linear"),
        (HistGradientBoostingClassifier(max_iter=20), HOLES, TWO, "trees"),
        (HistGradientBoostingClassifier(max_iter=10), HOLES, THREE, "trees"),
        (HistGradientBoostingRegressor(max_iter=20), HOLES, ROWS[:, 2] * 100, "trees"),
        (RandomForestClassifier(5), ROWS, THREE, "trees"),
        (MLPClassifier((8,), max_iter=30, random_state=0), ROWS, TWO, "onnx"),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_compiled_form_gives_the_scores_of_the_model(model: Any, rows: Any, labels: Any, form: str) -> None:
    model = model.fit(rows, labels)
    fast = compiled(model, rows, clock=ticking(FASTER))
    assert fast.form == form
    assert fast.measured.same
    assert fast.measured.point
    assert fast.measured.batch
    for method in ("predict_proba", "decision_function", "predict"):
        if hasattr(model, method):
            for block in (rows, rows[:1]):
                found, exact = getattr(fast, method)(block), getattr(model, method)(block)
                assert found.shape == exact.shape
                assert np.allclose(found, exact, rtol=1e-5, atol=1e-5)
        else:
            assert not hasattr(fast, method)


def test_a_form_that_is_not_faster_is_not_used() -> None:
    model = LogisticRegression().fit(ROWS, TWO)
    asked = 0

    class Counting(LogisticRegression):
        def predict_proba(self, block: Any) -> Any:
            nonlocal asked
            asked += 1
            return super().predict_proba(block)

    Counting.__name__ = "LogisticRegression"
    model.__class__ = Counting
    for clock, uses in ((ticking(SLOWER), 1), (ticking(FASTER), 0)):
        fast = compiled(model, ROWS, clock=clock)
        asked = 0
        fast.predict_proba(ROWS[:1])
        assert asked == uses


def test_point_and_batch_are_decided_apart() -> None:
    measured = Measured(point_s=2.0, compiled_point_s=1.0, batch_s=1.0, compiled_batch_s=2.0, difference=0.0)
    fast = Compiled(
        LogisticRegression().fit(ROWS, TWO), "linear", lambda block: np.full((len(block), 2), 7.0), measured
    )
    assert fast.predict_proba(ROWS[:1])[0, 0] == 7.0
    assert fast.predict_proba(ROWS)[0, 0] < 1.0


@pytest.mark.parametrize("difference", [2e-5, float("inf")])
def test_other_scores_are_never_used_however_fast(difference: float) -> None:
    measured = Measured(1.0, 0.001, 1.0, 0.001, difference)
    assert not measured.same
    assert not measured.point
    assert not measured.batch


def test_scores_that_are_nan_are_not_the_same() -> None:
    class Broken(LinearRegression):
        def predict(self, block: Any) -> Any:
            return super().predict(block) * np.nan

    Broken.__name__ = "LinearRegression"
    assert not compiled(Broken().fit(ROWS, TWO), ROWS).measured.same


def test_a_compiled_model_scores_for_cascades() -> None:
    model = LogisticRegression().fit(ROWS, np.where(TWO, "late", "in time"))
    found = scorer(compiled(model, ROWS))
    assert found.classes.tolist() == ["in time", "late"]
    assert np.allclose(found.scores(ROWS), model.predict_proba(ROWS))
    assert compiled(model, ROWS).predict(ROWS[:20]).tolist() == model.predict(ROWS[:20]).tolist()


@pytest.mark.parametrize(
    ("model", "rows", "says"),
    [
        (LogisticRegression().fit(ROWS, TWO), ROWS[:0], "the sample has no rows"),
        (MLPClassifier((2,), max_iter=1), sparse.csr_matrix(ROWS), "of sparse features has no compiled form"),
        (object(), ROWS, "a object has no predict"),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_what_cannot_be_compiled_says_so(model: Any, rows: Any, says: str) -> None:
    if hasattr(model, "partial_fit"):
        model.fit(ROWS, TWO)
    with pytest.raises(CascadeError, match=says):
        compiled(model, rows)


@pytest.mark.parametrize(
    ("model", "labels"),
    [
        (HistGradientBoostingClassifier(max_iter=15), TWO),
        (HistGradientBoostingClassifier(max_iter=8), THREE),
        (HistGradientBoostingRegressor(max_iter=15), ROWS[:, 2]),
        (GradientBoostingClassifier(n_estimators=15), TWO),
        (GradientBoostingRegressor(n_estimators=15), ROWS[:, 2]),
    ],
)
def test_boosted_trees_are_walked_to_the_leaves_that_treelite_finds(model: Any, labels: Any) -> None:
    holes = "Hist" in type(model).__name__
    forest = treelite_sklearn.import_model(model.fit(HOLES if holes else ROWS, labels))
    flat = flattened(forest)
    assert flat is not None
    rows = np.vstack([ROWS, 10 * ROWS, np.where(holes, np.nan, 0.0) * ROWS])
    raw = gtil.predict(forest, rows, nthread=1, pred_margin=True).reshape(len(rows), -1)
    assert flat(rows) == pytest.approx(raw, rel=1e-6, abs=1e-6)


def test_trees_that_are_more_than_sums_of_numbers_are_left_to_treelite() -> None:
    forest = RandomForestClassifier(3, random_state=0).fit(ROWS, THREE)
    assert flattened(treelite_sklearn.import_model(forest)) is None
    groups = np.column_stack([np.digitize(ROWS[:, 0], [-1, 0, 1]), ROWS[:, 1]])
    model = HistGradientBoostingClassifier(max_iter=8, categorical_features=[0]).fit(groups, TWO)
    assert flattened(treelite_sklearn.import_model(model)) is None
    fast = compiled(model, groups, clock=ticking(FASTER))
    assert fast.form == "trees"
    assert np.allclose(fast.predict_proba(groups), model.predict_proba(groups), atol=1e-5)


def test_a_whole_cascade_is_compiled_and_what_has_no_other_form_stays() -> None:
    draws = np.random.default_rng(8)
    texts = ["".join(row) for row in draws.choice(list("abc d"), size=(300, 30))]
    labels = [text.count("ab") > text.count("ba") for text in texts]
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3)).fit(texts)
    features = Features({"char": Feature(vectorizer), "length": Feature(lambda texts: [len(text) for text in texts])})
    inputs = ("char", "length")
    model = scorer(LogisticRegression().fit(features.known(texts).stacked(inputs), labels))
    whole = FittedCascade(Cascade((Step("full", inputs),)), features, {"full": model}, {})
    fast = whole.compiled(texts)
    assert isinstance(fast.models["full"].model, Compiled)
    assert isinstance(fast.features["char"].compute.__self__, CompiledText)
    assert fast.features["length"] is features["length"]
    for rows in (texts, texts[:1]):
        assert fast.predict_proba(rows) == pytest.approx(whole.predict_proba(rows), abs=1e-5)
        assert fast.predict(rows).tolist() == whole.predict(rows).tolist()
