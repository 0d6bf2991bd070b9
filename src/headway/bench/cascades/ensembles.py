"""Ensembles with autoscaling in the manner of Cocktail (Gunasekaran et al., NSDI 2022), as CascadeServe compares with
it.

Several models answer every request at once and vote, each vote weighted by how certain the model is. Each model has
devices of its own, as many in every interval as the load of that interval asks for: the forecast is the truth, and
devices are started an interval ahead, so that none is late; while they warm up they are held. Kinder than the
original, which has to forecast; its choice of fewer members for easy stretches is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headway.cascade import ValidationTable
from headway.domains.cascade.family import Family
from headway.domains.cascade.halves import Rows, chosen_on, judged_on
from headway.domains.cascade.planner import SLICES
from headway.sim.jit import kernel
from headway.sim.outcome import percentile
from headway.sim.station import Floats
from headway.trace import Trace

INTERVAL_S = 1.0
"""How often the number of devices changes."""
UTILIZATIONS = (1.2, 1.0, 0.85, 0.7, 0.55, 0.4, 0.3, 0.2)
"""Shares of the devices that the load of an interval may take."""
NEAR = 0.01
"""What is so little below the floor on the samples that choose may reach it on others."""
CHEAPEST = 4
"""Of the ensembles that are right often enough so many are tried."""


@dataclass(frozen=True, slots=True)
class Held:
    """An ensemble and what it holds: devices at most and on average, accuracy and 95th percentile."""

    members: tuple[str, ...]
    devices: int
    mean_devices: float
    accuracy: float
    latency_s: float


def vote(table: ValidationTable, members: tuple[str, ...]) -> Floats:
    """Return for each sample whether the members' vote is right, each weighted by its certainty.

    >>> said = {"a": [0, 1], "b": [1, 1], "c": [1, 0]}
    >>> table = ValidationTable([1, 1], said, {"a": [0.9, 0.5], "b": [0.5, 0.2], "c": [0.5, 0.6]})
    >>> vote(table, ("a", "b", "c")).tolist()
    [1.0, 1.0]
    """
    assert table.labels is not None
    assert table.predicted is not None
    classes = np.unique(np.concatenate([table.predicted[name] for name in members]))
    weight = np.zeros((table.samples, classes.size))
    for name in members:
        weight[np.arange(table.samples), np.searchsorted(classes, table.predicted[name])] += table.certainty[name]
    return np.asarray(classes[weight.argmax(axis=1)] == table.labels, np.float64)


def cocktail(
    family: Family, trace: Trace, latency_s: float, accuracy: float, samples: Rows | None = None
) -> Held | None:
    """Return the ensemble that keeps both promises with the fewest devices; None when none does.

    Its accuracy is that on `samples`, those that chose no ensemble unless given.
    """
    best: Held | None = None
    for members in _accurate(family, accuracy):
        right = vote(family.table, members)
        judged = float(right[judged_on(family.table) if samples is None else samples].mean())
        if float(right[judged_on(family.table)].mean()) < accuracy:
            continue
        for share, utilization in itertools.product(SLICES, UTILIZATIONS):
            sizes = family.batch_sizes(share * latency_s)
            needed = _needed(family, trace, members, sizes, utilization)
            held = np.maximum(needed, np.concatenate([needed[:, 1:], needed[:, -1:]], axis=1)).sum(axis=0)
            if best is not None and held.max() >= best.devices:
                break
            took_s = _latency_s(family, trace, members, sizes, needed)
            if took_s <= latency_s:
                best = Held(members, int(held.max()), float(held.mean()), judged, took_s)
                break
    return best


def _accurate(family: Family, accuracy: float) -> Iterator[tuple[str, ...]]:
    """The cheapest ensembles that are right often enough on the samples that choose."""
    sizes = family.batch_sizes(1.0)
    cost_s, chosen = family.cost_s(sizes), chosen_on(family.table)
    every = [some for count in range(1, len(sizes) + 1) for some in itertools.combinations(sizes, count)]
    every.sort(key=lambda some: sum(cost_s[name] for name in some))
    able = (some for some in every if float(vote(family.table, some)[chosen].mean()) >= accuracy - NEAR)
    return itertools.islice(able, CHEAPEST)


def _needed(
    family: Family, trace: Trace, members: tuple[str, ...], sizes: Mapping[str, int], utilization: float
) -> NDArray[np.int64]:
    """Devices that serve each member in each interval."""
    intervals = int(trace.duration_s / INTERVAL_S) + 1
    came = np.bincount((trace.arrival_s / INTERVAL_S).astype(np.int64), minlength=intervals)
    cost_s = family.cost_s(sizes)
    busy = np.array([came / INTERVAL_S * cost_s[name] / utilization for name in members])
    needed: NDArray[np.int64] = np.maximum(np.ceil(busy), 1.0).astype(np.int64)
    return needed


def _latency_s(
    family: Family, trace: Trace, members: tuple[str, ...], sizes: Mapping[str, int], needed: NDArray[np.int64]
) -> float:
    done_s = np.zeros(trace.requests)
    for at, name in enumerate(members):
        table = np.ascontiguousarray(family.service[name].table(sizes[name], sampled=False)[:, 0])
        done_s = np.maximum(done_s, _serve(trace.arrival_s, needed[at], INTERVAL_S, table))
    return percentile(done_s - trace.arrival_s, 95)


@kernel
def _serve(arrival_s: Floats, serving: NDArray[np.int64], interval_s: float, service_s: Floats) -> Floats:
    """First come, first served, in batches of what waits; in interval k the first `serving[k]` devices work."""
    n, intervals, most = arrival_s.size, serving.size, service_s.size - 1
    free_s = np.zeros(serving.max())
    done_s = np.empty(n)
    head = 0
    while head < n:
        begin_s, device = np.inf, -1
        for d in range(free_s.size):
            at_s = max(free_s[d], arrival_s[head])
            k = min(int(at_s / interval_s), intervals - 1)
            while k < intervals - 1 and serving[k] <= d:
                k += 1
                at_s = k * interval_s
            if serving[k] > d and at_s < begin_s:
                begin_s, device = at_s, d
        size = 0
        while head + size < n and size < most and arrival_s[head + size] <= begin_s:
            size += 1
        free_s[device] = begin_s + service_s[size]
        done_s[head : head + size] = free_s[device]
        head += size
    return done_s
