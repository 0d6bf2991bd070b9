"""When no plan keeps the promise: which stage stands in the way, and what could be promised instead."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headway.errors import HeadwayError
from headway.plan.accuracy import combinations, stage_accuracy
from headway.plan.config import Config, OwnPromise
from headway.plan.contract import HoldsSupply, MakesPromises, NamesShortage, TakesTimeToBeRight
from headway.plan.oracle import Oracle
from headway.plan.promise import duration_text
from headway.plan.rejected import rejected_text
from headway.plan.smallest import (
    CLOSER,
    Smallest,
    least_latency_s,
    limited,
    promise_s,
    smallest_promise,
    unlimited,
    without_waiting_s,
)
from headway.sim.outcome import StageOutcome, number

SCHEMA = "headway.infeasible/1"


@dataclass(frozen=True)
class Obstacle:
    """What makes a promise infeasible: `code`, the stage concerned, a sentence, and what could be had instead: the
    smallest promise found, the cost of the cheapest plan, or the best accuracy. `promises`: those of the stage's own
    that stand in the way, whatever latency is promised."""

    code: str
    stage: str | None
    text: str
    smallest_slo_s: float | None = None
    cost_usd_per_hour: float | None = None
    best_accuracy: float | None = None
    promises: tuple[OwnPromise, ...] = ()


class Infeasible(HeadwayError):
    """No configuration keeps the promise. `.to_dict()` is what `headway plan --json` prints, with exit code 3."""

    def __init__(self, name: str, obstacle: Obstacle) -> None:
        super().__init__(obstacle.text)
        self.name = name
        self.obstacle = obstacle

    def to_dict(self) -> dict[str, Any]:
        """Return the infeasibility as JSON values."""
        found = self.obstacle
        return {
            "schema": SCHEMA,
            "name": self.name,
            "feasible": False,
            "code": found.code,
            "stage": found.stage,
            "text": found.text,
            "smallest_slo_s": number(found.smallest_slo_s) if found.smallest_slo_s is not None else None,
            "cost_usd_per_hour": found.cost_usd_per_hour,
            "best_accuracy": found.best_accuracy,
            "promises": [each.to_dict() for each in found.promises],
        }


def explain_infeasible(oracle: Oracle, choices: list[dict[str, str]], smallest: Smallest | None) -> Obstacle:
    """Return why nothing is feasible. `smallest` is what was found of promises that supply can keep."""
    if not choices:
        return _inaccurate(oracle)
    slo = oracle.spec.slo
    if smallest is not None and smallest.slo_s <= slo.latency_s:
        short = _short_of_floor(oracle, smallest.stages)
        if short is not None:
            return short
    smallest_s = smallest.slo_s if smallest and math.isfinite(smallest.slo_s) else None
    promise = f"the promise of {oracle.criterion.text(slo.latency_s)} is infeasible"
    slow = _right_too_late(oracle) or _too_slow(oracle, choices)
    if isinstance(slow, Obstacle):
        return slow
    if slow is not None:
        stage, text = slow
        return Obstacle("slo_below_service_time", stage, f"{promise}: {text}{offer(smallest)}", smallest_s)
    if smallest is not None:
        stage = _busiest(oracle, smallest.stages)
    else:
        fastest_s = oracle.simulations.fastest_s(choices[0])
        stage = max(fastest_s, key=lambda n: fastest_s[n])
    limits = " (see max and pool under supply)" if limited(oracle) else ""
    why = f"stage {stage!r} runs out of capacity{limits}{_shortage(oracle, stage)}"
    text = f"{promise} {_searched(oracle, smallest)}: {why}{offer(smallest)}"
    return Obstacle("capacity", stage, text, smallest_s)


def _searched(oracle: Oracle, smallest: Smallest | None) -> str:
    """With how much nothing was found: what supply allows, or where it has no limit, as many devices as were tried."""
    if limited(oracle):
        return "with the supply allowed"
    stages = smallest.stages if smallest is not None else {}
    held = [
        sum(domain.holds(config).values())
        for name, config in stages.items()
        if isinstance(domain := oracle.domains[name], HoldsSupply)
    ]
    return f"with up to {sum(held):,} devices" if held else "with as much as was looked at"


def offer(smallest: Smallest | None) -> str:
    """Return what could be promised instead as the end of a sentence; empty when nothing was found."""
    if smallest is None or not math.isfinite(smallest.slo_s):
        return ""
    best = duration_text(smallest.slo_s, up=True)
    if smallest.proven:
        return f"; the smallest promise that can be kept is {best} (proven to {100 * CLOSER:g}%)"
    return f"; the smallest promise found feasible is {best}"


def _own_promises(oracle: Oracle, stage: str) -> Obstacle:
    """Say which of the stage's own promises cannot be kept whatever the supply, and the least that each could be."""
    domain = oracle.domains[stage]
    said: list[OwnPromise] = []
    if isinstance(domain, MakesPromises):
        said = list(domain.promises(oracle.contexts[stage], oracle.trace, sampled=oracle.sampled))
    beyond = [each for each in said if each.beyond]
    said = beyond or said
    share = f"{oracle.spec.slo.percentile:g}%"
    why = "; ".join(
        f"{each.name}: {each.means} is promised within {duration_text(each.promised_s)}, and {share} of these requests "
        f"take {duration_text(each.least_s, up=True)} {'even' if beyond else 'when'} alone"
        for each in said
    )
    text = f"whatever the supply, stage {stage!r} breaks promises of its own{f': {why}' if why else ''}"
    if said and not beyond:
        text += "; it is what is declared of the stage that bounds how many it serves, such as a number of engines"
    return Obstacle("slo_below_service_time", stage, text, promises=tuple(said))


def _too_slow(oracle: Oracle, choices: list[dict[str, str]]) -> tuple[str, str] | Obstacle | None:
    """The slowest stage, and how long service alone takes, when it exceeds the promise whatever supply there is; or the
    promises of a stage's own that nothing keeps."""
    slo, free = oracle.spec.slo, unlimited(oracle)
    alone = smallest_promise(free, choices)
    if alone is not None and (breaking := _breaking(free, alone.stages)) is not None:
        return _own_promises(oracle, breaking)
    if alone is not None and math.isinf(alone.slo_s) and (refused := _rejecting(oracle, alone.stages)) is not None:
        return refused
    if alone is not None and alone.slo_s > slo.latency_s and (times_s := without_waiting_s(free, alone.stages)):
        stage = max(times_s, key=lambda n: times_s[n])
        longest = f"up to {duration_text(times_s[stage])} for {slo.percentile:g}% of its items"
        own = longest if oracle.sampled else duration_text(times_s[stage])
        return stage, (
            f"without any waiting {duration_text(alone.slo_s)} would be needed; the slowest stage is {stage!r} ({own})"
        )
    variants = min(choices, key=lambda choice: least_latency_s(oracle, choice))
    least_s = least_latency_s(oracle, variants)
    if least_s <= slo.latency_s:
        return None
    fastest_s = oracle.simulations.fastest_s(variants)
    stage = max(fastest_s, key=lambda n: fastest_s[n])
    return stage, (
        f"even the quickest requests alone in the system need {duration_text(least_s)}; "
        f"the slowest stage is {stage!r} (at best {duration_text(fastest_s[stage])})"
    )


def _right_too_late(oracle: Oracle) -> tuple[str, str] | None:
    """The stage of which nothing is right often enough in time, and why."""
    for stage, domain in oracle.domains.items():
        said = domain.too_slow(oracle.contexts[stage]) if isinstance(domain, TakesTimeToBeRight) else None
        if said is not None:
            return stage, said
    return None


def _breaking(oracle: Oracle, stages: Mapping[str, Config]) -> str | None:
    """The stage that breaks the most promises of its own, where these alone make any promise infeasible."""
    if math.isfinite(promise_s(oracle, stages)):
        return None
    work, order = oracle.simulations.workload(0, stages), oracle.spec.graph.order
    left = {name: oracle.simulations.departures(0, name, stages, work, stages) for name in order}
    broken = {name: int(np.count_nonzero(departures.broken)) for name, departures in left.items()}
    stage = max(broken, key=lambda n: broken[n])
    return stage if broken[stage] else None


def _short_of_floor(oracle: Oracle, stages: Mapping[str, Config]) -> Obstacle | None:
    """Say that what keeps the latency promise is not right often enough, where accuracy shows only in simulation."""
    accuracy = oracle.accuracy(stages)
    if not oracle.inaccurate(accuracy):
        return None
    slo = oracle.spec.slo
    text = (
        f"no plan found reaches the accuracy floor of {slo.accuracy:.4g} within "
        f"{oracle.criterion.text(slo.latency_s)}; the one that answers soonest reaches {accuracy:.4g}"
        f"{_shortage(oracle, oracle.simulations.telling[0])}"
    )
    return Obstacle("accuracy", oracle.simulations.telling[0], text, best_accuracy=accuracy)


def _shortage(oracle: Oracle, stage: str) -> str:
    """What the stage's domain can say of it, as the end of a sentence."""
    domain = oracle.domains[stage]
    said = domain.shortage(oracle.contexts[stage]) if isinstance(domain, NamesShortage) else None
    return f": {said}" if said else ""


def _inaccurate(oracle: Oracle) -> Obstacle:
    """Say which stage keeps accuracy below the floor, and what could be reached."""
    spec, profile = oracle.spec, oracle.profile
    floor = f"no choice of variants reaches the accuracy floor of {spec.slo.accuracy:.4g}"
    known = [(a, choice) for choice in combinations(spec) if (a := oracle.best_accuracy(choice)) is not None]
    if not known:
        return Obstacle("accuracy", None, f"{floor}: no accuracy is known; declare or measure that of every variant")
    best, choice = max(known, key=lambda pair: pair[0])
    own = {n: a for n, v in choice.items() if (a := stage_accuracy(spec, profile, n, v)) is not None}
    text = f"{floor}; the best that can be reached is {best:.4g}"
    if not own:
        return Obstacle("accuracy", None, text, best_accuracy=best)
    stage = min(own, key=lambda n: own[n])
    text = f"{text}, limited most by stage {stage!r} ({own[stage]:.4g} with variant {choice[stage]})"
    return Obstacle("accuracy", stage, text, best_accuracy=best)


def over_budget(
    oracle: Oracle, stages: Mapping[str, Config], lower: float | None, smallest_s: float | None, most: float
) -> Obstacle:
    """Return that a plan costs more than `max_cost`: its dearest stage, and a promise that `max_cost` pays for.

    `lower` is the proven bound on the cost, if any; `most` the largest multiple of the promise that was tried.
    """
    costs = {name: oracle.cost_usd_per_hour(name, config) for name, config in stages.items()}
    stage, cost, slo = max(costs, key=lambda n: costs[n]), oracle.total_cost(stages), oracle.spec.slo
    proven = f" (at least ${lower:.4g}/h is needed)" if lower else ""
    if smallest_s is None:
        offer = f"none was found up to {most:g} times the promise that max_cost pays for"
    else:
        offer = f"the smallest promise found within max_cost is {duration_text(smallest_s, up=True)}"
    text = (
        f"the cheapest plan found costs ${cost:.4g}/h{proven}, most of it at stage {stage!r} (${costs[stage]:.4g}/h), "
        f"above max_cost ${slo.max_cost_usd_per_hour:.4g}/h; {offer}"
    )
    return Obstacle("budget", stage, text, smallest_s, cost)


def _rejecting(oracle: Oracle, stages: Mapping[str, Config]) -> Obstacle | None:
    """Say which stage rejects requests however many servers it has, and why."""
    for name, stage in _simulated(oracle, stages).items():
        if stage.told.get("rejected"):
            text = f"whatever the supply, stage {name!r} does not answer all: {rejected_text(stage.told['rejected'])}"
            return Obstacle("rejected", name, text)
    return None


def _busiest(oracle: Oracle, stages: Mapping[str, Config]) -> str:
    found = _simulated(oracle, stages).items()
    waits = {n: float(np.mean(s.queue_wait_s)) if s.queue_wait_s.size else 0.0 for n, s in found}
    return max(waits, key=lambda n: waits[n])


def _simulated(oracle: Oracle, stages: Mapping[str, Config]) -> Mapping[str, StageOutcome]:
    from headway.sim.simulation import simulate

    mode = "sampled" if oracle.sampled else "mean"
    return simulate(oracle.plan(stages), oracle.trace, seed=oracle.seed, mode=mode).stages
