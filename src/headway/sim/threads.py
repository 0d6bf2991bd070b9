"""Independent simulations side by side: kernels hold no lock and own their arrays, so threads are enough."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

Value = TypeVar("Value")
Result = TypeVar("Result")


@cache
def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), "headway-sim")


def in_threads(function: Callable[[Value], Result], values: Iterable[Value]) -> list[Result]:
    """Return `[function(value) for value in values]`, computed by as many threads as there are cores.

    `function` must not call `in_threads` itself.

    >>> in_threads(lambda value: value + 1, [1, 2, 3])
    [2, 3, 4]
    """
    return list(_threads().map(function, values))
