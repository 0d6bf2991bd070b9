"""What generators and models cost: seconds for n rows at once, measured alone, shared generators counted once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from headway.cascade.features import Clock, Features, Spent
from headway.cascade.rows import Block, Rows, count, take
from headway.errors import CascadeError

Score = Callable[[Block], object]
"""Runs a model over a block of the features that it sees, side by side."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds that n rows take together: `fixed_s + per_row_s * n`.

    >>> Cost(0.5, 0.001).of(1000)
    1.5
    """

    fixed_s: float
    per_row_s: float

    def of(self, rows: float) -> float:
        """Return the seconds for so many rows."""
        return self.fixed_s + self.per_row_s * rows


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of generators, each without what it needs, and of models, each without its features.

    `uses` names the features that each model sees and all that these need.

    >>> costs = Costs({"a": Cost(0.0, 1.0), "b": Cost(0.0, 9.0)}, {"small": Cost(0.0, 0.0), "full": Cost(0.0, 0.0)},
    ...               {"small": ("a",), "full": ("a", "b")})
    >>> costs.steps_s(("small", "full"), rows=1), costs.expected_s(("small", "full"), (1.0, 0.5), rows=1)
    ([1.0, 9.0], 5.5)
    """

    features: Mapping[str, Cost]
    models: Mapping[str, Cost]
    uses: Mapping[str, tuple[str, ...]]

    def steps_s(self, models: Sequence[str], rows: int) -> list[float]:
        """Return the seconds per row of each step when `rows` rows are done at once and all get there.

        A feature is paid for at the first step that needs it.
        """
        return [sum(cost.of(rows) for cost in due) / rows for due in self._due(models)]

    def expected_s(self, models: Sequence[str], reached: Sequence[float], rows: int) -> float:
        """Return the seconds expected for `rows` rows at once, of which the shares `reached` get to each step.

        A step's fixed seconds are due when at least one row gets there, rows being independent of each other.
        """
        total = 0.0
        for due, share in zip(self._due(models), reached, strict=True):
            some = 1.0 - (1.0 - share) ** rows
            total += sum(some * cost.fixed_s + share * rows * cost.per_row_s for cost in due)
        return total

    def _due(self, models: Sequence[str]) -> list[list[Cost]]:
        paid: set[str] = set()
        due = []
        for model in models:
            due.append([self.features[name] for name in self.uses[model] if name not in paid] + [self.models[model]])
            paid.update(self.uses[model])
        return due


def measure(
    features: Features,
    models: Mapping[str, tuple[Sequence[str], Score]],
    rows: Rows,
    *,
    sizes: Sequence[int] = (1, 100, 1000),
    rounds: int = 5,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> Costs:
    """Measure models, each with the features that it sees, and all features that these need, over samples of `rows`.

    Medians of interleaved rounds at each size, then a line. `sizes` are numbers of rows at once, 1 being a point query;
    rows are drawn with replacement. Raises CascadeError when there are no rows.
    """
    available = count(rows)
    if available == 0:
        raise CascadeError("costs: there are no rows to measure with")
    uses = {name: features.closure(inputs) for name, (inputs, _) in models.items()}
    wanted = features.closure(feature for inputs, _ in models.values() for feature in inputs)
    draws = np.random.default_rng(seed)
    seconds: dict[tuple[bool, str], dict[int, list[float]]] = {}
    for size in [size for _ in range(rounds) for size in sizes]:
        known = features.known(take(rows, draws.integers(available, size=size)), spent=Spent(), clock=clock)
        for name in wanted:
            known.value(name)
            seconds.setdefault((False, name), {}).setdefault(size, []).append(known.spent.seconds[name])
        for name, (inputs, score) in models.items():
            began = clock()
            score(known.stacked(inputs))
            seconds.setdefault((True, name), {}).setdefault(size, []).append(clock() - began)
    lines = {key: _line({n: median(times) for n, times in by_size.items()}) for key, by_size in seconds.items()}
    return Costs({name: lines[False, name] for name in wanted}, {name: lines[True, name] for name in models}, uses)


def _line(seconds: Mapping[int, float]) -> Cost:
    """The line of least relative error through medians, neither part below 0."""
    n, times = np.array(list(seconds), float), np.array(list(seconds.values()), float)
    weights = 1.0 / np.maximum(times, 1e-9)
    if len(n) == 1:
        return Cost(0.0, float(times[0] / n[0]))
    design = np.column_stack([weights, n * weights])
    fixed, per_row = np.linalg.lstsq(design, times * weights, rcond=None)[0]
    if fixed < 0:
        return Cost(0.0, _only(design[:, 1]))
    if per_row < 0:
        return Cost(_only(design[:, 0]), 0.0)
    return Cost(float(fixed), float(per_row))


def _only(column: NDArray[np.float64]) -> float:
    """The factor of one column alone that comes closest to 1 everywhere."""
    return float(column.sum() / (column @ column))
