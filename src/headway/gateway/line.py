"""One connection to an upstream. A parser in C watches where an answer ends; its bytes pass through as they came.

An answer in chunks is not taken apart, so that an event of a stream costs one read, one look of the parser and one
write. Only for a client of HTTP/1.0 are chunks undone.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import httptools

from headway.gateway.heads import HEAD_END
from headway.gateway.relay import BUSY, TAIL_BYTES
from headway.gateway.splice import descriptor

if TYPE_CHECKING:
    from headway.gateway.relay import Relay
    from headway.gateway.replica import Replica
    from headway.gateway.splice import Splice

MAX_HEAD_BYTES: Final = 64 * 2**10
_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"te", b"trailer", b"upgrade"}
)
_HOP_LINE: Final = re.compile(rb"\r\n(?:%b|x-headway-[^:\r\n]*):[^\r\n]*" % b"|".join(sorted(_HOP)), re.I)
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"close", b"keep-alive", b""})
"""What no upstream can have taken for itself by naming it in its header `connection`."""
_CODING_LINE: Final = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*", re.I)


class Line(asyncio.Protocol):
    """A kept connection, at most one request at a time. What comes of that is told to the request's relay."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._transport: Any = None
        self._relay: Relay | None = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._feed: Callable[[bytes], None] = self._parser.feed_data
        self._used = False
        self._paused = False
        self._spliced = -1
        """The descriptor by which the splice reads this connection; -1 where the event loop does."""
        self._begin()

    def _begin(self) -> None:
        self._pass: Callable[[bytes], None] | None = None
        self._raw = b""
        self._linked: set[bytes] = set()
        self._skipped = 0
        self._headed = self._framed = self._chunked = self._hop = False
        self._complete = self._excess = self._keep = self._looked_up = False
        self._inside = self._between = False
        self._splice: Splice | None = None

    # What relays ask for

    def send(self, relay: Relay, frame: bytes) -> None:
        """Send a request; the relay hears of its answer."""
        self._relay = relay
        relay.line = self
        self._transport.write(frame)

    def pause(self) -> None:
        """Read no more until `resume`: the client is slower than the upstream."""
        if not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        self._paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close the connection at once: so its upstream hears that nobody waits for the answer."""
        self._relay = None
        self._take()
        self._transport.abort()

    def count(self) -> None:
        """Tell the relay how many pieces have passed."""
        if self._splice is not None and self._spliced >= 0:
            self._splice.count(self._spliced)

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        relay = self._relay
        if relay is None:
            # Nothing was asked: whatever this is, the next answer could not be told from it.
            self.abort()
            return
        send = self._pass
        if send is None and not self._raw and self._is_known(relay, data):
            return
        try:
            self._feed(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"its answer is not HTTP/1.1: {error}")
            return
        if send is None:
            self._first(relay, data)
            self._looked_up = False
        elif self._excess:
            self._fail("more came than its answer")
        else:
            relay.pieces += 1
            relay.note(data if len(data) <= TAIL_BYTES else data[-TAIL_BYTES:])
            send(data)
            if self._complete:
                self._end(relay)
            elif self._splice is not None:
                # A read may end within the line of a chunk's size: then the parser holds what only it knows.
                self._between = not self._inside and data.endswith(b"\r\n")
                if self._between and self._splice.ready():
                    # Soon, because what was just written has yet to reach the client's socket.
                    self._loop.call_soon(self._give, self._splice, relay)

    def eof_received(self) -> None:
        relay = self._relay
        if relay is not None and self._headed and not self._framed and not self._complete:
            # An answer without a length ends with its connection.
            self._complete = True
            if self._pass is None:
                self._show(relay)
            else:
                self._end(relay)

    def connection_lost(self, exc: Exception | None) -> None:
        relay, self._relay = self._relay, None
        self._take()
        self._replica.lost(self)
        if relay is not None:
            # A kept connection that is closed just as it is used again: the request was not looked at.
            unseen = self._used and not self._raw and not relay.begun
            relay.broken(f"it closed the connection{f': {exc}' if exc else ''}", unseen=unseen)

    # What the parser calls

    def on_message_begin(self) -> None:
        if self._complete:
            self._excess = True

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-length":
            self._framed = True
        elif name == b"transfer-encoding":
            self._framed = self._chunked = True
        elif name in _HOP or name.startswith(b"x-headway-"):
            self._hop = True
            if name == b"connection":
                self._linked.update(one.strip() for one in value.lower().split(b","))
                self._linked -= _FRAMING

    def on_headers_complete(self) -> None:
        self._headed = self._parser.get_status_code() >= 200

    def on_message_complete(self) -> None:
        if self._headed:
            self._complete = True
            self._keep = self._parser.should_keep_alive()
        else:
            self._skipped += 1
            self._framed = self._chunked = self._hop = False

    def on_chunk_header(self) -> None:
        self._inside = True

    def on_chunk_complete(self) -> None:
        self._inside = False

    # Streams that are passed on by others (`headway.gateway.splice`)

    def _give(self, splice: Splice, relay: Relay) -> None:
        """Have a stream passed on from here, where it stands between two chunks and its client has taken all."""
        if relay is not self._relay or not self._between or self._paused or self._spliced >= 0:
            return
        ours, theirs = self._transport, relay.client.transport
        if ours.is_closing() or theirs.is_closing() or theirs.get_write_buffer_size():
            return
        ours.pause_reading()
        self._spliced = descriptor(ours)
        splice.begin(self._spliced, descriptor(theirs), self, relay)

    def _take(self) -> None:
        """Have it passed on no more: before a socket is closed, since its descriptor may be another's then."""
        if self._splice is not None and self._spliced >= 0:
            self._splice.end(self._spliced)
        self._spliced = -1

    def taken_back(self, left: int, came: bytes, unsent: bytes) -> None:
        """Go on with a stream as `headway.gateway.splice.Line` says."""
        self._spliced = -1
        relay = self._relay
        assert relay is not None
        if left:
            # The parser has not seen the chunk; one that is as long as the rest leads to the same.
            self._feed(b"%x\r\n" % left)
        self.resume()
        if unsent:
            relay.client.transport.write(unsent)
        if came:
            self.data_received(came)

    # Answers

    def _is_known(self, relay: Relay, data: bytes) -> bool:
        """Pass an answer on that is all there and begins as others did, without parsing it again; say if it was so."""
        known = self._replica.heads.match(data)
        if known is None:
            self._looked_up = True
            return False
        (status, hop), end = known
        self._relay = None
        self._used = True
        self._replica.free(self)
        head = data[:end]
        relay.whole(status, _HOP_LINE.sub(b"", head) if hop else head, data[end + 4 :])
        return True

    def _first(self, relay: Relay, data: bytes) -> None:
        """Hold the beginning of an answer back until a byte of its body: until then the request can be retried."""
        raw = self._raw = self._raw + data if self._raw else data
        if self._excess:
            self._fail("more came than its answer")
        elif not self._headed:
            if len(raw) > MAX_HEAD_BYTES:
                self._fail(f"the head of its answer is larger than {MAX_HEAD_BYTES} bytes")
        elif self._complete or len(raw) > self._head_at(raw)[1] + 4:
            self._show(relay)

    def _show(self, relay: Relay) -> None:
        status = self._parser.get_status_code()
        if relay.declines(status):
            self._relay = None
            if self._complete and self._keep:
                self._free()
            else:
                self._transport.abort()
            relay.broken(f"it answered {status}", status)
            return
        whole = self._complete and self._keep and not (self._chunked or self._skipped)
        if self._looked_up and whole and not (self._linked or status in BUSY):
            self._replica.heads.learn((status, self._hop))
        head, body = self._parts()
        if self._chunked and not relay.speaks_chunks:
            relay.keep = False
            self._pass = Unchunk(relay.first(status, _CODING_LINE.sub(b"", head), b""))
            self._pass(body)
        else:
            if not self._framed and not (self._complete and self._keep):
                relay.keep = False
            self._pass = relay.first(status, head, body)
            if self._chunked and min(descriptor(self._transport), descriptor(relay.client.transport)) >= 0:
                self._splice = relay.splice
        if self._complete:
            self._end(relay)

    def _parts(self) -> tuple[bytes, bytes]:
        """Return the answer's head, without its empty line and what is between neighbours only, and what follows."""
        raw, self._raw = self._raw, b""
        begin, end = self._head_at(raw)
        head = raw[begin:end]
        if self._hop:
            head = _HOP_LINE.sub(b"", head)
        for name in self._linked:
            head = re.sub(rb"\r\n%b:[^\r\n]*" % re.escape(name), b"", head, flags=re.I)
        if not head.startswith(b"HTTP/1.1"):
            head = b"HTTP/1.1" + head[8:]
        return head, raw[end + 4 :]

    def _head_at(self, raw: bytes) -> tuple[int, int]:
        """Return where the answer's head begins and ends: after those of status 1xx, before its empty line."""
        begin = 0
        for _ in range(self._skipped):
            begin = raw.index(HEAD_END, begin) + 4
        return begin, raw.index(HEAD_END, begin)

    def _end(self, relay: Relay) -> None:
        self._relay = None
        if self._keep:
            self._free()
        else:
            self._transport.close()
        relay.complete()

    def _free(self) -> None:
        if self._paused:
            self.resume()
        self._used = True
        self._begin()
        self._replica.free(self)

    def _fail(self, why: str) -> None:
        relay = self._relay
        self.abort()
        if relay is not None:
            relay.broken(why)


class Unchunk:
    """Undoes the chunks of a body. It is fed what another parser has found to be well formed.

    >>> found = []
    >>> Unchunk(found.append)(b"2\\r\\nhi\\r\\n0\\r\\n\\r\\n")
    >>> found
    [b'hi']
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.on_body = write
        self._parser: Any = httptools.HttpResponseParser(self)
        self._parser.feed_data(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")

    def __call__(self, data: bytes) -> None:
        """Pass on what the chunks of `data` hold."""
        self._parser.feed_data(data)
