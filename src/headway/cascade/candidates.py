"""The steps that a cascade may be made of, and what they say of rows that they have not seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headway.cascade.adapt import Parts, Scorer, scorer
from headway.cascade.costs import Costs, measure
from headway.cascade.features import Clock, Features, Known, copied
from headway.cascade.importance import block_importance
from headway.cascade.refused import VALUE_ERRORS, refused, unlearned
from headway.cascade.rows import Block, Rows
from headway.cascade.select import subsets
from headway.errors import CascadeError

FULL = "full"
"""The name of the pipeline's own model on all its features: the reference."""
MOST_TIMED = 250
"""Rows that are timed at once at most: beyond, generators and models cost as much more as there are more rows."""
Truth = NDArray[Any]
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A step that may be: a model, unfitted or given, and the features it sees."""

    features: tuple[str, ...]
    model: Any


@dataclass(frozen=True, slots=True)
class Trained:
    """Generators fitted on training rows, with their blocks there, for fitting models on."""

    parts: Parts
    features: Features
    known: Known
    truth: Truth

    @classmethod
    def fit(cls, parts: Parts, rows: Rows, truth: Truth) -> Trained:
        """Fit the generators."""
        features, known = parts.features.fit(rows, truth)
        return cls(parts, features, known, truth)

    def model(self, candidate: Candidate) -> Scorer:
        """Fit a candidate's model on the blocks of its features; one that is given stays as it is.

        What the scores of a model without `classes_` are of is said by the parts, else they are of the sorted labels.
        Raises CascadeError where it cannot be fitted on these rows.
        """
        if not hasattr(candidate.model, "fit"):
            return scorer(candidate.model, np.unique(self.truth) if self.parts.classes is None else self.parts.classes)
        fitted, block = copied(candidate.model), self.known.stacked(candidate.features)
        try:
            fitted.fit(block, self.truth)
        except VALUE_ERRORS as error:
            raise unlearned(f"model {type(fitted).__name__}", len(self.truth), error) from error
        return scorer(fitted)


def full(parts: Parts) -> Candidate:
    """Return the reference: the pipeline's own model on all its features."""
    return Candidate(parts.inputs, parts.model)


def candidates(
    parts: Parts,
    models: Mapping[str, Any],
    first: Trained,
    rows: Rows,
    truth: Truth,
    *,
    at_once: int,
    seed: int,
    clock: Clock,
) -> dict[str, Candidate]:
    """Return candidates by name, the reference last: the pipeline's model on the best subsets of its features, and each
    other model on these and on all features.

    Features are judged by what shuffling them costs the full model, fitted by `first`, on `rows` that it has not seen.
    A model that is given fitted sees all features. Raises CascadeError for a model named as the reference is.
    """
    subset_models = {"": parts.model} if hasattr(parts.model, "fit") else {}
    subset_models |= {f"{name}:": model for name, model in models.items() if hasattr(model, "fit")}
    chosen = _subsets(first, rows, truth, at_once, seed, clock) if subset_models and len(parts.inputs) > 1 else []
    found = {f"{prefix}{'+'.join(s)}": Candidate(s, model) for s in chosen for prefix, model in subset_models.items()}
    found |= {name: Candidate(parts.inputs, model) for name, model in models.items()}
    if FULL in found:
        raise CascadeError(f"models: {FULL!r} is the name of the pipeline's own; give the other one another name")
    return {**found, FULL: full(parts)}


class Fold(NamedTuple):
    """Rows held out, generators and candidates fitted on the others, and what these say of the rows held out."""

    held: Places
    features: Features
    models: dict[str, Scorer]
    said: dict[str, NDArray[np.float64]]


def out_of_fold(trained: Trained, found: Mapping[str, Candidate], rows: Rows, held: Places) -> Fold:
    """Fit the candidates, and ask them about rows that were held out."""
    models = {name: trained.model(candidate) for name, candidate in found.items()}
    return Fold(held, trained.features, models, scores(trained.features, models, found, rows))


def scores(
    features: Features, models: Mapping[str, Scorer], found: Mapping[str, Candidate], rows: Rows
) -> dict[str, NDArray[np.float64]]:
    """Return what each model says of rows; features are computed once for all of them.

    Raises CascadeError that names a row that a feature or a model cannot take.
    """
    known, said = features.known(rows), dict[str, NDArray[np.float64]]()
    for name, model in models.items():
        block = known.stacked(found[name].features)
        try:
            said[name] = model.scores(block)
        except VALUE_ERRORS as error:
            raise refused(f"model {name!r}", known, model.scores, [block], error) from error
    return said


def costs(fold: Fold, found: Mapping[str, Candidate], rows: Rows, *, at_once: int, seed: int, clock: Clock) -> Costs:
    """Measure what the candidates of a fold cost for point queries and for batches of `at_once` rows."""
    uses = {name: (found[name].features, model.scores) for name, model in fold.models.items()}
    most = min(at_once, MOST_TIMED)
    return measure(fold.features, uses, rows, sizes=sorted({1, max(1, most // 10), most}), seed=seed, clock=clock)


def _subsets(first: Trained, rows: Rows, truth: Truth, at_once: int, seed: int, clock: Clock) -> list[tuple[str, ...]]:
    """Subsets of the features by importance to the full model and cost."""
    parts, reference, known = first.parts, first.model(full(first.parts)), first.features.known(rows)
    # What the model cannot take is told by its row, which shuffled rows below could not be.
    scores(first.features, {FULL: reference}, {FULL: full(parts)}, rows)

    def accuracy(block: Block) -> float:
        return float(np.mean(reference.classes[reference.scores(block).argmax(axis=1)] == truth))

    found = block_importance(accuracy, known, parts.inputs, seed=seed)
    worth = {name: one.mean for name, one in found.items()}
    size, model = min(at_once, MOST_TIMED), {FULL: (parts.inputs, reference.scores)}
    spent = measure(first.features, model, rows, sizes=(size,), rounds=3 + 20 // size, seed=seed, clock=clock)
    return subsets(first.features, parts.inputs, worth, {name: cost.of(size) for name, cost in spent.features.items()})
