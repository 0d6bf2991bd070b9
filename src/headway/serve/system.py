"""What serving and measuring need of the operating system: precise timers, file descriptors, processors, memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import selectors
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

RESERVE = 32
"""File descriptors left to everything but connections."""
_SELECT_END = 1024
_STAT = Path("/proc/stat")


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


def untaken(transport: Any) -> int:
    """Return how many bytes written to a transport the other side has not taken yet, as far as the system tells."""
    held, found = int(transport.get_write_buffer_size()), transport.get_extra_info("socket")
    try:
        import fcntl
        import termios

        queued = fcntl.ioctl(found.fileno(), termios.TIOCOUTQ, bytes(4))
    except (ImportError, AttributeError, OSError):
        return held
    return held + int.from_bytes(queued, sys.byteorder)


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


class ProcessorTimes(NamedTuple):
    """Seconds of all processors since the machine was started: working, idle, and taken away by the machine's host."""

    busy_s: float
    idle_s: float
    stolen_s: float

    @classmethod
    def now(cls) -> ProcessorTimes | None:
        """Return the times up to now; None where the system does not tell them.

        >>> times = ProcessorTimes.now()
        >>> times is None or times.busy_s > 0
        True
        """
        try:
            ticks = [int(word) for word in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
            user, nice, system, idle, waiting, irq, soft_irq, stolen = ticks
        except (OSError, ValueError):
            return None
        second = os.sysconf("SC_CLK_TCK")
        return cls((user + nice + system + irq + soft_irq) / second, (idle + waiting) / second, stolen / second)

    def stolen_share(self, since: ProcessorTimes) -> float:
        """Return which share of the processors' time the host gave to others since then.

        >>> ProcessorTimes(2.0, 1.0, 1.0).stolen_share(ProcessorTimes(0.0, 0.0, 0.0))
        0.25
        """
        passed_s = sum(self) - sum(since)
        return (self.stolen_s - since.stolen_s) / passed_s if passed_s > 0 else 0.0


def resident_bytes(pid: int | None = None) -> int | None:
    """Return the resident memory of a process, this one unless another is named; None where the system does not tell.

    >>> held = resident_bytes()
    >>> held is None or held > 1 << 20
    True
    """
    try:
        pages = Path(f"/proc/{'self' if pid is None else pid}/statm").read_text().split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
