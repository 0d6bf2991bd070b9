"""The feed-forward recursion: one stage of equal replicas for a whole stream of arrivals, without an event heap.

A stage's completions depend only on its own arrivals, so a graph of stages is simulated stage by stage. The replica
that is free first holds the batch that finishes next; emitting that batch when the replica is taken again makes the
departures come out in order, so that the next stage needs no sort. Equal to the event kernel to the last bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headway.policy import admission
from headway.sim.draws import draw
from headway.sim.jit import kernel

expired = kernel(admission.expired)

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Longs = NDArray[np.int64]

COUNTS = 4
"""Entries of a stage kernel's `counts`: items departed, items dropped, batches, arrivals that a replica took up."""


SCAN = 32
"""Up to so many replicas the one that is free first is found by looking at all of them, beyond by a heap."""


@kernel
def soonest(free_s: Floats, last: Longs) -> int:
    """Return the replica that is free first; of equals the one whose batch began first.

    Two passes without branches, and a third one for the rare ties, are quicker than one with all conditions.
    """
    best = 0
    free = free_s[0]
    for q in range(1, free_s.size):
        other = free_s[q]
        best = q if other < free else best
        free = other if other < free else free
    same = 0
    for q in range(free_s.size):
        same += free_s[q] == free
    if same > 1:
        for q in range(free_s.size):
            if free_s[q] == free and last[q] < last[best]:
                best = q
    return best


@kernel
def sift(heap: Ints, free_s: Floats, last: Longs) -> None:
    """Restore the order of a heap of replicas (free first, then earlier batch) whose first one is free later now."""
    replica = heap[0]
    free = free_s[replica]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= heap.size:
            break
        if below + 1 < heap.size:
            a = heap[below]
            b = heap[below + 1]
            below += (free_s[b] < free_s[a]) | ((free_s[b] == free_s[a]) & (last[b] < last[a]))
        a = heap[below]
        if free_s[a] > free or (free_s[a] == free and last[a] >= last[replica]):
            break
        heap[at] = a
        at = below
    heap[at] = replica


@kernel
def serve_stage(
    arrival_s: Floats,
    item: Ints,
    deadline_s: Floats,
    service_s: Floats,
    key: int,
    bits: int,
    max_wait_s: float,
    from_s: Floats,
    until_s: Floats,
    free_s: Floats,
    last: Longs,
    lo: Ints,
    hi: Ints,
    heap: Ints,
    start_s: Floats,
    done_s: Floats,
    done_item: Ints,
    dropped: Ints,
    counts: Longs,
) -> float:
    """Serve sorted arrivals on `from_s.size` equal replicas and return the replicas' busy seconds.

    `service_s[b, q]` is the latency of a batch of b at quantile q, of which there are `2**bits`; batch k draws its
    quantile from stream `key`. Replica r takes batches from `from_s[r]` on and before `until_s[r]`; `from_s` is sorted.
    `free_s, last, lo, hi, heap` are scratch, one entry per replica. Out: `start_s` per arrival (or empty),
    `done_s`/`done_item` in order of departure, `dropped`, and `counts`.
    """
    n = arrival_s.size
    replicas = from_s.size
    max_batch = service_s.shape[0] - 1
    scan = replicas <= SCAN
    record = start_s.size > 0
    deadlines = deadline_s.size > 0
    for r in range(replicas):
        free_s[r] = from_s[r]
        last[r] = r - replicas
        lo[r] = 0
        hi[r] = 0
        heap[r] = r
    busy = 0.0
    i = 0
    out = 0
    lost = 0
    batch = 0
    while i < n and replicas > 0:
        r = soonest(free_s, last) if scan else heap[0]
        free = free_s[r]
        if free == np.inf:
            break
        for j in range(lo[r], hi[r]):
            if not deadlines or item[j] >= 0:
                done_s[out] = free
                done_item[out] = item[j]
                out += 1
        lo[r] = hi[r]
        start = arrival_s[i]
        if max_wait_s > 0.0:
            start = arrival_s[i] + max_wait_s
            full = i + max_batch - 1
            if full < n and arrival_s[full] < start:
                start = arrival_s[full]
        if free > start:
            start = free
        if start >= until_s[r]:
            free_s[r] = np.inf
            if not scan:
                sift(heap, free_s, last)
            continue
        if deadlines:
            end = i
            size = 0
            while end < n and size < max_batch and arrival_s[end] <= start:
                if expired(deadline_s[end], start):
                    dropped[lost] = item[end]
                    lost += 1
                    item[end] = -1
                else:
                    size += 1
                end += 1
        else:
            stop = min(i + max_batch, n)
            end = i + 1
            while end < stop and arrival_s[end] <= start:
                end += 1
            size = end - i
        if record:
            for j in range(i, end):
                start_s[j] = start
        if size > 0:
            service = service_s[size, draw(key, batch, bits)]
            busy += service
            free_s[r] = start + service
            last[r] = batch
            lo[r] = i
            hi[r] = end
            batch += 1
            if not scan:
                sift(heap, free_s, last)
        i = end
    for _ in range(replicas):
        r = soonest(free_s, last) if scan else heap[0]
        for j in range(lo[r], hi[r]):
            if not deadlines or item[j] >= 0:
                done_s[out] = free_s[r]
                done_item[out] = item[j]
                out += 1
        lo[r] = hi[r]
        free_s[r] = np.inf
        if not scan:
            sift(heap, free_s, last)
    counts[0] = out
    counts[1] = lost
    counts[2] = batch
    counts[3] = i
    return busy


@kernel
def expand(done_s: Floats, done_item: Ints, n: int, first_child: Ints, arrival_s: Floats, item: Ints) -> int:
    """Turn departures into a child stage's arrivals: item i becomes items `first_child[i]` to `first_child[i + 1]`."""
    out = 0
    for j in range(n):
        parent = done_item[j]
        for child in range(first_child[parent], first_child[parent + 1]):
            arrival_s[out] = done_s[j]
            item[out] = child
            out += 1
    return out


@kernel
def latest(done_s: Floats, done_item: Ints, n: int, target: Ints, time_s: Floats) -> None:
    """Raise `time_s[target[item]]` to each departure's time; a target below 0 takes no part."""
    for j in range(n):
        to = target[done_item[j]]
        if to >= 0 and done_s[j] > time_s[to]:
            time_s[to] = done_s[j]


@kernel
def scatter(done_s: Floats, item: Ints, time_s: Floats) -> None:
    """Set `time_s[item]` to each departure's time."""
    for j in range(done_s.size):
        time_s[item[j]] = done_s[j]


@kernel
def mark(items: Ints, target: Ints, time_s: Floats) -> None:
    """Set `time_s[target[item]]` to infinity for items that never finish."""
    for j in range(items.size):
        if target[items[j]] >= 0:
            time_s[target[items[j]]] = np.inf
