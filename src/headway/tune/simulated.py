"""A tuner in a closed loop with the event simulator: real start-up delays, real queues, and an ordinary outcome."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headway.errors import PlanError
from headway.plan.contract import SharesPools
from headway.plan.plan import Plan
from headway.policy.scaling import LOOK_BACK_S, UTILIZATION_S, Decision, Observation, StageSeen, Terms, Tuner
from headway.policy.scaling_headway import PLAN
from headway.sim.outcome import TOLERANCE_S, Outcome
from headway.sim.progress import StageProgress
from headway.sim.simulation import StageRun, build_outcome, event_simulation, workload
from headway.spec.kinds import load_domain
from headway.trace import Trace
from headway.tune.effect import Judged
from headway.tune.loop import INTERVAL_S, Entry, Listener, run

SPARE_REPLICAS = 50_000
"""Room for replicas that are added over a run."""


@dataclass(slots=True)
class _Replica:
    number: int
    from_s: float


class Simulated:
    """A plan under a trace, as an environment of `headway.tune.loop`. Watching begins at the trace's time 0.

    Replicas start as slowly as `terms` say, and are paid for from the moment that they are asked for; one that is given
    up finishes its batch. `outcome` ends the run and says what became of every request.
    """

    def __init__(self, plan: Plan, trace: Trace, terms: Terms, *, seed: int = 0, mode: str = "sampled") -> None:
        self.plan, self.trace, self.terms = plan, trace, terms
        self.seed, self.mode = seed, mode
        self.now_s = 0.0
        self.gear: str | None = None
        _refuse_fixed(plan)
        self._work = workload(plan, trace, seed)
        widest = _with_widest_batches(plan, terms)
        self._sim = event_simulation(
            widest,
            self._work,
            sampled=mode == "sampled",
            admission=terms.refuses_late,
            spare_replicas=SPARE_REPLICAS,
        )
        self._replicas = {name: [_Replica(r, -np.inf) for r in self._sim.replicas(name)] for name in terms.stages}
        self._limit(None)
        self._past: deque[tuple[float, dict[str, StageProgress], dict[str, float]]] = deque()
        self._ready_s = dict.fromkeys(terms.stages, 0.0)
        self._geared: tuple[float, dict[str, StageProgress]] = (-np.inf, {})

    def wait(self, seconds: float) -> bool:
        """Advance the simulation; False when the trace's window has passed."""
        if self.now_s >= self.trace.duration_s:
            return False
        before_s, self.now_s = self.now_s, min(self.now_s + seconds, self.trace.duration_s)
        self._sim.advance(self.now_s)
        for name, replicas in self._replicas.items():
            self._ready_s[name] += sum(max(0.0, self.now_s - max(r.from_s, before_s)) for r in replicas)
        return self.now_s < self.trace.duration_s

    def observe(self) -> Observation:
        """Return what a live system could see now."""
        now_s = self.now_s
        totals = {name: self._sim.progress(name) for name in self._replicas}
        self._past.append((now_s, totals, dict(self._ready_s)))
        while len(self._past) > 1 and self._past[1][0] <= now_s - LOOK_BACK_S:
            self._past.popleft()
        first, last = np.searchsorted(self.trace.arrival_s, [now_s - LOOK_BACK_S, now_s], side="right")
        stages = {name: self._seen(name, totals[name]) for name in self._replicas}
        return Observation(now_s, 0.0, self.trace.arrival_s[first:last], stages, self.gear)

    def asks(self, decision: Decision) -> None:
        """Nothing is asked of another process."""

    def apply(self, decision: Decision) -> Mapping[str, Any]:
        """Start and give up replicas as decided; a pause stops every replica first."""
        if decision.pause_s > 0.0:
            self._pause(decision.pause_s)
        if decision.gear is not None:
            self.gear = None if decision.gear == PLAN else decision.gear
            self._limit(self.gear)
            self._geared = (self.now_s, {name: self._sim.progress(name) for name in self._replicas})
        for name, wanted in decision.replicas.items():
            replicas = self._replicas[name]
            while len(replicas) > wanted:
                # Those that do not serve yet go first, the last asked for before the others.
                gone = max(replicas, key=lambda replica: (replica.from_s, replica.number))
                replicas.remove(gone)
                self._sim.retire_replica(gone.number, self.now_s)
            for _ in range(wanted - len(replicas)):
                self._start(name, max(self.terms.stages[name].startup_s, decision.pause_s))
        return {"replicas": {name: len(replicas) for name, replicas in self._replicas.items()}}

    def happened(self, at_s: float) -> Mapping[str, Any]:
        """Return requests and misses since a moment, as far as they can be known now, and how things stand."""
        since = self.judged(at_s)
        return {
            "requests": since.offered,
            "misses": since.missed,
            "queued": {name: self._sim.queued(name) for name in self._replicas},
            "replicas": {name: len(replicas) for name, replicas in self._replicas.items()},
        }

    def judged(self, since_s: float) -> Judged:
        """Return how the promise was kept for the requests that came since a moment."""
        first, last = np.searchsorted(self.trace.arrival_s, [since_s, self.now_s], side="right")
        arrival_s, done_s = self.trace.arrival_s[first:last], self._sim.completion()[first:last]
        ended = done_s <= self.now_s
        known = ended | (self.now_s - arrival_s > self.terms.slo_s + TOLERANCE_S)
        latency_s = np.where(ended, done_s - arrival_s, np.inf)[known]
        return Judged.of(int(last - first), latency_s, self.terms)

    def outcome(self) -> Outcome:
        """Let everything finish and return the outcome; its cost is the integral of the capacity held."""
        self._sim.advance(np.inf)
        runs = {
            name: StageRun(self._sim.arrived_s(name), left, max(1, len(self._sim.replicas(name))))
            for name, left in self._sim.departures().items()
        }
        whole = build_outcome(self.plan, self._work, runs, seed=self.seed, mode=self.mode)
        start_s = float(self.trace.arrival_s[0]) if self.trace.requests else 0.0
        ends = [float(run.departures.done_s[-1]) for run in runs.values() if run.departures.done_s.size]
        end_s = max(ends, default=self.trace.duration_s)
        stages = dict(whole.stages)
        for name, stage in self.terms.stages.items():
            held_s = self._sim.held_s(name, start_s, end_s)
            stages[name] = dataclasses.replace(
                stages[name],
                capacity_s=held_s,
                cost_usd=held_s * stage.price_usd_per_hour / 3600,
                utilization=stages[name].service_s / held_s if held_s else 0.0,
            )
        return dataclasses.replace(whole, stages=stages, cost_usd=sum(stage.cost_usd for stage in stages.values()))

    def _seen(self, name: str, total: StageProgress) -> StageSeen:
        past, ready = self._past[0][1][name], [r for r in self._replicas[name] if r.from_s <= self.now_s]
        if self._past[0][0] > self.now_s - LOOK_BACK_S:
            past = StageProgress(0, 0, 0, 0, 0, 0.0, 0.0)
        # Batches of another gear say nothing of how long those of this one take.
        geared_s, then = self._geared
        batched = then[name] if geared_s > self.now_s - LOOK_BACK_S else past
        _, totals, ready_s = next(
            (p for p in reversed(self._past) if p[0] <= self.now_s - UTILIZATION_S), (0.0, None, None)
        )
        could_s = self._ready_s[name] - (ready_s[name] if ready_s else 0.0)
        busy_s = total.busy_s - (totals[name].busy_s if totals else 0.0)
        return StageSeen(
            ready=len(ready),
            starting=len(self._replicas[name]) - len(ready),
            queued=total.queued,
            in_service=total.in_service,
            utilization=min(1.0, busy_s / could_s) if could_s > 0 else 0.0,
            batches=total.batches - batched.batches,
            items=total.items - batched.items,
            busy_s=total.finished_s - batched.finished_s,
            arrived=total.arrived - past.arrived,
        )

    def _start(self, name: str, delay_s: float, held_from_s: float | None = None) -> None:
        from_s = self.now_s + delay_s
        asked_s = self.now_s if held_from_s is None else min(max(self.now_s, held_from_s), from_s)
        number = self._sim.add_replica(name, from_s, from_s - asked_s)
        self._replicas[name].append(_Replica(number, from_s))

    def _pause(self, pause_s: float) -> None:
        """Stop every replica for so long: each is replaced by one that goes on afterwards, held all the while."""
        for name, replicas in self._replicas.items():
            stopped, self._replicas[name] = replicas, []
            for replica in stopped:
                self._sim.retire_replica(replica.number, self.now_s)
                delay_s = max(pause_s, replica.from_s - self.now_s)
                self._start(name, delay_s, self._sim.busy_until_s(replica.number))

    def _limit(self, gear: str | None) -> None:
        configs = next((g.config for g in self.terms.gears if g.name == gear), {})
        for name in self._replicas:
            fields = {**self.plan.stages[name].to_dict(), **configs.get(name, {})}
            self._sim.limit_batches(name, int(fields["max_batch_size"]), float(fields["max_wait_s"]))


@dataclass(frozen=True)
class Tuned:
    """What a tuner did on a trace and what came of it."""

    tuner: str
    entries: Sequence[Entry]
    outcome: Outcome

    @property
    def scale_ups(self) -> int:
        """Decisions that added a replica somewhere."""
        return sum(any(n > e.held[name] for name, n in e.decision.replicas.items()) for e in self.entries)


def simulate_tuner(
    plan: Plan,
    trace: Trace,
    tuner: Tuner,
    terms: Terms,
    *,
    seed: int = 0,
    mode: str = "sampled",
    interval_s: float = INTERVAL_S,
    listener: Listener | None = None,
) -> Tuned:
    """Return what a tuner would do with a plan under a trace, and the outcome. Same seed, same bytes.

    >>> from headway.policy.tuners import tuner
    >>> from headway.testing.examples import tiny_plan
    >>> from headway.tune.terms import terms
    >>> trace = Trace.poisson(rate=20, seconds=120, seed=1)
    >>> about = terms(tiny_plan(), trace)
    >>> simulate_tuner(tiny_plan(), trace, tuner("headway", about), about).scale_ups
    0
    """
    environment = Simulated(plan, trace, terms, seed=seed, mode=mode)
    entries = run(tuner, environment, interval_s=interval_s, listener=listener)
    return Tuned(tuner.name, entries, environment.outcome())


def _with_widest_batches(plan: Plan, terms: Terms) -> Plan:
    """The plan with batches as large as any gear has them, so that service times are known for all of them."""
    if not terms.gears:
        return plan
    stages = dict(plan.stages)
    for name in terms.stages:
        fields = plan.stages[name].to_dict()
        sizes = [g.config.get(name, {}).get("max_batch_size", 1) for g in terms.gears]
        widest = {**fields, "max_batch_size": max(fields["max_batch_size"], *sizes)}
        stages[name] = load_domain(plan.spec.stages[name].kind).parse_config(widest, f"stages.{name}")
    return dataclasses.replace(plan, stages=stages)


def _refuse_fixed(plan: Plan) -> None:
    """Raise PlanError where a stage cannot be simulated while replicas of others come and go."""
    for name, stage in plan.spec.stages.items():
        if not isinstance(load_domain(stage.kind), SharesPools):
            raise PlanError(
                f"stages.{name}: kind {stage.kind!r} cannot be simulated with replicas that come and go beside it; let "
                "the tuner watch a server that runs the plan (--url)"
            )
