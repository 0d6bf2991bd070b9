"""From single results to figures with intervals: averages over seeds, ratios formed seed by seed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from headway.bench.inferline.grid import SYSTEMS
from headway.bench.inferline.rows import Result
from headway.bench.inferline.tuning import SCHEMES
from headway.sim.estimate import Estimate

Cell = tuple[Any, ...]


class Table:
    """The results of one experiment, by cell, system and seed.

    Cells are what differs but for system and seed. All systems are averaged over the same problems: a cell is used
    when every system was run on it with the first seed, and a further seed when it has all of these cells. A cell for
    which some system finds no plan is left out for all, and listed in `without_plan`.
    """

    def __init__(self, results: Iterable[Result], systems: Sequence[str] | None = None) -> None:
        kept = list(results)
        self.systems = tuple(systems or dict.fromkeys(result.system for result in kept))
        self._at = {(cell_of(r), r.system, r.seed): r for r in kept}
        seeds = sorted({result.seed for result in kept})
        every = dict.fromkeys(cell_of(result) for result in kept)
        whole = [cell for cell in every if self._run(cell, seeds[0])]
        self.seeds = tuple(seed for seed in seeds if whole and all(self._run(cell, seed) for cell in whole))
        self.without_plan = [
            cell for cell in whole
            if any(self._at[cell, system, seed].cost_usd is None for system in self.systems for seed in self.seeds)
        ]  # fmt: skip
        self.cells = [cell for cell in whole if cell not in self.without_plan]

    def _run(self, cell: Cell, seed: int) -> bool:
        return all((cell, system, seed) in self._at for system in self.systems)

    def cost(self, cell: Cell, system: str) -> Estimate:
        """Return what a system costs in a cell."""
        return Estimate.of([self._figure(cell, system, seed, "cost_usd") for seed in self.seeds])

    def misses(self, cell: Cell, system: str, field: str = "miss_rate") -> Estimate:
        """Return the share of requests that miss in a cell."""
        return Estimate.of([self._figure(cell, system, seed, field) for seed in self.seeds])

    def gap(self, cell: Cell, system: str) -> Estimate:
        """Return how far above the proven bound a system's cost is in a cell."""
        return Estimate.of([self._figure(cell, system, seed, "gap_ratio") for seed in self.seeds])

    def cost_ratio(self, baseline: str, system: str, cells: Sequence[Cell] | None = None) -> Estimate:
        """Return how many times as dear a baseline is as a system: the geometric mean over cells, per seed."""
        some = self.cells if cells is None else cells
        return Estimate.of_ratios(
            [math.exp(math.fsum(math.log(self._cost_ratio(c, baseline, system, seed)) for c in some) / len(some))
             for seed in self.seeds]
        )  # fmt: skip

    def miss_rate(self, system: str, cells: Sequence[Cell] | None = None, field: str = "miss_rate") -> Estimate:
        """Return the share of requests that miss, over all cells with equal weight."""
        some = self.cells if cells is None else cells
        return Estimate.of([self._mean(some, system, seed, field) for seed in self.seeds])

    def miss_ratio(self, baseline: str, system: str, cells: Sequence[Cell] | None = None) -> Estimate:
        """Return how many times as often requests miss with a baseline; infinite where the system misses none."""
        some = self.cells if cells is None else cells
        ratios = []
        for seed in self.seeds:
            theirs, ours = (self._mean(some, name, seed, "miss_rate") for name in (baseline, system))
            ratios.append(theirs / ours if ours else math.inf if theirs else 1.0)
        return Estimate.of_ratios(ratios)

    def dearest(self, baseline: str, system: str) -> tuple[Cell, Estimate]:
        """Return the cell in which a baseline is dearest against a system, and by how much ("up to")."""
        return max(
            ((cell, self.cost_ratio(baseline, system, [cell])) for cell in self.cells), key=lambda pair: pair[1].mean
        )

    def _cost_ratio(self, cell: Cell, baseline: str, system: str, seed: int) -> float:
        return self._figure(cell, baseline, seed, "cost_usd") / self._figure(cell, system, seed, "cost_usd")

    def _mean(self, cells: Sequence[Cell], system: str, seed: int, field: str) -> float:
        return math.fsum(self._figure(cell, system, seed, field) for cell in cells) / len(cells)

    def _figure(self, cell: Cell, system: str, seed: int, field: str) -> float:
        value = getattr(self._at[cell, system, seed], field)
        return math.nan if value is None else float(value)


def cell_of(result: Result) -> Cell:
    """Return what a result's cell is, as (workload, pipeline, rate, CV, SLO, GPU price, item share)."""
    return (
        result.workload, result.pipeline, result.rate_per_s, result.cv, result.slo_ms, result.gpu_usd_per_hour,
        result.item_share,
    )  # fmt: skip


def tables(results: Sequence[Result]) -> dict[str, Table]:
    """Return the table of every experiment in which all of its systems were run on something."""
    by: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by[result.experiment].append(result)
    made = {name: Table(some, list(SCHEMES if name == "tuning" else SYSTEMS)) for name, some in by.items()}
    return {name: table for name, table in made.items() if table.seeds and table.cells}
