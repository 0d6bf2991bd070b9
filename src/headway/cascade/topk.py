"""Top-K queries: a cheap filter ranks all rows, the full model only those that may be among the best K.

After Willump (Kraft et al., MLSys 2020, section 4.3); how many rows the filter keeps is found in `ranking`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from headway.cascade.adapt import adapt
from headway.cascade.costs import Cost, Costs, measure
from headway.cascade.features import Clock, Features, Known
from headway.cascade.importance import block_importance
from headway.cascade.model import digits
from headway.cascade.ranking import (
    Floats,
    Ints,
    best,
    draws_needed,
    enough_for_model,
    enough_rows,
    kept_surely,
    needs,
    rows_needed,
    upper_limit,
)
from headway.cascade.rows import Block, Index, Rows, count, take
from headway.cascade.select import subsets
from headway.errors import CascadeError

Score = Callable[[Any, Block], Floats]
"""Ranks rows: given a fitted model and a block, one number per row, the highest being the best."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What a filter is good for: of pools of `pool` rows like those seen, at least the share `sure` has the recall.

    `kept` rows of a pool go to the full model. It rests on `rows` calibration rows, which nothing else was chosen by,
    and holds for whatever scores at `confidence`; None: it was extrapolated by a model of how the filter errs, and is
    worth as much as that model.
    """

    k: int
    pool: int
    recall: float
    sure: float
    confidence: float | None
    kept: int
    rows: int

    def __str__(self) -> str:
        share, rows = f"{100 * self.sure:g}% of such pools", f"{self.rows:,} calibration rows"
        if self.confidence is None:
            how = f"about {share} (extrapolated by a model from {rows}, no confidence is claimed)"
        else:
            how = f"at least {share} ({100 * self.confidence:.{digits(self.confidence)}g}% confidence, {rows})"
        return f"keeps {self.kept:,} of {self.pool:,} rows for the best {self.k}: recall >= {self.recall:g} in {how}"


@dataclass(frozen=True, slots=True)
class Projected:
    """Seconds per pool that measured costs add up to: with the filter, and with the full model alone.

    >>> Projected(filtered_s=0.5, full_s=3.0).speedup
    6.0
    """

    filtered_s: float
    full_s: float

    @property
    def speedup(self) -> float:
        """How many times faster the filter should be."""
        return self.full_s / self.filtered_s


@dataclass(frozen=True, slots=True)
class Ranker:
    """A fitted model, the features that it takes in this order, and how it scores their block.

    Raises CascadeError for rows that the model cannot score.
    """

    model: Any
    inputs: tuple[str, ...]
    score: Score

    def __call__(self, known: Known) -> Floats:
        """Return the scores of all known rows; only features that are not known yet are computed."""
        block = known.stacked(self.inputs)
        with _telling("score", self.model, self.inputs):
            return np.asarray(self.score(self.model, block), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class FittedTopK:
    """Answers top-K queries: `filter` ranks all rows by cheap features, `full` ranks those kept by all of them.

    Without a filter (None: none was worth it) it is the exact query. `promise` and `projected` are of pools of the size
    and K that it was fitted for; for another K as many times more rows are kept.
    """

    features: Features
    full: Ranker
    filter: Ranker | None
    promise: Promise
    projected: Projected

    def top_k(self, rows: Rows, k: int | None = None) -> tuple[Ints, Floats]:
        """Return `(index, score)` of the K best rows, best first, by the full model's score; ties as they come.

        Raises CascadeError for a K below 1 and for scores that are NaN.
        """
        k = _at_least_one("k", self.promise.k if k is None else k)
        known = self.features.known(rows)
        kept = min(len(known), max(k, math.ceil(self.promise.kept * k / self.promise.k)))
        if self.filter is None or kept == len(known):
            return self.exact(rows, k)
        places = np.sort(best(self.filter(known), kept))
        score = self.full(known.only(places))
        order = best(score, k)
        return places[order], score[order]

    def exact(self, rows: Rows, k: int | None = None) -> tuple[Ints, Floats]:
        """Return what `top_k` approximates: all features and the full model for every row."""
        k = _at_least_one("k", self.promise.k if k is None else k)
        known = self.features.known(rows)
        score = self.full(known) if len(known) else np.empty(0)
        order = best(score, k)
        return order, score[order]

    def explain(self) -> str:
        """Return in words what the filter sees, how many rows it keeps, and what is gained."""
        if self.filter is None:
            return f"top-K: all of {', '.join(self.full.inputs)} for every row; no filter is worth its cost"
        return (
            f"top-K: a filter on {', '.join(self.filter.inputs)} {self.promise}; {self.projected.speedup:.1f} times "
            "faster by measured costs"
        )


def ranking_score(model: Any, block: Block) -> Floats:
    """Return what a model ranks rows by: its decision, the probability of the second of two classes, or its prediction.

    Raises CascadeError for a model of more than two classes, which of them ranks is for the caller to say, and of one.
    """
    classes: Any = getattr(model, "classes_", ())
    if len(classes) == 1:
        raise CascadeError(f"top-K: all training labels are {classes[0]}, so that nothing ranks rows; two are needed")
    if len(classes) > 2:
        raise CascadeError(
            f"top-K: the model has {len(classes)} classes; give score=lambda model, block: ... that ranks the rows"
        )
    if hasattr(model, "decision_function"):
        return np.asarray(model.decision_function(block), dtype=np.float64)
    if hasattr(model, "predict_proba"):
        return np.asarray(model.predict_proba(block)[:, 1], dtype=np.float64)
    return np.asarray(model.predict(block), dtype=np.float64).ravel()


@dataclass(frozen=True, slots=True)
class _Goal:
    """What is asked for, and by which draws it is judged."""

    k: int
    pool: int
    recall: float
    sure: float
    confidence: float
    draws: int
    seed: int
    extrapolate: bool

    def surely(self, rows: int) -> bool:
        """Whether so many rows show what is asked for, without a model."""
        return not self.extrapolate and rows >= rows_needed(self.k, self.pool, self.recall, self.sure, self.confidence)

    def kept(self, filter_score: Floats, full_score: Floats) -> int:
        """Return how many rows to keep, so that the recall is reached as surely as asked for or as a model tells."""
        if self.surely(filter_score.size):
            return kept_surely(filter_score, full_score, self.k, self.pool, self.recall, self.sure, self.confidence)
        draws = max(self.draws, draws_needed(self.sure, self.confidence))
        needed = needs(filter_score, full_score, self.k, self.pool, self.recall, draws, self.seed)
        return min(self.pool, max(self.k, upper_limit(needed, self.sure, self.confidence)))


def fit_top_k(
    pipeline: Any,
    rows: Rows,
    labels: Any,
    k: int,
    pool: int,
    *,
    recall: float = 0.95,
    sure: float = 0.99,
    confidence: float = 0.95,
    extrapolate: bool = False,
    draws: int = 1000,
    parts: tuple[Index, Index, Index] | None = None,
    score: Score = ranking_score,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> FittedTopK:
    """Fit a pipeline for queries for the `k` best of `pool` rows, with the cheapest filter that keeps the recall.

    `recall` is to be reached in at least the share `sure` of such pools, which the calibration rows show at
    `confidence`. Everything is fitted on the first of `parts` of the rows, the filter is chosen on the second, and how
    many rows it keeps is found on the third; without `parts` (row numbers) they are a random half and two quarters.
    `score(model, block)` ranks, `ranking_score` by default; costs are measured by `clock`.
    `extrapolate`: for less calibration rows than that takes (`rows_needed`), a model of how the filter errs among the
    best says how many rows to keep, over so many `draws` of pools; no confidence is claimed then.
    Raises CascadeError for a goal that makes no sense, too few rows or draws, naming the number that would do, labels
    and features that the model cannot be fitted to, and what cannot be taken apart.
    """
    goal = _checked(_Goal(k, pool, recall, sure, confidence, draws, seed, extrapolate))
    train, selection, calibration = _parts(count(rows), seed) if parts is None else parts
    for name, part in (("training", train), ("selection", selection), ("calibration", calibration)):
        if len(part) < 2:
            raise CascadeError(f"top-K: {len(part)} rows for {name}; at least 2 are needed, and better hundreds")
    if extrapolate:
        enough_for_model(len(calibration))
    else:
        enough_rows(len(calibration), k, pool, recall, sure, confidence)
    taken = adapt(pipeline, rows)
    truth = np.asarray(labels)
    if len(truth) != count(rows):
        raise CascadeError(f"top-K: {len(truth):,} labels for {count(rows):,} rows; one per row is due")
    truth = truth[train]
    features, learned = taken.features.fit(take(rows, train), truth)
    full = _fitted(taken.model, taken.inputs, learned, truth, score)
    chosen, costs = _choose(
        full, features, features.known(take(rows, selection)), learned, truth, goal, taken.model, clock
    )
    kept = pool
    if chosen is not None:
        held_out = features.known(take(rows, calibration))
        kept = goal.kept(chosen(held_out), full(held_out))
    projected = _projected(costs, chosen, pool, kept)
    if projected.speedup <= 1:
        chosen, kept, projected = None, pool, _projected(costs, None, pool, pool)
    certain = None if extrapolate else confidence
    promise = Promise(k, pool, recall, sure, certain, kept, rows=len(calibration))
    return FittedTopK(features, full, chosen, promise, projected)


def _choose(
    full: Ranker, features: Features, seen: Known, learned: Known, labels: Any, goal: _Goal, model: Any, clock: Clock
) -> tuple[Ranker | None, Costs]:
    """Return the filter that costs least with the rows that it must keep on the selection part, and all costs."""
    full_score = full(seen)

    def agreement(block: Block) -> float:
        return -float(np.mean((full.score(full.model, block) - full_score) ** 2))

    importance = block_importance(agreement, seen, full.inputs, repeats=3, seed=goal.seed)
    size = min(goal.pool, len(seen))
    sizes = (max(1, size // 10), size)
    models = {"full": (full.inputs, partial(full.score, full.model))}
    costs = measure(features, models, seen.rows, sizes=sizes, rounds=3, seed=goal.seed, clock=clock)
    alone_s = {name: cost.of(goal.pool) for name, cost in costs.features.items()}
    chosen: tuple[Ranker | None, Costs] = (None, costs)
    least_s = _projected(costs, None, goal.pool, goal.pool).full_s
    for names in subsets(features, full.inputs, {name: found.mean for name, found in importance.items()}, alone_s):
        ranker = _fitted(model, names, learned, labels, full.score)
        began = clock()
        filter_score = ranker(seen)
        model_s = Cost(0.0, (clock() - began) / len(seen))
        kept = goal.kept(filter_score, full_score)
        uses = {**costs.uses, "filter": features.closure(names)}
        with_filter = Costs(costs.features, {**costs.models, "filter": model_s}, uses)
        filtered_s = _projected(with_filter, ranker, goal.pool, kept).filtered_s
        if filtered_s < least_s:
            chosen, least_s = (ranker, with_filter), filtered_s
    return chosen


def _projected(costs: Costs, ranker: Ranker | None, pool: int, kept: int) -> Projected:
    full_s = costs.expected_s(["full"], [1.0], pool)
    if ranker is None:
        return Projected(full_s, full_s)
    return Projected(costs.expected_s(["filter", "full"], [1.0, kept / pool], pool), full_s)


def _fitted(model: Any, inputs: tuple[str, ...], learned: Known, labels: Any, score: Score) -> Ranker:
    if not hasattr(model, "fit"):
        raise CascadeError(
            f"top-K: a {type(model).__name__} cannot be fitted to fewer features; give a model with fit, as "
            "scikit-learn's"
        )
    from sklearn.base import clone

    block = learned.stacked(inputs)
    with _telling("be fitted to", model, inputs):
        return Ranker(clone(model).fit(block, labels), inputs, score)


@contextmanager
def _telling(what: str, model: Any, inputs: tuple[str, ...]) -> Iterator[None]:
    """Say which model could not do what with which features, where it says itself that it got wrong values."""
    try:
        yield
    except ValueError as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise CascadeError(f"top-K: {type(model).__name__} cannot {what} {', '.join(inputs)}: {reason}") from error


def _parts(rows: int, seed: int) -> tuple[Index, Index, Index]:
    order = np.random.default_rng([seed, rows]).permutation(rows)
    half, quarter = rows // 2, rows // 4
    return order[:half], order[half : half + quarter], order[half + quarter :]


def _checked(goal: _Goal) -> _Goal:
    _at_least_one("k", goal.k)
    if goal.pool < goal.k:
        raise CascadeError(f"top-K: the best {goal.k} of a pool of {goal.pool} are asked for; the pool must be larger")
    for name, share in (("recall", goal.recall), ("sure", goal.sure), ("confidence", goal.confidence)):
        if not 0 < share < 1 and not (name == "recall" and share == 1):
            raise CascadeError(f"top-K: {name} is {share}; it must be a share such as 0.95")
    if goal.extrapolate:
        upper_limit(np.zeros(goal.draws, dtype=np.int64), goal.sure, goal.confidence)
    return goal


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise CascadeError(f"top-K: {name} is {value}; at least 1 is needed")
    return value
