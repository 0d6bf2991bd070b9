"""When no plan keeps the promise: which stage stands in the way, and what could be promised instead."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headway.errors import HeadwayError
from headway.plan.accuracy import combinations, plan_accuracy, stage_accuracy
from headway.plan.config import Config
from headway.plan.contract import HasRichest, HoldsSupply
from headway.plan.oracle import Oracle
from headway.plan.promise import duration_text
from headway.sim.outcome import by_window, number, percentile
from headway.sim.station import Floats

SCHEMA = "headway.infeasible/1"
MOST_MIXTURES = 16
"""Ways of spreading the stages over hardware among which the smallest promise is looked for."""
MOST_LISTED = 4096

Hardware = tuple[str, ...]


@dataclass(frozen=True)
class Obstacle:
    """What makes a promise infeasible: `code`, the stage concerned, a sentence, and what could be had instead: the
    smallest promise found, the cost of the cheapest plan, or the best accuracy."""

    code: str
    stage: str | None
    text: str
    smallest_slo_s: float | None = None
    cost_usd_per_hour: float | None = None
    best_accuracy: float | None = None


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
        }


def explain_infeasible(oracle: Oracle, choices: list[dict[str, str]], richest: list[Mapping[str, Config]]) -> Obstacle:
    """Return why nothing is feasible. `richest` are configurations with all the capacity that supply allows."""
    slo = oracle.spec.slo
    if not choices:
        return _inaccurate(oracle)
    best: tuple[float, Mapping[str, Config]] | None = None
    for stages in richest:
        value = promise_s(oracle, stages)
        if best is None or value < best[0]:
            best = (value, stages)
    smallest_s = best[0] if best else None
    variants = min(choices, key=lambda choice: least_latency_s(oracle, choice))
    fastest_s = oracle.simulations.fastest_s(variants)
    alone_s = least_latency_s(oracle, variants)
    offer = ""
    if smallest_s is not None and np.isfinite(smallest_s):
        offer = f"; the smallest promise found feasible is {duration_text(smallest_s, up=True)}"
    promise = f"the promise of {oracle.criterion.text(slo.latency_s)}"
    if alone_s > slo.latency_s:
        stage = max(fastest_s, key=lambda n: fastest_s[n])
        text = (
            f"{promise} is infeasible: a request alone in the system already needs "
            f"{duration_text(alone_s)}, most of it at stage {stage!r} ({duration_text(fastest_s[stage])}){offer}"
        )
        return Obstacle("slo_below_service_time", stage, text, smallest_s)
    stage_name = max(fastest_s, key=lambda n: fastest_s[n]) if best is None else _busiest(oracle, best[1])
    text = (
        f"{promise} is infeasible with the supply allowed: "
        f"stage {stage_name!r} runs out of capacity (see max and pool under supply){offer}"
    )
    return Obstacle("capacity", stage_name, text, smallest_s)


def _inaccurate(oracle: Oracle) -> Obstacle:
    """Say which stage keeps accuracy below the floor, and what could be reached."""
    spec, profile = oracle.spec, oracle.profile
    floor = f"no choice of variants reaches the accuracy floor of {spec.slo.accuracy:.4g}"
    known = [(a, choice) for choice in combinations(spec) if (a := plan_accuracy(spec, profile, choice)) is not None]
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


def promise_s(oracle: Oracle, stages: Mapping[str, Config]) -> float:
    """Return the smallest latency that a candidate could promise, everything else of the promise being as it is."""
    finish = (oracle.simulations.finish_s(k, stages) for k in range(len(oracle.traces)))
    return _promise_s(oracle, [done_s - t.arrival_s for done_s, t in zip(finish, oracle.traces, strict=True)])


def least_latency_s(oracle: Oracle, variants: Mapping[str, str]) -> float:
    """Return what could be promised with no waiting at all and every stage at its quickest."""
    traces = range(len(oracle.traces))
    return _promise_s(oracle, [oracle.simulations.tails(k, variants).least_s for k in traces])


def _promise_s(oracle: Oracle, latency_s: list[Floats]) -> float:
    """The smallest promise that these latencies, trace by trace, would keep on enough traces."""
    slo = oracle.spec.slo
    values = sorted(
        least_promise_s(trace.arrival_s, values, slo.percentile, slo.window_s, slo.objective)
        for trace, values in zip(oracle.traces, latency_s, strict=True)
    )
    return values[len(values) - 1 - oracle.may_fail]


def least_promise_s(
    arrival_s: Floats, latency_s: Floats, percent: float, window_s: float | None, objective: float | None
) -> float:
    """Return the smallest promise kept by latencies: over all requests, or in the share `objective` of windows.

    >>> least_promise_s(np.array([0.0, 1.0]), np.array([0.2, 0.3]), 50.0, 1.0, 0.5)
    0.2
    """
    if not latency_s.size:
        return 0.0
    if window_s is None or objective is None:
        return percentile(latency_s, percent)
    values = sorted(percentile(window, percent) for window in by_window(arrival_s, latency_s, window_s))
    return values[max(0, math.ceil(objective * len(values) - 1e-9) - 1)]


def richest_candidates(oracle: Oracle, choice: Mapping[str, str]) -> list[Mapping[str, Config]]:
    """Return candidates with all the capacity that supply allows; none when a domain does not know its own.

    Stages are spread over hardware in a few ways, the fastest first. Where several stages want more of the same
    hardware than there is, each gets an equal share of it.
    """
    order = oracle.spec.graph.order
    if not all(isinstance(oracle.domains[name], HasRichest) for name in order):
        return []
    known = {
        (name, share): _by_hardware(oracle, name, choice, share) for name in order for share in range(1, 1 + len(order))
    }
    ways = itertools.islice(itertools.product(*(known[name, 1].items() for name in order)), MOST_LISTED)
    ranked = sorted(ways, key=lambda way: sum(list(known[n, 1]).index(h) for n, (h, _) in zip(order, way, strict=True)))
    out: list[Mapping[str, Config]] = []
    mixtures = 0
    for way in ranked:
        chosen = [hardware for hardware, _ in way]
        for shares in ([1] * len(order), [chosen.count(hardware) for hardware in chosen]):
            mine = [known[n, k].get(h, []) for n, k, h in zip(order, shares, chosen, strict=True)]
            together = _side_by_side(order, mine) if all(mine) else []
            if found := [stages for stages in together if oracle.supplied(stages)]:
                out += found
                mixtures += 1
                break
        if mixtures == MOST_MIXTURES:
            break
    return out


def _by_hardware(oracle: Oracle, name: str, choice: Mapping[str, str], sharers: int) -> dict[Hardware, list[Config]]:
    """A stage's richest configurations when so many share its hardware, by the hardware that they take."""
    domain: Any = oracle.domains[name]
    out: dict[Hardware, list[Config]] = {}
    for config in domain.richest(oracle.contexts[name], choice.get(name), 1 / sharers):
        hardware = tuple(sorted(domain.holds(config))) if isinstance(domain, HoldsSupply) else ()
        out.setdefault(hardware, []).append(config)
    return out


def _side_by_side(order: Sequence[str], known: Sequence[Sequence[Config]]) -> list[Mapping[str, Config]]:
    """The first configurations of all stages together, the second ones, and so on; a short list's last one stays."""
    return [
        {n: configs[min(at, len(configs) - 1)] for n, configs in zip(order, known, strict=True)}
        for at in range(max(len(configs) for configs in known))
    ]


def _busiest(oracle: Oracle, stages: Mapping[str, Config]) -> str:
    from headway.sim.simulation import simulate

    outcome = simulate(
        oracle.plan(stages), oracle.trace, seed=oracle.seed, mode="sampled" if oracle.sampled else "mean"
    )
    waits = {n: float(np.mean(s.queue_wait_s)) if s.queue_wait_s.size else 0.0 for n, s in outcome.stages.items()}
    return max(waits, key=lambda n: waits[n])
