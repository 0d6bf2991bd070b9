"""Small, complete examples of what tuners are given, for docstrings and tests."""

from __future__ import annotations

import numpy as np

from headway.policy.envelopes import Band
from headway.policy.scaling import Observation, StageSeen, StageTerms, Terms

RATE_PER_S = 100.0


def example_band(rate_per_s: float = RATE_PER_S) -> Band:
    """Return the band of Poisson traffic whose fullest windows lay four standard deviations above their mean."""
    windows = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0])
    mean = rate_per_s * windows
    planned, least = np.floor(mean + 4.0 * np.sqrt(mean)), np.floor(np.maximum(mean - 4.0 * np.sqrt(mean), 0.0))
    return Band(windows, planned, planned, least, mean, mean)


def example_terms() -> Terms:
    """Return two stages for 100 requests per second; every other request reaches the second one."""
    stages = {
        "first": StageTerms(replicas=3, service_s=(0.0, 0.02), scale_factor=1.0, startup_s=5.0),
        "second": StageTerms(2, (0.0, 0.03, 0.04), scale_factor=0.5, startup_s=5.0, after=("first",)),
    }  # fmt: skip
    return Terms(RATE_PER_S, 0.3, example_band(), stages)


def steady(terms: Terms, level: float = 1.0, now_s: float = 60.0, seconds: float = 60.0) -> Observation:
    """Return what is seen of evenly spaced requests at a multiple of the planned rate, nothing waiting."""
    gap_s = 1.0 / (terms.rate_per_s * level)
    arrival_s = now_s - gap_s * np.arange(int(seconds / gap_s) - 1, -1, -1.0)
    stages = {name: StageSeen(ready=stage.replicas) for name, stage in terms.stages.items()}
    return Observation(now_s, now_s - seconds, arrival_s, stages)
