"""What a worker process prints, read from its pipe."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable
from typing import Any

_TAIL_LINES = 8
_MAX_LINE_BYTES = 4096


class Printed(asyncio.Protocol):
    """What the process prints: passed on line by line, the last lines kept for the message when it dies."""

    def __init__(self, prefix: str, log: Callable[[str], None]) -> None:
        self.tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        self._prefix = prefix
        self._log = log
        self._rest = b""
        self._closed = asyncio.Event()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._pass_on(line)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest:
            self._pass_on(self._rest)
        self._closed.set()

    async def ended(self, timeout_s: float) -> None:
        """Wait for the end of the output, but not for a grandchild that holds the pipe open."""
        if self._transport is not None and not self._closed.is_set():
            try:
                await asyncio.wait_for(self._closed.wait(), timeout_s)
            except TimeoutError:
                self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _pass_on(self, line: bytes) -> None:
        text = line[:_MAX_LINE_BYTES].decode(errors="replace").rstrip()
        if text:
            self.tail.append(text)
            self._log(self._prefix + text)
