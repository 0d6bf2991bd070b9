"""What can be seen of a stage while the event kernel stands still, and what of its batching can be changed then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from headway.sim.eventsim import EventSimulation


@dataclass(frozen=True, slots=True)
class StageProgress:
    """Totals of a stage up to now: `arrived`, `queued` and `in_service` items, and finished batches.

    A batch counts as finished, with its items and its seconds, when it has left: how long one that runs will take is
    not for anybody to see. `busy_s` is the replicas' busy time so far, that of running batches up to now included.
    """

    arrived: int
    queued: int
    in_service: int
    batches: int
    items: int
    finished_s: float
    busy_s: float


def progress(simulation: EventSimulation, stage: str, now_s: float) -> StageProgress:
    """Return a stage's totals at `now_s`, the time advanced to.

    >>> from headway.sim.eventsim import ReplicaGroup, StageSetup, EventSimulation
    >>> from headway.sim.workload import Workload
    >>> from headway.spec.graph import Graph
    >>> from headway.trace import Trace
    >>> work = Workload.of(Graph.build({"only": {}}), Trace.from_arrivals(np.array([0.0, 0.1])), seed=1)
    >>> sim = EventSimulation(work, {"only": StageSetup([ReplicaGroup(np.array([[0.0], [1.0]]), 1)])}, {})
    >>> _ = sim.advance(1.5)
    >>> progress(sim, "only", 1.5)
    StageProgress(arrived=2, queued=0, in_service=1, batches=1, items=1, finished_s=1.0, busy_s=1.5)
    """
    net, state = simulation._net, simulation._state
    at = simulation.stages.index(stage)
    base, head, tail = int(net.wiring.base[at]), int(state.queue_head[at]), int(state.queue_tail[at])
    used = simulation._used
    running = np.flatnonzero((state.replica_stage[:used] == at) & (state.replica_busy_until_s[:used] > now_s))
    began_s = state.start_s[state.queue[base + state.replica_lo[running]]]
    in_service = int((state.replica_hi[running] - state.replica_lo[running]).sum())
    finished_s = float(state.busy_s[at] - (state.replica_busy_until_s[running] - began_s).sum())
    return StageProgress(
        arrived=tail,
        queued=tail - head,
        in_service=in_service,
        batches=int(state.batches[at]) - running.size,
        items=head - in_service,
        finished_s=max(0.0, finished_s),
        busy_s=finished_s + float((now_s - began_s).sum()),
    )


def busy_until_s(simulation: EventSimulation, replica: int) -> float:
    """Return when a replica's last batch ends; minus infinity before its first."""
    return float(simulation._state.replica_busy_until_s[replica])


def limit_batches(simulation: EventSimulation, stage: str, max_batch_size: int, max_wait_s: float) -> None:
    """Let a stage's batches from now on hold at most so many items, no more than its service times are known for."""
    at = simulation.stages.index(stage)
    simulation._net.max_batch[at] = max_batch_size
    simulation._net.max_wait_s[at] = max_wait_s
