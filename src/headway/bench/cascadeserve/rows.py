"""One figure of the evaluation: a system on one problem."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Result:
    """One system on one problem of an experiment.

    `given` is the number of devices that it was given, 0 where the fewest were looked for; `at_s` the moment of a
    series, else 0. `devices` are held at most, `mean_devices` on average: they differ with autoscaling alone.
    `accuracy` is that on the samples that plans are judged on, `tested_accuracy` on samples that no plan was made
    from; `seconds` is what planning took. What does not apply, or is not to be had, is None. `inputs` is a hash of
    profile, table, traffic and sizes, by which stale rows are known.
    """

    experiment: str
    traffic: str
    floor: float
    latency_s: float
    given: int
    system: str
    at_s: float
    seed: int
    rate_per_s: float | None = None
    devices: float | None = None
    mean_devices: float | None = None
    accuracy: float | None = None
    tested_accuracy: float | None = None
    p95_s: float | None = None
    seconds: float | None = None
    inputs: str = ""
    date: str = ""
    machine: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells this row from all others."""
        return tuple(getattr(self, name) for name in _KEY)


_KEY = [field.name for field in dataclasses.fields(Result)][:8]
