"""Gears: plans made beforehand for more traffic than planned, that a tuner can change to while the pipeline runs.

A gear keeps every stage's model and hardware and changes what a stage of its kind may change while it runs (replicas,
batch sizes). Where proportion would only multiply replicas, the planner finds the batch sizes that the higher rate
pays for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headway.errors import PlanError
from headway.plan.infeasible import Infeasible
from headway.plan.make import Progress, make
from headway.plan.plan import Plan
from headway.policy.scaling import Gear
from headway.spec.kinds import load_domain
from headway.spec.model import Spec
from headway.trace import Trace
from headway.tune.terms import stage_terms

RATIOS = (1.25, 1.5, 2.0, 3.0)
"""Traffic multiples that gears are made for: close where headroom ends, wide where a new plan is due anyway."""
BUDGET = 200
"""Simulations per gear; a gear need not be proven cheapest."""


def make_gears(
    plan: Plan,
    planned_on: Trace,
    ratios: Sequence[float] = RATIOS,
    *,
    budget: int = BUDGET,
    progress: Progress | None = None,
) -> tuple[Gear, ...]:
    """Return the plan's gears for multiples of its traffic, in rising order; where no plan can be had they end.

    The trace is played faster for each. Raises PlanError for a ratio that is not above 1.

    >>> from headway.testing.examples import tiny_plan
    >>> trace = Trace.poisson(rate=20, seconds=60, seed=1)
    >>> [gear.name for gear in make_gears(tiny_plan(), trace, (2.0,), budget=20)]
    ['2x']
    """
    if any(not ratio > 1.0 for ratio in ratios):
        raise PlanError(f"gears: ratios are {list(ratios)}; each must be above 1, the plan's own traffic")
    spec = pinned(plan)
    feasibility = str(plan.provenance.get("feasibility", "robust"))
    gears: list[Gear] = []
    for ratio in sorted(set(ratios)):
        faster = planned_on.scale_time(1.0 / ratio)
        try:
            found = make(
                spec,
                plan.profile,
                faster,
                feasibility=feasibility,
                seed=int(plan.provenance.get("seed", 0)),
                budget=budget,
                progress=progress,
                explained=False,
            )
        except Infeasible:
            break
        gears.append(gear(f"{ratio:g}x", ratio, plan, found, planned_on))
    return tuple(gears)


def gear(name: str, ratio: float, plan: Plan, faster: Plan, planned_on: Trace | None = None) -> Gear:
    """Return the gear that a plan for `ratio` times the traffic makes. Raises PlanError for any other change."""
    config = {}
    for stage, chosen in faster.stages.items():
        tunable = load_domain(plan.spec.stages[stage].kind).tunable
        was, now = plan.stages[stage].to_dict(), chosen.to_dict()
        other = [field for field in now if now[field] != was.get(field) and field not in tunable]
        if other:
            raise PlanError(f"gear {name!r}: {stage} changes {', '.join(other)}, which cannot change while it runs")
        config[stage] = {field: value for field, value in now.items() if field in tunable}
    return Gear(name, ratio, stage_terms(faster, planned_on), config, faster.cost_usd_per_hour)


def pinned(plan: Plan) -> Spec:
    """Return the plan's spec with every stage held to the variant and hardware that the plan chose."""
    stages: dict[str, Any] = {}
    for name, stage in plan.spec.stages.items():
        fields = plan.stages[name].to_dict()
        update: dict[str, Any] = {"hardware": fields["hardware"]} if hasattr(stage, "hardware") else {}
        variants: Mapping[str, Any] = getattr(stage, "variants", {})
        if fields.get("variant") in variants:
            update["variants"] = {fields["variant"]: variants[fields["variant"]]}
        stages[name] = stage.model_copy(update=update)
    return plan.spec.model_copy(update={"stages": stages})
