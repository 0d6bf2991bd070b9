"""The recursion and the event kernel are two ways to compute one thing: they agree to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.sim_systems import GRID, Setting, System, chain, graph, random_table, replicas, systems

from headway.sim.eventsim import EventSimulation
from headway.sim.feedforward import SCAN
from headway.sim.station import Departures
from headway.sim.workload import Workload
from headway.trace import Trace


def values(left: Departures) -> dict[str, Any]:
    return {
        "done_s": left.done_s.tolist(),
        "item": left.item.tolist(),
        "start_s": left.start_s.tolist(),
        "dropped": sorted(left.dropped.tolist()),
        "unserved": sorted(left.unserved.tolist()),
        "refused": left.refused.tolist(),
        "batches": left.batches,
        "busy_s": left.busy_s,
    }


def assert_equal(system: System, simulation: EventSimulation, recursion: Mapping[str, Departures]) -> None:
    events = simulation.departures()
    for stage in system.work.graph.order:
        assert values(events[stage]) == values(recursion[stage]), stage
        arrived_s = system.work.arrivals(stage, recursion).arrival_s
        assert simulation.arrived_s(stage).tolist() == arrived_s.tolist(), stage
    assert system.work.completion(events).tolist() == system.work.completion(recursion).tolist()


@settings(max_examples=200, deadline=None)
@given(systems())
def test_recursion_equals_event_kernel(system: System) -> None:
    simulation = system.event_simulation()
    assert simulation.advance(np.inf) == np.inf
    assert_equal(system, simulation, system.by_recursion())


@settings(max_examples=60, deadline=None)
@given(systems(), st.lists(st.floats(0.0, 40.0), max_size=12))
def test_advancing_in_steps_changes_nothing(system: System, steps: list[float]) -> None:
    simulation = system.event_simulation()
    for until_s in sorted(steps):
        following_s = simulation.advance(until_s)
        assert following_s > until_s
        assert simulation.clock_s <= until_s
    simulation.advance(np.inf)
    assert_equal(system, simulation, system.by_recursion())


ONE = (1.0, 1.0)
SHAPES = {
    "tandem": chain("a", "b", "c"),
    "diamond": graph({"a": {}, "b": {"a": (0.7, 1.0)}, "c": {"a": (0.5, 1.0)}, "d": {"b": ONE, "c": ONE}}),
    "diamond below": graph(
        {"t": {}, "a": {"t": ONE}, "b": {"a": (0.7, 1.0)}, "c": {"a": ONE}, "d": {"b": ONE, "c": ONE}}
    ),
    "fan-out and gather": graph({"a": {}, "b": {"a": (0.9, 2.4)}, "c": {"b": (0.5, 1.0)}, "d": {"c": ONE}}, ["d"]),
    "two sources": graph({"a": {}, "b": {}, "c": {"a": ONE, "b": (0.5, 1.0)}}),
}


@pytest.mark.parametrize("load", [0.3, 0.95, 2.0])
@pytest.mark.parametrize("drop_after_s", [None, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_agree_on_thousands_of_requests(shape: str, drop_after_s: float | None, load: float) -> None:
    rng = np.random.default_rng(7)
    trace = Trace.poisson(rate=40 * load, requests=3000, seed=3)
    tables = {stage: random_table(rng, 4, 64, on_grid=False) for stage in SHAPES[shape].order}
    setting = {
        stage: Setting(table, replicas(max(2, round(40 * float(table[4].mean()) / 4))), 0.02 if stage == "b" else 0.0)
        for stage, table in tables.items()
    }
    system = System(Workload.of(SHAPES[shape], trace, 5, drop_after_s=drop_after_s), setting)
    recursion, simulation = system.by_recursion(), system.event_simulation()
    simulation.advance(np.inf)
    assert_equal(system, simulation, recursion)
    assert any(left.batches < left.item.size for left in recursion.values()), "no batch ever held two items"
    dropped = sum(left.dropped.size for left in recursion.values())
    assert dropped == 0 or drop_after_s is not None
    assert dropped > 100 or drop_after_s is None or load < 2


@pytest.mark.parametrize("count", [0, 1, SCAN - 1, SCAN, SCAN + 1, 100])
@pytest.mark.parametrize("on_grid", [True, False])
def test_kernels_agree_whatever_the_number_of_replicas(count: int, on_grid: bool) -> None:
    """The recursion finds the next replica by looking at all of them when they are few, else by a heap."""
    rng = np.random.default_rng(count)
    table = random_table(rng, 3, 16, on_grid)
    arrival_s = rng.uniform(0, 3000 * float(table[3].mean()) / 3 / max(count, 1), 3000)
    arrival_s = np.sort(np.floor(arrival_s * GRID) / GRID if on_grid else arrival_s)
    setting = Setting(table, [(-np.inf, np.inf), (4.0, np.inf), (1.0, 7.0)][: count or 0] + replicas(count - 3))
    system = System(Workload.of(chain("a"), Trace.from_arrivals(arrival_s), 1), {"a": setting})
    recursion, simulation = system.by_recursion(), system.event_simulation()
    simulation.advance(np.inf)
    assert_equal(system, simulation, recursion)
    assert (recursion["a"].item.size > 0) == (count > 0)


def test_kernels_agree_when_everything_happens_at_once() -> None:
    """All times on a coarse grid, so that most instants see completions, arrivals, joins and starts together."""
    shape = SHAPES["diamond"]
    arrival_s = np.repeat(np.arange(50), 6) * 4 / GRID
    for seed in range(20):
        rng = np.random.default_rng(seed)
        setting = {
            stage: Setting(np.ceil(random_table(rng, 3, 4, on_grid=True) * GRID / 4) * 4 / GRID, replicas(2))
            for stage in shape.order
        }
        system = System(Workload.of(shape, Trace.from_arrivals(arrival_s), seed), setting)
        recursion, simulation = system.by_recursion(), system.event_simulation()
        simulation.advance(np.inf)
        assert_equal(system, simulation, recursion)
        assert len(set(recursion["d"].done_s.tolist())) < recursion["d"].done_s.size / 2


def test_kernels_agree_when_capacity_comes_and_goes() -> None:
    """Windows that end leave requests unserved; a replica that starts late takes up the backlog."""
    windows = [(-np.inf, 5.0), (2.0, 9.0), (12.0, 20.0), (12.0, 15.5)]
    rng = np.random.default_rng(1)
    trace = Trace.poisson(rate=30, seconds=30, seed=2)
    for wait_s in (0.0, 0.1):
        setting = {stage: Setting(random_table(rng, 2, 16, on_grid=False), windows, wait_s) for stage in "ab"}
        system = System(Workload.of(chain("a", "b"), trace, 5), setting)
        recursion, simulation = system.by_recursion(), system.event_simulation()
        simulation.advance(np.inf)
        assert_equal(system, simulation, recursion)
        assert recursion["a"].unserved.size > 0
        started = recursion["a"].start_s
        assert not np.any((started > 9.0) & (started < 12.0)), "no replica is there between 9 and 12 s"
        assert np.isinf(system.work.completion(recursion)).sum() >= recursion["a"].unserved.size
