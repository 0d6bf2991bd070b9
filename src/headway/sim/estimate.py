"""A figure over several seeds, with an interval that says how sure it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t at 97.5 % for 1 to 9 degrees of freedom; beyond, the normal law's 1.96 is close enough."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its 95 % interval by Student's t; no interval (NaN) from a single seed.

    >>> one = Estimate.of([1.0, 2.0, 3.0])
    >>> round(one.mean, 3), round(one.low, 3), round(one.high, 3)
    (2.0, -0.484, 4.484)
    """

    mean: float
    low: float
    high: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Return the estimate from one value per seed. Raises ValueError for none."""
        if not values:
            raise ValueError("an estimate needs at least one value")
        mean = math.fsum(values) / len(values)
        if len(values) == 1 or not math.isfinite(mean):
            return cls(mean, math.nan, math.nan, len(values))
        variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
        t = _T[len(values) - 2] if len(values) - 2 < len(_T) else 1.96
        half = t * math.sqrt(variance / len(values))
        return cls(mean, mean - half, mean + half, len(values))

    @classmethod
    def of_ratios(cls, values: Sequence[float]) -> Estimate:
        """Return the geometric mean of ratios, with the interval of their logarithms. Zero and infinity stay so."""
        if any(v <= 0 or not math.isfinite(v) for v in values):
            return cls.of(values)
        log = cls.of([math.log(v) for v in values])
        return cls(math.exp(log.mean), math.exp(log.low), math.exp(log.high), log.seeds)

    def within(self, least: float, most: float = math.inf) -> Estimate:
        """Return the same with its interval cut to what the figure can be.

        >>> Estimate(0.01, -0.02, 0.04, 3).within(0.0, 1.0).low
        0.0
        """
        if math.isnan(self.low):
            return self
        return replace(self, low=max(least, self.low), high=min(most, self.high))

    def text(self, form: Callable[[float], str] = lambda value: f"{value:.3g}") -> str:
        """Return it with its interval, as it stands in a table.

        >>> Estimate(2.0, 1.5, 2.5, 5).text()
        '2 (1.5 to 2.5)'
        """
        if not math.isfinite(self.mean):
            return "∞" if self.mean > 0 else "—"
        if math.isnan(self.low):
            return form(self.mean)
        return f"{form(self.mean)} ({form(self.low)} to {form(self.high)})"
