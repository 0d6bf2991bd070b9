"""Families that mislead: a cheap model that is better, certainty that lies, constant, identical and broken models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from headway.cascade.adapt import Parts
from headway.cascade.features import Feature, Features
from headway.cascade.fit import fit_cascade
from headway.cascade.run import FittedCascade
from headway.errors import CascadeError

Floats = NDArray[np.float64]
SEEN = 4_000


class Clock:
    """Goes on when models work: a microsecond a row for the cheap one, a hundred for the full one."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def population(samples: int, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """A truth, what the full model sees of it, and what the cheap one sees."""
    draws = np.random.default_rng(seed)
    truth = draws.normal(size=samples)
    return np.column_stack([truth + 0.3 * draws.normal(size=samples), truth + 0.6 * draws.normal(size=samples)]), (
        truth > 0
    ).astype(np.int64)


def sure(column: Floats) -> Floats:
    upper = 1 / (1 + np.exp(-5 * column))
    return np.column_stack([1 - upper, upper])


def fitted(cheap: Any, full: Any = None, seed: int = 1, samples: int = SEEN, **given: Any) -> FittedCascade:
    """A cascade of models that are fitted already, from a block of two columns to scores."""
    clock = Clock()

    def timed(model: Any, per_row_s: float) -> Any:
        def scores(block: Floats) -> Floats:
            clock.now_s += per_row_s * len(block)
            return np.asarray(model(block))

        return scores

    of_full = timed(full or (lambda block: sure(block[:, 0])), 100e-6)
    parts = Parts(Features({"rows": Feature(lambda rows: rows)}), ("rows",), of_full, classes=(0, 1))
    models = {"cheap": timed(cheap, 1e-6)}
    return fit_cascade(parts, *population(samples, seed), models=models, clock=clock, tolerance=0.02, folds=2, **given)


def loss(made: FittedCascade) -> float:
    rows, truth = population(40_000, 99)
    return float((made.reference().predict(rows) == truth).mean() - (made.predict(rows) == truth).mean())


def bound(made: FittedCascade) -> float:
    assert made.evidence is not None
    return made.evidence.certificate.loss_bound


def test_a_cheap_model_that_is_better_answers_alone() -> None:
    made = fitted(lambda block: sure(block[:, 0]), lambda block: sure(block[:, 1]))
    assert made.cascade.models == ("cheap",)
    assert loss(made) <= bound(made) < 0


def test_of_identical_models_the_cheap_one_answers_alone() -> None:
    made = fitted(lambda block: sure(block[:, 0]))
    assert made.cascade.models == ("cheap",)
    assert loss(made) == 0


@pytest.mark.parametrize("how", ["margin", "calibrated", "calibrated-by-class"])
def test_a_certainty_that_lies_is_not_certified_beyond_what_holds(how: str) -> None:
    """The cheap model is the surer the less it knows: it may answer nothing, or no more than is harmless."""

    def liar(block: Floats) -> Floats:
        scores = sure(block[:, 1])
        unsure = 1.0 - np.abs(scores[:, 1] - 0.5)
        return np.where(
            scores[:, 1:] > 0.5, np.column_stack([1 - unsure, unsure]), np.column_stack([unsure, 1 - unsure])
        )

    try:
        made = fitted(liar, how_certain=how)
    except CascadeError as error:
        refused = str(error)
    else:
        refused = ""
        assert loss(made) <= bound(made) <= 0.02
    assert not refused or "every cheaper one is seen to lose" in refused or "no cascade is sure to lose" in refused


def test_a_lying_certainty_is_turned_round_by_a_function_of_ones_own() -> None:
    def liar(block: Floats) -> Floats:
        return 1.0 - sure(block[:, 1])

    with pytest.raises(CascadeError, match="every cheaper one is seen to lose"):
        fitted(liar)


@pytest.mark.parametrize("how", ["margin", "entropy", "calibrated", "calibrated-by-class"])
def test_a_constant_model_is_no_step(how: str) -> None:
    with pytest.raises(CascadeError, match="every cheaper one is seen to lose more than"):
        fitted(lambda block: np.tile([0.4, 0.6], (len(block), 1)), how_certain=how)


def test_scores_that_are_no_numbers_are_an_error_that_names_the_model() -> None:
    def broken(block: Floats) -> Floats:
        scores = sure(block[:, 1])
        scores[block[:, 1] > 2.0] = np.nan
        return scores

    with pytest.raises(CascadeError, match="certainty of model 'cheap' is missing for"):
        fitted(broken)


@pytest.mark.parametrize("how", ["calibrated", "calibrated-by-class"])
def test_calibrated_certainties_keep_the_guarantee(how: str) -> None:
    made = fitted(lambda block: sure(block[:, 1]), how_certain=how)
    assert made.cascade.models == ("cheap", "full")
    assert loss(made) <= bound(made) <= 0.02
    threshold = made.cascade.thresholds[0]
    assert 0.5 < threshold <= 1.0


@pytest.mark.parametrize("labels", [np.zeros(SEEN), [None] * SEEN, np.full(SEEN, np.nan)])
def test_one_class_and_no_labels_are_refused(labels: Any) -> None:
    parts = Parts(Features({"rows": Feature(lambda rows: rows)}), ("rows",), lambda block: sure(block[:, 0]), (0, 1))
    with pytest.raises(CascadeError, match="labels: "):
        fit_cascade(parts, population(SEEN, 1)[0], labels, models={"cheap": lambda block: sure(block[:, 1])})


def test_over_60_data_sets_no_more_cascades_lose_more_than_allowed_than_the_confidence_says() -> None:
    """Chosen, fitted to nothing, and certified from 1,200 rows each: the whole of it, not the bound alone."""
    rows, truth = population(30_000, 7)
    wrong = made = 0
    for seed in range(60):
        try:
            cascade = fitted(lambda block: sure(block[:, 1]), seed=100 + seed, samples=1_200, expected_loss=0.02)
        except CascadeError:
            continue
        made += 1
        full = sure(rows[:, 0]).argmax(axis=1) == truth
        wrong += bool(full.mean() - (cascade.predict(rows) == truth).mean() > 0.02)
    assert made > 20, "a guarantee that certifies nothing holds as well"
    assert wrong <= 6
