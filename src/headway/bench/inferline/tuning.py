"""Which part of the gain is the planner's and which the tuner's: plans and tuners combined, on traffic that moves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from headway.bench.book import Book, Stamp
from headway.bench.inferline.grid import Progress, Sizes, inputs_hash, planned
from headway.bench.inferline.pipelines import PIPELINES, Pipeline
from headway.bench.inferline.rows import Result
from headway.bench.inferline.workloads import SHAPES, Load, rates_per_s, shape
from headway.plan import Plan
from headway.policy.tuners import tuner
from headway.tune.simulated import simulate_tuner
from headway.tune.terms import terms

DS2_PAUSE_S = 2.0
"""How long a DS2 that has to stop the job stops it; the published numbers depend on the engine."""
PLAN_BUDGETS = (("robust", 40), ("trace", 300))
"""Simulated candidates of the exact planner here: a sample is seven times as long as in the grid of planners."""


class Scheme(NamedTuple):
    """A planner of `grid.SYSTEMS`, a tuner of `headway.policy.tuners`, and the tuner's parameters."""

    plan: str
    tuner: str
    parameters: Mapping[str, Any] = {}


PLANNERS = ("cg-mean", "cg-peak", "inferline", "headway")
"""The planners of the grid, by their name in `grid.SYSTEMS`."""
TUNERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "none": ("none", {}),
    "threshold": ("threshold", {}),
    "ds2": ("ds2", {}),
    "ds2-pause": ("ds2", {"pause_s": DS2_PAUSE_S}),
    "autoscale": ("autoscale", {}),
    "inferline": ("inferline", {}),
    "headway": ("headway", {}),
}
"""The tuners of the grid: a name of `headway.policy.tuners` with its parameters."""


def scheme_name(plan: str, tuned: str) -> str:
    """Return what a combination is called; one called after a system alone is wholly that system.

    >>> scheme_name("inferline", "inferline"), scheme_name("inferline", "none"), scheme_name("cg-peak", "ds2")
    ('inferline', 'inferline-plan', 'cg-peak+ds2')
    """
    if plan == tuned:
        return plan
    # CG is a planner alone, InferLine and Headway are both.
    of_plan = f"{plan}-plan" if plan in TUNERS else plan
    return of_plan if tuned == "none" else f"{of_plan}+{tuned}"


SCHEMES: Mapping[str, Scheme] = {
    scheme_name(plan, tuned): Scheme(plan, *kind) for plan in PLANNERS for tuned, kind in TUNERS.items()
}
"""Every planner with every tuner, by the name of the combination."""


class Run(NamedTuple):
    """One shape of traffic on one pipeline."""

    workload: str
    pipeline: Pipeline
    seed: int

    def result(self, scheme: str, rate_per_s: float, inputs: str) -> Result:
        """Return a row of this run whose figures are yet to come."""
        p = self.pipeline
        return Result(
            "tuning", self.workload, p.name, rate_per_s, 1.0, p.slo_ms, p.gpu_usd_per_hour,
            p.item_share, scheme, self.seed, None, None, None, None, inputs,
        )  # fmt: skip


def runs(sizes: Sizes) -> Iterator[Run]:
    """Yield all runs, those of the first seed first: the paper's Social Media on all shapes."""
    for seed in sizes.few_seeds:
        for name in SHAPES if sizes.minutes is None else ("azure",):
            yield Run(name, PIPELINES["social"], seed)


def compute(sizes: Sizes, book: Book[Result], stamp: Stamp, tell: Progress = lambda _: None) -> list[Result]:
    """Return the results of all runs, computing those that the book does not have."""
    budgets = dict(PLAN_BUDGETS if sizes.minutes is None else sizes.budgets)
    out: list[Result] = []
    for run in runs(sizes):
        load = shape(run.workload, run.seed, sizes.minutes, sizes.most_per_s)
        rates = rates_per_s(SHAPES[run.workload], sizes.most_per_s)
        mean_rate = round(math.fsum(rates) / len(rates), 1)
        plans: dict[str, Plan | None] = {}
        for name, scheme in SCHEMES.items():
            wanted = run.result(name, mean_rate, inputs_hash(run.pipeline, [load], scheme, budgets))
            found = book.find(wanted)
            if found is None:
                tell(f"tuning: {name} on {run.pipeline.name}, {run.workload}, seed {run.seed}")
                if scheme.plan not in plans:
                    budget = budgets["robust" if scheme.plan == "headway" else "trace"]
                    plans[scheme.plan] = planned(run.pipeline, load.planned, scheme.plan, run.seed, budget)
                found = stamp.on(_played(wanted, plans[scheme.plan], scheme, load))
                book.add([found])
            out.append(found)
    return out


def _played(wanted: Result, plan: Plan | None, scheme: Scheme, load: Load) -> Result:
    """The result of a run: every replica is paid for from when it is asked for, the first ones' start-up included."""
    if plan is None:
        return wanted
    about = terms(plan, load.planned)
    chosen = tuner(scheme.tuner, about, **scheme.parameters)
    outcome = simulate_tuner(plan, load.live, chosen, about, seed=wanted.seed).outcome
    cost_usd = outcome.cost_usd + outcome.startup_cost_usd
    return dataclasses.replace(wanted, cost_usd=cost_usd, miss_rate=outcome.miss_rate, gap_ratio=plan.gap_ratio)
