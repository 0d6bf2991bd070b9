"""Gear plans for a given number of devices, as whole plans: the most accurate in time, or the quickest right enough.

The third wish, the fewest devices that keep both promises, is what `headway plan` answers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from headway import __version__
from headway.domains.cascade.choose import Judge, Judgment, best
from headway.domains.cascade.domain import DOMAIN, MOST_DEVICES
from headway.domains.cascade.family import Family
from headway.domains.cascade.planner import GearPlanner
from headway.domains.cascade.unserved import TooFew
from headway.errors import PlanError
from headway.plan import explain, reasons
from headway.plan.config import StageContext
from headway.plan.exact import SAME_ACCURACY
from headway.plan.infeasible import Infeasible, Obstacle
from headway.plan.oracle import Oracle
from headway.plan.plan import Plan
from headway.profile import Profile
from headway.spec.model import Spec
from headway.trace import Trace

QUICKER = (1.0, 0.5, 0.25, 0.125, 0.0625)
"""Shares of the spec's promise for which plans are made when the quickest is looked for."""


def most_accurate(
    spec: Spec,
    profile: Profile,
    trace: Trace,
    devices: int | None = None,
    *,
    usd_per_hour: float | None = None,
    feasibility: str = "trace",
    seed: int = 0,
) -> Plan:
    """Return the most accurate plan that keeps the spec's latency on the trace: of so many `devices`, or of the fewest
    that are as accurate as all that `usd_per_hour` pays for.

    The spec is of one cascade; where it names an accuracy too, that is a floor. `feasibility` is as in `headway.plan`.
    Raises PlanError for a spec of several stages, for both or none of the two limits, and for one below a device;
    Infeasible when none keeps the promise, with the range of rates and the model that stand in the way.
    """
    search = _Search.of(spec, profile, trace, Wish((1.0,), spec.slo.latency_s, spec.slo.accuracy), feasibility, seed)
    if (devices is None) == (usd_per_hour is None):
        raise PlanError("the most accurate gears are looked for on so many devices or for so much an hour; give one")
    if devices is not None:
        search.check_supply(devices)
        return search.plan(dict.fromkeys(search.planners, devices))
    assert usd_per_hour is not None
    return search.plan(search.paid_for(usd_per_hour), fewest=True)


def quickest(spec: Spec, profile: Profile, trace: Trace, devices: int, *, seed: int = 0) -> Plan:
    """Return the plan of so many devices that is right as often as the spec's `accuracy` and answers soonest.

    Raises PlanError when the spec names no accuracy, and Infeasible when none reaches it.
    """
    floor = spec.slo.accuracy
    if floor is None:
        raise PlanError("the quickest gears are looked for under an accuracy floor; give slo.accuracy")
    search = _Search.of(spec, profile, trace, Wish(QUICKER, None, floor), "trace", seed)
    return search.plan(dict.fromkeys(search.planners, devices))


@dataclass(frozen=True, slots=True)
class Wish:
    """For which shares of the promise plans are made, and what must hold of the one that is chosen."""

    shares: tuple[float, ...]
    latency_s: float | None
    accuracy: float | None

    def __str__(self) -> str:
        said = [] if self.latency_s is None else [f"within {self.latency_s:g} s"]
        return " ".join([*said, *([] if self.accuracy is None else [f"of an accuracy of {self.accuracy:g}"])])


@dataclass(frozen=True)
class _Search:
    """What plans are chosen with: the oracle that judges them, and on each hardware the planners and a quick judge."""

    oracle: Oracle
    context: StageContext
    wish: Wish
    planners: Mapping[str, Sequence[GearPlanner]]
    judges: Mapping[str, Judge]

    @classmethod
    def of(cls, spec: Spec, profile: Profile, trace: Trace, wish: Wish, feasibility: str, seed: int) -> _Search:
        """Return a search for one cascade alone. Raises PlanError for another spec."""
        ((name, stage), *more) = spec.stages.items()
        if more or stage.kind != DOMAIN.kind:
            raise PlanError(
                f"gears for given devices or dollars are made for a cascade alone, and the spec has "
                f"{', '.join(f'{n} of kind {one.kind}' for n, one in spec.stages.items())}; plan the cascade in a spec "
                "of its own, or raise slo.accuracy until the cheapest plan costs what you would spend"
            )
        context = StageContext(name, stage, spec, profile)
        usable = DOMAIN.hardware(context)
        families = {each: Family.of(context, each, len(usable) * len(wish.shares)) for each in usable}
        floor = wish.accuracy if wish.latency_s is None else None
        planners = {
            each: [GearPlanner(family, share * spec.slo.latency_s, floor) for share in wish.shares]
            for each, family in families.items()
        }
        judges = {
            each: Judge(family, trace, percent=spec.slo.percentile, seed=seed) for each, family in families.items()
        }
        oracle = Oracle(spec, profile, trace, feasibility=feasibility, seed=seed)
        return cls(oracle, context, wish, planners, judges)

    def paid_for(self, usd_per_hour: float) -> dict[str, int]:
        """Return how many devices so much pays for, by hardware, of as many as are worth a look. Raises PlanError."""
        supply = self.context.spec.supply
        found = {}
        for hardware, judge in self.judges.items():
            price, most = supply[hardware].price_usd_per_hour, DOMAIN.most_devices(self.context, judge.family)
            found[hardware] = most if price == 0 else min(most, int(usd_per_hour / price + 1e-9))
        if not any(found.values()):
            least = min(supply[hardware].price_usd_per_hour for hardware in found)
            raise PlanError(f"${usd_per_hour:g}/h pays for no device; the cheapest costs ${least:g}/h")
        return found

    def check_supply(self, devices: int) -> None:
        """Raise PlanError when supply has so many devices of no hardware, or there is none to plan for."""
        supply = self.context.spec.supply
        most = max(supply[name].max_replicas or MOST_DEVICES for name in self.planners)
        if not 1 <= devices <= most:
            raise PlanError(f"devices is {devices}; supply has from 1 to {most} of {' or '.join(self.planners)}")

    def at(self, hardware: str, devices: int) -> Judgment | None:
        """Return what is best on so many devices of those that keep the promise; None when none does."""
        judged: list[Judgment] = []
        for planner in self.planners[hardware]:
            with contextlib.suppress(TooFew):
                judged += [self.judges[hardware].judge(plan) for plan in planner.plans(devices)]
        while (chosen := best(judged, latency_s=self.wish.latency_s, accuracy=self.wish.accuracy)) is not None:
            if self.oracle.feasible({self.context.name: chosen.plan}):
                return chosen
            judged.remove(chosen)
        return None

    def plan(self, devices: Mapping[str, int], *, fewest: bool = False) -> Plan:
        """Return the best plan of so many devices by hardware, or of the `fewest` that are as accurate. Raises
        Infeasible."""
        found = [chosen for each, count in devices.items() if count and (chosen := self.at(each, count)) is not None]
        chosen = best(found, latency_s=self.wish.latency_s, accuracy=self.wish.accuracy)
        if chosen is None:
            hardware, most = max(devices.items(), key=lambda pair: pair[1])
            said = self.planners[hardware][0].unserved(most).text(most)
            name = self.context.name
            text = f"stages.{name}: no gears {self.wish} were found: {said}"
            raise Infeasible(self.oracle.spec.name, Obstacle("capacity", name, text))
        return self._whole(self._fewest(chosen) if fewest else chosen)

    def _fewest(self, chosen: Judgment) -> Judgment:
        """As accurate on fewer devices, found by bisection."""
        low, least = 0, chosen.accuracy - SAME_ACCURACY
        while chosen.plan.devices - low > 1:
            middle = (low + chosen.plan.devices) // 2
            fewer = self.at(chosen.plan.hardware, middle)
            if fewer is not None and fewer.accuracy >= least:
                chosen = fewer
            else:
                low = middle
        return chosen

    def _whole(self, chosen: Judgment) -> Plan:
        oracle, stages = self.oracle, {self.context.name: chosen.plan}
        predicted = explain.predict(oracle, stages)
        ratio, first = explain.headroom(oracle, stages)
        told = [reasons.headroom(ratio, first), reasons.judged_on(oracle, predicted.verdict)]
        plan = Plan(
            oracle.spec,
            oracle.profile,
            stages,
            predicted=predicted.to_dict(),
            headroom_ratio=ratio,
            reasons=(*told, *reasons.evidence(oracle.plan(stages))),
            stage_predictions=predicted.stages(),
            provenance={
                "headway": __version__, "feasibility": oracle.feasibility, "seed": oracle.seed,
                "trace_hash": oracle.trace.hash, "requests": oracle.trace.requests,
                "rate_per_s": oracle.trace.rate_per_s, "profile_hash": oracle.profile.hash,
                "calibrated": oracle.profile.overheads is not None, "block_s": oracle.block_s,
            },
        )  # fmt: skip
        return replace(plan, envelope=explain.planned_envelope(plan, oracle))
