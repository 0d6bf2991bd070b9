"""What the server remembers of the requests it served: bounded rings of timings, counters and histograms."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.sim.outcome import number, percentile

RING_ENTRIES = 1 << 16
LATENCY_BUCKETS_S = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0,
)  # fmt: skip
BATCH_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
STATUSES = ("answered", "rejected", "dropped", "failed")


class Ring:
    """The last `capacity` rows of numbers, in memory that is taken once.

    >>> ring = Ring(2, 1)
    >>> for value in (1.0, 2.0, 3.0):
    ...     ring.add(value)
    >>> ring.rows()[:, 0].tolist()
    [2.0, 3.0]
    """

    __slots__ = ("_capacity", "_pack", "_row_bytes", "_values", "_width", "count")

    def __init__(self, capacity: int, width: int) -> None:
        self._capacity = capacity
        self._width = width
        self._values = array("d", bytes(8 * capacity * width))
        self._row_bytes = 8 * width
        self._pack = Struct(f"={width}d").pack_into
        self.count = 0

    def add(self, *row: float) -> None:
        """Append one row; the oldest goes when the ring is full."""
        self._pack(self._values, self.count % self._capacity * self._row_bytes, *row)
        self.count += 1

    def rows(self) -> NDArray[np.float64]:
        """Return what is held, oldest first, shape (rows, width)."""
        held = np.frombuffer(self._values, np.float64).reshape(self._capacity, self._width)
        if self.count <= self._capacity:
            return held[: self.count].copy()
        return np.roll(held, -(self.count % self._capacity), axis=0)

    def after(self, count: int) -> NDArray[np.float64]:
        """Return the rows that were appended after the first `count`, as far as they are held, oldest first."""
        rows = self.rows()
        return rows[max(0, len(rows) - max(0, self.count - count)) :]


class Histogram:
    """Counts of values by bucket, in the sense of Prometheus: `counts[i]` values lie at or below `bounds[i]`.

    >>> histogram = Histogram((1.0, 2.0))
    >>> histogram.observe(1.5)
    >>> histogram.counts
    [0, 1, 0]
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, int]]:
        """Return `(upper bound as text, values at or below it)` for every bucket, infinity last."""
        out, below = [], 0
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            below += count
            out.append((bound, below))
        return out


class StageRecord:
    """Items of one stage that were worked on: when they arrived, started and were done, and in how large a batch."""

    __slots__ = ("batch_size", "duration", "items", "queue_wait", "ring")

    def __init__(self, entries: int = RING_ENTRIES) -> None:
        self.ring = Ring(entries, 5)
        self.items = 0
        self.queue_wait = Histogram(LATENCY_BUCKETS_S)
        self.duration = Histogram(LATENCY_BUCKETS_S)
        self.batch_size = Histogram(BATCH_BUCKETS)

    def add(self, request: int, arrival_s: float, start_s: float, done_s: float, batch_size: int) -> None:
        """Take note of one item."""
        self.items += 1
        self.ring.add(request, arrival_s, start_s, done_s, batch_size)
        self.queue_wait.observe(start_s - arrival_s)
        self.duration.observe(done_s - arrival_s)
        self.batch_size.observe(batch_size)

    def summary(self, since_s: float, samples: bool) -> dict[str, Any]:
        """Return figures over the items held that arrived from `since_s` on.

        With `samples` each item's own as well, in order of completion: those of a batch follow each other.
        """
        rows = self.ring.rows()
        rows = rows[rows[:, 1] >= since_s]
        wait_s, service_s = rows[:, 2] - rows[:, 1], rows[:, 3] - rows[:, 2]
        out: dict[str, Any] = {"items": self.items, "items_held": len(rows)}
        for name, values in (("queue_wait", wait_s), ("service", service_s)):
            for percent in (50, 95, 99):
                out[f"{name}_p{percent}_s"] = number(percentile(values, percent))
        if samples:
            out["arrival_s"] = [round(value, 6) for value in rows[:, 1].tolist()]
            out["queue_wait_s"] = [round(value, 6) for value in wait_s.tolist()]
            out["service_s"] = [round(value, 6) for value in service_s.tolist()]
            out["batch_size"] = rows[:, 4].astype(int).tolist()
            out["request"] = rows[:, 0].astype(int).tolist()
        return out


class Counts:
    """What became of requests. Law: offered = answered + rejected + dropped + failed + in flight, at all times.

    >>> counts = Counts()
    >>> counts.offered += 1
    >>> counts.in_flight
    1
    """

    __slots__ = ("by_status", "late", "offered")

    def __init__(self) -> None:
        self.offered = 0
        self.late = 0
        self.by_status = dict.fromkeys(STATUSES, 0)

    @property
    def in_flight(self) -> int:
        """Requests that were let in and have not been answered."""
        return self.offered - sum(self.by_status.values())

    def to_dict(self) -> dict[str, int]:
        """Return the counts as JSON values; `late` ones are among the answered."""
        return {"offered": self.offered, **self.by_status, "late": self.late, "in_flight": self.in_flight}
