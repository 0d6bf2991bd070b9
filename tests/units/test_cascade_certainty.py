"""Certainties: what they say of scores, calibrated or not, and of scores that are none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from headway.cascade.certainty import Isotonic, Tempered, certainty, entropy, highest, margin
from headway.errors import CascadeError


def softmax(logits: Any) -> Any:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_the_three_by_name_agree_on_what_is_surest() -> None:
    scores = [[0.98, 0.01, 0.01], [0.6, 0.3, 0.1], [1 / 3, 1 / 3, 1 / 3]]
    for name in ("margin", "highest", "entropy"):
        sure = certainty(name)(scores)
        assert sure[0] > sure[1] > sure[2]
    assert margin(scores).tolist() == pytest.approx([0.97, 0.3, 0.0])
    assert highest(scores).tolist() == [0.98, 0.6, 1 / 3]
    assert entropy(scores)[2] == pytest.approx(0.0, abs=1e-12)


def test_one_probability_per_sample_is_that_of_the_second_of_two_classes() -> None:
    for name in ("margin", "highest", "entropy"):
        assert certainty(name)([0.9, 0.2]).tolist() == pytest.approx(certainty(name)([[0.1, 0.9], [0.8, 0.2]]).tolist())


@pytest.mark.parametrize("how", [margin, highest, entropy])
def test_a_score_that_is_not_a_number_gives_no_certainty(how: Any) -> None:
    sure = how([[math.nan, 0.5], [0.5, 0.5]])
    assert math.isnan(sure[0])
    assert not math.isnan(sure[1])


def test_margins_need_no_probabilities_but_entropies_do() -> None:
    assert margin([[-3.0, 5.0, 1.0]]).tolist() == [4.0]
    for scores in ([[-3.0, 5.0]], [[0.5, 0.6]]):
        with pytest.raises(CascadeError, match="not probabilities"):
            entropy(scores)


@pytest.mark.parametrize("scores", [[[0.5]], [[[0.5, 0.5]]], 0.5])
def test_scores_of_one_class_or_another_shape_are_refused(scores: Any) -> None:
    with pytest.raises(CascadeError, match="at least two classes"):
        margin(scores)


def test_a_function_of_ones_own_is_checked() -> None:
    own = certainty(lambda scores: np.asarray(scores)[:, 0])
    assert own([[0.1, 0.9]]).tolist() == [0.1]
    assert certainty(own) is own
    with pytest.raises(CascadeError, match="one number per sample is needed"):
        certainty(lambda scores: np.zeros((len(scores), 2)))([[0.1, 0.9]])
    with pytest.raises(CascadeError, match="unknown name 'margn'; did you mean 'margin'"):
        certainty("margn")
    with pytest.raises(CascadeError, match="neither a name nor a function"):
        certainty(3)  # type: ignore[arg-type]


def test_isotonic_calibration_tells_the_share_of_right_answers() -> None:
    rng = np.random.default_rng(0)
    sure = rng.random(20_000)
    scores = np.stack(((1 - sure) / 2, (1 + sure) / 2), axis=1)
    correct = rng.random(20_000) < 0.5 + 0.5 * sure**2
    learned = Isotonic.fit(scores, correct)
    grid = np.linspace(0.05, 0.95, 10)
    told = learned(np.stack(((1 - grid) / 2, (1 + grid) / 2), axis=1))
    assert told == pytest.approx(0.5 + 0.5 * grid**2, abs=0.06)
    assert np.all(np.diff(told) >= 0)
    assert certainty(learned) is learned
    assert math.isnan(learned([[math.nan, 0.5]])[0])


def test_isotonic_calibration_of_a_constant_certainty_is_the_share_of_right_answers() -> None:
    learned = Isotonic.fit([[0.3, 0.7]] * 4, [1, 1, 1, 0])
    assert learned([[0.3, 0.7], [0.0, 1.0]]).tolist() == [0.75, 0.75]


def test_the_temperature_of_overconfident_scores_is_found() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(20_000, 3))
    labels = (softmax(logits).cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    learned = Tempered.fit(softmax(3.0 * logits), labels)
    assert learned.temperature == pytest.approx(3.0, rel=0.05)
    assert learned(softmax(3.0 * logits[:5])) == pytest.approx(highest(softmax(logits[:5])), abs=0.02)


@pytest.mark.parametrize(
    ("scores", "correct"), [([[0.3, 0.7]], [1, 0]), ([[0.3, 0.7]], [0.5]), ([[math.nan, 0.7]], [1]), ([], [])]
)
def test_calibration_refuses_what_does_not_fit_together(scores: Any, correct: Any) -> None:
    with pytest.raises(CascadeError):
        Isotonic.fit(np.reshape(scores, (-1, 2)), correct)


@pytest.mark.parametrize("labels", [[2], [-1], [0.5], [0, 1]])
def test_a_temperature_needs_labels_that_are_columns(labels: Any) -> None:
    with pytest.raises(CascadeError, match="calibration: "):
        Tempered.fit([[0.3, 0.7]], labels)
