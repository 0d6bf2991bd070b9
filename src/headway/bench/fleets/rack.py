"""Racks: how fast they are simulated, a prototype's tables again, and what load policies carry at a P99 target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from headway.bench import BenchOptions, Row
from headway.bench.fleets import rack_reference as reference
from headway.bench.fleets.rack_cases import SYSTEMS, UNEQUAL, WORKS, carried, p99_us
from headway.bench.sim import best_s, mgc_each_s
from headway.fleet.rack_run import RackSetup, RackSimulation
from headway.sim.estimate import Estimate
from headway.sim.station import Floats, Ints
from headway.sim.threads import in_threads

SEEDS = 8
REQUESTS = 400_000
CARRIED_REQUESTS = 200_000
SPEED_REQUESTS = 1_000_000
NOISE = 0.05
"""What a figure of a single seed may be off by, as its makers say."""
Measure = Callable[[int], float]


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
    """Every figure of the prototype beside the mean over seeds; met when it lies where one more seed would."""
    met = []
    for name, measure, known, unit in _cells(options):
        values = in_threads(measure, _seeds(options))
        row = _beside(name, values, known, unit)
        met.append(bool(row.met))
        yield row
    yield Row("sim-rack/cells-within-noise", float(np.mean(met)), f"of {len(met)} cells", bar=">= 95%")


def _cells(options: BenchOptions) -> Iterator[tuple[str, Measure, float, str]]:
    count = 4_000 if options.quick else REQUESTS
    for name, groups in reference.P99_US.items():
        for (workload, quantum_s), figures in zip(reference.COLUMNS, groups, strict=True):
            work = WORKS[workload]
            setup = replace(SYSTEMS[name].setup(reference.EQUAL, work), quantum_s=quantum_s)
            for load, known in zip(reference.LOADS, figures, strict=True):
                if known is not None:
                    label = f"sim-rack/p99/{workload}/{name}/{load:g}"
                    yield label, partial(p99_us, setup, work, load, count), known, "us"
    few = 2_000 if options.quick else CARRIED_REQUESTS
    for kind, workers, carry in (("equal", reference.EQUAL, reference.CARRIED_EQUAL),
                                 ("unequal", reference.UNEQUAL, reference.CARRIED_UNEQUAL)):  # fmt: skip
        for name, loads in carry.items():
            for (workload, _), known in zip(reference.COLUMNS, loads, strict=True):
                work = WORKS[workload]
                setup = SYSTEMS[name].setup(workers, work)
                label = f"sim-rack/carried/{kind}/{workload}/{name}"
                yield label, partial(carried, setup, work, work.target_us, few), known, "of capacity"


def _beside(name: str, values: list[float], known: float, unit: str) -> Row:
    """A figure of one seed lies within noise of several: by the prediction interval, or its makers' own error."""
    one = Estimate.of(values)
    # The interval of a mean is sqrt(n + 1) times as narrow as that of one more value.
    reach = (one.high - one.mean) * math.sqrt(one.seeds + 1)
    within = abs(one.mean - known) <= max(reach, NOISE * known)
    said = f"{unit} ({one.low:.4g} to {one.high:.4g})"
    bar = f"within {NOISE:.0%} or noise"
    return Row(name, one.mean, said, baseline=known, ratio=one.mean / known, bar=bar, met=within)


def _seeds(options: BenchOptions) -> range:
    return range(options.seed, options.seed + (2 if options.quick else SEEDS))


CHOICES = ("headway", "racksched-speed", "jbsq")
"""Policies of which the best, on the mean over workloads, is held against the baselines."""


def rack_carried(options: BenchOptions) -> Iterator[Row]:
    """Load carried at a P99 target on unequal servers: the best policy against random, plain and by workers."""
    count = 2_000 if options.quick else CARRIED_REQUESTS
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
