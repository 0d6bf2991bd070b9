"""Whether what comes still is what the validation table was made of, found out without labels while serving.

Two signs, both set against the table: how certain the model is that sees every item, and how often answers of cheaper
models agree with the dearest one, which is asked about a few of them when nothing else is to do.
"""

from __future__ import annotations

import itertools
import logging
import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.cascade import ValidationTable
from headway.domains.cascade.rows import GearRow
from headway.policy.cascading import answers
from headway.serve.record import Histogram

log = logging.getLogger(__name__)

ITEMS = 1_000
CHECKS = 200
"""How many items, and how many checks, are looked at together."""
Z = 5.0
"""Standard deviations that chance is granted: one false alarm in over a million looks."""
LEAST_VARIANCE = 9.0
"""Below this a binomial count is too skew to be judged by its standard deviation."""
DECILES = tuple(at / 10 for at in range(1, 10))


def beyond_chance(seen: float, expected: float, variance: float) -> bool:
    """Return whether a count lies outside the band that chance explains; never for counts too small to tell.

    >>> beyond_chance(150, expected=100, variance=90), beyond_chance(130, expected=100, variance=90)
    (True, False)
    """
    return variance >= LEAST_VARIANCE and abs(seen - expected) > Z * math.sqrt(variance)


class Drift:
    """What is seen of certainties and of agreement, and what of it the table does not explain.

    `warnings` says in a sentence each what has drifted. Without a table everything is counted and nothing judged.
    """

    def __init__(self, table: ValidationTable | None, models: Sequence[str], stage: str) -> None:
        self._table, self._models, self._stage = table, models, stage
        self.certainty = [Histogram(self._bounds(name)) for name in models]
        self.checked = [[0, 0] for _ in models]
        """Per model that answered: checks in which the dearest one said something else, and the same."""
        self.warnings: dict[str, str] = {}
        self._first = [[0] * len(histogram.counts) for histogram in self.certainty]
        self._agreed: dict[tuple[GearRow, int], list[int]] = {}
        self._expected: dict[tuple[GearRow, int], tuple[float, int] | None] = {}

    def certain(self, model: int, certainty: float, first: bool) -> None:
        """Count how certain a model was; `first` where it sees every item, whatever the load."""
        histogram = self.certainty[model]
        # One that is not a number is never certain enough, and counts as the least certain.
        value = histogram.bounds[0] if math.isnan(certainty) else certainty
        histogram.observe(value)
        if not first or self._table is None:
            return
        seen = self._first[model]
        seen[bisect_left(histogram.bounds, value)] += 1
        if sum(seen) >= ITEMS:
            self._judge_certainty(model, seen)
            self._first[model] = [0] * len(seen)

    def check(self, row: GearRow, model: int, agreed: bool) -> None:
        """Count whether the dearest model gave the answer that `model` gave in the gear `row`."""
        self.checked[model][agreed] += 1
        if self._table is None or self._expect(row, model) is None:
            return
        counts = self._agreed.setdefault((row, model), [0, 0])
        counts[agreed] += 1
        if sum(sum(pair) for pair in self._agreed.values()) >= CHECKS:
            self._judge_agreement()
            self._agreed = {}

    def to_dict(self) -> dict[str, Any]:
        """Return counts and warnings as JSON values."""
        return {
            "checks": {
                name: {"agreed": same, "disagreed": other}
                for name, (other, same) in zip(self._models, self.checked, strict=True)
                if same + other
            },
            "drift": list(self.warnings.values()),
        }

    def _bounds(self, model: str) -> tuple[float, ...]:
        if self._table is None:
            return DECILES
        known = self._table.certainty[model]
        known = known[np.isfinite(known)]
        return tuple(np.unique(np.quantile(known, DECILES)).tolist()) if known.size else DECILES

    def _judge_certainty(self, model: int, seen: Sequence[int]) -> None:
        assert self._table is not None
        name, bounds = self._models[model], self.certainty[model].bounds
        known = np.nan_to_num(self._table.certainty[name], nan=bounds[0])
        table = np.bincount(np.searchsorted(bounds, known, side="left"), minlength=len(seen))
        share = (table + 1) / (table.sum() + len(seen))
        n = sum(seen)
        # The table is a sample itself, so its shares are no more certain than its size allows.
        variance = n * share * (1 - share) * (1 + n / known.size)
        odd = [at for at, count in enumerate(seen) if beyond_chance(count, n * share[at], variance[at])]
        text = ""
        if odd:
            worst = max(odd, key=lambda at: abs(seen[at] - n * share[at]) / math.sqrt(variance[at]))
            low, high = _range(bounds, worst)
            text = (
                f"model {name!r} is {low} to {high} certain of {seen[worst] / n:.1%} of the items that come, where the "
                f"validation table has {share[worst]:.1%}"
            )
        self._tell(f"certainty of {name}", text)

    def _judge_agreement(self) -> None:
        expected = variance = seen = total = 0.0
        for key, (other, same) in self._agreed.items():
            found = self._expect(*key)
            assert found is not None
            share, size = found
            n = other + same
            expected += n * share
            variance += n * share * (1 - share) * (1 + n / size)
            seen += same
            total += n
        text = ""
        if beyond_chance(seen, expected, variance):
            text = (
                f"{self._models[-1]!r} agrees with {seen / total:.1%} of the answers of cheaper models, where the "
                f"validation table has {expected / total:.1%}"
            )
        self._tell("agreement", text)

    def _expect(self, row: GearRow, model: int) -> tuple[float, int] | None:
        """Return on what share of the samples that a model answers in a gear the dearest agrees, and of how many."""
        key = row, model
        if key not in self._expected:
            self._expected[key] = None
            if self._table is not None and self._table.predicted is not None:
                here = _answered(self._table, self._models, row, model)
                said = self._table.predicted
                same = int((said[self._models[model]] == said[self._models[-1]])[here].sum())
                size = int(here.sum())
                self._expected[key] = ((same + 1) / (size + 2), size) if size else None
        return self._expected[key]

    def _tell(self, what: str, text: str) -> None:
        if text and what not in self.warnings:
            log.warning("stage %s: drift: %s; the accuracy that was planned may not be had", self._stage, text)
        if text:
            self.warnings[what] = text
        else:
            self.warnings.pop(what, None)


def _answered(table: ValidationTable, models: Sequence[str], row: GearRow, model: int) -> NDArray[np.bool_]:
    """Which samples a model answers in a gear."""
    reached = np.ones(table.samples, np.bool_)
    at = row.first
    while at != model and at >= 0:
        reached &= ~answers(table.certainty[models[at]], row.threshold[at])
        at = row.following[at]
    if at < 0:
        return np.zeros(table.samples, np.bool_)
    return reached & answers(table.certainty[models[model]], row.threshold[model])


def _range(bounds: Sequence[float], at: int) -> tuple[str, str]:
    edges = ["the least", *(f"{bound:.3g}" for bound in bounds), "the most"]
    return list(itertools.pairwise(edges))[at]
