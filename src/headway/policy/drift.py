"""What the work of a stage has become, against what the plan took it for: service times and scale factors, from counts.

A deviation counts when it exceeds `TOLERANCE` and what chance can do to the number of observations at hand.
"""

from __future__ import annotations

import math

import numpy as np

from headway.policy.scaling import StageSeen, StageTerms

TOLERANCE = 0.10
"""Deviations that a plan's own headroom is there for."""
Z = 5.0
SERVICE_CV = 0.5
"""Coefficient of variation that service times are granted; of a batch they vary less as a rule."""


def service_ratio(stage: StageTerms, seen: StageSeen) -> float:
    """Return how much longer batches take than profiled, 1.0 while that may be chance.

    The mean batch's profiled latency, interpolated between sizes, is what the observed mean is set against.

    >>> stage = StageTerms(1, (0.0, 0.1), 1.0, 5.0)
    >>> round(service_ratio(stage, StageSeen(ready=1, batches=400, items=400, busy_s=60.0)), 6)
    1.5
    """
    if not seen.batches:
        return 1.0
    size = seen.items / seen.batches
    expected_s = float(np.interp(size, np.arange(len(stage.service_s)), stage.service_s)) if size >= 1 else 0.0
    if expected_s <= 0.0:
        return 1.0
    return _significant(seen.busy_s / seen.batches / expected_s, SERVICE_CV / math.sqrt(seen.batches))


def scale_ratio(stage: StageTerms, seen: StageSeen, requests: int) -> float:
    """Return how many more items a request brings to a stage than planned, 1.0 while that may be chance.

    >>> stage = StageTerms(1, (0.0, 0.1), 0.5, 5.0)
    >>> scale_ratio(stage, StageSeen(ready=1, arrived=3000), 4000)
    1.5
    """
    expected = requests * stage.scale_factor
    if expected <= 0.0:
        return 1.0
    return _significant(seen.arrived / expected, 1.0 / math.sqrt(expected))


def _significant(ratio: float, deviation: float) -> float:
    return ratio if abs(ratio - 1.0) > TOLERANCE + Z * deviation else 1.0
