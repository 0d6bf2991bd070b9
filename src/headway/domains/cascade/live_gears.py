"""Which gear serves: chosen from the arrivals of each window as the simulator does, and from the devices that live."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Sequence

from headway.domains.cascade.gears import GearPlan
from headway.domains.cascade.rows import GearRow, gear_row
from headway.policy.cascading import next_gear

log = logging.getLogger(__name__)

SWITCHES_KEPT = 1 << 14


class GearBox:
    """The gear in force. Time comes from the caller, in any steps: windows that have ended are made up for.

    The first window begins with the first arrival, in the cheapest gear. While a device is lost the plan's
    `gears_less_one` are in force, if it has any. `switches` holds the last changes as (time, lost, gear). Models have
    the numbers of their places in `numbered`, without it among the plan's.

    >>> from headway.cascade import Cascade, Step
    >>> from headway.domains.cascade.gears import Gear, Group
    >>> gears = tuple(Gear(Cascade((Step(name),)), rate, (1,)) for name, rate in (("dear", 10.0), ("cheap", 99.0)))
    >>> box = GearBox(GearPlan("cpu", (Group(("cheap", "dear"), 1),), (("cheap", 1), ("dear", 1)), gears))
    >>> box.arrived(0.0), box.gear, box.advance(0.1, backlog=0), box.gear
    (None, 1, None, 0)
    """

    def __init__(self, plan: GearPlan, where: str = "", numbered: Sequence[str] = ()) -> None:
        self._where = where
        self._numbered = tuple(numbered)
        self.lost = False
        self._since_s = math.inf
        self._window = 0
        self._came = 0.0
        self._rate_per_s = 0.0
        self._from_s = math.inf
        self.held_s: dict[tuple[bool, int], float] = {}
        self.switched = 0
        self.switches: deque[tuple[float, bool, int]] = deque(maxlen=SWITCHES_KEPT)
        self._take(plan)
        self.gear = len(self._rows) - 1
        self.row: GearRow = self._rows[-1]

    @property
    def edge_s(self) -> float:
        """When the window ends that is under way; infinite before the first arrival."""
        return self._since_s + (self._window + 1) * self._window_s

    @property
    def carried_per_s(self) -> float:
        """The rate up to which the gears in force are made to serve."""
        return self._upper_per_s[-1]

    def arrived(self, now_s: float, items: float = 1.0) -> None:
        """Count an arrival, `advance` having been called for the same time; `items` is how many came with it."""
        if self._since_s == math.inf:
            self._since_s = self._from_s = now_s
        self._came += items

    def advance(self, now_s: float, backlog: int) -> None:
        """Choose a gear for every window that has ended by now; `backlog` items have waited since the last event."""
        while self.edge_s <= now_s:
            edge_s, before, came = self.edge_s, self.gear, self._came
            self._rate_per_s = came / self._window_s
            self._shift(self._next(self.gear, backlog), edge_s)
            self._window += 1
            self._came = 0.0
            if came == 0 and backlog == 0 and before == self.gear:
                # The windows until now are as empty as this one.
                self._window = max(self._window, int((now_s - self._since_s) / self._window_s) - 1)

    def lose(self, lost: bool, now_s: float, backlog: int) -> None:
        """Take note whether a device is lost: another set of gears then comes into force, from its cheapest gear on."""
        self.advance(now_s, backlog)
        if lost == self.lost:
            return
        if self._has_less:
            self._account(now_s)
            log.warning("stage %s: %s", self._where, "a device is lost" if lost else "all devices work again")
        self.lost = lost
        if self._has_less:
            self._use(self._tables[lost])
            self._shift(self._next(len(self._rows) - 1, backlog), now_s, always=True)

    def change(self, plan: GearPlan, lost: bool, now_s: float, backlog: int) -> None:
        """Go on with another plan's gears: with the one for the rate that was measured last, from the cheapest on."""
        self.advance(now_s, backlog)
        self._account(now_s)
        self.lost = lost
        self._take(plan)
        if self._since_s < math.inf:
            self._since_s, self._window, self._came = now_s, 0, 0.0
        cheapest = len(self._rows) - 1
        self._shift(cheapest if self._since_s == math.inf else self._next(cheapest, backlog), now_s, always=True)

    def held_until(self, now_s: float) -> dict[tuple[bool, int], float]:
        """Return the seconds in each gear so far, by whether a device was lost."""
        self._account(now_s)
        return dict(self.held_s)

    @property
    def key(self) -> tuple[bool, int]:
        """The gear in force, with whether it is one of those for a lost device."""
        return self.lost and self._has_less, self.gear

    def _take(self, plan: GearPlan) -> None:
        """Have a plan's gears; seconds go on to be counted by the number of a gear, whichever plan it was of."""
        self._window_s, self._alpha_per_s = plan.window_s, plan.alpha_per_s
        whole = tuple(gear_row(gear, plan.models, self._numbered) for gear in plan.gears)
        less = tuple(gear_row(gear, plan.models, self._numbered) for gear in plan.gears_less_one)
        self._tables = {False: whole, True: less or whole}
        self._has_less = bool(less)
        self._use(self._tables[self.lost])
        for lost in (False, True) if less else (False,):
            for at in range(len(self._tables[lost])):
                self.held_s.setdefault((lost, at), 0.0)

    def _use(self, rows: tuple[GearRow, ...]) -> None:
        self._rows = rows
        self._upper_per_s = tuple(row.up_to_per_s for row in rows)

    def _next(self, gear: int, backlog: int) -> int:
        return next_gear(gear, self._rate_per_s, backlog, self._upper_per_s, self._alpha_per_s)

    def _shift(self, to: int, at_s: float, always: bool = False) -> None:
        if to == self.gear and not always:
            return
        if not always:
            self._account(at_s)
        self.gear, self.row = to, self._rows[to]
        self.switched += 1
        self.switches.append((at_s, *self.key))

    def _account(self, now_s: float) -> None:
        if self._from_s < now_s:
            self.held_s[self.key] += now_s - self._from_s
            self._from_s = now_s
