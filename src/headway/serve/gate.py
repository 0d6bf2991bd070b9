"""Who is let in: the admission policy is asked, with what the stations have to do, before a request costs any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from headway.policy.admission import Load, in_time
from headway.serve.station import LiveStation, TellsLoad
from headway.sim.promise import admission_terms

if TYPE_CHECKING:
    from headway.plan.plan import Plan


class Gate:
    """Knows a plan's promise. It stands open where a stage's domain cannot tell its times, or its station its load."""

    def __init__(self, plan: Plan, stations: Mapping[str, LiveStation]) -> None:
        asked = [stations[name] for name in plan.spec.graph.order]
        self._loads = [station.load for station in asked if isinstance(station, TellsLoad)]
        self._terms = admission_terms(plan) if len(self._loads) == len(asked) else None
        self.promise_s = plan.spec.slo.latency_s

    def in_time(self, now_s: float, timeout_s: float) -> bool:
        """Return whether a request that comes now is expected to be answered within the promise and its own timeout."""
        if self._terms is None:
            return True
        load = Load(*zip(*[load() for load in self._loads], strict=True))
        return in_time(self._terms, load, now_s, min(self.promise_s, timeout_s))
