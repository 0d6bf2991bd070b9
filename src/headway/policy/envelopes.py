"""Counts of requests in windows of time, and the band within which planned traffic keeps them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ALARM_Z = 5.0
"""Standard deviations beyond which a count is no noise. Ten windows are looked at a few times a second; windows that
overlap agree, so that an hour holds about 10,000 independent looks, of which one in 3 million deceives."""


def running_counts(arrival_s: Floats, now_s: float, windows_s: Floats) -> NDArray[np.int64]:
    """Return how many requests came in (now - window, now], for each window; `arrival_s` is sorted, none after `now_s`.

    None of these counts can exceed the envelope of a trace that holds the same requests.

    >>> running_counts(np.array([0.0, 1.0, 1.5]), 2.0, np.array([0.5, 1.0, 60.0])).tolist()
    [0, 1, 3]
    """
    return np.asarray(arrival_s.size - np.searchsorted(arrival_s, now_s - windows_s, side="right"), dtype=np.int64)


def most_in_buckets(arrival_s: Floats, now_s: float, look_back_s: float, bucket_s: float) -> int:
    """Return the most requests in any of the buckets that end at `now_s` and fill the look-back (InferLine 5.4).

    >>> most_in_buckets(np.array([0.5, 6.0, 7.0]), 10.0, 10.0, 5.0)
    2
    """
    buckets = round(look_back_s / bucket_s)
    edges = now_s - bucket_s * np.arange(buckets, -1, -1)
    return int(np.max(np.diff(np.searchsorted(arrival_s, edges, side="right")), initial=0))


def most_in_windows(arrival_s: Floats, now_s: float, look_back_s: float, windows_s: Floats) -> NDArray[np.int64]:
    """Return the most requests in any (t - window, t] within the look-back, wherever it lies, for each window.

    >>> most_in_windows(np.array([0.5, 6.0, 7.0]), 10.0, 10.0, np.array([0.5, 5.0])).tolist()
    [1, 2]
    """
    recent = arrival_s[np.searchsorted(arrival_s, now_s - look_back_s, side="right") :]
    last = np.arange(1, recent.size + 1)
    # The fullest window can be moved left until it ends at a request, so only those ends are tried.
    counts = [np.max(last - np.searchsorted(recent, recent - w, side="right"), initial=0) for w in windows_s]
    return np.array(counts, dtype=np.int64)


def quantile(mean: Floats, variance: Floats, z: float) -> Floats:
    """Return the count that lies `z` standard deviations up (or down) in a Gamma law of this mean and variance.

    Counts of traffic with random rate are Gamma-Poisson; the Gamma law covers their upper tail, at counts of about one
    generously. Wilson and Hilferty's cube root, "The distribution of chi-square" (1931).

    >>> quantile(np.array([100.0]), np.array([100.0]), 0.0).round(1).tolist()
    [99.7]
    """
    mean = np.maximum(mean, 1e-12)
    spread = variance / mean**2
    root: Floats = np.maximum(1.0 - spread / 9.0 + z * np.sqrt(spread) / 3.0, 0.0)
    return np.asarray(mean * root**3)


@dataclass(frozen=True, slots=True)
class Band:
    """What planned traffic does: per window length, the planned count and the law of counts around their mean.

    `windows_s`: InferLine's, from the pipeline's service time, doubling, to 60 s. `planned`: the most requests in any
    such window of the planning trace (its envelope). `most`: the same over the traces resampled from it, at least
    `planned`. `mean` and `variance` of counts in such a window. `least`: the fewest in a window of that length.
    """

    windows_s: Floats
    planned: Floats
    most: Floats
    least: Floats
    mean: Floats
    variance: Floats

    def high(self, level: float = 1.0, z: float = ALARM_Z) -> Floats:
        """Return the counts that traffic of `level` times the planned rate exceeds by no chance.

        At level 1 this is never below what the planning trace itself, or one resampled from it, did; at other levels
        the mean and, as for independent sources that become more or fewer, the variance go in proportion.
        """
        return np.maximum(self.most * level, quantile(level * self.mean, level * self.variance, z))

    @property
    def dispersion(self) -> Floats:
        """Variance of counts over their mean, per window: 1 for a Poisson process."""
        return np.asarray(self.variance / np.maximum(self.mean, 1e-12))

    def low(self, z: float = ALARM_Z) -> Floats:
        """Return the counts that planned traffic falls short of by no chance, at most those of the planning trace."""
        return np.minimum(self.least, quantile(self.mean, self.variance, -z))

    def growth(self, counts: NDArray[np.int64], z: float | Floats) -> Floats:
        """Return, per window, the traffic multiple at which the count seen would lie `z` standard deviations high.

        Solves count = g m + z sqrt(g v) for g. With z > 0 it errs on the low side, less so the longer the window.

        >>> one = np.ones(1)
        >>> Band(one, one, one, one, 100 * one, 100 * one).growth(np.array([200]), 0.0).round(6).tolist()
        [2.0]
        """
        mean, deviation = np.maximum(self.mean, 1e-12), np.sqrt(self.variance)
        root = (np.sqrt(z * z * deviation**2 + 4.0 * mean * counts) - z * deviation) / (2.0 * mean)
        return np.asarray(np.maximum(root, 0.0) ** 2)

    def growth_in(self, window_s: float, count: int, z: float) -> float:
        """Return `growth` for one window of any length; the index of dispersion is interpolated between those known."""
        mean = float(self.mean[-1] / self.windows_s[-1]) * window_s
        dispersion = float(np.interp(window_s, self.windows_s, self.dispersion))
        at = [np.array([value]) for value in (window_s, 0.0, 0.0, 0.0, mean, dispersion * mean)]
        return float(Band(*at).growth(np.array([count]), z)[0])
