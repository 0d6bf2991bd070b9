"""Which items exist: every request's way through the graph, drawn or recorded, independent of any configuration.

Because the ways are fixed before anything is simulated, all candidate plans see the same ones (common random numbers).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headway.errors import TraceError, nearest
from headway.profile import RecordedVisits
from headway.sim.station import Ints
from headway.spec.graph import REQUEST, Graph
from headway.trace import Trace
from headway.trace.payload import payload_index

MAX_ITEMS = 200_000_000


@dataclass(frozen=True, slots=True)
class StageItems:
    """The items of one stage, numbered by request and then by origin.

    `request[i]` is item i's request; `up[i]` the item of the stage's scope that it belongs to. `first_child[c]` maps
    item i to its children in stage c, items `first_child[c][i]` to `first_child[c][i + 1]`; `joins[j][i]` is the item
    of joining stage j that waits for item i, or -1. `ends[i]` is the request when nothing follows item i, else -1.
    """

    request: Ints
    up: Ints
    first_child: dict[str, Ints] = field(default_factory=dict)
    joins: dict[str, Ints] = field(default_factory=dict)
    ends: Ints = field(default_factory=lambda: np.empty(0, np.int32))

    @property
    def count(self) -> int:
        """Number of items."""
        return int(self.request.size)


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the random generator that belongs to `name` under `seed`, whatever else has been drawn.

    >>> bool(stream(1, "a>b").random() == stream(1, "a>b").random())
    True
    """
    key = np.array([seed & 0xFFFFFFFFFFFFFFFF, zlib.crc32(name.encode())], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def build_items(graph: Graph, trace: Trace, seed: int, recorded: RecordedVisits | None = None) -> dict[str, StageItems]:
    """Return every stage's items for a trace.

    Edges are drawn with `seed`, item by item, as declared. Visits in trace columns `visits.STAGE`, else `recorded`
    ones, replace what is declared for those stages; a stage that no recorded sample reached keeps its declared edges.
    Raises TraceError when the visits contradict the graph or the items would not fit in memory.
    """
    n = trace.requests
    given = _given_counts(graph, trace, seed, recorded)
    requests = np.arange(n, dtype=np.int32)
    items: dict[str, StageItems] = {}
    for name in graph.order:
        edges = graph.parents[name]
        if not edges:
            if name in given and np.any(given[name] != 1):
                raise TraceError(f"recorded visits: stage {name!r} has no parent, every request enters it exactly once")
            items[name] = StageItems(requests, requests)
        elif name in graph.joins:
            items[name] = _join(graph, name, items, requests, given.get(name), seed)
        else:
            edge = edges[0]
            above = items[edge.parent]
            if name in given:
                counts = _spread(given[name], above.request, n, name)
            else:
                counts = _draw(stream(seed, f"{edge.parent}>{name}"), above.count, edge.probability, edge.fan_out)
            total = int(counts.sum())
            if total > MAX_ITEMS:
                raise TraceError(
                    f"stage {name!r} would see {total} items; simulate a shorter trace (at most {MAX_ITEMS})"
                )
            above.first_child[name] = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
            items[name] = StageItems(
                np.repeat(above.request, counts), np.repeat(np.arange(above.count, dtype=np.int32), counts)
            )
    return {name: _with_ends(items[name]) for name in graph.order}


def _given_counts(
    graph: Graph, trace: Trace, seed: int, recorded: RecordedVisits | None
) -> dict[str, NDArray[np.int64]]:
    given: dict[str, NDArray[np.int64]] = {}
    if recorded is not None and recorded.samples:
        index = payload_index(trace, recorded.samples, seed)
        known = {stage: counts for stage, counts in recorded.counts.items() if stage not in recorded.unvisited}
        given = {stage: np.array(counts, np.int64)[index] for stage, counts in known.items()}
    for column, values in trace.columns.items():
        if column.startswith("visits."):
            stage = column.removeprefix("visits.")
            if stage not in graph.order:
                meant = nearest(stage, graph.order)
                raise TraceError(f"trace: column {column} names no stage{meant}; stages: {', '.join(graph.order)}")
            if np.any(values < 0) or np.any(values != np.floor(values)):
                raise TraceError(f"trace: column {column} must hold whole numbers of items, at least 0")
            given[stage] = values.astype(np.int64)
    return given


def _draw(rng: np.random.Generator, items: int, probability: float, fan_out: float) -> NDArray[np.int64]:
    taken = rng.random(items) < probability if probability < 1.0 else np.ones(items, bool)
    whole = int(fan_out)
    counts = np.full(items, whole, np.int64)
    if fan_out > whole:
        counts += rng.random(items) < fan_out - whole
    return np.where(taken, counts, 0)


def _spread(per_request: NDArray[np.int64], request: Ints, n: int, name: str) -> NDArray[np.int64]:
    """Spread each request's number of items evenly over its parent items, the first ones taking what is left over."""
    parents = np.bincount(request, minlength=n)
    if np.any((parents == 0) & (per_request > 0)):
        at = int(np.flatnonzero((parents == 0) & (per_request > 0))[0])
        raise TraceError(f"recorded visits: request {at} has items at stage {name!r} but none at the stage before it")
    first = np.concatenate(([0], np.cumsum(parents)))[:-1]
    ordinal = np.arange(request.size) - first[request]
    share, rest = np.divmod(per_request[request], parents[request])
    return np.asarray(share + (ordinal < rest), np.int64)


def _join(
    graph: Graph, name: str, items: Mapping[str, StageItems], requests: Ints, given: NDArray[np.int64] | None, seed: int
) -> StageItems:
    scope = graph.scope[name]
    below = requests if scope == REQUEST else items[scope].request
    runs = np.zeros(below.size, bool)
    if given is not None:
        first = np.searchsorted(below, requests)
        most = np.bincount(below, minlength=requests.size)
        if np.any(given > most):
            at = int(np.flatnonzero(given > most)[0])
            raise TraceError(
                f"recorded visits: request {at} has {given[at]} items at stage {name!r}, which joins at most {most[at]}"
            )
        runs = np.arange(below.size) - first[below] < given[below]
    for edge in graph.parents[name]:
        above = items[edge.parent]
        if given is None:
            taken = _draw(stream(seed, f"{edge.parent}>{name}"), above.count, edge.probability, 1.0) > 0
            runs[_origin(graph, items, edge.parent, scope)[taken]] = True
    number = np.where(runs, np.cumsum(runs) - 1, -1).astype(np.int32)
    for region in graph.region[name]:
        items[region].joins[name] = number[_origin(graph, items, region, scope)]
    if scope != REQUEST and scope not in graph.region[name]:
        # The scope item itself has ended when the join starts; it counts as gone on, so that it is not an end.
        items[scope].joins.setdefault(name, number)
    return StageItems(below[runs], np.flatnonzero(runs).astype(np.int32))


def _origin(graph: Graph, items: Mapping[str, StageItems], name: str, scope: str) -> Ints:
    """Map each item of `name` to the item of `scope` it descends from."""
    if scope == REQUEST:
        return items[name].request
    origin = np.arange(items[name].count, dtype=np.int32)
    while name != scope:
        origin = items[name].up[origin]
        name = graph.scope[name]
    return origin


def _with_ends(stage: StageItems) -> StageItems:
    follows = np.zeros(stage.count, bool)
    for first in stage.first_child.values():
        follows |= np.diff(first) > 0
    for target in stage.joins.values():
        follows |= target >= 0
    ends = np.where(follows, np.int32(-1), stage.request).astype(np.int32)
    return StageItems(stage.request, stage.up, stage.first_child, stage.joins, ends)
