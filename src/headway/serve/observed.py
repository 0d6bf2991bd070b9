"""What a live server's `/stats` says of single items and batches, as arrays to fit from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.errors import ServeError
from headway.profile.refit import startable_s
from headway.serve.record import RING_ENTRIES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_FIELDS = ("request", "arrival_s", "queue_wait_s", "service_s", "batch_size")
_ROUNDING_S = 5e-6
"""Times of one batch differ by so much at most, since each of its items is told to the microsecond."""


@dataclass(frozen=True, slots=True)
class StageItems:
    """Items that a stage served, in order of completion; times are the server's clock, in seconds."""

    request: Ints
    arrival_s: Floats
    queue_wait_s: Floats
    service_s: Floats
    batch_size: Ints

    @classmethod
    def of(cls, stage: str, stats: Mapping[str, Any]) -> StageItems:
        """Return the items of a stage of `/stats?samples=true`. Raises ServeError when the server told too little."""
        missing = [name for name in _FIELDS if not isinstance(stats.get(name), list)]
        if missing or len({len(stats[name]) for name in _FIELDS}) > 1:
            lacks = ", ".join(missing) or "items in some of its lists"
            raise ServeError(f"stage {stage!r}: /stats lacks {lacks}; is the server of another version?")
        if len(stats["request"]) >= RING_ENTRIES:
            raise ServeError(f"stage {stage!r}: the server holds the last {RING_ENTRIES} items; use a shorter trace")
        wait_s, service_s = (np.asarray(stats[name], np.float64) for name in ("queue_wait_s", "service_s"))
        request, size = (np.asarray(stats[name], np.int64) for name in ("request", "batch_size"))
        return cls(request, np.asarray(stats["arrival_s"], np.float64), wait_s, service_s, size)

    @property
    def start_s(self) -> Floats:
        """When each item's batch started."""
        return self.arrival_s + self.queue_wait_s

    @property
    def done_s(self) -> Floats:
        """When each item's batch was done."""
        return self.start_s + self.service_s

    def batches(self) -> Batches:
        """Return the batches; the first item of each is its oldest."""
        at = self._firsts()
        return Batches(self.batch_size[at], self.arrival_s[at], self.start_s[at], self.done_s[at])

    def as_simulated(self) -> tuple[Floats, Floats]:
        """Return for how long each item waited and each batch occupied a replica, as a simulator counts them.

        There a batch starts as soon as it can. A server that is late with it adds that to the batch, and it is fitted
        as a part of the batch's overhead. For stages that wait neither for a batch to fill nor for cores.
        """
        batches, at = self.batches(), self._firsts()
        could_s = startable_s(batches.arrival_s, batches.start_s, batches.done_s)
        late_s, size = batches.start_s - could_s, batches.batch_size
        wait_s = self.queue_wait_s.copy()
        within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        of_batch = np.repeat(at, size) + within
        wait_s[of_batch] = np.maximum(0.0, wait_s[of_batch] - np.repeat(late_s, size))
        return wait_s, batches.service_s + late_s

    def _firsts(self) -> Ints:
        """Where the first item of each batch is; those of a batch follow each other."""
        if not self.request.size:
            return np.empty(0, np.int64)
        start_s, done_s, size = self.start_s, self.done_s, self.batch_size
        other = (
            (np.abs(np.diff(start_s)) > _ROUNDING_S) | (np.abs(np.diff(done_s)) > _ROUNDING_S) | (np.diff(size) != 0)
        )
        first = np.flatnonzero(np.concatenate([[True], other]))
        run = np.diff(np.append(first, size.size))
        within = np.arange(size.size) - np.repeat(first, run)
        at = np.flatnonzero(within % size == 0)
        # A batch of which the first items came before the time that was asked for is not whole.
        return np.asarray(at[(within + size <= np.repeat(run, run))[at]], np.int64)


@dataclass(frozen=True, slots=True)
class Batches:
    """Batches that a stage served: how large, when the oldest item arrived, when started and done."""

    batch_size: Ints
    arrival_s: Floats
    start_s: Floats
    done_s: Floats

    @classmethod
    def joined(cls, parts: Sequence[Batches]) -> Batches:
        """Return the batches of several spells of one server, one after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    @property
    def service_s(self) -> Floats:
        """How long each took."""
        return self.done_s - self.start_s
