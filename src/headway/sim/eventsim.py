"""A whole pipeline in the event kernel: built from a workload and groups of replicas, advanced, asked for results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headway.errors import PlanError, nearest
from headway.policy.admission import Terms
from headway.sim import event_state, events
from headway.sim.draws import bits_for
from headway.sim.flat import flatten
from headway.sim.progress import StageProgress
from headway.sim.setup import ReplicaGroup, StageSetup
from headway.sim.station import Departures, Floats
from headway.sim.workload import Workload

__all__ = ["Admission", "EventSimulation", "ReplicaGroup", "StageSetup"]


@dataclass(frozen=True)
class Admission:
    """Requests that come too late to be answered within `promise_s` are refused, as `policy.admission.in_time` says."""

    promise_s: float
    terms: Terms


NO_TERMS = Terms([], [], [], [], [], [], [], [], [], [], [])


class EventSimulation:
    """All stages on one clock. `advance` as far as wanted, look, change replicas, advance again.

    >>> from headway.spec.graph import Graph
    >>> from headway.trace import Trace
    >>> work = Workload.of(Graph.build({"only": {}}), Trace.from_arrivals(np.array([0.0, 0.1])), seed=1)
    >>> sim = EventSimulation(work, {"only": StageSetup([ReplicaGroup(np.array([[0.0], [1.0]]), 1)])}, {})
    >>> sim.advance(np.inf)
    inf
    >>> sim.departures()["only"].done_s.tolist()
    [1.0, 2.0]
    """

    def __init__(
        self,
        work: Workload,
        setups: Mapping[str, StageSetup],
        pools: Mapping[str, int],
        spare_replicas: int = 0,
        admission: Admission | None = None,
    ) -> None:
        self.work = work
        self.stages = work.graph.order
        self._pools = tuple(pools)
        self._setups = dict(setups)
        self._tables: dict[str, list[int]] = {}
        self._used = 0
        self._now_s = -np.inf
        self._flat = flatten(work)
        self._net = self._build_net(setups, admission or Admission(0.0, NO_TERMS))
        self._state = self._build_state(setups, pools, spare_replicas)
        for stage, setup in setups.items():
            for index, group in enumerate(setup.groups):
                if group.pool is not None and group.pool not in pools:
                    raise PlanError(
                        f"stage {stage!r}: pool {group.pool!r} does not exist{nearest(group.pool, self._pools)}"
                    )
                if group.pool is not None and group.threads > pools[group.pool]:
                    raise PlanError(f"stage {stage!r}: {group.threads} threads do not fit into pool {group.pool!r}")
                for _ in range(group.replicas):
                    self._add(stage, index, group.from_s, group.until_s)
        self._schedule(range(self._used))

    @property
    def clock_s(self) -> float:
        """Time of the last event."""
        return float(self._state.clock_s[0])

    def advance(self, until_s: float) -> float:
        """Process all events up to and at `until_s`; return when the next one is due (infinite: all done)."""
        following_s = float(events.advance(self._net, self._state, until_s))
        self._now_s = max(self._now_s, until_s if until_s < np.inf else self.clock_s)
        return following_s

    def add_replica(self, stage: str, from_s: float, startup_s: float = 0.0) -> int:
        """Add a replica like the stage's first group, taking batches from `from_s` on; return its number.

        It is held, and paid for, from `startup_s` earlier. Raises PlanError when `from_s` is before the time advanced
        to, or when there is no room for another replica.
        """
        self._check_future(stage, from_s)
        replica = self._add(stage, 0, from_s, np.inf)
        self._schedule([replica])
        self._replica_from_s[replica] = from_s - startup_s
        return replica

    def retire_replica(self, replica: int, until_s: float) -> None:
        """Let a replica take no batch at or after `until_s`; what it has begun it finishes.

        Raises PlanError when that is before the time advanced to.
        """
        self._check_future(self.stages[int(self._state.replica_stage[replica])], until_s)
        self._state.replica_until_s[replica] = until_s

    def progress(self, stage: str) -> StageProgress:
        """Return a stage's totals at the time advanced to.

        >>> from headway.spec.graph import Graph
        >>> from headway.trace import Trace
        >>> work = Workload.of(Graph.build({"only": {}}), Trace.from_arrivals(np.array([0.0, 0.1])), seed=1)
        >>> sim = EventSimulation(work, {"only": StageSetup([ReplicaGroup(np.array([[0.0], [1.0]]), 1)])}, {})
        >>> _ = sim.advance(1.5)
        >>> sim.progress("only")
        StageProgress(arrived=2, queued=0, in_service=1, batches=1, items=1, finished_s=1.0, busy_s=1.5)
        """
        at = self.stages.index(stage)
        return StageProgress.of(self._state, at, int(self._net.wiring.base[at]), self._used, self._now_s)

    def busy_until_s(self, replica: int) -> float:
        """Return when a replica's last batch ends; minus infinity before its first."""
        return float(self._state.replica_busy_until_s[replica])

    def limit_batches(self, stage: str, max_batch_size: int, max_wait_s: float) -> None:
        """Let a stage's batches from now on hold at most so many items, no more than its service times are known for.

        Raises PlanError for a size beyond those.
        """
        at = self.stages.index(stage)
        known = self._setups[stage].groups[0].service_s.shape[0] - 1
        if not 1 <= max_batch_size <= known:
            raise PlanError(f"stage {stage!r}: batches of {max_batch_size} cannot be simulated; 1 to {known} are known")
        self._net.max_batch[at] = max_batch_size
        self._net.max_wait_s[at] = max_wait_s

    def queued(self, stage: str) -> int:
        """Items that wait at a stage now."""
        at = self.stages.index(stage)
        return int(self._state.queue_tail[at] - self._state.queue_head[at])

    def replicas(self, stage: str) -> tuple[int, ...]:
        """Numbers of the replicas that have not been retired by now."""
        at = self.stages.index(stage)
        return tuple(
            r for r in range(self._used)
            if self._state.replica_stage[r] == at and self._state.replica_until_s[r] > self.clock_s
        )  # fmt: skip

    def completion(self) -> Floats:
        """Return when each request's last item finished; infinite when one never does, or has not by now."""
        finished_s = np.where(self._state.done_s == event_state.PENDING, np.inf, self._state.done_s)
        events.latest_end(self._flat.ends, finished_s, done_s := np.full(self.work.requests, -np.inf))
        lost = (self._state.dropped > 0) | (self._state.refused > 0)
        return np.where(lost, np.inf, done_s)

    def departures(self) -> dict[str, Departures]:
        """Return what every stage gave back so far, in the same form as the recursion does.

        Items that have reached a stage and not left it, and requests yet to come, are `unserved`.
        """
        out = {}
        for at, stage in enumerate(self.stages):
            low, high = int(self._net.wiring.base[at]), int(self._net.wiring.base[at + 1])
            done_s = self._state.done_s[low:high]
            served = self._state.queue[low : low + int(self._state.queue_tail[at])] - np.int32(low)
            position = np.empty(high - low, np.int64)
            position[served] = np.arange(served.size)
            left = np.flatnonzero((done_s >= 0) & (done_s < np.inf))
            # Batches leave by time, and at one time in the order in which they were started: that of their items.
            ordered = left[np.lexsort((position[left], done_s[left]))].astype(np.int32)
            queued = np.zeros(high - low, bool)
            queued[served] = True
            gone = done_s == np.inf
            waiting = done_s == event_state.PENDING
            if self.work.graph.parents[stage]:
                waiting &= queued
            dropped, unserved, refused = (
                np.flatnonzero(which).astype(np.int32) for which in (gone & queued, waiting, gone & ~queued)
            )
            out[stage] = Departures(
                done_s[ordered], ordered, self._state.start_s[low:high][served], dropped, unserved,
                int(self._state.batches[at]), float(self._state.busy_s[at]), refused,
            )  # fmt: skip
        return out

    def arrived_s(self, stage: str) -> Floats:
        """Return when each item reached a stage's queue, in the order in which they did."""
        at = self.stages.index(stage)
        low = int(self._net.wiring.base[at])
        return np.asarray(self._state.arrived_s[self._state.queue[low : low + int(self._state.queue_tail[at])]])

    @property
    def refused(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which requests met a full queue."""
        return self._state.refused.astype(bool)

    def held_s(self, stage: str, from_s: float, until_s: float) -> float:
        """Replica-seconds held at a stage between two times; a retired replica is held until its last batch ends."""
        at = self.stages.index(stage)
        held = 0.0
        for r in range(self._used):
            if self._state.replica_stage[r] == at:
                end = max(self._state.replica_until_s[r], self._state.replica_busy_until_s[r])
                held += max(0.0, min(end, until_s) - max(self._replica_from_s[r], from_s))
        return held

    def _build_net(self, setups: Mapping[str, StageSetup], admission: Admission) -> event_state.Net:
        tables, offset, columns = [], 0, {}
        for name in self.stages:
            if not setups[name].groups:
                raise PlanError(f"stage {name!r}: has no group of replicas; give it one, of 0 replicas if need be")
            self._tables[name] = []
            for group in setups[name].groups:
                self._tables[name].append(offset)
                tables.append(np.ascontiguousarray(group.service_s).ravel())
                offset += tables[-1].size
            columns[name] = setups[name].groups[0].service_s.shape
            if any(group.service_s.shape != columns[name] for group in setups[name].groups):
                raise PlanError(f"stage {name!r}: unequal replicas need the same batch sizes and number of quantiles")
        longs = np.int64
        return event_state.Net(
            arrival_s=self.work.entry_s,
            wiring=self._flat.wiring,
            service_s=np.concatenate(tables),
            bits=np.array([bits_for(columns[name][1]) for name in self.stages], longs),
            max_batch=np.array([columns[name][0] - 1 for name in self.stages], longs),
            max_wait_s=np.array([setups[name].max_wait_s for name in self.stages]),
            queue_limit=np.array([setups[name].queue_limit for name in self.stages], longs),
            promise_s=admission.promise_s,
            terms=_as_arrays(admission.terms),
        )

    def _build_state(self, setups: Mapping[str, StageSetup], pools: Mapping[str, int], spare: int) -> event_state.State:
        total = int(self._net.wiring.base[-1])
        stages = len(self.stages)
        most = sum(group.replicas for setup in setups.values() for group in setup.groups) + spare
        self._replica_from_s = np.full(most, np.inf)
        longs = np.int64
        return event_state.State(
            clock_s=np.full(1, -np.inf),
            counters=np.zeros(4, longs),
            queue=np.empty(total, np.int32),
            queue_head=np.zeros(stages, longs),
            queue_tail=np.zeros(stages, longs),
            arrived_s=np.empty(total),
            start_s=np.full(total, np.inf),
            done_s=np.full(total, event_state.PENDING),
            pending=self._flat.pending.copy(),
            ready=np.empty(self._flat.waiting_joins, longs),
            timer_s=np.full(stages, np.inf),
            batches=np.zeros(stages, longs),
            busy_s=np.zeros(stages),
            running=np.zeros(stages, longs),
            busy=np.zeros(stages, longs),
            began_s=np.zeros(stages),
            idle=np.empty((stages, most), longs),
            idle_count=np.zeros(stages, longs),
            replica_table=np.zeros(most, longs),
            replica_rank=np.zeros(most, longs),
            replica_until_s=np.full(most, np.inf),
            replica_lo=np.zeros(most, longs),
            replica_hi=np.zeros(most, longs),
            replica_began_s=np.zeros(most),
            replica_busy_until_s=np.full(most, -np.inf),
            replica_pool=np.full(most, -1, longs),
            replica_threads=np.ones(most, longs),
            replica_stage=np.full(most, -1, longs),
            free_cores=np.array(list(pools.values()), longs),
            heap_s=np.empty(2 * most + 2),
            heap_key=np.empty(2 * most + 2, longs),
            heap_replica=np.empty(2 * most + 2, longs),
            refused=np.zeros(self.work.requests, np.int32),
            dropped=np.zeros(self.work.requests, np.int32),
        )

    def _check_future(self, stage: str, time_s: float) -> None:
        if time_s < self._now_s:
            raise PlanError(
                f"stage {stage!r}: replicas cannot change at {time_s} s, the simulation stands at {self._now_s} s"
            )

    def _schedule(self, replicas: Sequence[int]) -> None:
        """Put the start of replicas into the heap; what is sorted by time and key is a heap already."""
        state = self._state
        size = int(state.counters[event_state.HEAP])
        state.counters[event_state.HEAP] = more = size + len(replicas)
        state.heap_s[size:more] = self._replica_from_s[list(replicas)]
        state.heap_key[size:more] = state.heap_replica[size:more] = replicas
        order = np.lexsort((state.heap_key[:more], state.heap_s[:more]))
        for column in (state.heap_s, state.heap_key, state.heap_replica):
            column[:more] = column[:more][order]

    def _add(self, stage: str, index: int, from_s: float, until_s: float) -> int:
        state, replica = self._state, self._used
        if replica >= state.replica_table.size:
            raise PlanError(f"stage {stage!r}: no room for another replica; give the simulation more spare_replicas")
        self._used += 1
        group = self._setups[stage].groups[index]
        means = [float(each.service_s[1:].mean()) for each in self._setups[stage].groups]
        state.replica_until_s[replica] = until_s
        state.replica_pool[replica] = self._pools.index(group.pool) if group.pool is not None else -1
        state.replica_threads[replica] = group.threads
        state.replica_stage[replica] = self.stages.index(stage)
        state.replica_rank[replica] = sorted(means).index(means[index])
        state.replica_table[replica] = self._tables[stage][index]
        self._replica_from_s[replica] = from_s
        return replica


def _as_arrays(terms: Terms) -> Terms:
    """Return terms as the compiled policy takes them: arrays, of whole numbers where they count."""
    whole = ("first", "size", "pool", "threads", "cores")
    columns: dict[str, Any] = {
        name: np.array(values, np.int64 if name in whole else np.float64) for name, values in terms._asdict().items()
    }
    return Terms(**columns)
