"""How a stage runs, as the event kernel and the admission policy are told: plain values, cheap to import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headway.sim.station import Floats


@dataclass(frozen=True)
class ReplicaGroup:
    """Equal replicas of one stage: `service_s[b, q]`, how many, and the pool of cores they compute on, if any.

    A stage has one group, or several when its replicas are unequal or come and go at different times. Of idle replicas
    the one with the least mean of its table goes first, among equals the one idle for longest.
    """

    service_s: Floats
    replicas: int
    from_s: float = -np.inf
    until_s: float = np.inf
    pool: str | None = None
    threads: int = 1


@dataclass(frozen=True)
class StageSetup:
    """How one stage runs: its groups of replicas, batching and queue bound (0: unbounded)."""

    groups: Sequence[ReplicaGroup]
    max_wait_s: float = 0.0
    queue_limit: int = 0
