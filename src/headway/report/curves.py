"""The data behind the charts: long series reduced to what a picture can show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.trace.trace import Trace

Curve = list[tuple[float, float]]
_NICE_BINS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)


def tail(sorted_latency_s: NDArray[np.float64], points: int = 200) -> Curve:
    """Return (latency, share of requests slower than it), at most about `points` of them, the far tail kept exact.

    The complementary distribution function; requests without an answer count as slower than anything.

    >>> tail(np.array([1.0, 2.0, 4.0, math.inf]))
    [(1.0, 0.75), (2.0, 0.5), (4.0, 0.25)]
    """
    n = sorted_latency_s.size
    answered = int(np.searchsorted(sorted_latency_s, math.inf))
    if not answered:
        return []
    # Ranks evenly spaced in the logarithm of the share that is slower, since that is how the axis shows them.
    slower = np.unique(np.geomspace(max(1, n - answered), n, points).astype(np.int64))[::-1]
    ranks = np.unique(np.concatenate(([0], n - slower, [answered - 1])))
    ranks = ranks[(ranks >= 0) & (ranks < answered)]
    at = sorted_latency_s[ranks]
    share = 1.0 - np.searchsorted(sorted_latency_s, at, side="right") / n
    return [(float(x), float(y)) for x, y in zip(at, share, strict=True)]


def percentiles_of(figures: Mapping[str, Any]) -> Curve:
    """Return (latency, share slower) at the percentiles that a summary carries; unanswered ones are left out."""
    known = ((0.5, figures.get("p50_s")), (0.05, figures.get("p95_s")), (0.01, figures.get("p99_s")))
    return [(float(value), share) for share, value in known if value is not None and math.isfinite(value) and value > 0]


def bin_width_s(duration_s: float, most_bins: int) -> float:
    """Return the shortest round width of which at most so many bins cover a duration.

    >>> bin_width_s(60.0, 32), bin_width_s(90000.0, 10)
    (2.0, 10800.0)
    """
    width_s = next((width for width in _NICE_BINS_S if duration_s / width <= most_bins), None)
    return float(3600 * math.ceil(duration_s / most_bins / 3600)) if width_s is None else float(width_s)


def rate_over_time(trace: Trace, most_bins: int = 120) -> tuple[float, Curve]:
    """Return the width of a bin in seconds, and (start of the bin, requests per second in it).

    The last bin may be cut by the end of the trace; its rate is over the part that was observed.
    """
    width_s = bin_width_s(trace.duration_s, most_bins)
    bins = max(1, math.ceil(trace.duration_s / width_s - 1e-9))
    index = np.minimum((trace.arrival_s // width_s).astype(np.int64), bins - 1)
    counts = np.bincount(index, minlength=bins)
    lengths = np.full(bins, width_s)
    lengths[-1] = trace.duration_s - width_s * (bins - 1) or width_s
    return width_s, [(i * width_s, float(rate_per_s)) for i, rate_per_s in enumerate(counts / lengths)]
