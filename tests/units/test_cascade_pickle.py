"""Copies and pickles of what cascades are made of: the same answers, locks and threads of their own, empty caches."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline, make_union

from headway.cascade import Cache, Lookup, fit_cascade
from headway.cascade.adapt import Parts
from headway.cascade.compiled import compiled, compiled_text
from headway.cascade.features import Feature, Features
from headway.cascade.lookup import each
from headway.cascade.run import FittedCascade
from headway.cascade.topk import fit_top_k


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


AGAIN = pytest.mark.parametrize("again", [pickled, copy.deepcopy], ids=["pickle", "deepcopy"])


@pytest.fixture(scope="module")
def texts() -> list[str]:
    draws = np.random.default_rng(1)
    words = np.array(["bad", "poor", "stale", "tea", "cup", "good", "fine", "fresh"])
    return [" ".join(line) for line in draws.choice(words, size=(500, 4))]


@pytest.fixture(scope="module")
def fitted(texts: list[str]) -> FittedCascade:
    labels = [sum(text.count(word) for word in ("good", "fine", "fresh")) > 1 for text in texts]
    characters = TfidfVectorizer(analyzer="char", ngram_range=(2, 4))
    pipeline = make_pipeline(make_union(TfidfVectorizer(), characters), LogisticRegression())
    return fit_cascade(pipeline, texts, labels, tolerance=0.1, expected_loss=0.05, folds=2, batch_size=50)


@AGAIN
@pytest.mark.parametrize("form", ["fitted", "compiled"])
def test_a_copied_cascade_answers_the_same_and_counts_for_itself(
    again: Callable[[Any], Any], form: str, fitted: FittedCascade, texts: list[str]
) -> None:
    made = fitted if form == "fitted" else fitted.compiled(texts[:300])
    made.reset()
    said = made.predict_proba(texts[:50])
    other = again(made)
    assert other.counters.rows == made.counters.rows == 50
    assert np.array_equal(other.predict_proba(texts[:50]), said)
    assert (other.counters.rows, made.counters.rows) == (100, 50)
    assert other.evidence == made.evidence
    assert np.array_equal(other.reference().predict(texts), made.reference().predict(texts))


@AGAIN
@pytest.mark.parametrize(
    "model",
    [
        LogisticRegression(),
        Ridge(),
        HistGradientBoostingClassifier(max_iter=5),
        HistGradientBoostingRegressor(max_iter=5),
        RandomForestClassifier(5),
        LinearDiscriminantAnalysis(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_copied_compiled_model_gives_the_same_in_both_forms(again: Callable[[Any], Any], model: Any) -> None:
    rows = np.random.default_rng(2).normal(size=(200, 3)).astype(np.float32)
    made = compiled(model.fit(rows, (rows[:, 0] > 0).astype(int)), rows, rounds=1)
    other = again(made)
    assert other.form == made.form
    assert np.array_equal(other.predict(rows), made.predict(rows))
    assert np.array_equal(other._compiled(rows), made._compiled(rows))
    assert np.array_equal(other._interpreted(rows), made._interpreted(rows))


@AGAIN
def test_a_copied_vectorizer_counts_the_same(again: Callable[[Any], Any], texts: list[str]) -> None:
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3)).fit(texts)
    made = compiled_text(vectorizer, texts, rounds=1)
    assert abs(again(made)._counting(texts) - made._counting(texts)).max() == 0


def planes(keys: list[Any]) -> dict[Any, list[float]]:
    return {key: [float(len(key))] for key in keys if key != "unknown"}


def plane(key: str) -> list[float]:
    return [float(len(key))]


@AGAIN
def test_a_copied_look_up_begins_with_an_empty_cache_and_no_counts(again: Callable[[Any], Any]) -> None:
    made = Lookup(planes, cache=Cache(max_entries=10, ttl_s=60.0), default=0.0)
    assert made(["a", "bb", "unknown"]).ravel().tolist() == [1.0, 2.0, 0.0]
    other = again(made)
    assert (other.calls, other.count.entries, other.count.lookups) == (0, 0, 0)
    assert (other.cache.max_entries, other.cache.ttl_s) == (10, 60.0)
    assert other(["a", "bb", "unknown"]).ravel().tolist() == [1.0, 2.0, 0.0]
    assert (other.calls, other.count.entries, made.calls, made.count.entries) == (1, 3, 1, 3)


@AGAIN
def test_a_copied_source_of_single_keys_has_threads_of_its_own(again: Callable[[Any], Any]) -> None:
    fetch = each(plane, workers=2)
    assert fetch(["a", "bb", "ccc"]) == [[1.0], [2.0], [3.0]]
    assert again(Lookup(fetch))(["a", "bb", "ccc"]).ravel().tolist() == [1.0, 2.0, 3.0]


def first(rows: Any) -> Any:
    return rows[:, 0]


def second(rows: Any) -> Any:
    return rows[:, 1]


@AGAIN
def test_a_copied_top_k_query_finds_the_same(again: Callable[[Any], Any]) -> None:
    rows = np.random.default_rng(3).normal(size=(2000, 2))
    late = rows @ [3.0, 0.5] > 0
    parts = Parts(
        Features({"first": Feature(first), "second": Feature(second)}), ("first", "second"), LogisticRegression()
    )
    query = fit_top_k(parts, rows, late, k=5, pool=100, recall=0.8, sure=0.8, extrapolate=True, draws=300)
    for found, expected in zip(again(query).top_k(rows[:100]), query.top_k(rows[:100]), strict=True):
        assert np.array_equal(found, expected)
