"""Gear plans against one model for all loads, and against switching between models; how long planning them takes."""

from __future__ import annotations

import timeit
from collections.abc import Iterator
from statistics import median
from time import perf_counter

import numpy as np

from headway.bench import BenchOptions, Row
from headway.bench.cascades.family import bursty, planned, profile, spec, whole
from headway.bench.cascades.shipped import examples_planned
from headway.bench.cascadeserve.cells import (
    BASELINES,
    FLOORS,
    LATENCIES_S,
    TOLERANCE,
    Cell,
    Problem,
    least,
    most_accurate,
    solve,
)
from headway.bench.cascadeserve.rows import Result
from headway.domains.cascade.choose import Judge, best
from headway.domains.cascade.kernel import next_gear as compiled_next_gear
from headway.domains.cascade.passes import FourPasses
from headway.domains.cascade.planner import GearPlanner
from headway.plan.make import make
from headway.policy.cascading import next_gear
from headway.sim.jit import kernel
from headway.sim.station import Floats
from headway.trace.envelope import peak_rate_per_s

SECONDS, QUICK_SECONDS = 30.0, 8.0
SHORT_SECONDS = 8.0
"""The trace of the constrained comparison (CascadeServe, section 5.5)."""


def gears_cost(options: BenchOptions) -> Iterator[Row]:
    """Devices needed by accuracy floor and latency: gear plans against the better of one model and switching models."""
    ratios, short = [], 0.0
    floors, latencies = (FLOORS[::2], LATENCIES_S[1::2]) if options.quick else (FLOORS, LATENCIES_S)
    for floor in floors:
        for latency_s in latencies:
            cell = Cell(floor, latency_s, options.seed, QUICK_SECONDS if options.quick else SECONDS)
            head = f"gears-cost/{100 * floor:g}%/{1e3 * latency_s:g}ms"
            found = {result.system: result for result in solve(cell)}
            for name, result in found.items():
                if result.devices is not None:
                    yield Row(f"{head}/{name}", result.devices, "devices")
            ours, theirs = found["gears"], least({name: found[name] for name in BASELINES})
            if ours.devices is None or ours.tested_accuracy is None or theirs is None:
                yield unsolved(head, cell, ours)
                continue
            ratios.append(theirs / ours.devices)
            short = max(short, floor - ours.tested_accuracy)
            yield Row(f"{head}/ratio", ours.devices, "devices", baseline=theirs, ratio=ratios[-1])
    asked = len(floors) * len(latencies)
    yield Row("gears-cost/cells", len(ratios), f"of {asked} cells compared", bar=f">= {asked}")
    if ratios:
        points = "points at most, on unseen samples"
        yield Row("gears-cost/short-of-floor", 100 * short, points, bar=f"<= {100 * TOLERANCE:g}")
        yield Row("gears-cost/median", median(ratios), "times fewer devices", bar=">= 2")


def unsolved(head: str, cell: Cell, ours: Result) -> Row:
    """Return what says why a cell is not compared: no plan at all can keep both promises, or none was found.

    It counts as missing in any case: the grid is one in which every cell has a plan.
    """
    problem = Problem(cell, ours.rate_per_s or 1.0)
    most = most_accurate(problem.family, problem.judge, cell.latency_s)
    who = "gears" if ours.devices is None else "the baselines"
    why = f"a plan of {who} was not found" if cell.floor <= most else "no plan at all can be right so often in time"
    return Row(f"{head}/unsolved", 100 * most, f"% accuracy at most of any plan: {why}", baseline=100 * cell.floor)


def gears_planning(options: BenchOptions) -> Iterator[Row]:
    """Seconds to plan: for given devices on a short trace, as the paper measures it, and whole spaces: that of the
    measured family with `make`, and of the examples that have gears with `headway plan`.

    Once before it is measured everything is compiled, which the first plan on a machine pays for.
    """
    rate, latency_s, devices = 200.0, 1.0, 8
    trace = bursty(rate, SHORT_SECONDS, options.seed)
    made = planned(whole(peak_rate_per_s(trace.arrival_s, 1.0), latency_s))
    begin = perf_counter()
    Judge(made, trace).judge(GearPlanner(planned(whole(1.0, latency_s)), latency_s).plans(1)[0])
    yield Row("gears-planning/compiling", perf_counter() - begin, "s, once")
    begin = perf_counter()
    passes = FourPasses(made, devices, latency_s=latency_s).run()
    yield Row("gears-planning/four-passes", perf_counter() - begin, "s", bar="<= 1")
    begin = perf_counter()
    judge = Judge(made, trace, seed=options.seed)
    ours = best(map(judge.judge, GearPlanner(made, latency_s).plans(devices)), latency_s=latency_s)
    yield Row("gears-planning/constrained", perf_counter() - begin, "s", bar="<= 1")
    theirs = judge.judge(passes)
    if ours is not None:
        yield Row("gears-planning/accuracy", ours.accuracy, "of requests", baseline=theirs.accuracy)
        yield Row("gears-planning/p95", ours.latency_s, "s", baseline=theirs.latency_s)
    begin = perf_counter()
    declared = spec(made.max_rate_per_s, latency_s, 0.95)
    plan = make(declared, profile(), trace, seed=options.seed)
    yield Row("gears-planning/whole-space", perf_counter() - begin, "s", bar="<= 30")
    yield Row("gears-planning/devices", plan.cost_usd_per_hour, "devices")
    if not options.quick:
        yield from examples_planned()


def gear_decision(options: BenchOptions) -> list[Row]:
    """Microseconds that one choice of a gear takes, as the server calls it and as the simulator compiles it."""
    rates = tuple(float(rate) for rate in range(100, 1300, 100))
    calls = 20_000 if options.quick else 200_000
    plain = min(timeit.repeat(lambda: next_gear(6, 1250.0, 40, rates, 8.0), number=calls, repeat=5)) / calls
    upper = np.array(rates)
    _decide(10, upper)
    quick = min(timeit.repeat(lambda: _decide(calls, upper), number=1, repeat=5)) / calls
    return [
        Row("gear-decision/server", 1e6 * plain, "us", bar="<= 2"),
        Row("gear-decision/compiled", 1e6 * quick, "us", bar="<= 2"),
    ]


@kernel
def _decide(times: int, upper_per_s: Floats) -> int:
    gear = 0
    for at in range(times):
        gear = compiled_next_gear(gear, 1.0 * (at % 1300), at % 50, upper_per_s, 8.0)
    return gear
