"""How much a live cascade has to do, for the policy that says who is let in."""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized

from headway.domains.cascade.admit import Work
from headway.serve.landing import Pace
from headway.serve.station import StationLoad


class Ahead:
    """What is ahead of an item that comes now, counted in items that have just come; without `work` it is not known."""

    def __init__(self, work: Work | None) -> None:
        self._work = work
        self._pace = Pace()
        self._batches = self._items = 0
        self._further = self._began_s = 0.0

    def change(self, work: Work | None) -> None:
        """Count by another plan's work from now on."""
        self._work = work
        self._pace = Pace()

    def began(self, model: int, size: int, now_s: float) -> tuple[float, float]:
        """Take note of a batch; return what `landed` is to take back of it."""
        self._batches += 1
        self._items += size
        work = self._work
        if work is None or size > len(work.own_s[model]):
            further, began_s = 0.0, now_s
        else:
            # One that takes longer than a batch of new items is that, and some items beside.
            longer_s = work.own_s[model][size - 1] - work.batch_s[-1]
            further = size * work.after[model] + max(0.0, longer_s) / work.item_s
            began_s = now_s + min(0.0, longer_s)
        self._further += further
        self._began_s += began_s
        return further, began_s

    def landed(self, model: int, size: int, took_s: float, counted: tuple[float, float], finished: bool) -> None:
        """Take note of the end of a batch."""
        self._batches -= 1
        self._items -= size
        # A sum of many differences drifts; with nothing in service it is known.
        self._further = max(0.0, self._further - counted[0]) if self._batches else 0.0
        self._began_s = self._began_s - counted[1] if self._batches else 0.0
        work = self._work
        if finished and work is not None and size <= len(work.own_s[model]):
            self._pace.observe(took_s, work.own_s[model][size - 1])

    def told(self, queues: Sequence[Sized], replicas: int) -> StationLoad:
        """Return the load with these queues by model and so many devices at work."""
        queued = self._further
        if self._work is not None:
            for queue, rest in zip(queues, self._work.rest, strict=True):
                queued += len(queue) * rest
        waiting = math.ceil(queued - 1e-9)
        return StationLoad(waiting, self._items, self._batches, self._began_s, replicas, self._pace.told)
