"""One client's connection: a parser in C calls back, requests are answered in the order in which they came."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import httptools

from headway.serve.app import CLOSE
from headway.serve.asgi import Exchange
from headway.serve.infer import JSON, Headers, Refused
from headway.serve.message import Message, head, origin_form
from headway.serve.system import untaken
from headway.serve.walk import Request

if TYPE_CHECKING:
    from headway.serve.front import Front

log = logging.getLogger(__name__)

LINGER_S: Final = 1.0
MOST_WAITING: Final = 8
"""Requests that a client may have sent before the answer to an earlier one, and their bodies: then it has to wait."""
MOST_WAITING_BYTES: Final = 2**20
_LONGEST_PROBE_S: Final = 5.0
_PROBE_S: Final = 0.05
_PROCESSING: Final = b"HTTP/1.1 102 Processing\r\n\r\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_OK_JSON: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


class _Enough(Exception):
    """Stops the parser: the request is refused."""


class Connection(asyncio.Protocol):
    """One client's connection. Its requests are answered one after the other, in the order in which they came."""

    def __init__(self, front: Front, loop: asyncio.AbstractEventLoop) -> None:
        self._front = front
        self._limits = front.limits
        self._max_header_bytes = front.limits.max_header_bytes
        self._loop = loop
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: Any = None
        # What is being received.
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._named: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self._size = 0
        self._raw_size = 0
        self._refused: Refused | None = None
        self._bare = False
        self._begun = False
        self._in_head = False
        self._just_begun = False
        # What is being answered, and what waits for that. `_deaf`: nothing more that the client sends is looked at.
        self._current: Message | None = None
        self._exchange: Exchange | None = None
        self._request: Request | None = None
        self._waiting: deque[Message | Refused] = deque()
        self._taking = False
        self._deaf = False
        self._paused = False
        # Since when it has been so; never, if infinite.
        self._partial_s = math.inf
        self._idle_s = math.inf
        self._stalled_s = math.inf
        # Of what was sent to the client, how many bytes it has not taken: as long as these grow fewer, it reads.
        self._untaken = math.inf

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._idle_s = self._loop.time()
        self._front.connections.add(self)
        if self._front.closing:
            self.finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self._front.connections.discard(self)
        self._deaf = True
        self._current = None
        self._waiting.clear()
        if self._exchange is not None:
            self._exchange.disconnected()
        if self._request is not None:
            self._front.app.infer.abandon(self._request)

    def pause_writing(self) -> None:
        self._stalled_s = self._loop.time()
        self._untaken = math.inf
        self._listen()

    def resume_writing(self) -> None:
        self._stalled_s = math.inf
        self._listen()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._just_begun = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            self._decline_upgrade(data[stopped.args[0] :])
            return
        except httptools.HttpParserError as error:
            if not self._deaf:
                self._refuse(Refused(400, f"this is not a request of HTTP/1.1: {error}", CLOSE))
            return
        if not self._begun:
            self._partial_s = math.inf
            return
        if self._partial_s == math.inf:
            self._partial_s = self._loop.time()
        # A header that never ends reaches no callback; what else came with its beginning is not told apart.
        if self._in_head and not self._just_begun:
            self._raw_size += len(data)
            if self._raw_size > self._max_header_bytes:
                self._refuse(self._head_too_large())

    def eof_received(self) -> bool:
        # Whoever has asked and then ends its own side may still wait for the answer.
        self._deaf = True
        if self._exchange is not None:
            self._exchange.disconnected()
        elif self._current is not None:
            self._probe()
        return self._current is not None

    def _probe(self, pause_s: float = _PROBE_S) -> None:
        """Find out whether a client that sends no more is gone: its system then answers to data with a reset."""
        message = self._current
        if message is None or self._exchange is not None or self._transport.is_closing():
            return
        if message.http_version == "1.1":
            self._transport.write(_PROCESSING)
            self._loop.call_later(pause_s, self._probe, min(2 * pause_s, _LONGEST_PROBE_S))

    # What the parser calls

    def on_message_begin(self) -> None:
        self._begun = self._in_head = self._just_begun = True
        self._url, self._headers, self._parts = b"", [], []
        self._size = self._raw_size = 0
        self._refused = None

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._size += len(url)
        if self._size > self._max_header_bytes:
            self._stop(self._head_too_large())

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            # What follows a body in chunks is no part of its head (RFC 9110, section 6.5.1), and counts with the body.
            self._count_body(len(name) + len(value))
            return
        self._headers.append((name.lower(), value))
        self._size += len(name) + len(value)
        if self._size > self._max_header_bytes:
            self._stop(self._head_too_large())

    def on_headers_complete(self) -> None:
        if self._parser.should_upgrade():
            return
        self._in_head = False
        self._size = 0
        self._partial_s = math.inf
        self._url = origin_form(self._url)
        named = self._named = dict(self._headers)
        declared = named.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self._limits.max_body_bytes:
            self._stop(self._body_too_large())
        guard = self._front.app.guard
        if guard.active:
            self._refused = guard.refusal(self._url.partition(b"?")[0].decode("latin-1"), named)
        if b"expect" in named and named[b"expect"].lower() == b"100-continue":
            if self._refused is not None:
                self._stop(self._refused)
            if self._current is None:
                self._transport.write(_CONTINUE)

    def on_body(self, data: bytes) -> None:
        self._count_body(len(data))
        if self._refused is None:
            self._parts.append(data)

    def _count_body(self, size: int) -> None:
        self._size += size
        if self._size > self._limits.max_body_bytes:
            self._stop(self._body_too_large())

    def on_message_complete(self) -> None:
        if self._in_head:
            return
        self._begun = False
        self._partial_s = math.inf
        parser, parts = self._parser, self._parts
        message = Message(
            parser.get_method(),
            self._url,
            self._headers,
            self._named,
            parser.get_http_version(),
            parser.should_keep_alive(),
            parts[0] if len(parts) == 1 else b"".join(parts),
            self._refused,
        )
        if not message.keep_alive:
            self._deaf = True
        if self._current is None and not self._waiting:
            self._begin(message)
        else:
            self._waiting.append(message)
            self._listen()

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read the request again as if no other protocol had been offered; where one is, the parser skips the body."""
        method = self._parser.get_method()
        if method == b"CONNECT":
            self._refuse(Refused(405, "CONNECT is not possible here", CLOSE))
            return
        lines = b"".join(b"%b: %b\r\n" % pair for pair in self._headers if pair[0] != b"upgrade")
        version = self._parser.get_http_version().encode()
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(b"%b %b HTTP/%b\r\n%b\r\n%b" % (method, self._url, version, lines, rest))

    # Answers

    def _begin(self, message: Message) -> None:
        self._current = message
        self._idle_s = math.inf
        if message.refused is not None:
            self._reply(message, message.refused.status, message.refused.body, message.refused.headers)
        elif message.url in self._front.infer_urls and message.method == b"POST":
            try:
                request = self._front.app.infer(message.named, message.body, partial(self._reply, message))
                if message is self._current:
                    self._request = request
            except Exception:
                log.exception("an inference request failed in a way that is not foreseen")
                failed = Refused(500, "the server failed; its log says why")
                self._reply(message, failed.status, failed.body, failed.headers)
        else:
            self._exchange = Exchange(self, message)
            self._front.run(self._exchange)

    def _reply(self, message: Message, status: int, body: bytes, headers: Headers) -> None:
        if message is not self._current:
            return  # the client went away
        keep = self.keeps(message)
        bare = message.method == b"HEAD"
        if status == 200 and headers is JSON and keep and message.http_version == "1.1":
            self._transport.write(_OK_JSON % (len(body), b"" if bare else body))
        else:
            full = (*headers, (b"content-length", b"%d" % len(body)))
            self._transport.write(head(status, full, message.http_version, keep))
            if not bare:
                self._transport.write(body)
        self.ended(message, keep)

    def keeps(self, message: Message) -> bool:
        """Whether the connection stays open after the answer to a request."""
        return message.keep_alive and not self._front.closing

    @property
    def addresses(self) -> tuple[Any, Any]:
        """Client and server, as host and port."""
        names = (self._transport.get_extra_info(which) for which in ("peername", "sockname"))
        client, server = (tuple(name[:2]) if isinstance(name, tuple) else None for name in names)
        return client, server

    def write(self, data: bytes) -> None:
        """Send a part of an answer."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def ended(self, message: Message, keep: bool) -> None:
        """Take note that the answer to a request is complete, and go on with the next one."""
        if message is not self._current:
            return
        self._current = self._exchange = self._request = None
        if not keep or (self._deaf and not self._waiting):
            self._deaf = True
            self._waiting.clear()
            self._transport.close()
            return
        if self._waiting:
            self._take_waiting()
        else:
            self._idle_s = self._loop.time()

    def _take_waiting(self) -> None:
        # A loop, because an answer may be there at once: a thousand refusals in a row must not nest.
        if self._taking:
            return
        self._taking = True
        while self._waiting and self._current is None:
            following = self._waiting.popleft()
            if isinstance(following, Refused):
                self._send_refusal(following)
            else:
                self._begin(following)
        self._taking = False
        self._listen()

    # Limits

    def check(self, now_s: float) -> None:
        """Close the connection when its client has taken too long for what it is at."""
        if self._stalled_s != math.inf and self._is_stuck(now_s):
            self._transport.abort()
        elif self._transport.is_closing():
            return
        elif now_s - self._partial_s > self._limits.body_timeout_s and not (self._paused or self._deaf):
            part = "header" if self._in_head else "body"
            text = f"the {part} did not arrive within {self._limits.body_timeout_s:g} s"
            self._refuse(Refused(408, text, CLOSE))
        elif now_s - self._idle_s > self._limits.keep_alive_s:
            self._transport.close()

    def _is_stuck(self, now_s: float) -> bool:
        """Whether a client has taken nothing for too long of what was sent to it."""
        before, self._untaken = self._untaken, untaken(self._transport)
        if self._untaken < before:
            self._stalled_s = now_s
        return now_s - self._stalled_s > self._limits.body_timeout_s

    def finish(self) -> None:
        """Close the connection, after the answer if there is one to come."""
        if self._current is None and not self._waiting:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def _listen(self) -> None:
        """Read as long as little waits and the client reads its answers too: who does not read hears of no end."""
        pause = self._is_full() or self._stalled_s != math.inf
        if pause == self._paused or self._transport.is_closing():
            return
        self._paused = pause
        if pause:
            self._transport.pause_reading()
        else:
            self._partial_s = self._loop.time() if self._begun else math.inf
            self._transport.resume_reading()

    def _is_full(self) -> bool:
        if len(self._waiting) > MOST_WAITING:
            return True
        return sum(len(each.body) for each in self._waiting if isinstance(each, Message)) > MOST_WAITING_BYTES

    def _stop(self, refused: Refused) -> None:
        self._refuse(refused)
        raise _Enough

    def _refuse(self, refused: Refused) -> None:
        """Answer, after what was asked before, what cannot be a request, and listen no more."""
        self._deaf = True
        self._idle_s = math.inf
        # Until its URL has come, the parser still gives the method of the request before.
        self._bare = self._begun and bool(self._url) and self._parser.get_method() == b"HEAD"
        if self._current is None and not self._waiting:
            self._send_refusal(refused)
        else:
            self._waiting.append(refused)

    def _send_refusal(self, refused: Refused) -> None:
        body = refused.body
        full = (*refused.headers, (b"content-length", b"%d" % len(body)))
        self._transport.write(head(refused.status, full, "1.1", keep=False) + (b"" if self._bare else body))
        # Closing with data unread would reset the connection and take the answer away from the client.
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._loop.call_later(LINGER_S, self._transport.close)

    def _head_too_large(self) -> Refused:
        limit = self._limits.max_header_bytes
        text = f"the request line and headers are larger than {limit} bytes, the most that this server takes"
        return Refused(431, text, CLOSE)

    def _body_too_large(self) -> Refused:
        limit = self._limits.max_body_bytes
        return Refused(413, f"the body is larger than {limit} bytes, the most that this server takes", CLOSE)
