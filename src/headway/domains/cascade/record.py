"""What a cascade did in a run, in one form for simulator, server, outcomes and reports: its gears, and who answered."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Gear = tuple[bool, int]
"""Whether a gear is one of those for a lost device, and its number: 0 is the dearest."""
CHANGES_TOLD = 1000
"""So many changes of gear are told one by one, the first ones of a run; all are counted."""


@dataclass(frozen=True)
class CascadeRecord:
    """Counts over a run: seconds in each gear, changes of gear, and by model the items it answered and handed on.

    `skipped`: items so hard that they began beyond the first step. `credit`: what the answers are worth together, each
    from 0 to 1; None where nobody knows. Times are in seconds.

    >>> record = CascadeRecord({(False, 0): 3.0}, 0, {"small": 8, "large": 2}, {"small": 2}, 0, credit=9.0)
    >>> record.answered, record.accuracy
    (10, 0.9)
    """

    held_s: Mapping[Gear, float]
    switches: int
    exits: Mapping[str, int]
    escalations: Mapping[str, int]
    skipped: int
    credit: float | None

    @property
    def answered(self) -> int:
        """Items that a model answered."""
        return sum(self.exits.values())

    @property
    def accuracy(self) -> float | None:
        """The mean worth of an answer; None where nobody knows, or nothing was answered."""
        return self.credit / self.answered if self.credit is not None and self.answered else None

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON values, as `/stats` and outcomes hold it."""
        return {
            "gears": [{"gear": at, "less_one": less, "held_s": held_s} for (less, at), held_s in self.held_s.items()],
            "switches": self.switches,
            "exits": dict(self.exits),
            "escalations": dict(self.escalations),
            "skipped": self.skipped,
            "credit": self.credit,
            "accuracy": self.accuracy,
        }

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> CascadeRecord:
        """Return the record that JSON values hold, as `to_dict` wrote them."""
        held_s = {(bool(each["less_one"]), int(each["gear"])): float(each["held_s"]) for each in told["gears"]}
        return cls(held_s, *(told[name] for name in ("switches", "exits", "escalations", "skipped", "credit")))

    def since(self, before: CascadeRecord) -> CascadeRecord:
        """Return what came after an earlier record of the same station."""
        return CascadeRecord(
            {gear: held_s - before.held_s.get(gear, 0.0) for gear, held_s in self.held_s.items()},
            self.switches - before.switches,
            _less(self.exits, before.exits),
            _less(self.escalations, before.escalations),
            self.skipped - before.skipped,
            None if self.credit is None or before.credit is None else self.credit - before.credit,
        )


def told(record: CascadeRecord, history: Iterable[tuple[float, bool, int]]) -> dict[str, Any]:
    """Return what an outcome tells of a cascade beside what it tells of every stage, as JSON values.

    `history`: from when on which gear was in force, as (seconds of the run, less one, gear), from the first on.
    """
    rows = [
        {"from_s": round(from_s, 6), "gear": gear, "less_one": less}
        for from_s, less, gear in itertools.islice(history, 1 + CHANGES_TOLD)
    ]
    return {"cascade": record.to_dict(), "gear_history": rows}


def told_between(
    before: Mapping[str, Any], after: Mapping[str, Any], zero_s: float
) -> tuple[dict[str, Any], float | None]:
    """Return what a served cascade did between two `/stats` of its stage, and how accurate its answers were.

    The second is with samples; `zero_s` is when the run's clock began, by the server's.
    """
    first, last = before["cascade"], after["cascade"]
    record = CascadeRecord.of(last).since(CascadeRecord.of(first))
    # The server keeps changes from before the run as well.
    kept: Sequence[Sequence[Any]] = after["gear_changes"]
    changes = [(at_s - zero_s, less, gear) for at_s, less, gear in kept[max(0, len(kept) - record.switches) :]]
    return told(record, [(0.0, first["less_one"], first["gear"]), *changes]), record.accuracy


def _less(now: Mapping[str, int], then: Mapping[str, int]) -> dict[str, int]:
    return {name: count - then.get(name, 0) for name, count in now.items()}
