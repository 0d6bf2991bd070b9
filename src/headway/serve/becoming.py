"""What a running server can become: whether another plan fits what is being served, and which stages it changes."""

from __future__ import annotations

from collections import Counter
from typing import Any

from headway.errors import HeadwayError, ServeError, nearest
from headway.plan.contract import DeclaresLive, HoldsSupply
from headway.plan.plan import Plan
from headway.profile.target import absence
from headway.spec.kinds import load_domain

MAX_REPLICAS = 1024
"""The most replicas that a change of plan may ask of one server: each is a process."""


class Unfit(ServeError):
    """A plan cannot replace the one that is served."""


def check(live: Plan, new: Plan) -> None:
    """Raise Unfit, with one sentence, unless a server that runs `live` can run `new` instead.

    Only how stages are run may differ: replicas, hardware, batching, variants, and prices. What is run may not, so
    that nobody who may change a plan can thereby run code of their own.
    """
    if new.spec.name != live.spec.name:
        raise Unfit(f"the plan is of {new.spec.name!r}, and {live.spec.name!r} is served")
    _same_stages(live, new)
    if new.spec.pools != live.spec.pools:
        raise Unfit("pools: the plan declares other pools of cores, which cannot change while they are in use")
    _fits_supply(new)


def changed(live: Plan, new: Plan) -> tuple[str, ...]:
    """Return the stages that another plan would run in another way.

    >>> from headway.testing.examples import tiny_plan
    >>> changed(tiny_plan(), tiny_plan())
    ()
    """
    return tuple(name for name in live.spec.graph.order if _deployed(live, name) != _deployed(new, name))


def fields_changed(live: Plan, new: Plan) -> set[str]:
    """Return which fields of configurations differ, over all stages; hardware that is declared otherwise counts."""
    out = set()
    for name in changed(live, new):
        old_fields, now_fields = live.stages[name].to_dict(), new.stages[name].to_dict()
        fields = {f for f in {*old_fields, *now_fields} if old_fields.get(f) != now_fields.get(f)}
        out |= fields or {"hardware"}
    return out


def adds_only(live: Plan, new: Plan) -> bool:
    """Whether replicas are added and nothing else changes."""
    return fields_changed(live, new) <= {"replicas"} and all(
        new.stages[name].to_dict()["replicas"] >= live.stages[name].to_dict()["replicas"] for name in changed(live, new)
    )


def _same_stages(live: Plan, new: Plan) -> None:
    ours, theirs = live.spec.to_dict()["stages"], new.spec.to_dict()["stages"]
    if list(ours) != list(theirs):
        raise Unfit(f"the plan's stages are {', '.join(theirs)}; those that are served are {', '.join(ours)}")
    for name, declared in ours.items():
        fields = [f for f in {**declared, **theirs[name]} if declared.get(f) != theirs[name].get(f)]
        free = _live_fields(live, name)
        if not free.issuperset(fields):
            said = "replicas, hardware, batching and the choice among its variants"
            raise Unfit(
                f"stages.{name}: {', '.join(f for f in fields if f not in free)} is declared otherwise than in the "
                f"plan that is served; only {', '.join(sorted({*free, 'replicas'})) if free else said} can change "
                "while it runs"
            )


def _fits_supply(plan: Plan) -> None:
    held: Counter[str] = Counter()
    for name, stage in plan.spec.stages.items():
        domain, config = load_domain(stage.kind), plan.stages[name]
        own = domain.holds(config) if isinstance(domain, HoldsSupply) else {}
        for hardware, count in own.items():
            _is_there(plan, name, hardware, count)
        held.update(own)
    for hardware, count in held.items():
        most = plan.spec.supply[hardware].max_replicas
        if most is not None and count > most:
            raise Unfit(f"supply.{hardware}: the plan takes {count} replicas of it and {most} can be had")
    if held.total() > MAX_REPLICAS:
        raise Unfit(f"the plan takes {held.total()} replicas; one server is changed to at most {MAX_REPLICAS}")


def _is_there(plan: Plan, name: str, hardware: str, count: int) -> None:
    spec = plan.spec
    if hardware not in spec.supply:
        hint = nearest(hardware, spec.supply) or f"; valid: {', '.join(spec.supply)}"
        raise Unfit(f"stages.{name}.hardware: {hardware!r} is not in the plan's supply{hint}")
    supply = spec.supply[hardware]
    if supply.pool is not None and count > (room := spec.pools[supply.pool].cores // supply.threads):
        raise Unfit(
            f"stages.{name}: {count} replicas cannot compute at once in pool {supply.pool!r}; at most {room} can"
        )
    # What has no model only sleeps: any hardware can be rehearsed anywhere.
    missing = absence(supply) if _has_model(plan, name) else None
    if missing is not None:
        raise Unfit(f"stages.{name}: hardware {hardware!r} is not here: {missing}")


def _has_model(plan: Plan, name: str) -> bool:
    stage = plan.spec.stages[name]
    if getattr(stage, "named_models", None):
        return True
    variant = getattr(stage, "variant", None)
    try:
        return variant is not None and variant(plan.variants.get(name, "")).model is not None
    except HeadwayError:
        return False


def _deployed(plan: Plan, name: str) -> tuple[Any, ...]:
    """What of a plan says how a stage is run."""
    domain, config = load_domain(plan.spec.stages[name].kind), plan.stages[name]
    hardware = [plan.spec.supply[h] for h in (domain.holds(config) if isinstance(domain, HoldsSupply) else ())]
    rows = [row for row in plan.profile.rows if row.stage == name]
    declared = plan.spec.to_dict()["stages"][name]
    free = {field: declared.get(field) for field in _live_fields(plan, name)}
    return config.to_dict(), [(h.threads, h.device, h.pool) for h in hardware], rows if hardware else None, free


def _live_fields(plan: Plan, name: str) -> frozenset[str]:
    domain = load_domain(plan.spec.stages[name].kind)
    return domain.live_fields if isinstance(domain, DeclaresLive) else frozenset()
