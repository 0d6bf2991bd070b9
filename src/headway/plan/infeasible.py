"""When no plan keeps the promise: which stage stands in the way, and what could be promised instead."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headway.errors import HeadwayError
from headway.plan.config import Config
from headway.plan.contract import HasRichest
from headway.plan.oracle import Oracle
from headway.sim.outcome import by_window, number, percentile
from headway.sim.station import Floats

SCHEMA = "headway.infeasible/1"


@dataclass(frozen=True)
class Obstacle:
    """What makes a promise infeasible: `code`, the stage concerned, a sentence, and the smallest promise found."""

    code: str
    stage: str | None
    text: str
    smallest_slo_s: float | None = None
    cost_usd_per_hour: float | None = None


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
        }


def explain_infeasible(oracle: Oracle, choices: list[dict[str, str]], richest: list[Mapping[str, Config]]) -> Obstacle:
    """Return why nothing is feasible. `richest` are configurations with all the capacity that supply allows."""
    slo = oracle.spec.slo
    if not choices:
        return Obstacle("accuracy", None, f"no choice of variants reaches the accuracy floor of {slo.accuracy:.4g}")
    best: tuple[float, Mapping[str, Config]] | None = None
    for stages in richest:
        value = promise_s(oracle, stages)
        if best is None or value < best[0]:
            best = (value, stages)
    smallest_s = best[0] if best else None
    variants = min(choices, key=lambda choice: least_latency_s(oracle, choice))
    fastest_s = oracle.fastest_s(variants)
    alone_s = least_latency_s(oracle, variants)
    offer = ""
    if smallest_s is not None and np.isfinite(smallest_s):
        offer = f"; the smallest promise found feasible is {smallest_s * 1e3:.4g} ms"
    percent = f"P{slo.percentile:g}"
    if alone_s > slo.latency_s:
        stage = max(fastest_s, key=lambda n: fastest_s[n])
        text = (
            f"{percent} <= {slo.latency_s * 1e3:.4g} ms is infeasible: a request alone in the system already needs "
            f"{alone_s * 1e3:.4g} ms, most of it at stage {stage!r} ({fastest_s[stage] * 1e3:.4g} ms){offer}"
        )
        return Obstacle("slo_below_service_time", stage, text, smallest_s)
    stage_name = max(fastest_s, key=lambda n: fastest_s[n]) if best is None else _busiest(oracle, best[1])
    text = (
        f"{percent} <= {slo.latency_s * 1e3:.4g} ms is infeasible with the supply allowed: "
        f"stage {stage_name!r} runs out of capacity (see max and pool under supply){offer}"
    )
    return Obstacle("capacity", stage_name, text, smallest_s)


def promise_s(oracle: Oracle, stages: Mapping[str, Config]) -> float:
    """Return the smallest latency that a candidate could promise, everything else of the promise being as it is."""
    finish = (oracle.finish_s(k, stages) for k in range(len(oracle.traces)))
    return _promise_s(oracle, [done_s - t.arrival_s for done_s, t in zip(finish, oracle.traces, strict=True)])


def least_latency_s(oracle: Oracle, variants: Mapping[str, str]) -> float:
    """Return what could be promised with no waiting at all and every stage at its quickest."""
    traces = range(len(oracle.traces))
    return _promise_s(oracle, [oracle.tails(k, variants).least_s for k in traces])


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

    Where several stages want more of the same hardware than there is, each gets an equal share of it.
    """
    order = oracle.spec.graph.order
    if not all(isinstance(oracle.domains[name], HasRichest) for name in order):
        return []
    for share in (1.0, 1.0 / len(order)):
        known = [list(oracle.domains[n].richest(oracle.contexts[n], choice.get(n), share)) for n in order]
        together: Iterator[Mapping[str, Config]] = (
            {n: configs[min(at, len(configs) - 1)] for n, configs in zip(order, known, strict=True)}
            for at in range(max(len(configs) for configs in known))
        )
        if found := [stages for stages in together if oracle.supplied(stages)]:
            return found
    return []


def _busiest(oracle: Oracle, stages: Mapping[str, Config]) -> str:
    from headway.sim.simulation import simulate

    outcome = simulate(
        oracle.plan(stages), oracle.trace, seed=oracle.seed, mode="sampled" if oracle.sampled else "mean"
    )
    waits = {n: float(np.mean(s.queue_wait_s)) if s.queue_wait_s.size else 0.0 for n, s in outcome.stages.items()}
    return max(waits, key=lambda n: waits[n])
