"""Bounds on a loss that is not a difference of right and wrong answers: graded credits, and any other statistic."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headway.errors import CascadeError

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]

_MOST_BET = 1.8
"""Largest bet: below 2, at which a sample can cost the whole capital that is set against a mean of 1/2."""


def mean_loss_bound(loss: ArrayLike, confidence: float = 0.95, seed: int = 0) -> float:
    """Return the mean loss that is not exceeded with this confidence, of independent losses from -1 to 1; at least 0.

    Holds for any number of samples: a bet against every larger mean, placed before each sample is seen, multiplies a
    capital by 1 / (1 - confidence) with a probability of at most 1 - confidence (Waudby-Smith and Ramdas, JRSS B 86,
    2024, the one-sided hedged capital with predictable plug-in). Samples are taken in an order drawn from `seed`.
    Raises CascadeError for values that are no such losses.

    >>> round(mean_loss_bound([0.0] * 300), 3)
    0.012
    """
    losses = np.asarray(loss, np.float64)
    if losses.ndim != 1 or losses.size == 0 or not np.all(np.abs(losses) <= 1.0):
        raise CascadeError("loss bound: the losses must be one number from -1 to 1 per sample, of at least one sample")
    _check_confidence(confidence)
    drawn = (np.random.default_rng(seed).permutation(losses) + 1.0) / 2.0
    seen = np.arange(1, drawn.size + 1)
    mean = (0.5 + np.cumsum(drawn)) / (seen + 1.0)
    variance = (0.25 + np.cumsum((drawn - mean) ** 2)) / (seen + 1.0)
    before = np.concatenate(([0.25], variance[:-1]))
    wanted = math.log(1.0 / (1.0 - confidence))
    bet = np.minimum(np.sqrt(2.0 * wanted / (drawn.size * before)), _MOST_BET)
    low, high = 0.5, 1.0
    while high - low > 1e-7:
        middle = 0.5 * (low + high)
        if np.cumsum(np.log1p(bet * (middle - drawn))).max() >= wanted:
            high = middle
        else:
            low = middle
    return float(min(1.0, max(2.0 * high - 1.0, losses.mean())))


def bootstrap_bound(
    loss: Callable[[Longs], float], samples: int, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> float:
    """Return an approximate upper limit of a loss such as one in AUC: the quantile over samples drawn again.

    `loss(rows)` is the loss on these rows, with repetitions; both answers are judged on the same rows (paired). Good
    for many samples only (percentile bootstrap, Efron 1979). Raises CascadeError when there is nothing to draw.

    >>> bootstrap_bound(lambda rows: 0.25, samples=10)
    0.25
    """
    if samples < 1 or resamples < 1:
        raise CascadeError(f"loss bound: {samples} samples drawn {resamples} times; at least one of each is needed")
    _check_confidence(confidence)
    rng = np.random.default_rng(seed)
    drawn = [float(loss(rng.integers(0, samples, samples))) for _ in range(resamples)]
    return float(np.quantile(drawn, confidence, method="higher"))


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise CascadeError(f"loss bound: confidence is {confidence}; it must lie between 0 and 1")
