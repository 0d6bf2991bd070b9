"""Gears: plans made beforehand for more traffic than planned, that a tuner can change to while the pipeline runs.

A gear keeps every stage's model and hardware and changes what a stage of its kind may change while it runs (replicas,
batch sizes). Where proportion would only multiply replicas, the planner finds the batch sizes that the higher rate
pays for. They are kept in a file, since making them takes the planner a while, and a person can read what is in store.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from headway.errors import HeadwayError, PlanError, nearest
from headway.files import canonical_json, write_atomic
from headway.plan.contract import TunesItself
from headway.plan.difference import promise_changes
from headway.plan.infeasible import Infeasible
from headway.plan.make import Progress, make
from headway.plan.plan import Plan
from headway.policy.scaling import Gear, Terms
from headway.serve.becoming import check
from headway.spec.kinds import load_domain
from headway.spec.model import Spec
from headway.trace import Trace
from headway.tune.terms import stage_terms

RATIOS = (1.25, 1.5, 2.0, 3.0)
"""Traffic multiples that gears are made for: close where headroom ends, wide where a new plan is due anyway."""
BUDGET = 200
"""Simulations per gear; a gear need not be proven cheapest."""
SCHEMA = "headway.gears/1"
SCALED = frozenset({"replicas"})
"""Fields that say nothing of which gear runs."""
_GIVE = "give the plan that is served, or make this one the live one first (PUT /plan)"


def make_gears(
    plan: Plan,
    planned_on: Trace,
    ratios: Sequence[float] = RATIOS,
    *,
    budget: int = BUDGET,
    progress: Progress | None = None,
) -> tuple[Gear, ...]:
    """Return the plan's gears for multiples of its traffic, in rising order; where no plan can be had they end.

    The trace is played faster for each. Raises PlanError for a ratio that is not above 1, and for a stage that tunes
    itself: how it would be configured for more traffic is not known to the tuner.

    >>> from headway.testing.examples import tiny_plan
    >>> trace = Trace.poisson(rate=20, seconds=60, seed=1)
    >>> [gear.name for gear in make_gears(tiny_plan(), trace, (2.0,), budget=20)]
    ['2x']
    """
    if any(not ratio > 1.0 for ratio in ratios):
        raise PlanError(f"gears: ratios are {list(ratios)}; each must be above 1, the plan's own traffic")
    refuse_gears(plan)
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


def refuse_gears(plan: Plan) -> None:
    """Refuse a plan that no gears can be made for: of a stage that tunes itself. Raises PlanError.

    >>> from headway.testing.examples import tiny_plan
    >>> refuse_gears(tiny_plan())
    """
    for name, stage in plan.spec.stages.items():
        domain = load_domain(stage.kind)
        if isinstance(domain, TunesItself):
            raise PlanError(f"gears: stage {name!r} {domain.tunes_itself}; tune the other stages without gears")


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


def prepared(
    path: str | os.PathLike[str],
    plan: Plan,
    planned_on: Trace | None = None,
    *,
    progress: Progress | None = None,
) -> tuple[Gear, ...]:
    """Return the gears in a plan's file of gears; where there is none yet they are made from `planned_on` and kept.

    Raises PlanError when there is neither the file nor the trace, or when the file is of another plan.
    """
    if Path(path).exists():
        return read(path, plan, planned_on)
    if planned_on is None:
        raise PlanError(
            f"{path}: there is no such file of gears; give the trace that the plan was made from to make it"
        )
    gears = make_gears(plan, planned_on, progress=progress)
    value = {"schema": SCHEMA, "plan_hash": plan.hash, "trace_hash": planned_on.hash, "gears": to_dicts(gears)}
    write_atomic(path, canonical_json(value))
    return gears


def to_dicts(gears: Sequence[Gear]) -> list[dict[str, Any]]:
    """Return gears as JSON values."""
    return [
        {
            "name": each.name,
            "rate_ratio": each.rate_ratio,
            "cost_usd_per_hour": each.cost_usd_per_hour,
            "stages": {stage: dict(fields) for stage, fields in each.config.items()},
        }
        for each in gears
    ]


def read(path: str | os.PathLike[str], plan: Plan, planned_on: Trace | None = None) -> tuple[Gear, ...]:
    """Return a plan's gears from their file, in rising order. Raises PlanError naming the file and what is wrong."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(f"{path}: cannot read the gears: {error.strerror}") from None
    except ValueError:
        raise PlanError(f"{path}: not a file of gears: it is not JSON") from None
    try:
        return _from_dict(value, plan, planned_on)
    except HeadwayError as error:
        raise PlanError(f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError):
        raise PlanError(f"{path}: a gear needs a name, a rate_ratio and stages, as in a file that was made") from None


def _from_dict(value: Any, plan: Plan, planned_on: Trace | None) -> tuple[Gear, ...]:
    found = value.get("schema") if isinstance(value, dict) else type(value).__name__
    if found != SCHEMA:
        raise PlanError(f"schema is {found!r}; this version reads {SCHEMA!r}")
    if value["plan_hash"] != plan.hash:
        raise PlanError(
            f"these gears are of plan {value['plan_hash']}, not of {plan.hash}; name another file, and they are made"
        )
    gears = []
    for each in value["gears"]:
        name, ratio = str(each["name"]), float(each["rate_ratio"])
        if not 1.0 < ratio < math.inf:
            raise PlanError(f"gear {name!r}: rate_ratio is {ratio:g}; it must be above 1, the plan's own traffic")
        gears.append(gear(name, ratio, plan, _in_gear(plan, name, each["stages"]), planned_on))
    return tuple(sorted(gears, key=lambda each: each.rate_ratio))


def _in_gear(plan: Plan, name: str, changes: Mapping[str, Mapping[str, Any]]) -> Plan:
    """The plan as a gear would have it run."""
    for stage in changes:
        if stage not in plan.stages:
            raise PlanError(f"gear {name!r}: {stage!r} is not a stage of the plan{nearest(stage, plan.stages)}")
    stages = {
        stage: load_domain(plan.spec.stages[stage].kind).parse_config(
            {**config.to_dict(), **changes.get(stage, {})}, f"gear {name!r}: {stage}"
        )
        for stage, config in plan.stages.items()
    }
    return replace(plan, stages=stages)


def running_gear(plan: Plan, live: Plan, terms: Terms, likely: str | None = None) -> str | None:
    """Return the gear that a server runs, whatever its numbers of replicas: a name, or None for the plan itself.

    Of several that differ in replicas only, it is the `likely` one. Raises PlanError when something else is run.
    """
    try:
        check(live, plan)
    except HeadwayError as error:
        raise PlanError(f"the server runs another plan: {error}") from None
    promised = promise_changes(live.spec, plan.spec)
    if promised:
        told = ", ".join(f"{c['field']} is {c['from']} there and {c['to']} in the plan given" for c in promised)
        raise PlanError(f"the server keeps another promise: {told}; {_GIVE}")
    configs: dict[str | None, Mapping[str, Any]] = {None: {}, **{gear.name: gear.config for gear in terms.gears}}
    differs = {name: _otherwise(plan, live, terms, config) for name, config in configs.items()}
    fitting = [name for name, stages in differs.items() if not stages]
    if not fitting:
        stage, fields = next(iter(differs[None].items()))
        raise PlanError(
            f"the server runs another plan: stage {stage!r} has another {' and '.join(fields)} there; {_GIVE}"
        )
    return likely if likely in fitting else fitting[0]


def _otherwise(plan: Plan, live: Plan, terms: Terms, config: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """By stage, the fields that run otherwise than in a gear of the plan, numbers of replicas left out."""
    out = {}
    for name in terms.stages:
        ours, theirs = {**plan.stages[name].to_dict(), **config.get(name, {})}, live.stages[name].to_dict()
        fields = [field for field in ours if field not in SCALED and ours[field] != theirs.get(field)]
        if fields:
            out[name] = fields
    return out
