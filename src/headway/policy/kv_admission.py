"""When a request may join those that an engine serves: what its KV-cache memory must hold, and what if it is full.

All amounts of memory are in one unit, blocks or tokens. No rule knows how long an answer will be: the most that a
request was declared to need, or what a predictor expects, is what there is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

OPTIMISTIC, RESERVE, HEADROOM, PEAK = range(4)

RULES: dict[str, int] = {"optimistic": OPTIMISTIC, "reserve": RESERVE, "headroom": HEADROOM, "peak": PEAK}
"""Rules of admission by name; `fits` says what each is."""

SETTLE_ITERATIONS = 600
"""Iterations without a preemption after which headroom is back at its least (SGLang has as many)."""

Floats: TypeAlias = Sequence[float] | NDArray[np.float64]


class Admission(NamedTuple):
    """A rule and its knobs, as scalars; `admission` makes it by name.

    `watermark`: the share of memory that new requests leave free. `most_headroom`, `least_headroom`: tokens that are
    kept free for each running request, right after a preemption and when there was none for long.
    """

    code: int
    watermark: float = 0.01
    most_headroom: float = 64.0
    least_headroom: float = 0.0


class Memory(NamedTuple):
    """What an engine's memory holds: of `capacity`, `free`; `reserved`: the most its running requests may come to.

    `growth`: kept free for each running request (`headroom`); `peak`: the most that is predicted, the request that
    asks included. `running`: how many requests hold memory.
    """

    capacity: float
    free: float
    reserved: float
    growth: float
    peak: float
    running: int


def admission(
    name: str, *, watermark: float = 0.01, most_headroom: float = 64.0, least_headroom: float = 0.0
) -> Admission:
    """Return a rule by name. Raises ValueError for a name or a value that is not valid.

    >>> admission("reserve").code == RESERVE
    True
    """
    if name not in RULES:
        raise ValueError(f"admission is {name!r}; valid: {', '.join(RULES)}")
    if not (0.0 <= watermark < 1.0 and 0.0 <= least_headroom <= most_headroom < math.inf):
        raise ValueError(
            f"admission {name!r}: watermark is a share below 1 and least_headroom is at most most_headroom; it has "
            f"{watermark!r}, {least_headroom!r} and {most_headroom!r}"
        )
    return Admission(RULES[name], float(watermark), float(most_headroom), float(least_headroom))


def fits(rule: Admission, need: float, most: float, memory: Memory) -> bool:
    """Return whether a request that needs `need` at once, and `most` in the end, may start.

    `optimistic`: what it needs is there and the watermark stays free (vLLM). `reserve`: the most that all may come to
    is there, so that nothing is ever preempted (TensorRT-LLM's guaranteed no-evict, TGI). `headroom`: as optimistic,
    with room for every running request to grow (in the manner of SGLang). `peak`: the predicted peak is there
    (LightLLM). An engine that serves nothing takes whatever it can hold.

    >>> memory = Memory(capacity=100.0, free=40.0, reserved=90.0, growth=0.0, peak=80.0, running=3)
    >>> [fits(admission(name), 20.0, 30.0, memory) for name in RULES]
    [True, False, True, True]
    """
    if memory.running == 0:
        return need <= memory.free
    left = memory.free - need
    if left < 0.0:
        return False
    if rule.code == RESERVE:
        return memory.reserved + most <= memory.capacity
    if rule.code == PEAK:
        return memory.peak <= memory.capacity
    keep = rule.watermark * memory.capacity
    if rule.code == HEADROOM:
        keep += memory.growth * (memory.running + 1)
    return left >= keep


def headroom_after(rule: Admission, headroom: float, iterations: int) -> float:
    """Return the headroom after so many iterations without a preemption: it falls in a straight line.

    >>> headroom_after(admission("headroom"), 64.0, 300)
    32.0
    """
    fall = (rule.most_headroom - rule.least_headroom) / SETTLE_ITERATIONS
    return max(rule.least_headroom, headroom - iterations * fall)


def predicted_peak(used: Floats, remaining: Floats, requests: int) -> float:
    """Return the most memory that the first `requests` will hold together when each grows by one at every step.

    Of the requests sorted by what is left to them, longest first: when the i-th ends, those up to it still hold what
    they had and i times as much as it had left (LightLLM, "past-future scheduler", ASPLOS 2025). Sorts both in place.

    >>> float(predicted_peak(np.array([10.0, 20.0]), np.array([5.0, 1.0]), 2))
    32.0
    """
    for at in range(1, requests):
        left, held = remaining[at], used[at]
        before = at
        while before > 0 and remaining[before - 1] < left:
            remaining[before], used[before] = remaining[before - 1], used[before - 1]  # type: ignore[index]
            before -= 1
        remaining[before], used[before] = left, held  # type: ignore[index]
    peak, held = 0.0, 0.0
    for at in range(requests):
        held += used[at]
        peak = max(peak, held + remaining[at] * (at + 1))
    return peak


def swaps(tokens: float, anew: float, token_s: float, swap_token_s: float) -> bool:
    """Return whether a preempted request's KV memory is copied out and back rather than computed anew: the cheaper.

    Of its `tokens` so many would be computed `anew`: those of a prefix that others use too stay cached.
    `swap_token_s`: seconds that a token's keys and values take to copy one way; infinite where there is no room.

    >>> swaps(1000.0, 1000.0, token_s=6e-5, swap_token_s=2e-5), swaps(1000.0, 100.0, 6e-5, 2e-5)
    (True, False)
    """
    return 2.0 * swap_token_s * tokens < token_s * anew
