"""Whether a prototype's tables are met: each of its figures is one run, so it has to lie where one more of ours would.

Held against two sets of runs. Over requests of our own, a figure has the spread of one run: the interval in which one
more seed falls with 95 %; but one seed draws the requests of many cells, which are met or missed together. Over the
prototype's own requests, drawn as it draws them, only the balancers' chance is left, which cells do not share; and
where a balancer draws nothing the figures are to be equal to the last digit printed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from headway.bench.fleets import rack_reference as reference
from headway.bench.fleets.rack_cases import SYSTEMS, US, WORKS, Work, carried, p99_us
from headway.fleet.rack_run import RackSetup
from headway.policy.routing import ROUND_ROBIN
from headway.sim.estimate import Estimate
from headway.sim.station import Floats, Ints

EXPECTED = 0.95
"""The share of cells that lie within their intervals when nothing but chance is between two programs."""


class Replayed(Work):
    """The requests that the prototype drew, whatever the seed: it then decides the balancer's draws alone."""

    __slots__ = ()

    def requests(self, rate_per_s: float, count: int, seed: int) -> tuple[Floats, Floats, Ints]:
        """Return arrivals, service times and types of the prototype's only seed."""
        rng = np.random.default_rng(reference.SEED)
        if self.exponential:
            service_us = rng.exponential(self.times_us[0], count)
        else:
            service_us = np.where(rng.random(count) < self.shares[0], *self.times_us)
        return np.cumsum(rng.exponential(1 / rate_per_s, count)), service_us * US, np.zeros(count, np.int32)


@dataclass(frozen=True, slots=True)
class Cell:
    """A printed figure: the P99 in microseconds at a load, or (`load` 0) the share of capacity carried at a target."""

    workload: str
    workers: tuple[int, ...]
    system: str
    load: float
    quantum_s: float
    printed: float

    @property
    def name(self) -> str:
        """What a row of a benchmark calls it."""
        kind = "equal" if len(set(self.workers)) == 1 else "unequal"
        what = f"p99/{self.workload}/{self.system}/{self.load:g}"
        return what if self.load else f"carried/{kind}/{self.workload}/{self.system}"

    @property
    def unit(self) -> str:
        """The unit of its figure."""
        return "us" if self.load else "of capacity"

    @property
    def rounding(self) -> float:
        """How far the figure may be from its printed digits."""
        return 0.5 if self.load else 0.0005

    @property
    def setup(self) -> RackSetup:
        """The rack that it is of."""
        return replace(SYSTEMS[self.system].setup(self.workers, WORKS[self.workload]), quantum_s=self.quantum_s)

    @property
    def sure(self) -> bool:
        """Whether nothing is drawn but the requests: its balancer goes by turns, or is a queue for all workers."""
        system = SYSTEMS[self.system]
        return system.pooled or system.router.code == ROUND_ROBIN

    def met(self, values: Sequence[float]) -> bool:
        """Return whether the printed figure lies where one more of these runs would."""
        return within(values, self.printed, self.rounding)

    def measure(self, replayed: bool, count: int, seed: int) -> float:
        """Return our figure of one seed: over requests of our own, or (`replayed`) over the prototype's."""
        work = WORKS[self.workload]
        if replayed:
            work = Replayed(**{field.name: getattr(work, field.name) for field in fields(Work)})
        if self.load:
            return p99_us(self.setup, work, self.load, count, seed)
        return carried(self.setup, work, work.target_us, count, seed)


def cells() -> Iterator[Cell]:
    """Yield all figures that the prototype printed."""
    for system, groups in reference.P99_US.items():
        for (workload, quantum_s), figures in zip(reference.COLUMNS, groups, strict=True):
            for load, known in zip(reference.LOADS, figures, strict=True):
                if known is not None:
                    yield Cell(workload, reference.EQUAL, system, load, quantum_s, known)
    for workers, carry in ((reference.EQUAL, reference.CARRIED_EQUAL), (reference.UNEQUAL, reference.CARRIED_UNEQUAL)):
        for system, loads in carry.items():
            for (workload, _), known in zip(reference.COLUMNS, loads, strict=True):
                yield Cell(workload, workers, system, 0.0, WORKS[workload].quantum_s, known)


def one_more(values: Sequence[float]) -> Estimate:
    """Return the mean of some runs with the 95 % interval in which one more run falls: t s sqrt(1 + 1/n) about it.

    >>> some = one_more([1.0, 2.0, 3.0])
    >>> round(some.low, 3), round(some.high, 3)
    (-2.969, 6.969)
    """
    one = Estimate.of(values)
    # The interval of a mean is sqrt(n + 1) times as narrow as that of one more value.
    reach = (one.high - one.mean) * math.sqrt(one.seeds + 1)
    return replace(one, low=one.mean - reach, high=one.mean + reach)


def within(values: Sequence[float], one: float, rounding: float) -> bool:
    """Return whether a figure lies where one more run would, its digits beyond the printed ones being unknown.

    >>> within([90.0, 110.0, 100.0], 140.0, 0.5), within([90.0, 110.0, 100.0], 160.0, 0.5)
    (True, False)
    """
    interval = one_more(values)
    return interval.low - rounding <= one <= interval.high + rounding


def chance_of_as_few(met: int, of: int, share: float = EXPECTED) -> float:
    """Return the binomial chance that at most so many of some are met when each is with a chance of `share`.

    >>> round(chance_of_as_few(1, 2, 0.5), 9)
    0.75
    """
    return math.fsum(math.comb(of, k) * share**k * (1 - share) ** (of - k) for k in range(met + 1))


def left_out(found: Mapping[Cell, Sequence[float]]) -> list[float]:
    """Return, for each seed, the share of cells in which it lies where the other seeds say: what a printed one has to.

    One seed draws the requests of all cells of a workload, so that many cells are met or missed together.
    """
    shares = []
    for at in range(min(len(values) for values in found.values())):
        met = [
            within([*values[:at], *values[at + 1 :]], values[at], cell.rounding) for cell, values in found.items()
        ]  # fmt: skip
        shares.append(math.fsum(met) / len(met))
    return shares


def equal(found: Mapping[Cell, Sequence[float]]) -> list[bool]:
    """Return, for each of the sure cells, whether all runs over the prototype's requests give the printed digits."""
    return [
        all(abs(value - cell.printed) <= cell.rounding for value in values)
        for cell, values in found.items()
        if cell.sure
    ]
