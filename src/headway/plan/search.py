"""Search algorithms that know no domain. They report progress, stop on a budget, and always say why they stopped."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Node(Generic[State]):
    """A partial answer: no completion of it costs less than `bound`; deeper ones are looked at first among equals."""

    bound: float
    depth: int
    state: State


@dataclass(frozen=True, slots=True)
class Expansion(Generic[State]):
    """What looking at a node gave: further nodes, and whether the node itself is a complete answer of cost `bound`."""

    nodes: Iterable[Node[State]] = ()
    complete: bool = False


@dataclass(frozen=True)
class SearchResult(Generic[State]):
    """Complete answers of least cost in the order found, the proven lower bound, and why the search ended."""

    best_cost: float
    best: tuple[State, ...]
    lower_bound: float
    stop: str
    expanded: int


@dataclass
class Limits:
    """When to give up: `spent()` counts work against `budget`; after the optimum, `ties` more answers of equal cost."""

    spent: Callable[[], int]
    budget: int
    ties: int = 0
    tie_budget: int = 0
    progress: Callable[[str], None] = field(default=lambda _: None)


def best_first(
    roots: Iterable[Node[State]], expand: Callable[[Node[State]], Expansion[State]], upper_bound: float, limits: Limits
) -> SearchResult[State]:
    """Return the cheapest complete answers below or at `upper_bound`, looking at nodes in order of their bound.

    The first complete answer is optimal, since every other node's bound is at least its cost. The lower bound that a
    stopped search returns is the least bound still open. `stop` is "optimal", "budget" or "exhausted" (nothing found).

    >>> expand = lambda node: Expansion(complete=True)
    >>> best_first([Node(2.0, 0, "b"), Node(1.0, 0, "a")], expand, 9.0, Limits(lambda: 0, 10)).best
    ('a',)
    """
    serial = itertools.count()
    heap: list[tuple[float, int, int, Node[State]]] = []

    def push(nodes: Iterable[Node[State]]) -> None:
        for node in nodes:
            if node.bound <= upper_bound + _SLACK * max(1.0, abs(upper_bound)):
                heapq.heappush(heap, (_round(node.bound), -node.depth, next(serial), node))

    push(roots)
    found: list[State] = []
    best_cost = float("inf")
    expanded = 0
    tie_start = 0
    while heap:
        bound, _, _, node = heap[0]
        if found and (bound > _round(best_cost) or len(found) > limits.ties):
            return SearchResult(best_cost, tuple(found), best_cost, "optimal", expanded)
        if found and limits.spent() - tie_start >= limits.tie_budget:
            return SearchResult(best_cost, tuple(found), best_cost, "optimal", expanded)
        if not found and limits.spent() >= limits.budget:
            return SearchResult(best_cost, (), bound, "budget", expanded)
        heapq.heappop(heap)
        expanded += 1
        expansion = expand(node)
        if expansion.complete:
            if not found:
                best_cost, tie_start = node.bound, limits.spent()
            found.append(node.state)
        push(expansion.nodes)
        if expanded % 256 == 0:
            limits.progress(
                f"{expanded} partial plans looked at, {limits.spent()} simulated; no plan below ${bound:.4f}/h"
            )
    if found:
        return SearchResult(best_cost, tuple(found), best_cost, "optimal", expanded)
    return SearchResult(best_cost, (), upper_bound, "exhausted", expanded)


_SLACK = 1e-9


def _round(cost: float) -> float:
    """Costs are sums of prices in varying order; those that differ by rounding alone are one."""
    return round(cost, 9)
