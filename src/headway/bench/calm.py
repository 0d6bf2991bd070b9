"""Measurements are made while this machine's host leaves it its processors; what was disturbed is measured again.

One percent of a second is one tick of the clock by which a host counts what it takes, and one tick is all that it takes
to be a P99: such are measured in windows of a second, as many as are needed to find some that lost none.

On a virtual machine other guests take processor time that no process here can see or plan for. What is chosen by is
that share alone, never the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import TypeVar

from headway.serve.replay import STOLEN_SHARE
from headway.serve.system import ProcessorTimes

T = TypeVar("T")

ATTEMPTS = 4
CALM_WINDOWS, MOST_WINDOWS = 7, 40
"""How many windows that lost nothing are wanted, and in how many they are looked for."""
PAUSE_S = 20.0
"""How long after a disturbed measurement the next one begins: what others do comes and goes by minutes."""


def calmest(attempt: Callable[[], T], attempts: int = ATTEMPTS) -> tuple[T, float]:
    """Return what the first undisturbed of some attempts gave, else the least disturbed, and the host's share in it.

    Undisturbed: the host gave at most 1 % of the processors' time to others, or the system does not tell.

    >>> result, share = calmest(lambda: "measured", attempts=1)
    >>> result, 0 <= share <= 1
    ('measured', True)
    """
    best: tuple[T, float] | None = None
    for number in range(attempts):
        if number:
            time.sleep(PAUSE_S)
        begun = ProcessorTimes.now()
        result = attempt()
        ended = ProcessorTimes.now()
        share = ended.stolen_share(begun) if begun and ended else 0.0
        if best is None or share < best[1]:
            best = result, share
        if share <= STOLEN_SHARE:
            break
    assert best is not None
    return best


def are_calm(windows: Sequence[tuple[float, T]], enough: int = CALM_WINDOWS) -> bool:
    """Return whether enough windows, each with the share that the host took and what was measured, lost nothing.

    >>> are_calm([(0.0, 1.5), (0.005, 9.0)], enough=1)
    True
    """
    return sum(share == 0.0 for share, _ in windows) >= enough


def in_calmest(windows: Sequence[tuple[float, T]], enough: int = CALM_WINDOWS) -> list[T]:
    """Return what was measured in the calmest windows, by the share that the host took alone.

    >>> in_calmest([(0.0, 1.5), (0.005, 9.0), (0.0, 1.25)], enough=2)
    [1.5, 1.25]
    """
    return [measured for _, measured in sorted(windows, key=itemgetter(0))[:enough]]
