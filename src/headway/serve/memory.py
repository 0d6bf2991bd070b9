"""Memory that a burst of requests took is given back to the system once the burst has passed.

The C library keeps what is freed for what may come next, so that a server would stay as large as its worst minute was.
glibc gives it back when it is asked to; with another library nothing is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import Any

from headway.serve.system import resident_bytes

LOOK_S = 1.0
GROWN_BYTES = 1 << 20
"""Growth for which memory is given back once more: that takes some milliseconds in which nothing is served."""
CALM_RATIO = 4
"""A burst has passed when so many times fewer requests are in flight than at its height."""


@contextlib.asynccontextmanager
async def given_back(in_flight: Callable[[], int]) -> AsyncIterator[None]:
    """Give memory back whenever a burst of requests has passed, for the length of the block.

    It is looked at once a second how many are `in_flight`, so that no request pays for it.
    """
    task = asyncio.create_task(_give_back(in_flight))
    try:
        yield
    finally:
        task.cancel()


async def _give_back(in_flight: Callable[[], int]) -> None:
    kept = resident_bytes() if release() else None
    most = 0
    while kept is not None:
        await asyncio.sleep(LOOK_S)
        count, held = in_flight(), resident_bytes()
        most = max(most, count)
        if held is not None and held >= kept + GROWN_BYTES and count * CALM_RATIO <= most:
            release()
            kept, most = resident_bytes(), count


def release() -> bool:
    """Give this process' free memory back to the system; False where the C library cannot."""
    trim = _malloc_trim()
    if trim is None:
        return False
    # A closed connection and its parser hold each other, and the bodies that they have read.
    gc.collect()
    trim(0)
    return True


@cache
def _malloc_trim() -> Any:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    trim.argtypes = [ctypes.c_size_t]
    return trim
