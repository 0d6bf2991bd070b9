"""An exact upper confidence bound on how much accuracy is lost, from the samples on which two answers differ.

Of n samples, b are answered worse than by the reference and c better; the loss is the difference of the two
probabilities, p_b - p_c. The test of "the loss is at least delta" has a nuisance parameter: q = p_b + p_c, the
probability that the answers differ. Outcomes (b, c) are ordered by an approximate upper limit (`_rank`), so that the
test adapts to q; its p-value is the largest probability, over a confidence set for q, of an outcome ranked as low as
the observed one, plus the chance that the set misses q (Berger and Boos, JASA 89, 1994). The least loss that the test
rejects bounds the loss for every n and every q (Buehler, JASA 52, 1957), not only for large n.
"""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from headway.errors import CascadeError
from headway.sim.jit import kernel

NUISANCE_SHARE = 0.02
"""Part of the error probability that is spent on the confidence set for q."""
SLACK_SHARE = 0.005
"""By how much of the error probability the largest probability over q may be overestimated."""

_TINY = 1e-13
"""Probability of a number of differing samples below which it is left out."""
_UNDERFLOW = 1e-280
_ROUNDING = 1e-9
"""What sums of rounded probabilities, and those left out, may lack."""
_PRECISION = 5e-4
"""How far above the least rejected loss the bound may lie, relative to its distance from the observed loss."""
_STEPS = 8
"""So many steps aim at the bound; then the interval is halved."""


def loss_bound(worse: int, better: int, samples: int, confidence: float = 0.95) -> float:
    """Return the loss in accuracy against a reference that is not exceeded with this confidence; negative is a gain.

    Of `samples` independent ones, `worse` are answered worse than by the reference and `better` better. Holds for any
    number of samples and is never below the observed loss. Raises CascadeError for counts that are none.

    >>> round(loss_bound(0, 0, 300), 4)
    0.01
    """
    if min(worse, better, samples - worse - better) < 0 or samples < 1:
        raise CascadeError(
            f"loss bound: {worse} samples answered worse and {better} better of {samples}; counts must be at least 0 "
            "and no more together than the samples, of which there must be one"
        )
    if not 0.0 < confidence < 1.0:
        raise CascadeError(f"loss bound: confidence is {confidence}; it must lie between 0 and 1")
    alpha = 1.0 - confidence
    z = max(0.0, NormalDist().inv_cdf(confidence))
    return float(_least_rejected(worse, better, samples, alpha, z))


@kernel
def _rank(excess: float, differing: float, samples: float, z: float) -> float:
    """Rank an outcome with b - c = `excess` and b + c = `differing`: n times an approximate upper limit of the loss.

    The variance counts z^2 differing samples more than there are. So the rank grows with b at a given b + c, for all
    outcomes, which makes the test's p-value fall as the loss that it rejects grows.
    """
    return excess + z * math.sqrt(differing + z * z - excess * excess / samples)


@kernel
def _pmf(k: int, n: int, p: float) -> float:
    """Probability of k successes in n trials, 0 < p < 1."""
    log = math.lgamma(n + 1.0) - math.lgamma(k + 1.0) - math.lgamma(n - k + 1.0)
    return math.exp(log + k * math.log(p) + (n - k) * math.log1p(-p))


@kernel
def _cdf(k: int, n: int, p: float) -> float:
    """Probability of at most k successes in n trials, summed from the term next to the mode outward."""
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    ratio = p / (1.0 - p)
    if k <= n * p:
        term = _pmf(k, n, p)
        total = 0.0
        while k >= 0 and term > total * _TINY:
            total += term
            term *= k / ((n - k + 1.0) * ratio)
            k -= 1
        return min(1.0, total)
    k += 1
    term = _pmf(k, n, p)
    total = 0.0
    while k <= n and term > total * _TINY:
        total += term
        term *= (n - k) * ratio / (k + 1.0)
        k += 1
    return max(0.0, 1.0 - total)


@kernel
def _upper_share(k: int, n: int, alpha: float) -> float:
    """Upper limit of a probability after k successes in n trials (Clopper and Pearson, Biometrika 26, 1934)."""
    if k >= n:
        return 1.0
    low = k / n
    high = 1.0
    while high - low > 1e-12 + 1e-6 * high:
        middle = 0.5 * (low + high)
        if _cdf(k, n, middle) > alpha:
            low = middle
        else:
            high = middle
    return high


@kernel
def _most_worse(worse: int, better: int, samples: int, z: float) -> NDArray[np.int64]:
    """For each number m of differing samples, the most that may be worse in an outcome ranked as low as this one."""
    observed = worse + better
    limit = _rank(worse - better, observed, samples, z) + 1e-9
    most = np.empty(samples + 1, np.int64)
    k = -1
    for m in range(samples + 1):
        while k < m and _rank(2.0 * (k + 1) - m, m, samples, z) <= limit:
            k += 1
        while k >= 0 and _rank(2.0 * k - m, m, samples, z) > limit:
            k -= 1
        most[m] = k
    return most


@kernel
def _probability(most: NDArray[np.int64], loss: float, q: float) -> float:
    """Probability of an outcome ranked as low as the observed one, given the loss and q; |loss| < q < 1.

    Sums over m, the number of differing samples, the probability that at most `most[m]` of them are worse. From one m
    to the next that changes by single terms, so a sum costs a few operations per m.
    """
    n = most.size - 1
    pi = 0.5 * (1.0 + loss / q)
    odds = pi / (1.0 - pi)
    ratio = q / (1.0 - q)
    # Below, by Bernstein's inequality, lies less than 1e-12.
    m = max(0, int(n * q - 7.5 * math.sqrt(n * q * (1.0 - q)) - 20.0))
    weight = _pmf(m, n, q)
    mode = (n + 1) * q
    k = most[m]
    below = _cdf(k, m, pi)
    at = _pmf(k, m, pi) if k >= 0 else 0.0
    total = 0.0
    while True:
        total += weight * min(1.0, max(0.0, below))
        if m == n or (m > mode and weight < _TINY):
            return total
        below -= pi * at
        at *= (m + 1.0) / (m + 1.0 - k) * (1.0 - pi)
        weight *= (n - m) * ratio / (m + 1.0)
        m += 1
        if at < _UNDERFLOW and k >= 0:
            at = _pmf(k, m, pi)
        while k < most[m]:
            at = _pmf(0, m, pi) if k < 0 else at * (m - k) / (k + 1.0) * odds
            k += 1
            if at < _UNDERFLOW:
                at = _pmf(k, m, pi)
            below += at
        while k > most[m]:
            below -= at
            at = at * k / ((m - k + 1.0) * odds) if k > 0 else 0.0
            k -= 1


@kernel
def _information(loss: float, q: float, samples: int) -> float:
    """Fisher information of q at a given loss."""
    return samples * (q / (q * q - loss * loss) + 1.0 / (1.0 - q))


@kernel
def _largest_probability(most: NDArray[np.int64], loss: float, q_low: float, q_high: float, length: float) -> float:
    """Bound `_probability` from above over all q from `q_low` to `q_high`.

    Outcome probabilities are products of terms linear in q. So the second derivative of the probability P of any event
    is its covariance with a sum over pairs of scores, at most sqrt(2 P (1 - P)) times the information, and between the
    ends of a cell of width s with s^2 times information <= length^2, P exceeds its values there by
    length^2 / 8 * sqrt(2 P) at most. Cells narrow towards |loss| and 1, where the information is infinite; the last
    1e-6 / n there changes P by 1e-6 at most. Below |loss| q is possible only with a gain: then p_b is 0, and P is
    largest at q = |loss|.
    """
    n = most.size - 1
    margin = 1e-6 / n
    low = max(q_low, abs(loss) + margin)
    high = min(q_high, 1.0 - margin)
    if low >= high:
        low = high = min(max(low, abs(loss) + margin), 1.0 - margin)
        if low <= abs(loss):
            return 1.0
    slack = length * length / 8.0 * math.sqrt(2.0)
    q = low
    information = _information(loss, q, n)
    largest = _probability(most, loss, q)
    while q < high:
        step = min(high - q, length / math.sqrt(information))
        ahead = _information(loss, q + step, n)
        while step * step * max(information, ahead) > length * length * (1.0 + 1e-9):
            step *= 0.5
            ahead = _information(loss, q + step, n)
        q = high if step >= high - q else q + step
        information = _information(loss, q, n)
        largest = max(largest, _probability(most, loss, q))
    root = 0.5 * (slack + math.sqrt(slack * slack + 4.0 * largest))
    return root * root + 1e-6 + _ROUNDING


def _least_rejected(worse: int, better: int, samples: int, alpha: float, z: float) -> float:
    """The least loss that is rejected at level alpha, from above to `_PRECISION`; every larger one is rejected too."""
    differing = worse + better
    gamma = NUISANCE_SHARE * alpha
    level = alpha - gamma
    q_high = _upper_share(differing, samples, 0.5 * gamma)
    q_low = 1.0 - _upper_share(samples - differing, samples, 0.5 * gamma)
    most = _most_worse(worse, better, samples, z)
    length = math.sqrt(8.0 * SLACK_SHARE * math.sqrt(0.5 * alpha))
    observed = (worse - better) / samples
    deviation = math.sqrt(max(1, differing)) / samples
    low, high = observed, q_high
    loss = float(_rank(float(worse - better), float(differing), float(samples), z)) / samples
    for tries in itertools.count():
        near = _PRECISION * (high - observed)
        if high - low <= near:
            return float(high)
        if tries >= _STEPS or not low < loss < high:
            loss = 0.5 * (low + high)
        found = _largest_probability(most, loss, q_low, q_high, length)
        rejected = found <= level
        low, high = (low, loss) if rejected else (loss, high)
        # The probability falls about as a normal one; aiming to either side in turn closes in on the loss from both.
        loss += deviation * (_normal_quantile(found) - _normal_quantile(level)) + (-0.4 if rejected else 0.4) * near
    raise AssertionError("counting does not end")


def _normal_quantile(p: float) -> float:
    return NormalDist().inv_cdf(min(max(p, 1e-12), 1.0 - 1e-12))
