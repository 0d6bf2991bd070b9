"""What changes from one plan to another, what it saves, what it risks, and on which evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headway.errors import HeadwayError, PlanError, ProfileError
from headway.plan.config import Config
from headway.plan.plan import Plan, money
from headway.plan.promise import duration_text
from headway.profile import Profile
from headway.spec.kinds import load_domain
from headway.spec.model import Spec

if TYPE_CHECKING:
    from headway.trace import Trace

SCHEMA = "headway.diff/1"


def current_plan(spec: Spec, profile: Profile | None = None, assumed: Mapping[str, Config] | None = None) -> Plan:
    """Return what runs today, as declared under `current:`.

    Stages that `current:` does not name are taken from `assumed`, and the plan's provenance says so. Raises PlanError
    when the spec has no `current:`, or a stage stands in neither.
    """
    if spec.current is None:
        raise PlanError(f"spec {spec.name!r} has no current: section, so there is nothing to compare with; add one")
    stages: dict[str, Config] = {}
    for name, stage in spec.stages.items():
        if name in spec.current:
            stages[name] = load_domain(stage.kind).parse_config(spec.current[name], f"current.{name}")
        elif assumed is not None and name in assumed:
            stages[name] = assumed[name]
        else:
            raise PlanError(f"current.{name}: missing; say what runs today at this stage")
    unnamed = [name for name in spec.stages if name not in spec.current]
    return Plan(spec, profile or Profile(()), stages, provenance={"assumed": unnamed} if unnamed else {})


FIGURES = ("p50_s", "p95_s", "p99_s", "miss_rate", "windows_kept", "worst_5m_p99_s", "low_confidence")
RISE = 0.01
"""How much slower, relative to what runs today, a percentile may become without being told as a risk."""


def predict(plan: Plan, trace: Trace | None, seed: int = 0) -> Plan:
    """Return a plan of what runs today with what is predicted of it on a trace.

    Where there is no trace, or its profile rows do not suffice, the plan's provenance says so.

    >>> from headway.testing.examples import tiny_plan
    >>> predict(tiny_plan(), None).provenance["not_predicted"]
    'no trace was given'
    """
    from headway.sim.simulation import simulate

    if trace is None:
        return replace(plan, provenance={**plan.provenance, "not_predicted": "no trace was given"})
    try:
        outcome = simulate(plan, trace, seed=seed).to_dict()
    except ProfileError as error:
        text = f"{error}; --profile gives the rows of what runs today"
        return replace(plan, provenance={**plan.provenance, "not_predicted": text})
    except HeadwayError as error:
        return replace(plan, provenance={**plan.provenance, "not_predicted": str(error)})
    figures = {name: outcome[name] for name in FIGURES}
    return replace(plan, predicted=figures, provenance={**plan.provenance, "predicted_on": trace.hash})


def diff(before: Plan, after: Plan) -> dict[str, Any]:
    """Return the difference of two plans of the same stages as JSON values. Raises PlanError when stages differ."""
    if set(before.stages) != set(after.stages):
        only = sorted(set(before.stages) ^ set(after.stages))
        raise PlanError(
            f"the plans have different stages ({', '.join(only)} in only one of them); compare like with like"
        )
    changes = promise_changes(before.spec, after.spec)
    for name in after.stages:
        old, new = _all_of(before, name), _all_of(after, name)
        changes += [
            {"stage": name, "field": field, "from": old.get(field), "to": new.get(field)}
            for field in dict.fromkeys([*new, *old])
            if old.get(field) != new.get(field)
        ]
    old_usd, new_usd = money(before.cost_usd_per_hour), money(after.cost_usd_per_hour)
    return {
        "schema": SCHEMA,
        "from": {"name": before.spec.name, "plan_hash": before.hash},
        "to": {"name": after.spec.name, "plan_hash": after.hash},
        "changes": changes,
        "cost_usd_per_hour": {"from": old_usd, "to": new_usd, "saved": money(old_usd - new_usd)},
        "predicted": {"from": dict(before.predicted) or None, "to": dict(after.predicted) or None},
        "risks": _risks(before, after),
        "evidence": _evidence(before, after),
    }


def _all_of(plan: Plan, name: str) -> dict[str, Any]:
    """Return what a plan says of a stage: what it chooses, and what is declared of it beyond that."""
    chosen, declared = plan.stages[name].to_dict(), plan.spec.stages[name].model_dump(mode="json", by_alias=True)
    return {**chosen, **{field: value for field, value in declared.items() if field not in chosen}}


def promise_changes(before: Spec, after: Spec) -> list[dict[str, Any]]:
    """Return which fields of the promise differ, as changes of a difference: of no stage, but of the whole.

    >>> from headway.testing.examples import tiny_spec
    >>> promise_changes(tiny_spec(), tiny_spec())
    []
    """
    old, new = (spec.slo.model_dump(mode="json", by_alias=True) for spec in (before, after))
    return [
        {"stage": "", "field": f"slo.{field}", "from": old[field], "to": new[field]}
        for field in new
        if old[field] != new[field]
    ]


def _risks(before: Plan, after: Plan) -> list[str]:
    risks = []
    for name in after.stages:
        old, new = before.stages[name].to_dict(), after.stages[name].to_dict()
        if old.get("hardware") != new.get("hardware"):
            risks.append(
                f"{name} moves from {old.get('hardware')} to {new.get('hardware')}: every replica is started anew"
            )
        if old.get("variant") != new.get("variant"):
            risks.append(f"{name} answers with model {new.get('variant')} instead of {old.get('variant')}")
        if (new.get("replicas") or 0) < (old.get("replicas") or 0) and old.get("hardware") == new.get("hardware"):
            risks.append(f"{name} gives up {old['replicas'] - new['replicas']} of {old['replicas']} replicas")
        if (new.get("max_batch_size") or 0) > (old.get("max_batch_size") or 0):
            risks.append(f"{name} batches up to {new['max_batch_size']} instead of {old['max_batch_size']} requests")
    risks += _slower(before.predicted, after.predicted)
    if after.headroom_ratio is not None and after.headroom_ratio < 1.1:
        risks.append(f"the promise breaks at {after.headroom_ratio:.2f} times the planned traffic")
    if before.accuracy is not None and after.accuracy is not None and after.accuracy < before.accuracy - 1e-12:
        risks.append(f"accuracy falls from {before.accuracy:.4f} to {after.accuracy:.4f}")
    risks += [f"low confidence: {reason}" for reason in after.predicted.get("low_confidence", [])]
    return risks


def _slower(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What becomes worse for those who wait, where both plans are predicted; an infinite percentile stands as None."""
    risks = []
    for name in ("p50_s", "p95_s", "p99_s"):
        if name not in before or name not in after or before[name] is None:
            continue
        old_s, percentile = before[name], name[:-2].upper()
        if after[name] is None:
            risks.append(f"{percentile} rises from {duration_text(old_s)} without limit: requests stay unanswered")
        elif after[name] > old_s * (1 + RISE):
            risks.append(f"{percentile} rises from {duration_text(old_s)} to {duration_text(after[name])}")
    old, new = before.get("miss_rate"), after.get("miss_rate")
    if old is not None and new is not None and 100 * new > 100 * old + RISE:
        risks.append(f"{100 * new:.3g}% of requests miss instead of {100 * old:.3g}%")
    return risks


def _evidence(before: Plan, after: Plan) -> list[str]:
    lines = []
    if before.provenance.get("assumed"):
        unnamed = ", ".join(before.provenance["assumed"])
        lines.append(f"current: does not name {unnamed}; taken to run as in the new plan")
    used = after.provenance
    if "not_predicted" in before.provenance:
        lines.append(f"what runs today is not predicted: {before.provenance['not_predicted']}")
    if "predicted_on" in before.provenance:
        other = "" if before.provenance["predicted_on"] == used.get("trace_hash") else ", not the one planned for"
        lines.append(f"what runs today is predicted on trace {before.provenance['predicted_on']}{other}")
    if "trace_hash" in used:
        rate = f", {used['requests']} requests" if "requests" in used else ""
        lines.append(f"trace {used['trace_hash']}{rate}, feasibility {used.get('feasibility')}")
    for name, config in after.stages.items():
        fields = config.to_dict()
        key = (name, fields.get("variant"), fields.get("hardware"))
        rows = [row for row in after.profile.rows if (row.stage, row.variant, row.hardware) == key]
        if rows:
            kinds = ", ".join(sorted({row.evidence for row in rows}))
            samples = sum(row.samples or 0 for row in rows)
            known = [f"{len(rows)} row{'s' * (len(rows) != 1)}", kinds]
            known += [f"{samples} sample{'s' * (samples != 1)}"] * (samples > 0)
            lines.append(f"profile of {name} on {fields.get('hardware')}: {', '.join(known)}")
    return lines
