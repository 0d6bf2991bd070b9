"""A better incumbent when a search ends at its budget: exchanges between two stages, which greedy descent never tries.

InferLine's planner takes one action on one stage at a time, and stays where none of them helps. Often a little more of
a cheap stage pays for much less of a dear one: that is tried here. It proves nothing; the bound is the search's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby

from headway.plan.config import Config
from headway.plan.exact import carrying
from headway.plan.oracle import Oracle

CHEAPER_LEVELS = 3
DEARER_LEVELS = 2
"""How many costs of a stage below and above the present one are tried."""
BUDGET = 2_000
"""Most simulated candidates that improving may take beyond those of the search."""

Stages = Mapping[str, Config]
Level = tuple[float, tuple[Config, ...]]


def improve(oracle: Oracle, stages: Stages, budget: int = BUDGET) -> Stages:
    """Return a feasible plan that costs no more than the given feasible one, as far as `budget` simulations go.

    One stage becomes cheaper while at most one other changes, at equal cost or dearer by less than what is saved.

    >>> from headway.testing.examples import tiny_profile, tiny_spec
    >>> from headway.trace import Trace
    >>> from headway.plan.make import greedy_start, variant_choices
    >>> oracle = Oracle(tiny_spec(), tiny_profile(), Trace.poisson(rate=20, seconds=60, seed=1), feasibility="trace")
    >>> start = greedy_start(oracle, variant_choices(oracle))
    >>> oracle.total_cost(improve(oracle, start)) <= oracle.total_cost(start)
    True
    """
    cost, begun = oracle.total_cost(stages), oracle.judged
    variants = {name: str(config.variant) for name, config in stages.items() if hasattr(config, "variant")}
    levels = {name: _levels(oracle, name, variants, cost) for name in oracle.spec.graph.order}
    while True:
        better = next(
            (changed for changed in _exchanges(oracle, stages, levels, lambda: oracle.judged - begun >= budget)
             if oracle.feasible(changed)),
            None,
        )  # fmt: skip
        if better is None:
            return stages
        stages = better


def _levels(oracle: Oracle, name: str, variants: Mapping[str, str], cap: float) -> list[Level]:
    """A stage's configurations that may carry its demand, by cost; those of one cost are one level."""
    every = oracle.domains[name].configs(oracle.contexts[name], cap)
    mine = [config for config in every if getattr(config, "variant", None) in (None, variants.get(name))]
    mine = carrying(oracle, name, mine, variants)
    costs = [round(oracle.cost_usd_per_hour(name, config), 9) for config in mine]
    priced = sorted(zip(costs, range(len(mine)), mine, strict=True), key=lambda one: one[:2])
    return [(cost, tuple(c for _, _, c in some)) for cost, some in groupby(priced, key=lambda one: one[0])]


def _exchanges(
    oracle: Oracle, stages: Stages, levels: Mapping[str, Sequence[Level]], spent: Callable[[], bool]
) -> Iterator[dict[str, Config]]:
    """Yield the cheaper neighbors of a plan, the dearest stage's first, the least change first."""
    now = {name: round(oracle.cost_usd_per_hour(name, config), 9) for name, config in stages.items()}
    for name in sorted(now, key=lambda n: -now[n]):
        below = [level for level in levels[name] if level[0] < now[name] - 1e-9][-CHEAPER_LEVELS:]
        for cost, configs in reversed(below):
            saved = now[name] - cost
            for config in configs:
                yield {**stages, name: config}
            for other in now:
                if other != name:
                    for relief in _dearer(levels[other], now[other], saved):
                        for config in configs:
                            if spent():
                                return
                            yield {**stages, name: config, other: relief}


def _dearer(levels: Sequence[Level], cost: float, saved: float) -> Iterator[Config]:
    """Configurations at the present cost and at a few above it, as long as less is added than was saved."""
    above = [level for level in levels if cost - 1e-9 <= level[0] < cost + saved - 1e-9]
    for _, configs in above[: DEARER_LEVELS + 1]:
        yield from configs
