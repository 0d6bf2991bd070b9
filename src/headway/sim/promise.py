"""What a plan promises, in the terms of the admission policy: the simulator and the server refuse by the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.errors import ProfileError
from headway.plan.config import Config, StageContext
from headway.policy.admission import Terms
from headway.sim.items import StageItems, build_items
from headway.spec.graph import Graph
from headway.spec.kinds import load_domain
from headway.trace import Trace

if TYPE_CHECKING:
    from headway.plan.plan import Plan

SAMPLE = 256
"""Requests whose ways are drawn to count the items per request of each stage."""


def admission_terms(plan: Plan) -> Terms | None:
    """Return what `policy.admission.in_time` must know of a plan; None when the times of a stage are not known.

    >>> from headway.testing.examples import tiny_plan
    >>> terms = admission_terms(tiny_plan())
    >>> len(terms.head_s) == len(tiny_plan().stages)
    True
    """
    graph = plan.spec.graph
    pools = list(plan.spec.pools)
    size, first, pool, threads = [], [], [], []
    service_s: list[float] = []
    for name in graph.order:
        stage = plan.spec.stages[name]
        context = StageContext(name, stage, plan.spec, plan.profile)
        try:
            known = _batches(load_domain(stage.kind), context, plan.stages[name])
        except ProfileError:
            return None
        if known is None:
            return None
        batches_s, of_pool, of_threads = known
        first.append(len(service_s))
        size.append(len(batches_s))
        service_s += batches_s
        pool.append(-1 if of_pool is None else pools.index(of_pool))
        threads.append(of_threads)
    alone_s = [service_s[at] for at in first]
    full_s = [service_s[at + largest - 1] for at, largest in zip(first, size, strict=True)]
    (head_s, tail_s), (_, full_tail_s) = _ways(graph, alone_s), _ways(graph, full_s)
    items = _sample(plan)
    per_request = list(_per_request(items).values())
    return Terms(
        head_s, tail_s, full_tail_s, service_s, first, size, per_request, _per_item(graph, items),
        pool, threads, [plan.spec.pools[name].cores for name in pools],
    )  # fmt: skip


def items_per_request(plan: Plan) -> dict[str, float]:
    """Return how many items a request brings to each stage on average, parents first.

    >>> from headway.testing.examples import tiny_plan
    >>> list(items_per_request(tiny_plan()).values())[0]
    1.0
    """
    return _per_request(_sample(plan))


def _batches(domain: Any, context: StageContext, config: Config) -> tuple[Sequence[float], str | None, int] | None:
    """Mean times of batches of 1, 2, ... items, and the pool and threads that one takes; None where not known."""
    if hasattr(domain, "setup"):
        group = domain.setup(context, config, sampled=False).groups[0]
        return group.service_s[1:].mean(axis=1).tolist(), group.pool, group.threads
    times_s = domain.batches_s(context, config) if hasattr(domain, "batches_s") else None
    return None if times_s is None else (times_s, None, 1)


def _ways(graph: Graph, service_s: list[float]) -> tuple[list[float], list[float]]:
    """The longest way to each stage, and from its end on, where nothing has to be waited for."""
    place = {name: at for at, name in enumerate(graph.order)}
    head_s, tail_s = [0.0] * len(service_s), [0.0] * len(service_s)
    for at, name in enumerate(graph.order):
        above = [place[edge.parent] for edge in graph.parents[name]]
        head_s[at] = max((head_s[a] + service_s[a] for a in above), default=0.0)
    for at, name in reversed(list(enumerate(graph.order))):
        below = [place[edge.child] for edge in graph.children[name]]
        tail_s[at] = max((service_s[b] + tail_s[b] for b in below), default=0.0)
    return head_s, tail_s


def _sample(plan: Plan) -> Mapping[str, StageItems]:
    """The items of a few requests, to count them: the same for the same plan."""
    trace = Trace.from_arrivals(np.arange(float(SAMPLE)))
    return build_items(plan.spec.graph, trace, 0, plan.profile.visits_for(plan.variants))


def _per_request(items: Mapping[str, StageItems]) -> dict[str, float]:
    return {name: each.count / SAMPLE for name, each in items.items()}


def _per_item(graph: Graph, items: Mapping[str, StageItems]) -> list[float]:
    """Items at each stage (column) per item at each stage above it (row), row by row.

    Items that meet in a join count as parts of what they become there, or a request on two ways at once would count
    twice.
    """
    place = {name: at for at, name in enumerate(graph.order)}
    out = np.zeros((len(place), len(place)))
    for name in reversed(graph.order):
        for child in {edge.child for edge in graph.children[name]}:
            passed = {parent: _passed(items, parent, child) for parent in {e.parent for e in graph.parents[child]}}
            if passed[name]:
                became = items[child].count / sum(passed.values())
                share = passed[name] / items[name].count * became
                out[place[name]] += share * out[place[child]]
                out[place[name], place[child]] += share
    return [float(value) for value in out.ravel()]


def _passed(items: Mapping[str, StageItems], parent: str, child: str) -> int:
    """How many items go along an edge, as far as it is known before the clock starts."""
    if child in items[parent].joins:
        return int(np.count_nonzero(items[parent].joins[child] >= 0))
    return int(items[parent].first_child[child][-1])
