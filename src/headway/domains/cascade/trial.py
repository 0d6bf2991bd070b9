"""One gear alone at its own highest rate: how long its items take."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from headway.domains.cascade.family import Family
from headway.domains.cascade.gears import Gear, GearPlan, Group
from headway.domains.cascade.station import CascadeStation
from headway.sim.outcome import percentile
from headway.sim.station import Arrivals

ITEMS = 600


class Trial:
    """Tries gears on one placement: Poisson arrivals at a gear's highest rate, mean service times, always the same."""

    def __init__(self, family: Family, sizes: Mapping[str, int], placement: tuple[Group, ...]) -> None:
        self._family, self._placement = family, placement
        placed = {name for group in placement for name in group.models}
        self._sizes = tuple((name, size) for name, size in sizes.items() if name in placed)
        self._tables = {name: family.service[name].table(size, sampled=False) for name, size in self._sizes}
        self._known: dict[Gear, float] = {}

    def p95_s(self, gear: Gear) -> float:
        """Return the 95th percentile of the gear's latency in seconds."""
        if gear not in self._known:
            plan = GearPlan(self._family.hardware, self._placement, self._sizes, (gear,))
            gaps_s = np.random.default_rng(0).exponential(1 / gear.up_to_per_s, ITEMS)
            items = np.arange(ITEMS, dtype=np.int32)
            arrivals = Arrivals(np.cumsum(gaps_s), items, items)
            station = CascadeStation(self._family.where, plan, self._tables, self._family.table)
            left = station.run(arrivals, seed=0, record=False)
            self._known[gear] = percentile(left.done_s - arrivals.arrival_s[left.item], 95)
        return self._known[gear]
