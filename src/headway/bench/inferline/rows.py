"""One figure of the evaluation: a system in a cell of an experiment."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Result:
    """One system in one cell of an experiment, planned and served once.

    `cost_usd` is dollars per hour of a plan, or dollars over the run where a tuner changes it. It is None, like the
    miss rates, where the system finds no plan. `mean_miss_rate` is served with every batch taking its mean, as the
    paper's estimator has it. `inputs` is a hash of spec, profile, traces and sizes, by which stale rows are known.
    """

    experiment: str
    workload: str
    pipeline: str
    rate_per_s: float
    cv: float
    slo_ms: float
    gpu_usd_per_hour: float
    item_share: float
    system: str
    seed: int
    cost_usd: float | None
    miss_rate: float | None
    mean_miss_rate: float | None
    gap_ratio: float | None
    inputs: str
    date: str = ""
    machine: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells this row from all others."""
        return tuple(getattr(self, name) for name in _KEY)


_KEY = [field.name for field in dataclasses.fields(Result)][:10]
