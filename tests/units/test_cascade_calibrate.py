"""Calibrated certainties: by name, by class, and in tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headway.cascade.calibrate import LEAST_BY_CLASS, ByClass, Curves, calibrated, learner
from headway.cascade.certainty import margin
from headway.cascade.search import search
from headway.cascade.table import ValidationTable
from headway.errors import CascadeError

Floats = np.ndarray[Any, np.dtype[np.float64]]


def two_classes(samples: int, seed: int) -> tuple[Floats, Any]:
    """Scores whose second class is right as often as it says, and whose first class is right half as often."""
    draws = np.random.default_rng(seed)
    upper = draws.random(samples)
    answer = upper >= 0.5
    sure = np.abs(2 * upper - 1)
    right = draws.random(samples) < np.where(answer, 0.5 + 0.5 * sure, 0.25 + 0.25 * sure)
    return np.column_stack([1 - upper, upper]), right


def test_a_curve_of_its_own_tells_how_often_each_class_is_right() -> None:
    learned = ByClass.fit(*two_classes(40_000, seed=1))
    grid = np.linspace(0.1, 0.9, 9)
    upper = learned(np.column_stack([(1 - grid) / 2, (1 + grid) / 2]))
    lower = learned(np.column_stack([(1 + grid) / 2, (1 - grid) / 2]))
    assert upper == pytest.approx(0.5 + 0.5 * grid, abs=0.05)
    assert lower == pytest.approx(0.25 + 0.25 * grid, abs=0.05)


def test_one_threshold_is_another_margin_for_each_class() -> None:
    scores, right = two_classes(20_000, seed=2)
    learned = learner("calibrated-by-class")(scores, right)
    certain = learned(scores) >= 0.8
    least = [margin(scores[certain & (scores.argmax(axis=1) == place)]).min(initial=1.0) for place in (0, 1)]
    assert least[0] > 0.95
    assert least[1] == pytest.approx(0.6, abs=0.1)


def test_few_answers_of_a_class_follow_the_curve_of_all() -> None:
    answer = np.array([0] * 500 + [1] * (LEAST_BY_CLASS - 1))
    sure = np.tile([0.2, 0.8], answer.size)[: answer.size]
    curves = Curves.fit(answer, sure, sure > 0.5)
    assert list(curves.each) == [0]
    assert curves(np.array([1, 2]), np.array([0.9, 0.1])).tolist() == [1.0, 0.0]


def test_scores_that_are_no_numbers_have_no_certainty() -> None:
    learned = ByClass.fit(*two_classes(500, seed=3))
    assert np.isnan(learned(np.array([[np.nan, 0.5], [0.1, 0.9]]))).tolist() == [True, False]


def test_names_are_known_and_functions_stay_what_they_are() -> None:
    scores, right = two_classes(400, seed=4)
    assert learner("margin")(scores, right)(scores) == pytest.approx(margin(scores))
    assert learner(lambda scores: scores[:, 0])(scores, right)(scores) == pytest.approx(scores[:, 0])
    assert learner("calibrated")(scores, right)(scores).max() <= 1.0
    with pytest.raises(CascadeError, match=r"unknown name 'calibratd'; did you mean 'calibrated'.*calibrated-by-class"):
        learner("calibratd")


def overconfident(samples: int, seed: int) -> ValidationTable:
    """`small` is sure of everything it says of class 1, and wrong there half of the time."""
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, 2, samples)
    said = draws.integers(0, 2, samples)
    said = np.where((said == 0) | (draws.random(samples) < 0.5), labels, said)
    sure = np.where(said == 1, 0.9 + 0.1 * draws.random(samples), draws.random(samples))
    return ValidationTable(labels, {"small": said, "full": labels}, {"small": sure, "full": np.ones(samples)})


@pytest.mark.parametrize("by_class", [False, True])
def test_tables_are_calibrated_on_others(by_class: bool) -> None:
    seen, fresh = overconfident(8_000, 1), overconfident(8_000, 2)
    made = calibrated(fresh, seen, by_class)
    assert np.array_equal(made.credit["small"], fresh.credit["small"])
    sure, right = made.certainty["small"], fresh.correct["small"]
    for low in (0.0, 0.6, 0.8):
        some = (sure >= low) & (sure < low + 0.2)
        if some.sum() > 200:
            assert right[some].mean() == pytest.approx(sure[some].mean(), abs=0.05)


def test_thresholds_by_class_answer_more_at_the_same_loss() -> None:
    seen, fresh = overconfident(4_000, 3), overconfident(4_000, 4)
    shares = []
    for table in (calibrated(fresh, seen), calibrated(fresh, seen, by_class=True)):
        found = search(table, {"small": 0.001, "full": 0.01})
        exact = found.accuracy >= 1.0 - 0.005
        shares.append(float(found.cost_s[exact].min()))
    assert shares[1] < shares[0]


def test_tables_without_predictions_or_with_credits_are_refused() -> None:
    graded = ValidationTable(None, None, {"a": [0.5, 0.6]}, {"a": [0.5, 0.25]})
    with pytest.raises(CascadeError, match="no predictions"):
        calibrated(graded, graded)
    both = ValidationTable([0, 1], {"a": [0, 1]}, {"a": [0.5, 0.6]}, {"a": [0.5, 0.25]})
    with pytest.raises(CascadeError, match="graded"):
        calibrated(both, both)
    other = ValidationTable([0, 1], {"b": [0, 1]}, {"b": [0.5, 0.6]})
    with pytest.raises(CascadeError, match="no model 'a'"):
        calibrated(ValidationTable([0, 1], {"a": [0, 1]}, {"a": [0.5, 0.6]}), other)
