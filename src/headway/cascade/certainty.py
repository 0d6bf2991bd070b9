"""How certain a model is of its answer, from its scores: by name, calibrated, or any function of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headway.errors import CascadeError, nearest

Floats = NDArray[np.float64]
Certainty = Callable[[Any], Floats]
"""From scores of shape (n, classes) to certainties of shape (n,): the larger, the more certain."""


def margin(scores: ArrayLike) -> Floats:
    """Return by how much each sample's best score exceeds its second best (CascadeServe, appendix B).

    Scores have the shape (n, classes), or (n,) for the probability of the second of two classes; so have those of the
    other certainties here. A sample with a score that is not a number gets a certainty that is none. Raises
    CascadeError for another shape.

    >>> margin([[0.25, 0.75], [0.5, 0.5]]).tolist(), margin([0.75]).tolist()
    ([0.5, 0.0], [0.5])
    """
    columns = _columns(scores)
    best = np.partition(columns, (-2, -1), axis=1)
    return _undefined(columns, best[:, -1] - best[:, -2])


def highest(scores: ArrayLike) -> Floats:
    """Return each sample's best score: of probabilities, that of the answer given.

    >>> highest([[0.25, 0.75]]).tolist()
    [0.75]
    """
    columns = _columns(scores)
    return _undefined(columns, columns.max(axis=1))


def entropy(scores: ArrayLike) -> Floats:
    """Return 1 minus the entropy of each sample's class probabilities over that of equal ones: 0 to 1.

    Raises CascadeError for scores that are not probabilities.

    >>> entropy([[1.0, 0.0], [0.5, 0.5]]).tolist()
    [1.0, 0.0]
    """
    columns = _probabilities(scores)
    logs = np.log(np.where(columns > 0.0, columns, 1.0))
    # Rounding may leave the entropy of equal probabilities a little above its largest value.
    sure: Floats = 1.0 + (columns * logs).sum(axis=1) / np.log(columns.shape[1])
    return sure.clip(0.0, 1.0)


NAMED: dict[str, Certainty] = {"margin": margin, "highest": highest, "entropy": entropy}


def certainty(how: str | Certainty) -> Certainty:
    """Return the certainty of this name, or a function of one's own that checks what it returns.

    Raises CascadeError for an unknown name, and when called, for a result that is not one number per sample.

    >>> certainty("margin")([[0.25, 0.75]]).tolist()
    [0.5]
    """
    if isinstance(how, str):
        if how not in NAMED:
            raise CascadeError(f"certainty: unknown name {how!r}{nearest(how, NAMED)}; known: {', '.join(NAMED)}")
        return NAMED[how]
    if not callable(how):
        raise CascadeError(f"certainty: {how!r} is neither a name nor a function; known: {', '.join(NAMED)}")
    return how if isinstance(how, Isotonic | Tempered | Checked) else Checked(how)


@dataclass(frozen=True, slots=True)
class Checked:
    """A function of scores whose result is checked to be one number per sample."""

    function: Certainty

    def __call__(self, scores: Any) -> Floats:
        """Return its certainties. Raises CascadeError."""
        try:
            out = np.asarray(self.function(scores), np.float64)
        except (TypeError, ValueError) as error:
            raise CascadeError(f"certainty: {self.function!r} failed: {error}") from error
        if out.shape != (len(scores),):
            raise CascadeError(
                f"certainty: {self.function!r} returned the shape {out.shape} for {len(scores)} samples; one number "
                "per sample is needed"
            )
        return out


@dataclass(frozen=True, slots=True)
class Isotonic:
    """The probability of being right, as a function of another certainty that never falls.

    Linear between the learned `points`, which makes certainties of different models comparable.
    """

    base: Certainty
    points: tuple[float, ...]
    right: tuple[float, ...]

    def __call__(self, scores: Any) -> Floats:
        """Return the probability that each answer is right."""
        sure = self.base(scores)
        return np.where(np.isnan(sure), np.nan, np.interp(sure, self.points, self.right))

    @classmethod
    def fit(cls, scores: Any, correct: ArrayLike, base: str | Certainty = "margin") -> Isotonic:
        """Learn it from samples of which is known whether the answer was right (pool adjacent violators).

        Raises CascadeError for samples that do not fit together, or without SciPy.
        """
        known = certainty(base)
        sure, hit = known(scores), np.asarray(correct, np.float64)
        if sure.shape != hit.shape or hit.size == 0 or not np.all((hit == 0.0) | (hit == 1.0)):
            raise CascadeError(
                f"calibration: {sure.size} certainties and {hit.size} answers; for each sample it must be said whether "
                "the answer is right, 0 or 1"
            )
        if np.any(np.isnan(sure)):
            raise CascadeError("calibration: some certainties are not numbers; leave these samples out")
        points, place, count = np.unique(sure, return_inverse=True, return_counts=True)
        share = np.bincount(place, weights=hit) / count
        fitted = _optimize().isotonic_regression(share, weights=count).x
        # A level stands at its middle, with slopes to the next ones, so that few certainties become the same (Oron and
        # Flournoy, Statistics in Biopharmaceutical Research 9, 2017).
        level = np.concatenate(([0], np.cumsum(np.diff(fitted) > 0.0)))
        weight = np.bincount(level, weights=count)
        middle, right = (np.bincount(level, weights=count * value) / weight for value in (points, fitted))
        return cls(known, tuple(middle.tolist()), tuple(right.tolist()))


@dataclass(frozen=True, slots=True)
class Tempered:
    """A certainty of class probabilities that are raised to the power 1 / `temperature` and scaled to 1 again."""

    base: Certainty
    temperature: float

    def __call__(self, scores: Any) -> Floats:
        """Return the certainty of the tempered probabilities."""
        return self.base(_tempered(_probabilities(scores), self.temperature))

    @classmethod
    def fit(cls, scores: Any, labels: ArrayLike, base: str | Certainty = "highest") -> Tempered:
        """Learn the temperature of the greatest likelihood (Guo et al., ICML 2017).

        `labels` are columns of the scores. Raises CascadeError for samples that do not fit together, or without SciPy.
        """
        columns, chosen = _probabilities(scores), np.asarray(labels)
        if chosen.dtype.kind not in "iub" or chosen.shape != columns.shape[:1]:
            raise CascadeError("calibration: the labels must be one column number of the scores per sample")
        if chosen.size == 0 or chosen.min() < 0 or chosen.max() >= columns.shape[1] or np.any(np.isnan(columns)):
            raise CascadeError(
                f"calibration: labels must lie from 0 to {columns.shape[1] - 1}, of at least one sample, and scores "
                "must be numbers"
            )
        rows = np.arange(chosen.size)

        def surprise(log_temperature: float) -> float:
            tempered = _tempered(columns, float(np.exp(log_temperature)))
            return float(-np.log(np.maximum(tempered[rows, chosen], _LEAST)).mean())

        best = _optimize().minimize_scalar(surprise, bounds=(-4.0, 4.0), method="bounded")
        return cls(certainty(base), float(np.exp(best.x)))


_LEAST = 1e-300
"""Probability below which its logarithm is not taken."""


def _optimize() -> Any:
    try:
        from scipy import optimize
    except ModuleNotFoundError:
        raise CascadeError("calibration: SciPy is not installed; pip install 'headway[learn]'") from None
    return optimize


def _columns(scores: ArrayLike) -> Floats:
    columns = np.asarray(scores, np.float64)
    if columns.ndim == 1:
        columns = np.stack((1.0 - columns, columns), axis=1)
    if columns.ndim != 2 or columns.shape[1] < 2:
        raise CascadeError(
            f"certainty: the scores have the shape {np.shape(scores)}; one row per sample with a score for each of at "
            "least two classes is needed, or one probability per sample"
        )
    return columns


def _probabilities(scores: ArrayLike) -> Floats:
    columns = _columns(scores)
    known = columns[~np.isnan(columns).any(axis=1)]
    if known.size and (known.min() < -1e-6 or np.abs(known.sum(axis=1) - 1.0).max() > 1e-3):
        raise CascadeError(
            "certainty: the scores are not probabilities, which are at least 0 and add up to 1 in a row; use 'margin'"
        )
    return np.maximum(columns, 0.0)


def _undefined(columns: Floats, sure: Floats) -> Floats:
    return np.where(np.isnan(columns).any(axis=1), np.nan, sure)


def _tempered(columns: Floats, temperature: float) -> Floats:
    logs = np.log(np.maximum(columns, _LEAST)) / temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)
