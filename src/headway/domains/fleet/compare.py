"""Policies of a fleet beside each other: every choice of them serves the same requests, at several rates.

Each choice is simulated twice: with the loads that a balancer has, as old as reports are, and with those that no
balancer has, exact at every moment. The difference is what stale reports cost under that policy.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import numpy as np

from headway.domains.fleet.cores_station import CoresStation
from headway.domains.fleet.declare import QUEUES, REPORT_S
from headway.domains.fleet.least import beyond
from headway.domains.fleet.llm_station import LlmStation
from headway.errors import HeadwayError, TraceError, nearest
from headway.fleet.llm_slo import SloClass, kept
from headway.fleet.metrics import goodput_per_s, mean_answered, most_answered, slowdown
from headway.policy.kv_admission import RULES, admission
from headway.policy.routing import ROUTERS, router
from headway.policy.scheduling import ORDERS
from headway.policy.token_routing import TOKEN_ROUTERS, token_router
from headway.sim.outcome import percentile
from headway.sim.station import Arrivals, Flags, Floats
from headway.sim.threads import in_threads
from headway.spec.units import duration_s
from headway.trace import Trace

Choice: TypeAlias = Mapping[str, str]
"""The policy that decides on each axis, by name."""
Figures: TypeAlias = Mapping[str, float]

ALL = "all"
"""Stands for every policy of an axis."""
NEVER = "never"
"""The quantum of servers whose requests run to their end."""


class Contest(Protocol):
    """A fleet whose policies can be exchanged. Policies are ranked by the first of its figures, the less the better."""

    @property
    def axes(self) -> Mapping[str, Sequence[str]]:
        """What is decided by a policy, and the names of those that can."""
        ...

    @property
    def present(self) -> Choice:
        """The policies that decide now."""
        ...

    @property
    def report_s(self) -> float | None:
        """How old loads become that a balancer goes by; None where they come with every reply."""
        ...

    def figures(self, choice: Choice, requests: Arrivals, span_s: float, seed: int, *, exact: bool) -> Figures:
        """Serve the requests of so many seconds by other policies; `exact`: the balancer sees loads as they are.

        Raises TraceError where the requests lack what servers need to know.
        """
        ...

    def rejected(self, requests: Arrivals) -> Mapping[str, int]:
        """Return which requests no policy can have served, as a stage's outcome has it; empty when there is none."""
        ...


@dataclass(frozen=True, slots=True)
class LlmContest:
    """LLM engines behind a balancer. `promised`: the classes that goodput is counted by.

    >>> from headway.fleet.engines import Engine, LlmFleet
    >>> from headway.fleet.step_time import StepTime
    >>> fleet = LlmFleet((Engine(StepTime(floor_s=0.01, token_s=1e-4), kv_tokens=80_000),) * 2)
    >>> present = {"routing": "least-prefill", "order": "fcfs", "admission": "optimistic"}
    >>> contest = LlmContest(LlmStation("answer", fleet, (), 4096), present, (SloClass("all", ttft_s=1.0),))
    >>> requests = arrivals(Trace.from_arrivals([0.0], {"input_tokens": [500], "output_tokens": [11]}))
    >>> round(contest.figures(present, requests, 1.0, seed=1, exact=True)["ttft_mean_s"], 6)
    0.05
    """

    station: LlmStation
    present: Choice
    promised: tuple[SloClass, ...]

    @property
    def axes(self) -> Mapping[str, Sequence[str]]:
        """Balancer, and order and admission of the engines."""
        return {"routing": [*ROUTERS, *TOKEN_ROUTERS], "order": list(ORDERS), "admission": list(RULES)}

    @property
    def report_s(self) -> float:
        """How old loads become; where the fleet is declared to have exact ones, as old as metrics usually are."""
        return self.station.fleet.report_s or REPORT_S

    def figures(self, choice: Choice, requests: Arrivals, span_s: float, seed: int, *, exact: bool) -> Figures:
        """Serve requests by other policies, whose knobs stay as the fleet has them."""
        old = self.station.fleet
        fleet = replace(
            old,
            router=token_router(choice["routing"], stale_s=old.router.stale_s),
            order=old.order._replace(code=ORDERS[choice["order"]]),
            admission=admission(choice["admission"], watermark=old.admission.watermark),
            report_s=0.0 if exact else self.report_s,
        )
        out, kind = replace(self.station, fleet=fleet).served(requests, seed)
        return {
            **_latency("ttft", out.ttft_s),
            **_latency("tpot", out.tpot_s[~np.isnan(out.tpot_s)]),
            **_latency("e2e", out.e2e_s),
            **_kept(kept(out, self.promised, kind), span_s),
            "wait_max_s": most_answered(out.wait_s),
            "preemptions_per_request": out.preemptions / out.offered,
            "wasted_ratio": out.wasted_ratio,
            "rejected_ratio": 1.0 - out.answered / out.offered,
        }

    def rejected(self, requests: Arrivals) -> Mapping[str, int]:
        """Requests that may need more memory than an engine has."""
        return self.station.rejected(requests)


@dataclass(frozen=True, slots=True)
class CoresContest:
    """Servers with workers behind a balancer. `quanta`: those that can be chosen, in seconds by name."""

    station: CoresStation
    present: Choice
    promised: tuple[SloClass, ...]
    quanta: Mapping[str, float]

    @property
    def axes(self) -> Mapping[str, Sequence[str]]:
        """Balancer, and queues and quantum of the servers; queues by class only where there are classes."""
        queues = QUEUES if self.station.classes else QUEUES[:1]
        return {"routing": list(ROUTERS), "queues": list(queues), "quantum": list(self.quanta)}

    @property
    def report_s(self) -> float | None:
        """How old loads become."""
        return self.station.setup.report_every_s or None

    def figures(self, choice: Choice, requests: Arrivals, span_s: float, seed: int, *, exact: bool) -> Figures:
        """Serve requests by other policies."""
        old = self.station.setup
        setup = replace(
            old,
            router=router(choice["routing"], stale_s=old.router.stale_s),
            queues=choice["queues"],
            quantum_s=self.quanta[choice["quantum"]],
            signal="exact" if exact else old.signal,
        )
        out = replace(self.station, setup=setup).served(requests, seed)
        slow = slowdown(out.latency_s, out.service_s)
        return {
            **_latency("e2e", out.latency_s),
            "slowdown_p99": percentile(slow[~np.isnan(slow)], 99),
            **_kept(~beyond(out.latency_s, self.promised, out.kind), span_s),
            "wait_max_s": most_answered(out.wait_s),
            "preemptions_per_request": out.preemptions / out.latency_s.size,
            "rejected_ratio": 1.0 - out.answered / out.latency_s.size,
        }

    def rejected(self, requests: Arrivals) -> Mapping[str, int]:
        """None: a server takes whatever is sent to it."""
        return {}


@dataclass(frozen=True, slots=True)
class Run:
    """What one choice of policies did at a rate (a multiple of the trace's) on one of the traces, numbered from 0.

    `reported`: with loads as old as reports are; `exact`: with loads as they are.
    """

    rate: float
    choice: Choice
    trace: int
    reported: Figures
    exact: Figures


def choices(contest: Contest, wanted: Mapping[str, Sequence[str]]) -> list[Choice]:
    """Return every combination of the policies asked for; on an axis of which none is, the present one stays.

    `all` stands for all of an axis. Raises HeadwayError for an axis or a name that is not known.
    """
    axes = contest.axes
    for axis in wanted:
        if axis not in axes:
            raise HeadwayError(f"compare: this fleet has no {axis} to choose; it has {', '.join(axes)}")
    named = {axis: _named(axis, wanted.get(axis, ()), axes[axis]) or [contest.present[axis]] for axis in axes}
    return [dict(zip(named, picked, strict=True)) for picked in itertools.product(*named.values())]


def _named(axis: str, wanted: Sequence[str], valid: Sequence[str]) -> list[str]:
    spelled = [_as_declared(axis, name, valid) for name in wanted]
    names = list(valid) if ALL in wanted else list(dict.fromkeys(spelled))
    for name in names:
        if name not in valid:
            raise HeadwayError(
                f"compare: {axis} is {name!r}{nearest(name, valid)}; valid: {ALL}, or any of {', '.join(valid)}"
            )
    return names


def _as_declared(axis: str, name: str, valid: Sequence[str]) -> str:
    """A quantum as it is called here, however the same time is written; anything else as it stands."""
    if axis != "quantum" or name in valid:
        return name
    try:
        seconds = duration_s(name)
    except ValueError:
        return name
    return next((each for each in valid if each != NEVER and duration_s(each) == seconds), name)


def compare(
    contest: Contest,
    traces: Sequence[Trace],
    chosen: Sequence[Choice],
    *,
    rates: Sequence[float] = (1.0,),
    seed: int = 0,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> list[Run]:
    """Let every choice serve every trace at every rate; all see the same requests, and chance is drawn alike for all.

    `progress` is told how many of all combinations are done. Raises HeadwayError for a rate that is not above 0, and
    TraceError for a trace that is empty or lacks what the fleet needs.
    """
    for rate in rates:
        if not 0.0 < rate < math.inf:
            raise HeadwayError(f"compare: rate is {rate:g}; give multiples of the trace's rate, above 0")
    for trace in traces:
        if not trace.requests:
            raise TraceError(f"trace {trace.name!r} has no requests; there is nothing to compare policies by")
    out: list[Run] = []
    for rate in rates:
        faster = [trace.scale_time(1.0 / rate) for trace in traces]
        for choice in chosen:
            progress(len(out) // len(traces), len(rates) * len(chosen), f"{rate:g} x, {', '.join(choice.values())}")
            out += _runs(contest, faster, rate, choice, seed)
    return out


def _runs(contest: Contest, traces: Sequence[Trace], rate: float, choice: Choice, seed: int) -> Iterator[Run]:
    given = [(arrivals(trace), trace.duration_s) for trace in traces]

    def served(at: tuple[int, bool]) -> Figures:
        number, exact = at
        requests, span_s = given[number]
        return contest.figures(choice, requests, span_s, seed + number, exact=exact)

    found = iter(in_threads(served, itertools.product(range(len(given)), (False, True))))
    for number in range(len(given)):
        yield Run(rate, choice, number, reported=next(found), exact=next(found))


def arrivals(trace: Trace) -> Arrivals:
    """Return a trace's requests as a station gets them that stands alone.

    >>> arrivals(Trace.from_arrivals([0.0, 1.0])).item.tolist()
    [0, 1]
    """
    item = np.arange(trace.requests, dtype=np.int32)
    return Arrivals(trace.arrival_s, item, item, attributes=trace.columns, prompts=trace.prompts, trace=trace.name)


def _latency(name: str, seconds: Floats) -> Figures:
    """Mean of what was answered, and P99 of all; not a number where there are none, as of answers with one token."""
    return {f"{name}_mean_s": mean_answered(seconds), f"{name}_p99_s": percentile(seconds, 99)}


def _kept(met: Flags, span_s: float) -> Figures:
    return {"goodput_per_s": goodput_per_s(met.astype(np.float64), span_s), "kept_ratio": float(np.mean(met))}
