"""Streams under way, passed on from socket to socket by compiled code (`headway.gateway.pump`).

Once the head of a streamed answer has gone to its client, what follows is passed on as it comes. So its upstream's
socket is taken off the event loop and watched by an epoll of its own, which the loop watches in turn: one call sees to
all that has come. It follows the chunks just far enough to stay with those that are plain, and gives a stream back to
its connection (`headway.gateway.line`) with whatever else there is: the end, what is not well formed, an upstream that
is gone, a client that does not take all that it is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import select
import threading
from collections.abc import Callable, Sized
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np

from headway.gateway.relay import TAIL_BYTES, TAIL_PIECES, USAGE_BYTES

if TYPE_CHECKING:
    from headway.gateway.relay import Relay

log = logging.getLogger(__name__)

CROWD: Final = 128
"""Requests at a time from which on streams are passed on so: what it takes is loaded then, in a second, 120 MiB."""
EVENTS: Final = 256
"""The most that are seen to in one go."""
MANY: Final = 4
PAUSE_S: Final = 0.001
"""Where so many come at a time, it is looked so often what has come: to be woken by each few takes a tenth as long as
what is done for them."""
BUFFER_BYTES: Final = 256 * 2**10
KEPT, KEPT_BYTES = TAIL_PIECES, TAIL_BYTES
EPOLL, EVENTS_AT, WORDS, BUFFER_AT, ZERO_AT, NEXT, COUNT, DESCRIPTOR, CAME, SENT, PLACES = range(11)
"""Places of the desk, at which this side and the compiled one tell each other what is where.

`WORDS`: how many an event has, the last but one the descriptor's. `CAME`: bytes read; `SENT`: those of them that the
client took, -1 where it was not asked.
"""
DOWN, LEFT, PIECES, TOLD, BYTES, USED, BEFORE, USED_AT, TAIL_AT, LENGTHS = range(10)
"""Columns of the table, in which each upstream's descriptor has a row.

`DOWN`: the client's descriptor, -1 where nothing is to be passed on. `LEFT`: bytes of a chunk that are to come, 0
between two. `TOLD`: events that have passed, `BYTES` of body. `USED` bytes at `USED_AT` say what was used, as
`Relay.used` does, and `BEFORE` bytes that are `USAGE_BYTES` behind those what `Relay.used_before` does. `TAIL_AT`:
where the last pieces are kept; from `LENGTHS` on: how much of each is.
"""
_ROWS: Final = 1024
# Only this processor's events are without a gap.
_WORDS: Final = 3 if platform.machine() == "x86_64" else 4
_EDGE: Final = getattr(select, "EPOLLET", 0)
_GONE: Final = getattr(select, "EPOLLRDHUP", 0)
READABLE: Final = getattr(select, "EPOLLIN", 0)


class Line(Protocol):
    """A connection to an upstream whose stream is passed on here."""

    def taken_back(self, left: int, came: bytes, unsent: bytes) -> None:
        """Go on: `left` bytes of a chunk are to come, `came` was read and no more, `unsent` the client did not take."""
        ...


class _Stream(NamedTuple):
    line: Line
    relay: Relay
    before: int
    """Pieces that came before."""
    tail: Any


class Splice:
    """The streams of one gateway that are passed on so. `active`: the requests that it has."""

    def __init__(self, active: Sized) -> None:
        self.crowd = CROWD
        self._active = active
        self._streams: dict[int, _Stream] = {}
        self._pump: Callable[..., bool] | None = None
        self._loading: threading.Thread | None = None
        self._epoll: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next: asyncio.TimerHandle | None = None
        """When it is looked again; None where the event loop says when something has come."""
        self._desk = np.zeros(PLACES, np.int64)
        self._events = np.zeros(4 * EVENTS, np.uint32)
        self._buffer = np.zeros(0, np.uint8)
        self._zero = np.zeros(1, np.int32)
        self._table = np.zeros((0, LENGTHS + KEPT), np.int64)

    def __len__(self) -> int:
        """Return how many streams are passed on here."""
        return len(self._streams)

    def ready(self) -> bool:
        """Whether streams can be handed over; what that takes is loaded beside, once there are enough requests."""
        if self._pump is None and self._loading is None and len(self._active) >= self.crowd:
            self._loading = threading.Thread(target=self.load, name="headway-splice", daemon=True)
            self._loading.start()
        return self._pump is not None

    def load(self) -> None:
        """Load what it takes, in this thread; where that is not to be had, streams are passed on without."""
        from headway.sim.jit import enabled

        if not (enabled() and hasattr(select, "epoll")):
            return
        try:
            from headway.gateway.pump import pump

            self._epoll = select.epoll()
            self._buffer = np.zeros(BUFFER_BYTES, np.uint8)
            self._more_rows(_ROWS)
            found = (
                self._epoll.fileno(),
                self._events.ctypes.data,
                _WORDS,
                self._buffer.ctypes.data,
                self._zero.ctypes.data,
            )
            self._desk[: len(found)] = found
            pump(self._desk, self._events, self._buffer, self._table)
            self._pump = pump
        except Exception:
            log.exception("what passes streams on in compiled code cannot be loaded; they are passed on without it")

    def _more_rows(self, rows: int) -> None:
        self._table = np.concatenate((self._table, np.full((rows, LENGTHS + KEPT), -1, np.int64)))

    def begin(self, up: int, down: int, line: Line, relay: Relay) -> None:
        """Pass on to the socket `down` what comes from the socket `up`, from here, between two chunks, until `end`."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._epoll.fileno(), self._see)
        if up >= len(self._table):
            self._more_rows(up)
        tail = np.empty(2 * USAGE_BYTES + KEPT * KEPT_BYTES, np.uint8)
        used, before, at = len(relay.used), len(relay.used_before), tail.ctypes.data
        tail[:used] = np.frombuffer(relay.used, np.uint8)
        tail[USAGE_BYTES : USAGE_BYTES + before] = np.frombuffer(relay.used_before, np.uint8)
        self._table[up, :LENGTHS] = down, 0, 0, 0, relay.passed_bytes, used, before, at, at + 2 * USAGE_BYTES
        self._streams[up] = _Stream(line, relay, relay.pieces, tail)
        # That there is something is told once, and not until it has been read: to ask again costs as much each time.
        self._epoll.register(up, READABLE | _GONE | _EDGE)

    def end(self, up: int) -> None:
        """Pass on nothing more of a socket, while that is still open; its relay is told what has passed."""
        stream = self._streams.pop(up)
        with contextlib.suppress(OSError):
            self._epoll.unregister(up)
        row = self._table[up].tolist()
        self._table[up, DOWN] = -1
        passed = row[PIECES]
        stream.relay.pieces = stream.before + passed
        stream.relay.events += row[TOLD]
        stream.relay.passed_bytes = row[BYTES]
        stream.relay.used = stream.tail[: row[USED]].tobytes()
        stream.relay.used_before = stream.tail[USAGE_BYTES : USAGE_BYTES + row[BEFORE]].tobytes()
        for number in range(max(0, passed - KEPT), passed):
            place = number % KEPT
            begin = 2 * USAGE_BYTES + place * KEPT_BYTES
            stream.relay.note(stream.tail[begin : begin + row[LENGTHS + place]].tobytes())

    def count(self, up: int) -> None:
        """Tell a stream's relay how many pieces have passed."""
        stream = self._streams[up]
        stream.relay.pieces = stream.before + int(self._table[up, PIECES])

    def close(self) -> None:
        """Watch nothing any more; all streams have ended."""
        if self._next is not None:
            self._next.cancel()
        elif self._loop is not None:
            self._loop.remove_reader(self._epoll.fileno())
        if self._epoll is not None:
            self._epoll.close()

    def _see(self) -> None:
        try:
            self._pass_on()
        finally:
            self._look_again(often=self._desk[COUNT] >= MANY)

    def _look_again(self, often: bool) -> None:
        """Look again soon, whatever comes, or else as soon as something has come."""
        loop = self._loop
        assert loop is not None
        if often and self._next is None:
            loop.remove_reader(self._epoll.fileno())
        elif not often and self._next is not None:
            loop.add_reader(self._epoll.fileno(), self._see)
        self._next = loop.call_later(PAUSE_S, self._see) if often else None

    def _pass_on(self) -> None:
        pump, desk = self._pump, self._desk
        assert pump is not None
        while pump(desk, self._events, self._buffer, self._table):
            up, came, sent = desk[[DESCRIPTOR, CAME, SENT]].tolist()
            left = int(self._table[up, LEFT])
            data = self._buffer[:came].tobytes()
            line = self._streams[up].line
            self.end(up)
            if sent < 0:
                line.taken_back(left, data, b"")
            else:
                line.taken_back(left, b"", data[sent:])


def descriptor(transport: Any) -> int:
    """Return the descriptor of the socket that a transport's bytes go over as they are; -1 where there is none."""
    if transport.get_extra_info("sslcontext") is not None:
        return -1
    found = transport.get_extra_info("socket")
    return -1 if found is None else int(found.fileno())
