"""What can be seen of a stage while the event kernel stands still."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headway.sim.event_state import State


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

    @classmethod
    def of(cls, state: State, at: int, base: int, replicas: int, now_s: float) -> StageProgress:
        """Return the totals of stage number `at` at `now_s`, the time that the kernel has been advanced to.

        The stage's items stand in the queue from place `base` on; `replicas` is how many there are in all stages.
        """
        head, tail = int(state.queue_head[at]), int(state.queue_tail[at])
        runs = (state.replica_stage[:replicas] == at) & (state.replica_busy_until_s[:replicas] > now_s)
        running = np.flatnonzero(runs)
        began_s = state.start_s[state.queue[base + state.replica_lo[running]]]
        in_service = int((state.replica_hi[running] - state.replica_lo[running]).sum())
        finished_s = float(state.busy_s[at] - (state.replica_busy_until_s[running] - began_s).sum())
        return cls(
            arrived=tail,
            queued=tail - head,
            in_service=in_service,
            batches=int(state.batches[at]) - running.size,
            items=head - in_service,
            finished_s=max(0.0, finished_s),
            busy_s=finished_s + float((now_s - began_s).sum()),
        )
