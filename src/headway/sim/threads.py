"""Independent simulations side by side: kernels hold no lock and own their arrays, so threads are enough."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Value = TypeVar("Value")
Result = TypeVar("Result")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(
    function: Callable[[Value], Result], values: Sequence[Value], threads: int | None = None
) -> list[Result]:
    """Return `[function(value) for value in values]`, computed in up to `threads` threads (default: one per core).

    The first value is computed alone, so that what is compiled or cached on first use is there for the others.

    >>> in_threads(lambda value: value + 1, [1, 2, 3])
    [2, 3, 4]
    """
    count = min(threads if threads is not None else cores(), len(values) - 1)
    if count <= 1:
        return [function(value) for value in values]
    first = function(values[0])
    with ThreadPoolExecutor(count) as pool:
        return [first, *pool.map(function, values[1:])]
