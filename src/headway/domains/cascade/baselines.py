"""What gear plans are compared with, each the same space with something taken away, and all of it tried.

`static_model`: one model for all loads (CascadeServe's DynBa). `switching`: gears of single models (Model Switching,
HotCloud 2020). `static_cascade`: one cascade for all loads. `gears`: nothing is taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from headway.domains.cascade.family import Family
from headway.domains.cascade.gears import Gear, GearPlan, Group
from headway.domains.cascade.planner import QUEUE_SHARES, GearPlanner

Plans = Callable[[int], Sequence[GearPlan]]


CHEAPEST = 4
"""Of the cascades that are right often enough so many are tried as the only one; dearer ones need more devices."""
SLACK = 0.005
"""A trace's samples are not quite the table's: what is so little below the floor may reach it."""


def restricted(family: Family, latency_s: float, accuracy: float) -> dict[str, Plans]:
    """Return by name how to make the candidates of each for a number of devices, under promises of both."""
    whole = GearPlanner(family, latency_s)
    single = GearPlanner(family, latency_s, max_steps=1)
    return {
        "static-model": lambda devices: _static(single, devices, accuracy),
        "switching": single.plans,
        "static-cascade": lambda devices: _static(whole, devices, accuracy),
        "gears": whole.plans,
    }


def _static(planner: GearPlanner, devices: int, accuracy: float) -> list[GearPlan]:
    """One gear for all loads: the cheapest cascades that are right enough, all batch sizes, waiting for them or not."""
    out, memory_mb = [], planner.family.memory_mb
    for sizes in planner.sizes():
        judged = planner.judged(sizes)
        for row in np.flatnonzero(judged.accuracy >= accuracy - SLACK)[:CHEAPEST].tolist():
            cascade = judged.cascade(row)
            if memory_mb is not None and sum(memory_mb[name] for name in cascade.models) > planner.family.device_mb:
                continue
            for share in QUEUE_SHARES:
                queued = sizes[cascade.models[0]] if share else 1
                gear = Gear(
                    cascade,
                    planner.family.max_rate_per_s,
                    (queued, *[1] * (len(cascade) - 1)),
                    share * planner.latency_s if queued > 1 else 0.0,
                    accuracy=float(judged.accuracy[row]),
                )
                held = tuple((name, size) for name, size in sizes.items() if name in cascade.models)
                placement = (Group(tuple(name for name, _ in held), devices),)
                out.append(GearPlan(planner.family.hardware, placement, held, (gear,), table=planner.family.table_hash))
    return list(dict.fromkeys(out))
