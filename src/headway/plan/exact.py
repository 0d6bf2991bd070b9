"""The exact planner: best-first search over stage configurations with the simulator as oracle and per-stage bounds.

A beginning of a plan (the first stages in topological order) is simulated by itself: what comes later cannot change it.
It is dropped only when even the quickest remainder would leave too many requests late; nothing rests on monotonicity
across stages, which does not hold. Costs of stages still open are bounded by the cheapest configuration whose capacity
can carry the demand at all. So the first complete plan found is optimal over the space, and a stopped search knows how
far from optimal the best one can be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headway.plan.accuracy import combinations
from headway.plan.config import Config
from headway.plan.contract import BoundsCapacity, WeighsRequests
from headway.plan.demand import StageDemand
from headway.plan.oracle import Oracle
from headway.plan.search import Expansion, Limits, Node, SearchResult, best_first
from headway.sim.outcome import percentile
from headway.sim.worklaw import SURE, WorkBound

BUDGET = 200_000
TIES = 32
TIE_BUDGET = 300
SAME_ACCURACY = 0.001
"""Simulated accuracies that differ by a tenth of a point are alike."""
MOST_CAPACITY = 1 << 20
"""More servers than any plan has."""


@dataclass(frozen=True, slots=True)
class Partial:
    """A beginning of a plan: the choice of variants, the configurations so far, and which option comes next."""

    choice: int
    stages: tuple[Config, ...]
    option: int


@dataclass(frozen=True)
class Options:
    """A choice of variants, and for each stage in topological order its configurations by cost, with costs."""

    variants: Mapping[str, str]
    configs: tuple[tuple[Config, ...], ...]
    costs: tuple[tuple[float, ...], ...]
    rest: tuple[float, ...]
    """`rest[i]`: least cost of stages i and later."""


@dataclass(frozen=True)
class Found:
    """The exact planner's answer."""

    stages: Mapping[str, Config] | None
    cost_usd_per_hour: float
    lower_bound_usd_per_hour: float
    stop: str
    expanded: int
    ties: int


def variant_choices(oracle: Oracle) -> list[dict[str, str]]:
    """Return the choices of variants that can meet the accuracy floor, of all stages that have variants."""
    spec = oracle.spec
    choices = []
    for choice in combinations(spec):
        accuracy = oracle.best_accuracy(choice)
        if spec.slo.accuracy is None or (accuracy is not None and accuracy >= spec.slo.accuracy - 1e-12):
            choices.append(choice)
    return choices


def search(
    oracle: Oracle,
    incumbent: Mapping[str, Config] | None,
    cap_usd_per_hour: float,
    *,
    budget: int = BUDGET,
    ties: int = TIES,
    progress: Callable[[str], None] = lambda _: None,
) -> Found:
    """Return the cheapest feasible plan that costs at most `cap_usd_per_hour`, or the incumbent when it is optimal.

    The search stops early after `budget` simulated candidates and then returns the incumbent with the bound proven.
    Among plans of least cost the `preferred` one wins.
    """
    order = oracle.spec.graph.order
    choices = [_options(oracle, choice, cap_usd_per_hour) for choice in variant_choices(oracle)]
    prefixes = not any(hardware.pool for hardware in oracle.spec.supply.values())
    start = oracle.judged

    def first(choice: int, stages: tuple[Config, ...], cost: float) -> Iterator[Node[Partial]]:
        depth = len(stages)
        options = choices[choice]
        if options.configs[depth]:
            bound = cost + options.costs[depth][0] + options.rest[depth + 1]
            yield Node(bound, depth, Partial(choice, stages, 0))

    def expand(node: Node[Partial]) -> Expansion[Partial]:
        at, options, depth = node.state, choices[node.state.choice], node.depth
        costs = options.costs[depth]
        paid = node.bound - costs[at.option] - options.rest[depth + 1]
        more: list[Node[Partial]] = []
        if at.option + 1 < len(costs):
            bound = paid + costs[at.option + 1] + options.rest[depth + 1]
            more.append(Node(bound, depth, Partial(at.choice, at.stages, at.option + 1)))
        stages = (*at.stages, options.configs[depth][at.option])
        named = dict(zip(order, stages, strict=False))
        if not oracle.supplied(named):
            return Expansion(more)
        if depth + 1 == len(order):
            return Expansion(more, complete=oracle.feasible(named))
        if not prefixes or oracle.may_be_feasible(named, options.variants):
            more.extend(first(at.choice, stages, paid + costs[at.option]))
        return Expansion(more)

    roots = [node for choice in range(len(choices)) for node in first(choice, (), 0.0)]
    limits = Limits(lambda: oracle.judged - start, budget, ties, TIE_BUDGET, progress)
    result: SearchResult[Partial] = best_first(roots, expand, cap_usd_per_hour, limits)
    if not result.best:
        bound = min(result.lower_bound, cap_usd_per_hour)
        cost = oracle.total_cost(incumbent) if incumbent is not None else float("inf")
        stop = "optimal" if result.stop == "exhausted" and incumbent is not None else result.stop
        return Found(incumbent, cost, min(bound, cost), stop, result.expanded, 0)
    plans = []
    for state in result.best:
        configs = (*state.stages, choices[state.choice].configs[len(order) - 1][state.option])
        plans.append(dict(zip(order, configs, strict=True)))
    best = preferred(oracle, plans) if len(plans) > 1 else plans[0]
    cost = oracle.total_cost(best)
    return Found(best, cost, cost, result.stop, result.expanded, len(plans))


def preferred(oracle: Oracle, plans: Sequence[Mapping[str, Config]]) -> Mapping[str, Config]:
    """Return which of several feasible plans of equal cost is taken: the most accurate, where stages simulate their
    answers, and among those within `SAME_ACCURACY` of it, or among all, the one with the fewest misses across traces.

    That a plan is feasible says already that it keeps the promise on nearly all traces: more than that is not worth
    answers that are wrong.
    """
    if oracle.simulations.telling:
        accuracies = [oracle.accuracy(stages) or 0.0 for stages in plans]
        least = max(accuracies) - SAME_ACCURACY
        plans = [stages for stages, accuracy in zip(plans, accuracies, strict=True) if accuracy >= least]
    return min(plans, key=lambda stages: robustness(oracle, stages))


def robustness(oracle: Oracle, stages: Mapping[str, Config]) -> tuple[float, float, float]:
    """Return what plans of equal cost and accuracy are compared by, less is better: the 97th percentile of the miss
    rate over traces, its mean, and the mean over traces of the promised percentile's latency."""
    rates = np.array(oracle.miss_rates(stages))
    latencies = [
        percentile(oracle.simulations.finish_s(k, stages) - oracle.traces[k].arrival_s, oracle.spec.slo.percentile)
        for k in range(len(oracle.traces))
    ]
    return percentile(rates, 97), float(rates.mean()), float(np.mean(latencies))


def _options(oracle: Oracle, choice: Mapping[str, str], cap: float) -> Options:
    configs: list[tuple[Config, ...]] = []
    costs: list[tuple[float, ...]] = []
    for name in oracle.spec.graph.order:
        domain, context = oracle.domains[name], oracle.contexts[name]
        mine = [c for c in domain.configs(context, cap) if getattr(c, "variant", None) in (None, choice.get(name))]
        mine = carrying(oracle, name, mine, choice)
        priced = sorted(((oracle.cost_usd_per_hour(name, c), at) for at, c in enumerate(mine)), key=lambda pair: pair)
        configs.append(tuple(mine[at] for _, at in priced))
        costs.append(tuple(cost for cost, _ in priced))
    rest = [0.0]
    for own in reversed(costs):
        rest.append(rest[-1] + (own[0] if own else float("inf")))
    return Options(dict(choice), tuple(configs), tuple(costs), tuple(reversed(rest)))


def carrying(oracle: Oracle, name: str, configs: Sequence[Config], variants: Mapping[str, str]) -> list[Config]:
    """Return the configurations of a stage whose capacity can carry its demand, whatever the other stages do.

    Domains that cannot bound what their capacity carries keep all their configurations.
    """
    domain = oracle.domains[name]
    if not isinstance(domain, BoundsCapacity | WeighsRequests):
        return list(configs)
    needed: dict[object, int] = {}
    kept = []
    for config in configs:
        law = domain.work_law(config)
        if law not in needed:
            needed[law] = needed_capacity(oracle, name, config, law, variants)
        if domain.capacity(config) >= needed[law]:
            kept.append(config)
    return kept


def needed_capacity(oracle: Oracle, name: str, config: Config, law: object, variants: Mapping[str, str]) -> int:
    """Return the capacity without which too many traces have too many late requests for sure."""
    largest = [1] * (oracle.may_fail + 1)
    for k in range(len(oracle.traces)):
        bounds = _bounds(oracle, k, name, config, law, variants)
        least = MOST_CAPACITY if bounds is None else _least_capacity(bounds, oracle.most_misses[k], largest[0])
        largest = sorted([*largest, least])[1:]
    return largest[0]


def _bounds(
    oracle: Oracle, k: int, name: str, config: Config, law: object, variants: Mapping[str, str]
) -> list[tuple[StageDemand, WorkBound]] | None:
    """What trace k asks of a stage, with the least that this takes; None where no capacity makes enough requests keep
    their promises."""
    demand, domain = oracle.demand(k, name, variants), oracle.domains[name]
    if not isinstance(domain, WeighsRequests):
        known = oracle.simulations.work_bounds(k, name, config, law, int(demand.items.sum()))
        return [(demand, bound) for bound in known]
    trace = oracle.traces[k]
    times = domain.least_times(oracle.contexts[name], config, trace, sampled=oracle.sampled)
    if demand.late_alone(times) > oracle.most_misses[k]:
        return None
    return [(demand.weighed(work_s), SURE) for work_s in times.work_s]


def _least_capacity(bounds: Sequence[tuple[StageDemand, WorkBound]], most_misses: int, least: int) -> int:
    """Return the least number of servers, from `least` on, that leaves at most so many requests late for sure."""
    for demand, bound in bounds:
        if demand.least_late(bound, least) <= most_misses:
            continue
        low, high = least, 2 * least
        while demand.least_late(bound, high) > most_misses:
            low, high = high, 2 * high
            if high > MOST_CAPACITY:
                return high
        while high - low > 1:
            middle = (low + high) // 2
            if demand.least_late(bound, middle) > most_misses:
                low = middle
            else:
                high = middle
        least = high
    return least
