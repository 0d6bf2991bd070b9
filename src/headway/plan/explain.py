"""What a plan has to say for itself: predictions, headroom, what was rejected and why, and the reasons as sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headway.plan.accuracy import plan_accuracy
from headway.plan.config import Config
from headway.plan.oracle import Oracle, Verdict
from headway.plan.plan import PREDICTED, Plan, Reason
from headway.sim.outcome import Outcome, number, percentile
from headway.sim.simulation import simulate
from headway.trace.envelope import envelope, windows

HEADROOM_LIMIT = 8.0
HEADROOM_STEPS = 6


@dataclass(frozen=True)
class Predicted:
    """A plan's outcome on the given trace, and the oracle's verdict on all traces it is judged on."""

    outcome: Outcome
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """Return the plan's `predicted` block."""
        outcome = self.outcome
        windowed = outcome.windows_kept is not None
        return {
            "p50_s": number(outcome.p(50)),
            "p95_s": number(outcome.p(95)),
            "p99_s": number(outcome.p(99)),
            "miss_rate": outcome.miss_rate,
            "miss_rate_p97": percentile(np.array(self.verdict.miss_rates), 97),
            "windows_kept": outcome.windows_kept,
            "windows_kept_p97": 1 - percentile(np.array(self.verdict.broken), 97) if windowed else None,
            "worst_5m_p99_s": number(outcome.worst_5m_p99_s),
            **({} if all(s.accuracy is None for s in outcome.stages.values()) else {"accuracy": outcome.accuracy}),
            "low_confidence": list(outcome.low_confidence),
        }

    def stages(self) -> dict[str, dict[str, Any]]:
        """Return what is predicted of every stage."""
        return {
            name: {
                "utilization": stage.utilization,
                "peak_utilization_10s": stage.peak_utilization_10s,
                "queue_wait_p99_s": number(percentile(stage.queue_wait_s, 99)),
                **({"figures": {n: number(v) for n, v in stage.figures.items()}} if stage.figures else {}),
                **{name: stage.told[name] for name in PREDICTED if name in stage.told},
            }
            for name, stage in self.outcome.stages.items()
        }


def predict(oracle: Oracle, stages: Mapping[str, Config]) -> Predicted:
    """Simulate a whole candidate on the given trace and on all traces it is judged on."""
    mode = "sampled" if oracle.sampled else "mean"
    outcome = simulate(oracle.plan(stages), oracle.trace, seed=oracle.seed, mode=mode)
    return Predicted(outcome, oracle.judge(stages, all_traces=True))


def headroom(oracle: Oracle, stages: Mapping[str, Config]) -> tuple[float, str | None]:
    """Return the traffic multiple up to which the promise holds (at most 8), and the stage that breaks first there.

    It is at least 1 for what is feasible, and below 1 for what is not.
    The same traces are played faster; the feasibility rule is the planner's own.
    """

    def holds(multiple: float) -> bool:
        faster = Oracle(
            oracle.spec, oracle.profile, oracle.trace.scale_time(1 / multiple), feasibility=oracle.feasibility,
            seed=oracle.seed,
        )  # fmt: skip
        return faster.feasible(stages)

    low, high = (1.0, 2.0) if oracle.feasible(stages) else (0.0, 1.0)
    while low > 0 and high < HEADROOM_LIMIT and holds(high):
        low, high = high, 2 * high
    if low >= HEADROOM_LIMIT / 2 and high >= HEADROOM_LIMIT and holds(HEADROOM_LIMIT):
        return HEADROOM_LIMIT, None
    for _ in range(HEADROOM_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low, _breaks_first(oracle, stages, high)


def _breaks_first(oracle: Oracle, stages: Mapping[str, Config], multiple: float) -> str:
    """The stage whose queue takes the largest part of the latency of the requests that miss."""
    mode = "sampled" if oracle.sampled else "mean"
    faster = oracle.trace.scale_time(1 / max(multiple, 1e-6))
    outcome = simulate(oracle.plan(stages), faster, seed=oracle.seed, mode=mode)
    waits = {n: percentile(s.queue_wait_s, oracle.spec.slo.percentile) for n, s in outcome.stages.items() if s.items}
    return max(waits, key=lambda n: waits[n])


def rejected(oracle: Oracle, stages: Mapping[str, Config]) -> list[Reason]:
    """Return for each cheaper neighbour of the plan why it was not taken: how much it would miss."""
    out = []
    cost = oracle.total_cost(stages)
    for name in oracle.spec.graph.order:
        cheaper = []
        for move, config in oracle.domains[name].moves(oracle.contexts[name], stages[name]):
            changed = {**stages, name: config}
            saving = cost - oracle.total_cost(changed)
            if saving > 1e-12:
                cheaper.append((move, config, saving, changed))
        for move, config, saving, changed in cheaper[:3]:
            if not oracle.supplied(changed) or oracle.feasible(changed):
                continue
            verdict = oracle.judge(changed)
            broken = max(verdict.broken)
            text = f"{name}: {_words(move, config)} would save ${saving:.2f}/h but {oracle.short_text(verdict)}"
            values = {
                "move": move,
                "saving_usd_per_hour": saving,
                "miss_rate": max(verdict.miss_rates),
                "broken": broken,
                "config": config.to_dict(),
                **({"accuracy": verdict.accuracy} if oracle.inaccurate(verdict.accuracy) else {}),
            }
            out.append(Reason("rejected", text, name, values))
    return out


def binding(oracle: Oracle, stages: Mapping[str, Config], refused: Sequence[Reason]) -> Reason:
    """Return what keeps the plan from being cheaper: the latency promise, the accuracy floor, or nothing found.

    `refused` are the cheaper neighbours that were judged, as `rejected` returns them.
    """
    slo = oracle.spec.slo
    chosen = {name: str(config.to_dict().get("variant")) for name, config in stages.items()}
    if slo.accuracy is not None:
        for name, stage in oracle.spec.stages.items():
            for variant in stage.variant_names:
                accuracy = plan_accuracy(oracle.spec, oracle.profile, {**chosen, name: variant})
                quicker = _least_work_s(oracle, name, variant) < _least_work_s(oracle, name, chosen[name])
                if quicker and (accuracy is None or accuracy < slo.accuracy - 1e-12):
                    reached = "has no known accuracy" if accuracy is None else f"reaches only {accuracy:.4g}"
                    text = (
                        f"the accuracy floor of {slo.accuracy:.4g} binds at {name}: variant {variant} is quicker but "
                        f"{reached}"
                    )
                    return Reason("binding_constraint", text, name, {"constraint": "accuracy", "variant": variant})
    if not refused:
        return Reason("binding_constraint", "no cheaper neighbor of this plan exists", None, {"constraint": "none"})
    closest = min(refused, key=lambda reason: float(reason.values["broken"]))
    if "accuracy" in closest.values:
        text = (
            f"the accuracy floor of {slo.accuracy:.4g} binds at {closest.stage}: the cheaper neighbor that comes "
            f"closest reaches only {closest.values['accuracy']:.4g}"
        )
        return Reason("binding_constraint", text, closest.stage, {"constraint": "accuracy"})
    broken = oracle.criterion.broken_text(float(closest.values["broken"]))
    promising = oracle.simulations.promising(stages)
    own = f", with what {' and '.join(promising)} promises by itself," if promising else ""
    text = (
        f"the promise of {oracle.criterion.text(slo.latency_s)}{own} binds, first at {closest.stage}: "
        f"the cheaper neighbor that comes closest would {broken}"
    )
    return Reason("binding_constraint", text, closest.stage, {"constraint": "latency"})


def _least_work_s(oracle: Oracle, name: str, variant: str) -> float:
    return float(oracle.domains[name].fastest_s(oracle.contexts[name], variant, sampled=False))


def _words(move: str, config: Config) -> str:
    fields = config.to_dict()
    if move == "remove_replica" and "replicas" in fields:
        return f"{fields['replicas']} replica{'s' if fields['replicas'] != 1 else ''}"
    if move == "change_hardware" and {"replicas", "hardware"} <= fields.keys():
        return f"{fields['replicas']} on {fields['hardware']}"
    if move == "change_variant" and "variant" in fields:
        return f"variant {fields['variant']}"
    return move.replace("_", " ")


def planned_envelope(plan: Plan, oracle: Oracle) -> tuple[dict[str, float], ...]:
    """Return the traffic envelope the plan was made for: the most requests in any window, from the pipeline's service
    time, doubling, to 60 s (InferLine section 5.1)."""
    fastest = oracle.simulations.fastest_s(plan.variants)
    finish: dict[str, float] = {}
    for name in plan.spec.graph.order:
        before = max((finish[edge.parent] for edge in plan.spec.graph.parents[name]), default=0.0)
        finish[name] = before + fastest[name]
    spans = windows(max(finish.values()))
    counts = envelope(oracle.trace.arrival_s, spans)
    return tuple(
        {"window_s": float(w), "requests": int(c), "rate_per_s": float(c / w)}
        for w, c in zip(spans, counts, strict=True)
    )
