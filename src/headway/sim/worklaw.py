"""The least work that any run of consecutive batches can take, whatever their sizes: what capacity bounds rest on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headway.sim.draws import draw
from headway.sim.jit import kernel
from headway.sim.station import Flags, Floats


@kernel
def least_runs(value: Floats, key: int, bits: int, batches: int) -> tuple[float, float]:
    """Return the least sum of `value[draw]` over any run of consecutive batches, and over any set of batches at all."""
    least = 0.0
    running = 0.0
    negative = 0.0
    for batch in range(batches):
        gain = value[draw(key, batch, bits)]
        running = min(0.0, running + gain)
        least = min(least, running)
        negative += min(0.0, gain)
    return least, negative


Gains = list[tuple[float, Floats]]
"""Pairs `(work_s, gain_s[q])`: the least that a batch drawn at quantile q takes beyond `work_s` an item."""


@dataclass(frozen=True, slots=True)
class WorkBound:
    """Consecutive batches that hold m items take at least `m * work_s - credit_s(servers)` seconds in all.

    That holds however they are sized, and though one batch per further server is left out: of the batches that start
    while others run, these may end too late to count, and with them unlucky draws that would have counted.
    """

    work_s: float
    run_s: float
    spare_s: float
    most_s: float

    def credit_s(self, servers: float) -> float:
        """How much less than `work_s` an item the batches may take in all, by luck."""
        return min(self.run_s + (servers - 1) * self.spare_s, self.most_s)


def work_bounds(gains: Gains, key: int, bits: int, batches: int) -> list[WorkBound]:
    """Return what the first batches of a stream of draws take at least."""
    bounds = []
    for work_s, gain_s in gains:
        run_s, negative_s = least_runs(gain_s, key, bits, batches)
        bounds.append(WorkBound(work_s, -float(run_s), max(0.0, float(gain_s.max())), -float(negative_s)))
    return bounds


def work_gains(service_s: Floats) -> Gains:
    """Return what `work_bounds` needs of a latency table.

    `service_s[b, q]` is a latency table. With drawn service times an adversary may fill the lucky batches and leave the
    unlucky ones nearly empty; per item it then pays on average no less than the `work_s` at which filling and emptying
    break even, up to the luck of a run.
    """
    sizes = np.arange(service_s.shape[0])
    surely_s = float((service_s[1:] / sizes[1:, None]).min())
    if service_s.shape[1] == 1:
        return [(surely_s, np.zeros(1))]
    started_s = service_s.copy()
    started_s[0] = service_s[1]

    def gain(work_s: float) -> Floats:
        return np.asarray((started_s - work_s * sizes[:, None]).min(axis=0))

    low, high = surely_s, float((service_s[1:].mean(axis=1) / sizes[1:]).min())
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if gain(middle).mean() > 0 else (low, middle)
    bounds = [(surely_s, np.maximum(gain(surely_s), 0.0))]
    for share in (0.9, 0.95, 0.98, 0.995):
        work_s = max(surely_s, share * low)
        bounds.append((work_s, gain(work_s)))
    return bounds


@dataclass(frozen=True, slots=True)
class LeastTimes:
    """What each request of a trace takes at a stage at least, by what the trace says of it.

    `alone_s`: its time with no other request there. `broken`: whether it breaks a promise of its own even so. `work_s`:
    the seconds of capacity that it takes, counted in one way or more, each of which bounds what all requests take.
    """

    alone_s: Floats
    broken: Flags
    work_s: tuple[Floats, ...]


SURE = WorkBound(1.0, 0.0, 0.0, 0.0)
"""The bound of work that is told in seconds and does not depend on luck."""
