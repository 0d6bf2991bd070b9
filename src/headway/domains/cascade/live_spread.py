"""A quantity that is seen of every item, by tenths of what the validation table has of it."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headway.serve.record import Histogram

ITEMS = 1_000
"""How many items are looked at together."""
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


@dataclass(frozen=True, slots=True)
class Odd:
    """A tenth in which more or less items lie than chance explains: from where to where, which share, and expected."""

    low: str
    high: str
    seen: float
    expected: float


class Spread:
    """Counts values by tenths of the `known` ones; without those by tenths of 1, and nothing is judged.

    >>> spread = Spread(np.arange(1000.0))
    >>> found = [spread.judged(float(at % 100)) for at in range(1000)]
    >>> found[0], found[-1][0].high
    (None, '99.9')
    """

    def __init__(self, known: NDArray[np.float64] | None) -> None:
        finite = np.empty(0) if known is None else known[np.isfinite(known)]
        bounds = np.unique(np.quantile(finite, DECILES)).tolist() if finite.size else DECILES
        self.histogram = Histogram(bounds)
        self._known = known
        self._seen = [0] * (len(self.histogram.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count a value. One that is not a number counts as the least."""
        self.histogram.observe(self._number(value))

    def judged(self, value: float) -> list[Odd] | None:
        """Count a value of any item, whatever the load; once `ITEMS` have come, return what is odd of them."""
        self.observe(value)
        if self._known is None:
            return None
        seen = self._seen
        seen[bisect_left(self.histogram.bounds, self._number(value))] += 1
        if sum(seen) < ITEMS:
            return None
        self._seen = [0] * len(seen)
        return self._odd(seen, self._known)

    def _number(self, value: float) -> float:
        return self.histogram.bounds[0] if math.isnan(value) else value

    def _odd(self, seen: Sequence[int], known: NDArray[np.float64]) -> list[Odd]:
        """Return the tenths that are odd, the oddest first."""
        bounds, n = self.histogram.bounds, sum(seen)
        place = np.searchsorted(bounds, np.nan_to_num(known, nan=bounds[0]), side="left")
        table = np.bincount(place, minlength=len(seen))
        share = (table + 1) / (table.sum() + len(seen))
        # The table is a sample itself, so its shares are no more certain than its size allows.
        variance = n * share * (1 - share) * (1 + n / known.size)
        odd = [at for at, count in enumerate(seen) if beyond_chance(count, n * share[at], variance[at])]
        odd.sort(key=lambda at: -abs(seen[at] - n * share[at]) / math.sqrt(variance[at]))
        edges = list(itertools.pairwise(["the least", *(f"{bound:.3g}" for bound in bounds), "the most"]))
        return [Odd(*edges[at], seen[at] / n, float(share[at])) for at in odd]
