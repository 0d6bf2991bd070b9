"""Top-K: without a filter it is exact, with one it reaches the recall that it promises, on rows it has not seen."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.base import BaseEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from headway.cascade.adapt import Parts
from headway.cascade.features import Feature, Features
from headway.cascade.ranking import (
    Ranked,
    best,
    kept_surely,
    recall,
)
from headway.cascade.topk import FittedTopK, fit_top_k, ranking_score
from headway.errors import CascadeError

WORKED_S = [0.0]
"""A clock that goes on when features work, so that what is chosen by cost does not hang on the machine."""


def columns(
    weights: dict[str, float], work: int = 200, many: int = 6000
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], Parts]:
    """Rows whose label rests on columns by weight, with a feature for each that takes more work the later it comes."""
    draws = np.random.default_rng(7)
    rows = draws.normal(size=(many, len(weights)))
    labels = rows @ np.array(list(weights.values())) + 0.3 * draws.normal(size=len(rows)) > 0

    def feature(place: int) -> Feature:
        def compute(given: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            WORKED_S[0] += 1e-6 * (1 + work * place) * len(given)
            for _ in range(1 + work * place):
                value = np.sort(given[:, place : place + 1], axis=0)
            value[:] = given[:, place : place + 1]
            return value

        return Feature(compute)

    features = Features({name: feature(place) for place, name in enumerate(weights)})
    return rows, labels, Parts(features, tuple(weights), LogisticRegression())


@cache
def fitted() -> FittedTopK:
    rows, labels, parts = columns({"cheap": 3.0, "dear": 0.5}, many=16000)
    return fit_top_k(parts, rows, labels, k=20, pool=500, recall=0.9, sure=0.95, clock=lambda: WORKED_S[0])


def fresh(rows: int, seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng([seed, 99]).normal(size=(rows, 2))


def test_the_recall_is_reached_as_often_as_promised_on_rows_never_seen() -> None:
    query = fitted()
    assert query.filter is not None
    assert query.filter.inputs == ("cheap",)
    assert 20 < query.promise.kept < 250
    found = [recall(query.top_k(pool)[0], query.exact(pool)[0]) for pool in (fresh(500, seed) for seed in range(200))]
    reached = int(np.sum(np.array(found) >= 0.9))
    # With 95% or more reaching it, fewer than this many of 200 would be a coincidence of one in ten thousand.
    assert reached >= binom.ppf(1e-4, 200, 0.95)


def test_keeping_everything_is_the_exact_query() -> None:
    query, pool = fitted(), fresh(500, 1)
    wide = FittedTopK(query.features, query.full, query.filter, _keeping(query, 500), query.projected)
    for given_k in (1, 20, 500):
        found, exact = wide.top_k(pool, given_k), wide.exact(pool, given_k)
        assert found[0].tolist() == exact[0].tolist()
        assert found[1].tolist() == exact[1].tolist()


@settings(max_examples=20)
@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=60), st.integers(1, 10))
def test_ties_are_broken_as_in_the_exact_query(values: list[float], k: int) -> None:
    query = fitted()
    pool = np.column_stack([values, np.zeros(len(values))])
    wide = FittedTopK(query.features, query.full, query.filter, _keeping(query, len(values) * 20), query.projected)
    assert wide.top_k(pool, k)[0].tolist() == wide.exact(pool, k)[0].tolist()
    # The filter sees all that differs here, so what it keeps are the best, the first of equal ones.
    assert query.top_k(pool, k)[0].tolist() == query.exact(pool, k)[0].tolist()


def test_scores_are_the_full_models_and_fall() -> None:
    query, pool = fitted(), fresh(500, 2)
    index, score = query.top_k(pool)
    assert len(set(index.tolist())) == len(index) == 20
    assert (np.diff(score) <= 0).all()
    every = query.full(query.features.known(pool))
    assert score == pytest.approx(every[index])


def test_dear_features_are_computed_for_the_kept_rows_only() -> None:
    query, asked = fitted(), []

    def counting(feature: Feature) -> Feature:
        def compute(rows: np.ndarray[Any, Any]) -> Any:
            asked.append(len(rows))
            return feature(rows)

        return Feature(compute)

    features = Features(
        {name: counting(feature) if name == "dear" else feature for name, feature in query.features.items()}
    )
    FittedTopK(features, query.full, query.filter, query.promise, query.projected).top_k(fresh(500, 3))
    assert asked == [query.promise.kept]


def test_few_rows_promise_nothing_of_a_filter_that_ranks_the_very_best_at_random() -> None:
    draws, k, pool = np.random.default_rng(8), 50, 5000

    def scores(rows: int) -> tuple[Any, Any]:
        full, noise = draws.normal(size=rows), draws.normal(size=rows)
        return np.where(full > 2.457, noise, full + 0.05 * noise), full

    with pytest.raises(CascadeError, match=r"150 calibration rows cannot show .* 5,434 or more can"):
        kept_surely(*scores(150), k, pool, 0.9, 0.9, 0.95)
    kept = kept_surely(*scores(6000), k, pool, 0.9, 0.9, 0.95)
    fresh_needs = np.array([Ranked.of(*scores(pool)).needed(np.ones(pool, int), k, 0.9) for _ in range(50)])
    assert (fresh_needs <= kept).mean() >= 0.9


def test_what_is_extrapolated_claims_no_confidence() -> None:
    rows, labels, parts = columns({"cheap": 3.0, "dear": 0.5})
    query = fit_top_k(
        parts, rows, labels, k=20, pool=500, sure=0.95, extrapolate=True, draws=60, clock=lambda: WORKED_S[0]
    )
    assert query.promise.confidence is None
    said = "in about 95% of such pools (extrapolated by a model from 1,500 calibration rows, no confidence is claimed)"
    assert said in query.explain()


def test_a_filter_that_calibration_finds_dear_is_not_used() -> None:
    draws = np.random.default_rng(9)
    rows = draws.normal(size=(6000, 2))
    selection, calibration = np.arange(2000, 4000), np.arange(4000, 6000)
    target = rows[:, 1].copy()
    # The cheap column says all of the rows that the filter is chosen on, and nothing of those it is calibrated on.
    rows[:4000, 0] = target[:4000]
    _, _, parts = columns({"cheap": 1.0, "dear": 1.0})
    made = Parts(parts.features, parts.inputs, _Second())
    query = fit_top_k(
        made,
        rows,
        target,
        k=20,
        pool=500,
        recall=0.85,
        sure=0.9,
        parts=(np.arange(2000), selection, calibration),
        clock=lambda: WORKED_S[0],
    )
    assert query.filter is None
    assert (query.projected.speedup, query.promise.kept) == (1.0, 500)
    assert "no filter is worth its cost" in query.explain()


class _Second(BaseEstimator):  # type: ignore[misc]
    """A regression that says the last of the columns that it was given."""

    def fit(self, block: Any, labels: Any) -> Any:
        self.fitted_ = True
        return self

    def predict(self, block: Any) -> Any:
        return block[:, -1]


@pytest.mark.parametrize(
    ("model", "labels", "nan", "says"),
    [
        (LogisticRegression(), 0.0, (), "LogisticRegression cannot be fitted to cheap, dear: .*classes"),
        (DecisionTreeClassifier(), 0.0, (), "all training labels are 1, so that nothing ranks rows"),
        (LogisticRegression(), 1.0, (0,), "LogisticRegression cannot be fitted to cheap, dear: Input X contains NaN"),
        (LogisticRegression(), 1.0, (1100,), "LogisticRegression cannot score cheap, dear: Input X contains NaN"),
    ],
)
def test_what_a_model_cannot_take_is_said(model: Any, labels: float, nan: tuple[int, ...], says: str) -> None:
    rows, truth, parts = columns({"cheap": 3.0, "dear": 0.5}, work=0)
    rows[list(nan)] = np.nan
    made = Parts(parts.features, parts.inputs, model)
    part = np.arange(1000)
    with pytest.raises(CascadeError, match=says):
        fit_top_k(
            made,
            rows,
            truth if labels else np.ones(6000, int),
            k=20,
            pool=500,
            extrapolate=True,
            parts=(part, part + 1000, part + 2000),
        )


def test_labels_are_as_many_as_rows() -> None:
    rows, truth, parts = columns({"cheap": 3.0, "dear": 0.5})
    with pytest.raises(CascadeError, match="5,999 labels for 6,000 rows"):
        fit_top_k(parts, rows, truth[1:], k=20, pool=500, extrapolate=True)


def test_another_k_keeps_as_many_times_more() -> None:
    query = fitted()
    assert len(query.top_k(fresh(500, 4), 5)[0]) == 5
    assert len(query.top_k(fresh(30, 4), 50)[0]) == 30
    assert query.top_k(fresh(0, 4).reshape(0, 2), 5)[0].size == 0


def test_a_filter_that_knows_nothing_is_not_used() -> None:
    rows, labels, parts = columns({"cheap": 0.0, "dear": 3.0}, work=0)
    query = fit_top_k(parts, rows, labels, k=20, pool=200, recall=0.9, sure=0.9)
    assert query.filter is None
    pool = fresh(200, 5)
    assert query.top_k(pool)[0].tolist() == query.exact(pool)[0].tolist()
    assert "no filter is worth its cost" in query.explain()


def test_a_pipeline_of_one_feature_is_exact() -> None:
    rows, labels, parts = columns({"only": 1.0})
    assert fit_top_k(parts, rows, labels, k=5, pool=50, recall=0.8, sure=0.9).filter is None


def test_regressions_rank_by_their_prediction() -> None:
    rows, _, parts = columns({"cheap": 3.0, "dear": 0.5})
    target = rows @ np.array([3.0, 0.5])
    made = Parts(parts.features, parts.inputs, LinearRegression())
    query = fit_top_k(made, rows, target, k=20, pool=500, recall=0.85, sure=0.9)
    pool = fresh(500, 6)
    assert query.exact(pool)[0].tolist() == best(pool @ np.array([3.0, 0.5]), 20).tolist()
    assert recall(query.top_k(pool)[0], query.exact(pool)[0]) >= 0.8


def test_the_same_seed_promises_the_same() -> None:
    rows, labels, parts = columns({"cheap": 3.0, "dear": 0.5}, many=16000)
    again = fit_top_k(parts, rows, labels, k=20, pool=500, recall=0.9, sure=0.95, clock=lambda: WORKED_S[0])
    assert again.promise == fitted().promise


def test_what_is_promised_is_said() -> None:
    said = fitted().explain()
    assert "a filter on cheap keeps " in said
    assert "recall >= 0.9 in at least 95% of such pools (95% confidence, 4,000 calibration rows)" in said


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"k": 0}, "k is 0; at least 1"),
        ({"k": 600}, "the best 600 of a pool of 500"),
        ({"recall": 1.2}, r"recall is 1.2; it must be a share"),
        ({"sure": 1.0}, r"sure is 1.0; it must be a share"),
        ({"draws": 58, "extrapolate": True}, "59 or more can"),
        ({"parts": (np.arange(10), np.arange(1), np.arange(10))}, "1 rows for selection"),
        ({"parts": (np.arange(99), np.arange(99), np.arange(4)), "extrapolate": True}, "4 rows do not show how"),
        ({}, "1,500 calibration rows cannot show that 95% of pools of 500 .* 5,128 or more can, or ask"),
    ],
)
def test_a_goal_that_makes_no_sense_is_refused(changed: dict[str, Any], says: str) -> None:
    rows, labels, parts = columns({"cheap": 3.0, "dear": 0.5})
    with pytest.raises(CascadeError, match=says):
        fit_top_k(parts, rows, labels, **{"k": 20, "pool": 500, "sure": 0.95, **changed})


def test_scores_that_are_nan_name_their_row() -> None:
    with pytest.raises(CascadeError, match="the score of row 2 is NaN"):
        best(np.array([1.0, 2.0, np.nan]), 1)
    with pytest.raises(CascadeError, match="both must score the same rows"):
        Ranked.of(np.zeros(3), np.zeros(4))


def test_a_model_of_three_classes_needs_to_be_told_which_ranks() -> None:
    model = LogisticRegression().fit(np.arange(9.0)[:, None], np.arange(9) // 3)
    with pytest.raises(CascadeError, match="the model has 3 classes; give score="):
        ranking_score(model, np.zeros((1, 1)))


def _keeping(query: FittedTopK, kept: int) -> Any:
    from dataclasses import replace

    return replace(query.promise, kept=kept)
