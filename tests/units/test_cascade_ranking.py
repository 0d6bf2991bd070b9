"""Ranking: what a filter must keep, and how surely rows at hand promise a recall on rows that are not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from headway.cascade.ranking import (
    Ranked,
    best,
    draws_needed,
    kept_surely,
    needs,
    pools,
    recall,
    rows_needed,
    upper_limit,
)
from headway.errors import CascadeError

SCORES = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5]), min_size=1, max_size=25)


@given(SCORES, st.integers(1, 30))
def test_the_best_are_those_of_a_stable_sort(scores: list[float], count: int) -> None:
    expected = sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:count]
    assert best(np.array(scores), count).tolist() == expected


@given(st.data())
def test_what_a_filter_must_keep_is_what_brute_force_finds(data: st.DataObject) -> None:
    full = np.array(data.draw(SCORES))
    rows = full.size
    cheap = np.array(data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=rows, max_size=rows)))
    copies = np.array(data.draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows)))
    k, wanted = data.draw(st.integers(1, 8)), data.draw(st.sampled_from([0.3, 0.5, 0.95, 1.0]))
    pool = np.repeat(np.arange(rows), copies)
    exact = best(full[pool], k)
    found = [recall(best(cheap[pool], kept), exact) for kept in range(pool.size + 1)]
    ranked = Ranked.of(cheap, full)
    assert [ranked.reached(copies, k, kept) for kept in range(pool.size + 1)] == pytest.approx(found)
    enough = math.ceil(wanted * exact.size - 1e-9) / exact.size if exact.size else 0.0
    assert ranked.needed(copies, k, wanted) == next(kept for kept, got in enumerate(found) if got >= enough - 1e-9)


@pytest.mark.parametrize(("sure", "confidence", "values"), [(0.99, 0.95, 299), (0.9, 0.95, 60), (0.9, 0.9, 400)])
def test_the_limit_is_no_lower_than_promised_and_no_order_statistic_below_would_do(
    sure: float, confidence: float, values: int
) -> None:
    rank = upper_limit(np.arange(1, values + 1), sure, confidence)
    # The limit fails when at least `rank` values lie below the quantile.
    assert binom.sf(rank - 1, values, sure) <= 1 - confidence
    assert binom.sf(rank - 2, values, sure) > 1 - confidence


@pytest.mark.parametrize(("sure", "confidence"), [(0.99, 0.95), (0.9, 0.99), (0.5, 0.5)])
def test_too_few_draws_name_how_many_are_needed(sure: float, confidence: float) -> None:
    enough = draws_needed(sure, confidence)
    upper_limit(np.arange(enough), sure, confidence)
    with pytest.raises(CascadeError, match=f"{enough} or more can"):
        upper_limit(np.arange(enough - 1), sure, confidence)


def test_pools_are_seeded_and_have_their_size() -> None:
    drawn = pools(30, 100, 5, seed=3)
    assert drawn.shape == (5, 30)
    assert (drawn.sum(axis=1) == 100).all()
    assert (drawn == pools(30, 100, 5, seed=3)).all()
    assert (drawn != pools(30, 100, 5, seed=4)).any()


def test_over_redrawn_calibration_rows_the_recall_is_reached_as_often_as_promised() -> None:
    draws, k, pool, sure = np.random.default_rng(5), 20, 400, 0.9

    def scores(rows: int) -> tuple[Any, Any]:
        full = draws.normal(size=rows)
        return full + 0.4 * draws.standard_t(4, size=rows), full

    kept = np.array([upper_limit(needs(*scores(400), k, pool, 0.9, 60, seed), sure, 0.95) for seed in range(40)])
    fresh_needs = np.array([Ranked.of(*scores(pool)).needed(np.ones(pool, int), k, 0.9) for _ in range(400)])
    enough = (fresh_needs[None, :] <= kept[:, None]).mean(axis=1)
    # Both the calibration rows and the pools are drawn anew; a filter that kept everything would reach it always.
    assert enough.mean() >= sure
    assert np.median(kept) < pool / 2


def test_drawing_from_the_rows_at_hand_alone_would_promise_too_much() -> None:
    draws, k, pool = np.random.default_rng(6), 20, 2000

    def scores(rows: int) -> tuple[Any, Any]:
        full = draws.normal(size=rows)
        return full + 0.4 * draws.normal(size=rows), full

    fresh_needs = np.array([Ranked.of(*scores(pool)).needed(np.ones(pool, int), k, 0.9) for _ in range(200)])
    alone, ours = [], []
    for seed in range(30):
        cheap, full = scores(300)
        ranked = Ranked.of(cheap, full)
        alone.append(upper_limit(np.array([ranked.needed(c, k, 0.9) for c in pools(300, pool, 60, seed)]), 0.9, 0.95))
        ours.append(upper_limit(needs(cheap, full, k, pool, 0.9, 60, seed), 0.9, 0.95))
    reached = [float((fresh_needs[None, :] <= np.array(kept)[:, None]).mean()) for kept in (alone, ours)]
    assert reached[0] < 0.8 < 0.9 <= reached[1]


@pytest.mark.parametrize("law", ["line", "random best", "ties"])
def test_what_is_kept_surely_reaches_the_recall_for_whatever_scores(law: str) -> None:
    draws = np.random.default_rng(3)
    k, pool, wanted, sure, confidence = goal = 10, 200, 0.8, 0.9, 0.95

    def scores(rows: int) -> tuple[Any, Any]:
        full, noise = draws.normal(size=rows), draws.normal(size=rows)
        if law == "random best":
            return np.where(full > 1.88, noise, full + 0.05 * noise), full
        return (full + 0.3 * noise, full) if law == "line" else (np.round(full + 0.5 * noise), np.round(full))

    fresh_needs = np.array([Ranked.of(*scores(pool)).needed(np.ones(pool, int), k, wanted) for _ in range(300)])
    drawn = [scores(rows_needed(*goal) + 100) for _ in range(40)]
    kept = np.array([kept_surely(cheap, full, *goal) for cheap, full in drawn])
    short = int(((fresh_needs[None, :] <= kept[:, None]).mean(axis=1) < sure).sum())
    assert short <= binom.ppf(0.999, 40, 1 - confidence)
    assert law != "line" or np.median(kept) < pool / 2


def test_rows_needed_are_those_of_the_closed_form_and_one_fewer_is_refused() -> None:
    goal = (10, 200, 0.8, 0.9, 0.95)
    needed = rows_needed(*goal)
    # So rare must rows be that are missed, so that a pool has more than two of them in 8 of 100 pools at most.
    shares = np.linspace(1e-4, 0.05, 20_000)
    rare = shares[binom.cdf(2, 200, shares) >= 0.92].max()
    assert needed == pytest.approx(math.log(0.04) / math.log(1 - rare), rel=1e-3)
    score = np.arange(float(needed))
    assert 10 <= kept_surely(score, score, *goal) < 60
    with pytest.raises(CascadeError, match=f"{needed - 1} calibration rows cannot show .* {needed} or more can"):
        kept_surely(score[1:], score[1:], *goal)


def test_a_pool_that_is_all_best_is_kept() -> None:
    score = np.arange(3000.0)
    assert kept_surely(score, score, k=100, pool=100, recall=0.9, sure=0.9, confidence=0.95) == 100
