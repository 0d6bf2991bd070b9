"""RackSched's evaluation in simulation: `python -m headway.bench.fleets.racksched --docs docs/reproductions`.

Results are kept in `racksched.csv` beside the page; what it holds is not computed again, so that a run that was ended
goes on where it stopped. Delete the file to compute everything anew, after a change of a policy for example.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np

from headway.bench.book import Book, Stamp
from headway.bench.fleets import rack_noise
from headway.bench.fleets import rack_reference as reference
from headway.bench.fleets.rack_cases import EQUAL, SYSTEMS, TYPED, UNEQUAL, US, WARM_UP, WORKS, Work, carried, outcome
from headway.bench.reproduce import options, reproduce, tell
from headway.files import content_hash
from headway.fleet import metrics
from headway.fleet.rack_run import Change, RackOutcome, RackSetup
from headway.sim.estimate import Estimate
from headway.sim.outcome import percentile
from headway.sim.threads import in_threads

REQUESTS, SEEDS = 200_000, 8
LOADS = (0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95)
PAPER_WORKS = {**WORKS, **TYPED}
SERVERS = (1, 2, 4, 8, 12)


@dataclass(frozen=True, slots=True)
class Result:
    """What one system did: under a load (`at`: the share of capacity), at most (`carried`), or at a moment of a series.

    `workers` of the servers, as "8x7"; so many `requests` were simulated. P99 of all, of the first type, and of latency
    over service time (`slowdown`). `answered_per_s` and `lost` are of the window of a series that ends at `at` seconds.
    """

    experiment: str
    workload: str
    workers: str
    system: str
    at: float
    seed: int
    requests: int
    p50_us: float | None
    p99_us: float | None
    short_p99_us: float | None
    slowdown: float | None
    carried: float | None
    answered_per_s: float | None
    lost: float | None
    inputs: str
    date: str = ""
    machine: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells this row from all others."""
        return (self.experiment, self.workload, self.workers, self.system, self.at, self.seed)


@dataclass(frozen=True, slots=True)
class Figure:
    """What one figure of the paper compares."""

    works: tuple[str, ...]
    racks: tuple[tuple[int, ...], ...]
    systems: tuple[str, ...]


FIGURES = {
    "10": Figure(("exp", "bimodal", "halves", "trimodal"), (EQUAL,), ("random", "racksched", "headway", "central")),
    "11": Figure(("exp", "bimodal", "halves", "trimodal"), (UNEQUAL,),
                 ("random", "weighted-random", "racksched", "racksched-speed", "prequal", "headway")),
    "12": Figure(("bimodal",), tuple((7,) * servers for servers in SERVERS), ("random", "racksched", "headway")),
    "13": Figure(("gets", "scans"), (EQUAL,), ("random", "racksched", "headway")),
    "14": Figure(("exp", "halves"), (EQUAL,), ("racksched", "jbsq", "jiq", "prequal", "clients", "headway")),
    "15": Figure(("exp", "halves"), (EQUAL,), ("round-robin", "shortest", "racksched", "pow4")),
    "16": Figure(("exp", "halves"), (EQUAL,), ("racksched", "int2", "int3", "proactive", "least-sent")),
}  # fmt: skip
"""By number in the paper; the systems that it compares, and ours."""


@dataclass(frozen=True, slots=True)
class Series:
    """Something that happens while requests come at a steady rate: figure 17, with times a hundredth of the paper's."""

    rate_per_s: float
    changes: tuple[Change, ...]
    seconds: float = 0.6
    window_s: float = 0.02


SERIES = {
    "switch-failure": Series(850e3, (Change(0.3, "balancer-down"), Change(0.35, "balancer-up"))),
    "add-remove": Series(500e3, (Change(0.0, "drain", 7), Change(0.2, "join", 7), Change(0.4, "drain", 7))),
    "server-failure": Series(500e3, (Change(0.2, "fail", 7), Change(0.21, "declare-dead", 7), Change(0.4, "join", 7))),
}
"""The failure of a server is not in the paper: it is noticed after 10 ms."""
SERIES_SYSTEMS = ("racksched", "headway")


class Found:
    """The results, by what is asked for."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.results = list(results)
        self._at = {result.key: result for result in results}
        self.seeds = sorted({result.seed for result in results})

    def values(self, field: str, experiment: str, workload: str, workers: str, system: str, at: float) -> list[float]:
        """Return a figure for each seed; none where a seed is missing."""
        keys = [(experiment, workload, workers, system, at, seed) for seed in self.seeds]
        if not keys or any(key not in self._at for key in keys):
            return []
        return [float(getattr(self._at[key], field)) for key in keys]

    def estimate(self, field: str, *where: object) -> Estimate | None:
        """Return a figure with its interval over seeds, None where it is not computed."""
        values = self.values(field, *where)  # type: ignore[arg-type]
        return Estimate.of(values) if values else None

    def windows(self, name: str, system: str) -> list[list[Result]]:
        """Return the windows of a series in order of time, for each seed that it was computed with."""
        mine = [result for result in self.results if (result.experiment, result.system) == (name, system)]
        ordered = sorted(mine, key=lambda result: (result.seed, result.at))
        return [list(some) for _, some in itertools.groupby(ordered, key=lambda result: result.seed)]


def name_of(workers: Sequence[int]) -> str:
    """Return servers by their workers.

    >>> name_of((7, 7, 4))
    '2x7+1x4'
    """
    kinds = list(dict.fromkeys(workers))
    return "+".join(f"{list(workers).count(kind)}x{kind}" for kind in kinds)


def _result(
    experiment: str, workload: str, workers: str, system: str, at: float, seed: int, requests: int, inputs: str
) -> Result:
    return Result(experiment, workload, workers, system, at, seed, requests, *(None,) * 7, inputs)


def loaded(setup: RackSetup, work: Work, count: int, wanted: Result) -> Result:
    """Return a result with the latencies under its load."""
    out = outcome(setup, work, wanted.at, count, wanted.seed)
    kept = slice(int(WARM_UP * count), None)
    latency_s, slow = out.latency_s[kept], metrics.slowdown(out.latency_s, out.service_s)[kept]
    _, _, kind = work.requests(1.0, count, wanted.seed)
    short = latency_s[kind[kept] == 0]
    return replace(
        wanted, p50_us=percentile(latency_s, 50) / US, p99_us=percentile(latency_s, 99) / US,
        short_p99_us=percentile(short, 99) / US, slowdown=percentile(slow, 99),
    )  # fmt: skip


def most(setup: RackSetup, work: Work, count: int, wanted: Result) -> Result:
    """Return a result with the load carried at the workload's target."""
    return replace(wanted, carried=carried(setup, work, work.target_us, count, wanted.seed))


def happened(series: Series, setup: RackSetup, work: Work, wanted: Result) -> Iterator[Result]:
    """Yield the windows of a series: requests by the time at which they came, answers by when they were read."""
    changed = replace(setup, changes=series.changes)
    count = wanted.requests
    load = series.rate_per_s * work.mean_s / setup.capacity
    arrival_s, _, _ = work.requests(series.rate_per_s, count, wanted.seed)
    out: RackOutcome = outcome(changed, work, load, count, wanted.seed)
    answered_s = (arrival_s + out.latency_s)[np.isfinite(out.latency_s)]
    edges = np.arange(0.0, series.seconds + series.window_s / 2, series.window_s)
    for low, high in itertools.pairwise(edges):
        mine = (arrival_s >= low) & (arrival_s < high)
        latency_s = out.latency_s[mine]
        done = np.count_nonzero((answered_s >= low) & (answered_s < high))
        yield replace(
            wanted, at=round(float(high), 6), p99_us=percentile(latency_s[np.isfinite(latency_s)], 99) / US,
            answered_per_s=done / series.window_s, lost=float(np.count_nonzero(np.isinf(latency_s))),
        )  # fmt: skip


def declared(setup: RackSetup) -> str:
    """Return what of a rack is not as it is by default: a field that racks get later makes no old result void.

    >>> declared(RackSetup((2, 2), loss=0.5))
    "{'workers': (2, 2), 'loss': 0.5}"
    """
    plain = RackSetup(setup.workers)
    values = {each.name: getattr(setup, each.name) for each in fields(setup) if each.init}
    return repr({name: value for name, value in values.items() if name == "workers" or value != getattr(plain, name)})


PROTOTYPE = {"prototype": False, "prototype-requests": True}
"""Experiments that are held against a prototype's figures, by whether its own requests are played again."""


def prototype(cell: rack_noise.Cell, replayed: bool, wanted: Result) -> Result:
    """Return a result with our figure of one seed for a printed one."""
    value = cell.measure(replayed, wanted.requests, wanted.seed)
    return replace(wanted, p99_us=value) if cell.load else replace(wanted, carried=value)


def printed(book: Book[Result], seeds: Sequence[int], stamp: Stamp, tell: Callable[[str], None]) -> None:
    """Put what is held against a prototype's figures into the book."""
    for experiment, replayed in PROTOTYPE.items():
        for cell in rack_noise.cells():
            count = reference.REQUESTS if cell.load else reference.CARRIED_REQUESTS
            inputs = content_hash([declared(cell.setup), repr(WORKS[cell.workload]), count])
            rack = name_of(cell.workers)
            every = [
                _result(experiment, cell.workload, rack, cell.system, cell.load, seed, count, inputs) for seed in seeds
            ]
            missing = [each for each in every if book.find(each) is None]
            if missing:
                tell(f"{experiment}: {cell.name}")
            book.add(map(stamp.on, in_threads(partial(prototype, cell, replayed), missing)))


def held(found: Found, experiment: str) -> dict[rack_noise.Cell, list[float]]:
    """Return our figures of each seed for the printed ones, as far as they are computed."""
    made = {}
    for cell in rack_noise.cells():
        where = (experiment, cell.workload, name_of(cell.workers), cell.system, cell.load)
        values = found.values("p99_us" if cell.load else "carried", *where)
        if values:
            made[cell] = values
    return made


def compute(book: Book[Result], seeds: Sequence[int], count: int, stamp: Stamp, tell: Callable[[str], None]) -> None:
    """Put all results into the book; those that it has are not computed."""
    cells = {(name, rack, system) for figure in FIGURES.values() for name in figure.works for rack in figure.racks
             for system in figure.systems}  # fmt: skip
    for name, rack, system in sorted(cells):
        work, setup = PAPER_WORKS[name], SYSTEMS[system].setup(rack, PAPER_WORKS[name])
        inputs = content_hash([declared(setup), repr(work), count])
        wanted = [
            _result("load", name, name_of(rack), system, load, seed, count, inputs) for load in LOADS for seed in seeds
        ]
        at_most = [_result("carried", name, name_of(rack), system, 0.0, seed, count, inputs) for seed in seeds]
        missing = [each for each in wanted if book.find(each) is None]
        unknown = [each for each in at_most if book.find(each) is None]
        if missing or unknown:
            tell(f"{name}, {name_of(rack)}, {system}")
        found = in_threads(partial(loaded, setup, work, count), missing)
        found += in_threads(partial(most, setup, work, count), unknown)
        book.add(map(stamp.on, found))
    for name, series in SERIES.items():
        for system in SERIES_SYSTEMS:
            work = WORKS["exp"]
            setup = SYSTEMS[system].setup(EQUAL, work)
            inputs = content_hash([declared(setup), repr(work), repr(series)])
            many = int(series.rate_per_s * series.seconds)
            first = [
                _result(name, "exp", name_of(EQUAL), system, series.window_s, seed, many, inputs) for seed in seeds
            ]
            missing = [each for each in first if book.find(each) is None]
            if missing:
                tell(f"{name}, {system}")
            windows = in_threads(lambda wanted, c=series, s=setup, w=work: list(happened(c, s, w, wanted)), missing)  # type: ignore[misc]
            book.add(map(stamp.on, itertools.chain.from_iterable(windows)))
    printed(book, seeds, stamp, tell)


def main() -> int:
    """Run as a command; returns the exit code."""
    from headway.bench.fleets.rack_page import write

    parser = options("headway.bench.fleets.racksched", "racksched", __doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many seeds")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="requests of a simulation")
    given = parser.parse_args()
    seeds = range(1, given.seeds + 1)
    return reproduce(
        given, "racksched", Result, lambda book: compute(book, seeds, given.requests, Stamp.here(), tell), write
    )


if __name__ == "__main__":
    sys.exit(main())
