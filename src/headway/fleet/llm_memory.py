"""The books of an LLM engine that its kernel keeps: KV memory with a prefix cache, who decodes until when, who waits.

Each function is compiled on its own and takes only the columns that it changes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headway.sim.jit import borrowing
from headway.sim.station import Ints

Longs = NDArray[np.int64]

KEY_BITS = 32
KEY_MASK = (1 << KEY_BITS) - 1
"""A request that decodes stands in a heap as one number: the iteration at which it ends, then its own number."""


class Cache(NamedTuple):
    """KV memory by engine, in blocks, and by engine and block of a prompt what is cached.

    `free`: held by nobody and not cached; `evictable`: cached and used by nobody. `ref`: how many requests use a cached
    block, -1 for what is not cached. Those that nobody uses form a list, from the `oldest` to the `newest`.
    """

    free: Longs
    evictable: Longs
    ref: Ints
    following: Ints
    preceding: Ints
    oldest: Ints
    newest: Ints

    @classmethod
    def of(cls, capacity: Longs, blocks: int) -> Cache:
        """Return empty memories for prompts of so many different blocks."""
        size = capacity.size
        tables = [np.full((size, blocks), -1, np.int32) for _ in range(3)]
        ends = [np.full(size, -1, np.int32) for _ in range(2)]
        return cls(capacity.copy(), np.zeros(size, np.int64), *tables, *ends)


class Lines(NamedTuple):
    """Who waits, by engine: `back` begins the list of those that ran before, `head` to `tail` is that of all others."""

    following: Ints
    preceding: Ints
    head: Ints
    tail: Ints
    back: Ints

    @classmethod
    def of(cls, engines: int, requests: int) -> Lines:
        """Return empty lists."""
        return cls(*(np.full(size, -1, np.int32) for size in (requests, requests, engines, engines, engines)))


@borrowing
def blocks_of(tokens: int, block_tokens: int) -> int:
    """Return how many blocks so many tokens take.

    >>> blocks_of(17, 16)
    2
    """
    return (tokens + block_tokens - 1) // block_tokens


@borrowing
def most_blocks(prompt: int, limit: int, block_tokens: int, answers: bool) -> int:
    """Return how many blocks a request may ever hold on an engine; one that only computes prompts makes no answers.

    >>> most_blocks(16, 16, 16, True), most_blocks(16, 16, 16, False)
    (2, 1)
    """
    return int(blocks_of(prompt + limit if answers else prompt, block_tokens))


@borrowing
def unlist(cache: Cache, e: int, b: int, hash_blocks: int) -> None:
    """Take a block out of the list of those that nobody uses."""
    before = cache.preceding[e, b]
    after = cache.following[e, b]
    if before >= 0:
        cache.following[e, before] = after
    else:
        cache.oldest[e] = after
    if after >= 0:
        cache.preceding[e, after] = before
    else:
        cache.newest[e] = before
    cache.evictable[e] -= hash_blocks


@borrowing
def evict(cache: Cache, e: int, count: int, hash_blocks: int) -> None:
    """Evict what nobody has used for longest until so many blocks are free."""
    while cache.free[e] < count:
        b = cache.oldest[e]
        unlist(cache, e, b, hash_blocks)
        cache.ref[e, b] = -1
        cache.free[e] += hash_blocks


@borrowing
def matched(cache: Cache, e: int, blocks: Ints, begin: int, most: int, only_used: bool) -> int:
    """Return how many of a prompt's first blocks are cached, or how many of these are in use."""
    count = 0
    used = 0
    while count < most and cache.ref[e, blocks[begin + count]] >= 0:
        used += cache.ref[e, blocks[begin + count]] > 0
        count += 1
    return used if only_used else count


@borrowing
def used_by_others(cache: Cache, e: int, blocks: Ints, begin: int, count: int) -> int:
    """Return how many of a prompt's first blocks, which one request uses, others use too."""
    used = 0
    while used < count and cache.ref[e, blocks[begin + used]] > 1:
        used += 1
    return used


@borrowing
def reuse(cache: Cache, e: int, blocks: Ints, begin: int, count: int, hash_blocks: int) -> None:
    """Let one more request use a prompt's first blocks, which are cached."""
    for at in range(begin, begin + count):
        b = blocks[at]
        if cache.ref[e, b] == 0:
            unlist(cache, e, b, hash_blocks)
        cache.ref[e, b] += 1


@borrowing
def publish(cache: Cache, e: int, blocks: Ints, begin: int, end: int, hash_blocks: int) -> None:
    """Share blocks that a request has computed; what another has computed meanwhile is not kept twice."""
    for at in range(begin, end):
        b = blocks[at]
        if cache.ref[e, b] < 0:
            cache.ref[e, b] = 1
        else:
            if cache.ref[e, b] == 0:
                unlist(cache, e, b, hash_blocks)
            cache.ref[e, b] += 1
            cache.free[e] += hash_blocks


@borrowing
def unshare(cache: Cache, e: int, blocks: Ints, begin: int, count: int, hash_blocks: int) -> None:
    """Let a request that leaves use a prompt's first blocks no more; they stay cached.

    The end of the prompt is evicted first, so that what is cached of a prompt is always its begin.
    """
    for at in range(begin + count - 1, begin - 1, -1):
        b = blocks[at]
        cache.ref[e, b] -= 1
        if cache.ref[e, b] == 0:
            last = cache.newest[e]
            cache.preceding[e, b] = last
            cache.following[e, b] = -1
            if last >= 0:
                cache.following[e, last] = b
            else:
                cache.oldest[e] = b
            cache.newest[e] = b
            cache.evictable[e] += hash_blocks


@borrowing
def growth(residue: Longs, e: int, decoding: int, begin: int, count: int) -> int:
    """Return the blocks that decoding takes in `count` iterations from number `begin` on.

    `residue[e, i]`: how many requests begin a new block in the iterations whose number is i modulo the block's tokens.
    """
    block_tokens = residue.shape[1]
    need = (count // block_tokens) * decoding
    for at in range(begin, begin + count % block_tokens):
        need += residue[e, at % block_tokens]
    return int(need)


@borrowing
def fitting(residue: Longs, e: int, decoding: int, begin: int, spare: int, most: int) -> int:
    """Return for how many of `most` iterations from number `begin` on spare blocks suffice; the first has its own."""
    block_tokens = int(residue.shape[1])
    if spare >= decoding * (most // block_tokens + 1):
        return most
    count = 1 + (spare // decoding) * block_tokens
    spare %= decoding
    while count < most:
        spare -= residue[e, (begin + count) % block_tokens]
        if spare < 0:
            break
        count += 1
    return min(most, count)


@borrowing
def enter(heap: Longs, e: int, size: int, key: int) -> None:
    """Put a key into an engine's heap of `size`."""
    at = size
    while at > 0 and heap[e, (at - 1) >> 1] > key:
        heap[e, at] = heap[e, (at - 1) >> 1]
        at = (at - 1) >> 1
    heap[e, at] = key


@borrowing
def remove(heap: Longs, e: int, size: int, at: int) -> None:
    """Take the key at a place out of an engine's heap of `size`."""
    size -= 1
    if at == size:
        return
    key = heap[e, size]
    while at > 0 and heap[e, (at - 1) >> 1] > key:
        heap[e, at] = heap[e, (at - 1) >> 1]
        at = (at - 1) >> 1
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and heap[e, below + 1] < heap[e, below]:
            below += 1
        if heap[e, below] >= key:
            break
        heap[e, at] = heap[e, below]
        at = below
    heap[e, at] = key


@borrowing
def put_back(lines: Lines, e: int, r: int) -> None:
    """Let a request that ran wait ahead of all that never did, in order of arrival."""
    before = -1
    after = lines.back[e]
    while after >= 0 and after < r:
        before = after
        after = lines.following[after]
    lines.preceding[r] = before
    lines.following[r] = after
    if before >= 0:
        lines.following[before] = r
    else:
        lines.back[e] = r
    if after >= 0:
        lines.preceding[after] = r


@borrowing
def line_up(lines: Lines, e: int, r: int) -> None:
    """Let a request that never ran wait, behind all others."""
    last = lines.tail[e]
    lines.preceding[r] = last
    lines.following[r] = -1
    if last >= 0:
        lines.following[last] = r
    else:
        lines.head[e] = r
    lines.tail[e] = r


@borrowing
def leave_line(lines: Lines, e: int, r: int) -> None:
    """Let a request wait no more."""
    before = lines.preceding[r]
    after = lines.following[r]
    if before >= 0:
        lines.following[before] = after
    elif lines.back[e] == r:
        lines.back[e] = after
    else:
        lines.head[e] = after
    if after >= 0:
        lines.preceding[after] = before
    elif lines.tail[e] == r:
        lines.tail[e] = before


@borrowing
def end_after(begin_s: float, step_s: float, growth_s: float, count: int) -> float:
    """Return when so many iterations are over, each `growth_s` longer than the one before.

    >>> round(end_after(1.0, 0.1, 0.01, 3), 9)
    1.33
    """
    return begin_s + count * step_s + growth_s * (0.5 * count * (count - 1))


@borrowing
def over_by(begin_s: float, step_s: float, growth_s: float, span: int, now_s: float) -> int:
    """Return how many of `span` iterations, of which the last is not over, are over by now.

    >>> over_by(1.0, 0.1, 0.01, 5, 1.3), over_by(1.0, 0.1, 0.0, 5, 1.35)
    (2, 3)
    """
    guess = (now_s - begin_s) / step_s
    if growth_s > 0.0:
        half = 0.5 * growth_s
        first = step_s - half
        guess = (np.sqrt(first * first + 4.0 * half * (now_s - begin_s)) - first) / (2.0 * half)
    over = max(0, min(int(guess), span - 1))
    while over > 0 and end_after(begin_s, step_s, growth_s, over) > now_s:
        over -= 1
    while over < span - 1 and end_after(begin_s, step_s, growth_s, over + 1) <= now_s:
        over += 1
    return over
