"""Conformance suite of policies: pure decisions that the simulator compiles and the server calls.

Every check raises AssertionError with a sentence that says what is asked for.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from headway.sim.jit import kernel

Take = Callable[[int, float, float, int, float], tuple[int, float]]

STATES = tuple(
    (queued, oldest_s, now_s, size, wait_s)
    for queued, oldest_s, waited_s, size, wait_s in itertools.product(
        (0, 1, 2, 3, 7, 8, 100), (0.0, 3.25), (0.0, 0.125, 0.5, 2.0), (1, 3, 8), (0.0, 0.125, 1.0)
    )
    for now_s in (oldest_s + waited_s,)
)
"""Arguments of a batching policy: queued, oldest_arrival_s, now_s, max_batch_size, max_wait_s."""


def check_pure(policy: Callable[..., Any], states: Iterable[Sequence[Any]]) -> None:
    """The same state gives the same decision, in any order, and is left as it was; plain and compiled agree.

    >>> from headway.policy.admission import full
    >>> check_pure(full, [(3, 10), (10, 10), (3, 0)])
    """
    states = [tuple(state) for state in states]
    before = copy.deepcopy(states)
    first = [policy(*state) for state in states]
    again = [policy(*state) for state in reversed(states)][::-1]
    _require(first == again, "the same state gives another decision when it is asked again, in another order")
    _require(states == before, "a decision changes the state that it is given")
    compiled = kernel(policy)
    _require([compiled(*state) for state in states] == first, "compiled, the policy decides otherwise")


def check_batching(take: Take, states: Iterable[tuple[int, float, float, int, float]] = STATES) -> None:
    """A batching policy takes what is there, never more than fits, and is not asked in vain.

    >>> from headway.policy.batching import take
    >>> check_batching(take)
    """
    states = list(states)
    check_pure(take, states)
    for queued, oldest_s, now_s, size, wait_s in states:
        taken, wake_s = take(queued, oldest_s, now_s, size, wait_s)
        at = f"queued {queued}, oldest {oldest_s}, now {now_s}, max_batch_size {size}, max_wait_s {wait_s}"
        _require(0 <= taken <= min(queued, size), f"{at}: takes {taken}")
        if taken == 0:
            _require(wake_s > now_s, f"{at}: takes nothing, and asks again at {wake_s}, which is not later")
            _require(queued > 0 or math.isinf(wake_s), f"{at}: nothing waits, yet it asks again at {wake_s}")
        if queued >= size:
            _require(taken == size, f"{at}: a full batch waits, and {taken} are taken")
        if queued > 0 and (wait_s == 0.0 or now_s - oldest_s >= wait_s):
            _require(taken == min(queued, size), f"{at}: the oldest has waited long enough, and {taken} are taken")
        if taken == 0 and math.isfinite(wake_s):
            then, _ = take(queued, oldest_s, wake_s, size, wait_s)
            _require(then > 0, f"{at}: asked again at {wake_s} as it wished, it takes nothing")
        more, _ = take(queued + 1, oldest_s, now_s, size, wait_s)
        _require(more >= taken, f"{at}: with one more queued it takes {more} instead of {taken}")


def check_admission(full: Callable[[int, int], bool], limits: Iterable[int] = (0, 1, 2, 10)) -> None:
    """A bound of a queue lets in below it, refuses at it, and goes on refusing above it.

    >>> from headway.policy.admission import full
    >>> check_admission(full)
    """
    for limit in limits:
        refused = [bool(full(queued, limit)) for queued in range(2 * limit + 3)]
        _require(refused == sorted(refused), f"limit {limit}: a longer queue is let in where a shorter one is refused")
        let_in = refused.count(False)
        expected = limit if limit > 0 else len(refused)
        _require(let_in == expected, f"limit {limit}: the queue grows to {let_in}")


def _require(holds: bool, text: str) -> None:
    if not holds:
        raise AssertionError(text)
