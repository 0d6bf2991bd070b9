"""The planner of gears against every plan, in spaces small enough to try them all.

It is no exact search: it leaves out gears that miss the promise under even load of their own highest rate, where a
trace may be kinder than that. So it may take a device more than the best of all plans, and seldom does; that it takes
two is what these tests would find.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from headway.bench.cascades.tries import every_plan
from headway.bench.cascadeserve.cells import most_accurate
from headway.cascade import ValidationTable
from headway.domains.cascade.choose import Judge, keeps
from headway.domains.cascade.family import Family
from headway.domains.cascade.gears import GearPlan
from headway.domains.cascade.planner import GearPlanner
from headway.domains.cascade.unserved import TooFew
from headway.plan.config import StageContext
from headway.profile import Profile, Row
from headway.spec.model import Spec
from headway.trace import Trace
from headway.trace.envelope import peak_rate_per_s

FASTEST_S, SIZES = 0.004, (1, 2, 4)
"""What the cheap model takes for one item, and the batches."""
SAMPLES, LEVELS = 36, 3
"""Few enough that the table is not split and few cascades are worth a gear: every one of them is tried."""
MOST_DEVICES, RANGES = 4, 2
SECONDS = 8.0

Plans = Callable[[int], Iterable[GearPlan]]


def made_up(rng: np.random.Generator, latency_s: float, rate_per_s: float) -> Family:
    """A cheap and a dear model whose times, answers and certainties are drawn."""
    labels, hardness = rng.integers(0, 3, SAMPLES), rng.random(SAMPLES)
    predicted, certainty, rows = {}, {}, []
    dear_s = FASTEST_S * rng.uniform(3.0, 10.0)
    for name, time_s, share in zip("ab", (FASTEST_S, dear_s), np.sort(rng.uniform(0.6, 0.97, 2)), strict=True):
        right = hardness + rng.normal(0, 0.05, SAMPLES) < share
        predicted[name] = np.where(right, labels, (labels + 1) % 3)
        certainty[name] = np.round(LEVELS * np.clip(1.1 - hardness + rng.normal(0, 0.1, SAMPLES), 0, 1)) / LEVELS
        rows += [Row("cascade", "gpu", size, time_s * (0.4 + 0.6 * size), variant=name) for size in SIZES]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "validation.csv"
        ValidationTable(labels, predicted, certainty).write(path)
        stage = {"kind": "cascade", "models": {"a": {}, "b": {}}, "table": str(path), "max_rate": f"{rate_per_s!r}/s"}
        slo = {"latency": f"{latency_s!r}s", "percentile": 95}
        declared = Spec.from_dict({"slo": slo, "supply": {"gpu": {"price": "$1/h"}}, **stage})
        context = StageContext("cascade", declared.stages["cascade"], declared, Profile.from_rows(rows))
        return Family.of(context, "gpu")


def fewest(plans: Plans, judge: Judge, latency_s: float, floor: float) -> int | None:
    """The fewest devices with which any of the plans keeps both promises, none left out."""
    for devices in range(1, MOST_DEVICES + 1):
        try:
            if any(keeps(judge.judge(plan), latency_s, floor) for plan in plans(devices)):
                return devices
        except TooFew:
            continue
    return None


def both(
    seed: int, promise: float, floor: float, rate_per_s: float, uneven: float = 1.0
) -> tuple[int | None, int | None, bool]:
    """The fewest devices that the planner finds, the fewest of all plans, and whether there can be any.

    `promise` is in units of the fastest item: below 1 nothing keeps it. `floor` is 0 at the accuracy of the worse model
    and 1 at that of the better one; far above, nothing reaches it.
    """
    latency_s, rng = promise * FASTEST_S, np.random.default_rng(seed)
    trace = Trace.gamma(rate_per_s, uneven, seconds=SECONDS, seed=seed)
    family = made_up(rng, latency_s, 0.9 * trace.rate_per_s)
    judge = Judge(family, trace, seed=seed)
    worse, better = sorted(family.table.accuracy(name) for name in "ab")
    accuracy = min(0.999, worse + floor * (better - worse))
    planner = GearPlanner(family, latency_s, accuracy, up_to_per_s=peak_rate_per_s(trace.arrival_s, 1.0))

    def every(devices: int) -> Iterator[GearPlan]:
        for chosen in planner.sizes():
            yield from every_plan(planner, devices, chosen, RANGES, range(len(planner.judged(chosen))))

    possible = accuracy <= most_accurate(family, judge, latency_s)
    ours, best = (fewest(plans, judge, latency_s, accuracy) for plans in (planner.plans, every))
    return ours, best, possible


@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**32 - 1),
    promise=st.sampled_from([0.9, 2.0, 8.0, 15.0, 30.0]),
    floor=st.floats(0.0, 1.5),
    rate_per_s=st.sampled_from([40.0, 80.0, 150.0, 300.0]),
    uneven=st.sampled_from([1.0, 2.0]),
)
@example(seed=1, promise=0.9, floor=0.0, rate_per_s=40.0, uneven=1.0)
@example(seed=1, promise=30.0, floor=9.0, rate_per_s=40.0, uneven=1.0)
def test_the_planner_takes_a_device_more_than_the_best_of_all_plans_at_most(
    seed: int, promise: float, floor: float, rate_per_s: float, uneven: float
) -> None:
    ours, best, possible = both(seed, promise, floor, rate_per_s, uneven)
    event(f"devices: {ours}, of all plans {best}")
    if best is not None:
        assert (MOST_DEVICES + 1 if ours is None else ours) <= best + 1
    if promise < 1 or not possible:
        assert ours is None
        assert best is None


def test_the_planner_costs_the_same_as_the_best_of_all_plans() -> None:
    """Over promises from none that can be kept to loose ones, and floors up to one that nothing reaches."""
    found = [
        both(seed, promise, floor, 80.0)[:2]
        for seed, (promise, floor) in enumerate(itertools.product([0.9, 4.0, 15.0, 30.0], [0.0, 0.4, 0.8, 1.4]))
    ]
    assert len({best for _, best in found}) >= 3
    assert sum(ours != best for ours, best in found) <= 1


@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**32 - 1), promise=st.sampled_from([0.9, 1.5, 4.0, 15.0]), devices=st.sampled_from([1, 3, 50])
)
def test_no_plan_in_time_is_right_more_often_than_whoever_knew_which_model_is_right(
    seed: int, promise: float, devices: int
) -> None:
    latency_s, rng = promise * FASTEST_S, np.random.default_rng(seed)
    trace = Trace.poisson(60.0, SECONDS, seed=seed)
    family = made_up(rng, latency_s, 1.0)
    judge, planner = Judge(family, trace, seed=seed), GearPlanner(family, latency_s)
    most = most_accurate(family, judge, latency_s)
    for chosen in planner.sizes():
        for plan in every_plan(planner, devices, chosen, 1, range(len(planner.judged(chosen)))):
            judged = judge.judge(plan)
            assert judged.latency_s > latency_s + 1e-9 or judged.accuracy <= most + 1e-12
