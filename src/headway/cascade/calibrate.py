"""Certainties that are learned from which answers were right, so that one threshold means the same for all models.

With one curve for each class that is answered, a threshold on the probability of being right is another margin for each
class: thresholds by class without more of them to choose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headway.cascade.certainty import NAMED, Certainty, Isotonic, certainty
from headway.cascade.table import ValidationTable
from headway.errors import CascadeError, nearest

Floats = NDArray[np.float64]
Learn = Callable[[Any, ArrayLike], Certainty]
"""From scores of samples, and which of their answers are right, to a certainty."""

LEAST_BY_CLASS = 50
"""Answers of one class that a curve of their own takes; fewer follow the curve of all answers."""


@dataclass(frozen=True, slots=True)
class Curves:
    """The probability of being right by the answer given: a curve for each that was seen often, one for the rest.

    >>> curves = Curves.fit([0, 0, 1], [0.2, 0.9, 0.5], [0, 1, 1])
    >>> len(curves.each)
    0
    """

    all: Isotonic
    each: Mapping[Any, Isotonic]

    def __call__(self, answer: NDArray[Any], sure: Floats) -> Floats:
        """Return the probability that each answer is right, from how sure of it a model said to be."""
        told = self.all(sure)
        for one, curve in self.each.items():
            of_it = answer == one
            told[of_it] = curve(sure[of_it])
        return told

    @classmethod
    def fit(cls, answer: ArrayLike, sure: ArrayLike, correct: ArrayLike) -> Curves:
        """Learn the curves. Raises CascadeError for samples that do not fit together, or without SciPy."""
        given, number, hit = np.asarray(answer), np.asarray(sure, np.float64), np.asarray(correct)
        pooled = Isotonic.fit(number, hit, as_it_is)
        seen, count = np.unique(given, return_counts=True)
        often = seen[count >= LEAST_BY_CLASS].tolist()
        return cls(pooled, {one: Isotonic.fit(number[given == one], hit[given == one], as_it_is) for one in often})


@dataclass(frozen=True, slots=True)
class ByClass:
    """The probability of being right, learned for each class that a model answers."""

    base: Certainty
    curves: Curves

    def __call__(self, scores: Any) -> Floats:
        """Return the probability that each answer, the class of the best score, is right."""
        return self.curves(np.asarray(_columns(scores)).argmax(axis=1), self.base(scores))

    @classmethod
    def fit(cls, scores: Any, correct: ArrayLike, base: str | Certainty = "margin") -> ByClass:
        """Learn it from samples of which is known whether the answer was right. Raises CascadeError.

        >>> learned = ByClass.fit([[0.3, 0.7], [0.6, 0.4]], [True, False])
        >>> learned([[0.3, 0.7]]).tolist()
        [1.0]
        """
        known = certainty(base)
        return cls(known, Curves.fit(_columns(scores).argmax(axis=1), known(scores), correct))


LEARNED: dict[str, Learn] = {"calibrated": Isotonic.fit, "calibrated-by-class": ByClass.fit}
"""By name: the probability of being right by a model's margin, for all its answers or for each class apart."""


def learner(how: str | Certainty) -> Learn:
    """Return what makes a model's certainty: learned from its answers for names that learn, else what it always is.

    Raises CascadeError for an unknown name.

    >>> learner("margin")([[0.5, 0.5]], [True])([[0.25, 0.75]]).tolist()
    [0.5]
    """
    if isinstance(how, str) and how in LEARNED:
        return LEARNED[how]
    if isinstance(how, str) and how not in NAMED:
        known = (*NAMED, *LEARNED)
        raise CascadeError(f"certainty: unknown name {how!r}{nearest(how, known)}; known: {', '.join(known)}")
    fixed = certainty(how)
    return lambda scores, correct: fixed


def calibrated(table: ValidationTable, learned_from: ValidationTable, by_class: bool = False) -> ValidationTable:
    """Return a table whose certainties are probabilities of being right, learned from another table of the same models.

    `learned_from` may be the table that cascades are chosen on, never the one that certifies them. With `by_class` each
    predicted class has a curve of its own, so that a threshold is one by class. Raises CascadeError for a table without
    predictions, graded credits, or a model that `learned_from` lacks.

    >>> table = ValidationTable([0, 1, 1], {"a": [0, 0, 0]}, {"a": [0.9, 0.1, 0.1]})
    >>> calibrated(table, table).certainty["a"].tolist()
    [1.0, 0.0, 0.0]
    """
    if table.predicted is None or learned_from.predicted is None:
        raise CascadeError("calibration: the table has no predictions, so nothing says which answers were right")
    right, sure = learned_from.correct, {}
    for name in table.models:
        answers = learned_from.predicted[learned_from.known(name)]
        if by_class:
            curves = Curves.fit(answers, learned_from.certainty[name], right[name])
            sure[name] = curves(table.predicted[name], table.certainty[name])
        else:
            sure[name] = Isotonic.fit(learned_from.certainty[name], right[name], as_it_is)(table.certainty[name])
    return ValidationTable(table.labels, table.predicted, sure, table.score)


def as_it_is(sure: Any) -> Floats:
    """Return certainties that are numbers already.

    >>> as_it_is([0.5]).tolist()
    [0.5]
    """
    return np.asarray(sure, np.float64)


def _columns(scores: Any) -> Floats:
    columns = np.asarray(scores, np.float64)
    return np.stack((1.0 - columns, columns), axis=1) if columns.ndim == 1 else columns
