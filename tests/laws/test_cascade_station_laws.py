"""What every station of a cascade keeps to, whatever its gears: the kernel against plain Python, and conservation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.cascade_systems import GRID, PlainCascade, random_arrivals, random_station, random_table

from headway.cascade import Cascade, Step, ValidationTable
from headway.domains.cascade.gears import Gear, GearPlan, Group
from headway.domains.cascade.station import CascadeStation
from headway.sim.replicas import ReplicaStation
from headway.sim.station import Arrivals

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=150, deadline=None)
@given(SEEDS, st.integers(0, 60), st.sampled_from([0.2, 2.0, 30.0]), st.sampled_from([math.inf, 0.5]))
def test_the_kernel_equals_plain_python(seed: int, items: int, seconds: float, patience_s: float) -> None:
    rng = np.random.default_rng(seed)
    station = random_station(rng, devices=int(rng.integers(1, 5)), gears=int(rng.integers(1, 5)))
    arrivals = random_arrivals(rng, items, seconds, patience_s)
    served = station.serve(arrivals, seed=seed, record=True)
    plain = PlainCascade(station, arrivals, seed).run()
    left = served.departures
    assert left.done_s.tolist() == [done_s for done_s, _, _ in plain.done]
    assert left.item.tolist() == [int(arrivals.item[item]) for _, item, _ in plain.done]
    assert [station.plan.models[at] for at in served.answered_by] == [model for _, _, model in plain.done]
    assert left.dropped.tolist() == [int(arrivals.item[item]) for item in plain.dropped]
    assert left.start_s.tolist() == plain.start_s
    assert (left.batches, left.busy_s) == (plain.batches, plain.busy_s)
    assert list(served.switches) == plain.gears
    credit = {name: station.table.credit[name] for name in station.plan.models}
    by_item = PlainCascade(station, arrivals, seed).sample
    assert left.credit.tolist() == [float(credit[model][by_item[item]]) for _, item, model in plain.done]


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_no_item_is_lost_on_its_way_and_none_asks_a_model_twice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    station, arrivals = random_station(rng, gears=4), random_arrivals(rng, 50, 3.0)
    plain = PlainCascade(station, arrivals, seed).run()
    assert len(set(plain.visits)) == len(plain.visits)
    left = station.run(arrivals, seed=seed, record=True)
    assert sorted(left.item.tolist()) == list(range(50))
    arrived_s = np.empty(50)
    arrived_s[arrivals.item] = arrivals.arrival_s
    assert np.all(left.done_s >= arrived_s[left.item] + station.fastest_s())
    assert np.all(np.diff(left.done_s) >= 0)


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.sampled_from([1, 8]), st.integers(1, 6), st.sampled_from([math.inf, 0.25]))
def test_one_model_without_thresholds_is_a_station_of_replicas(
    seed: int, columns: int, replicas: int, patience_s: float
) -> None:
    """A queue that waits for a full batch or for the oldest is `policy.batching.take`."""
    rng = np.random.default_rng(seed)
    size, wait_s = int(rng.integers(1, 5)), float(rng.integers(0, 4)) * GRID
    table_s = random_table(rng, size, columns, slow=2)
    gear = Gear(Cascade((Step("only"),)), 10.0, (size if wait_s else 1,), wait_s)
    plan = GearPlan("cpu", (Group(("only",), replicas),), (("only", size),), (gear,))
    table = ValidationTable([0, 1], {"only": [0, 0]}, {"only": [0.9, 0.6]})
    arrivals = random_arrivals(rng, 200, 4.0, patience_s)
    ours = CascadeStation("s", plan, {"only": table_s}, table).run(arrivals, seed=seed, record=True)
    theirs = ReplicaStation.always("s", table_s, replicas, wait_s).run(arrivals, seed=seed, record=True)
    for name in ("done_s", "item", "start_s", "dropped"):
        assert getattr(ours, name).tolist() == getattr(theirs, name).tolist(), name
    assert (ours.batches, ours.busy_s) == (theirs.batches, theirs.busy_s)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_what_is_decided_does_not_depend_on_what_comes_later(seed: int) -> None:
    rng = np.random.default_rng(seed)
    station, arrivals = random_station(rng), random_arrivals(rng, 40, 2.0)
    cut = int(rng.integers(1, 40))
    ordered = Arrivals(arrivals.arrival_s, np.arange(40, dtype=np.int32), arrivals.request)
    whole = station.run(ordered, seed=seed, record=False)
    part = station.run(
        Arrivals(ordered.arrival_s[:cut], ordered.item[:cut], ordered.request[:cut]), seed=seed, record=False
    )
    known, now = whole.done_s < ordered.arrival_s[cut], part.done_s < ordered.arrival_s[cut]
    assert whole.done_s[known].tolist() == part.done_s[now].tolist()
    assert whole.item[known].tolist() == part.item[now].tolist()
    assert whole.credit[known].tolist() == part.credit[now].tolist()


def two_gears(alpha_per_s: float) -> CascadeStation:
    """A dear gear that one device carries at 20/s, and a cheap one that it carries at 1000/s."""
    table = ValidationTable(
        [0, 1] * 10, {"small": [0] * 20, "large": [0, 1] * 10}, {"small": [0.5] * 20, "large": [1.0] * 20}
    )
    gears = (Gear(Cascade((Step("large"),)), 15.0, (1,)), Gear(Cascade((Step("small"),)), 900.0, (1,)))
    plan = GearPlan(
        "cpu", (Group(("small", "large"), 1),), (("small", 1), ("large", 1)), gears, alpha_per_s=alpha_per_s
    )
    return CascadeStation("s", plan, {"small": np.array([[0.0], [0.001]]), "large": np.array([[0.0], [0.05]])}, table)


def spike() -> Arrivals:
    """Ten a second, and 400 a second from 10.05 s to 10.55 s."""
    arrival_s = np.sort(np.concatenate([np.arange(0, 20, 0.1) + 0.03, np.arange(10.05, 10.55, 0.0025)]))
    items = np.arange(arrival_s.size, dtype=np.int32)
    return Arrivals(arrival_s, items, items)


def test_a_spike_is_met_by_the_cheaper_gear_at_once_and_the_backlog_by_staying_there() -> None:
    held, hasty = (two_gears(alpha).serve(spike(), seed=1, record=True) for alpha in (8.0, 0.0))
    up_s = next(time_s for time_s, gear in held.switches if gear == 1 and time_s > 5)
    assert up_s <= 10.05 + 0.2, "the gear changes at the end of the first window that shows the spike"
    arrival_s = spike().arrival_s
    worst = [float((served.departures.done_s - arrival_s[served.departures.item]).max()) for served in (held, hasty)]
    assert worst[0] <= worst[1]
    assert held.departures.accuracy is not None
    assert held.departures.accuracy > 0.5
    assert held.held_s.sum() == pytest.approx(held.departures.done_s[-1] - arrival_s[0])


def test_a_long_pause_changes_nothing_but_the_time() -> None:
    """Windows in which nothing happens are passed over: a pause of years takes no longer than one of seconds."""
    station = two_gears(8.0)
    short, long = (
        station.serve(Arrivals(np.array([0.0, 0.5, pause_s, pause_s + 0.5]), *[np.arange(4, dtype=np.int32)] * 2),
                      seed=1, record=True) for pause_s in (64.0, 2.0**29)
    )  # fmt: skip
    assert short.departures.done_s[2] - 64.0 == pytest.approx(long.departures.done_s[2] - 2.0**29, abs=1e-6)
    assert short.answered_by.tolist() == long.answered_by.tolist()
