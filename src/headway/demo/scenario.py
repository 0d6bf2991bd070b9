"""What the demo is about: the declared pipeline at two scales, the traffic of each, and pages as payloads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.domains.pipeline.declare import ModelStage
from headway.errors import HeadwayError
from headway.profile import Profile
from headway.profile.target import available_cores
from headway.spec.load import load
from headway.spec.model import Spec
from headway.trace import Trace

if TYPE_CHECKING:
    from headway.plan.plan import Plan
    from headway.sim.outcome import Outcome

POOL = "host"
MOST_CORES = 4
LOAD = 0.55
"""The share of the pool's cores that the replayed pages keep busy."""
PROMISE_PAGES = 8.0
"""The promise on this machine, in units of the work on a mean page."""
HOST_CV = 2.0
STREAM = 0x70616765


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the demo is: sample pages, wall-clock budget of the profile, seconds replayed, production traffic.

    >>> Sizes().pages >= Sizes.quick().pages
    True
    """

    pages: int = 24
    profile_s: float = 60.0
    replay_s: float = 45.0
    production_rate_per_s: float = 30.0
    production_cv: float = 4.0
    production_s: float = 120.0
    proof_budget: int = 1500
    plan_budget: int = 120
    intervals: int = 40
    explained: bool = True

    @classmethod
    def quick(cls) -> Sizes:
        """Return sizes with which everything is gone through once, and figures mean nothing."""
        return cls(
            pages=4, profile_s=12.0, replay_s=4.0, production_rate_per_s=10.0, production_s=30.0,
            proof_budget=60, plan_budget=60, intervals=5, explained=False,
        )  # fmt: skip


def production_spec() -> Spec:
    """Return the pipeline as it would be bought by the hour: `document.yaml` as it stands.

    >>> list(production_spec().stages)
    ['detect', 'orient', 'recognise']
    """
    with resources.as_file(resources.files("headway.demo") / "document.yaml") as path:
        return load(path)


def promising(spec: Spec, promise_s: float) -> Spec:
    """Return the same pipeline under another promise.

    >>> promising(production_spec(), 0.5).slo.latency_s
    0.5
    """
    declared: dict[str, Any] = spec.to_dict()
    declared["slo"]["latency"] = f"{promise_s:g}s"
    return Spec.from_dict(declared)


def host_cores() -> int:
    """Return how many cores of this machine the replicas share; of more than two, one is left to server and client."""
    cores = len(available_cores())
    return min(cores if cores <= 2 else cores - 1, MOST_CORES)


def host_spec(spec: Spec, cores: int, promise_s: float) -> Spec:
    """Return the same pipeline for this machine: its hardware takes turns for a pool of `cores`, under its own promise.

    Hardware with more threads than the pool has cores is left out.
    """
    declared: dict[str, Any] = spec.to_dict()
    supply = {name: dict(kind, pool=POOL, startup="0s") for name, kind in declared["supply"].items()}
    declared["supply"] = {name: kind for name, kind in supply.items() if spec.supply[name].threads <= cores}
    declared["pools"] = {POOL: {"cores": cores}}
    return promising(Spec.from_dict(declared), promise_s)


def model_stage(spec: Spec, name: str) -> ModelStage:
    """Return a stage as what all stages of the demo are: one with a model."""
    stage = spec.stages[name]
    assert isinstance(stage, ModelStage)
    return stage


def with_variant(spec: Spec, stage: str, variant: str) -> Spec:
    """Return the spec with one variant of a stage only, and no accuracy floor: what that variant would cost."""
    declared: dict[str, Any] = spec.to_dict()
    declared["slo"].pop("accuracy", None)
    declared["stages"][stage]["variants"] = {variant: declared["stages"][stage]["variants"][variant]}
    return Spec.from_dict(declared)


def cheapest_variants(spec: Spec, profile: Profile, hardware: str) -> dict[str, str]:
    """Return for each stage its quickest variant that meets the accuracy floor by itself."""
    floor = spec.slo.accuracy or 0.0
    chosen = {}
    for name in spec.stages:
        stage = model_stage(spec, name)
        able = [v for v in stage.variant_names if (stage.variant(v).accuracy or 1.0) >= floor]
        if not able:
            raise HeadwayError(f"demo: no variant of stage {name!r} reads {100 * floor:g}% of the characters")
        chosen[name] = min(able, key=lambda v: profile.service(name, v, hardware).mean_at(1))
    return chosen


def page_work_s(profile: Profile, variants: Mapping[str, str], hardware: str) -> float:
    """Return the seconds of one core that a mean sample page takes, over all its lines and stages."""
    visits = profile.visits_for(variants)
    if visits is None:
        raise HeadwayError("demo: the profile holds no recorded visits, so the work on a page is unknown")
    return sum(
        profile.service(name, variant, hardware).mean_at(1) * float(np.mean(visits.counts[name]))
        for name, variant in variants.items()
    )


def recorded_pages(profile: Profile) -> int:
    """Return how many of the sample pages the profile knows; a short budget records the first ones only."""
    return min(record.samples for record in profile.visits)


def production_trace(sizes: Sizes, pages: int, seed: int) -> Trace:
    """Return the production traffic: bursty Gamma arrivals, each with a page."""
    trace = Trace.gamma(sizes.production_rate_per_s, sizes.production_cv, sizes.production_s, seed=seed)
    return with_pages(trace, pages, seed)


def host_trace(rate_per_s: float, seconds: float, pages: int, seed: int) -> Trace:
    """Return the traffic that is replayed: bursty Gamma arrivals whose mean is the given rate exactly."""
    requests = max(2, round(rate_per_s * seconds))
    trace = Trace.gamma(rate_per_s, HOST_CV, requests=requests, seed=seed)
    return with_pages(trace.scale_time(seconds / trace.duration_s), pages, seed)


def with_pages(trace: Trace, pages: int, seed: int) -> Trace:
    """Return the trace with a page per request: every page equally often, in random order."""
    order = np.random.default_rng([seed, STREAM]).permutation(np.arange(trace.requests) % pages)
    columns = {**trace.columns, "payload": order.astype(np.float64)}
    return Trace.from_arrivals(trace.arrival_s, columns, duration_s=trace.duration_s)


def rounded_up(seconds: float) -> float:
    """Return a duration as a person would promise it: two digits, never less.

    >>> rounded_up(1.234)
    1.3
    """
    unit = 10.0 ** (math.floor(math.log10(seconds)) - 1)
    return float(f"{math.ceil(seconds / unit - 1e-9) * unit:.2g}")


def used(plan: Plan, outcome: Outcome, cores: int) -> float:
    """Return the share of the pool's cores that an outcome's batches kept busy."""
    busy_s = span_s = 0.0
    for name, stage in outcome.stages.items():
        config = plan.stages[name].to_dict()
        busy_s += stage.service_s * plan.spec.supply[config["hardware"]].threads
        span_s = max(span_s, stage.capacity_s / config["replicas"])
    return busy_s / (cores * span_s)
