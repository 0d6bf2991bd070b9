"""A small HTTP/1.1 client on asyncio for load: requests are ready-made bytes, connections are kept and few copies made.

A general client costs about a millisecond of CPU per request, which on a small machine is part of what is measured.
"""

from __future__ import annotations

import asyncio
import math
import os
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httptools

from headway.errors import ServeError

MAX_RESPONSE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Reply:
    """How a request ended: `status` 0 means that no answer came, and `error` says why.

    Times are in loop time: `sent_s` is NaN when it never went out, `first_s`, when the answer's body began, when it has
    none. `waited`: for a connection, as all that may be were in use.
    """

    status: int
    body: bytes
    sent_s: float
    error: str = ""
    waited: bool = False
    first_s: float = math.nan


Done = Callable[[Reply], None]


@dataclass(slots=True)
class _Call:
    frame: bytes
    done: Done
    timer: asyncio.TimerHandle | None = None
    sent_s: float = math.nan
    first_s: float = math.nan
    retried: bool = False
    waited: bool = False
    connection: _Connection | None = None
    over: bool = False


class Client:
    """Keeps connections to one server and sends each request on one of them, at once when one is free or may be opened.

    Requests beyond `max_connections` at a time wait for a connection; `keep_body` False throws answers' bodies away; an
    answer that is larger than `max_bytes` counts as none.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        max_connections: int = 512,
        keep_body: bool = True,
        max_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServeError(f"url {url!r} is not an address of a server; write it like http://127.0.0.1:8000")
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._name = parts.netloc.rpartition("@")[2]
        self._authorization = "" if token is None else f"authorization: Bearer {token}\r\n"
        if any(ord(c) < 32 or ord(c) > 126 for c in (token or "")):
            raise ServeError("the token holds characters that a header cannot; use printable ASCII")
        self._max = max_connections
        self.keep_body = keep_body
        self.max_bytes = max_bytes
        self.opened = 0
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._connecting = 0
        self._waiting: deque[_Call] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def frame(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
        """Return the bytes of a request."""
        more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"{method} {path} HTTP/1.1\r\nhost: {self._name}\r\n{self._authorization}{more}"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode("latin-1") + body

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> Reply:
        """Send one request and return its reply."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.send(self.frame(method, path, body, headers), future.set_result, timeout_s)
        return await future

    def send(self, frame: bytes, done: Done, timeout_s: float) -> None:
        """Send a ready-made request; `done` is called once, with its reply."""
        loop = asyncio.get_running_loop()
        call = _Call(frame, done)
        call.timer = loop.call_later(timeout_s, self._time_out, call, timeout_s)
        self._place(call)

    async def open(self, count: int) -> None:
        """Have `count` connections open, so that the first requests do not wait for them. Raises ServeError."""
        while len(self._open) + self._connecting < min(count, self._max):
            self._connecting += 1
            self._idle.append(await self._connect())

    async def close(self) -> None:
        """Close every connection; what is unanswered stays so."""
        self._closed = True
        for task in tuple(self._tasks):
            task.cancel()
        for connection in tuple(self._open):
            connection.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    def _place(self, call: _Call) -> None:
        if self._idle:
            self._idle.pop().start(call)
        elif len(self._open) + self._connecting < self._max:
            self._connecting += 1
            task = asyncio.get_running_loop().create_task(self._connect_for(call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            call.waited = True
            self._waiting.append(call)

    async def _connect_for(self, call: _Call) -> None:
        try:
            connection = await self._connect()
        except ServeError as error:
            self._finish(call, 0, b"", str(error))
            self._place_waiting()
            return
        if call.over:
            self._free(connection)
        else:
            connection.start(call)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(self), self._host, self._port, ssl=self._tls
            )
        except OSError as error:
            # Of a failed connect asyncio tells only that it failed, not why.
            known = isinstance(error, ConnectionError) and error.errno is not None
            reason = os.strerror(error.errno or 0) if known else error.strerror or error
            raise ServeError(f"cannot reach {self._name}: {reason}; is the server running?") from None
        finally:
            self._connecting -= 1
        self.opened += 1
        self._open.add(connection)
        return connection

    def _free(self, connection: _Connection) -> None:
        while self._waiting:
            call = self._waiting.popleft()
            if not call.over:
                connection.start(call)
                return
        self._idle.append(connection)

    def _lost(self, connection: _Connection, call: _Call | None, error: str, unused: bool) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if call is not None and not call.over:
            if unused and not call.retried and not self._closed:
                # The server closed a kept connection just as it was used again: it has not seen the request.
                call.retried = True
                self._place(call)
            else:
                self._finish(call, 0, b"", error)
        self._place_waiting()

    def _place_waiting(self) -> None:
        while self._waiting and len(self._open) + self._connecting < self._max and not self._closed:
            waiting = self._waiting.popleft()
            if not waiting.over:
                self._place(waiting)

    def _time_out(self, call: _Call, timeout_s: float) -> None:
        connection = call.connection
        if call.waited and math.isnan(call.sent_s):
            error = f"never sent: all {self._max} connections of the client were in use"
        else:
            error = f"no answer within {timeout_s:g} s"
        self._finish(call, 0, b"", error)
        if connection is not None:
            connection.abort()

    def _finish(self, call: _Call, status: int, body: bytes, error: str = "") -> None:
        if call.over:
            return
        call.over = True
        call.connection = None
        if call.timer is not None:
            call.timer.cancel()
        call.done(Reply(status, body, call.sent_s, error, call.waited, call.first_s))


class _Connection(asyncio.Protocol):
    """One kept connection, at most one request at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._call: _Call | None = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._size = 0
        self._used = False
        self._begun = False
        self._transport: Any = None
        self._loop = asyncio.get_running_loop()

    def start(self, call: _Call) -> None:
        self._call = call
        call.connection = self
        call.sent_s = self._loop.time()
        self._begun = False
        self._transport.write(call.frame)

    def abort(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._give_up(f"the answer is not HTTP/1.1: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        call, self._call = self._call, None
        error = f"the connection was closed before the answer was complete{f': {exc}' if exc else ''}"
        self._client._lost(self, call, error, self._used and not self._begun)

    def on_body(self, data: bytes) -> None:
        if not self._size and self._call is not None:
            self._call.first_s = self._loop.time()
        self._size += len(data)
        if self._size > self._client.max_bytes:
            self._give_up(f"the answer is larger than {self._client.max_bytes} bytes")
        elif self._client.keep_body:
            self._body.append(data)

    def on_message_complete(self) -> None:
        call, self._call = self._call, None
        status = self._parser.get_status_code()
        keep = self._parser.should_keep_alive()
        body = b"".join(self._body)
        self._body, self._size, self._used = [], 0, True
        if call is not None:
            self._client._finish(call, status, body)
        if keep and not self._transport.is_closing():
            self._client._free(self)
        else:
            self._transport.close()

    def _give_up(self, error: str) -> None:
        call, self._call = self._call, None
        if call is not None:
            self._client._finish(call, 0, b"", error)
        self._transport.abort()
