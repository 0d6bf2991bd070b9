"""Which cascades there are, how right each one is and what it costs, from a validation table alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headway.cascade.model import Cascade, Step
from headway.cascade.table import ValidationTable
from headway.errors import CascadeError
from headway.policy import cascading
from headway.sim.jit import kernel

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]

StepCosts = Mapping[str, float] | Callable[[tuple[str, ...]], Sequence[float]]
"""Seconds per sample that reaches a model; or, where steps share work, of each step of an order of models."""

_answers = kernel(cascading.answers)


@dataclass(frozen=True, eq=False)
class Judged:
    """Cascades with their figures, exact on the samples of one table; arrays have a row per cascade.

    `accuracy`: mean credit of the answers given. `reaching`: share of samples that each step is asked about, 1 for the
    first; 0 beyond a cascade's last step. `cost_s`: mean seconds per sample. `total`: how many cascades the space has;
    `stop` is "complete" when all were judged, else "budget".
    """

    table: ValidationTable
    model: Longs
    threshold: Floats
    accuracy: Floats
    reaching: Floats
    cost_s: Floats
    total: int
    stop: str
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.accuracy)

    def cascade(self, at: int) -> Cascade:
        """Return the cascade of row `at`."""
        used = [step for step in range(self.model.shape[1]) if self.model[at, step] >= 0]
        names = [self.table.models[self.model[at, step]] for step in used]
        thresholds = [*(float(self.threshold[at, step]) for step in used[:-1]), None]
        return Cascade(
            tuple(Step(name, self.features.get(name, ()), t) for name, t in zip(names, thresholds, strict=True))
        )

    def pareto(self) -> list[int]:
        """Return the rows that no other beats in accuracy without costing more, cheapest first.

        Of equals the one with fewer steps stands for all. The cheapest and the most accurate are always among them.
        """
        steps = (self.model >= 0).sum(axis=1)
        order = np.lexsort((np.arange(len(self)), steps, -self.accuracy, self.cost_s))
        best = np.maximum.accumulate(np.concatenate(([-math.inf], self.accuracy[order][:-1])))
        return [int(row) for row in order[self.accuracy[order] > best]]


def judge(table: ValidationTable, cascades: Iterable[Cascade], cost_s: StepCosts) -> Judged:
    """Return accuracy, shares and cost of these cascades, exactly, in their order.

    Raises CascadeError for a model that the table or `cost_s` lacks, and when there is no cascade.

    >>> table = ValidationTable([0, 1], {"a": [0, 0], "b": [0, 1]}, {"a": [0.9, 0.6], "b": [1.0, 1.0]})
    >>> judged = judge(table, [Cascade((Step("a", threshold=0.8), Step("b")))], {"a": 0.001, "b": 0.01})
    >>> float(judged.accuracy[0]), float(judged.cost_s[0]), judged.reaching.tolist()
    (1.0, 0.006, [[1.0, 0.5]])
    """
    listed = list(cascades)
    if not listed:
        raise CascadeError("cascades: there is none to judge; at least one is needed")
    width = max(map(len, listed))
    place = {name: at for at, name in enumerate(table.models)}
    model = np.full((len(listed), width), -1, np.int64)
    threshold = np.full((len(listed), width), cascading.ALWAYS)
    features: dict[str, tuple[str, ...]] = {}
    for row, cascade in enumerate(listed):
        model[row, : len(cascade)] = [place[table.known(name)] for name in cascade.models]
        threshold[row, : len(cascade)] = cascade.thresholds
        for step in cascade.steps:
            if features.setdefault(step.model, step.features) != step.features:
                raise CascadeError(
                    f"cascades: model {step.model!r} sees the features {features[step.model]} in one cascade and "
                    f"{step.features} in another; what differs in features needs two names"
                )
    return _judged(table, model, threshold, cost_s, len(listed), features)


def search(
    table: ValidationTable,
    cost_s: StepCosts,
    *,
    max_steps: int = 3,
    levels: int = 16,
    thresholds: Mapping[str, Sequence[float]] | None = None,
    budget: int = 200_000,
    seed: int = 0,
    any_order: bool = False,
    features: Mapping[str, tuple[str, ...]] | None = None,
) -> Judged:
    """Judge every cascade of at most `max_steps` of the table's models; beyond `budget` of them a seeded sample.

    Models are asked in order of their cost alone, or with `any_order` in every order. A model's thresholds are
    `levels` quantiles of its certainty, or those given for it. Single models are always judged. The sample is drawn
    evenly, without repetition. Raises CascadeError for what cannot be searched (CascadeServe, arXiv
    2406.14424, samples at random; a table makes full enumeration cheap).

    >>> table = ValidationTable([0, 1], {"a": [0, 0], "b": [0, 1]}, {"a": [0.9, 0.6], "b": [1.0, 1.0]})
    >>> found = search(table, {"a": 0.001, "b": 0.01})
    >>> [str(found.cascade(at)) for at in found.pareto()], found.stop
    (['a', 'a >= 0.9 -> b'], 'complete')
    """
    if max_steps < 1 or levels < 1 or budget < len(table.models):
        raise CascadeError(
            f"search: max_steps {max_steps}, levels {levels} and budget {budget}; at least one step, one level and "
            f"a cascade for each of the {len(table.models)} models are needed"
        )
    most = min(max_steps, len(table.models))
    counted = math.perm if any_order else math.comb
    if sum(counted(len(table.models), length) for length in range(1, most + 1)) > budget:
        raise CascadeError(
            f"search: {len(table.models)} models in up to {most} steps have more orders than the budget of {budget} "
            "cascades; fewer steps or a larger budget are needed"
        )
    grids = [_grid(table, name, levels, thresholds) for name in table.models]
    orders = _orders(table.models, cost_s, most, any_order)
    sizes = [math.prod(len(grids[at]) for at in order[:-1]) for order in orders]
    ends = list(itertools.accumulate(sizes))
    total = ends[-1]
    if total > np.iinfo(np.int64).max:
        raise CascadeError(f"search: {total} cascades are too many to draw from; fewer steps or levels are needed")
    chosen = np.arange(total) if total <= budget else _sample(total, sizes, budget, seed)
    model, threshold = _decoded(chosen, orders, np.array(ends), grids, max(map(len, orders)))
    return _judged(table, model, threshold, cost_s, total, features or {})


def walk(table: ValidationTable, cascade: Cascade) -> Longs:
    """Return for each sample the place of the step that answers it.

    >>> table = ValidationTable([0, 1], {"a": [0, 0], "b": [0, 1]}, {"a": [0.9, 0.6], "b": [1.0, 1.0]})
    >>> walk(table, Cascade((Step("a", threshold=0.8), Step("b")))).tolist()
    [0, 1]
    """
    at = np.full(table.samples, -1, np.int64)
    for place, (name, threshold) in enumerate(zip(cascade.models, cascade.thresholds, strict=True)):
        certain = cascading.answers(table.certainty[table.known(name)], threshold)
        at[(at < 0) & certain] = place
    return at


def credit(table: ValidationTable, cascade: Cascade) -> Floats:
    """Return for each sample the credit of the answer that the cascade gives."""
    columns = np.stack([table.credit[name] for name in cascade.models])
    return np.asarray(columns[walk(table, cascade), np.arange(table.samples)], np.float64)


def step_costs_s(cost_s: StepCosts, models: tuple[str, ...]) -> list[float]:
    """Return the seconds per sample of each step of these models in this order. Raises CascadeError."""
    if callable(cost_s):
        steps = [float(value) for value in cost_s(models)]
    else:
        missing = [name for name in models if name not in cost_s]
        if missing:
            raise CascadeError(f"cost_s: nothing says what model {missing[0]!r} costs; seconds per sample are needed")
        steps = [float(cost_s[name]) for name in models]
    if len(steps) != len(models) or not all(math.isfinite(value) and value >= 0.0 for value in steps):
        raise CascadeError(
            f"cost_s: {steps} for the steps {', '.join(models)}; one finite number of seconds, at least 0, is needed "
            "for each"
        )
    return steps


def _grid(
    table: ValidationTable, name: str, levels: int, thresholds: Mapping[str, Sequence[float]] | None
) -> list[float]:
    """Thresholds worth a look: a least one at which some sample goes on, and some stays."""
    if thresholds is not None and name in thresholds:
        given = sorted({float(value) for value in thresholds[name]})
        if any(map(math.isnan, given)):
            raise CascadeError(f"search: a threshold of model {name!r} is not a number")
        return given
    sure = table.certainty[name]
    shares = np.arange(1, levels + 1) / (levels + 1)
    quantiles = np.unique(np.quantile(sure, shares, method="higher"))
    return [float(value) for value in quantiles if value > sure.min()]


def _orders(models: tuple[str, ...], cost_s: StepCosts, most: int, any_order: bool) -> list[tuple[int, ...]]:
    """The models of each cascade as places in the table, single ones first."""
    alone_s = [step_costs_s(cost_s, (name,))[0] for name in models]
    by_cost = sorted(range(len(models)), key=lambda at: (alone_s[at], at))
    arranged = itertools.permutations if any_order else itertools.combinations
    return [order for length in range(1, most + 1) for order in arranged(by_cost, length)]


def _sample(total: int, sizes: Sequence[int], budget: int, seed: int) -> Longs:
    """Numbers of cascades: those of the single models, which come first, and others drawn without repetition."""
    single = next((at for at, size in enumerate(sizes) if size != 1), len(sizes))
    alone = np.arange(min(single, budget))
    others = np.random.default_rng(seed).choice(total - alone.size, budget - alone.size, replace=False, shuffle=False)
    return np.concatenate((alone, np.sort(others) + alone.size))


def _decoded(
    chosen: Longs, orders: Sequence[tuple[int, ...]], ends: Longs, grids: Sequence[Sequence[float]], width: int
) -> tuple[Longs, Floats]:
    """Models and thresholds of cascades by number: a number is an order of models and a digit for each threshold."""
    model = np.full((chosen.size, width), -1, np.int64)
    threshold = np.full((chosen.size, width), cascading.ALWAYS)
    which = np.searchsorted(ends, chosen, side="right")
    for at in np.unique(which):
        order = orders[at]
        rows = np.flatnonzero(which == at)
        digits = chosen[rows] - (ends[at - 1] if at else 0)
        model[rows, : len(order)] = order
        for step in range(len(order) - 2, -1, -1):
            grid = np.array(grids[order[step]])
            threshold[rows, step] = grid[digits % grid.size]
            digits = digits // grid.size
    return model, threshold


def _judged(
    table: ValidationTable,
    model: Longs,
    threshold: Floats,
    cost_s: StepCosts,
    total: int,
    features: Mapping[str, tuple[str, ...]],
) -> Judged:
    certainty = np.stack([table.certainty[name] for name in table.models])
    credits = np.stack([table.credit[name] for name in table.models])
    gained, reached = _walk_all(model, threshold, certainty, credits)
    reaching = reached / table.samples
    step_s = np.zeros(model.shape)
    orders, which = np.unique(model, axis=0, return_inverse=True)
    for at, order in enumerate(orders):
        names = tuple(table.models[place] for place in order if place >= 0)
        step_s[which.reshape(-1) == at, : len(names)] = step_costs_s(cost_s, names)
    cost = (reaching * step_s).sum(axis=1)
    stop = "complete" if len(model) == total else "budget"
    return Judged(table, model, threshold, gained / table.samples, reaching, cost, total, stop, dict(features))


@kernel
def _walk_all(model: Longs, threshold: Floats, certainty: Floats, credits: Floats) -> tuple[Floats, Longs]:
    """Let every sample walk every cascade: the sum of credits of each, and how many samples reach each of its steps."""
    cascades, width = model.shape
    samples = certainty.shape[1]
    gained = np.zeros(cascades)
    reached = np.zeros((cascades, width), np.int64)
    for row in range(cascades):
        for sample in range(samples):
            for step in range(width):
                at = model[row, step]
                reached[row, step] += 1
                if _answers(certainty[at, sample], threshold[row, step]):
                    gained[row] += credits[at, sample]
                    break
    return gained, reached
