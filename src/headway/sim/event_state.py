"""The arrays that the event kernel works on: what is fixed (`Net`) and what changes (`State`)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headway.policy import admission
from headway.sim.station import Floats, Ints

Longs = NDArray[np.int64]

NEXT_REQUEST, HEAP, READY, EVENTS = range(4)
"""Entries of `State.counters`."""
PENDING = -1.0
"""`State.done_s` of an item that has not left its stage."""


class Wiring(NamedTuple):
    """A workload, whatever is configured: items of all stages numbered in one row (`base[s]` first of stage s), edges.

    `edge_*` and `join_*` are offsets by stage; `key` is the stream of a stage's draws.
    """

    deadline_s: Floats
    request: Ints
    base: Longs
    is_source: NDArray[np.bool_]
    edge_ptr: Longs
    edge_child: Longs
    edge_off: Longs
    child_first: Ints
    join_ptr: Longs
    join_stage: Longs
    join_off: Longs
    join_target: Ints
    key: Longs


class Net(NamedTuple):
    """What does not change: requests, the items' ways, and what each stage is configured to.

    Requests that `terms` say would not be answered within `promise_s` are refused; 0: none is.
    """

    arrival_s: Floats
    wiring: Wiring
    service_s: Floats
    bits: Longs
    max_batch: Longs
    max_wait_s: Floats
    queue_limit: Longs
    promise_s: float
    terms: admission.Terms


class State(NamedTuple):
    """What changes. `replica_*` have one entry per replica that can ever exist; `heap_*` one per replica."""

    clock_s: Floats
    counters: Longs
    queue: Ints
    queue_head: Longs
    queue_tail: Longs
    arrived_s: Floats
    start_s: Floats
    done_s: Floats
    pending: Ints
    ready: Longs
    timer_s: Floats
    batches: Longs
    busy_s: Floats
    running: Longs
    busy: Longs
    began_s: Floats
    idle: Longs
    idle_count: Longs
    replica_table: Longs
    replica_rank: Longs
    replica_until_s: Floats
    replica_lo: Longs
    replica_hi: Longs
    replica_began_s: Floats
    replica_busy_until_s: Floats
    replica_pool: Longs
    replica_threads: Longs
    replica_stage: Longs
    free_cores: Longs
    heap_s: Floats
    heap_key: Longs
    heap_replica: Longs
    refused: Ints
    dropped: Ints
