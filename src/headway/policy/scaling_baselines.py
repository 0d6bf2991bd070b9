"""Tuners to compare with: AutoScale, DS2, a reactive threshold as the Kubernetes autoscaler has it, and none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from headway.policy.scaling import (
    EPSILON,
    LOOK_BACK_S,
    Decision,
    Memory,
    Observation,
    StageSeen,
    StageTerms,
    Terms,
    hold,
    require,
    told,
)


@dataclass(frozen=True, slots=True)
class Nothing:
    """Leaves the plan as it is."""

    terms: Terms

    @property
    def name(self) -> str:
        """`none`."""
        return "none"

    def decide(self, observation: Observation, memory: Memory) -> tuple[Decision, Memory]:
        """Return that nothing is to be done."""
        return hold(observation), memory


@dataclass(frozen=True, slots=True)
class Needs:
    """AutoScale's memory: until when each number of replicas was needed last, by stage."""

    last_s: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AutoScale:
    """AutoScale (Gandhi et al., TOCS 2012): up as soon as the need exceeds capacity, down only after long idleness.

    A stage's need is what the rate of requests takes when every replica carries `unit_ratio` times its share of the
    planned rate, by default as much as it can within the promise: AutoScale measures that beforehand, here the plan's
    headroom tells it. At 1 a replica carries what the plan gave it, and what the plan has to spare stays spare.
    That is the tuner that InferLine is compared with. The full AutoScale (`by_items`) also counts the items that are
    in the stage, at as many per replica as it can finish in time, and so notices slow servers and large requests.
    Items go to the lowest-numbered replicas first, so that number k idles exactly while the need is below k; it is
    given up after idling for `wait_s` (120 s in the paper, from a set-up time of 260 s). `rate_window_s` is how long
    requests are counted for the rate (InferLine's buckets). Raises ValueError for a number out of its range.
    """

    terms: Terms
    wait_s: float = 120.0
    rate_window_s: float = 5.0
    unit_ratio: float | None = None
    by_items: bool = False

    def __post_init__(self) -> None:
        require("wait_s", self.wait_s, "s")
        require("rate_window_s", self.rate_window_s, "s", above=True, most=LOOK_BACK_S)
        if self.unit_ratio is not None:
            require("unit_ratio", self.unit_ratio, least=1.0)

    @property
    def name(self) -> str:
        """`autoscale`."""
        return "autoscale"

    def decide(self, observation: Observation, memory: Needs | None) -> tuple[Decision, Needs]:
        """Return what to do now."""
        memory = memory or Needs()
        now_s, last_s, replicas = observation.now_s, {}, {}
        for name, stage in self.terms.stages.items():
            seen = observation.stages[name]
            need = self.need(stage, seen, observation.rate_per_s(self.rate_window_s))
            kept = list(memory.last_s.get(name, ()))
            kept += [now_s] * (max(need, seen.held) - len(kept))
            kept[:need] = [now_s] * need
            while len(kept) > need and now_s - kept[-1] >= self.wait_s:
                kept.pop()
            last_s[name], replicas[name] = tuple(kept), len(kept)
        counted = "the rate and the items in the system need" if self.by_items else "the rate needs"
        text = f"replicas that {counted}, or needed in the last {self.wait_s:g} s"
        ready_s = max(stage.startup_s for stage in self.terms.stages.values())
        return told(observation, replicas, text, expected={"ready_s": ready_s}), Needs(last_s)

    def need(self, stage: StageTerms, seen: StageSeen, rate_per_s: float) -> int:
        """Return the replicas that a stage needs now."""
        unit_ratio = self.terms.headroom_ratio if self.unit_ratio is None else self.unit_ratio
        by_rate = stage.replicas * rate_per_s / (self.terms.rate_per_s * max(1.0, unit_ratio))
        by_items = (seen.queued + seen.in_service) / self.items_within_promise(stage)
        return stage.capped(max(by_rate, by_items if self.by_items else 0.0))

    def items_within_promise(self, stage: StageTerms) -> float:
        """Return how many items one replica can hold and still finish within its share of the promise.

        A stage's share is that of a full batch's latency in the sum over all stages.
        """
        path_s = sum(other.service_s[-1] for other in self.terms.stages.values())
        share_s = self.terms.slo_s * stage.service_s[-1] / path_s
        return max(1.0, math.floor(share_s / stage.service_s[-1] + EPSILON)) * stage.max_batch_size


@dataclass(frozen=True, slots=True)
class Ds2:
    """DS2 (Kalavri et al., OSDI 2018): replicas from true processing rates, walking the graph from its sources.

    Every `interval_s` each stage gets `ceil(target rate / true rate of one replica)`: its target is what its parents
    put out at theirs, the true rate is items over seconds of useful work. DS2 knows averages only: no promise, no
    batching of its own, no headroom. `pause_s`: Flink stops the job to rescale it; 0 is an ideal DS2. Raises ValueError
    for a number out of its range.
    """

    terms: Terms
    interval_s: float = 10.0
    pause_s: float = 0.0

    def __post_init__(self) -> None:
        require("interval_s", self.interval_s, "s", above=True, most=LOOK_BACK_S)
        require("pause_s", self.pause_s, "s")

    @property
    def name(self) -> str:
        """`ds2`."""
        return "ds2"

    def decide(self, observation: Observation, memory: float | None) -> tuple[Decision, float]:
        """Return what to do now; the memory is when it last looked."""
        last_s = observation.since_s if memory is None else memory
        if observation.now_s - last_s < self.interval_s - EPSILON:
            return hold(observation), last_s
        rate = observation.rate_per_s(self.interval_s)
        requests, replicas = observation.arrival_s.size, {}
        for name, stage in self.terms.stages.items():
            seen = observation.stages[name]
            useful = seen.busy_s > 0 and seen.items > 0
            true_rate = seen.items / seen.busy_s if useful else 1.0 / stage.service_s[1]
            factor = seen.arrived / requests if requests and seen.arrived else stage.scale_factor
            replicas[name] = stage.capped(rate * factor / true_rate)
        text = f"average rate of {rate:.4g} requests/s over {self.interval_s:g} s and true processing rates"
        decision = told(observation, replicas, text, expected={"ready_s": self._ready_s, "rate_per_s": rate})
        paused = self.pause_s if decision.acts else 0.0
        return replace(decision, pause_s=paused), observation.now_s

    @property
    def _ready_s(self) -> float:
        return max(stage.startup_s for stage in self.terms.stages.values())


@dataclass(frozen=True, slots=True)
class Wanted:
    """The threshold tuner's memory: when it last looked, and what it wanted at each look that still counts."""

    looked_s: float
    wanted: tuple[tuple[float, Mapping[str, int]], ...] = ()


@dataclass(frozen=True, slots=True)
class Threshold:
    """A reactive threshold, like Kubernetes' HorizontalPodAutoscaler with its default behavior.

    Every `sync_s` each stage wants `ceil(ready * utilization / target)`, unless the ratio is within `tolerance` of one;
    the target is the utilization that the plan chose. Up goes at once, by at most twice the replicas (or 4 more) per
    look; down to the most that was wanted in the last `stabilization_s`. Defaults are Kubernetes' own: 15 s, 10 %,
    300 s. Utilization saturates at one, so that a stage at 100 % grows by steps. Raises ValueError for a number out of
    its range.
    """

    terms: Terms
    sync_s: float = 15.0
    tolerance: float = 0.1
    stabilization_s: float = 300.0

    def __post_init__(self) -> None:
        require("sync_s", self.sync_s, "s", above=True)
        require("tolerance", self.tolerance, most=1.0)
        require("stabilization_s", self.stabilization_s, "s")

    @property
    def name(self) -> str:
        """`threshold`."""
        return "threshold"

    def decide(self, observation: Observation, memory: Wanted | None) -> tuple[Decision, Wanted]:
        """Return what to do now."""
        memory = memory or Wanted(observation.since_s)
        now_s = observation.now_s
        if now_s - memory.looked_s < self.sync_s - EPSILON:
            return hold(observation), memory
        wanted = {name: self.wanted(stage, observation.stages[name]) for name, stage in self.terms.stages.items()}
        recent = tuple(w for w in (*memory.wanted, (now_s, wanted)) if w[0] > now_s - self.stabilization_s)
        replicas = {}
        for name, want in wanted.items():
            held = observation.stages[name].held
            most = max(look[name] for _, look in recent)
            replicas[name] = min(want, max(2 * held, held + 4)) if want > held else min(held, max(want, most))
        text = f"utilization against the plan's, outside a tolerance of {self.tolerance:.0%}"
        ready_s = max(stage.startup_s for stage in self.terms.stages.values())
        return told(observation, replicas, text, expected={"ready_s": ready_s}), Wanted(now_s, recent)

    def wanted(self, stage: StageTerms, seen: StageSeen) -> int:
        """Return the replicas that bring a stage's utilization back to its target."""
        if seen.ready == 0:
            return seen.held
        ratio = seen.utilization / stage.max_provisioning(self.terms.rate_per_s)
        if abs(ratio - 1.0) <= self.tolerance:
            return seen.held
        return stage.capped(seen.ready * ratio)
