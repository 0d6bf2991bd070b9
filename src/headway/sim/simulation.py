"""Simulate a plan on a trace: choose the kernel, run it, and turn departures into an outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headway import __version__
from headway.errors import HeadwayError, PlanError
from headway.plan.config import StageContext
from headway.sim import outcome as outcomes
from headway.sim.confidence import low_confidence, peak_utilization
from headway.sim.outcome import Outcome, StageOutcome
from headway.sim.station import Departures, Floats
from headway.sim.threads import in_threads
from headway.sim.workload import Workload
from headway.spec.kinds import load_domain
from headway.trace import Trace

if TYPE_CHECKING:
    from headway.plan.plan import Plan
    from headway.sim.eventsim import EventSimulation


FIGURES = ("p50_s", "p95_s", "p99_s", "mean_s", "miss_rate", "worst_5m_p99_s", "cost_usd")
"""What two outcomes are compared by, beside the windows in which a promise by windows was kept."""


def simulate(
    plan: Plan,
    trace: Trace,
    *,
    seed: int = 0,
    mode: str = "sampled",
    drop_after_s: float | None = None,
    admission: bool = False,
) -> Outcome:
    """Return what would happen if `plan` served `trace`.

    `mode` is "sampled" (service times drawn per batch from the profile's quantiles) or "mean" (each takes its mean,
    as InferLine's estimator). `drop_after_s` gives requests up that long after their arrival, when a batch is formed.
    With `admission` requests are refused that would come too late, as the server does; without, all are let in.
    Raises PlanError or TraceError when plan and trace do not fit together.

    >>> from headway.testing.examples import tiny_plan
    >>> simulate(tiny_plan(), Trace.poisson(rate=5, seconds=20, seed=1), seed=1).requests > 50
    True
    """
    if mode not in ("sampled", "mean"):
        raise PlanError(f"mode is {mode!r}; valid: sampled, mean")
    work = workload(plan, trace, seed, drop_after_s)
    run = run_stages(plan, work, sampled=mode == "sampled", admission=admission)
    return build_outcome(plan, work, run, seed=seed, mode=mode)


def workload(plan: Plan, trace: Trace, seed: int, drop_after_s: float | None = None) -> Workload:
    """Return the workload of a trace under a plan's graph and, where there are any, its recorded visits."""
    profile = plan.profile
    visits = profile.visits_for(plan.variants)
    return Workload.of(plan.spec.graph, trace, seed, visits, drop_after_s, profile.request_overhead_s)


@dataclass(frozen=True)
class StageRun:
    """One stage's simulation: when items arrived (in order of service), what left, and the capacity that was held."""

    arrival_s: Floats
    departures: Departures
    capacity: int


def contexts(plan: Plan) -> dict[str, StageContext]:
    """Return where each stage's configuration stands."""
    return {n: StageContext(n, plan.spec.stages[n], plan.spec, plan.profile) for n in plan.spec.graph.order}


def needs_events(plan: Plan) -> bool:
    """Return whether some stages share the cores of a pool, which only the event kernel can simulate."""
    pools = {name for name, supply in plan.spec.supply.items() if supply.pool is not None}
    return bool(pools) and any(config.to_dict().get("hardware") in pools for config in plan.stages.values())


def run_stages(
    plan: Plan, work: Workload, *, sampled: bool, record: bool = True, admission: bool = False
) -> dict[str, StageRun]:
    """Simulate every stage, by the recursion where it is exact and by the event kernel where stages share something."""
    where = contexts(plan)
    domains = {name: load_domain(context.stage.kind) for name, context in where.items()}
    if admission or needs_events(plan):
        simulation = event_simulation(plan, work, sampled=sampled, admission=admission)
        simulation.advance(np.inf)
        return {
            name: StageRun(simulation.arrived_s(name), departures, len(simulation.replicas(name)))
            for name, departures in simulation.departures().items()
        }
    runs: dict[str, StageRun] = {}
    left: dict[str, Departures] = {}
    for name, context in where.items():
        station = domains[name].station(context, plan.stages[name], sampled=sampled)
        arrivals = work.arrivals(name, left)
        left[name] = station.run(arrivals, seed=work.seed, record=record)
        runs[name] = StageRun(arrivals.arrival_s, left[name], station.capacity)
    return runs


def event_simulation(
    plan: Plan, work: Workload, *, sampled: bool, admission: bool = False, spare_replicas: int = 0
) -> EventSimulation:
    """Return a plan's event simulation at its start, for a workload of `plan`'s graph.

    With `admission` it refuses requests that would come too late; `spare_replicas` is the room for adding some. Raises
    PlanError when a stage's kind has no form that the event kernel can run.
    """
    from headway.sim.eventsim import Admission, EventSimulation
    from headway.sim.promise import admission_terms

    setups = {}
    for name, context in contexts(plan).items():
        domain = load_domain(context.stage.kind)
        if not hasattr(domain, "setup"):
            raise PlanError(
                f"stages.{name}: kind {context.stage.kind!r} cannot run beside stages that share a pool of cores"
            )
        setups[name] = domain.setup(context, plan.stages[name], sampled=sampled)
    pools = {name: pool.cores for name, pool in plan.spec.pools.items()}
    terms = admission_terms(plan) if admission else None
    refusing = None if terms is None else Admission(plan.spec.slo.latency_s, terms)
    return EventSimulation(work, setups, pools, spare_replicas, admission=refusing)


def build_outcome(plan: Plan, work: Workload, runs: Mapping[str, StageRun], *, seed: int, mode: str) -> Outcome:
    """Return the outcome of a finished simulation. Latency counts from the scheduled arrival."""
    trace = work.trace
    departures = {name: run.departures for name, run in runs.items()}
    done_s = work.completion(departures)
    latency_s = done_s - trace.arrival_s
    status = np.full(work.requests, outcomes.ANSWERED, np.int8)
    status[np.isinf(done_s)] = outcomes.IN_FLIGHT
    for name, left in departures.items():
        status[work.items[name].request[left.dropped]] = outcomes.DROPPED
    for name, left in departures.items():
        status[work.items[name].request[left.refused]] = outcomes.REJECTED
    start_s = float(trace.arrival_s[0]) if work.requests else 0.0
    # The last completion of anything: work on a request that is given up further down was paid for as well.
    ends = [float(left.done_s[-1]) for left in departures.values() if left.done_s.size]
    span_s = max(ends, default=float(trace.duration_s)) - start_s
    stages = {}
    for name, run in runs.items():
        rate = plan.stage_cost_usd_per_hour(name)
        held_s = run.capacity * span_s
        waits = run.departures.start_s[: run.arrival_s.size] - run.arrival_s
        stages[name] = StageOutcome(
            items=int(run.arrival_s.size),
            batches=run.departures.batches,
            queue_wait_s=waits,
            utilization=run.departures.busy_s / held_s if held_s else 0.0,
            capacity_s=held_s,
            cost_usd=rate * span_s / 3600,
            service_s=run.departures.busy_s,
            peak_utilization_10s=peak_utilization(plan, name, run.arrival_s, run.departures.busy_s, run.capacity),
            accuracy=run.departures.accuracy,
            figures=run.departures.figures,
            told=run.departures.told,
        )
    return Outcome(
        arrival_s=trace.arrival_s,
        latency_s=latency_s,
        status=status,
        slo_s=plan.spec.slo.latency_s,
        slo_percentile=plan.spec.slo.percentile,
        stages=stages,
        cost_usd=sum(stage.cost_usd for stage in stages.values()),
        startup_cost_usd=startup_cost_usd(plan),
        accuracy=outcomes.combined_accuracy([plan.accuracy, *(stage.accuracy for stage in stages.values())]),
        low_confidence=low_confidence(plan, stages, trace.columns),
        provenance={
            "plan_hash": plan.hash, "trace_hash": trace.hash, "seed": seed, "mode": mode, "headway": __version__,
            "calibrated": plan.profile.overheads is not None,
        },
        window_s=plan.spec.slo.window_s,
        objective=plan.spec.slo.objective,
        broken=work.broken(departures),
    )  # fmt: skip


def startup_cost_usd(plan: Plan) -> float:
    """Return the price of the capacity that a plan holds while its first replicas start."""
    total_usd = 0.0
    for name, context in contexts(plan).items():
        startup_s = getattr(load_domain(context.stage.kind), "startup_s", None)
        if startup_s is not None:
            total_usd += plan.stage_cost_usd_per_hour(name) * startup_s(context, plan.stages[name]) / 3600
    return total_usd


def interval(
    plan: Plan, trace: Trace, *, seed: int = 0, runs: int = 40, confidence: float = 0.95
) -> dict[str, list[float]]:
    """Return the simulator's own interval of P50, P95, P99 and miss rate for this trace, over re-drawn service times.

    >>> from headway.testing.examples import tiny_plan
    >>> low, high = interval(tiny_plan(), Trace.poisson(rate=5, seconds=20, seed=1), runs=5)["p50_s"]
    >>> low <= high
    True
    """
    figures: dict[str, list[float]] = {"p50_s": [], "p95_s": [], "p99_s": [], "miss_rate": []}
    for result in in_threads(lambda run: simulate(plan, trace, seed=seed + run), range(runs)):
        for key, value in (("p50_s", result.p(50)), ("p95_s", result.p(95)), ("p99_s", result.p(99))):
            figures[key].append(value)
        figures["miss_rate"].append(result.miss_rate)
    edges = [(1 - confidence) / 2, (1 + confidence) / 2]
    return {key: [float(edge) for edge in np.quantile(values, edges)] for key, values in figures.items()}


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Return two outcome summaries side by side: figure by figure, with the difference and the ratio b / a.

    Raises HeadwayError when one of them is not a whole outcome.
    """
    for which, outcome in (("first", a), ("second", b)):
        missing = [name for name in ("kind", "requests", *FIGURES) if name not in outcome]
        if missing:
            raise HeadwayError(
                f"compare: the {which} outcome lacks {', '.join(missing)}; give what simulate or replay wrote"
            )
    figures = {}
    windowed = a.get("windows_kept") is not None or b.get("windows_kept") is not None
    for key in (*FIGURES, "windows_kept") if windowed else FIGURES:
        left, right = a.get(key), b.get(key)
        figures[key] = {"a": left, "b": right, "difference": None, "ratio": None}
        if isinstance(left, int | float) and isinstance(right, int | float):
            figures[key]["difference"] = right - left
            figures[key]["ratio"] = right / left if left else None
    return {"schema": "headway.comparison/1", "a": a.get("kind"), "b": b.get("kind"), "figures": figures,
            "requests": {"a": a.get("requests"), "b": b.get("requests")}}  # fmt: skip
