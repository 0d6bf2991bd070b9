"""The figures that predictions are judged by, of simulations and of a live server, so that they mean the same."""

from __future__ import annotations

import numpy as np

from headway.plan.plan import Plan
from headway.serve.observed import Floats, StageItems
from headway.sim.outcome import Outcome, StageOutcome, percentile

PERCENTS = (50, 95, 99)

Figures = dict[str, float]


def figures(outcome: Outcome) -> dict[str, Figures]:
    """Return what predictions are judged by: of whole requests, under the name '', and of each stage."""
    whole: Figures = {f"p{p}_s": outcome.p(p) for p in PERCENTS}
    out = {"": {**whole, "miss_rate": outcome.miss_rate}}
    for name, stage in outcome.stages.items():
        service_s = stage.service_s / stage.batches if stage.batches else float("nan")
        out[name] = {**waits(stage.queue_wait_s), "service_mean_s": service_s, "utilization": stage.utilization}
    return out


def measured_figures(plan: Plan, name: str, items: StageItems, stage: StageOutcome) -> Figures:
    """Return what was measured of a stage that served batches: waits, batches, and how busy its replicas were.

    A batch begins when it would in a simulation: at once. What a server is late with it is fitted as a part of the
    batch's overhead, so it must be one here as well.
    """
    batches = items.batches()
    if not starts_at_once(plan, name):
        return batch_times(batches.service_s)
    wait_s, service_s = items.as_simulated()
    late_s = float(np.mean(service_s - batches.service_s))
    return {
        **waits(wait_s),
        **batch_times(service_s),
        "service_mean_s": stage.service_s / stage.batches + late_s,
        "utilization": stage.utilization + late_s * stage.batches / stage.capacity_s,
    }


def starts_at_once(plan: Plan, name: str) -> bool:
    """Return whether batches of a stage wait for an item and a replica alone, neither to fill nor for cores."""
    config = plan.stages[name].to_dict()
    return plan.spec.supply[config["hardware"]].pool is None and not config.get("max_wait_s")


def waits(wait_s: Floats) -> Figures:
    """Return percentiles of how long items waited."""
    return {f"queue_wait_p{p}_s": percentile(wait_s, p) for p in PERCENTS}


def batch_times(service_s: Floats) -> Figures:
    """Return percentiles of what batches took."""
    return {f"service_p{p}_s": percentile(service_s, p) for p in PERCENTS}
