"""All experiments in one go, as results, and as rows of `headway bench inferline`."""

from __future__ import annotations

import dataclasses

from headway.bench import BenchOptions, Row
from headway.bench.book import Book, Stamp
from headway.bench.inferline import grid, tuning
from headway.bench.inferline.grid import Progress, Sizes
from headway.bench.inferline.rows import Result
from headway.bench.inferline.summary import Cell, Table, tables
from headway.bench.inferline.workloads import real_traces
from headway.trace import Trace

OURS = ("inferline", "headway")
BASELINES = {
    "grid": ("cg-mean", "cg-peak"),
    "real": ("cg-mean", "cg-peak"),
    "tuning": ("cg-mean+autoscale", "cg-mean+ds2"),
}
"""By experiment, whom the two are compared with in the rows; the page has all."""


def evaluate(
    sizes: Sizes, real: dict[str, Trace], book: Book[Result], stamp: Stamp, tell: Progress = lambda _: None
) -> list[Result]:
    """Return the results of all experiments; those in the book are not computed again.

    The seeds that every experiment needs come first, so that what is stopped early can be shown.
    """
    first = dataclasses.replace(sizes, seeds=tuple(seed for seed in sizes.seeds if seed in sizes.few_seeds))
    grid.compute(first, real, book, stamp, tell)
    tuned = tuning.compute(sizes, book, stamp, tell)
    return grid.compute(sizes, real, book, stamp, tell) + tuned


def inferline(options: BenchOptions) -> list[Row]:
    """Planners and tuners side by side: how many times as dear a baseline is, and as often requests miss.

    `options.trace_path` is a real trace, or a folder of them, whose arrivals are planned for as well.
    """
    sizes = Sizes.quick() if options.quick else Sizes()
    sizes = dataclasses.replace(
        sizes,
        seeds=tuple(options.seed - 1 + seed for seed in sizes.seeds),
        few_seeds=tuple(options.seed - 1 + seed for seed in sizes.few_seeds),
    )
    return rows(tables(evaluate(sizes, real_traces(options.trace_path), Book(Result), Stamp.here())))


def rows(known: dict[str, Table]) -> list[Row]:
    """Return the ratios of the experiments as bench rows; a traffic in which no seed is whole has none."""
    out: list[Row] = []
    for experiment, baselines in BASELINES.items():
        table = known.get(experiment)
        if table is None:
            continue
        for traffic, cells in _traffics(experiment, table).items():
            for system in OURS:
                name = f"inferline/{traffic}/{system}"
                missed = table.miss_rate(system, cells).mean
                out.append(Row(f"{name}/misses", missed, "of the requests"))
                for baseline in baselines:
                    paid = table.cost_ratio(baseline, system, cells).mean
                    theirs = table.miss_rate(baseline, cells).mean
                    out += [
                        Row(f"{name}/cost-of-{baseline}", paid, "times its own"),
                        Row(f"{name}/misses-of-{baseline}", theirs, "of the requests", baseline=missed,
                            ratio=theirs / missed if missed else None),
                    ]  # fmt: skip
    return out


def _traffics(experiment: str, table: Table) -> dict[str, list[Cell]]:
    """Cells by the traffic that rows are told for: burstiness, trace, or shape."""
    out: dict[str, list[Cell]] = {}
    for cell in table.cells:
        out.setdefault(f"gamma-cv{cell[3]:g}" if experiment == "grid" else str(cell[0]), []).append(cell)
    return out
