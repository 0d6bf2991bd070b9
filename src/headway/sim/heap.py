"""A heap of timed events in three arrays, ordered by time and, at one time, by a number that no two events share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headway.sim.jit import borrowing
from headway.sim.station import Floats

Longs = NDArray[np.int64]


@borrowing
def push(heap_s: Floats, heap_seq: Longs, heap_slot: Longs, size: int, time_s: float, seq: int, slot: int) -> int:
    """Put an event into a heap of `size` events; return how many it has then.

    >>> heap = np.empty(2), np.empty(2, np.int64), np.empty(2, np.int64)
    >>> push(*heap, push(*heap, 0, 3.0, 0, 7), 2.0, 1, 8)
    2
    >>> int(heap[2][0])
    8
    """
    at = size
    while at > 0:
        above = (at - 1) >> 1
        if heap_s[above] < time_s or (heap_s[above] == time_s and heap_seq[above] <= seq):
            break
        heap_s[at] = heap_s[above]
        heap_seq[at] = heap_seq[above]
        heap_slot[at] = heap_slot[above]
        at = above
    heap_s[at] = time_s
    heap_seq[at] = seq
    heap_slot[at] = slot
    return size + 1


@borrowing
def pop(heap_s: Floats, heap_seq: Longs, heap_slot: Longs, size: int) -> int:
    """Remove the first event of a heap of `size` events; return how many are left."""
    size -= 1
    time_s = heap_s[size]
    seq = heap_seq[size]
    slot = heap_slot[size]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        other = below + 1
        if other < size and (
            heap_s[other] < heap_s[below] or (heap_s[other] == heap_s[below] and heap_seq[other] < heap_seq[below])
        ):
            below = other
        if heap_s[below] > time_s or (heap_s[below] == time_s and heap_seq[below] >= seq):
            break
        heap_s[at] = heap_s[below]
        heap_seq[at] = heap_seq[below]
        heap_slot[at] = heap_slot[below]
        at = below
    heap_s[at] = time_s
    heap_seq[at] = seq
    heap_slot[at] = slot
    return size
