"""What the gateway counts of its requests. What many of them share is worked out for all of them at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from headway.serve.record import LATENCY_BUCKETS_S, RING_ENTRIES, Counts, Histogram, Ring

_FEW = 64
_NEW = 0.2
"""Weight of the newest in the moving average of requests that end per second."""
_NEWEST = 1 / 32
"""Weight of one request in the moving average of what upstreams take."""


class Timings:
    """A histogram that is brought up to date now and then.

    >>> timings = Timings()
    >>> timings.add(0.3)
    >>> timings.histogram.total
    0.3
    """

    def __init__(self) -> None:
        self._histogram = Histogram(LATENCY_BUCKETS_S)
        self._new: list[float] = []
        self.add = self._new.append

    @property
    def histogram(self) -> Histogram:
        """All that was added."""
        self.fold()
        return self._histogram

    def fold(self) -> None:
        """Sort what was added since into its buckets."""
        if self._new:
            observe(self._histogram, self._new)
            self._new.clear()


def observe(histogram: Histogram, values: Sequence[float]) -> None:
    """Count several values.

    >>> histogram = Histogram((1.0, 2.0))
    >>> observe(histogram, [1.5] * 100)
    >>> histogram.counts
    [0, 100, 0]
    """
    if len(values) < _FEW:
        for value in values:
            histogram.observe(value)
        return
    found = np.asarray(values)
    places = np.searchsorted(histogram.bounds, found, side="left")
    for place, count in enumerate(np.bincount(places, minlength=len(histogram.counts)).tolist()):
        histogram.counts[place] += count
    histogram.total += float(found.sum())


class Stats:
    """Counts and timings of one gateway's requests. `per_s`: requests that end per second, of late.

    `arrivals`: when each came; `ended`: when it came and its latency, infinite for what was not answered; both only
    where they are kept, and with them what is answered later than `promise_s` counts as late. `served_s`: how long
    upstreams took for all, `mean_s` of late for one.
    """

    def __init__(self, now_s: float) -> None:
        self.counts = Counts()
        self.cancelled = 0
        self.retries = 0
        self.latency = Timings()
        self.first_token = Timings()
        self.queue_wait = Timings()
        self.per_s = 0.0
        self.promise_s = math.inf
        self.arrivals: Ring | None = None
        self.ended: Ring | None = None
        self.served_s = 0.0
        self.mean_s = math.nan
        self._ended = 0
        self._at_s = now_s

    def keep(self) -> tuple[Ring, Ring]:
        """Keep of every request from now on when it came, and how it ended; return where."""
        self.arrivals, self.ended = Ring(RING_ENTRIES, 1), Ring(RING_ENTRIES, 2)
        return self.arrivals, self.ended

    def finished(self, arrival_s: float, latency_s: float) -> None:
        """Take note of how a request ended, where that is kept."""
        if self.ended is not None:
            self.ended.add(arrival_s, latency_s)
            self.counts.late += self.promise_s < latency_s < math.inf

    def served(self, seconds: float) -> None:
        """Take note of how long an upstream took for a request."""
        self.served_s += seconds
        self.mean_s = seconds if math.isnan(self.mean_s) else self.mean_s + _NEWEST * (seconds - self.mean_s)

    def sweep(self, now_s: float) -> None:
        """Bring up to date what is not counted request by request."""
        for timings in (self.latency, self.first_token, self.queue_wait):
            timings.fold()
        by_status = self.counts.by_status
        ended = sum(by_status.values()) - by_status["rejected"]
        self.per_s += _NEW * ((ended - self._ended) / max(now_s - self._at_s, 1e-3) - self.per_s)
        self._ended, self._at_s = ended, now_s
