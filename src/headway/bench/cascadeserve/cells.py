"""How many devices each system needs for an accuracy and a latency: CascadeServe's Figures 5 to 7."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter

import numpy as np

from headway.bench.cascades.ensembles import cocktail, vote
from headway.bench.cascades.family import DIGITS, bursty, planned, played, profile, tested, whole
from headway.bench.cascadeserve.rows import Result
from headway.domains.cascade.baselines import Plans, restricted
from headway.domains.cascade.choose import Judge, Judgment, fewest
from headway.domains.cascade.family import Family, read_table
from headway.domains.cascade.station import SAMPLE
from headway.files import content_hash
from headway.trace import Trace
from headway.trace.envelope import peak_rate_per_s

FLOORS = (0.90, 0.92, 0.94, 0.95, 0.96)
LATENCIES_S = (0.25, 0.5, 1.0, 2.0, 4.0)
TOLERANCE = 0.01
"""How much less accurate than the floor a plan may be on samples that nothing was chosen on."""
MIDDLE, WANTED = 11, (8, 32)
"""Devices that the best baseline is to need; the load is set by that."""
ROUNDS = 6
MOST_REQUESTS, SHORTEST_S = 30_000, 15.0
"""A trace of more requests is made shorter, but not below two rounds of the bursts."""
CARRIED = 0.9
"""The share of the mean rate that every gear plan must carry; what is beyond is for the simulation to judge."""
LOOKED_FOR = (0.86, 0.92, 0.945, 0.96)
"""Floors for which one model or one cascade for all loads is tried where the most accurate plan is looked for."""
BASELINES = ("static-model", "switching")
SYSTEMS = (*BASELINES, "static-cascade", "cocktail", "gears")


@dataclass(frozen=True)
class Cell:
    """Two promises and the traffic under which they are to be kept: bursty, or as `real` requests came."""

    floor: float
    latency_s: float
    seed: int
    seconds: float
    traffic: str = "bursty"
    real: Trace | None = None

    def trace(self, rate_per_s: float) -> Trace:
        """Return the traffic at a mean rate."""
        seconds = min(self.seconds, max(SHORTEST_S, MOST_REQUESTS / rate_per_s))
        if self.real is None:
            return bursty(rate_per_s, seconds, self.seed)
        return played(self.real, rate_per_s, seconds, self.seed)

    @property
    def inputs(self) -> str:
        """A hash of what the results depend on, but for the program itself."""
        real = None if self.real is None else self.real.hash
        table_hash = read_table(str(DIGITS / "validation.csv"))[1]
        return content_hash([profile().hash, table_hash, self.seconds, real])

    def result(self, system: str) -> Result:
        """Return a row of this cell whose figures are yet to come."""
        return Result("cells", self.traffic, self.floor, self.latency_s, 0, system, 0.0, self.seed, inputs=self.inputs)


class Problem:
    """A cell at one load: the family that plans are made with, who judges them, and what plans there are."""

    def __init__(self, cell: Cell, rate_per_s: float) -> None:
        self.cell, self.rate_per_s = cell, rate_per_s
        self.trace = cell.trace(rate_per_s)
        self.whole = whole(CARRIED * self.trace.rate_per_s, cell.latency_s)
        self.family = planned(self.whole)
        self.judge = Judge(self.family, self.trace, seed=cell.seed)
        self.peak_per_s = peak_rate_per_s(self.trace.arrival_s, 1.0)

    @cached_property
    def plans(self) -> Mapping[str, Plans]:
        """The candidates of each system for a number of devices."""
        return restricted(self.family, self.cell.latency_s, self.cell.floor, self.peak_per_s)

    @cached_property
    def unbound(self) -> Mapping[str, Plans]:
        """The candidates of each system where accuracy is what is looked for: those of several floors and of none."""
        made = [restricted(self.family, self.cell.latency_s, floor, self.peak_per_s) for floor in (None, *LOOKED_FOR)]

        def static(name: str) -> Plans:
            return lambda devices: [plan for each in made for plan in each[name](devices)]

        one, cascade = static("static-model"), static("static-cascade")
        switching, gears = made[0]["switching"], made[0]["gears"]
        return {
            "static-model": one,
            "switching": lambda devices: [*switching(devices), *one(devices)],
            "static-cascade": cascade,
            "gears": lambda devices: [*gears(devices), *cascade(devices)],
        }

    def fewest(self, system: str, first: int = 1) -> Result:
        """Return what a system needs; `first` is where to begin looking."""
        begin = perf_counter()
        wanted = dataclasses.replace(self.cell.result(system), rate_per_s=self.trace.rate_per_s)
        if system == "cocktail":
            return self._ensemble(wanted)
        found = fewest(self.plans[system], self.judge, self.cell.latency_s, self.cell.floor, first)
        taken = perf_counter() - begin
        if found is None:
            return dataclasses.replace(wanted, seconds=taken)
        return dataclasses.replace(
            wanted,
            devices=float(found.plan.devices),
            mean_devices=float(found.plan.devices),
            accuracy=found.accuracy,
            tested_accuracy=self.tested(found).accuracy,
            p95_s=found.latency_s,
            seconds=taken,
        )

    def tested(self, found: Judgment) -> Judgment:
        """Return what a plan does on the samples that it was not made from."""
        judge = Judge(self.whole, self.trace, seed=self.cell.seed, samples=tested(self.whole))
        return judge.judge(found.plan)

    def _ensemble(self, wanted: Result) -> Result:
        begin = perf_counter()
        held = cocktail(self.family, self.trace, self.cell.latency_s, self.cell.floor)
        taken = perf_counter() - begin
        if held is None:
            return dataclasses.replace(wanted, seconds=taken)
        right = vote(self.whole.table, held.members)[tested(self.whole)]
        return dataclasses.replace(
            wanted,
            devices=float(held.devices),
            mean_devices=held.mean_devices,
            accuracy=held.accuracy,
            tested_accuracy=float(right.mean()),
            p95_s=held.latency_s,
            seconds=taken,
        )


def solve(cell: Cell, systems: tuple[str, ...] = SYSTEMS, rate_per_s: float | None = None) -> list[Result]:
    """Return what each system needs, at a load that the better of one model and switching needs 8 to 32 devices for.

    `rate_per_s` is where to begin looking for that load.
    """
    problem, found = loaded(cell, rate_per_s)
    first = int(least(found) or 1)
    return [found[name] if name in found else problem.fewest(name, first) for name in systems]


def loaded(cell: Cell, rate_per_s: float | None = None) -> tuple[Problem, dict[str, Result]]:
    """Return the problem at the load that the cell asks for, and what the baselines need there."""
    rate = rate_per_s or MIDDLE * capacity_per_s(cell.floor, cell.latency_s)
    for _ in range(ROUNDS):
        problem = Problem(cell, rate)
        found = {name: problem.fewest(name, MIDDLE) for name in BASELINES}
        needed = least(found)
        if needed is None or WANTED[0] <= needed <= WANTED[1]:
            break
        rate *= MIDDLE / needed
    return problem, found


def least(found: Mapping[str, Result]) -> float | None:
    """Return the devices of the better baseline; None when neither keeps the promises with any number."""
    return min((r.devices for name, r in found.items() if name in BASELINES and r.devices is not None), default=None)


def most_accurate(family: Family, judge: Judge, latency_s: float) -> float:
    """Return an accuracy that no plan exceeds in time, of whatever system and however many devices.

    Every answer is that of a model, and takes no less than that model does for one item. So at best each request is
    asked of a model that is right about it, the share that may be late of any, all others of one that is in time.
    """
    asked = judge.arrivals.attributes[SAMPLE].astype(np.int64)
    credit = {name: values[asked] for name, values in family.table.credit.items()}
    quick = [values for name, values in credit.items() if family.service[name].mean_at(1) <= latency_s + 1e-9]
    anyhow = np.max(list(credit.values()), axis=0)
    in_time = np.max(quick, axis=0) if quick else np.zeros(asked.size)
    late = int((1.0 - judge.percent / 100) * asked.size + 1e-9)
    return float((in_time.sum() + np.sort(anyhow - in_time)[asked.size - late :].sum()) / asked.size)


def capacity_per_s(floor: float, latency_s: float) -> float:
    """Return what one device carries of the cheapest single model that is right often enough, busy half the time."""
    made = whole(1.0, latency_s)
    sizes = made.batch_sizes(latency_s / 4)
    able = [name for name in sizes if made.table.accuracy(name) >= floor]
    times = made.cost_s(sizes)
    return 0.5 / min((times[name] for name in able), default=max(times.values()))


def grid(seed: int, seconds: float, traffic: str = "bursty", real: Trace | None = None) -> Iterator[Cell]:
    """Yield the cells of all floors and latencies."""
    for floor in FLOORS:
        for latency_s in LATENCIES_S:
            yield Cell(floor, latency_s, seed, seconds, traffic, real)
