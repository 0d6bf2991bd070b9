"""Synthetic traces: renewal processes and Poisson processes whose rate moves. Same seed, same bytes."""

from __future__ import annotations

import math
import operator
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headway.errors import TraceError
from headway.trace.trace import Floats, Trace

MAX_REQUESTS = 100_000_000
"""Largest trace that is generated or read: a wrong unit is answered with an error, not with a full memory."""

MAX_CV = 100.0
"""Largest coefficient of variation: beyond it almost all gaps underflow to zero."""


def generator(purpose: str, seed: int) -> np.random.Generator:
    """Return a random generator for one purpose: equal seeds of different purposes give unrelated numbers.

    >>> generator("poisson", 1).random() == generator("thin", 1).random()
    False
    """
    try:
        number = operator.index(seed)
    except TypeError as error:
        raise TraceError(f"{purpose}: seed is {seed!r}; it must be a whole number") from error
    if number < 0:
        raise TraceError(f"{purpose}: seed is {number}; it must be at least 0")
    return np.random.default_rng([number, zlib.crc32(purpose.encode())])


def poisson(rate: float, seconds: float | None = None, seed: int = 0, *, requests: int | None = None) -> Trace:
    """Poisson arrivals at `rate` per second, for `seconds` or until `requests` have come. Raises TraceError.

    >>> poisson(10.0, 60.0, seed=1).duration_s
    60.0
    """
    _positive("poisson", rate=rate)
    rng = generator("poisson", seed)
    arrival = _renewal("poisson", rate, 1.0, seconds, requests, lambda count: rng.exponential(1.0 / rate, count))
    return _trace(arrival, seconds, f"poisson rate={rate:g} seed={seed}")


def gamma(rate: float, cv: float, seconds: float | None = None, seed: int = 0, *, requests: int | None = None) -> Trace:
    """Renewal arrivals with Gamma gaps: mean 1/rate, coefficient of variation `cv` (1 is Poisson, 4 is bursty).

    The shape is 1/cv^2 and the scale cv^2/rate (InferLine, section 6). The first gap is the one that an observer who
    comes at any moment sees, so that the expected number of requests is exactly rate x seconds. Raises TraceError.

    >>> gamma(10.0, 4.0, requests=500, seed=1).requests
    500
    """
    _positive("gamma", rate=rate, cv=cv)
    if cv > MAX_CV:
        raise TraceError(f"gamma: cv is {cv!r}; at most {MAX_CV:g} is generated (4 is already bursty)")
    rng = generator("gamma", seed)
    shape, scale = 1.0 / cv**2, cv**2 / rate
    first = rng.gamma(shape + 1.0, scale) * rng.random()
    gaps = _starting_with(first, lambda count: rng.gamma(shape, scale, count))
    arrival = _renewal("gamma", rate, cv, seconds, requests, gaps)
    return _trace(arrival, seconds, f"gamma rate={rate:g} cv={cv:g} seed={seed}")


def mmpp2(rates: Sequence[float], mean_sojourn_s: Sequence[float], seconds: float, seed: int = 0) -> Trace:
    """Markov-modulated Poisson arrivals: two rates, each held for an exponential time of the given mean, in turn.

    The first state is drawn from the stationary distribution. Raises TraceError.

    >>> mmpp2((5.0, 50.0), (30.0, 3.0), 60.0, seed=1).duration_s
    60.0
    """
    if len(rates) != 2 or len(mean_sojourn_s) != 2:
        raise TraceError("mmpp2: two rates and two mean sojourn times are needed, one of each per state")
    _at_least_zero("mmpp2", rate_0=rates[0], rate_1=rates[1])
    _positive("mmpp2", seconds=seconds, mean_sojourn_0_s=mean_sojourn_s[0], mean_sojourn_1_s=mean_sojourn_s[1])
    cycle = mean_sojourn_s[0] + mean_sojourn_s[1]
    _bounded("mmpp2", seconds * max(rates))
    _bounded("mmpp2", 2.0 * seconds / cycle)
    rng = generator("mmpp2", seed)
    first = int(rng.random() * cycle >= mean_sojourn_s[0])
    state_order = np.array([first, 1 - first])
    pairs = math.ceil(seconds / cycle) + 16
    ends = np.zeros(1)
    while ends[-1] < seconds:
        sojourns = rng.exponential(1.0, (pairs, 2)) * np.asarray(mean_sojourn_s, dtype=np.float64)[state_order]
        ends = np.append(ends, ends[-1] + np.cumsum(sojourns.ravel()))
    ends = np.append(ends[ends < seconds], seconds)
    rate = np.asarray(rates, dtype=np.float64)[np.resize(state_order, len(ends) - 1)]
    name = f"mmpp2 rates={rates[0]:g},{rates[1]:g} seed={seed}"
    return _trace(_piecewise("mmpp2", ends, rate, rng), seconds, name)


def diurnal(mean_rate: float, peak_ratio: float, seconds: float, period_s: float, seed: int = 0) -> Trace:
    """Poisson arrivals whose rate is a sine: lowest at 0, `peak_ratio` times the mean half a period later.

    A sine that stays above zero has a peak of 1 to 2 times its mean. Raises TraceError.

    >>> diurnal(10.0, 1.8, 600.0, period_s=300.0, seed=1).duration_s
    600.0
    """
    _positive("diurnal", mean_rate=mean_rate, seconds=seconds, period_s=period_s)
    if not 1.0 <= peak_ratio <= 2.0:
        raise TraceError(
            f"diurnal: peak_ratio is {peak_ratio!r}; peak over mean of a sine is 1 to 2; spike() has no bound"
        )
    steps = math.ceil(1024.0 * seconds / period_s)
    _bounded("diurnal", max(steps, mean_rate * seconds))
    knots = np.linspace(0.0, seconds, max(steps, 1) + 1)
    angle = 2.0 * np.pi * knots / period_s
    expected = mean_rate * (knots - (peak_ratio - 1.0) * period_s / (2.0 * np.pi) * np.sin(angle))
    uniform = _ordered_uniform("diurnal", float(expected[-1]), generator("diurnal", seed))
    arrival = np.interp(uniform * expected[-1], np.maximum.accumulate(expected), knots)
    return _trace(arrival, seconds, f"diurnal rate={mean_rate:g} peak={peak_ratio:g} seed={seed}")


def ramp(start_rate: float, end_rate: float, seconds: float, seed: int = 0) -> Trace:
    """Poisson arrivals whose rate moves in a straight line from `start_rate` to `end_rate`. Raises TraceError.

    >>> ramp(0.0, 20.0, 60.0, seed=1).duration_s
    60.0
    """
    _at_least_zero("ramp", start_rate=start_rate, end_rate=end_rate)
    _positive("ramp", seconds=seconds)
    expected = (start_rate + end_rate) / 2.0 * seconds
    mass = _ordered_uniform("ramp", expected, generator("ramp", seed)) * expected
    # The root of the quadratic expected count, in the form that does not cancel when the slope is small.
    slope = (end_rate - start_rate) / seconds
    speed = np.sqrt(np.maximum(start_rate**2 + 2.0 * slope * mass, 0.0))
    arrival = 2.0 * mass / (start_rate + speed)
    return _trace(np.maximum.accumulate(arrival), seconds, f"ramp {start_rate:g}-{end_rate:g} seed={seed}")


def spike(rate: float, factor: float, at_s: float, for_s: float, seconds: float, seed: int = 0) -> Trace:
    """Poisson arrivals at `rate`, and at `factor` times that from `at_s` for `for_s` seconds (0: an outage).

    >>> spike(10.0, 5.0, at_s=20.0, for_s=5.0, seconds=60.0, seed=1).duration_s
    60.0
    """
    _positive("spike", rate=rate, for_s=for_s, seconds=seconds)
    _at_least_zero("spike", factor=factor, at_s=at_s)
    if at_s + for_s > seconds:
        raise TraceError(f"spike: it ends at {at_s + for_s} s, after the trace of {seconds} s; make the trace longer")
    knots = np.array([0.0, at_s, at_s + for_s, seconds])
    levels = rate * np.array([1.0, factor, 1.0])
    name = f"spike rate={rate:g} factor={factor:g} seed={seed}"
    return _trace(_piecewise("spike", knots, levels, generator("spike", seed)), seconds, name)


def from_counts(counts: ArrayLike, seed: int = 0, bucket_s: float = 1.0) -> Trace:
    """Spread the requests counted in each bucket independently and uniformly over it.

    Given the counts this is exactly a Poisson process with one rate per bucket (exponential gaps). `counts`: shape
    (buckets,), whole numbers >= 0. Raises TraceError.

    >>> from_counts([3, 0, 2], seed=1).requests
    5
    """
    _positive("from_counts", bucket_s=bucket_s)
    per_bucket = _whole(counts)
    total = int(per_bucket.sum())
    _bounded("from_counts", max(total, len(per_bucket)))
    bucket = np.repeat(np.arange(len(per_bucket), dtype=np.float64), per_bucket)
    arrival = np.sort((bucket + generator("from_counts", seed).random(total)) * bucket_s)
    return _trace(arrival, len(per_bucket) * bucket_s, f"counts seed={seed}")


def _whole(counts: ArrayLike) -> NDArray[np.int64]:
    values = np.asarray(counts)
    if values.ndim != 1 or not len(values) or values.dtype.kind not in "iuf":
        raise TraceError("from_counts: one whole number per bucket is needed, and at least one bucket")
    bad = np.flatnonzero(~((values >= 0) & (values <= MAX_REQUESTS) & (values == np.floor(values))))
    if len(bad):
        raise TraceError(
            f"from_counts: counts[{bad[0]}] is {values[bad[0]]}; counts are whole numbers from 0 to {MAX_REQUESTS:,}"
        )
    return values.astype(np.int64)


def _trace(arrival_s: Floats, seconds: float | None, name: str) -> Trace:
    if seconds is None:
        return Trace.from_arrivals(arrival_s, name=name)
    return Trace.from_arrivals(np.minimum(arrival_s, seconds), duration_s=seconds, name=name)


def _renewal(
    what: str,
    rate: float,
    cv: float,
    seconds: float | None,
    requests: int | None,
    gaps: Callable[[int], Floats],
) -> Floats:
    if (seconds is None) == (requests is None):
        raise TraceError(f"{what}: give either seconds or requests, exactly one of the two")
    if requests is not None:
        if not 1 <= requests <= MAX_REQUESTS:
            raise TraceError(f"{what}: requests is {requests!r}; it must be from 1 to {MAX_REQUESTS:,}")
        return np.cumsum(gaps(operator.index(requests)))
    assert seconds is not None
    _positive(what, seconds=seconds)
    _bounded(what, rate * seconds)
    expected = rate * seconds
    count = math.ceil(expected + 3.0 * cv * math.sqrt(expected) + 16.0)
    parts, reached = [], 0.0
    while reached < seconds:
        part = reached + np.cumsum(gaps(count))
        parts.append(part)
        reached = float(part[-1])
    arrival = np.concatenate(parts)
    return arrival[: np.searchsorted(arrival, seconds)]


def _starting_with(first: float, gaps: Callable[[int], Floats]) -> Callable[[int], Floats]:
    pending = [first]

    def draw(count: int) -> Floats:
        drawn = gaps(count)
        if pending:
            drawn[0] = pending.pop()
        return drawn

    return draw


def _ordered_uniform(what: str, expected: float, rng: np.random.Generator) -> Floats:
    """Return a Poisson number of uniform draws on (0, 1), sorted without sorting: normalised sums of exponentials."""
    _bounded(what, expected)
    sums = np.cumsum(rng.exponential(1.0, int(rng.poisson(expected)) + 1))
    ordered: Floats = sums[:-1] / sums[-1]
    return ordered


def _piecewise(what: str, knots: Floats, rate: Floats, rng: np.random.Generator) -> Floats:
    expected = np.append(0.0, np.cumsum(np.diff(knots) * rate))
    mass = _ordered_uniform(what, float(expected[-1]), rng) * expected[-1]
    arrival: Floats = np.interp(mass, expected, knots)
    return arrival


def _positive(what: str, **values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0.0):
            raise TraceError(f"{what}: {name} is {value!r}; it must be a positive number")


def _at_least_zero(what: str, **values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0.0):
            raise TraceError(f"{what}: {name} is {value!r}; it must be a number of at least 0")


def _bounded(what: str, expected: float) -> None:
    if expected > MAX_REQUESTS:
        raise TraceError(
            f"{what}: about {expected:.3g} requests or steps; at most {MAX_REQUESTS:,} are made: check the units"
        )
