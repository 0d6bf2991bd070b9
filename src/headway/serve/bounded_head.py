"""Refusing requests whose header is too large, before it is kept: uvicorn itself sets no bound."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LINGER_S = 1.0
_TEXT = b'{"error":"the request line and headers are larger than %d bytes, the most that this server takes"}'
_HEAD = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n"
)


class _TooLarge(Exception):
    """Stops the parser."""


def bounded_head(max_bytes: int) -> type[asyncio.Protocol]:
    """Return uvicorn's HTTP protocol with a bound on request line and headers: beyond it 431, and no request.

    >>> issubclass(bounded_head(65536), HttpToolsProtocol)
    True
    """

    class BoundedHead(HttpToolsProtocol):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._heads = 0
            self._in_head = True
            self._raw_bytes = 0
            self._kept_bytes = 0
            self._refused = False

        def data_received(self, data: bytes) -> None:
            if self._refused:
                return
            before = self._heads
            super().data_received(data)
            # A header that never ends reaches no callback; what else came with its beginning is not told apart.
            if self._in_head and self._heads == before and not self._refused:
                self._raw_bytes += len(data)
                if self._raw_bytes > max_bytes:
                    self._refuse()

        def on_message_begin(self) -> None:
            self._heads += 1
            self._in_head, self._raw_bytes, self._kept_bytes = True, 0, 0
            super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            self._keep(len(url))
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._keep(len(name) + len(value))
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._in_head = False
            super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            if self._kept_bytes > max_bytes:
                self._refuse()
            else:
                super().send_400_response(msg)

        def _keep(self, size: int) -> None:
            self._kept_bytes += size
            if self._kept_bytes > max_bytes:
                raise _TooLarge

        def _refuse(self) -> None:
            self._refused = True
            text = _TEXT % max_bytes
            self.transport.write(_HEAD % len(text) + text)
            # Closing with data unread would reset the connection and take the answer away from the client.
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self.loop.call_later(LINGER_S, self.transport.close)

    return BoundedHead
