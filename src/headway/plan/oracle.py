"""Is a candidate feasible? The simulator as oracle, on one trace or on many resampled ones, whole or stage by stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headway.errors import PlanError
from headway.plan.accuracy import plan_accuracy
from headway.plan.config import Config, StageContext
from headway.plan.contract import HoldsSupply
from headway.plan.demand import StageDemand
from headway.plan.plan import Plan, money
from headway.plan.promise import Criterion, Missed
from headway.plan.simulations import Simulations
from headway.profile import Profile
from headway.sim.outcome import TOLERANCE_S, combined_accuracy
from headway.sim.station import Floats
from headway.sim.threads import cores, in_threads
from headway.spec.model import Spec
from headway.trace import Trace

TRACES = 40
"""K: resampled traces on which a robust plan is judged."""
HOLD_SHARE = 0.97
"""On which share of them the promise must hold."""
WORTH_THREADS = 50_000
"""Requests per trace from which on handing a simulation to a thread costs less than it gains."""


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
    accuracy: float | None = None
    """The simulated accuracy, where a floor is promised and the latency promise holds."""


class Oracle:
    """Judges candidates for one spec, profile and trace. Every candidate sees the same requests, ways and draws.

    In `trace` mode service times are means and the promise must hold on the given trace (InferLine section 3). In
    `robust` mode they are drawn, and it must hold on at least 97 % of `TRACES` block-bootstrapped traces.
    `judged` counts the candidates, whole or partial, that were simulated. `simulations` are those of another oracle of
    the same profile, trace, mode and seed, to be shared.
    """

    def __init__(
        self,
        spec: Spec,
        profile: Profile,
        trace: Trace,
        *,
        feasibility: str = "robust",
        seed: int = 0,
        simulations: Simulations | None = None,
    ) -> None:
        if feasibility not in ("robust", "trace"):
            raise PlanError(f"feasibility is {feasibility!r}; valid: robust, trace")
        if not trace.requests:
            raise PlanError("the trace holds no request, so there is nothing to plan for")
        self.spec, self.profile, self.trace, self.seed, self.feasibility = spec, profile, trace, seed, feasibility
        self.simulations = simulations or _simulations(spec, profile, trace, feasibility, seed)
        self.traces, self.seeds = self.simulations.traces, self.simulations.seeds
        self.sampled, self.domains = self.simulations.sampled, self.simulations.domains
        self.contexts = {n: StageContext(n, spec.stages[n], spec, profile) for n in spec.graph.order}
        self.may_fail = int(np.floor(len(self.traces) * (1 - HOLD_SHARE) + 1e-9))
        self.criterion = Criterion.of(spec.slo)
        self.most_misses = [self.criterion.most_misses(t.arrival_s) for t in self.traces]
        self._most_replicas = {n: h.max_replicas for n, h in spec.supply.items() if h.max_replicas is not None}
        self._holds_supply = {
            n: d.holds for n, d in self.domains.items() if self._most_replicas and isinstance(d, HoldsSupply)
        }
        self._floor = spec.slo.accuracy if self.simulations.telling else None
        self.judged = 0
        self._worth_threads = cores() > 1 and len(self.traces) > 1 and trace.requests >= WORTH_THREADS
        self._order = sorted(range(len(self.traces)), key=lambda k: -self.traces[k].requests)
        self._verdicts: dict[tuple[Config, ...], Verdict] = {}

    def with_slo(self, latency_s: float) -> Oracle:
        """Return an oracle for another latency promise that judges on the same traces and shares what was simulated."""
        slo = self.spec.slo.model_copy(update={"latency_s": latency_s})
        spec = self.spec.model_copy(update={"slo": slo})
        return Oracle(
            spec, self.profile, self.trace,
            feasibility=self.feasibility, seed=self.seed, simulations=self.simulations,
        )  # fmt: skip

    @property
    def block_s(self) -> float | None:
        """Block length of the bootstrap that made the traces, or None where the given trace itself is judged on."""
        return self.simulations.block_s

    def plan(self, stages: Mapping[str, Config]) -> Plan:
        """Return the bare plan of a candidate."""
        return Plan(self.spec, self.profile, {name: stages[name] for name in self.spec.graph.order})

    def cost_usd_per_hour(self, name: str, config: Config) -> float:
        """Dollars per hour of one stage's configuration."""
        return float(self.domains[name].cost_usd_per_hour(self.contexts[name], config))

    def total_cost(self, stages: Mapping[str, Config]) -> float:
        """Dollars per hour of a whole candidate, summed in the spec's order as the plan does."""
        return money(sum(self.cost_usd_per_hour(name, stages[name]) for name in self.spec.stages))

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
        for k, missed in self._missed(lambda k: self.simulations.finish_s(k, stages), TOLERANCE_S):
            arrival_s, misses = self.traces[k].arrival_s, int(np.count_nonzero(missed))
            held = self.criterion.holds(arrival_s, missed)
            seen[k] = (misses, misses / max(1, missed.size), held, self.criterion.broken(arrival_s, missed))
            if not held:
                failed += 1
                self._to_front(k)
                if failed > self.may_fail and not all_traces:
                    break
        misses_of, rates, holding, broken = zip(*(seen[k] for k in sorted(seen)), strict=True)
        accuracy = self.accuracy(stages) if self._floor is not None and failed <= self.may_fail else None
        feasible = failed <= self.may_fail and not self.inaccurate(accuracy)
        verdict = Verdict(feasible, misses_of, rates, holding, broken, accuracy)
        self._verdicts[key] = verdict
        return verdict

    def accuracy(self, stages: Mapping[str, Config]) -> float | None:
        """Return a whole candidate's accuracy, the mean over all traces; None where no stage simulates its answers."""
        shown = [self.simulations.accuracy(k, stages) for k in range(len(self.traces))]
        known = [accuracy for accuracy in shown if accuracy is not None]
        return combined_accuracy([self.plan(stages).accuracy, float(np.mean(known))]) if known else None

    def best_accuracy(self, variants: Mapping[str, str]) -> float | None:
        """Return what no candidate with this choice of variants exceeds; None where no accuracy is known."""
        telling = self.simulations.telling
        bounds = [float(self.domains[name].best_accuracy(self.contexts[name])) for name in telling]
        return combined_accuracy([plan_accuracy(self.spec, self.profile, variants), *bounds])

    def inaccurate(self, accuracy: float | None) -> bool:
        """Return whether a simulated accuracy is below the floor that is promised."""
        return accuracy is not None and self._floor is not None and accuracy < self._floor - 1e-12

    def short_text(self, verdict: Verdict) -> str:
        """Return what follows "would" of an infeasible candidate: how it breaks the promise, and what is allowed."""
        if verdict.accuracy is not None and self.inaccurate(verdict.accuracy):
            return f"be right on {100 * verdict.accuracy:.4g}% of requests ({100 * (self._floor or 0.0):.4g}% wanted)"
        return self.criterion.exceeded_text(max(verdict.broken))

    def may_be_feasible(self, stages: Mapping[str, Config], variants: Mapping[str, str]) -> bool:
        """Return False only when no way of configuring the remaining stages can make this beginning feasible.

        `stages` holds the first stages in topological order, or none. Their departures do not depend on later stages,
        and what must follow takes at least its quickest service, so the misses counted here happen in every completion.
        """
        self.judged += 1
        failed = 0
        for k, missed in self._missed(lambda k: self.simulations.completion(k, stages, variants), 2 * TOLERANCE_S):
            if not self.criterion.holds(self.traces[k].arrival_s, missed):
                failed += 1
                self._to_front(k)
                if failed > self.may_fail:
                    return False
        return True

    def demand(self, k: int, name: str, variants: Mapping[str, str]) -> StageDemand:
        """Return what trace k asks of a stage at least, whatever the other stages do."""
        return StageDemand.of(
            self.simulations.workload(k, variants), self.simulations.tails(k, variants), name, self.spec.slo.latency_s
        )

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


def _simulations(spec: Spec, profile: Profile, trace: Trace, feasibility: str, seed: int) -> Simulations:
    if feasibility == "trace":
        return Simulations(spec, profile, [trace], [seed], sampled=False)
    length_s = block_s(trace, spec.slo.latency_s)
    seeds = [derive(seed, k) for k in range(TRACES)]
    traces = [trace.resample(length_s, each) for each in seeds]
    return Simulations(spec, profile, traces, seeds, sampled=True, block_s=length_s)
