"""Who is let in: the admission policy is asked, with what the stations have to do, before a request costs any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from headway.errors import ServeError
from headway.policy.admission import Load, Terms, in_time
from headway.serve.station import CountsRefused, LiveStation, StationLoad, TellsLoad
from headway.sim.promise import admission_terms, items_per_request

if TYPE_CHECKING:
    from headway.plan.plan import Plan


class Rejected(ServeError):
    """A request is not let in. `status` is the HTTP status to answer with, `retry_after_s` when to try again."""

    def __init__(self, status: int, text: str, retry_after_s: int = 1) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after_s = retry_after_s


class Gate:
    """Knows a plan's promise, and tells stations what is refused.

    It stands open unless it is to `keep_promise`, and where a stage's domain cannot tell its times, or its station its
    load.
    """

    def __init__(self, plan: Plan, stations: Mapping[str, LiveStation], *, keep_promise: bool = True) -> None:
        asked = [stations[name] for name in plan.spec.graph.order]
        self._loads = [station.load for station in asked if isinstance(station, TellsLoad)]
        known = keep_promise and len(self._loads) == len(asked)
        self._terms = admission_terms(plan) if known else None
        counting = {name: station for name, station in stations.items() if isinstance(station, CountsRefused)}
        items = items_per_request(plan) if counting else {}
        self._counting = [(station, items[name]) for name, station in counting.items()]
        self.promise_s = plan.spec.slo.latency_s
        self._bearable: dict[tuple[int, ...], int] = {}

    def in_time(self, now_s: float, timeout_s: float) -> bool:
        """Return whether a request that comes now is expected to be answered within the promise and its own timeout."""
        if self._terms is None:
            return True
        loads = [load() for load in self._loads]
        if timeout_s >= self.promise_s and self._is_calm(self._terms, loads):
            return True
        return in_time(self._terms, Load(*zip(*loads, strict=True)), now_s, min(self.promise_s, timeout_s))

    def refused(self) -> None:
        """Tell the stations that count it that a request came and was not let in."""
        for station, items in self._counting:
            station.refused(items)

    def _is_calm(self, terms: Terms, loads: Sequence[StationLoad]) -> bool:
        """Whether so little is to do that the policy's answer is known: asking it would cost as much as a request."""
        items = 0
        for load in loads:
            if load.busy > load.replicas or load.pace > 1.0:
                return False
            items += load.queued + load.running
        replicas = tuple([load.replicas for load in loads])
        if replicas not in self._bearable:
            self._bearable[replicas] = bearable(terms, replicas, self.promise_s)
        return items <= self._bearable[replicas]


def bearable(terms: Terms, replicas: Sequence[int], promise_s: float) -> int:
    """Return a number of items, up to a million, with which a request is in time wherever they are; 0 if there is none.

    Each stage is taken to have all of them waiting, and every replica to have just begun: more work makes no request
    earlier, so that fewer items are no worse.
    """
    nothing = [0] * len(replicas)

    def holds(items: int) -> bool:
        stages = len(replicas)
        load = Load([items] * stages, nothing, replicas, [0.0] * stages, replicas, [1.0] * stages)
        return in_time(terms, load, 0.0, promise_s)

    low, high = 0, 1 << 20
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
