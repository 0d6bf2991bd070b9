"""When a prediction is not to be trusted, and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from headway.plan.config import Evidence, StageContext
from headway.sim.outcome import StageOutcome
from headway.sim.station import Floats
from headway.spec.kinds import load_domain

if TYPE_CHECKING:
    from headway.plan.plan import Plan

MEAN_LIMIT = 0.9
PEAK_LIMIT = 1.0
PEAK_WINDOW_S = 10.0
FAR_OFF = 0.2
"""From which average error on times that do not rest on the profile's rows as they are say little."""
BEYOND_CALIBRATED = 0.2
"""How much higher than when overheads were observed a stage's utilization may be before they are to be doubted."""


def peak_utilization(plan: Plan, name: str, arrival_s: Floats, busy_s: float, capacity: int) -> float:
    """Return the work that the busiest ten seconds offer a stage, relative to its capacity.

    Each item is taken at its mean share of the `busy_s`, unless the stage's kind says what it does at a rate.
    """
    if not arrival_s.size or not capacity:
        return 0.0
    index = ((arrival_s - arrival_s[0]) // PEAK_WINDOW_S).astype(np.int64)
    window_s = min(PEAK_WINDOW_S, max(float(arrival_s[-1] - arrival_s[0]), 1e-9))
    most = int(np.bincount(index).max())
    domain = load_domain(plan.spec.stages[name].kind)
    if hasattr(domain, "utilization_at"):
        share: float | None = domain.utilization_at(plan.stages[name], most / window_s)
        if share is not None:
            return share
    return most * (busy_s / arrival_s.size) / (window_s * capacity)


def near_saturation(stages: Mapping[str, StageOutcome]) -> list[str]:
    """Return where so little capacity is left that waits, predicted or measured, would differ the next time."""
    reasons = []
    for name, stage in stages.items():
        if stage.utilization > MEAN_LIMIT:
            reasons.append(f"{name}: mean utilization {stage.utilization:.2f} is above {MEAN_LIMIT}")
        if stage.peak_utilization_10s > PEAK_LIMIT:
            reasons.append(f"{name}: the busiest 10 s offer {stage.peak_utilization_10s:.2f} times its capacity")
    return reasons


def low_confidence(plan: Plan, stages: Mapping[str, StageOutcome], columns: Collection[str] = ()) -> tuple[str, ...]:
    """Return the reasons to distrust a prediction: near saturation, or resting on what was not observed.

    `columns` are those of the trace.
    """
    reasons = near_saturation(stages)
    overheads = plan.profile.overheads
    if overheads is not None:
        reasons += [f"its profile's calibration is in doubt: {doubt}" for doubt in overheads.low_confidence]
    calibrated = {} if overheads is None else overheads.utilization
    for name, stage in stages.items():
        seen = calibrated.get(name)
        if seen is not None and stage.utilization > seen + BEYOND_CALIBRATED:
            reasons.append(f"{name}: utilization {stage.utilization:.2f}; it was calibrated at {seen:.2f}")
        fields = plan.stages[name].to_dict()
        key = (name, fields.get("variant"), fields.get("hardware"))
        used = [row for row in plan.profile.rows if (row.stage, row.variant, row.hardware) == key]
        if any(row.evidence == "prior" for row in used):
            reasons.append(f"{name}: its profile holds a prior, not a measurement")
        reasons += beyond_measured(plan, name)
        known = evidence(plan, name)
        if known is not None and (known.kind == "prior" or (known.error_ratio or 0.0) > FAR_OFF):
            reasons.append(f"{name}: {known.text}")
        domain = load_domain(plan.spec.stages[name].kind)
        if stage.accuracy is not None and hasattr(domain, "doubts"):
            context = StageContext(name, plan.spec.stages[name], plan.spec, plan.profile)
            told = domain.doubts(context, plan.stages[name], stage.accuracy, columns)
            reasons += [f"{name}: {doubt}" for doubt in told]
    return (*reasons, *_little_recorded(plan, columns))


def beyond_measured(plan: Plan, name: str) -> list[str]:
    """Return which batches of a stage may be larger than any that was measured."""
    config = plan.stages[name].to_dict()
    models = config.get("max_batch_sizes", {config.get("variant"): config.get("max_batch_size")})
    reasons = []
    for model, most in models.items():
        key = (name, model, config.get("hardware"))
        measured = [row.batch_size for row in plan.profile.rows if (row.stage, row.variant, row.hardware) == key]
        if most is not None and measured and most > max(measured):
            of = "" if "variant" in config else f" of {model!r}"
            reasons.append(
                f"{name}: batches{of} hold up to {most} items; the largest that was measured, {max(measured)}"
            )
    return reasons


def evidence(plan: Plan, name: str) -> Evidence | None:
    """Return what a stage's times rest on where its domain tells, else None."""
    stage = plan.spec.stages[name]
    domain = load_domain(stage.kind)
    if not hasattr(domain, "evidence"):
        return None
    found: Evidence | None = domain.evidence(StageContext(name, stage, plan.spec, plan.profile), plan.stages[name])
    return found


def _little_recorded(plan: Plan, columns: Collection[str]) -> list[str]:
    """Return which loads rest on less than all samples; visits in columns of a trace replace what was recorded."""
    record = plan.profile.visits_for(plan.variants)
    if record is None or {f"visits.{name}" for name in record.counts} <= set(columns):
        return []
    reasons = []
    if record.left_out:
        reasons.append(f"visits rest on {record.samples} of {record.samples + record.left_out} samples")
    unknown = [name for name in record.unvisited if f"visits.{name}" not in columns]
    return [*reasons, *(f"{name}: no sample reached it, so its load rests on the declared edges" for name in unknown)]
