"""The shape of a pipeline: order, edges, and at which item a joining stage runs."""

from __future__ import annotations

import graphlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

REQUEST = ""
"""The name of the virtual root: one item per request, the parent of every stage that has none."""


class EdgeLike(Protocol):
    """What the graph needs to know of an edge."""

    @property
    def probability(self) -> float: ...
    @property
    def fan_out(self) -> float: ...


@dataclass(frozen=True, slots=True)
class GraphEdge:
    """Items pass from `parent` to `child` with `probability`, and become `fan_out` items each."""

    parent: str
    child: str
    probability: float
    fan_out: float


@dataclass(frozen=True, slots=True)
class Graph:
    """A pipeline's stages in an order in which every parent comes first, and the edges between them.

    A stage with several parents, or one that gathers, *joins*: it runs once per item of its `scope`, the last stage
    that every way to it passes through (the whole request for a gathering stage), once all work that was started
    below that item and above the join has finished.
    """

    order: tuple[str, ...]
    parents: Mapping[str, tuple[GraphEdge, ...]]
    children: Mapping[str, tuple[GraphEdge, ...]]
    scope: Mapping[str, str]
    joins: frozenset[str]
    region: Mapping[str, tuple[str, ...]]
    """For each join: the stages strictly between its scope and itself whose items can lead to it."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Stages that every request enters at once."""
        return tuple(name for name in self.order if not self.parents[name])

    @property
    def sinks(self) -> tuple[str, ...]:
        """Stages after which nothing follows."""
        return tuple(name for name in self.order if not self.children[name])

    @classmethod
    def build(cls, edges: Mapping[str, Mapping[str, EdgeLike]], gathering: Collection[str] = ()) -> Graph:
        """Return the graph of `{stage: {parent: edge}}`, whose stages in `gathering` run once per request.

        Raises ValueError when a parent is not a stage or the stages form a cycle.

        >>> Graph.build({"b": {"a": GraphEdge("a", "b", 1.0, 1.0)}, "a": {}}).order
        ('a', 'b')
        """
        for child, incoming in edges.items():
            for parent in incoming:
                if parent not in edges:
                    raise ValueError(f"stage {child!r} comes after {parent!r}, which is not a stage")
        order = _stable_order(edges)
        parents = {
            child: tuple(GraphEdge(parent, child, e.probability, e.fan_out) for parent, e in edges[child].items())
            for child in order
        }
        children = {
            name: tuple(edge for child in order for edge in parents[child] if edge.parent == name) for name in order
        }
        ancestors: dict[str, set[str]] = {}
        chain: dict[str, tuple[str, ...]] = {REQUEST: (REQUEST,)}
        scope: dict[str, str] = {}
        for name in order:
            above = [edge.parent for edge in parents[name]] or [REQUEST]
            ancestors[name] = set(above) - {REQUEST}
            for parent in above:
                ancestors[name] |= ancestors.get(parent, set())
            scope[name] = REQUEST if name in gathering else _last_common([chain[parent] for parent in above])
            chain[name] = (*chain[scope[name]], name)
        joins = frozenset(name for name in order if len(parents[name]) > 1 or name in gathering)
        region = {
            name: tuple(
                s for s in order if s in ancestors[name] and (scope[name] == REQUEST or scope[name] in ancestors[s])
            )
            for name in joins
        }
        return cls(order, parents, children, scope, joins, region)


def find_cycle(edges: Mapping[str, Iterable[str]]) -> tuple[str, ...] | None:
    """Return a cycle of `{stage: parents}` in the order in which items would pass, or None when there is none.

    The earliest declared stage of the cycle comes first, and again last.

    >>> find_cycle({"a": ["b"], "b": ["a"]})
    ('a', 'b', 'a')
    """
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        ring = error.args[1][1:]
        declared = list(edges)
        start = min(range(len(ring)), key=lambda index: declared.index(ring[index]))
        return (*ring[start:], *ring[:start], ring[start])
    return None


def _stable_order(edges: Mapping[str, Mapping[str, EdgeLike]]) -> tuple[str, ...]:
    """Parents first; among stages that are ready at once, the earliest declared first."""
    if cycle := find_cycle(edges):
        raise ValueError(f"the stages form a cycle: {' -> '.join(cycle)}")
    sorter = graphlib.TopologicalSorter(edges)
    sorter.prepare()
    position = {name: index for index, name in enumerate(edges)}
    order: list[str] = []
    ready = sorted(sorter.get_ready(), key=position.__getitem__)
    while ready:
        name = ready.pop(0)
        order.append(name)
        sorter.done(name)
        ready = sorted([*ready, *sorter.get_ready()], key=position.__getitem__)
    return tuple(order)


def _last_common(chains: list[tuple[str, ...]]) -> str:
    """The deepest element that all dominator chains share."""
    last = REQUEST
    for level in zip(*chains, strict=False):
        if any(element != level[0] for element in level):
            break
        last = level[0]
    return last
