"""Pieces of streams on their way from socket to socket, compiled: what `headway.gateway.splice` does for each of them.

It calls the C library that this process has loaded anyway, and holds no lock of the interpreter meanwhile.
"""

from __future__ import annotations

from typing import Any, Final

from numba.core.types import ExternalFunction, int32, intp

from headway.gateway.relay import USAGE_BYTES
from headway.gateway.splice import (
    BEFORE,
    BUFFER_AT,
    BUFFER_BYTES,
    BYTES,
    CAME,
    COUNT,
    DESCRIPTOR,
    DOWN,
    EPOLL,
    EVENTS,
    EVENTS_AT,
    KEPT,
    KEPT_BYTES,
    LEFT,
    LENGTHS,
    NEXT,
    PIECES,
    READABLE,
    SENT,
    TAIL_AT,
    TOLD,
    USED,
    USED_AT,
    WORDS,
    ZERO_AT,
)
from headway.sim.jit import borrowing, step

_NOW: Final = 0x40
_QUIETLY: Final = 0x4000
"""Linux's MSG_DONTWAIT and MSG_NOSIGNAL: neither wait, nor end this process because a client is gone."""
_TCP, _QUICKACK = 6, 12
_PATIENT_PIECES: Final = 64
"""How often the system is asked to acknowledge later, not piece by piece, which costs more than to read."""
_CR, _LF = 13, 10
_MOST_DIGITS: Final = 7
_D, _A, _T, _COLON, _QUOTE, _U, _S, _G, _E, _BRACE = b'dat:"usge{'

_epoll_wait: Any = ExternalFunction("epoll_wait", int32(int32, intp, int32, int32))
_recv: Any = ExternalFunction("recv", intp(int32, intp, intp, int32))
_send: Any = ExternalFunction("send", intp(int32, intp, intp, int32))
_set: Any = ExternalFunction("setsockopt", int32(int32, int32, int32, intp, intp))
_copy: Any = ExternalFunction("memcpy", intp(intp, intp, intp))


@step
def left_after(data: Any, size: int, left: int) -> int:
    """Return how much of a chunk is to come after `size` bytes, if `left` were before; -1 where only a parser can tell.

    That is the end of a body, what is not well formed, and a line that is not there as a whole (RFC 9112, section 7.1).

    >>> left_after(b"2\\r\\nhi\\r\\n5\\r\\nwo", 12, 0), left_after(b"rld\\r\\n", 5, 3), left_after(b"0\\r\\n", 3, 0)
    (3, 0, -1)
    """
    at = 0
    while True:
        if left:
            if left > size - at:
                return left - (size - at)
            at += left
            if size - at < 2 or data[at] != _CR or data[at + 1] != _LF:
                return -1
            at += 2
        if at == size:
            return 0
        left, begin = 0, at
        while at < size:
            byte = data[at]
            if 48 <= byte <= 57:
                left = 16 * left + byte - 48
            elif 97 <= byte <= 102:
                left = 16 * left + byte - 87
            elif 65 <= byte <= 70:
                left = 16 * left + byte - 55
            else:
                break
            at += 1
        if left == 0 or at - begin > _MOST_DIGITS or size - at < 2 or data[at] != _CR or data[at + 1] != _LF:
            return -1
        at += 2


@step
def _is_space(byte: int) -> bool:
    return bool(byte == 32 or 9 <= byte <= 13)


@step
def told_in(data: Any, size: int) -> tuple[int, int, int]:
    """Return how many events begin in `size` bytes of a stream, and the last two places where they tell what was used.

    The same as `headway.gateway.relay`'s `events_in` and `places_of_usage`, in one look; -1 stands for no place.

    >>> import numpy as np
    >>> piece = b'data: the data: of\\n\\ndata: {"usage": {}}'
    >>> told_in(np.frombuffer(piece, np.uint8), len(piece))
    (2, -1, 27)
    """
    events, before, place = 0, -1, -1
    for at in range(4, size):
        # The colon is rare, so that most places are looked at once.
        if data[at] != _COLON:
            continue
        if data[at - 4] == _D and data[at - 3] == _A and data[at - 2] == _T and data[at - 1] == _A:
            events += int(at == 4 or data[at - 5] == _LF)
            continue
        end = at - 1
        while end > 5 and _is_space(data[end]):
            end -= 1
        if end < 6 or data[end] != _QUOTE or data[end - 1] != _E or data[end - 2] != _G or data[end - 3] != _A:
            continue
        if data[end - 4] != _S or data[end - 5] != _U or data[end - 6] != _QUOTE:
            continue
        begin = at + 1
        while begin < size and _is_space(data[begin]):
            begin += 1
        if begin < size and data[begin] == _BRACE:
            before, place = place, end - 6
    return events, before, place


@borrowing
def pump(desk: Any, events: Any, buffer: Any, table: Any) -> bool:
    """Pass on what has come of all streams; return whether it stopped at one that is to be taken back.

    Called again, it goes on behind that. It is the stream of `DESCRIPTOR`: its upstream is gone, or what came of it is
    for a parser, or its client did not take all.
    """
    if desk[NEXT] == desk[COUNT]:
        desk[COUNT] = max(0, _epoll_wait(desk[EPOLL], desk[EVENTS_AT], EVENTS, 0))
        desk[NEXT] = 0
    words, at = desk[WORDS], desk[BUFFER_AT]
    while desk[NEXT] < desk[COUNT]:
        word = desk[NEXT] * words
        desk[NEXT] += 1
        up = events[word + words - 2]
        row = table[up]
        if row[DOWN] < 0:
            continue
        desk[DESCRIPTOR] = up
        desk[CAME] = 0
        desk[SENT] = -1
        if events[word] != READABLE:
            return True
        if row[PIECES] % _PATIENT_PIECES == 0:
            # Where the other side waits for that (it leaves Nagle's algorithm on), the system ends it after one piece.
            _set(up, _TCP, _QUICKACK, desk[ZERO_AT], 4)
        size = _recv(up, at, BUFFER_BYTES, _NOW)
        if size <= 0:
            return True
        desk[CAME] = size
        left = left_after(buffer, size, row[LEFT])
        # Of more than the buffer holds nothing would be heard again: only what is newly there is told.
        if left < 0 or size == BUFFER_BYTES:
            return True
        sent = _send(row[DOWN], at, size, _NOW | _QUIETLY)
        row[LEFT] = left
        begun, usage_before, usage = told_in(buffer, size)
        row[TOLD] += begun
        row[BYTES] += size
        for begin in (usage_before, usage):
            if begin >= 0:
                _copy(row[USED_AT] + USAGE_BYTES, row[USED_AT], row[USED])
                row[BEFORE] = row[USED]
                row[USED] = min(USAGE_BYTES, size - begin)
                _copy(row[USED_AT], at + begin, row[USED])
        if usage < 0 < row[USED] < USAGE_BYTES:
            more = min(USAGE_BYTES - row[USED], size)
            _copy(row[USED_AT] + row[USED], at, more)
            row[USED] += more
        place = row[PIECES] % KEPT
        kept = min(size, KEPT_BYTES)
        _copy(row[TAIL_AT] + place * KEPT_BYTES, at + size - kept, kept)
        row[LENGTHS + place] = kept
        row[PIECES] += 1
        if sent < size:
            desk[SENT] = max(0, sent)
            return True
    return False
