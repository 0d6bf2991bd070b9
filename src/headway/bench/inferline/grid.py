"""Planners side by side: what each would hold, and how many requests miss on traffic that it never saw."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from headway.bench.book import Book, Stamp
from headway.bench.inferline.pipelines import GPU_USD_PER_HOUR, PIPELINES, Pipeline
from headway.bench.inferline.rows import Result
from headway.bench.inferline.workloads import MOST_PER_S, PLANNED_SHARE, Load, gamma, rescaled, split
from headway.files import content_hash
from headway.plan import Infeasible, Plan
from headway.plan.make import make
from headway.sim.simulation import simulate
from headway.trace import Trace

SYSTEMS = {
    "headway": ("exact", "robust"),
    "headway-trace": ("exact", "trace"),
    "inferline": ("greedy", "trace"),
    "cg-mean": ("cg-mean", "trace"),
    "cg-peak": ("cg-peak", "trace"),
}
"""Planner and feasibility mode by the name of a system; InferLine and the coarse-grained ones are as published."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is computed. `budgets` bound the exact planner's simulated candidates by mode; its gap is reported."""

    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    few_seeds: tuple[int, ...] = (1, 2, 3)
    requests: int = 10_000
    lives: int = 3
    rates_per_s: tuple[float, ...] = (50.0, 150.0, 300.0)
    slos_ms: tuple[float, ...] = (100.0, 150.0, 200.0, 300.0, 500.0)
    gpu_usd_per_hour: tuple[float, ...] = (0.2, 2.0)
    item_shares: tuple[float, ...] = (0.5, 2.0)
    budgets: tuple[tuple[str, int], ...] = (("robust", 600), ("trace", 2000))
    minutes: int | None = None
    most_per_s: float = MOST_PER_S

    @classmethod
    def quick(cls) -> Sizes:
        """Return sizes that show in seconds that it works; their figures mean nothing."""
        return cls((1,), (1,), 400, 1, (50.0,), (150.0,), (2.0,), (2.0,), (("robust", 20), ("trace", 50)), 4, 40.0)

    def budget(self, system: str) -> int:
        """Return the exact planner's budget for a system; the others have no use for it."""
        return dict(self.budgets)[SYSTEMS[system][1]]


@dataclass(frozen=True)
class Cell:
    """One planning problem. `loads` makes what is planned from and what is then served, several times."""

    experiment: str
    workload: str
    pipeline: Pipeline
    rate_per_s: float
    cv: float
    seed: int
    loads: Callable[[], Sequence[Load]] = field(compare=False)

    def result(self, system: str, inputs: str) -> Result:
        """Return a row of this cell whose figures are yet to come."""
        p = self.pipeline
        return Result(
            self.experiment, self.workload, p.name, self.rate_per_s, self.cv, p.slo_ms, p.gpu_usd_per_hour,
            p.item_share, system, self.seed, None, None, None, None, inputs,
        )  # fmt: skip


def cells(sizes: Sizes, real: dict[str, Trace]) -> Iterator[Cell]:
    """Yield all planning problems, those of the first seed first, so that what is stopped early is balanced."""
    for seed in sizes.seeds:
        for cv in (1.0, 4.0):
            for pipeline in PIPELINES.values():
                for rate in sizes.rates_per_s:
                    yield _gamma_cell("grid", pipeline, rate, cv, seed, sizes)
        if seed in sizes.few_seeds:
            yield from _varied(sizes, seed)
            for name, trace in real.items():
                yield from (_real_cell(name, trace, pipeline, seed, sizes) for pipeline in PIPELINES.values())


def _varied(sizes: Sizes, seed: int) -> Iterator[Cell]:
    rate = 150.0 if 150.0 in sizes.rates_per_s else sizes.rates_per_s[0]
    for cv in (1.0, 4.0):
        for slo_ms in sizes.slos_ms:
            yield _gamma_cell("slo", PIPELINES["social"].vary(slo_ms=slo_ms), rate, cv, seed, sizes)
    base = PIPELINES["social"]
    for price in (GPU_USD_PER_HOUR, *sizes.gpu_usd_per_hour):
        yield _gamma_cell("price", base.vary(gpu_usd_per_hour=price), rate, 4.0, seed, sizes)
    for share in (1.0, *sizes.item_shares):
        yield _gamma_cell("batch", base.vary(item_share=share), rate, 4.0, seed, sizes)


def _gamma_cell(experiment: str, pipeline: Pipeline, rate: float, cv: float, seed: int, sizes: Sizes) -> Cell:
    return Cell(
        experiment, "gamma", pipeline, rate, cv, seed, lambda: gamma(rate, cv, sizes.requests, seed, sizes.lives)
    )


REAL_RATE_PER_S = 150.0


def _real_cell(name: str, trace: Trace, pipeline: Pipeline, seed: int, sizes: Sizes) -> Cell:
    most = int(sizes.requests / PLANNED_SHARE)
    part = trace.slice(0.0, float(trace.arrival_s[most])) if trace.requests > most else trace
    gaps_s = np.diff(part.arrival_s)
    cv = round(float(gaps_s.std() / gaps_s.mean()), 2)
    return Cell("real", name, pipeline, REAL_RATE_PER_S, cv, seed, lambda: [split(rescaled(part, REAL_RATE_PER_S))])


def inputs_hash(pipeline: Pipeline, loads: Sequence[Load], *more: object) -> str:
    """Return the hash of all that a result depends on, but for the program itself."""
    traces = [trace.hash for load in loads for trace in load]
    return content_hash([pipeline.spec().to_dict(), pipeline.profile().hash, traces, [str(one) for one in more]])


def compute(
    sizes: Sizes, real: dict[str, Trace], book: Book[Result], stamp: Stamp, tell: Progress = lambda _: None
) -> list[Result]:
    """Return the results of all cells, computing those that the book does not have."""
    out: list[Result] = []
    for cell in cells(sizes, real):
        loads = cell.loads()
        for system in SYSTEMS:
            # Only the exact planner stops at a budget.
            budget = sizes.budget(system)
            more = (budget,) if SYSTEMS[system][0] == "exact" else ()
            wanted = cell.result(system, inputs_hash(cell.pipeline, loads, *more))
            found = book.find(wanted)
            if found is None and (found := _borrowed(wanted, book.results)) is not None:
                book.add([found])
            if found is None:
                tell(f"{cell.experiment}: {system} plans {cell.pipeline.name}, {cell.workload} {cell.rate_per_s:g}/s "
                     f"CV {cell.cv:g}, seed {cell.seed}")  # fmt: skip
                found = stamp.on(_judged(wanted, cell, loads, budget))
                book.add([found])
            out.append(found)
    return out


def _borrowed(wanted: Result, known: Sequence[Result]) -> Result | None:
    """The same problem of another experiment, under this one's name."""
    for other in known:
        if (other.system, other.seed, other.inputs) == (wanted.system, wanted.seed, wanted.inputs):
            return dataclasses.replace(other, experiment=wanted.experiment)
    return None


def _judged(wanted: Result, cell: Cell, loads: Sequence[Load], budget: int) -> Result:
    plan = planned(cell.pipeline, loads[0].planned, wanted.system, cell.seed, budget)
    if plan is None:
        return wanted
    drawn, mean = (
        float(np.mean([simulate(plan, load.live, seed=cell.seed + at, mode=mode).miss_rate
                       for at, load in enumerate(loads)]))
        for mode in ("sampled", "mean")
    )  # fmt: skip
    return dataclasses.replace(
        wanted, cost_usd=plan.cost_usd_per_hour, miss_rate=drawn, mean_miss_rate=mean, gap_ratio=plan.gap_ratio
    )


def planned(pipeline: Pipeline, trace: Trace, system: str, seed: int, budget: int) -> Plan | None:
    """Return what a system would deploy for a trace, or None when it finds nothing."""
    planner, mode = SYSTEMS[system]
    try:
        return make(
            pipeline.spec(), pipeline.profile(), trace,
            planner=planner, feasibility=mode, seed=seed, budget=budget, explained=False,
        )  # fmt: skip
    except Infeasible:
        return None
