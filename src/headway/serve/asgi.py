"""One HTTP request that an ASGI application answers, on a connection of the server's own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, MutableMapping
from typing import Any, Protocol
from urllib.parse import unquote

import httptools

from headway.serve.app import App
from headway.serve.message import Message, head

log = logging.getLogger(__name__)

_FAILED = b'{"error":"the server failed; its log says why"}'


class ConnectionLike(Protocol):
    """What an exchange needs of its connection."""

    @property
    def addresses(self) -> tuple[Any, Any]:
        """Client and server."""
        ...

    def keeps(self, message: Message) -> bool:
        """Whether the connection stays open after the answer."""
        ...

    def write(self, data: bytes) -> None:
        """Send a part of the answer."""
        ...

    def ended(self, message: Message, keep: bool) -> None:
        """Take note that the answer is complete; without `keep` the connection is closed."""
        ...


class Exchange:
    """A request and its answer. Answers without a length are sent in chunks."""

    def __init__(self, connection: ConnectionLike, message: Message) -> None:
        self._connection = connection
        self._message = message
        self._start: MutableMapping[str, Any] | None = None
        self._begun = False
        self._complete = False
        self._chunked = False
        self._keep = True
        self._body: bytes | None = message.body
        self._gone = asyncio.Event()

    async def run(self, app: App) -> None:
        """Have the application answer; whatever goes wrong there, the client hears of it."""
        try:
            await app(self._scope(), self._receive, self._send)
        except Exception:
            log.exception("%s %s failed", self._message.method.decode("latin-1"), self._message.url.decode("latin-1"))
        if not self._complete:
            if self._begun or self._gone.is_set():
                self._finish(keep=False)
            else:
                await self._send({"type": "http.response.start", "status": 500, "headers": []})
                await self._send({"type": "http.response.body", "body": _FAILED})

    def disconnected(self) -> None:
        """Take note that the client went away, or sends no more: the application hears of it when it asks."""
        self._gone.set()

    def _scope(self) -> MutableMapping[str, Any]:
        message = self._message
        try:
            url = httptools.parse_url(message.url)
            path, query = url.path or b"/", url.query or b""
        except httptools.HttpParserInvalidURLError:
            path, query = message.url, b""
        client, server = self._connection.addresses
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": message.http_version,
            "server": server,
            "client": client,
            "scheme": "http",
            "root_path": "",
            "method": message.method.decode("latin-1"),
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "headers": message.headers,
        }

    async def _receive(self) -> MutableMapping[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, event: MutableMapping[str, Any]) -> None:
        if event["type"] == "http.response.start":
            self._start = event
            return
        if self._start is None or self._complete:
            return
        body, more = event.get("body", b""), event.get("more_body", False)
        first = not self._begun
        if first:
            self._begun = True
            self._write_head(list(self._start["headers"]), len(body), more)
        if self._message.method != b"HEAD" and body:
            self._connection.write(b"%x\r\n%b\r\n" % (len(body), body) if self._chunked else body)
        if not more:
            if self._chunked:
                self._connection.write(b"0\r\n\r\n")
            self._finish(self._keep)

    def _write_head(self, headers: list[tuple[bytes, bytes]], size: int, more: bool) -> None:
        assert self._start is not None
        self._keep = self._connection.keeps(self._message) and (b"connection", b"close") not in headers
        if not _has(headers, b"content-length"):
            if not more:
                headers.append((b"content-length", b"%d" % size))
            elif self._message.http_version == "1.0":
                self._keep = False
            elif self._message.method != b"HEAD":
                self._chunked = True
                headers.append((b"transfer-encoding", b"chunked"))
        self._connection.write(head(self._start["status"], headers, self._message.http_version, self._keep))

    def _finish(self, keep: bool) -> None:
        self._complete = True
        self._connection.ended(self._message, keep)


def _has(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bool:
    return any(found.lower() == name for found, _ in headers)
