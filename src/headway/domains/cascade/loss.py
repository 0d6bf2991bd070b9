"""What a lost device does: from a moment on there is one fewer, and the plan's `gears_less_one` hold."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from headway.domains.cascade.gears import GearPlan
from headway.domains.cascade.station import CascadeStation
from headway.errors import PlanError
from headway.sim.station import Arrivals, Departures


@dataclass(frozen=True, slots=True)
class Loss:
    """At `at_s` a device of one group of the placement is lost, for good."""

    at_s: float
    group: int = 0


def without(plan: GearPlan, group: int = 0) -> GearPlan:
    """Return what is left of a plan when a device of one group is lost. Raises PlanError when nothing was planned for
    that.

    >>> from headway.cascade import Cascade, Step
    >>> from headway.domains.cascade.gears import Gear, Group
    >>> gear = Gear(Cascade((Step("small"),)), 9.0, (1,))
    >>> plan = GearPlan("cpu", (Group(("small",), 2),), (("small", 1),), (gear,), (gear,))
    >>> without(plan).devices
    1
    """
    left = tuple(
        replace(each, devices=each.devices - 1) if at == group else each for at, each in enumerate(plan.placement)
    )
    left = tuple(each for each in left if each.devices)
    if not plan.gears_less_one:
        raise PlanError(f"a plan for {plan.devices} devices has no gears for one fewer: gears_less_one is empty")
    placed = {name for each in left for name in each.models}
    sizes = tuple((name, size) for name, size in plan.max_batch_size if name in placed)
    return replace(plan, placement=left, max_batch_size=sizes, gears=plan.gears_less_one, gears_less_one=())


def run_with_loss(station: CascadeStation, arrivals: Arrivals, loss: Loss, *, seed: int) -> Departures:
    """Serve all arrivals while a device is lost on the way.

    What is unfinished at that moment begins anew on the devices that are left, whichever had it: no less than what a
    served cascade loses. Raises PlanError when the plan has no gears for one device fewer.
    """
    before = int(np.searchsorted(arrivals.arrival_s, loss.at_s))
    after = replace(station, plan=without(station.plan, loss.group))
    first = station.run(_part(arrivals, np.arange(before)), seed=seed, record=False)
    kept = first.done_s <= loss.at_s
    place = np.empty(arrivals.item.size, np.int64)
    place[arrivals.item] = np.arange(arrivals.item.size)
    rest = np.ones(arrivals.item.size, np.bool_)
    rest[place[first.item[kept]]] = False
    rest[place[first.dropped]] = False
    second = after.run(_part(arrivals, np.flatnonzero(rest), loss.at_s), seed=seed, record=False)
    return Departures(
        np.concatenate([first.done_s[kept], second.done_s]),
        np.concatenate([first.item[kept], second.item]),
        np.empty(0),
        np.concatenate([first.dropped, second.dropped]),
        np.empty(0, np.int32),
        first.batches + second.batches,
        first.busy_s + second.busy_s,
        credit=np.concatenate([first.credit[kept], second.credit]),
    )


def _part(arrivals: Arrivals, chosen: np.ndarray[tuple[int], np.dtype[np.int64]], least_s: float = 0.0) -> Arrivals:
    """Some of the arrivals, none before `least_s`; items keep their numbers."""
    return replace(
        arrivals,
        arrival_s=np.maximum(arrivals.arrival_s[chosen], least_s),
        item=arrivals.item[chosen],
        deadline_s=arrivals.deadline_s[chosen] if arrivals.deadline_s.size else arrivals.deadline_s,
    )
