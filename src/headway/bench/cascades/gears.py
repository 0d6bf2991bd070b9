"""Gear plans against one model for all loads, and against switching between models; how long planning them takes.

The family is measured: five models of handwritten digits (`headway.bench.cascades.digits`). Its devices are taken to be
`SLOWER` times slower, so that a trace of half a minute keeps 8 to 32 of them busy with tens of thousands of requests
instead of millions; no ratio depends on that.
"""

from __future__ import annotations

import dataclasses
import timeit
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from headway.bench import BenchOptions, Row
from headway.domains.cascade.baselines import restricted
from headway.domains.cascade.choose import Judge, Judgment, best, fewest
from headway.domains.cascade.family import Family
from headway.domains.cascade.kernel import next_gear as compiled_next_gear
from headway.domains.cascade.passes import FourPasses
from headway.domains.cascade.planner import GearPlanner
from headway.plan.config import StageContext
from headway.plan.make import make
from headway.policy.cascading import next_gear
from headway.profile import Profile
from headway.sim.jit import kernel
from headway.sim.station import Floats
from headway.spec.model import Spec
from headway.trace import Trace
from headway.trace.envelope import peak_rate_per_s

DIGITS = Path(__file__).parent / "digits"
SLOWER = 500.0
FLOORS = (0.90, 0.92, 0.94, 0.95, 0.96)
LATENCIES_S = (0.25, 0.5, 1.0, 2.0, 4.0)
SECONDS, QUICK_SECONDS = 30.0, 8.0
BURSTS = (0.5, 3.0), (6.0, 1.5)
"""A Markov-modulated trace: multiples of the mean rate, and the seconds that each holds on average."""
MIDDLE, WANTED = 16, (8, 32)
"""Devices that the best baseline is to need; the load is set by that."""
SHORT_SECONDS = 8.0
"""The trace of the constrained comparison (CascadeServe, section 5.5)."""


def profile() -> Profile:
    """Return the measured profile on the slower devices."""
    measured = Profile.read(DIGITS / "profile.csv")
    return Profile.from_rows(dataclasses.replace(row, mean_s=SLOWER * row.mean_s) for row in measured.rows)


def spec(rate_per_s: float, latency_s: float, accuracy: float | None = None) -> Spec:
    """Return the family as one stage, under both promises."""
    names = dict.fromkeys(row.variant for row in profile().rows)
    slo: dict[str, Any] = {"latency": f"{latency_s!r}s", "percentile": 95}
    return Spec.from_dict(
        {
            "slo": slo if accuracy is None else {**slo, "accuracy": accuracy},
            "supply": {"device": {"price": "$1/h"}},
            "stages": {
                "digits": {
                    "kind": "cascade",
                    "models": {name: {} for name in names},
                    "table": str(DIGITS / "validation.csv"),
                    "max_rate": f"{rate_per_s!r}/s",
                }
            },
        }
    )


def family(rate_per_s: float, latency_s: float) -> Family:
    """Return the family for rates up to so many requests per second."""
    declared = spec(rate_per_s, latency_s)
    return Family.of(StageContext("digits", declared.stages["digits"], declared, profile()), "device")


def bursty(rate_per_s: float, seconds: float, seed: int) -> Trace:
    """Return requests at a mean rate, which for short times come six times as fast as otherwise."""
    (low, high), (low_s, high_s) = BURSTS
    mean = (low * low_s + high * high_s) / (low_s + high_s)
    rates = rate_per_s * low / mean, rate_per_s * high / mean
    return Trace.mmpp2(rates, (low_s, high_s), seconds, seed=seed)


def gears_cost(options: BenchOptions) -> list[Row]:
    """Devices needed by accuracy floor and latency: gear plans against the better of one model and switching models."""
    rows: list[Row] = []
    ratios, accurate = [], True
    floors, latencies = (FLOORS[::2], LATENCIES_S[1::2]) if options.quick else (FLOORS, LATENCIES_S)
    for floor in floors:
        for latency_s in latencies:
            head = f"gears-cost/{100 * floor:g}%/{1e3 * latency_s:g}ms"
            found = cell(floor, latency_s, options)
            known = {name: one.plan.devices for name, one in found.items() if one is not None}
            rows += [Row(f"{head}/{name}", devices, "devices") for name, devices in known.items()]
            others = [known[name] for name in ("static-model", "switching") if name in known]
            ours = found["gears"]
            if ours is None or not others:
                continue
            ratios.append(min(others) / ours.plan.devices)
            accurate = accurate and ours.accuracy >= floor
            rows.append(Row(f"{head}/ratio", ours.plan.devices, "devices", baseline=min(others), ratio=ratios[-1]))
    rows.append(
        Row(
            "gears-cost/median", median(ratios), "times fewer devices", bar=">= 2", met=median(ratios) >= 2 and accurate
        )
    )
    return rows


def cell(floor: float, latency_s: float, options: BenchOptions) -> Mapping[str, Judgment | None]:
    """Return what each way of planning needs under two promises, at a load that the best baseline needs 8 to 32 for."""
    rate = MIDDLE * capacity_per_s(floor, latency_s)
    found: dict[str, Judgment | None] = {}
    for _ in range(4):
        trace = bursty(rate, QUICK_SECONDS if options.quick else SECONDS, options.seed)
        made = family(peak_rate_per_s(trace.arrival_s, 1.0), latency_s)
        judge = Judge(made, trace, seed=options.seed)
        plans = restricted(made, latency_s, floor)
        found = {name: fewest(plans[name], judge, latency_s, floor) for name in ("static-model", "switching")}
        needed = min((one.plan.devices for one in found.values() if one is not None), default=0)
        if needed == 0 or WANTED[0] <= needed <= WANTED[1]:
            break
        rate *= MIDDLE / needed
    return {**found, **{name: fewest(plans[name], judge, latency_s, floor) for name in ("static-cascade", "gears")}}


def capacity_per_s(floor: float, latency_s: float) -> float:
    """Return what one device carries of the cheapest single model that is right often enough, busy half the time."""
    made = family(1.0, latency_s)
    sizes = made.batch_sizes(latency_s / 4)
    able = [name for name in sizes if made.table.accuracy(name) >= floor]
    times = made.cost_s(sizes)
    return 0.5 / min((times[name] for name in able), default=max(times.values()))


def gears_planning(options: BenchOptions) -> list[Row]:
    """Seconds to plan: for given devices on a short trace, as the paper measures it, and whole spaces with `make`."""
    rate, latency_s, devices = 200.0, 1.0, 8
    trace = bursty(rate, SHORT_SECONDS, options.seed)
    made = family(peak_rate_per_s(trace.arrival_s, 1.0), latency_s)
    GearPlanner(made, latency_s).plans(devices)
    rows = []
    begin = perf_counter()
    passes = FourPasses(made, devices, latency_s=latency_s).run()
    rows.append(Row("gears-planning/four-passes", perf_counter() - begin, "s", bar="<= 1"))
    begin = perf_counter()
    judge = Judge(made, trace, seed=options.seed)
    ours = best(map(judge.judge, GearPlanner(made, latency_s).plans(devices)), latency_s=latency_s)
    rows.append(Row("gears-planning/constrained", perf_counter() - begin, "s", bar="<= 1"))
    theirs = judge.judge(passes)
    if ours is not None:
        rows.append(Row("gears-planning/accuracy", ours.accuracy, "of requests", baseline=theirs.accuracy))
        rows.append(Row("gears-planning/p95", ours.latency_s, "s", baseline=theirs.latency_s))
    begin = perf_counter()
    declared = spec(made.max_rate_per_s, latency_s, 0.95)
    plan = make(declared, profile(), trace, seed=options.seed)
    rows.append(Row("gears-planning/whole-space", perf_counter() - begin, "s", bar="<= 30"))
    rows.append(Row("gears-planning/devices", plan.cost_usd_per_hour, "devices"))
    return rows


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
