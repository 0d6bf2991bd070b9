"""InferLine's tuner as published (SoCC'20, section 5), as a baseline.

What the paper leaves open is settled here, and nowhere in favor of another tuner:

- The top window is exactly 60 s. Shorter histories only hold fewer requests: nothing special is done at the start.
- `R = ceil(x - epsilon)`: at the planned rate the formula gives the planned replicas.
- Counts are compared, not rates: a window exceeds when it holds at least one request more than the plan's.
- At least one replica per stage, at most what supply allows.
- Scale factors and throughputs stay those of the plan.
- Scaling down looks at 30 s of watched traffic; before so much has been watched it waits.
- After a scale-down below the plan, the envelope in force is the plan's at that lower rate. Against the plan's own
  envelope, traffic that comes back to what was planned would exceed nothing, and capacity would stay down.
- 15 s without change are asked for before a scale-down only; a scale-up never waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from headway.policy.envelopes import most_in_buckets, running_counts
from headway.policy.scaling import Decision, Observation, StageTerms, Terms, hold, require, told

QUIET_S = 15.0
"""Seconds after any change before replicas are taken away: three times the 5 s that one takes to start (5.4)."""
DOWN_LOOK_BACK_S = 30.0
DOWN_BUCKET_S = 5.0


@dataclass(frozen=True, slots=True)
class Memory:
    """When something was last changed, and for which traffic, relative to the plan's, replicas are provided."""

    changed_s: float
    level: float = 1.0


@dataclass(frozen=True, slots=True)
class InferLine:
    """Up at once when the running envelope exceeds the planned one; down from the busiest 5 s of the last 30 s.

    Up: `R = ceil(r_max s / (mu rho_m))` with `r_max` the highest exceeding rate. Down: the same with the rate of the
    busiest bucket and the lowest `rho` of all stages. Raises ValueError for a `quiet_s` that is not 0 or more.
    """

    terms: Terms
    quiet_s: float = QUIET_S

    def __post_init__(self) -> None:
        require("quiet_s", self.quiet_s, "s")

    @property
    def name(self) -> str:
        """`inferline`."""
        return "inferline"

    def decide(self, observation: Observation, memory: Memory | None) -> tuple[Decision, Memory]:
        """Return what to do now."""
        memory = memory or Memory(observation.since_s)
        rate, excess = self.exceeding(observation, memory.level)
        if excess:
            return self._up(observation, memory, rate)
        rested = observation.now_s - memory.changed_s >= self.quiet_s
        if rested and observation.now_s - observation.since_s >= DOWN_LOOK_BACK_S:
            return self._down(observation, memory)
        return hold(observation), memory

    def exceeding(self, observation: Observation, level: float) -> tuple[float, bool]:
        """Return the highest rate among windows that hold more than the envelope in force, and whether any does."""
        band = self.terms.band
        counts = running_counts(observation.arrival_s, observation.now_s, band.windows_s)
        over = counts > np.floor(band.planned * min(level, 1.0) + 1e-9)
        rates = np.where(over, counts / band.windows_s, 0.0)
        return float(rates.max(initial=0.0)), bool(over.any())

    def needed(self, stage: StageTerms, rate_per_s: float, rho: float) -> int:
        """Return the replicas for a rate of requests at a utilization (section 5.3)."""
        return stage.capped(rate_per_s * stage.scale_factor / (stage.throughput_per_s * rho))

    def _up(self, observation: Observation, memory: Memory, rate: float) -> tuple[Decision, Memory]:
        planned = self.terms.rate_per_s
        replicas = {
            name: max(observation.stages[name].held, self.needed(stage, rate, stage.max_provisioning(planned)))
            for name, stage in self.terms.stages.items()
        }
        level = max(memory.level, rate / planned)
        ready_s = max(stage.startup_s for stage in self.terms.stages.values())
        text = f"the running envelope exceeds the planned one: {rate:.4g} requests/s in its steepest exceeding window"
        decision = told(
            observation, replicas, text, values={"rate_per_s": rate}, expected={"ready_s": ready_s, "rate_per_s": rate}
        )  # fmt: skip
        return decision, self._remember(decision, observation, memory, level)

    def _down(self, observation: Observation, memory: Memory) -> tuple[Decision, Memory]:
        most = most_in_buckets(observation.arrival_s, observation.now_s, DOWN_LOOK_BACK_S, DOWN_BUCKET_S)
        rate, planned = most / DOWN_BUCKET_S, self.terms.rate_per_s
        rho = min(stage.max_provisioning(planned) for stage in self.terms.stages.values())
        replicas: Mapping[str, int] = {
            name: min(observation.stages[name].held, self.needed(stage, rate, rho))
            for name, stage in self.terms.stages.items()
        }
        text = f"the busiest {DOWN_BUCKET_S:g} s of the last {DOWN_LOOK_BACK_S:g} s had {rate:.4g} requests/s"
        decision = told(observation, replicas, text, values={"rate_per_s": rate}, expected={"rate_per_s": rate})
        return decision, self._remember(decision, observation, memory, rate / planned)

    def _remember(self, decision: Decision, observation: Observation, memory: Memory, level: float) -> Memory:
        return Memory(observation.now_s, level) if decision.acts else memory
