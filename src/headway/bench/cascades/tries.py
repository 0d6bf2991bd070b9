"""Planners without an idea, to hold others against: plans at random, and every plan of a space that is small enough."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from headway.domains.cascade.gears import Gear, GearPlan, Group
from headway.domains.cascade.planner import GearPlanner

MOST_GEARS = 4


def random_plans(planner: GearPlanner, devices: int, rng: np.random.Generator) -> Iterator[GearPlan]:
    """Yield plans without end: cascades at random, more accurate ones for lower rates, with random rates and batches.

    Every device holds every model.
    """
    listed = planner.sizes()
    while True:
        sizes = listed[int(rng.integers(len(listed)))]
        judged = planner.judged(sizes)
        count = min(int(rng.integers(1, MOST_GEARS + 1)), len(judged))
        rows = sorted(rng.choice(len(judged), count, replace=False).tolist(), reverse=True)
        rates = np.unique(np.append(rng.random(count - 1), 1.0)) * planner.up_to_per_s
        waits = rng.random(count) < 0.5
        gears = [
            _gear(planner, sizes, row, float(rate), full=bool(wait))
            for row, rate, wait in zip(rows, rates, waits, strict=True)
        ]
        plan = planner.whole(sizes, (Group(tuple(sizes), devices),), tuple(gears), ())
        yield replace(plan, alpha_per_s=float(rng.choice([2.0, 8.0, 32.0])))


def every_plan(
    planner: GearPlanner, devices: int, sizes: Mapping[str, int], ranges: int, rows: Sequence[int]
) -> Iterator[GearPlan]:
    """Yield each way of giving load ranges of equal width one of these cascades, none a more accurate one than a range
    below it, with batches that fill or do not. Every device holds every model.

    >>> from headway.bench.cascades.family import planned, whole
    >>> planner = GearPlanner(planned(whole(100.0, 1.0)), 1.0)
    >>> len(list(every_plan(planner, 2, planner.sizes()[0], ranges=2, rows=[0, 1])))
    6
    """
    upper = planner.up_to_per_s * np.arange(1, ranges + 1) / ranges
    for chosen in itertools.combinations_with_replacement(sorted(rows, reverse=True), ranges):
        for full in (False, True):
            last = {row: float(rate) for row, rate in zip(chosen, upper, strict=True)}
            gears = tuple(_gear(planner, sizes, row, rate, full=full) for row, rate in last.items())
            yield planner.whole(sizes, (Group(tuple(sizes), devices),), gears, ())


def _gear(planner: GearPlanner, sizes: Mapping[str, int], row: int, rate_per_s: float, *, full: bool) -> Gear:
    cascade = planner.judged(sizes).cascade(row)
    queued = sizes[cascade.models[0]] if full else 1
    return Gear(
        cascade,
        rate_per_s,
        (queued, *[1] * (len(cascade) - 1)),
        0.1 * planner.latency_s if queued > 1 else 0.0,
        accuracy=float(planner.judged(sizes).accuracy[row]),
    )
