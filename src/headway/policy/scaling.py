"""How many replicas each stage should have: what a tuner knows beforehand, what it may see, and what it decides.

A tuner is a value with one pure method: `decide(observation, memory) -> (decision, memory)`. The simulator and the
live loop call the same one; only who observes and who applies differs. Whatever a tuner must remember between two
decisions is the memory, which it returns and is given back; the first is `None`. `headway.policy.tuners` has them by
name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headway.policy.envelopes import Band

Floats = NDArray[np.float64]

LOOK_BACK_S = 60.0
"""How far back an observation reaches: InferLine's longest window (section 5.1)."""
UTILIZATION_S = 15.0
"""Over how long utilization is measured: the resolution of Kubernetes' metrics."""
EPSILON = 1e-9
"""Taken off before rounding up: rounding errors of a product must not buy a replica (InferLine facts, section 13 e)."""


@dataclass(frozen=True, slots=True)
class StageTerms:
    """What the plan says of one stage, as far as its replicas can be changed.

    `service_s[b]` is the mean latency of a batch of b (entry 0 unused), its last entry that of a full batch.
    `scale_factor`: items per request; `startup_s`: from asking for a replica to its first batch; `max_replicas` is what
    supply allows (None: no limit); `after` names the stages that items come from.

    >>> StageTerms(replicas=2, service_s=(0.0, 0.1, 0.16), scale_factor=0.5, startup_s=5.0).throughput_per_s
    12.5
    """

    replicas: int
    service_s: tuple[float, ...]
    scale_factor: float
    startup_s: float
    after: tuple[str, ...] = ()
    price_usd_per_hour: float = 0.0
    max_replicas: int | None = None

    @property
    def max_batch_size(self) -> int:
        """Items in a full batch."""
        return len(self.service_s) - 1

    @property
    def throughput_per_s(self) -> float:
        """Items per second of one replica whose batches are all full (mu in InferLine)."""
        return self.max_batch_size / self.service_s[-1]

    def max_provisioning(self, rate_per_s: float) -> float:
        """Return the utilization that the plan chose at a mean rate of requests (rho, InferLine section 5.2)."""
        return rate_per_s * self.scale_factor / (self.replicas * self.throughput_per_s)

    def capped(self, replicas: float) -> int:
        """Return a number of replicas rounded up, at least one and at most what supply allows."""
        wanted = max(1, math.ceil(replicas - EPSILON))
        return wanted if self.max_replicas is None else min(wanted, self.max_replicas)


@dataclass(frozen=True, slots=True)
class Gear:
    """A plan made beforehand for `rate_ratio` times the planned traffic; it differs in replicas and batching only.

    `config` holds, per stage, the fields that change (`replicas`, `max_batch_size`, `max_wait_s`).
    """

    name: str
    rate_ratio: float
    stages: Mapping[str, StageTerms]
    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cost_usd_per_hour: float = 0.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What the planner hands over to a tuner: the traffic planned for, and every stage that can be scaled.

    `rate_per_s` is the planning trace's mean rate, `band` its counts by window length; the promise is that
    `slo_percentile` percent of the requests take at most `slo_s`. `gears` are plans for more traffic, in rising order
    of `rate_ratio`. `refuses_late`: requests that would come too late are refused when they arrive, so that no backlog
    outgrows the promise. `headroom_ratio`: how many times the planned traffic the plan carries within the promise; 1
    where that was not measured.
    """

    rate_per_s: float
    slo_s: float
    band: Band
    stages: Mapping[str, StageTerms]
    gears: tuple[Gear, ...] = ()
    refuses_late: bool = False
    slo_percentile: float = 99.0
    headroom_ratio: float = 1.0

    def in_gear(self, gear: str | None) -> Mapping[str, StageTerms]:
        """Return the stages as they are in a gear, by its name; None: in the plan itself."""
        return next((each.stages for each in self.gears if each.name == gear), self.stages)


@dataclass(frozen=True, slots=True)
class StageSeen:
    """What can be seen of one stage now, and what was counted there over the last `LOOK_BACK_S`.

    `ready` and `starting` are replicas that take batches and that have been asked for; `queued` and `in_service` are
    items. `utilization` is the busy share of the ready replicas' time in the last `UTILIZATION_S`. `batches`, `items`
    and `busy_s` concern batches that were *finished* within the look-back (how long one that runs will take, nobody
    knows); `arrived` counts items that reached the stage in that time.
    """

    ready: int
    starting: int = 0
    queued: int = 0
    in_service: int = 0
    utilization: float = 0.0
    batches: int = 0
    items: int = 0
    busy_s: float = 0.0
    arrived: int = 0

    @property
    def held(self) -> int:
        """Replicas that are paid for."""
        return self.ready + self.starting


@dataclass(frozen=True, slots=True)
class Observation:
    """All that a tuner may see, at `now_s`. Nothing in it lies in the future.

    `arrival_s`: when requests came in the last `LOOK_BACK_S`, sorted, none after `now_s`; `since_s`: when watching
    began (before it nothing is known, which is not the same as no requests); `gear` names the gear in force.
    """

    now_s: float
    since_s: float
    arrival_s: Floats
    stages: Mapping[str, StageSeen]
    gear: str | None = None

    def __post_init__(self) -> None:
        if self.arrival_s.size and self.arrival_s[-1] > self.now_s:
            raise ValueError(f"observation at {self.now_s} s holds an arrival at {self.arrival_s[-1]} s, in the future")

    def rate_per_s(self, window_s: float) -> float:
        """Return the rate over the last `window_s`, or over what has been watched when that is less."""
        span_s = min(window_s, self.now_s - self.since_s)
        return self.count(window_s) / span_s if span_s > 0 else 0.0

    def count(self, window_s: float) -> int:
        """Return the number of requests in (now - window, now]."""
        return int(self.arrival_s.size - np.searchsorted(self.arrival_s, self.now_s - window_s, side="right"))

    def held(self) -> dict[str, int]:
        """Return the replicas held at each stage."""
        return {name: seen.held for name, seen in self.stages.items()}


@dataclass(frozen=True, slots=True)
class Decision:
    """What each stage should hold from now on, and why.

    `replicas` has a number for every stage, changed or not. `code` is a stable word (`hold`, `scale_up`, `scale_down`,
    `drained`, `gear`, `replan`), `text` a sentence, `values` its figures, `expected` what the tuner expects to come of
    it: `ready_s` and `drained_s` from now until the replicas serve and any backlog is gone, `rate_per_s` provided for.
    `gear`: change to this one as well. `pause_s`: the whole pipeline stops for so long to apply it. `replan` says why a
    new plan is needed; it is advice, the replicas stand.
    """

    replicas: Mapping[str, int]
    code: str = "hold"
    text: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    expected: Mapping[str, Any] = field(default_factory=dict)
    gear: str | None = None
    pause_s: float = 0.0
    replan: str | None = None

    def changes(self, observation: Observation) -> dict[str, int]:
        """Return by stage how many replicas are added (positive) or given up (negative); stages without change not."""
        held = observation.held()
        return {name: n - held[name] for name, n in self.replicas.items() if n != held[name]}

    @property
    def acts(self) -> bool:
        """Whether anything is asked for."""
        return self.code != "hold"


Memory = Any
"""What a tuner remembers; an immutable value of its own kind, or None at the start."""


class Tuner(Protocol):
    """A scaling policy: a value without state of its own."""

    @property
    def name(self) -> str:
        """Its name in the registry."""
        ...

    def decide(self, observation: Observation, memory: Memory) -> tuple[Decision, Memory]:
        """Return what to do at `observation.now_s`, and what to remember. Same arguments, same result."""
        ...


def hold(observation: Observation, text: str = "nothing to change") -> Decision:
    """Return the decision that changes nothing.

    >>> seen = Observation(1.0, 0.0, np.empty(0), {"only": StageSeen(ready=2, starting=1)})
    >>> hold(seen).replicas
    {'only': 3}
    """
    return Decision(observation.held(), text=text)


def require(
    name: str, value: float, unit: str = "", *, least: float = 0.0, above: bool = False, most: float = math.inf
) -> None:
    """Raise ValueError unless a tuner's number is finite and in its range: from `least` (or `above` it) to `most`.

    >>> require("interval_s", 0.0, "s", above=True)
    Traceback (most recent call last):
    ValueError: interval_s is 0.0; it is more than 0 s
    """
    low_enough = value > least if above else value >= least
    if low_enough and value <= most and math.isfinite(value):
        return
    valid = f"{'more than' if above else 'at least'} {least:g} {unit}".rstrip()
    valid += f" and at most {most:g} {unit}".rstrip() if most < math.inf else ""
    raise ValueError(f"{name} is {value!r}; it is {valid}{'' if math.isfinite(value) else ', and finite'}")


def told(observation: Observation, replicas: Mapping[str, int], text: str, **more: Any) -> Decision:
    """Return a decision for these replicas, with the code that follows from what changes; `hold` when nothing does."""
    held = observation.held()
    if dict(replicas) == held and not more.get("gear"):
        return Decision(held, text=text, replan=more.get("replan"), code="replan" if more.get("replan") else "hold")
    code = "scale_up" if any(n > held[name] for name, n in replicas.items()) else "scale_down"
    return Decision(dict(replicas), **{"code": code, "text": text, **more})
