"""What traffic asks of a stage whatever the others do: earliest arrivals, latest finishes, and bounds from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from headway.sim.jit import kernel
from headway.sim.outcome import TOLERANCE_S
from headway.sim.station import Floats, Ints
from headway.sim.worklaw import LeastTimes, WorkBound
from headway.sim.workload import Workload


@kernel
def latest_with_tail(done_s: Floats, item: Ints, request: Ints, tail_s: Floats, out_s: Floats) -> None:
    """Raise each request's `out_s` to its items' departure plus what must follow at least."""
    for at in range(done_s.size):
        finish_s = done_s[at] + tail_s[item[at]]
        to = request[item[at]]
        if finish_s > out_s[to]:
            out_s[to] = finish_s


@kernel
def dropped_work(release_s: Floats, due_s: Floats, work_s: Floats, capacity: float) -> float:
    """Return the least work that must be late when `capacity` servers share all of it freely.

    Jobs are in order of release and of due time. Serving in that order at full speed and giving up what would be late
    loses the least work of all schedules, so that no schedule of whole batches can do better.
    """
    free_s = -np.inf
    lost = 0.0
    for at in range(release_s.size):
        if release_s[at] > free_s:
            free_s = release_s[at]
        free_s += work_s[at] / capacity
        if free_s > due_s[at]:
            lost += (free_s - due_s[at]) * capacity
            free_s = due_s[at]
    return lost


@dataclass(frozen=True)
class Tails:
    """Least remaining time after each item, by stage, given every stage's quickest service."""

    tail_s: Mapping[str, Floats]
    head_s: Mapping[str, float]
    least_s: Floats

    @classmethod
    def of(cls, work: Workload, fastest_s: Mapping[str, float]) -> Tails:
        """Return the tails and heads of a workload.

        `head_s[stage]` is the least time from entry to the stage, `least_s` each request's latency without any wait.
        """
        graph = work.graph
        tail_s: dict[str, Floats] = {}
        for name in reversed(graph.order):
            items = work.items[name]
            tail = np.zeros(items.count)
            for child, first in items.first_child.items():
                following = fastest_s[child] + tail_s[child]
                parent = np.repeat(np.arange(items.count), np.diff(first))
                np.maximum.at(tail, parent, following)
            for join, target in items.joins.items():
                waits = target >= 0
                following = fastest_s[join] + tail_s[join]
                tail[waits] = np.maximum(tail[waits], following[target[waits]])
            tail_s[name] = tail
        head_s: dict[str, float] = {}
        for name in graph.order:
            before = [head_s[edge.parent] + fastest_s[edge.parent] for edge in graph.parents[name]]
            # A join may run when only its quickest branch was taken.
            head_s[name] = min(before, default=0.0)
        least_s = np.zeros(work.requests)
        for name in graph.sources:
            np.maximum(least_s, fastest_s[name] + tail_s[name], out=least_s)
        return cls(tail_s, head_s, least_s + work.request_overhead_s)

    def finish_at_least(self, work: Workload, name: str, done_s: Floats, item: Ints, out_s: Floats) -> None:
        """Raise `out_s` (per request) to the least possible completion given one stage's departures."""
        latest_with_tail(done_s, item, work.items[name].request, self.tail_s[name], out_s)


@dataclass(frozen=True)
class StageDemand:
    """One stage's share of a workload, one job per request that visits it: items, earliest start, latest finish.

    `visiting` are the requests that do.
    """

    items: Floats
    release_s: Floats
    due_s: Floats
    visiting: NDArray[np.intp]

    @classmethod
    def of(cls, work: Workload, tails: Tails, name: str, slo_s: float) -> StageDemand:
        """Return what a stage is asked for at least, whatever all other stages do."""
        stage = work.items[name]
        per_request = np.bincount(stage.request, minlength=work.requests)
        visiting = np.flatnonzero(per_request)
        tail_s = float(tails.tail_s[name].min()) if stage.count else 0.0
        release_s = work.entry_s[visiting] + tails.head_s[name]
        due_s = work.trace.arrival_s[visiting] + (slo_s - tail_s)
        return cls(per_request[visiting].astype(float), release_s, due_s, visiting)

    def weighed(self, work_s: Floats) -> StageDemand:
        """Return the demand in seconds of work instead of items; `work_s` is that of an item of each request."""
        return replace(self, items=self.items * work_s[self.visiting])

    def late_alone(self, times: LeastTimes) -> int:
        """Return how many requests miss even when each has the stage for itself."""
        late = self.release_s + times.alone_s[self.visiting] > self.due_s + 2 * TOLERANCE_S
        return int(np.count_nonzero(late | times.broken[self.visiting]))

    def least_late(self, bound: WorkBound, servers: int) -> int:
        """Return how many requests are late at least when each item takes what the bound says of a server's time."""
        if not self.items.size:
            return 0
        job_s = self.items * bound.work_s
        due_s = self.due_s + bound.credit_s(servers) / servers
        lost_s = dropped_work(self.release_s, due_s, job_s, float(servers))
        lost_s -= 1e-6 * float(job_s.max())
        if lost_s <= 0.0:
            return 0
        # Late requests lose all that is lost, so there are at least as many as the largest of them make up.
        return int(np.searchsorted(self._largest_together * bound.work_s, lost_s)) + 1

    @cached_property
    def _largest_together(self) -> Floats:
        """Items of the largest job, of the largest two, and so on."""
        return np.cumsum(np.sort(self.items)[::-1])
