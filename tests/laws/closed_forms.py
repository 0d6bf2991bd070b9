"""Closed forms of queueing theory, and the confidence limits within which a simulation must meet them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def erlang_c(servers: int, offered: float) -> float:
    """Return the probability that an arrival waits in M/M/c, `offered` being arrival rate times mean service."""
    blocked = 1.0
    for k in range(1, servers + 1):
        blocked = offered * blocked / (k + offered * blocked)
    return blocked / (1 - offered / servers * (1 - blocked))


def mmc_mean_wait(rate: float, service_rate: float, servers: int) -> float:
    """Return the mean wait in M/M/c."""
    return erlang_c(servers, rate / service_rate) / (servers * service_rate - rate)


def mmc_wait_quantile(rate: float, service_rate: float, servers: int, level: float) -> float:
    """Return the quantile of the wait in M/M/c: the wait is exponential given that there is one."""
    waits = erlang_c(servers, rate / service_rate)
    return max(0.0, math.log(waits / (1 - level)) / (servers * service_rate - rate))


def pollaczek_khinchine(rate: float, mean: float, second_moment: float) -> float:
    """Return the mean wait in M/G/1, first come first served."""
    return rate * second_moment / (2 * (1 - rate * mean))


def md1_wait_cdf(rate: float, service: float, wait: float) -> float:
    """Return P(W <= wait) in M/D/1 (Erlang's formula; alternating, so for waits up to about 15 services)."""
    terms = (
        (-rate * (wait - k * service)) ** k / math.factorial(k) * math.exp(rate * (wait - k * service))
        for k in range(int(wait / service) + 1)
    )
    return (1 - rate * service) * math.fsum(terms)


def batch_queue_mean_latency(rate: float, max_batch: int, service: float, states: int = 400) -> float:
    """Return the mean latency of one server that takes whatever waits, up to `max_batch`, for a constant time.

    By the chain of queue lengths seen when a batch ends, cut off at `states`, and Little's law over a cycle.
    """
    arrivals = np.zeros(states + 1)
    arrivals[0] = math.exp(-rate * service)
    for k in range(1, states + 1):
        arrivals[k] = arrivals[k - 1] * rate * service / k
    step = np.zeros((states + 1, states + 1))
    for seen in range(states + 1):
        left = max(seen - max_batch, 0)
        step[seen, left:] = arrivals[: states + 1 - left]
        step[seen, states] += 1 - step[seen].sum()
    system = step.T - np.eye(states + 1)
    system[-1] = 1
    share = np.linalg.solve(system, np.eye(states + 1)[-1])
    present = np.maximum(np.arange(states + 1), 1) * service + rate * service**2 / 2
    return float(share @ present / (service + share[0] / rate) / rate)


def batch_means(values: Floats, batches: int = 40) -> tuple[float, float]:
    """Return the mean and its standard error, from means of consecutive batches (which are nearly independent)."""
    means = values[: values.size // batches * batches].reshape(batches, -1).mean(axis=1)
    return float(means.mean()), float(means.std(ddof=1)) / math.sqrt(batches)


def assert_mean(values: Floats, expected: float, precision: float = 0.05) -> None:
    """Assert that the mean meets `expected` within four standard errors, and that these are tight enough to tell."""
    mean, error = batch_means(values.astype(np.float64))
    assert 4 * error <= precision * expected, f"too few values to tell: {mean} +- {error}"
    assert abs(mean - expected) <= 4 * error, f"{mean} +- {error}, expected {expected}"


def lattice(quantile: Floats) -> Floats:
    """Return a latency table for batches of one whose draws are the columns of `quantile`, a power of two many."""
    return np.stack([quantile, quantile])


def midpoints(columns: int) -> Floats:
    """Return equally likely levels in (0, 1), each the middle of its share."""
    return (np.arange(columns) + 0.5) / columns


def exponential_table(mean: float, columns: int = 1 << 16) -> Floats:
    """Return equally likely service times, each the mean of an exponential law over its share.

    The mean is exact. What varies within a share is lost from the second moment, nearly all of it in the last share:
    with 2**16 columns about 1.5e-5 of it, which is far below the confidence limits that it is held against.
    """
    edge = np.arange(columns) / columns
    left = -np.log1p(-edge)
    survival = 1 - edge
    # The mean of an exponential beyond x is x + 1: means over shares are differences of P(S > x) (x + 1).
    beyond = np.append(survival * (left + 1), 0.0)
    return lattice(mean * columns * (beyond[:-1] - beyond[1:]))
