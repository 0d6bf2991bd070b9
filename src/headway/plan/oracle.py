"""Is a candidate feasible? The simulator as oracle, on one trace or on many resampled ones, whole or stage by stage."""

from __future__ import annotations

import copy
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headway.errors import PlanError
from headway.plan.config import Config, StageContext
from headway.plan.contract import HoldsSupply
from headway.plan.demand import StageDemand, Tails
from headway.plan.plan import Plan
from headway.plan.promise import Criterion, Missed
from headway.profile import Profile
from headway.sim.draws import batch_key, bits_for
from headway.sim.outcome import TOLERANCE_S
from headway.sim.simulation import event_simulation, needs_events
from headway.sim.station import Departures, Floats, Station
from headway.sim.threads import cores, in_threads
from headway.sim.worklaw import Gains, WorkBound, work_bounds
from headway.sim.workload import Workload
from headway.spec.graph import Graph
from headway.spec.kinds import load_domain
from headway.spec.model import Spec
from headway.trace import Trace

TRACES = 40
"""K: resampled traces on which a robust plan is judged."""
HOLD_SHARE = 0.97
"""On which share of them the promise must hold."""
CHOICES_KEPT = 16
"""For how many choices of variants the least remaining times are kept."""
WORTH_THREADS = 50_000
"""Requests per trace from which on handing a simulation to a thread costs less than it gains."""
CACHE_BYTES = 768 << 20
"""Room for simulated stages; the least recently used ones go first."""


def block_s(trace: Trace, slo_s: float) -> float:
    """Return the block length of the bootstrap: long against the promise, short against the trace."""
    gap_s = trace.duration_s / max(1, trace.requests)
    return float(min(max(20 * slo_s, 50 * gap_s), trace.duration_s / 8))


def derive(seed: int, index: int) -> int:
    """Return the seed of the `index`-th resampled trace."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])


@dataclass(frozen=True)
class Verdict:
    """What the oracle found of a candidate: whether it keeps the promise, and by trace, as far as judged: its misses,
    whether the promise holds there, and the share of requests (or windows) that break it."""

    feasible: bool
    misses: tuple[int, ...]
    miss_rates: tuple[float, ...]
    held: tuple[bool, ...]
    broken: tuple[float, ...]


class Oracle:
    """Judges candidates for one spec, profile and trace. Every candidate sees the same requests, ways and draws.

    In `trace` mode service times are means and the promise must hold on the given trace (InferLine section 3). In
    `robust` mode they are drawn, and it must hold on at least 97 % of `TRACES` block-bootstrapped traces.
    `judged` counts the candidates, whole or partial, that were simulated.
    """

    def __init__(
        self, spec: Spec, profile: Profile, trace: Trace, *, feasibility: str = "robust", seed: int = 0
    ) -> None:
        if feasibility not in ("robust", "trace"):
            raise PlanError(f"feasibility is {feasibility!r}; valid: robust, trace")
        if not trace.requests:
            raise PlanError("the trace holds no request, so there is nothing to plan for")
        self.spec, self.profile, self.trace, self.seed = spec, profile, trace, seed
        self.feasibility = feasibility
        self.sampled = feasibility == "robust"
        self.block_s = block_s(trace, spec.slo.latency_s) if self.sampled else None
        if self.block_s is not None:
            self.seeds = [derive(seed, k) for k in range(TRACES)]
            self.traces = [trace.resample(self.block_s, s) for s in self.seeds]
        else:
            self.seeds, self.traces = [seed], [trace]
        self.may_fail = int(np.floor(len(self.traces) * (1 - HOLD_SHARE) + 1e-9))
        self.criterion = Criterion.of(spec.slo)
        self.most_misses = [self.criterion.most_misses(t.arrival_s) for t in self.traces]
        self.contexts = {n: StageContext(n, spec.stages[n], spec, profile) for n in spec.graph.order}
        self.domains = {n: load_domain(spec.stages[n].kind) for n in spec.graph.order}
        self._most_replicas = {n: h.max_replicas for n, h in spec.supply.items() if h.max_replicas is not None}
        self._holds_supply = {
            n: d.holds for n, d in self.domains.items() if self._most_replicas and isinstance(d, HoldsSupply)
        }
        self.judged = 0
        self._worth_threads = cores() > 1 and len(self.traces) > 1 and trace.requests >= WORTH_THREADS
        self._order = sorted(range(len(self.traces)), key=lambda k: -self.traces[k].requests)
        self._work: dict[tuple[int, object], Workload] = {}
        self._tails: dict[tuple[object, ...], Tails] = {}
        self._stations: dict[tuple[str, Config], Station] = {}
        self._kept = _Kept(CACHE_BYTES)
        self._above = _up_to(spec.graph)
        self._gains: dict[tuple[str, object], Gains] = {}
        self._bounds: dict[tuple[int, str, object], list[WorkBound]] = {}
        self._verdicts: dict[tuple[Config, ...], Verdict] = {}

    def with_slo(self, latency_s: float) -> Oracle:
        """Return an oracle for another latency promise that judges on the same traces and shares what was simulated."""
        other = copy.copy(self)
        slo = self.spec.slo.model_copy(update={"latency_s": latency_s})
        other.spec = self.spec.model_copy(update={"slo": slo})
        other.contexts = {n: StageContext(n, c.stage, other.spec, c.profile) for n, c in self.contexts.items()}
        other._verdicts = {}
        other._order = list(self._order)
        return other

    def plan(self, stages: Mapping[str, Config]) -> Plan:
        """Return the bare plan of a candidate."""
        return Plan(self.spec, self.profile, {name: stages[name] for name in self.spec.graph.order})

    def cost_usd_per_hour(self, name: str, config: Config) -> float:
        """Dollars per hour of one stage's configuration."""
        return float(self.domains[name].cost_usd_per_hour(self.contexts[name], config))

    def total_cost(self, stages: Mapping[str, Config]) -> float:
        """Dollars per hour of a whole candidate, summed in the spec's order as the plan does."""
        return sum(self.cost_usd_per_hour(name, stages[name]) for name in self.spec.stages)

    def feasible(self, stages: Mapping[str, Config]) -> bool:
        """Return whether a whole candidate can be had and keeps the promise."""
        return self.supplied(stages) and self.judge(stages).feasible

    def supplied(self, stages: Mapping[str, Config]) -> bool:
        """Return whether supply has so many replicas, over all the given stages together."""
        return not self.lacking(stages)

    def lacking(self, stages: Mapping[str, Config]) -> dict[str, tuple[int, int]]:
        """Return the hardware of which more is held than supply's `max`, with how many are held and allowed."""
        held: Counter[str] = Counter()
        for name, holds in self._holds_supply.items():
            if name in stages:
                held.update(holds(stages[name]))
        return {name: (held[name], most) for name, most in self._most_replicas.items() if held[name] > most}

    def judge(self, stages: Mapping[str, Config], *, all_traces: bool = False) -> Verdict:
        """Simulate a whole candidate, trace by trace; stop as soon as too many fail unless `all_traces`."""
        key = tuple(stages[name] for name in self.spec.graph.order)
        known = self._verdicts.get(key)
        if known is not None and (len(known.misses) == len(self.traces) or not all_traces):
            return known
        self.judged += 1
        seen: dict[int, tuple[int, float, bool, float]] = {}
        failed = 0
        for k, missed in self._missed(lambda k: self.finish_s(k, stages), TOLERANCE_S):
            arrival_s, misses = self.traces[k].arrival_s, int(np.count_nonzero(missed))
            held = self.criterion.holds(arrival_s, missed)
            seen[k] = (misses, misses / max(1, missed.size), held, self.criterion.broken(arrival_s, missed))
            if not held:
                failed += 1
                self._to_front(k)
                if failed > self.may_fail and not all_traces:
                    break
        misses_of, rates, holding, broken = zip(*(seen[k] for k in sorted(seen)), strict=True)
        verdict = Verdict(failed <= self.may_fail, misses_of, rates, holding, broken)
        self._verdicts[key] = verdict
        return verdict

    def finish_s(self, k: int, stages: Mapping[str, Config]) -> Floats:
        """Return each request's completion on trace k under a whole candidate; infinite when it never finishes."""
        plan = self.plan(stages)
        if not needs_events(plan):
            return self.completion(k, stages, stages)
        simulation = event_simulation(plan, self.workload(k, stages), sampled=self.sampled)
        simulation.advance(np.inf)
        return simulation.completion()

    def may_be_feasible(self, stages: Mapping[str, Config], variants: Mapping[str, str]) -> bool:
        """Return False only when no way of configuring the remaining stages can make this beginning feasible.

        `stages` holds the first stages in topological order, or none. Their departures do not depend on later stages,
        and what must follow takes at least its quickest service, so the misses counted here happen in every completion.
        """
        self.judged += 1
        failed = 0
        for k, missed in self._missed(lambda k: self.completion(k, stages, variants), 2 * TOLERANCE_S):
            if not self.criterion.holds(self.traces[k].arrival_s, missed):
                failed += 1
                self._to_front(k)
                if failed > self.may_fail:
                    return False
        return True

    def completion(self, k: int, stages: Mapping[str, Config], variants: Mapping[str, object]) -> Floats:
        """Return each request's completion on trace k, or a lower bound of it when later stages are not given."""
        work = self.workload(k, variants)
        departures = {name: self.departures(k, name, stages, work, variants) for name in stages}
        if len(stages) == len(self.spec.stages):
            return work.completion(departures)
        tails = self.tails(k, variants)
        done_s = work.trace.arrival_s + tails.least_s
        for name, left in departures.items():
            tails.finish_at_least(work, name, left.done_s, left.item, done_s)
        return done_s

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
            self._work[key] = Workload.of(self.spec.graph, self.traces[k], self.seeds[k], record)
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

    def demand(self, k: int, name: str, variants: Mapping[str, str]) -> StageDemand:
        """Return what trace k asks of a stage at least, whatever the other stages do."""
        return StageDemand.of(self.workload(k, variants), self.tails(k, variants), name, self.spec.slo.latency_s)

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

    def miss_rates(self, stages: Mapping[str, Config]) -> Sequence[float]:
        """Return a whole candidate's miss rate on every trace."""
        return self.judge(stages, all_traces=True).miss_rates

    def _missed(self, finish_s: Callable[[int], Floats], tolerance_s: float) -> Iterator[tuple[int, Missed]]:
        """Yield each trace with which of its requests miss, the likely refutations first.

        Traces are simulated in groups, as many as can fail and one more: so many are needed in any case.
        """
        order, group = list(self._order), self.may_fail + 1
        limit_s = self.spec.slo.latency_s + tolerance_s
        for first in range(0, len(order), group):
            some = order[first : first + group]
            finished = in_threads(finish_s, some) if self._worth_threads else [finish_s(k) for k in some]
            for k, done_s in zip(some, finished, strict=True):
                yield k, ~(done_s - self.traces[k].arrival_s <= limit_s)

    def _to_front(self, k: int) -> None:
        """Judge first on the traces that refuted others: most candidates then fail after very few."""
        self._order.remove(k)
        self._order.insert(0, k)

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
            self._bytes += value.done_s.nbytes + value.item.nbytes
            while self._bytes > self.most_bytes:
                _, old = self._values.popitem(last=False)
                self._bytes -= old.done_s.nbytes + old.item.nbytes
