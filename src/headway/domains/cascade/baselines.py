"""What gear plans are compared with, each the same space with something taken away, and all of it tried.

`static-model`: one model for all loads (CascadeServe's DynBa). `switching`: gears of single models (Model Switching,
HotCloud 2020). `static-cascade`: one cascade for all loads. `gears`: nothing is taken away. With the first two there
is no cascade, with the first and the third no switching: the ablation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headway.domains.cascade.family import Family
from headway.domains.cascade.gears import GearPlan
from headway.domains.cascade.planner import GearPlanner

Plans = Callable[[int], Sequence[GearPlan]]


def restricted(
    family: Family, latency_s: float, accuracy: float | None, up_to_per_s: float | None = None
) -> dict[str, Plans]:
    """Return by name how to make the candidates of each for a number of devices, under promises of both.

    Every candidate of a restricted planner is one of `gears`. `up_to_per_s`: see `GearPlanner`.
    """
    whole = GearPlanner(family, latency_s, accuracy, up_to_per_s=up_to_per_s)
    single = whole.single
    assert single is not None
    return {
        "static-model": lambda devices: list(single.static(devices)),
        "switching": lambda devices: list(single.switching(devices)),
        "static-cascade": lambda devices: list(whole.static(devices)),
        "gears": whole.plans,
    }
