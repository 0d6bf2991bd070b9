"""Figures of a fleet's requests that one percentile hides: by class, relative to their size, and how fair they are.

Times are arrays with one entry per request; a request that was never answered takes infinitely long.
"""

from __future__ import annotations

import numpy as np

from headway.sim.outcome import percentile
from headway.sim.station import Floats, Ints


def by_class(values: Floats, kind: Ints, percent: float) -> Floats:
    """Return the nearest-rank percentile of each class, numbered from 0; NaN for a class without requests.

    >>> by_class(np.array([1.0, 5.0, 2.0]), np.array([0, 1, 0]), 99).tolist()
    [2.0, 5.0]
    """
    classes = int(kind.max()) + 1 if kind.size else 0
    return np.array([percentile(values[kind == one], percent) for one in range(classes)])


def slowdown(latency_s: Floats, service_s: Floats) -> Floats:
    """Return how many times as long as its own work each request took; work of no time has no slowdown (NaN).

    >>> slowdown(np.array([2.0, 9.0]), np.array([1.0, 3.0])).tolist()
    [2.0, 3.0]
    """
    return np.asarray(np.divide(latency_s, service_s, out=np.full(latency_s.size, np.nan), where=service_s > 0.0))


def time_per_output_token_s(first_s: Floats, last_s: Floats, tokens: Floats) -> Floats:
    """Return the mean seconds between a request's tokens, from its first to its last (TPOT); NaN for a single token.

    >>> time_per_output_token_s(np.array([1.0]), np.array([3.0]), np.array([5.0])).tolist()
    [0.5]
    """
    decoding_s = np.subtract(last_s, first_s, out=np.full(tokens.size, np.inf), where=np.isfinite(last_s))
    return np.asarray(np.divide(decoding_s, tokens - 1, out=np.full(tokens.size, np.nan), where=tokens > 1))


def normalized_latency_s(latency_s: Floats, tokens: Floats) -> Floats:
    """Return seconds per output token from arrival to the last one (Orca, OSDI 2022); NaN for none.

    >>> normalized_latency_s(np.array([3.0]), np.array([6.0])).tolist()
    [0.5]
    """
    return np.asarray(np.divide(latency_s, tokens, out=np.full(tokens.size, np.nan), where=tokens > 0))


def mean_answered(values: Floats) -> float:
    """Return the mean over what was answered: one request that never is would make any mean infinite and hide the rest.

    Infinite where nothing was answered, NaN for no values. Percentiles count the unanswered: there they are misses.

    >>> mean_answered(np.array([1.0, 3.0, np.inf])), mean_answered(np.array([np.inf]))
    (2.0, inf)
    """
    answered = values[np.isfinite(values)]
    if answered.size:
        return float(answered.mean())
    return float("inf") if values.size else float("nan")


def most_answered(values: Floats) -> float:
    """Return the greatest value of what was answered; infinite where nothing was, NaN for no values.

    >>> most_answered(np.array([1.0, 3.0, np.inf]))
    3.0
    """
    answered = values[np.isfinite(values)]
    if answered.size:
        return float(answered.max())
    return float("inf") if values.size else float("nan")


def goodput_per_s(met: Floats, span_s: float) -> float:
    """Return how many requests a second keep every promise of their class.

    >>> goodput_per_s(np.array([True, False, True, True]), 2.0)
    1.5
    """
    return float(np.count_nonzero(met)) / span_s


def jain(shares: Floats) -> float:
    """Return Jain's index of fairness: 1 when all have the same, 1/n when one of n has everything.

    R. Jain, D. Chiu and W. Hawe, "A Quantitative Measure of Fairness" (DEC-TR-301, 1984). NaN for none.

    >>> jain(np.array([1.0, 1.0])), jain(np.array([1.0, 0.0]))
    (1.0, 0.5)
    """
    squares = float(np.sum(shares**2)) * shares.size
    return float(np.sum(shares)) ** 2 / squares if squares > 0.0 else float("nan")
