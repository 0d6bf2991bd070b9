"""The least work that any run of consecutive batches can take, whatever their sizes: what capacity bounds rest on."""

from __future__ import annotations

import numpy as np

from headway.sim.draws import draw
from headway.sim.jit import kernel
from headway.sim.station import Floats


@kernel
def least_run(value: Floats, key: int, bits: int, batches: int) -> float:
    """Return the least sum of `value[draw]` over any run of consecutive batches (0 for the empty run)."""
    least = 0.0
    running = 0.0
    for batch in range(batches):
        running = min(0.0, running + value[draw(key, batch, bits)])
        least = min(least, running)
    return least


Gains = list[tuple[float, Floats]]
"""Pairs `(work_s, gain_s[q])`: the least that a batch drawn at quantile q takes beyond `work_s` an item."""


def credits(gains: Gains, key: int, bits: int, batches: int) -> list[tuple[float, float]]:
    """Return pairs `(work_s, credit_s)`: consecutive batches that hold m items take at least that much.

    However they are sized, they take `m * work_s - credit_s` seconds or more in all.
    """
    return [(work_s, -float(least_run(gain_s, key, bits, batches))) for work_s, gain_s in gains]


def work_gains(service_s: Floats) -> Gains:
    """Return what `credits` needs of a latency table.

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
