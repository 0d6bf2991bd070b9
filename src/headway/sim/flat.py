"""A workload as the event kernel wants it: the items of all stages numbered in one row, edges and joins as offsets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headway.sim.draws import batch_key
from headway.sim.event_state import Wiring
from headway.sim.station import Ints
from headway.sim.workload import Workload

Longs = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Flat:
    """What the event kernel needs of a workload, whatever is configured.

    `pending` counts for each joining item the items it waits for, `ends` is the request of each item that nothing
    follows (else -1), `waiting_joins` how many joining items there are.
    """

    wiring: Wiring
    pending: Ints
    ends: Ints
    waiting_joins: int


def flatten(work: Workload) -> Flat:
    """Return a workload's flat form, made once per workload."""
    if "flat" not in work.kept:
        work.kept["flat"] = _flatten(work)
    flat = work.kept["flat"]
    assert isinstance(flat, Flat)
    return flat


def _flatten(work: Workload) -> Flat:
    stages, graph = work.graph.order, work.graph
    place = {name: at for at, name in enumerate(stages)}
    items = [work.items[name] for name in stages]
    base = np.concatenate(([0], np.cumsum([stage.count for stage in items]))).astype(np.int64)
    edge_ptr, edge_child, edge_off, child_first = [0], [], [], [np.empty(0, np.int32)]
    join_ptr, join_stage, join_off, join_target = [0], [], [], [np.empty(0, np.int32)]
    pending = np.zeros(int(base[-1]), np.int32)
    edges_at = joins_at = 0
    for stage in items:
        for child, first in stage.first_child.items():
            edge_child.append(place[child])
            edge_off.append(edges_at)
            child_first.append(first)
            edges_at += first.size
        for join, target in stage.joins.items():
            join_stage.append(place[join])
            join_off.append(joins_at)
            join_target.append(target)
            joins_at += target.size
            np.add.at(pending, base[place[join]] + target[target >= 0], 1)
        edge_ptr.append(len(edge_child))
        join_ptr.append(len(join_stage))
    deadline_s = np.empty(0)
    if work.drop_after_s is not None:
        deadline_s = work.trace.arrival_s + work.drop_after_s
    longs = np.int64
    wiring = Wiring(
        deadline_s=deadline_s,
        request=np.concatenate([stage.request for stage in items]),
        base=base,
        is_source=np.array([not graph.parents[name] for name in stages]),
        edge_ptr=np.array(edge_ptr, longs),
        edge_child=np.array(edge_child, longs),
        edge_off=np.array(edge_off, longs),
        child_first=np.concatenate(child_first),
        join_ptr=np.array(join_ptr, longs),
        join_stage=np.array(join_stage, longs),
        join_off=np.array(join_off, longs),
        join_target=np.concatenate(join_target),
        key=np.array([batch_key(work.seed, name) for name in stages], longs),
    )
    return Flat(
        wiring=wiring,
        pending=pending,
        ends=np.concatenate([stage.ends for stage in items]),
        waiting_joins=sum(work.items[name].count for name in stages if name in graph.joins),
    )
