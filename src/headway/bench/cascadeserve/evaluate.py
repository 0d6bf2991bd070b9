"""All experiments in one go: cells, what is left without switching or cascades, spikes, and planners side by side."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from headway.bench.book import Book, Stamp
from headway.bench.cascades.family import planned, whole
from headway.bench.cascades.tries import every_plan, random_plans
from headway.bench.cascadeserve.cells import FLOORS, LATENCIES_S, SYSTEMS, Cell, Problem, least, loaded, solve
from headway.bench.cascadeserve.rows import Result
from headway.domains.cascade.choose import Judge, Judgment, best
from headway.domains.cascade.family import Family
from headway.domains.cascade.gears import GearPlan
from headway.domains.cascade.passes import FourPasses, NoGears
from headway.domains.cascade.planner import GearPlanner
from headway.domains.cascade.unserved import TooFew
from headway.sim.outcome import by_window, percentile
from headway.trace import Trace
from headway.trace.envelope import peak_rate_per_s

Progress = Callable[[str], None]

ALONE = ("static-model", "switching", "static-cascade", "gears")
"""The systems that are made for a number of devices: all but autoscaled ensembles."""
CASE = 0.95, 0.5
"""The accuracy and the latency of the experiments that look at one load."""
SHARES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Multiples of what the better baseline needs, for which devices the ablation asks what accuracy can be had."""
WINDOW_S = 1.0
TINY_RANGES, TINY_CASCADES, TINY_DEVICES, TINY_RATE_PER_S, TINY_SECONDS = 3, 8, 8, 200.0, 8.0
"""The space in which every plan is tried."""
TINY_LATENCIES_S = (0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is computed. Cells other than those of the first seed are every other floor and latency."""

    seeds: tuple[int, ...] = (1, 2, 3)
    seconds: float = 30.0
    floors: tuple[float, ...] = FLOORS
    latencies_s: tuple[float, ...] = LATENCIES_S
    few: int = 2

    @classmethod
    def quick(cls) -> Sizes:
        """Return sizes that show in seconds that it works; their figures mean nothing."""
        return cls((1,), 4.0, (0.9,), (1.0,))


def cells(sizes: Sizes, real: Mapping[str, Trace]) -> Iterator[Cell]:
    """Yield all cells, the whole grid of the first seed first."""
    first, *others = sizes.seeds
    for floor in reversed(sizes.floors):
        for latency_s in sizes.latencies_s:
            yield Cell(floor, latency_s, first, sizes.seconds)
    for name, trace in real.items():
        yield from _few(sizes, first, name, trace)
    for seed in others:
        yield from _few(sizes, seed, "bursty", None)
    for seed in others:
        for name, trace in real.items():
            yield from _few(sizes, seed, name, trace)


def _few(sizes: Sizes, seed: int, traffic: str, real: Trace | None) -> Iterator[Cell]:
    for floor in sizes.floors[:: sizes.few]:
        for latency_s in sizes.latencies_s[:: sizes.few]:
            yield Cell(floor, latency_s, seed, sizes.seconds, traffic, real)


def evaluate(
    sizes: Sizes,
    real: Mapping[str, Trace],
    book: Book[Result],
    stamp: Stamp,
    tell: Progress = lambda _: None,
    only: Iterable[str] = ("cells", "ablation", "spikes", "planners"),
) -> None:
    """Put the results of all experiments into the book; what it has already is not computed."""
    wanted = tuple(only)

    def keep(results: Iterable[Result]) -> None:
        book.add(map(stamp.on, results))

    def solved(cell: Cell) -> None:
        if not _known(book, cell, "cells", SYSTEMS):
            tell(f"cells: {cell.traffic}, {100 * cell.floor:g} %, {cell.latency_s:g} s, seed {cell.seed}")
            keep(solve(cell, rate_per_s=_rate(book, cell)))

    for seed in sizes.seeds if "planners" in wanted else ():
        for latency_s in TINY_LATENCIES_S:
            cell = Cell(0.0, latency_s, seed, TINY_SECONDS)
            if not _known(book, cell, "planners", ("exhaustive",)):
                tell(f"planners: {latency_s:g} s, seed {seed}")
                keep(planners(cell))
    order = cells(sizes, real) if "cells" in wanted else iter(())
    whole_grid = len(sizes.floors) * len(sizes.latencies_s)
    for cell in itertools.islice(order, whole_grid):
        solved(cell)
    for seed in sizes.seeds:
        case = Cell(sizes.floors[0], sizes.latencies_s[0], seed, sizes.seconds) if len(sizes.floors) == 1 else Cell(
            *CASE, seed, sizes.seconds
        )  # fmt: skip
        if "ablation" in wanted and not _known(book, case, "ablation", ALONE):
            tell(f"ablation: seed {seed}")
            keep(ablation(case))
        if "spikes" in wanted and not _known(book, case, "spikes", ALONE):
            tell(f"spikes: seed {seed}")
            keep(spikes(case))
    for cell in order:
        solved(cell)


def _known(book: Book[Result], cell: Cell, experiment: str, systems: Iterable[str]) -> bool:
    """Whether the book has the rows of these systems for a cell, whatever they were given."""
    of = (experiment, cell.traffic, cell.floor, cell.latency_s, cell.seed)
    have = {
        r.system
        for r in book.results
        if (r.experiment, r.traffic, r.floor, r.latency_s, r.seed) == of and r.inputs == cell.inputs
    }
    return have.issuperset(systems)


def _rate(book: Book[Result], cell: Cell) -> float | None:
    """The load of a cell of the same promises that is known: its own is near."""
    near = (r.rate_per_s for r in book.results
            if (r.experiment, r.floor, r.latency_s) == ("cells", cell.floor, cell.latency_s)
            and r.rate_per_s is not None)  # fmt: skip
    return next(near, None)


def ablation(cell: Cell) -> Iterator[Result]:
    """Yield what accuracy each system reaches in time with a number of devices: no switching, no cascades, neither."""
    problem, found = loaded(cell)
    middle = least(found) or 1.0
    for given in sorted({max(1, round(share * middle)) for share in SHARES}):
        for system, plans in problem.unbound.items():
            chosen = best(_judged(problem, plans(given)), latency_s=cell.latency_s)
            row = dataclasses.replace(
                cell.result(system), experiment="ablation", given=given, rate_per_s=problem.trace.rate_per_s
            )
            yield row if chosen is None else _filled(row, problem, chosen)


def spikes(cell: Cell) -> Iterator[Result]:
    """Yield how long requests take and how right they are answered, second by second, with what gears need."""
    problem, _ = loaded(cell)
    gears = problem.fewest("gears")
    given = int(gears.devices or 1)
    for system, plans in problem.plans.items():
        judged = _judged(problem, plans(given))
        chosen = best(judged, latency_s=cell.latency_s, accuracy=cell.floor) or best(judged, accuracy=cell.floor)
        row = dataclasses.replace(
            cell.result(system), experiment="spikes", given=given, rate_per_s=problem.trace.rate_per_s
        )
        if chosen is None:
            yield row
            continue
        yield _filled(row, problem, chosen)
        left = problem.judge.run(chosen.plan)
        order = np.argsort(left.item)
        arrival_s = problem.trace.arrival_s
        figures = np.stack([problem.judge.latency_s(left)[order], left.credit[order]], axis=1)
        for number, part in enumerate(by_window(arrival_s, figures, WINDOW_S), start=1):
            yield dataclasses.replace(
                row, at_s=number * WINDOW_S, p95_s=percentile(part[:, 0], 95), accuracy=float(part[:, 1].mean()),
                rate_per_s=len(part) / WINDOW_S,
            )  # fmt: skip


def planners(cell: Cell) -> Iterator[Result]:
    """Yield how accurate the best plan in time is that each planner finds in a space small enough to try every plan."""
    trace = cell.trace(TINY_RATE_PER_S)
    made = planned(whole(peak_rate_per_s(trace.arrival_s, 1.0), cell.latency_s))
    judge, row = Judge(made, trace, seed=cell.seed), dataclasses.replace(cell.result(""), experiment="planners")
    row = dataclasses.replace(row, given=TINY_DEVICES, rate_per_s=trace.rate_per_s)

    def told(system: str, begin: float, judged: Iterable[Judgment]) -> Result:
        chosen = best(judged, latency_s=cell.latency_s)
        taken = perf_counter() - begin
        if chosen is None:
            return dataclasses.replace(row, system=system, seconds=taken)
        return dataclasses.replace(
            row, system=system, accuracy=chosen.accuracy, p95_s=chosen.latency_s, devices=float(TINY_DEVICES),
            seconds=taken,
        )  # fmt: skip

    begin = perf_counter()
    ours = told("gears", begin, map(judge.judge, GearPlanner(made, cell.latency_s).plans(TINY_DEVICES)))
    yield ours
    begin = perf_counter()
    yield told("four-passes", begin, map(judge.judge, _passes(made, cell.latency_s)))
    begin = perf_counter()
    yield told("random", begin, _timed(judge, made, cell, 2 * (ours.seconds or 0.0)))
    begin = perf_counter()
    planner = GearPlanner(made, cell.latency_s)
    every: list[Judgment] = []
    for sizes in planner.sizes():
        rows = np.unique(np.linspace(0, len(planner.judged(sizes)) - 1, TINY_CASCADES).round().astype(int)).tolist()
        every += map(judge.judge, every_plan(planner, TINY_DEVICES, sizes, TINY_RANGES, rows))
    yield told("exhaustive", begin, every)


def _passes(made: Family, latency_s: float) -> list[GearPlan]:
    try:
        return [FourPasses(made, TINY_DEVICES, latency_s=latency_s).run()]
    except NoGears:
        return []


def _timed(judge: Judge, made: Family, cell: Cell, seconds: float) -> Iterator[Judgment]:
    """Judge plans at random until the time is up."""
    begin = perf_counter()
    for plan in random_plans(GearPlanner(made, cell.latency_s), TINY_DEVICES, np.random.default_rng(cell.seed)):
        if perf_counter() - begin > seconds:
            return
        yield judge.judge(plan)


def _judged(problem: Problem, plans: Iterable[GearPlan]) -> list[Judgment]:
    try:
        return [problem.judge.judge(plan) for plan in plans]
    except TooFew:
        return []


def _filled(row: Result, problem: Problem, chosen: Judgment) -> Result:
    return dataclasses.replace(
        row,
        devices=float(chosen.plan.devices),
        mean_devices=float(chosen.plan.devices),
        accuracy=chosen.accuracy,
        tested_accuracy=problem.tested(chosen).accuracy,
        p95_s=chosen.latency_s,
    )
