"""The simulator's station."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headway.policy.admission import expired
from headway.sim.station import Arrivals, Departures


@dataclass(frozen=True)
class DelayStation:
    """Every item at once, each for the same time: what comes in order leaves in order."""

    delay_s: float

    @property
    def capacity(self) -> int:
        """Nothing limits how many items are served at once."""
        return 0

    def fastest_s(self) -> float:
        return self.delay_s

    def run(self, arrivals: Arrivals, *, seed: int, record: bool) -> Departures:
        late = np.zeros(arrivals.item.size, bool)
        for at in range(arrivals.deadline_s.size):
            late[at] = expired(arrivals.deadline_s[at], arrivals.arrival_s[at])
        served = ~late
        return Departures(
            done_s=arrivals.arrival_s[served] + self.delay_s,
            item=arrivals.item[served],
            start_s=arrivals.arrival_s if record else np.empty(0),
            dropped=arrivals.item[late],
            unserved=np.empty(0, np.int32),
            batches=int(served.sum()),
            busy_s=float(served.sum()) * self.delay_s,
        )
