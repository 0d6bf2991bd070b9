"""Gear plans for a given number of devices, as whole plans: the most accurate in time, or the quickest right enough.

The third wish, the fewest devices that keep both promises, is what `headway plan` answers.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from headway.domains.cascade.choose import Judge, Judgment, best
from headway.domains.cascade.domain import DOMAIN
from headway.domains.cascade.family import Family
from headway.domains.cascade.planner import GearPlanner
from headway.domains.cascade.unserved import TooFew
from headway.errors import PlanError
from headway.plan.config import StageContext
from headway.plan.explain import predict
from headway.plan.oracle import Oracle
from headway.plan.plan import Plan
from headway.plan.reasons import evidence, shortcomings
from headway.profile import Profile
from headway.spec.model import Spec
from headway.trace import Trace

QUICKER = (1.0, 0.5, 0.25, 0.125, 0.0625)
"""Shares of the spec's promise for which plans are made when the quickest is looked for."""


def most_accurate(spec: Spec, profile: Profile, trace: Trace, devices: int, *, seed: int = 0) -> Plan:
    """Return the most accurate plan of so many devices that keeps the spec's latency on the trace.

    The spec is of one cascade; where it names an accuracy too, that is a floor. Raises PlanError when none keeps it,
    with the range of rates and the model that stand in the way.
    """
    slo = spec.slo
    return _plan(spec, profile, trace, devices, seed, Wish((1.0,), slo.latency_s, slo.accuracy))


def quickest(spec: Spec, profile: Profile, trace: Trace, devices: int, *, seed: int = 0) -> Plan:
    """Return the plan of so many devices that is right as often as the spec's `accuracy` and answers soonest.

    Raises PlanError when the spec names no accuracy, or none reaches it.
    """
    floor = spec.slo.accuracy
    if floor is None:
        raise PlanError("the quickest gears are looked for under an accuracy floor; give slo.accuracy")
    return _plan(spec, profile, trace, devices, seed, Wish(QUICKER, None, floor))


@dataclass(frozen=True, slots=True)
class Wish:
    """For which shares of the promise plans are made, and what must hold of the one that is chosen."""

    shares: tuple[float, ...]
    latency_s: float | None
    accuracy: float | None

    def __str__(self) -> str:
        said = [] if self.latency_s is None else [f"within {self.latency_s:g} s"]
        return " ".join([*said, *([] if self.accuracy is None else [f"of an accuracy of {self.accuracy:g}"])])


def _plan(spec: Spec, profile: Profile, trace: Trace, devices: int, seed: int, wish: Wish) -> Plan:
    if len(spec.stages) != 1:
        raise PlanError(f"gears for a number of devices are made for a cascade alone; the spec has {len(spec.stages)}")
    ((name, stage),) = spec.stages.items()
    context = StageContext(name, stage, spec, profile)
    found: list[Judgment] = []
    said: list[str] = []
    usable = DOMAIN.hardware(context)
    for hardware in usable:
        family = Family.of(context, hardware, len(usable) * len(wish.shares))
        judge = Judge(family, trace, percent=spec.slo.percentile, seed=seed)
        floor = wish.accuracy if wish.latency_s is None else None
        for share in wish.shares:
            planner = GearPlanner(family, share * spec.slo.latency_s, floor)
            said.append(planner.unserved(devices).text(devices))
            with contextlib.suppress(TooFew):
                found += [judge.judge(plan) for plan in planner.plans(devices)]
    chosen = best(found, latency_s=wish.latency_s, accuracy=wish.accuracy)
    if chosen is None:
        raise PlanError(f"stages.{name}: no gears {wish} were found: {said[0]}")
    oracle = Oracle(spec, profile, trace, feasibility="trace", seed=seed)
    stages = {name: chosen.plan}
    predicted = predict(oracle, stages)
    short = shortcomings(oracle, predicted.verdict, oracle.lacking(stages))
    return Plan(
        spec,
        profile,
        stages,
        predicted=predicted.to_dict(),
        reasons=(*short, *evidence(oracle.plan(stages))),
        stage_predictions=predicted.stages(),
        feasible=not short,
    )
