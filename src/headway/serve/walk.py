"""How a request walks the graph: which items follow from a result, when a joining stage runs, what the answer holds.

Knows nothing of queues, workers or time. The meaning of probability, fan-out, joins and gathering is that of the spec.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from headway.errors import ServeError
from headway.serve.station import NEVER_S, Work
from headway.serve.wire import Input, Payload, Result
from headway.spec.graph import REQUEST, Graph, GraphEdge

MAX_ITEMS_PER_REQUEST = 10_000

Key = tuple[int, ...]


class _Join:
    """One run of a joining stage that may still come: what has reached it, and how much above it is unfinished."""

    __slots__ = ("pending", "reached")

    def __init__(self) -> None:
        self.pending = 0
        self.reached: dict[str, list[tuple[Key, Payload]]] = {}


class Item(Work):
    """One item of a request at one stage. `up` is the item of the stage's scope (None: the request itself)."""

    __slots__ = ("joins", "key", "request", "stage", "up")

    def __init__(self, request: Request, stage: str, payload: Input, key: Key, up: Item | None) -> None:
        super().__init__(payload, request.deadline_s)
        self.request = request
        self.stage = stage
        self.key = key
        self.up = up
        self.joins: dict[str, _Join] | None = None

    @property
    def over(self) -> bool:
        return self.request.over


class Ended(msgspec.Struct, frozen=True):
    """A last item of a request: the stage where it ended and what that stage made of it."""

    stage: str
    key: Key
    item: Item
    result: Result


class Request:
    """One request on its way. `open` counts its unfinished items; `over` is set once it has been answered."""

    __slots__ = ("arrival_s", "deadline_s", "ended", "items", "joins", "number", "on_end", "open", "over")

    def __init__(
        self, number: int, on_end: Callable[[Any], None], arrival_s: float = 0.0, deadline_s: float = NEVER_S
    ) -> None:
        self.number = number
        self.on_end = on_end
        self.arrival_s = arrival_s
        self.deadline_s = deadline_s
        self.open = 0
        self.items = 0
        self.over = False
        self.joins: dict[str, _Join] | None = None
        self.ended: list[Ended] = []


class Walk:
    """The walk of requests over one graph; `submit` is given every item that is to be worked on.

    >>> from headway.spec.graph import Graph
    >>> from headway.spec.model import Edge
    >>> submitted = []
    >>> walk = Walk(Graph.build({"a": {}, "b": {"a": Edge()}}), submitted.append)
    >>> request = Request(0, lambda answer: None)
    >>> walk.enter(request, Payload("text", b"hello"))
    >>> walk.follow(submitted[0], Result(value=Payload("text", b"HELLO")))
    >>> (submitted[1].stage, submitted[1].payload.data, request.open)
    ('b', b'HELLO', 1)
    """

    def __init__(self, graph: Graph, submit: Callable[[Item], None], seed: int = 0) -> None:
        self.graph = graph
        self._submit = submit
        self._seed = seed
        self._place = {name: index for index, name in enumerate(graph.order)}
        # Joins by the stage that they look up to, and by each stage whose items they wait for, in topological order.
        self._opens: dict[str, tuple[str, ...]] = {
            name: tuple(j for j in graph.order if j in graph.joins and graph.scope[j] == name)
            for name in (REQUEST, *graph.order)
        }
        self._waited: dict[str, tuple[str, ...]] = {
            name: tuple(j for j in graph.order if j in graph.joins and name in graph.region[j]) for name in graph.order
        }

    def enter(self, request: Request, payload: Input) -> None:
        """Start a request: one item at every source."""
        if self._opens[REQUEST]:
            request.joins = {join: _Join() for join in self._opens[REQUEST]}
        for index, stage in enumerate(self.graph.sources):
            self._spawn(request, stage, payload, (index,), None)

    def follow(self, item: Item, result: Result) -> None:
        """Take an item's result (a value or branches): start what follows from it, and end what ends with it.

        Raises ServeError when the branches name a stage that does not follow, or lead to too many items.
        """
        request, stage = item.request, item.stage
        children = self.graph.children[stage]
        opens = self._opens[stage]
        if opens:
            item.joins = {join: _Join() for join in opens}
        took = False
        if result.branches is not None:
            took = self._branch(item, children, result.branches)
        elif result.value is not None and children:
            took = self._draw(item, children, result.value)
        if not took and result.value is not None:
            request.ended.append(Ended(stage, item.key, item, result))
        # Joins below this item first, in topological order: outer joins must see what inner ones start.
        for join in opens:
            if self._join(join, item, request).pending == 0:
                self._fire(join, item, request)
        for join in self._waited[stage]:
            self._one_less(join, self._scope_item(item, self.graph.scope[join]), request)
        request.open -= 1

    def _branch(self, item: Item, children: tuple[GraphEdge, ...], branches: Mapping[str, list[Payload]]) -> bool:
        valid = [edge.child for edge in children]
        for name in branches:
            if name not in valid:
                raise ServeError(
                    f"stage {item.stage!r} returned a branch to {name!r}, which does not follow it; "
                    f"valid: {', '.join(valid) or 'none, it is a last stage'}"
                )
        for index, child in enumerate(valid):
            for number, payload in enumerate(branches.get(child, ())):
                self._pass_on(item, child, payload, (index, number))
        # A result that chose its branches has gone where it chose; when it chose none, it holds nothing to answer.
        return True

    def _draw(self, item: Item, children: tuple[GraphEdge, ...], value: Payload) -> bool:
        took = False
        for index, edge in enumerate(children):
            count = self._count(item, index, edge)
            took = took or count > 0
            for number in range(count):
                self._pass_on(item, edge.child, value, (index, number))
        return took

    def _count(self, item: Item, index: int, edge: GraphEdge) -> int:
        """How many children the item has along an edge; the draw depends on seed, request, item and edge alone."""
        whole = int(edge.fan_out)
        if edge.probability >= 1.0 and whole == edge.fan_out:
            return whole
        text = f"{self._seed}/{item.request.number}/{item.key}/{index}"
        raw = hashlib.blake2b(text.encode(), digest_size=16).digest()
        taken = int.from_bytes(raw[:8], "little") / 2.0**64 < edge.probability
        more = int.from_bytes(raw[8:], "little") / 2.0**64 < edge.fan_out - whole
        return whole + more if taken else 0

    def _pass_on(self, item: Item, child: str, payload: Payload, place: Key) -> None:
        key = (*item.key, *place)
        if child not in self.graph.joins:
            self._spawn(item.request, child, payload, key, item)
            return
        join = self._join(child, self._scope_item(item, self.graph.scope[child]), item.request)
        join.reached.setdefault(item.stage, []).append((key, payload))

    def _spawn(self, request: Request, stage: str, payload: Input, key: Key, up: Item | None) -> None:
        request.items += 1
        if request.items > MAX_ITEMS_PER_REQUEST:
            raise ServeError(f"stage {stage!r}: the request grew beyond {MAX_ITEMS_PER_REQUEST} items")
        item = Item(request, stage, payload, key, up)
        request.open += 1
        for join in self._waited[stage]:
            self._join(join, self._scope_item(item, self.graph.scope[join]), request).pending += 1
        self._submit(item)

    def _one_less(self, name: str, scope: Item | None, request: Request) -> None:
        join = self._join(name, scope, request)
        join.pending -= 1
        if join.pending == 0:
            self._fire(name, scope, request)

    def _fire(self, name: str, scope: Item | None, request: Request) -> None:
        join = self._join(name, scope, request)
        if not join.reached:
            return
        payload = {
            edge.parent: [part for _, part in sorted(join.reached[edge.parent], key=lambda pair: pair[0])]
            for edge in self.graph.parents[name]
            if edge.parent in join.reached
        }
        join.reached = {}
        key = (*(scope.key if scope is not None else ()), len(self.graph.order) + self._place[name], 0)
        self._spawn(request, name, payload, key, scope)

    def _join(self, name: str, scope: Item | None, request: Request) -> _Join:
        joins = request.joins if scope is None else scope.joins
        assert joins is not None
        return joins[name]

    def _scope_item(self, item: Item, scope: str) -> Item | None:
        at: Item | None = item
        while at is not None and at.stage != scope:
            at = at.up
        return at


def answer(request: Request, graph: Graph) -> list[Ended]:
    """Return what ended, in the order of the stages and then of the items: the same whatever finished first.

    >>> answer(Request(0, lambda answer: None), Graph.build({"a": {}}))
    []
    """
    if len(request.ended) < 2:
        return list(request.ended)
    place: dict[str, Any] = {name: index for index, name in enumerate(graph.order)}
    return sorted(request.ended, key=lambda ended: (place[ended.stage], ended.key))
