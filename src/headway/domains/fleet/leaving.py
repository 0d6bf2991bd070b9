"""What both kinds of stations share: of which class items are, and what leaves a station and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headway.domains.fleet.declare import FleetStage
from headway.errors import TraceError
from headway.fleet.llm_slo import SloClass
from headway.sim.station import Arrivals, Departures, Flags, Floats, Ints

CLASS = "class"
"""The column of a trace that says of which class each request is, by its number in the order of declaration."""


def slo_classes(stage: FleetStage) -> tuple[SloClass, ...]:
    """Return the declared classes; what is not promised takes as long as it likes."""

    def least(value_s: float | None) -> float:
        return np.inf if value_s is None else value_s

    return tuple(
        SloClass(name, least(promise.ttft_s), least(promise.tpot_s), least(promise.e2e_s))
        for name, promise in stage.classes.items()
    )


def kinds(values: Floats | None, count: int, classes: int, where: str) -> Ints:
    """Return the class of each of `count` requests from a trace's column; the first where there is no such column.

    Raises TraceError for a number that no class has.

    >>> kinds(None, 2, 3, "answer").tolist()
    [0, 0]
    """
    if values is None or not classes:
        return np.zeros(count, np.int32)
    if values.size and not (np.all(values == np.floor(values)) and values.min() >= 0 and values.max() < classes):
        raise TraceError(
            f"stages.{where}: the trace's column {CLASS!r} goes from {values.min():g} to {values.max():g}; whole "
            f"numbers from 0 to {classes - 1} name the declared classes"
        )
    return values.astype(np.int32)


def per_arrival(arrivals: Arrivals, column: str) -> Floats | None:
    """Return a column of the trace for each arrival; None where the trace has none of this name."""
    values = arrivals.attributes.get(column)
    return None if values is None else values[arrivals.request[arrivals.item]]


def departures(
    arrivals: Arrivals,
    start_s: Floats,
    done_s: Floats,
    kept: Flags,
    *,
    busy_s: float,
    figures: Mapping[str, float],
    told: Mapping[str, Any] | None = None,
    record: bool,
) -> Departures:
    """Return what leaves: what is done, in order of time; the rest was dropped or refused.

    `start_s`, `done_s` are infinite for what was never served; `kept` says whose promises were kept, or is empty where
    there are none. What starts after its deadline is dropped: servers know of no deadlines, and work on it all the
    same.
    """
    done = np.isfinite(done_s)
    late = start_s > arrivals.deadline_s if arrivals.deadline_s.size else np.zeros(done.size, np.bool_)
    leaving = np.flatnonzero(done & ~late)
    leaving = leaving[np.argsort(done_s[leaving], kind="stable")]
    taken_up_s = np.empty(0)
    if record:
        taken_up_s = np.where(np.isfinite(start_s), start_s, arrivals.arrival_s)
        if arrivals.deadline_s.size:
            taken_up_s = np.minimum(taken_up_s, np.maximum(arrivals.deadline_s, arrivals.arrival_s))
    return Departures(
        done_s[leaving],
        arrivals.item[leaving],
        taken_up_s,
        arrivals.item[late],
        np.empty(0, np.int32),
        int(leaving.size),
        busy_s,
        refused=arrivals.item[~done & ~late],
        broken=~kept[leaving] if kept.size else np.empty(0, np.bool_),
        figures=figures,
        told=told or {},
    )
