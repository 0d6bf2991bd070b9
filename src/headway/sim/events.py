"""The event kernel: all stages on one clock, decided by the policies as they are.

It covers what the feed-forward recursion cannot: unequal replicas, cores shared by stages, bounded queues, replicas
that come and go while it runs. It can be advanced to any time and asked again, so that feedback can be simulated.

At one instant all completions are delivered first (by stage, then by batch), then new requests, then joins; only then
are batches started, downstream stages first. So the result does not depend on how simultaneous events were scheduled.
"""

from __future__ import annotations

import numpy as np

from headway.policy import admission, batching, sharing
from headway.sim.draws import draw
from headway.sim.event_state import EVENTS, HEAP, NEXT_REQUEST, READY, Net, State
from headway.sim.heap import pop, push
from headway.sim.jit import kernel
from headway.sim.station import Floats, Ints

take = kernel(batching.take)
full = kernel(admission.full)
in_time = kernel(admission.in_time)
expired = kernel(admission.expired)
stage_at = kernel(sharing.stage_at)
fits = kernel(sharing.fits)

Load = admission.Load

_STAGE_SHIFT = 40
_COMPLETION = 1 << 56


@kernel
def advance(net: Net, state: State, until_s: float) -> float:
    """Process every event up to and at `until_s`; return the time of the next one (infinite when all is done).

    The functions inside share the arrays as names of this one: as arguments, each call would count references to all.
    """
    arrival_s, wiring, service_s, bits, max_batch, max_wait_s, queue_limit, promise_s, terms = net
    (
        deadline_s,
        request_of,
        first_item,
        is_source,
        edge_ptr,
        edge_child,
        edge_off,
        child_first,
        join_ptr,
        join_stage,
        join_off,
        join_target,
        draw_key,
    ) = wiring
    (
        clock_s,
        counters,
        queues,
        queue_head,
        queue_tail,
        arrived_s,
        start_s,
        done_s,
        pending,
        ready,
        timer_s,
        batch_count,
        busy_s,
        running,
        busy,
        began_s,
        idle,
        idle_count,
        replica_table,
        replica_rank,
        replica_until_s,
        replica_lo,
        replica_hi,
        replica_began_s,
        replica_busy_until_s,
        replica_pool,
        replica_threads,
        replica_stage,
        free_cores,
        heap_s,
        heap_key,
        heap_replica,
        refused_requests,
        dropped_requests,
    ) = state

    def enqueue(stage: int, item: int, now_s: float) -> None:
        """Put an item (numbered over all stages) into a stage's queue, or refuse it when the queue is full."""
        if full(queue_tail[stage] - queue_head[stage], queue_limit[stage]):
            done_s[item] = np.inf
            refused_requests[request_of[item]] = 1
            return
        arrived_s[item] = now_s
        queues[first_item[stage] + queue_tail[stage]] = item
        queue_tail[stage] += 1

    def complete(stage: int, replica: int, now_s: float) -> None:
        """Deliver a finished batch: its items to the stages after this one, the replica to the idle ones."""
        base = first_item[stage]
        for at in range(base + replica_lo[replica], base + replica_hi[replica]):
            item = queues[at]
            if done_s[item] == np.inf:
                continue
            running[stage] -= 1
            done_s[item] = now_s
            local = item - base
            for edge in range(edge_ptr[stage], edge_ptr[stage + 1]):
                child = edge_child[edge]
                first = edge_off[edge] + local
                for made in range(child_first[first], child_first[first + 1]):
                    enqueue(child, first_item[child] + made, now_s)
            for join in range(join_ptr[stage], join_ptr[stage + 1]):
                target = join_target[join_off[join] + local]
                if target >= 0:
                    waiting = first_item[join_stage[join]] + target
                    pending[waiting] -= 1
                    if pending[waiting] == 0:
                        ready[counters[READY]] = waiting
                        counters[READY] += 1
        busy[stage] -= 1
        began_s[stage] -= replica_began_s[replica]
        idle[stage, idle_count[stage]] = replica
        idle_count[stage] += 1
        if replica_pool[replica] >= 0:
            free_cores[replica_pool[replica]] += replica_threads[replica]

    def pick(stage: int, now_s: float) -> int:
        """Return the place in the idle list of the replica to use: best rank, then longest idle; -1 for none.

        Replicas whose time is over leave the list; those that their pool has no cores for are passed over.
        """
        kept = 0
        best = -1
        for at in range(idle_count[stage]):
            replica = idle[stage, at]
            if now_s >= replica_until_s[replica]:
                continue
            idle[stage, kept] = replica
            pool = replica_pool[replica]
            if (pool < 0 or fits(free_cores[pool], replica_threads[replica])) and (
                best < 0 or replica_rank[replica] < replica_rank[idle[stage, best]]
            ):
                best = kept
            kept += 1
        idle_count[stage] = kept
        return best

    def start(stage: int, now_s: float) -> None:
        """Start batches at a stage for as long as the policies allow it."""
        base = first_item[stage]
        while idle_count[stage] > 0 and queue_tail[stage] > queue_head[stage]:
            place = pick(stage, now_s)
            if place < 0:
                return
            replica = idle[stage, place]
            pool = replica_pool[replica]
            head = queue_head[stage]
            queued = queue_tail[stage] - head
            oldest_s = arrived_s[queues[base + head]]
            size, wake_s = take(queued, oldest_s, now_s, max_batch[stage], max_wait_s[stage])
            if size == 0:
                timer_s[stage] = wake_s
                return
            taken = 0
            at = head
            while at < queue_tail[stage] and taken < max_batch[stage]:
                item = queues[base + at]
                start_s[item] = now_s
                if deadline_s.size > 0 and expired(deadline_s[request_of[item]], now_s):
                    done_s[item] = np.inf
                    dropped_requests[request_of[item]] = 1
                else:
                    taken += 1
                at += 1
            queue_head[stage] = at
            if taken == 0:
                continue
            quantile = draw(draw_key[stage], int(batch_count[stage]), bits[stage])
            took_s = service_s[replica_table[replica] + (taken << bits[stage]) + quantile]
            for later in range(place, idle_count[stage] - 1):
                idle[stage, later] = idle[stage, later + 1]
            idle_count[stage] -= 1
            if pool >= 0:
                free_cores[pool] -= replica_threads[replica]
            replica_lo[replica] = head
            replica_hi[replica] = at
            replica_began_s[replica] = now_s
            replica_busy_until_s[replica] = now_s + took_s
            running[stage] += taken
            busy[stage] += 1
            began_s[stage] += now_s
            busy_s[stage] += took_s
            counters[HEAP] = push(
                heap_s, heap_key, heap_replica, counters[HEAP], now_s + took_s,
                _COMPLETION + (stage << _STAGE_SHIFT) + batch_count[stage], replica,
            )  # fmt: skip
            batch_count[stage] += 1

    def deliver_ready(now_s: float) -> None:
        """Put the joins that became ready at this instant into their queues, in the order of their items."""
        count = counters[READY]
        for at in range(1, count):
            item = ready[at]
            before = at
            while before > 0 and ready[before - 1] > item:
                ready[before] = ready[before - 1]
                before -= 1
            ready[before] = item
        stage = 0
        for at in range(count):
            item = ready[at]
            while item >= first_item[stage + 1]:
                stage += 1
            enqueue(stage, item, now_s)
        counters[READY] = 0

    def let_in(now_s: float) -> bool:
        """Ask the admission policy about a request that comes now."""
        if promise_s <= 0.0:
            return True
        working = busy.copy()
        for stage in range(working.size):
            for at in range(idle_count[stage]):
                working[stage] += now_s < replica_until_s[idle[stage, at]]
        load = Load(queue_tail - queue_head, running, busy, began_s, working, np.ones(working.size))
        return in_time(terms, load, now_s, promise_s)

    stages = first_item.size - 1
    requests = arrival_s.size
    while True:
        now_s = np.inf
        if counters[HEAP] > 0:
            now_s = heap_s[0]
        following = counters[NEXT_REQUEST]
        if following < requests and arrival_s[following] < now_s:
            now_s = arrival_s[following]
        for stage in range(stages):
            if timer_s[stage] < now_s:
                now_s = timer_s[stage]
        if now_s > until_s or now_s == np.inf:
            return now_s
        clock_s[0] = now_s
        while counters[HEAP] > 0 and heap_s[0] == now_s:
            replica = heap_replica[0]
            finished = heap_key[0] >= _COMPLETION
            counters[HEAP] = pop(heap_s, heap_key, heap_replica, counters[HEAP])
            stage = replica_stage[replica]
            if finished:
                complete(stage, replica, now_s)
            else:
                idle[stage, idle_count[stage]] = replica
                idle_count[stage] += 1
            counters[EVENTS] += 1
        while counters[NEXT_REQUEST] < requests and arrival_s[counters[NEXT_REQUEST]] == now_s:
            request = counters[NEXT_REQUEST]
            counters[NEXT_REQUEST] += 1
            welcome = let_in(now_s)
            for stage in range(stages):
                if is_source[stage] and welcome:
                    enqueue(stage, first_item[stage] + request, now_s)
                elif is_source[stage]:
                    done_s[first_item[stage] + request] = np.inf
                    refused_requests[request] = 1
            counters[EVENTS] += 1
        if counters[READY] > 0:
            deliver_ready(now_s)
        for stage in range(stages):
            if timer_s[stage] <= now_s:
                timer_s[stage] = np.inf
        for rank in range(stages):
            start(stage_at(rank, stages), now_s)


@kernel
def latest_end(ends: Ints, finished_s: Floats, done_s: Floats) -> None:
    """Raise each request's `done_s` to its last items' `finished_s`; an item's `ends` is its request, or -1."""
    for item in range(ends.size):
        request = ends[item]
        if request >= 0 and finished_s[item] > done_s[request]:
            done_s[request] = finished_s[item]
