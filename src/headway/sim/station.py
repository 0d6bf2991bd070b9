"""What the simulator needs of whatever does a stage's work: it takes timed items and gives them back later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headway.trace.prompts import Prompts

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Items that reach a station, in order of time.

    `arrival_s` is sorted; `item` is each one's number within the stage (dense, from 0); `request` maps items to
    requests; `deadline_s` (per arrival, or empty) is when it is given up; `attributes` are the trace's columns,
    `prompts` the blocks of which its prompts consist, where it says so, and `trace` is its name, for errors.
    """

    arrival_s: Floats
    item: Ints
    request: Ints
    deadline_s: Floats = field(default_factory=lambda: np.empty(0))
    attributes: Mapping[str, Floats] = field(default_factory=dict)
    prompts: Prompts | None = None
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Departures:
    """What a station gives back: items in the order in which they leave, and figures for the outcome.

    `done_s` and `item` are in order of departure (ties in order of service). `start_s` is per arrival, in the order of
    `Arrivals` (when its service began or it was dropped), or empty when the caller did not ask to record. `dropped`
    lists items given up, `unserved` items that no capacity was left for, `refused` items that met a full queue.
    `credit`: how right each departing item is answered, from 0 to 1, or empty where that is not simulated.
    `broken`: which departing items broke a promise of their own, such as one to their first token: their requests miss,
    however soon they end; empty where there are no such promises. `figures`: more to tell of the stage, by names with
    units, and `told`: likewise, as JSON values by the fields of the outcome's stage; both where the caller asked to
    record.
    """

    done_s: Floats
    item: Ints
    start_s: Floats
    dropped: Ints
    unserved: Ints
    batches: int
    busy_s: float
    refused: Ints = field(default_factory=lambda: np.empty(0, np.int32))
    credit: Floats = field(default_factory=lambda: np.empty(0))
    broken: Flags = field(default_factory=lambda: np.empty(0, np.bool_))
    figures: Mapping[str, float] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lost(self) -> tuple[Ints, Ints, Ints]:
        """Items that never leave, by reason: dropped, unserved, refused."""
        return self.dropped, self.unserved, self.refused

    @property
    def accuracy(self) -> float | None:
        """Mean credit of the answers given; None where that is not simulated, or nothing was answered."""
        return float(self.credit.mean()) if self.credit.size else None


class Station(Protocol):
    """A configured stage on the simulator's side."""

    def run(self, arrivals: Arrivals, *, seed: int, record: bool) -> Departures:
        """Serve all arrivals and return the departures. Same arrivals and seed, same result, to the last bit.

        Law: every item leaves exactly once (or is dropped), never before it arrived.
        """
        ...

    @property
    def capacity(self) -> int:
        """Number of replicas, or of whatever is held and paid for; utilization is busy time over this capacity.

        0 when nothing limits how many items are served at once: utilization is then 0.
        """
        ...

    def fastest_s(self) -> float:
        """Return a lower bound on any item's time in the station, whatever the load."""
        ...
