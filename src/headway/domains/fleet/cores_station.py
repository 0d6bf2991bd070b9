"""The simulator's station of servers with workers: a balancer, the network, queues, and preemption by quantum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headway.domains.fleet.least import beyond
from headway.domains.fleet.leaving import CLASS, departures, kinds, per_arrival
from headway.errors import TraceError
from headway.fleet.llm_slo import SloClass
from headway.fleet.metrics import by_class, goodput_per_s, mean_answered, most_answered, slowdown
from headway.sim.draws import batch_key, bits_for, draw
from headway.sim.outcome import percentile
from headway.sim.station import Arrivals, Departures, Floats

if TYPE_CHECKING:
    from headway.fleet.rack_run import RackOutcome, RackSetup

SERVICE = "service_s"
"""The column of a trace that says how long each request computes; without it the profile does."""
SESSION = "session"


@dataclass(frozen=True)
class CoresStation:
    """Equal servers behind a balancer; each worker runs one request at a time.

    `service_s` are the equally likely times of a request by the profile, a power of two of them (or its mean alone);
    None where the trace tells. `affinity`: whether the trace's sessions are kept to.

    >>> from headway.fleet.rack_run import RackSetup
    >>> station = CoresStation("look", RackSetup((1,)), (), np.array([2.0]), False)
    >>> one = np.arange(2, dtype=np.int32)
    >>> station.run(Arrivals(np.array([0.0, 1.0]), one, one), seed=0, record=False).done_s.tolist()
    [2.0, 4.0]
    """

    name: str
    setup: RackSetup
    classes: tuple[SloClass, ...]
    service_s: Floats | None
    affinity: bool

    @property
    def capacity(self) -> int:
        """Number of servers."""
        return len(self.setup.workers)

    def fastest_s(self) -> float:
        """The shortest request and the way there and back."""
        least_s = 0.0 if self.service_s is None else float(self.service_s.min())
        return least_s + self.setup.send_s + self.setup.reply_s

    def served(self, arrivals: Arrivals, seed: int) -> RackOutcome:
        """Return what came of all arrivals. Raises TraceError for columns of the trace that cannot be."""
        from headway.fleet.rack_run import simulate_rack

        n = arrivals.arrival_s.size
        kind = kinds(per_arrival(arrivals, CLASS), n, len(self.classes), self.name)
        session = per_arrival(arrivals, SESSION) if self.affinity else None
        if self.affinity and session is None and n:
            raise TraceError(f"stages.{self.name}: affinity needs the trace's column {SESSION!r}")
        return simulate_rack(
            self.setup,
            arrivals.arrival_s,
            self._service_s(arrivals, seed),
            kind=kind,
            session=() if session is None else session.astype(np.int64),
            seed=batch_key(seed, self.name),
        )

    def run(self, arrivals: Arrivals, *, seed: int, record: bool) -> Departures:
        """Serve all arrivals. Raises TraceError for columns of the trace that cannot be."""
        outcome = self.served(arrivals, seed)
        return departures(
            arrivals,
            arrivals.arrival_s + outcome.wait_s,
            arrivals.arrival_s + outcome.latency_s,
            ~beyond(outcome.latency_s, self.classes, outcome.kind) if self.classes else np.empty(0, np.bool_),
            busy_s=float(outcome.busy_s.sum()) / self.setup.workers[0],
            figures=cores_figures(outcome, self.classes, float(np.ptp(arrivals.arrival_s)))
            if record and arrivals.item.size
            else {},
            record=record,
        )

    def _service_s(self, arrivals: Arrivals, seed: int) -> Floats:
        """How long each arrival computes: as the trace says, or drawn by item, the same under every configuration."""
        if self.service_s is None:
            given = per_arrival(arrivals, SERVICE)
            if given is None:
                if not arrivals.arrival_s.size:
                    return np.empty(0)
                raise TraceError(f"stages.{self.name}: neither the trace's column {SERVICE!r} nor the profile says how "
                                 "long requests compute; give one of the two")  # fmt: skip
            below = np.flatnonzero(given < 0.0)
            if below.size:
                at = int(arrivals.request[arrivals.item[below[0]]])
                raise TraceError(f"stages.{self.name}: trace {arrivals.trace!r}: request {at} (from 0) has a {SERVICE} "
                                 f"of {given[below[0]]:g} s; it must be at least 0")  # fmt: skip
            return given
        bits = bits_for(self.service_s.size)
        if not bits:
            return np.full(arrivals.arrival_s.size, self.service_s[0])
        key = batch_key(seed, f"{SERVICE}:{self.name}")
        drawn = np.array([draw(key, int(item), bits) for item in arrivals.item], np.int64)
        return self.service_s[drawn]


def cores_figures(outcome: RackOutcome, classes: Sequence[SloClass], span_s: float) -> dict[str, float]:
    """Return what one latency hides of requests that came within a span: how long for their size, and by class."""
    stretched = slowdown(outcome.latency_s, outcome.service_s)
    stretched = stretched[~np.isnan(stretched)]
    figures = {
        "e2e_mean_s": mean_answered(outcome.latency_s),
        "e2e_p99_s": percentile(outcome.latency_s, 99),
        "slowdown_p99": percentile(stretched, 99) if stretched.size else 1.0,
        "wait_max_s": most_answered(outcome.wait_s),
        "preemptions": float(outcome.preemptions),
    }
    if classes:
        slowest_s = by_class(outcome.latency_s, outcome.kind, 99)
        met = ~beyond(outcome.latency_s, classes, outcome.kind)
        if span_s > 0.0:
            figures["goodput_per_s"] = goodput_per_s(met.astype(np.float64), span_s)
        for at, p99_s in enumerate(slowest_s.tolist()):
            if not np.isnan(p99_s):
                figures[f"{classes[at].name}.e2e_p99_s"] = p99_s
                own = outcome.kind == at
                slow = slowdown(outcome.latency_s[own], outcome.service_s[own])
                if not np.isnan(slow).all():
                    figures[f"{classes[at].name}.slowdown_p99"] = percentile(slow[~np.isnan(slow)], 99)
                figures[f"{classes[at].name}.kept_ratio"] = float(met[own].mean())
    return figures
