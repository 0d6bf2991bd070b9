"""What many connections need of the operating system: timers that keep their microseconds, and file descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import selectors
import sys
from collections.abc import Iterator

RESERVE = 32
"""File descriptors left to everything but connections."""
_SELECT_END = 1024


def precise_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop that wakes to the microsecond, however many connections it watches.

    >>> loop = precise_loop()
    >>> loop.run_until_complete(asyncio.sleep(0, "awake")), loop.close()
    ('awake', None)
    """
    if sys.platform == "linux":
        return asyncio.SelectorEventLoop(_PreciseEpoll())
    return asyncio.new_event_loop()


if sys.platform == "linux":

    class _PreciseEpoll(selectors.EpollSelector):
        """Waits with `select` for `epoll` itself: alone, the latter rounds waits up to milliseconds.

        `select` cannot watch descriptors from 1024 on, but `epoll`'s own is one of the first that a process opens.
        """

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            if timeout is None or timeout <= 0 or self.fileno() >= _SELECT_END:
                return super().select(timeout)
            select.select([self.fileno()], [], [], timeout)
            return super().select(0)


@contextlib.contextmanager
def descriptors(wanted: int) -> Iterator[int]:
    """Raise this process' limit of open files until `wanted` more can be opened, or as far as the system lets it.

    Yields how many there are, at most `wanted`; the former limit holds again afterwards.

    >>> with descriptors(8) as found:
    ...     found
    8
    """
    try:
        import resource
    except ImportError:
        yield wanted
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = _open_files() + RESERVE
    limit = soft
    if soft != resource.RLIM_INFINITY and soft < used + wanted:
        limit = used + wanted if hard == resource.RLIM_INFINITY else min(hard, used + wanted)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (OSError, ValueError):
            limit = soft
    try:
        yield wanted if limit == resource.RLIM_INFINITY else max(1, min(wanted, limit - used))
    finally:
        if limit != soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _open_files() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return RESERVE
