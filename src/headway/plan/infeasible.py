"""When no plan keeps the promise: which stage stands in the way, and what could be promised instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headway.errors import HeadwayError
from headway.plan.config import Config
from headway.plan.oracle import Oracle
from headway.sim.outcome import number, percentile

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
    variants = choices[0]
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
    stage_name = None if best is None else _busiest(oracle, best[1])
    text = (
        f"{percent} <= {slo.latency_s * 1e3:.4g} ms is infeasible with the supply allowed: "
        f"stage {stage_name!r} runs out of capacity (see max and pool under supply){offer}"
    )
    return Obstacle("capacity", stage_name, text, smallest_s)


def promise_s(oracle: Oracle, stages: Mapping[str, Config]) -> float:
    """Return the smallest latency that a candidate could promise: on enough traces at the promised percentile."""
    values = sorted(
        percentile(oracle.finish_s(k, stages) - oracle.traces[k].arrival_s, oracle.spec.slo.percentile)
        for k in range(len(oracle.traces))
    )
    return values[len(values) - 1 - oracle.may_fail]


def least_latency_s(oracle: Oracle, variants: Mapping[str, str]) -> float:
    """Return the promised percentile of latencies with no waiting at all and every stage at its quickest."""
    work, tails, fastest = oracle.workload(0, variants), oracle.tails(0, variants), oracle.fastest_s(variants)
    least = np.zeros(work.requests)
    for name in oracle.spec.graph.sources:
        least = np.maximum(least, fastest[name] + tails.tail_s[name])
    return percentile(least, oracle.spec.slo.percentile)


def _busiest(oracle: Oracle, stages: Mapping[str, Config]) -> str:
    from headway.sim.simulation import simulate

    outcome = simulate(
        oracle.plan(stages), oracle.trace, seed=oracle.seed, mode="sampled" if oracle.sampled else "mean"
    )
    waits = {n: float(np.mean(s.queue_wait_s)) if s.queue_wait_s.size else 0.0 for n, s in outcome.stages.items()}
    return max(waits, key=lambda n: waits[n])
