"""Racks: how fast they are simulated, a prototype's tables again, and what load policies carry at a P99 target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from headway.bench import BenchOptions, Row
from headway.bench.fleets import rack_noise
from headway.bench.fleets import rack_reference as reference
from headway.bench.fleets.rack_cases import SYSTEMS, UNEQUAL, WORKS, carried
from headway.bench.fleets.rack_noise import Cell
from headway.bench.sim import best_s, mgc_each_s
from headway.fleet.rack_run import RackSetup, RackSimulation
from headway.sim.estimate import Estimate
from headway.sim.station import Floats, Ints
from headway.sim.threads import in_threads

SEEDS = 8
SPEED_REQUESTS = 1_000_000


def sim_rack(options: BenchOptions) -> Iterator[Row]:
    """Time per event as a ratio to M/G/8's time per request in the same run, then the prototype's tables again."""
    yield from speed(options)
    yield from tables(options)


@dataclass
class Timed:
    """A simulation to be timed, which says how many events it had."""

    setup: RackSetup
    arrival_s: Floats
    service_s: Floats
    kind: Ints
    seed: int
    events: int = 0

    def __call__(self) -> Floats:
        simulation = RackSimulation(self.setup, self.arrival_s, self.service_s, self.kind, seed=self.seed)
        simulation.advance()
        out = simulation.outcome()
        self.events = out.events
        return out.latency_s


def speed(options: BenchOptions) -> Iterator[Row]:
    """Nanoseconds of an event: arrivals, deliveries, ends of slices and replies."""
    count = 20_000 if options.quick else SPEED_REQUESTS
    for name, quantum_s in (("racksched", 250e-6), ("headway", 250e-6), ("racksched", 25e-6)):
        work = WORKS["bimodal"]
        setup = SYSTEMS[name].setup(reference.EQUAL, work, quantum_s=quantum_s)
        arrival_s, service_s, kind = work.requests(0.8 * setup.capacity / work.mean_s, count, options.seed)
        timed = Timed(setup, arrival_s, service_s, kind, options.seed)
        before_s = mgc_each_s(options.seed, count)
        ours_s, _ = best_s(timed)
        mgc_s = min(before_s, mgc_each_s(options.seed, count))
        each_s = ours_s / timed.events
        label = f"sim-rack/{name}-{quantum_s * 1e6:g}us"
        yield Row(label, each_s * 1e9, "ns per event", baseline=mgc_s * 1e9, ratio=each_s / mgc_s, bar="<= 5")
        yield Row(f"{label}/request", ours_s / count * 1e9, "ns per request")


def tables(options: BenchOptions) -> Iterator[Row]:
    """Every figure of the prototype beside ours: over requests of our own, and over those that it drew itself.

    Cells are many, so that some lie outside by chance. Over its own requests they do so one by one, and judged is how
    likely as many would; over others' a whole workload does, and what that comes to its seeds say, each left out once.
    """
    found: dict[bool, dict[Cell, list[float]]] = {False: {}, True: {}}
    for replayed, label in ((False, "sim-rack"), (True, "sim-rack/same-requests")):
        mine = found[replayed]
        for cell in rack_noise.cells():
            mine[cell] = in_threads(partial(cell.measure, replayed, _count(cell, options)), _seeds(options))
            yield _beside(f"{label}/{cell.name}", cell, mine[cell])
        met = sum(cell.met(values) for cell, values in mine.items())
        expected = f"of {len(mine)} cells, {rack_noise.EXPECTED:.0%} expected"
        yield Row(f"{label}/cells-within-noise", met / len(mine), expected)
        chance, bar = rack_noise.chance_of_as_few(met, len(mine)), ">= 5%" if replayed else None
        yield Row(f"{label}/cells-within-noise/chance", chance, "of as few, were cells independent", bar=bar)
    left_out = rack_noise.left_out(found[False])
    said = f"of cells for the median seed of ours ({min(left_out):.3f} to {max(left_out):.3f})"
    yield Row("sim-rack/cells-within-noise/left-out", float(np.median(left_out)), said)
    equal = rack_noise.equal(found[True])
    said = f"of {len(equal)} cells whose balancer draws nothing"
    yield Row("sim-rack/same-requests/equal", float(np.mean(equal)), said, bar=">= 100%")


def _count(cell: Cell, options: BenchOptions) -> int:
    if options.quick:
        return 4_000 if cell.load else 2_000
    return reference.REQUESTS if cell.load else reference.CARRIED_REQUESTS


def _beside(name: str, cell: Cell, values: list[float]) -> Row:
    """A printed figure, our mean, and the interval in which one run falls."""
    one = rack_noise.one_more(values)
    where = "" if cell.met(values) else ", the baseline outside"
    said = f"{cell.unit} (one run: {one.low:.4g} to {one.high:.4g}{where})"
    return Row(name, one.mean, said, baseline=cell.printed, ratio=one.mean / cell.printed)


def _seeds(options: BenchOptions) -> range:
    return range(options.seed, options.seed + (2 if options.quick else SEEDS))


CHOICES = ("headway", "racksched-speed", "jbsq")
"""Policies of which the best, on the mean over workloads, is held against the baselines."""


def rack_carried(options: BenchOptions) -> Iterator[Row]:
    """Load carried at a P99 target on unequal servers: the best policy against random, plain and by workers."""
    count = 2_000 if options.quick else reference.CARRIED_REQUESTS
    found: dict[tuple[str, str], list[float]] = {}
    names = (*CHOICES, "random", "weighted-random")
    for workload, _ in reference.COLUMNS:
        work = WORKS[workload]
        for name in names:
            setup = SYSTEMS[name].setup(UNEQUAL, work)
            measure = partial(carried, setup, work, work.target_us, count, steps=11)
            found[workload, name] = in_threads(measure, _seeds(options))
    best = max(CHOICES, key=lambda name: sum(sum(found[workload, name]) for workload, _ in reference.COLUMNS))
    for workload, _ in reference.COLUMNS:
        for baseline, least in (("random", 1.44), ("weighted-random", None)):
            ours, theirs = found[workload, best], found[workload, baseline]
            ratio = Estimate.of_ratios([a / b for a, b in zip(ours, theirs, strict=True)])
            said = f"of capacity (ratio {ratio.low:.3f} to {ratio.high:.3f})"
            yield Row(
                f"rack-carried/{workload}/{best}/{baseline}", float(np.mean(ours)), said,
                baseline=float(np.mean(theirs)), ratio=ratio.mean, bar=None if least is None else f">= {least}",
                met=None if least is None else ratio.low >= least,
            )  # fmt: skip
