"""Memory that a server and one of its workers share: large payloads pass through it instead of through their socket.

A socket holds some 200 KiB, so that a payload of megabytes makes the two processes wait for each other many times.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from collections.abc import Sequence
from typing import Final, Literal

from headway.errors import ServeError

AREA_BYTES: Final = 64 * 2**20
FROM_BYTES: Final = 128 * 2**10
"""From this size on a body goes through shared memory; below, a socket is as quick."""
KEPT_BODIES: Final = 16
"""What so many bodies in turn have not needed of an area is given back: a rare large one does not hold it for good."""


def create() -> int | None:
    """Return the descriptor of new memory for `Shared`, or None where the system has none of this kind.

    Its pages are taken when they are first written to, and given back when both processes have ended or closed it.
    """
    if sys.platform != "linux":
        return None
    try:
        descriptor = os.memfd_create("headway", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, 2 * AREA_BYTES)
    except OSError:
        return None
    return descriptor


class Shared:
    """One process' view: an area that it writes to and one that it reads from, each for one body at a time."""

    def __init__(self, descriptor: int, side: Literal["server", "worker"]) -> None:
        self._map = mmap.mmap(descriptor, 2 * AREA_BYTES)
        os.close(descriptor)
        view = memoryview(self._map)
        areas = view[:AREA_BYTES], view[AREA_BYTES:]
        self._outgoing, self._incoming = areas if side == "server" else areas[::-1]
        self._begin = 0 if side == "server" else AREA_BYTES
        self._held = self._largest = self._bodies = 0

    def put(self, buffers: Sequence[bytes]) -> None:
        """Lay a body into the outgoing area; it is `FROM_BYTES` to `AREA_BYTES` long in all."""
        at = 0
        for part in buffers:
            self._outgoing[at : at + len(part)] = part
            at += len(part)
        self._largest = max(self._largest, at)
        self._bodies += 1
        if self._bodies == KEPT_BODIES:
            self._give_back()

    def body(self, size: int) -> memoryview:
        """Return the body in the incoming area, to be read before the next one comes. Raises ServeError."""
        if size > AREA_BYTES:
            raise ServeError(f"a frame's body of {size} bytes does not fit the {AREA_BYTES} bytes of shared memory")
        return self._incoming[:size]

    def _give_back(self) -> None:
        """Give back the pages behind the largest of the last bodies, up to the largest of those before them."""
        kept = -(-self._largest // mmap.PAGESIZE) * mmap.PAGESIZE
        if kept < self._held:
            self._map.madvise(mmap.MADV_REMOVE, self._begin + kept, self._held - kept)
        self._held, self._largest, self._bodies = kept, 0, 0

    def close(self) -> None:
        """Give the memory back, as far as this process holds it."""
        with contextlib.suppress(BufferError):  # a part may still be looked at; it goes with its last reader
            self._outgoing.release()
            self._incoming.release()
            self._map.close()
