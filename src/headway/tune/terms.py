"""What a plan hands over to a tuner: its stages' capacity, and the band of counts that its traffic stays in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headway.errors import PlanError
from headway.plan.contract import StartsSlowly, TunesItself
from headway.plan.oracle import TRACES, block_s, derive
from headway.plan.plan import Plan
from headway.policy.envelopes import ALARM_Z, Band, Floats, quantile
from headway.policy.scaling import StageTerms, Terms
from headway.sim.simulation import contexts
from headway.sim.workload import Workload
from headway.spec.kinds import load_domain
from headway.trace import Trace
from headway.trace.envelope import envelope, windows

SHORT_S = 2.0
"""Windows up to so long show how requests bunch, hardly how their rate moves."""
SCALE_REQUESTS = 20_000
"""Requests drawn to learn how many items one brings to each stage, where no planning trace is given."""


def terms(plan: Plan, planned_on: Trace | None = None) -> Terms:
    """Return what tuners need of a plan; `planned_on` is the trace it was made from.

    With the trace, the band is measured: on it and on the resampled ones that the plan was judged on. Without, it is
    inferred from the envelope and the rate that the plan carries. Raises PlanError when it carries none, or when no
    stage has replicas that a tuner may change.

    >>> from headway.testing.examples import tiny_plan
    >>> made = terms(tiny_plan(), Trace.poisson(rate=20, seconds=300, seed=1))
    >>> made.stages["second"].throughput_per_s
    20.0
    """
    stages, slo = stage_terms(plan, planned_on), plan.spec.slo
    headroom = 1.0 if plan.headroom_ratio is None else plan.headroom_ratio
    if not stages:
        name, others = plan.spec.name, _by_themselves(plan)
        raise PlanError(f"plan {name!r}: no stage has replicas that may change as it runs; nothing to tune{others}")
    if planned_on is not None:
        spans = np.array([point["window_s"] for point in plan.envelope]) if plan.envelope else windows(_path_s(stages))
        seed = int(plan.provenance.get("seed", 0))
        band = measured_band(planned_on, spans, slo.latency_s, seed)
        rate = planned_on.rate_per_s
        return Terms(rate, slo.latency_s, band, stages, slo_percentile=slo.percentile, headroom_ratio=headroom)
    carried = plan.provenance.get("rate_per_s")
    if not plan.envelope or not isinstance(carried, int | float) or carried <= 0:
        raise PlanError(
            f"plan {plan.spec.name!r}: it carries no envelope or rate of its traffic; give the trace it was planned on"
        )
    rate, band = float(carried), carried_band(plan, float(carried))
    return Terms(rate, slo.latency_s, band, stages, slo_percentile=slo.percentile, headroom_ratio=headroom)


def stage_terms(plan: Plan, planned_on: Trace | None = None) -> dict[str, StageTerms]:
    """Return the terms of the stages whose replicas a tuner may change, in topological order."""
    factors = scale_factors(plan, planned_on)
    most = _most_replicas(plan)
    out = {}
    for name, context in contexts(plan).items():
        domain: Any = load_domain(context.stage.kind)
        if "replicas" not in domain.tunable:
            continue
        fields = plan.stages[name].to_dict()
        service = plan.profile.service(name, fields["variant"], fields["hardware"])
        slow = isinstance(domain, StartsSlowly)
        out[name] = StageTerms(
            replicas=fields["replicas"],
            service_s=(0.0, *(service.mean_at(b) for b in range(1, fields["max_batch_size"] + 1))),
            scale_factor=factors[name],
            startup_s=float(domain.startup_s(context, plan.stages[name])) if slow else 0.0,
            after=tuple(edge.parent for edge in plan.spec.graph.parents[name]),
            price_usd_per_hour=plan.spec.supply[fields["hardware"]].price_usd_per_hour,
            max_replicas=most.get(name),
        )
    return out


def _by_themselves(plan: Plan) -> str:
    """What is to be known of the stages that need no tuner."""
    told = []
    for name, stage in plan.spec.stages.items():
        domain = load_domain(stage.kind)
        if isinstance(domain, TunesItself):
            told.append(f"; stage {name!r} {domain.tunes_itself}")
    return "".join(told)


def scale_factors(plan: Plan, planned_on: Trace | None = None) -> dict[str, float]:
    """Return the items that a request brings to each stage on average, over many requests' ways through the graph."""
    trace = planned_on if planned_on is not None else Trace.poisson(1.0, requests=SCALE_REQUESTS, seed=0)
    seed = int(plan.provenance.get("seed", 0))
    work = Workload.of(plan.spec.graph, trace, seed, plan.profile.visits_for(plan.variants))
    return {name: max(items.count, 1) / max(work.requests, 1) for name, items in work.items.items()}


def measured_band(trace: Trace, windows_s: Floats, slo_s: float, seed: int) -> Band:
    """Return the band of a trace's counts, and of the traces resampled from it as the planner does.

    Raises PlanError for a trace without requests.
    """
    if not trace.requests:
        raise PlanError("tune: the trace that the plan was made from holds no request")
    block = block_s(trace, slo_s)
    resampled = [trace.resample(block, derive(seed, k)) for k in range(TRACES)]
    planned = envelope(trace.arrival_s, windows_s).astype(np.float64)
    most = np.max([planned, *(envelope(each.arrival_s, windows_s) for each in resampled)], axis=0)
    mean = trace.rate_per_s * windows_s
    # Fewer than Poisson's variance is the work of a clock, which the next day need not have. What long windows vary
    # beyond short ones is a rate that moves: no chance, and `most` holds how far it went.
    dispersion = np.array([_noise(_counts(trace, w)) for w in windows_s]) / mean
    short = dispersion[(windows_s <= SHORT_S) | (windows_s == windows_s[0])].max()
    variance = mean * np.clip(dispersion, 1.0, max(1.0, short))
    least = np.array([_fewest(trace, w) for w in windows_s])
    return Band(windows_s, planned, most, least, mean, variance)


def carried_band(plan: Plan, rate_per_s: float) -> Band:
    """Return the band that a plan's envelope suggests.

    The fullest of n windows lies about sqrt(2 ln n) standard deviations above their mean (extreme values of normal
    counts); the variance follows from that and from the length of the planning trace.
    """
    windows_s = np.array([point["window_s"] for point in plan.envelope])
    planned = np.array([float(point["requests"]) for point in plan.envelope])
    duration_s = float(plan.provenance.get("requests", planned[-1])) / rate_per_s
    mean = rate_per_s * windows_s
    extreme = np.sqrt(2.0 * np.log(np.maximum(duration_s / windows_s, np.e)))
    variance = np.maximum(mean, ((planned - mean) / extreme) ** 2)
    return Band(windows_s, planned, planned, np.floor(quantile(mean, variance, -ALARM_Z)), mean, variance)


def _counts(trace: Trace, window_s: float) -> Floats:
    """Counts in windows of one length that start all over the trace, four to a window."""
    starts = np.arange(0.0, max(trace.duration_s - window_s, 0.0) + 1e-12, window_s / 4)
    inside = np.searchsorted(trace.arrival_s, starts + window_s) - np.searchsorted(trace.arrival_s, starts)
    return np.asarray(inside, dtype=np.float64)


def _noise(counts: Floats) -> float:
    """The variance of counts about a rate that itself moves: half the mean square of steps from a window to the next.

    The plain variance takes the slow rise and fall of a day for chance (Allan, "Statistics of atomic frequency
    standards", 1966). `counts` has four windows to a length, so that neighbors without overlap are four apart.
    """
    steps = counts[4:] - counts[:-4]
    return float(np.mean(steps**2)) / 2.0 if steps.size else 0.0


def _fewest(trace: Trace, window_s: float) -> float:
    """The fewest requests in any window (t, t + length] of the trace; the emptiest ones begin at a request."""
    starts = np.append(0.0, trace.arrival_s)
    ends = starts + window_s
    inside = np.searchsorted(trace.arrival_s, ends, side="right") - np.arange(starts.size)
    whole = ends <= trace.duration_s
    return float(inside[whole].min()) if whole.any() else 0.0


def _path_s(stages: Mapping[str, StageTerms]) -> float:
    """The pipeline's service time: batches of one along the longest path (InferLine section 5.1)."""
    finish: dict[str, float] = {}
    for name, stage in stages.items():
        finish[name] = stage.service_s[1] + max(
            (finish[parent] for parent in stage.after if parent in finish), default=0
        )
    return max(finish.values())


def _most_replicas(plan: Plan) -> dict[str, int]:
    """Replicas that supply and pools allow each stage: what several stages share goes to them in proportion."""
    held: dict[str, int] = {}
    used = {name: config.to_dict() for name, config in plan.stages.items()}
    for fields in used.values():
        if "hardware" in fields and "replicas" in fields:
            held[fields["hardware"]] = held.get(fields["hardware"], 0) + fields["replicas"]
    out = {}
    for name, fields in used.items():
        supply = plan.spec.supply.get(fields.get("hardware", ""))
        if supply is None or "replicas" not in fields:
            continue
        limits = []
        if supply.max_replicas is not None:
            limits.append(int(supply.max_replicas * fields["replicas"] / held[fields["hardware"]]))
        if supply.pool is not None:
            limits.append(plan.spec.pools[supply.pool].cores // supply.threads)
        if limits:
            out[name] = max(fields["replicas"], min(limits))
    return out
