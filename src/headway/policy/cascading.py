"""How a cascade decides: where an item begins, whether an answer is taken, which gear serves, when a batch is due."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

ALWAYS = -math.inf
"""The threshold of a step whose answer is taken whatever its certainty: that of the last step."""

Rates: TypeAlias = Sequence[float] | NDArray[np.float64]


@overload
def answers(certainty: float, threshold: float) -> bool: ...


@overload
def answers(certainty: NDArray[np.float64], threshold: float | NDArray[np.float64]) -> NDArray[np.bool_]: ...


def answers(certainty: float | NDArray[np.float64], threshold: float | NDArray[np.float64]) -> bool | NDArray[np.bool_]:
    """Return whether a step that is so certain of its answer gives it; else the next step is asked.

    A certainty that is not a number is never certain enough, except for a step that `ALWAYS` answers. Numbers and
    arrays alike, element by element (CascadeServe, arXiv 2406.14424; Willump, MLSys 2020).

    >>> answers(0.8, 0.8), answers(float("nan"), 0.8), answers(float("nan"), ALWAYS)
    (True, False, True)
    """
    return (certainty >= threshold) | (threshold == ALWAYS)


def next_gear(gear: int, rate_per_s: float, backlog: int, upper_rates_per_s: Rates, alpha_per_s: float) -> int:
    """Return the gear for the next window, from the rate measured in the last one and the items that wait.

    Gears stand from the dearest to the cheapest, each serving up to its upper rate, the last one whatever comes beyond.
    Toward a cheaper gear at once; toward a dearer one not while `rate_per_s < alpha_per_s * backlog`, so that a backlog
    is worked off first (CascadeServe, arXiv 2406.14424, section 4, which finds 8 good: 125 ms of arrivals may wait).

    >>> next_gear(1, 30.0, backlog=0, upper_rates_per_s=(40.0, 100.0), alpha_per_s=8.0)
    0
    >>> next_gear(1, 30.0, backlog=4, upper_rates_per_s=(40.0, 100.0), alpha_per_s=8.0)
    1
    """
    wanted, last = 0, len(upper_rates_per_s) - 1
    while wanted < last:
        middle = (wanted + last) // 2
        if rate_per_s > upper_rates_per_s[middle]:
            wanted = middle + 1
        else:
            last = middle
    if wanted < gear and rate_per_s < alpha_per_s * backlog:
        return gear
    return wanted


def gear_at(rate_per_s: float, upper_rates_per_s: Rates) -> int:
    """Return the gear that serves a rate when nothing waits.

    >>> [gear_at(rate, (40.0, 100.0)) for rate in (40.0, 41.0, 1000.0)]
    [0, 1, 1]
    """
    return next_gear(0, rate_per_s, 0, upper_rates_per_s, 0.0)


def first_step(hardness: float, skip: Rates) -> int:
    """Return at which step of a cascade an item begins that is known to be so hard before any model is asked.

    Step k is passed over from the hardness `skip[k]` on, which rises from step to step: clearly hard items skip the
    cheap steps (as HADIS, 2025, routes before it cascades). A hardness that is not a number begins at step 0.

    >>> [first_step(hardness, (0.5, 0.9)) for hardness in (0.4, 0.5, 0.95, float("nan"))]
    [0, 1, 2, 0]
    """
    step = 0
    while step < len(skip) and hardness >= skip[step]:
        step += 1
    return step


def due(
    queued: int, oldest_s: float, now_s: float, min_queue: int, max_wait_s: float, max_batch_size: int
) -> tuple[int, float]:
    """Return `(n, wake_at_s)`: how many queued items an idle device takes now; if 0, when to ask again.

    It takes all there are, as far as they fit into a batch, once `min_queue` wait (CascadeServe, section 3.4); sooner
    when a batch is full, or the oldest has waited `max_wait_s`, so that nothing starves when arrivals stop.

    >>> due(queued=3, oldest_s=1.0, now_s=1.0, min_queue=3, max_wait_s=0.5, max_batch_size=8)
    (3, 1.0)
    >>> due(queued=2, oldest_s=1.0, now_s=1.0, min_queue=3, max_wait_s=0.5, max_batch_size=8)
    (0, 1.5)
    """
    if queued <= 0:
        return 0, math.inf
    wake_at_s = oldest_s + max_wait_s
    if queued >= min(min_queue, max_batch_size) or now_s >= wake_at_s:
        return min(queued, max_batch_size), now_s
    return 0, wake_at_s
