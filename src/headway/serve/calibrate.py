"""How far predictions are from a live server, and a profile fitted so that later ones are closer.

The same trace is replayed live and simulated. What the simulator lacks is fitted from the server's own samples
(`headway.profile.refit`): a constant per batch and stage, a constant per request, and rows that no longer hold.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headway import __version__
from headway.errors import ServeError
from headway.plan.plan import Plan
from headway.profile import Profile
from headway.profile import refit as fitting
from headway.profile.passing import Finding, findings
from headway.profile.refit import Estimate, StageFit
from headway.serve.engine import Limits
from headway.serve.figures import Figures, batch_times, figures, measured_figures, starts_at_once
from headway.serve.misses import Stays, miss_rates, usual_s
from headway.serve.observed import Batches, Floats, Ints, StageItems
from headway.serve.replay import replay
from headway.sim.outcome import ANSWERED, Outcome, number
from headway.sim.simulation import build_outcome, run_stages, workload
from headway.sim.threads import in_threads
from headway.trace import Trace

SCHEMA = "headway.calibration/1"
RUNS = 21
"""Simulations with service times and ways drawn anew: figures are their medians, intervals hold 95 % of them."""
FEWEST_ANSWERED = 0.95
"""With fewer answers of the requests offered, what was measured is mostly how the server refuses."""

LETS_ALL_IN = Limits(queue_limit=0, keep_promise=False)
"""Predictions are of all that is offered, so a server to compare them with refuses nothing."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure predicted (with the simulator's own 95 % interval) and measured, in the same unit."""

    predicted: float
    low: float
    high: float
    measured: float

    @property
    def error_ratio(self) -> float | None:
        """How far the prediction is off, relative to what was measured; None when nothing was."""
        if not (np.isfinite(self.predicted) and np.isfinite(self.measured) and self.measured):
            return None
        return (self.predicted - self.measured) / self.measured

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return {
            "predicted": number(self.predicted), "interval": [number(self.low), number(self.high)],
            "measured": number(self.measured), "difference": number(self.predicted - self.measured),
            "error_ratio": self.error_ratio,
        }  # fmt: skip


Comparison = dict[str, dict[str, Compared]]
"""Figures by name, by stage; those of whole requests under the name ''."""


@dataclass(frozen=True)
class Observation:
    """One trace replayed live: the outcome, and the items of every stage as the server saw them.

    `first_request` is the number that the server gave the first request; the others follow in the order of sending.
    """

    trace: Trace
    outcome: Outcome
    items: Mapping[str, StageItems]
    first_request: int = 1


@dataclass(frozen=True)
class Calibration:
    """A fitted profile, what was fitted, and the errors of predictions before and after.

    `after` is of the trace that was fitted on; `test` is of another one, when there was one. `findings` are where
    requests bring clearly more or fewer items than was predicted.
    """

    plan: Plan
    profile: Profile
    fits: Mapping[str, StageFit]
    request: Estimate
    scale_factors: Mapping[str, Estimate]
    measured: Outcome
    before: Comparison
    after: Comparison
    findings: tuple[Finding, ...] = ()
    test: Comparison | None = None

    @property
    def low_confidence(self) -> tuple[str, ...]:
        """Reasons to doubt what was measured, or what is predicted with the fitted profile."""
        return (*self.measured.low_confidence, *_without_spread(self.plan, self.profile))

    def to_dict(self) -> dict[str, Any]:
        """Return the calibration as JSON values."""
        tested = {"before": self.before, "after": self.after, "test": self.test}
        return {
            "schema": SCHEMA,
            "name": self.plan.spec.name,
            "requests": self.measured.counts(),
            "overheads": {
                "request_s": self.request.to_dict(),
                "batch_s": {n: None if f.overhead is None else f.overhead.to_dict() for n, f in self.fits.items()},
            },
            "refitted": [
                {"stage": row.stage, "variant": row.variant, "hardware": row.hardware, "batch_size": row.batch_size,
                 "mean_s": row.mean_s, "samples": row.samples}
                for fit in self.fits.values() for row in fit.rows
            ],
            "scale_factors": {name: factor.to_dict() for name, factor in self.scale_factors.items()},
            "findings": [finding.to_dict() for finding in self.findings],
            "errors": {when: None if value is None else _as_json(value) for when, value in tested.items()},
            "low_confidence": list(self.low_confidence),
            "provenance": dict(self.measured.provenance),
        }  # fmt: skip


def calibrate(
    plan: Plan,
    trace: Trace,
    *,
    url: str | None = None,
    payloads: Sequence[Any] | str | os.PathLike[str] | None = None,
    token: str | None = None,
    test: Trace | None = None,
    profile: Profile | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Replay a trace on the plan's server and in simulation, and return the fitted profile with the errors.

    `url` is where the plan is served; without it a server is started for as long as it takes. `payloads` and `token`
    as in `headway.serve.replay`. `test` is replayed after the fit, to judge it by another trace. `profile` is what the
    fit is put into, when it holds more than the rows that the plan carries. Raises ServeError when the server runs
    another plan, serves others at the same time, or leaves too many requests unanswered to fit from.
    """
    with _served(plan, url, seed) as at:
        seen = observe(at, plan, trace, payloads=payloads, token=token, seed=seed, progress=progress)
        found = fit(plan, seen, profile=profile, seed=seed)
        if test is None:
            return found
        again = observe(at, plan, test, payloads=payloads, token=token, seed=seed, progress=progress)
    return replace(found, test=compared(replace(plan, profile=found.profile), again, seed=seed))


@contextlib.contextmanager
def _served(plan: Plan, url: str | None, seed: int) -> Iterator[str]:
    """Where the plan is served: at the given address, else by a server of our own that ends with the block."""
    if url is not None:
        yield url
        return
    from headway.serve.run import running

    with running(plan, seed=seed, limits=LETS_ALL_IN) as server:
        yield server.url


def observe(
    url: str,
    plan: Plan,
    trace: Trace,
    *,
    payloads: Sequence[Any] | str | os.PathLike[str] | None = None,
    token: str | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Observation:
    """Replay a trace against a plan's server and return what came of it. Raises ServeError as `calibrate` does."""
    kept: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
    outcome = replay(
        url, trace, payloads=payloads, token=token, seed=seed, progress=progress,
        on_stats=lambda before, after: kept.append((before, after)),
    )  # fmt: skip
    if not kept:
        raise ServeError("calibrate: the server did not answer /stats after the replay; there is nothing to fit from")
    before, after = kept[0]
    if outcome.provenance["plan_hash"] != plan.hash:
        raise ServeError("calibrate: the server runs another plan than the one given; give the plan that it serves")
    offered = after["requests"]["offered"] - before["requests"]["offered"]
    if offered > trace.requests or before["requests"]["in_flight"]:
        raise ServeError("calibrate: the server has other clients at the same time; calibrate while it has no others")
    counts = outcome.counts()
    if counts["answered"] < FEWEST_ANSWERED * trace.requests or counts["rejected"] or offered < trace.requests:
        lost = [f"{counts[name]} {name}" for name in ("dropped", "rejected", "failed") if counts[name]]
        raise ServeError(
            f"calibrate: {counts['answered']} of {trace.requests} requests were answered"
            f"{', ' * bool(lost)}{', '.join(lost)}; use a load that the plan carries"
            f"{', and a server that was started with --answer-late' if counts['rejected'] else ''}"
        )
    items = {name: StageItems.of(name, stats) for name, stats in after["stages"].items()}
    # A request that is not let in is counted, but gets no number.
    numbered = before["requests"]["offered"] - before["requests"]["rejected"]
    return Observation(trace, outcome, items, numbered + 1)


def fit(plan: Plan, seen: Observation, *, profile: Profile | None = None, seed: int = 0) -> Calibration:
    """Return the profile (else the plan's) fitted to an observation, with the errors before and after."""
    found = fit_all(plan, [seen], profile=profile)
    fitted = found.profile
    requests = {name: items.request for name, items in seen.items.items()}
    return Calibration(
        plan,
        fitted,
        found.fits,
        found.request,
        fitting.scale_factors(requests),
        seen.outcome,
        compared(plan, seen, seed=seed),
        compared(replace(plan, profile=fitted), seen, seed=seed),
        findings=findings(plan.spec.graph, requests, plan.profile.visits_for(plan.variants)),
    )


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted profile, by how much each stage's batches and every request took longer."""

    profile: Profile
    fits: Mapping[str, StageFit]
    request: Estimate


def fit_all(plan: Plan, parts: Sequence[Observation], *, profile: Profile | None = None) -> Fitted:
    """Return the profile (else the plan's) fitted to several observations of one server, in the order of their time.

    The profile keeps the reasons to doubt them. Raises ServeError when they hold too few requests together.
    """
    fits = {name: _fit_stage(plan, name, parts) for name in plan.spec.graph.order if name in parts[0].items}
    request = _request_overhead(parts)
    if request is None:
        raise ServeError(f"calibrate: at least {fitting.MIN_SAMPLES} answered requests are needed; use a longer trace")
    stamp = {
        "headway": __version__,
        "plan_hash": plan.hash,
        "trace_hash": "+".join(part.trace.hash for part in parts),
        "requests": sum(part.trace.requests for part in parts),
    }
    load = {
        name: float(np.mean([part.outcome.stages[name].utilization for part in parts]))
        for name in parts[0].outcome.stages
    }
    doubts = tuple(dict.fromkeys(doubt for part in parts for doubt in part.outcome.low_confidence))
    into = plan.profile if profile is None else profile
    fitted = fitting.refitted(into, fits, request.value, load, stamp, doubts)
    return Fitted(fitted, fits, request)


def compared(plan: Plan, seen: Observation, *, seed: int = 0) -> Comparison:
    """Return what the plan's profile predicts of an observed trace beside what was measured, whole and by stage."""
    drawn = in_threads(lambda run: _simulated(plan, seen.trace, seed + run), range(RUNS))
    runs = [found for found, _ in drawn]
    usual = usual_s([stays for _, stays in drawn])
    measured = figures(seen.outcome)
    for name, items in seen.items.items():
        batch_size = items.batches().batch_size
        table = _table(plan, name, batch_size)
        if table is not None:
            measured[name] |= measured_figures(plan, name, items, seen.outcome.stages[name])
            for number, run in enumerate(runs):
                # The batches as they were, each with a time drawn anew: their sizes are judged by the waits.
                columns = np.random.default_rng([seed, number]).integers(table.shape[1], size=batch_size.size)
                run[name] |= batch_times(table[batch_size, columns])
    for by_stage, stays in (*drawn, (measured, _measured_stays(seen))):
        for name, share in miss_rates(stays, usual).items():
            by_stage[name]["miss_rate"] = share
    out: Comparison = {}
    for name, by_figure in measured.items():
        out[name] = {}
        for figure, value in by_figure.items():
            low, middle, high = np.quantile([run[name][figure] for run in runs], [0.025, 0.5, 0.975], method="nearest")
            out[name][figure] = Compared(float(middle), float(low), float(high), value)
    return out


def _simulated(plan: Plan, trace: Trace, seed: int) -> tuple[dict[str, Figures], Stays]:
    """One simulation: its figures, and how long requests were at the stages."""
    work = workload(plan, trace, seed)
    runs = run_stages(plan, work, sampled=True)
    outcome = build_outcome(plan, work, runs, seed=seed, mode="sampled")
    left = {name: run.departures for name, run in runs.items()}
    items = {}
    for name, gone in left.items():
        arrivals = work.arrivals(name, left)
        arrival_s = np.empty(work.items[name].count)
        arrival_s[arrivals.item] = arrivals.arrival_s
        items[name] = work.items[name].request[gone.item].astype(np.int64), arrival_s[gone.item], gone.done_s
    return figures(outcome), Stays.of(outcome.missed, items)


def _measured_stays(seen: Observation) -> Stays:
    """How long requests were at the stages by what the server tells."""
    items = {n: (each.request - seen.first_request, each.arrival_s, each.done_s) for n, each in seen.items.items()}
    return Stays.of(seen.outcome.missed, items)


def _table(plan: Plan, name: str, batch_size: Ints) -> Floats | None:
    """Predicted service times of batches of a stage; None for stages that have none, and without batches."""
    config = plan.stages[name].to_dict()
    if not {"variant", "hardware"} <= set(config) or not batch_size.size:
        return None
    service = plan.profile.service(name, config["variant"], config["hardware"])
    return service.table(int(batch_size.max()), sampled=True)


def _without_spread(plan: Plan, profile: Profile) -> list[str]:
    """Where predictions draw the same service times every time, since only their means are known."""
    doubts = []
    for name, config in plan.stages.items():
        fields = config.to_dict()
        if not {"variant", "hardware"} <= set(fields):
            continue
        if not profile.service(name, fields["variant"], fields["hardware"]).varies:
            doubts.append(
                f"{name}: its profile holds means alone, so intervals leave out how its batches vary; profile it, or "
                "give its rows p50_s, p95_s and p99_s"
            )
    return doubts


def _fit_stage(plan: Plan, name: str, parts: Sequence[Observation]) -> StageFit:
    """A stage's fit; stages of kinds that have no replicas of a variant on a hardware are left as they are."""
    config = plan.stages[name].to_dict()
    if not {"variant", "hardware"} <= set(config):
        return StageFit(None)
    batches = Batches.joined([part.items[name].batches() for part in parts])
    found = fitting.fit_stage(
        plan.profile, name, config["variant"], config["hardware"], batches.batch_size, batches.service_s
    )
    if found.overhead is None or not starts_at_once(plan, name):
        return found
    more = fitting.start_delay(batches.arrival_s, batches.start_s, batches.done_s)
    if more is None:
        return found
    half = float(np.hypot(found.overhead.half, more.half))
    return replace(found, overhead=Estimate(found.overhead.value + more.value, half, found.overhead.samples))


def _request_overhead(parts: Sequence[Observation]) -> Estimate | None:
    """What requests took beyond their time at the stages: the server numbers requests in the order of their sending."""
    latency_s, at_stages_s = [], []
    for seen in parts:
        every = seen.items.values()
        numbers, at_s = fitting.time_at_stages(
            np.concatenate([items.request for items in every]),
            np.concatenate([items.arrival_s for items in every]),
            np.concatenate([items.done_s for items in every]),
        )
        place = numbers - seen.first_request
        answered = seen.outcome.status[place] == ANSWERED
        latency_s.append(seen.outcome.latency_s[place[answered]])
        at_stages_s.append(at_s[answered])
    return fitting.request_overhead(np.concatenate(latency_s), np.concatenate(at_stages_s))


def _as_json(comparison: Comparison) -> dict[str, Any]:
    stages = {name: {k: v.to_dict() for k, v in figures.items()} for name, figures in comparison.items() if name}
    return {**{k: v.to_dict() for k, v in comparison[""].items()}, "stages": stages}
