"""What a worker process prints, read from its pipe."""

from __future__ import annotations

import asyncio
import collections
import os
from collections.abc import Callable
from typing import IO

_TAIL_LINES = 8
_MAX_LINE_BYTES = 4096
_READ_BYTES = 64 * 2**10


class Printed:
    """What the process prints: passed on line by line, the last lines kept for the message when it dies.

    The pipe's descriptor belongs to `pipe` alone. A transport would share it: uvloop's closes the number and lets the
    file close it once more, by when it may be the number of something else, another worker's socket for one.
    """

    def __init__(self, pipe: IO[bytes], prefix: str, log: Callable[[str], None]) -> None:
        self.tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        self._pipe = pipe
        self._prefix = prefix
        self._log = log
        self._rest = b""
        self._closed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        os.set_blocking(pipe.fileno(), False)
        self._loop.add_reader(pipe.fileno(), self._read)

    def _read(self) -> None:
        if self._closed.is_set():
            return
        try:
            data = os.read(self._pipe.fileno(), _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self.close()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._pass_on(line)

    async def ended(self, timeout_s: float) -> None:
        """Wait for the end of the output, but not for a grandchild that holds the pipe open."""
        try:
            await asyncio.wait_for(self._closed.wait(), timeout_s)
        except TimeoutError:
            self._read()  # what a process leaves in its pipe is one read, to which a busy loop may not have come
            self.close()

    def close(self) -> None:
        """Read no more; a line that was begun is passed on."""
        if self._closed.is_set():
            return
        self._loop.remove_reader(self._pipe.fileno())
        self._pipe.close()
        self._closed.set()
        if self._rest:
            self._pass_on(self._rest)

    def _pass_on(self, line: bytes) -> None:
        text = line[:_MAX_LINE_BYTES].decode(errors="replace").rstrip()
        if text:
            self.tail.append(text)
            self._log(self._prefix + text)
