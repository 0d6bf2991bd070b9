"""How the tuners fare when the rate changes without warning, all from the same plan and with real start-up delays."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headway.bench import BenchOptions, Row
from headway.bench.cases import NINE, REQUESTS, Case
from headway.plan.explain import headroom
from headway.plan.make import make
from headway.plan.oracle import Oracle
from headway.plan.plan import Plan
from headway.policy.scaling import Observation, Terms, Tuner
from headway.policy.scaling_headway import Headway, Memory
from headway.policy.tuners import tuner
from headway.spec.model import Spec
from headway.trace import Trace
from headway.tune.simulated import Tuned, simulate_tuner
from headway.tune.terms import terms

STARTUP = "5s"
"""A replica's activation time in InferLine's engines (section 5.4)."""
SECONDS = 420.0
CHANGE_S = 120.0
INTERVAL_S = 0.1
"""How often every tuner is asked."""
RATE_PER_S = 300.0
"""Twice the reference cases' highest: with two replicas at a stage, the one that AutoScale adds in the first busy
second of ordinary traffic is half the plan's capacity again, and no tuner that waits for the change compares."""
SEEDS, OTHER_SEEDS = 12, 3
"""Traces per scenario: for the tuners that a bar or the documentation rests on, and for the others. From one trace of a
ramp to the next the misses above the oracle's vary by two fifths; the mean of three would be chance."""
QUICK_REQUESTS = 4_000
PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "headway": {},
    "inferline": {},
    "autoscale": {},
    "autoscale-plain": {"unit_ratio": 1.0},
    "autoscale-full": {"by_items": True},
    "ds2": {},
    "ds2-paused": {"pause_s": 5.0},
    "threshold": {},
    "none": {},
    "headway-eager": {"lull_s": 0.0},
}
"""What each tuner is told, by the name of its row: that of the tuner, and of what differs from its defaults. AutoScale
counts on what a replica can carry, which is the plan's headroom; the plain one on what the plan gave it. The eager
Headway goes below the plan as soon as traffic is thin."""
NAMES = (*(name for name in PARAMETERS if name != "headway-eager"), "oracle")
IN_LULL = ("headway", "headway-eager", "inferline", "autoscale", "threshold", "ds2", "none")
JUDGED = ("headway", "autoscale", "autoscale-plain", "autoscale-full", "oracle")
Run = Mapping[str, float]
"""What came of a tuner on one trace: its `FIGURES`."""
FIGURES = {"misses": "requests", "miss-rate": "of requests", "cost": "$", "actions": "decisions"}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way in which the rate changes: `knots` are (time in seconds, multiple of the planned rate), straight between.

    A step is two knots at one time. The trace is Poisson with that rate.
    """

    name: str
    case: Case
    knots: Sequence[tuple[float, float]]

    def level(self, at_s: float) -> float:
        """Return the true traffic multiple at a time; where two knots share one, the second counts."""
        after = bisect.bisect_right([time_s for time_s, _ in self.knots], at_s)
        if after == len(self.knots):
            return float(self.knots[-1][1])
        (from_s, low), (to_s, high) = self.knots[after - 1], self.knots[after]
        return low + (high - low) * (at_s - from_s) / (to_s - from_s)

    def trace(self, seed: int) -> Trace:
        """Return the traffic: a Poisson process at the highest rate, thinned to the rate of each moment."""
        seconds, most = self.knots[-1][0], max(level for _, level in self.knots)
        dense = Trace.poisson(self.case.rate_per_s * most, seconds, seed=seed)
        draws = np.random.default_rng([seed, len(self.name)]).random(dense.requests) * most
        kept = dense.arrival_s[draws < [self.level(at_s) for at_s in dense.arrival_s]]
        return Trace.from_arrivals(kept, duration_s=seconds, name=f"{self.name} seed={seed}")


def _busier(case: Case) -> Case:
    return replace(case, name=case.name.replace("150", f"{RATE_PER_S:g}"), rate_per_s=RATE_PER_S)


SCENARIOS = (
    Scenario("step", _busier(NINE[2]), ((0, 1), (CHANGE_S, 1), (CHANGE_S, 2), (SECONDS, 2))),
    Scenario("ramp", _busier(NINE[5]), ((0, 1), (CHANGE_S, 1), (CHANGE_S + 20, 2), (SECONDS, 2))),
    Scenario(
        "spike",
        _busier(NINE[7]),
        ((0, 1), (CHANGE_S, 1), (CHANGE_S, 2), (CHANGE_S + 60, 2), (CHANGE_S + 60, 1), (SECONDS, 1)),
    ),
)
LULL = Scenario(
    "lull",
    _busier(NINE[5]),
    ((0, 1), (CHANGE_S, 1), (CHANGE_S, 1 / 3), (CHANGE_S + 90, 1 / 3), (CHANGE_S + 90, 1), (SECONDS, 1)),
)
"""The other way round: a third of the planned traffic for a minute and a half. There is no bar: who holds the plan
misses what the plan misses, and what is cut in between is paid for in misses when the planned traffic is back."""


@dataclass(frozen=True)
class Knowing(Headway):
    """The oracle: it knows the rate of this very moment (not the future), and pays whatever drains the backlog at once.

    What it misses is what nobody can avoid who starts from the same plan and whose replicas take as long to start.
    """

    true_level: Callable[[float], float] = lambda _: 1.0

    @property
    def name(self) -> str:
        """`oracle`."""
        return "oracle"

    def _level(self, observation: Observation, memory: Memory) -> Memory:
        return self._at_level(observation, memory, self.true_level(observation.now_s))


def competitors(about: Terms, level: Callable[[float], float]) -> dict[str, Tuner]:
    """Return all tuners by the name of their row."""
    made = {name: tuner(name.partition("-")[0], about, **told) for name, told in PARAMETERS.items()}
    return {**made, "oracle": Knowing(about, drain_s=0.05, most_surge=60.0, true_level=level)}


def tuners(options: BenchOptions) -> list[Row]:
    """Misses, cost and actions of every tuner in three scenarios and a lull, over several seeds."""
    rows: list[Row] = []
    for scenario in SCENARIOS:
        rows += _scenario(scenario, options)
    plan, planned_on = planned(LULL.case, options)
    traces = 1 if options.quick else OTHER_SEEDS
    return rows + _outcomes("tuner/lull", _runs(LULL, plan, planned_on, options, dict.fromkeys(IN_LULL, traces)))


def planned(case: Case, options: BenchOptions) -> tuple[Plan, Trace]:
    """Return the plan that every tuner starts from, its headroom measured, and the trace that it was made from."""
    declared = case.spec().to_dict()
    supply = {name: {**fields, "startup": STARTUP} for name, fields in declared["supply"].items()}
    spec = Spec.from_dict({**declared, "supply": supply})
    requests = QUICK_REQUESTS if options.quick else REQUESTS
    trace = Trace.poisson(case.rate_per_s, requests=requests, seed=options.seed)
    plan = make(spec, case.profile(), trace, seed=options.seed, explained=False)
    ratio, _ = headroom(Oracle(spec, case.profile(), trace, seed=options.seed), plan.stages)
    return replace(plan, headroom_ratio=ratio), trace


def _scenario(scenario: Scenario, options: BenchOptions) -> list[Row]:
    plan, planned_on = planned(scenario.case, options)
    traces = {name: 1 if options.quick else SEEDS if name in JUDGED else OTHER_SEEDS for name in NAMES}
    results = _runs(scenario, plan, planned_on, options, traces)
    about = terms(plan, planned_on)
    again = simulate_tuner(plan, planned_on, Headway(about), about, seed=options.seed, interval_s=INTERVAL_S)
    head = f"tuner/{scenario.name}"
    rows = compared(head, results, "autoscale", judged=True)
    rows.append(Row(f"{head}/scale-ups-on-planning-trace", again.scale_ups, "decisions", bar="<= 0"))
    rows += compared(f"{head}/against-plain", results, "autoscale-plain", judged=False)
    return rows + _outcomes(head, results)


def _runs(
    scenario: Scenario, plan: Plan, planned_on: Trace, options: BenchOptions, traces: Mapping[str, int]
) -> dict[str, list[Run]]:
    """Let every named tuner run on so many of the scenario's traces; the first ones are the same for all."""
    about = terms(plan, planned_on)
    all_tuners = competitors(about, scenario.level)
    results: dict[str, list[Run]] = {name: [] for name in traces}
    for number in range(max(traces.values())):
        seed = 1_000 * (options.seed + 1) + number
        live = scenario.trace(seed)
        for name in (name for name, most in traces.items() if number < most):
            tuned = simulate_tuner(plan, live, all_tuners[name], about, seed=seed, interval_s=INTERVAL_S)
            results[name].append(_figures(tuned))
    return results


def _outcomes(head: str, results: Mapping[str, Sequence[Run]]) -> list[Row]:
    return [
        Row(f"{head}/{name}/{key}", _mean([run[key] for run in runs]), unit)
        for name, runs in results.items() for key, unit in FIGURES.items()
    ]  # fmt: skip


def compared(head: str, results: Mapping[str, Sequence[Run]], rival: str, *, judged: bool) -> list[Row]:
    """Return Headway's misses above the oracle's and its cost against a rival's, each with the ratio's standard error.

    `results` are the runs by tuner, on the same traces in the same order; `judged` puts the bars on the ratios. A
    rival that misses no more than the oracle leaves no ratio, and a bar unmet.
    """
    least = [run["misses"] for run in results["oracle"]]
    above = {
        n: [run["misses"] - fewest for run, fewest in zip(results[n], least, strict=True)] for n in ("headway", rival)
    }
    cost = {name: [run["cost"] for run in results[name]] for name in above}
    rows = []
    for what, unit, bar, values in (("misses-above-oracle", "requests", "<= 0.2", above), ("cost", "$", "<= 1", cost)):
        ours, theirs = values["headway"], values[rival]
        known = _mean(theirs) > 0
        ratio = _mean(ours) / _mean(theirs) if known else None
        rows.append(
            Row(f"{head}/{what}", _mean(ours), unit, baseline=_mean(theirs), ratio=ratio, bar=bar if judged else None,
                met=False if judged and not known else None)
        )  # fmt: skip
        if known and len(ours) > 1:
            rows.append(Row(f"{head}/{what}-standard-error", ratio_error(ours, theirs), "of the ratio"))
    return rows


def ratio_error(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the standard error of the ratio of two means over the same runs, by leaving out one at a time (jackknife).

    >>> round(ratio_error([1.0, 3.0, 2.0], [10.0, 10.0, 10.0]), 6)
    0.057735
    """
    runs = len(above)
    ratios = [float(np.delete(above, k).mean() / np.delete(below, k).mean()) for k in range(runs)]
    return float(np.sqrt((runs - 1) * np.var(ratios)))


def _figures(tuned: Tuned) -> Run:
    outcome = tuned.outcome
    values = (outcome.misses, outcome.miss_rate, outcome.cost_usd, len(tuned.entries))
    return dict(zip(FIGURES, values, strict=True))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
