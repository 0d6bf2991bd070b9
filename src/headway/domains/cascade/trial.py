"""One gear alone at its own highest rate: how long its items take."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from headway.domains.cascade.family import Family
from headway.domains.cascade.gears import Gear, GearPlan, Group
from headway.domains.cascade.halves import chosen_on
from headway.domains.cascade.station import CascadeStation, gear_arrays, shuffled
from headway.sim.outcome import percentile

ITEMS = 600


class Trial:
    """Tries gears on one placement: Poisson arrivals at a gear's highest rate, mean service times, always the same.

    What does not depend on the gear is made once: a planner tries hundreds.
    """

    def __init__(self, family: Family, sizes: Mapping[str, int], placement: tuple[Group, ...]) -> None:
        placed = {name for group in placement for name in group.models}
        held = tuple((name, size) for name, size in sizes.items() if name in placed)
        tables = {name: family.service[name].table(size, sampled=False) for name, size in held}
        self._plan = GearPlan(family.hardware, placement, held, ())
        self._models = CascadeStation(family.where, self._plan, tables, family.table).models
        self._sample = shuffled(0, family.where, ITEMS, chosen_on(family.table))
        self._arrival_s = np.cumsum(np.random.default_rng(0).exponential(1.0, ITEMS))
        self._known: dict[Gear, float] = {}

    def p95_s(self, gear: Gear) -> float:
        """Return the 95th percentile of the gear's latency in seconds."""
        if gear not in self._known:
            self._known[gear] = self._p95_s(gear)
        return self._known[gear]

    def _p95_s(self, gear: Gear) -> float:
        from headway.domains.cascade import kernel

        arrival_s = self._arrival_s / gear.up_to_per_s
        scratch = kernel.Scratch.of(ITEMS, len(self._plan.models), self._plan.devices)
        out = kernel.Out.of(ITEMS, record=False, deadlines=False)
        gears = gear_arrays((gear,), self._plan)
        kernel.serve_cascade(arrival_s, self._sample, np.empty(0), 0, self._models, gears, scratch, out)
        return percentile(out.done_s - arrival_s[out.left], 95)
