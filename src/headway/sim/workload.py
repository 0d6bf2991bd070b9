"""One trace on one graph: arrivals, items and draws fixed, so that stages can be simulated one at a time and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from headway.profile import RecordedVisits
from headway.sim import feedforward
from headway.sim.items import StageItems, build_items
from headway.sim.station import Arrivals, Departures, Flags, Floats, Station
from headway.spec.graph import REQUEST, Graph
from headway.trace import Trace

NONE, SOME, ALONE = range(3)


@dataclass(frozen=True)
class Workload:
    """What every candidate configuration is held against: the same requests, ways and draws.

    >>> from headway.spec.graph import Graph
    >>> trace = Trace.poisson(rate=10, seconds=5, seed=1)
    >>> Workload.of(Graph.build({"only": {}}), trace, seed=1).items["only"].count == trace.requests
    True
    """

    graph: Graph
    trace: Trace
    seed: int
    items: Mapping[str, StageItems]
    drop_after_s: float | None = None
    request_overhead_s: float = 0.0
    """What serving adds to every request, as `headway.profile.overheads` has it."""
    _whole: dict[str, bool] = field(default_factory=dict, repr=False)
    _ends: dict[str, int] = field(default_factory=dict, repr=False)
    kept: dict[str, object] = field(default_factory=dict, repr=False)
    """What others derive from the workload once, by name."""

    @classmethod
    def of(
        cls,
        graph: Graph,
        trace: Trace,
        seed: int,
        recorded: RecordedVisits | None = None,
        drop_after_s: float | None = None,
        request_overhead_s: float = 0.0,
    ) -> Workload:
        """Return the workload of a trace; edges are drawn with `seed` unless visits are recorded."""
        return cls(graph, trace, seed, build_items(graph, trace, seed, recorded), drop_after_s, request_overhead_s)

    @property
    def requests(self) -> int:
        """Requests offered."""
        return self.trace.requests

    @cached_property
    def entry_s(self) -> Floats:
        """When requests reach their first stages: latency counts from `trace.arrival_s`, the overhead earlier.

        All of a request's overhead is taken here: a constant may come first or last without changing anything else.
        """
        if not self.request_overhead_s:
            return self.trace.arrival_s
        return self.trace.arrival_s + self.request_overhead_s

    def arrivals(self, stage: str, before: Mapping[str, Departures]) -> Arrivals:
        """Return what reaches a stage, given the departures of all stages above it."""
        items = self.items[stage]
        if not self.graph.parents[stage]:
            arrival_s, item = self.entry_s, items.up
        elif stage in self.graph.joins:
            arrival_s, item = self._joined(stage, before)
        else:
            parent = self.graph.parents[stage][0].parent
            done = before[parent]
            first_child = self.items[parent].first_child[stage]
            if self._one_to_one(parent, stage, first_child):
                arrival_s, item = done.done_s, done.item
            else:
                arrival_s, item = np.empty(items.count), np.empty(items.count, np.int32)
                n = feedforward.expand(done.done_s, done.item, done.done_s.size, first_child, arrival_s, item)
                arrival_s, item = arrival_s[:n], item[:n]
        deadline_s = np.empty(0)
        if self.drop_after_s is not None:
            deadline_s = self.trace.arrival_s[items.request[item]] + self.drop_after_s
        return Arrivals(
            arrival_s, item, items.request, deadline_s, self.trace.columns, self.trace.prompts, self.trace.name
        )

    def run(self, stage: str, station: Station, before: Mapping[str, Departures], record: bool = False) -> Departures:
        """Return a stage's departures, given those of all stages above it."""
        return station.run(self.arrivals(stage, before), seed=self.seed, record=record)

    def completion(self, departures: Mapping[str, Departures]) -> Floats:
        """Return when each request's last item finished among the given stages; infinite when one never does.

        With the departures of only some stages this is a lower bound of the completion, by request.
        """
        done_s = np.full(self.requests, -np.inf)
        for name, left in departures.items():
            items = self.items[name]
            partial = any(edge.child not in departures for edge in self.graph.children[name])
            if partial or self._ending(name) == SOME:
                target = items.request if partial else items.ends
                feedforward.latest(left.done_s, left.item, left.done_s.size, target, done_s)
            elif self._ending(name) == ALONE:
                feedforward.scatter(left.done_s, left.item, done_s)
            for gone in left.lost:
                if gone.size:
                    feedforward.mark(gone, items.request, done_s)
        return done_s

    def broken(self, departures: Mapping[str, Departures]) -> Flags:
        """Return which requests have an item that broke a promise of its own at one of the given stages."""
        broken = np.zeros(self.requests, np.bool_)
        for name, left in departures.items():
            if left.broken.size:
                broken[self.items[name].request[left.item[left.broken]]] = True
        return broken

    def _ending(self, stage: str) -> int:
        """Whether a stage's items are their request's last: none, some, or every request ends here and only here."""
        if not self._ends:
            ends = {name: SOME if np.any(items.ends >= 0) else NONE for name, items in self.items.items()}
            ending = [name for name, how in ends.items() if how == SOME]
            if len(ending) == 1 and np.array_equal(self.items[ending[0]].ends, np.arange(self.requests)):
                ends[ending[0]] = ALONE
            # At once: another thread that simulates this workload must never see a part of it.
            self._ends.update(ends)
        return self._ends[stage]

    def _joined(
        self, stage: str, before: Mapping[str, Departures]
    ) -> tuple[Floats, np.ndarray[tuple[int], np.dtype[np.int32]]]:
        count = self.items[stage].count
        ready_s = np.full(count, -np.inf)
        scope = self.graph.scope[stage]
        region = self.graph.region[stage] if scope == REQUEST else (scope, *self.graph.region[stage])
        for name in region:
            target = self.items[name].joins[stage]
            left = before[name]
            feedforward.latest(left.done_s, left.item, left.done_s.size, target, ready_s)
            for gone in left.lost:
                if gone.size:
                    feedforward.mark(gone, target, ready_s)
        # Nothing of an item arrived when it was lost above its scope: its join never becomes ready.
        ready_s[np.isneginf(ready_s)] = np.inf
        order = np.argsort(ready_s, kind="stable").astype(np.int32)
        arrival_s = ready_s[order]
        reached = int(np.searchsorted(arrival_s, np.inf))
        return arrival_s[:reached], order[:reached]

    def _one_to_one(self, parent: str, stage: str, first_child: np.ndarray[tuple[int], np.dtype[np.int32]]) -> bool:
        if stage not in self._whole:
            count = self.items[parent].count
            self._whole[stage] = self.items[stage].count == count and bool(np.all(np.diff(first_child) == 1))
        return self._whole[stage]
