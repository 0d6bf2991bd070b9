"""What the demo of a cascade is about: the family as declared, a day of traffic with a spike, and the gears for it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.cascade import Cascade, Step
from headway.demo.scenario import STREAM, rounded_up
from headway.domains.cascade.choose import Judge, Judgment, fewest
from headway.domains.cascade.family import Family
from headway.domains.cascade.gears import GearPlan, Group
from headway.domains.cascade.planner import GearPlanner
from headway.domains.cascade.unserved import TooFew
from headway.plan.config import StageContext
from headway.plan.plan import Plan
from headway.profile import Profile
from headway.profile.target import available_cores
from headway.report.format import percent, plural
from headway.serve.values import tensor_bytes
from headway.serve.wire import Payload
from headway.sim.simulation import simulate
from headway.spec.model import Spec
from headway.trace import Trace

STAGE, HARDWARE = "digits", "core"
PRICE_USD_PER_HOUR = 0.04
CLASSES_OF = {"small": "Linear", "medium": "Network", "large": "Matched"}
"""The models of the family, from cheap to dear."""
DEAREST = "large"
PERCENT = 95.0
SPARE = 0.6
"""The share of the promise that the chosen gears may use in the simulator: HTTP takes its time too."""
PROMISE_ITEMS = 8.0
"""The promise, in units of what the dearest model takes for one image."""
LEAST_PROMISE_S = 0.15
NIGHT, DAY, SPIKE = 0.15, 0.9, 3.0
"""Rates, in units of what the dearest model alone could serve."""
MOST_PER_S = 240.0
"""Server and client share a core, and more requests than this would measure them."""
QUICK_SHARE = 0.25
SPIKE_AT, SPIKE_FOR = 0.62, 0.1
"""When the spike begins and how long it takes, as shares of the day."""
MAX_RATE = 1.25
"""How far beyond the spike gears are planned: a Poisson process is above its rate half of the time."""
MEASURED = 64
"""Images that batches are timed with."""
TRIALS = 3
PROMISES = 6
"""How often a looser promise is tried, each a half looser than the one before."""
SURE = 1.64
"""Standard errors between the accuracy that is predicted and the one that is promised."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the demo is.

    Images learned from (None: all), images that models are asked about, batch sizes and wall-clock budget of the
    profile, seconds replayed, days that gears are chosen on, simulations for an interval.

    >>> Sizes().replay_s > Sizes.quick().replay_s
    True
    """

    known: int | None = None
    asked: int = 500
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16)
    profile_s: float = 24.0
    replay_s: float = 64.0
    trials: int = TRIALS
    intervals: int = 20

    @classmethod
    def quick(cls) -> Sizes:
        """Return sizes with which everything is gone through once, and figures mean nothing."""
        return cls(known=150, asked=150, batch_sizes=(1, 8), profile_s=2.0, replay_s=4.0, trials=1, intervals=3)


@dataclass(frozen=True, slots=True)
class Rates:
    """Requests per second at night, at noon, and in the spike."""

    night_per_s: float
    day_per_s: float
    spike_per_s: float

    @classmethod
    def of(cls, one_s: float, devices: int) -> Rates:
        """Return rates for so many devices where the dearest model takes `one_s` for one image.

        >>> Rates.of(0.02, 1).day_per_s
        45.0
        """
        most = devices / one_s
        unit = min(most, MOST_PER_S / SPIKE)
        return cls(NIGHT * unit, DAY * unit, SPIKE * unit)

    def slower(self) -> Rates:
        """Return the rates for a machine that does not carry these."""
        return Rates(0.7 * self.night_per_s, 0.7 * self.day_per_s, 0.7 * self.spike_per_s)


def devices_here() -> int:
    """Return how many cores work as devices; one is left to server and client, and two are enough to see it."""
    return max(1, min(2, len(available_cores()) - 1))


def declared(files: Mapping[str, Path], folder: Path, devices: int, rates: Rates, promise_s: float) -> Spec:
    """Return the family as it is declared, its promise and its price."""
    models = {
        name: {"model": f"headway.demo.cascade.models:{CLASSES_OF[name]}", "options": {"path": str(path.resolve())}}
        for name, path in files.items()
    }
    return Spec.from_dict(
        {
            "name": "digits",
            "slo": {"latency": f"{promise_s!r}s", "percentile": PERCENT},
            "supply": {HARDWARE: {"price": f"${PRICE_USD_PER_HOUR}/h", "threads": 1, "max": devices}},
            "stages": {
                STAGE: {
                    "kind": "cascade",
                    "models": models,
                    "table": str((folder / "validation.csv").resolve()),
                    "max_rate": f"{MAX_RATE * rates.spike_per_s!r}/s",
                }
            },
        }
    )


def with_floor(spec: Spec, accuracy: float) -> Spec:
    """Return the same with a promise of accuracy."""
    value: dict[str, Any] = spec.to_dict()
    value["slo"]["accuracy"] = accuracy
    return Spec.from_dict(value)


def day(rates: Rates, seconds: float, images: int, seed: int) -> Trace:
    """Return a day in so many seconds: a sine from night to noon and back, and a spike in the afternoon.

    The column `payload` says which image a request carries: every one equally often, in random order.
    """
    mean = (rates.night_per_s + rates.day_per_s) / 2
    sine = Trace.diurnal(mean, rates.day_per_s / mean, seconds, seconds, seed=seed)
    extra = Trace.poisson(rates.spike_per_s, SPIKE_FOR * seconds, seed=seed)
    begin_s = SPIKE_AT * seconds
    arrival_s = np.sort(np.concatenate([sine.arrival_s, begin_s + extra.arrival_s]))
    order = np.random.default_rng([seed, STREAM]).permutation(np.arange(arrival_s.size) % images)
    columns = {"payload": order.astype(np.float64)}
    return Trace.from_arrivals(arrival_s, columns, duration_s=seconds, name=f"day seed={seed}")


def family(spec: Spec, profile: Profile) -> Family:
    """Return what the planner knows of the family."""
    return Family.of(StageContext(STAGE, spec.stages[STAGE], spec, profile), HARDWARE)


@dataclass(frozen=True)
class Chosen:
    """Gears with what they do, on average over the traces that they were chosen on."""

    gears: GearPlan
    accuracy: float
    latency_s: float


def choose(spec: Spec, profile: Profile, traces: Sequence[Trace], devices: int) -> Chosen | None:
    """Return, of the planner's gear plans, the one right most often that keeps the promise with some to spare.

    None when none does. They are judged on other days than the one that is replayed.
    """
    known = family(spec, profile)
    latency_s = spec.slo.latency_s
    try:
        plans = GearPlanner(known, latency_s).plans(devices)
    except TooFew:
        return None
    judges = [Judge(known, trace, percent=PERCENT) for trace in traces]
    found: list[Chosen] = []
    for plan in plans:
        judged: list[Judgment] = [judge.judge(plan) for judge in judges]
        worst_s = max(each.latency_s for each in judged)
        if worst_s <= SPARE * latency_s:
            found.append(Chosen(plan, fmean(each.accuracy for each in judged), worst_s))
    return max(found, key=lambda each: (each.accuracy, -each.latency_s), default=None)


def promise_s(profile: Profile) -> float:
    """Return the latency to promise first: what the dearest model takes for a few images, as a person would say it."""
    dearest = max(profile.service(STAGE, name, HARDWARE).mean_at(1) for name in CLASSES_OF)
    return max(LEAST_PROMISE_S, rounded_up(PROMISE_ITEMS * dearest))


def floor_of(accuracy: float, images: int) -> float:
    """Return the accuracy to promise where one is predicted: what so many images show at least, in half points.

    >>> floor_of(0.98, 500)
    0.965
    """
    error = math.sqrt(max(accuracy * (1 - accuracy), 1e-4) * (1 / images + 1 / images))
    return math.floor(200 * (accuracy - SURE * error)) / 200


def alone(plan: GearPlan, name: str, max_batch_size: int) -> GearPlan:
    """Return the same devices with one of the models for all loads."""
    gear = dataclasses.replace(
        plan.gears[-1], cascade=Cascade((Step(name),)), min_queue=(1,), max_wait_s=0.0, accuracy=None, latency_s=None,
        load_split=(),
    )  # fmt: skip
    return dataclasses.replace(
        plan,
        placement=(Group((name,), plan.devices),),
        max_batch_size=((name, max_batch_size),),
        gears=(gear,),
        gears_less_one=(),
    )


def alternatives(plan: Plan, trace: Trace, seed: int) -> dict[str, Mapping[str, Any]]:
    """Return what single models would do on the same trace, simulated: each alone, and the dearest on enough devices.

    By name: cost, percentiles, misses, accuracy, and whether both promises are kept. A model that the gears have no use
    for takes batches as large as the promise allows.
    """
    gears = plan.stages[STAGE]
    assert isinstance(gears, GearPlan)
    known, latency_s = family(plan.spec, plan.profile), plan.spec.slo.latency_s
    sizes = {**GearPlanner(known, latency_s).sizes()[-1], **dict(gears.max_batch_size)}
    single = {name: alone(gears, name, sizes[name]) for name in reversed(CLASSES_OF)}
    out: dict[str, Mapping[str, Any]] = {}
    judge = Judge(known, trace, percent=PERCENT)
    enough = fewest(lambda devices: [_on(single[DEAREST], devices)], judge, latency_s, 0.0)
    if enough is not None and enough.plan.devices > gears.devices:
        out[f"{DEAREST} alone, {plural(enough.plan.devices, HARDWARE)}"] = _facts(plan, enough.plan, trace, seed)
    for name, other in single.items():
        out[f"{name} alone"] = _facts(plan, other, trace, seed)
    return out


def _on(plan: GearPlan, devices: int) -> GearPlan:
    return dataclasses.replace(plan, placement=(Group(plan.models, devices),))


def _facts(plan: Plan, gears: GearPlan, trace: Trace, seed: int) -> dict[str, Any]:
    spec: dict[str, Any] = plan.spec.to_dict()
    spec["supply"][HARDWARE]["max"] = max(gears.devices, plan.spec.supply[HARDWARE].max_replicas or 1)
    other = Plan(Spec.from_dict(spec), plan.profile, {STAGE: gears})
    outcome = simulate(other, trace, seed=seed)
    floor, accuracy = plan.spec.slo.accuracy or 0.0, outcome.accuracy or 0.0
    figures = outcome.to_dict()
    return {
        "cost_usd_per_hour": other.cost_usd_per_hour,
        **{name: figures[name] for name in ("p50_s", "p95_s", "p99_s", "miss_rate")},
        "accuracy": accuracy,
        "feasible": outcome.holds and accuracy >= floor,
        "note": f"{percent(accuracy)} right" + ("" if accuracy >= floor else f", {percent(floor)} promised"),
    }


def item_s(profile: Profile) -> float:
    """Return the seconds of a device that the dearest model takes for one image, in batches of the best size."""
    services = [profile.service(STAGE, name, HARDWARE) for name in CLASSES_OF]
    return max(min(s.mean_at(size) / size for size in s.batch_sizes) for s in services)


def payload(image: NDArray[np.uint8]) -> Payload:
    """Return an image as it comes to a worker from a request."""
    return Payload("tensor", tensor_bytes("UINT8", list(image.shape), image.tobytes()))
