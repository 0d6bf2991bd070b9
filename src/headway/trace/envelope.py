"""Traffic envelopes: the most requests that came in any window of a given length (network calculus)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headway.errors import TraceError

Floats = NDArray[np.float64]


def windows(service_time_s: float, longest_s: float = 60.0) -> Floats:
    """Return the window lengths in seconds: the service time, doubled again and again, and exactly `longest_s` on top.

    Small windows show bursts, large ones the mean rate (InferLine, section 5). A service time of `longest_s` or
    more leaves the top window alone. Raises TraceError.

    >>> windows(15.0).tolist()
    [15.0, 30.0, 60.0]
    """
    for name, value in (("service_time_s", service_time_s), ("longest_s", longest_s)):
        if not (math.isfinite(value) and value > 0.0):
            raise TraceError(f"windows: {name} is {value!r}; it must be a positive number of seconds")
    doublings = max(math.ceil(math.log2(longest_s / service_time_s)), 0)
    lengths = service_time_s * 2.0 ** np.arange(doublings + 1)
    return np.append(lengths[lengths < longest_s], longest_s)


def envelope(arrival_s: ArrayLike, windows_s: ArrayLike) -> NDArray[np.int64]:
    """Return, for each window length, the largest number of requests in any half-open window [t, t + length).

    `arrival_s`: sorted, shape (n,); the result has the shape of `windows_s`. It never falls when a window grows, and
    never more than doubles when a window doubles, so that the rate (count / length) does not rise from one doubling to
    the next. Raises TraceError.

    >>> envelope([0.0, 0.1, 0.2, 5.0], [0.15, 1.0, 60.0]).tolist()
    [2, 3, 4]
    """
    arrival, lengths = np.asarray(arrival_s, dtype=np.float64), np.asarray(windows_s, dtype=np.float64)
    if arrival.ndim != 1 or not (np.isfinite(arrival).all() and (arrival[1:] >= arrival[:-1]).all()):
        raise TraceError("envelope: arrival_s must be finite and sorted, one number per request")
    if lengths.ndim != 1 or not (np.isfinite(lengths) & (lengths > 0.0)).all():
        raise TraceError(f"envelope: windows_s is {lengths.tolist()}; window lengths are positive numbers of seconds")
    first = np.arange(len(arrival))
    # The fullest window can be moved right until it starts at a request, so only those starts are tried.
    counts = [np.max(np.searchsorted(arrival, arrival + length) - first, initial=0) for length in lengths]
    return np.array(counts, dtype=np.int64)


def peak_rate_per_s(arrival_s: ArrayLike, window_s: float) -> float:
    """Return the highest rate seen over any window of `window_s` seconds, in requests per second. Raises TraceError.

    >>> peak_rate_per_s([0.0, 0.1, 0.2, 5.0], 1.0)
    3.0
    """
    return int(envelope(arrival_s, [window_s])[0]) / window_s
