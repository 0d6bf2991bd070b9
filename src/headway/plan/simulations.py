"""What the planner has simulated: workloads, departures and bounds on a fixed set of traces, whatever is promised."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from headway.plan.config import Config, StageContext
from headway.plan.contract import TellsAccuracy
from headway.plan.demand import Tails
from headway.plan.plan import Plan
from headway.profile import Profile
from headway.sim.draws import batch_key, bits_for
from headway.sim.outcome import combined_accuracy
from headway.sim.simulation import event_simulation, needs_events
from headway.sim.station import Departures, Floats, Station
from headway.sim.worklaw import Gains, WorkBound, work_bounds
from headway.sim.workload import Workload
from headway.spec.graph import Graph
from headway.spec.kinds import load_domain
from headway.spec.model import Spec
from headway.trace import Trace

CHOICES_KEPT = 16
"""For how many choices of variants the least remaining times are kept."""
CACHE_BYTES = 768 << 20
"""Room for simulated stages; the least recently used ones go first."""


class Simulations:
    """Simulates candidates for one spec and profile on given traces, whole or stage by stage, and keeps the stages.

    Nothing here depends on the promise: oracles of different promises share it. Every candidate sees the same requests,
    ways and draws; service times are drawn when `sampled`, else their means. `traces[k]` is run with `seeds[k]`;
    `block_s` is the block length by which the traces were resampled, where they were.
    """

    def __init__(
        self,
        spec: Spec,
        profile: Profile,
        traces: Sequence[Trace],
        seeds: Sequence[int],
        *,
        sampled: bool,
        block_s: float | None = None,
    ) -> None:
        self.spec, self.profile, self.traces, self.seeds = spec, profile, traces, seeds
        self.sampled, self.block_s = sampled, block_s
        self.contexts = {n: StageContext(n, spec.stages[n], spec, profile) for n in spec.graph.order}
        self.domains = {n: load_domain(spec.stages[n].kind) for n in spec.graph.order}
        self.telling = tuple(n for n, domain in self.domains.items() if isinstance(domain, TellsAccuracy))
        """The stages whose answers are simulated, so that their accuracy is known only from running them."""
        self._work: dict[tuple[int, object], Workload] = {}
        self._tails: dict[tuple[object, ...], Tails] = {}
        self._stations: dict[tuple[str, Config], Station] = {}
        self._kept = _Kept(CACHE_BYTES)
        self._above = _up_to(spec.graph)
        self._gains: dict[tuple[str, object], Gains] = {}
        self._bounds: dict[tuple[int, str, object], list[WorkBound]] = {}

    def finish_s(self, k: int, stages: Mapping[str, Config]) -> Floats:
        """Return each request's completion on trace k under a whole candidate.

        Infinite when it never finishes, or broke a promise of its own: no latency that is promised keeps that one.
        """
        plan = Plan(self.spec, self.profile, {name: stages[name] for name in self.spec.graph.order})
        if not needs_events(plan):
            return self.completion(k, stages, stages)
        simulation = event_simulation(plan, self.workload(k, stages), sampled=self.sampled)
        simulation.advance(np.inf)
        return simulation.completion()

    def completion(self, k: int, stages: Mapping[str, Config], variants: Mapping[str, object]) -> Floats:
        """Return each request's completion on trace k as `finish_s` does, or a lower bound where later stages lack."""
        work = self.workload(k, variants)
        departures = {name: self.departures(k, name, stages, work, variants) for name in stages}
        if len(stages) == len(self.spec.stages):
            done_s = work.completion(departures)
        else:
            tails = self.tails(k, variants)
            done_s = work.trace.arrival_s + tails.least_s
            for name, left in departures.items():
                tails.finish_at_least(work, name, left.done_s, left.item, done_s)
        done_s[work.broken(departures)] = np.inf
        return done_s

    def accuracy(self, k: int, stages: Mapping[str, Config]) -> float | None:
        """Return how accurate the `telling` stages are on trace k; None where there are none, or none answered."""
        work = self.workload(k, stages)
        return combined_accuracy(self.departures(k, name, stages, work, stages).accuracy for name in self.telling)

    def promising(self, stages: Mapping[str, Config]) -> tuple[str, ...]:
        """Return the stages of a whole candidate that make promises of their own to some of their items."""
        work = self.workload(0, stages)
        return tuple(n for n in self.spec.graph.order if self.departures(0, n, stages, work, stages).broken.size)

    def departures(
        self, k: int, name: str, stages: Mapping[str, Config], work: Workload, variants: Mapping[str, object]
    ) -> Departures:
        """Return one stage's departures on trace k, kept for as long as there is room."""
        above = self._above[name]
        key = (k, name, *(stages[n] for n in above), self._ways(variants))
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        before = {n: self.departures(k, n, stages, work, variants) for n in above if n != name}
        left = work.run(name, self.station(name, stages[name]), before)
        self._kept.put(key, left)
        return left

    def station(self, name: str, config: Config) -> Station:
        """Return the simulator's station of a stage's configuration."""
        key = (name, config)
        if key not in self._stations:
            station: Station = self.domains[name].station(self.contexts[name], config, sampled=self.sampled)
            self._stations[key] = station
        return self._stations[key]

    def workload(self, k: int, variants: Mapping[str, object]) -> Workload:
        """Return trace k's workload; recorded visits may depend on the chosen variants."""
        key = (k, self._ways(variants))
        if key not in self._work:
            record = self.profile.visits_for(_names(variants))
            self._work[key] = Workload.of(
                self.spec.graph, self.traces[k], self.seeds[k], record, None, self.profile.request_overhead_s
            )
        return self._work[key]

    def most_items(self, name: str, choices: Sequence[Mapping[str, object]]) -> int:
        """Return the most items that any trace brings to a stage, under any of the choices of variants."""
        return max(self.workload(k, choice).items[name].count for k in range(len(self.traces)) for choice in choices)

    def tails(self, k: int, variants: Mapping[str, object]) -> Tails:
        """Return the least remaining times on trace k."""
        names = _names(variants)
        key = (k, self._ways(variants), tuple(sorted(names.items())))
        if key not in self._tails:
            self._tails[key] = Tails.of(self.workload(k, variants), self.fastest_s(names))
            if len(self._tails) > CHOICES_KEPT * len(self.traces):
                self._tails.pop(next(iter(self._tails)), None)
        return self._tails[key]

    def fastest_s(self, variants: Mapping[str, str]) -> dict[str, float]:
        """Return each stage's quickest service under a choice of variants, over all its hardware."""
        return {
            name: float(self.domains[name].fastest_s(self.contexts[name], variants.get(name), sampled=self.sampled))
            for name in self.spec.graph.order
        }

    def work_bounds(self, k: int, name: str, config: Config, law: object, batches: int) -> list[WorkBound]:
        """Return what the batches of a stage's configurations of one law take at least on trace k."""
        key = (k, name, law)
        if key not in self._bounds:
            if (name, law) not in self._gains:
                context = self.contexts[name]
                self._gains[name, law] = self.domains[name].work_gains(context, config, sampled=self.sampled)
            gains = self._gains[name, law]
            self._bounds[key] = work_bounds(gains, batch_key(self.seeds[k], name), bits_for(gains[0][1].size), batches)
        return self._bounds[key]

    def _ways(self, variants: Mapping[str, object]) -> object:
        """What the recorded visits depend on: nothing unless visits were recorded by variant."""
        record = self.profile.visits_for(_names(variants))
        return None if record is None else tuple(sorted(record.variants.items()))


def _up_to(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Each stage with all that its items pass before it, in topological order."""
    above: dict[str, set[str]] = {}
    for name in graph.order:
        above[name] = {name}.union(*(above[edge.parent] for edge in graph.parents[name]))
    return {name: tuple(n for n in graph.order if n in above[name]) for name in graph.order}


def _names(variants: Mapping[str, object]) -> dict[str, str]:
    """Variant names, from names or from configurations that have one."""
    out = {}
    for stage, value in variants.items():
        name = value if isinstance(value, str) else getattr(value, "variant", None)
        if name is not None:
            out[stage] = name
    return out


class _Kept:
    """Departures of simulated stages, up to a number of bytes; threads that simulate side by side share it."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._bytes = 0
        self._values: OrderedDict[tuple[object, ...], Departures] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[object, ...]) -> Departures | None:
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: tuple[object, ...], value: Departures) -> None:
        with self._lock:
            if key in self._values:
                return
            self._values[key] = value
            self._bytes += _bytes(value)
            while self._bytes > self.most_bytes:
                _, old = self._values.popitem(last=False)
                self._bytes -= _bytes(old)


def _bytes(left: Departures) -> int:
    return left.done_s.nbytes + left.item.nbytes + left.credit.nbytes + left.broken.nbytes
