"""How the tuners fare when the rate doubles without warning, all from the same plan and with real start-up delays."""

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
JUDGED = ("headway", "autoscale", "autoscale-full", "oracle")
NAMES = ("headway", "inferline", "autoscale", "autoscale-full", "ds2", "ds2-paused", "threshold", "none", "oracle")
FIGURES = {"misses": "requests", "miss-rate": "of requests", "cost": "$", "actions": "decisions"}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way in which the rate doubles: `knots` are (time in seconds, multiple of the planned rate), straight between.

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


def competitors(about: Terms, headroom_ratio: float, level: Callable[[float], float]) -> dict[str, Tuner]:
    """Return all tuners by the name of their row.

    AutoScale is given what a replica can carry: the plan's headroom. `autoscale-full` counts the items in the system
    too.
    """
    given: dict[str, Mapping[str, Any]] = {
        "autoscale": {"unit_ratio": headroom_ratio},
        "autoscale-full": {"unit_ratio": headroom_ratio, "by_items": True},
        "ds2-paused": {"pause_s": 5.0},
    }
    made = {n: tuner(n.partition("-")[0], about, **given.get(n, {})) for n in NAMES if n != "oracle"}
    return {**made, "oracle": Knowing(about, drain_s=0.05, most_surge=60.0, true_level=level)}


def tuners(options: BenchOptions) -> list[Row]:
    """Misses, cost and actions of every tuner in three scenarios, over several seeds."""
    rows: list[Row] = []
    for scenario in SCENARIOS:
        rows += _scenario(scenario, options)
    return rows


def planned(case: Case, options: BenchOptions) -> tuple[Plan, Trace, float]:
    """Return the plan that every tuner starts from, the trace that it was made from, and its headroom."""
    declared = case.spec().to_dict()
    supply = {name: {**fields, "startup": STARTUP} for name, fields in declared["supply"].items()}
    spec = Spec.from_dict({**declared, "supply": supply})
    requests = QUICK_REQUESTS if options.quick else REQUESTS
    trace = Trace.poisson(case.rate_per_s, requests=requests, seed=options.seed)
    plan = make(spec, case.profile(), trace, seed=options.seed, explained=False)
    ratio, _ = headroom(Oracle(spec, case.profile(), trace, seed=options.seed), plan.stages)
    return plan, trace, ratio


def _scenario(scenario: Scenario, options: BenchOptions) -> list[Row]:
    plan, planned_on, ratio = planned(scenario.case, options)
    about = terms(plan, planned_on)
    all_tuners = competitors(about, ratio, scenario.level)
    results: dict[str, list[Mapping[str, float]]] = {name: [] for name in NAMES}
    for number in range(1 if options.quick else SEEDS):
        seed = 1_000 * (options.seed + 1) + number
        live = scenario.trace(seed)
        for name in NAMES if number < OTHER_SEEDS else JUDGED:
            tuned = simulate_tuner(plan, live, all_tuners[name], about, seed=seed, interval_s=INTERVAL_S)
            results[name].append(_figures(tuned))
    mean = {name: {key: _mean([run[key] for run in runs]) for key in FIGURES} for name, runs in results.items()}
    missed = {name: np.array([run["misses"] for run in results[name]]) for name in JUDGED}
    all_ours, all_theirs = (missed[name] - missed["oracle"] for name in ("headway", "autoscale"))
    ours, theirs = float(all_ours.mean()), float(all_theirs.mean())
    again = simulate_tuner(plan, planned_on, all_tuners["headway"], about, seed=options.seed, interval_s=INTERVAL_S)
    head = f"tuner/{scenario.name}"
    rows = [
        Row(f"{head}/misses-above-oracle", ours, "requests", baseline=theirs,
            ratio=ours / theirs if theirs > 0 else None, bar="<= 0.2", met=None if theirs > 0 else False),
        Row(f"{head}/cost", mean["headway"]["cost"], "$", baseline=mean["autoscale"]["cost"],
            ratio=mean["headway"]["cost"] / mean["autoscale"]["cost"], bar="<= 1"),
        Row(f"{head}/scale-ups-on-planning-trace", again.scale_ups, "decisions", bar="<= 0"),
    ]  # fmt: skip
    if all_ours.size > 1:
        rows.append(Row(f"{head}/standard-error", ratio_error(all_ours, all_theirs), "of the ratio of misses"))
    rows += [Row(f"{head}/{name}/{key}", mean[name][key], unit) for name in NAMES for key, unit in FIGURES.items()]
    return rows


def ratio_error(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the standard error of the ratio of two means over the same runs, by leaving out one at a time (jackknife).

    >>> round(ratio_error([1.0, 3.0, 2.0], [10.0, 10.0, 10.0]), 6)
    0.057735
    """
    runs = len(above)
    ratios = [float(np.delete(above, k).mean() / np.delete(below, k).mean()) for k in range(runs)]
    return float(np.sqrt((runs - 1) * np.var(ratios)))


def _figures(tuned: Tuned) -> Mapping[str, float]:
    outcome = tuned.outcome
    values = (outcome.misses, outcome.miss_rate, outcome.cost_usd, len(tuned.entries))
    return dict(zip(FIGURES, values, strict=True))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
