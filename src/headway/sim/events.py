"""The event kernel: all stages on one clock, decided by the policies as they are.

It covers what the feed-forward recursion cannot: unequal replicas, cores shared by stages, bounded queues, replicas
that come and go while it runs. It can be advanced to any time and asked again, so that feedback can be simulated.

At one instant all completions are delivered first (by stage, then by batch), then new requests, then joins; only then
are batches started, downstream stages first. So the result does not depend on how simultaneous events were scheduled.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headway.policy import admission, batching, sharing
from headway.sim.draws import draw
from headway.sim.jit import kernel

take = kernel(batching.take)
full = kernel(admission.full)
expired = kernel(admission.expired)
stage_at = kernel(sharing.stage_at)
fits = kernel(sharing.fits)

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Longs = NDArray[np.int64]

NEXT_REQUEST, HEAP, READY, EVENTS = range(4)
"""Entries of `State.counters`."""
_STAGE_SHIFT = 40
_COMPLETION = 1 << 56
PENDING = -1.0


class Net(NamedTuple):
    """What does not change: items of all stages numbered in one row (`base[s]` first of stage s), edges, tables."""

    arrival_s: Floats
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
    service_s: Floats
    bits: Longs
    key: Longs
    max_batch: Longs
    max_wait_s: Floats
    queue_limit: Longs


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
    idle: Longs
    idle_count: Longs
    replica_table: Longs
    replica_rank: Longs
    replica_until_s: Floats
    replica_lo: Longs
    replica_hi: Longs
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


@kernel
def push(state: State, time_s: float, key: int, replica: int) -> None:
    """Put an event into the heap, ordered by time and then by key."""
    at = state.counters[HEAP]
    state.counters[HEAP] = at + 1
    while at > 0:
        above = (at - 1) >> 1
        if state.heap_s[above] < time_s or (state.heap_s[above] == time_s and state.heap_key[above] <= key):
            break
        state.heap_s[at] = state.heap_s[above]
        state.heap_key[at] = state.heap_key[above]
        state.heap_replica[at] = state.heap_replica[above]
        at = above
    state.heap_s[at] = time_s
    state.heap_key[at] = key
    state.heap_replica[at] = replica


@kernel
def pop(state: State) -> None:
    """Remove the first event of the heap."""
    size = state.counters[HEAP] - 1
    state.counters[HEAP] = size
    time_s = state.heap_s[size]
    key = state.heap_key[size]
    replica = state.heap_replica[size]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        other = below + 1
        if other < size and (
            state.heap_s[other] < state.heap_s[below]
            or (state.heap_s[other] == state.heap_s[below] and state.heap_key[other] < state.heap_key[below])
        ):
            below = other
        if state.heap_s[below] > time_s or (state.heap_s[below] == time_s and state.heap_key[below] >= key):
            break
        state.heap_s[at] = state.heap_s[below]
        state.heap_key[at] = state.heap_key[below]
        state.heap_replica[at] = state.heap_replica[below]
        at = below
    state.heap_s[at] = time_s
    state.heap_key[at] = key
    state.heap_replica[at] = replica


@kernel
def enqueue(net: Net, state: State, stage: int, item: int, now_s: float) -> None:
    """Put an item (numbered over all stages) into a stage's queue, or refuse it when the queue is full."""
    if full(state.queue_tail[stage] - state.queue_head[stage], net.queue_limit[stage]):
        state.done_s[item] = np.inf
        state.refused[net.request[item]] = 1
        return
    state.arrived_s[item] = now_s
    state.queue[net.base[stage] + state.queue_tail[stage]] = item
    state.queue_tail[stage] += 1


@kernel
def complete(net: Net, state: State, stage: int, replica: int, now_s: float) -> None:
    """Deliver a finished batch: its items to the stages after this one, the replica to the idle ones."""
    base = net.base[stage]
    for at in range(base + state.replica_lo[replica], base + state.replica_hi[replica]):
        item = state.queue[at]
        if state.done_s[item] == np.inf:
            continue
        state.done_s[item] = now_s
        local = item - base
        for edge in range(net.edge_ptr[stage], net.edge_ptr[stage + 1]):
            child = net.edge_child[edge]
            first = net.edge_off[edge] + local
            for made in range(net.child_first[first], net.child_first[first + 1]):
                enqueue(net, state, child, net.base[child] + made, now_s)
        for join in range(net.join_ptr[stage], net.join_ptr[stage + 1]):
            target = net.join_target[net.join_off[join] + local]
            if target >= 0:
                waiting = net.base[net.join_stage[join]] + target
                state.pending[waiting] -= 1
                if state.pending[waiting] == 0:
                    state.ready[state.counters[READY]] = waiting
                    state.counters[READY] += 1
    state.idle[stage, state.idle_count[stage]] = replica
    state.idle_count[stage] += 1
    if state.replica_pool[replica] >= 0:
        state.free_cores[state.replica_pool[replica]] += state.replica_threads[replica]


@kernel
def pick(state: State, stage: int, now_s: float) -> int:
    """Return the place in the idle list of the replica to use: best rank, then longest idle; -1 for none.

    Replicas whose time is over leave the list; those that their pool has no cores for are passed over.
    """
    kept = 0
    best = -1
    for at in range(state.idle_count[stage]):
        replica = state.idle[stage, at]
        if now_s >= state.replica_until_s[replica]:
            continue
        state.idle[stage, kept] = replica
        pool = state.replica_pool[replica]
        if (pool < 0 or fits(state.free_cores[pool], state.replica_threads[replica])) and (
            best < 0 or state.replica_rank[replica] < state.replica_rank[state.idle[stage, best]]
        ):
            best = kept
        kept += 1
    state.idle_count[stage] = kept
    return best


@kernel
def start(net: Net, state: State, stage: int, now_s: float) -> None:
    """Start batches at a stage for as long as the policies allow it."""
    base = net.base[stage]
    while state.idle_count[stage] > 0 and state.queue_tail[stage] > state.queue_head[stage]:
        place = pick(state, stage, now_s)
        if place < 0:
            return
        replica = state.idle[stage, place]
        pool = state.replica_pool[replica]
        head = state.queue_head[stage]
        queued = state.queue_tail[stage] - head
        oldest_s = state.arrived_s[state.queue[base + head]]
        size, wake_s = take(queued, oldest_s, now_s, net.max_batch[stage], net.max_wait_s[stage])
        if size == 0:
            state.timer_s[stage] = wake_s
            return
        taken = 0
        at = head
        while at < state.queue_tail[stage] and taken < net.max_batch[stage]:
            item = state.queue[base + at]
            state.start_s[item] = now_s
            if net.deadline_s.size > 0 and expired(net.deadline_s[net.request[item]], now_s):
                state.done_s[item] = np.inf
                state.dropped[net.request[item]] = 1
            else:
                taken += 1
            at += 1
        state.queue_head[stage] = at
        if taken == 0:
            continue
        quantile = draw(net.key[stage], int(state.batches[stage]), net.bits[stage])
        service_s = net.service_s[state.replica_table[replica] + (taken << net.bits[stage]) + quantile]
        for later in range(place, state.idle_count[stage] - 1):
            state.idle[stage, later] = state.idle[stage, later + 1]
        state.idle_count[stage] -= 1
        if pool >= 0:
            state.free_cores[pool] -= state.replica_threads[replica]
        state.replica_lo[replica] = head
        state.replica_hi[replica] = at
        state.replica_busy_until_s[replica] = now_s + service_s
        state.busy_s[stage] += service_s
        push(state, now_s + service_s, _COMPLETION + (stage << _STAGE_SHIFT) + state.batches[stage], replica)
        state.batches[stage] += 1


@kernel
def deliver_ready(net: Net, state: State, now_s: float) -> None:
    """Put the joins that became ready at this instant into their queues, in the order of their items."""
    count = state.counters[READY]
    for at in range(1, count):
        item = state.ready[at]
        before = at
        while before > 0 and state.ready[before - 1] > item:
            state.ready[before] = state.ready[before - 1]
            before -= 1
        state.ready[before] = item
    stage = 0
    for at in range(count):
        item = state.ready[at]
        while item >= net.base[stage + 1]:
            stage += 1
        enqueue(net, state, stage, item, now_s)
    state.counters[READY] = 0


@kernel
def advance(net: Net, state: State, until_s: float) -> float:
    """Process every event up to and at `until_s`; return the time of the next one (infinite when all is done)."""
    stages = net.base.size - 1
    requests = net.arrival_s.size
    while True:
        now_s = np.inf
        if state.counters[HEAP] > 0:
            now_s = state.heap_s[0]
        following = state.counters[NEXT_REQUEST]
        if following < requests and net.arrival_s[following] < now_s:
            now_s = net.arrival_s[following]
        for stage in range(stages):
            if state.timer_s[stage] < now_s:
                now_s = state.timer_s[stage]
        if now_s > until_s or now_s == np.inf:
            return now_s
        state.clock_s[0] = now_s
        while state.counters[HEAP] > 0 and state.heap_s[0] == now_s:
            replica = state.heap_replica[0]
            finished = state.heap_key[0] >= _COMPLETION
            pop(state)
            stage = state.replica_stage[replica]
            if finished:
                complete(net, state, stage, replica, now_s)
            else:
                state.idle[stage, state.idle_count[stage]] = replica
                state.idle_count[stage] += 1
            state.counters[EVENTS] += 1
        while state.counters[NEXT_REQUEST] < requests and net.arrival_s[state.counters[NEXT_REQUEST]] == now_s:
            request = state.counters[NEXT_REQUEST]
            state.counters[NEXT_REQUEST] += 1
            for stage in range(stages):
                if net.is_source[stage]:
                    enqueue(net, state, stage, net.base[stage] + request, now_s)
            state.counters[EVENTS] += 1
        if state.counters[READY] > 0:
            deliver_ready(net, state, now_s)
        for stage in range(stages):
            if state.timer_s[stage] <= now_s:
                state.timer_s[stage] = np.inf
        for rank in range(stages):
            start(net, state, stage_at(rank, stages), now_s)
