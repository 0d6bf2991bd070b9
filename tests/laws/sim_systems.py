"""Systems that the laws of the simulator are tried on, and how to run one through either kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from headway.sim.eventsim import EventSimulation, ReplicaGroup, StageSetup
from headway.sim.replicas import ReplicaStation
from headway.sim.station import Departures, Floats
from headway.sim.workload import Workload
from headway.spec.graph import Graph, GraphEdge
from headway.trace import Trace

GRID = 64.0
"""Times on a binary grid: sums are exact, so that simultaneous events are truly simultaneous."""

MANY = 17
"""Times the replicas of a small stage: enough that the recursion keeps them in a heap."""

ALWAYS = (-np.inf, np.inf)


@dataclass(frozen=True)
class Setting:
    """One stage's latency table `[batch size, quantile]`, the window of every replica, and its batching wait."""

    service_s: Floats
    windows: Sequence[tuple[float, float]] = (ALWAYS,)
    max_wait_s: float = 0.0


@dataclass(frozen=True)
class System:
    """A workload and how each stage runs."""

    work: Workload
    settings: Mapping[str, Setting]

    def station(self, stage: str) -> ReplicaStation:
        setting = self.settings[stage]
        from_s, until_s = np.array(setting.windows).reshape(-1, 2).T.copy()
        return ReplicaStation(stage, setting.service_s, setting.max_wait_s, from_s, until_s)

    def by_recursion(self) -> dict[str, Departures]:
        left: dict[str, Departures] = {}
        for stage in self.work.graph.order:
            left[stage] = self.work.run(stage, self.station(stage), left, record=True)
        return left

    def event_simulation(self) -> EventSimulation:
        setups = {
            stage: StageSetup(
                [ReplicaGroup(s.service_s, 1, *window) for window in s.windows] or [ReplicaGroup(s.service_s, 0)],
                s.max_wait_s,
            )
            for stage, s in self.settings.items()
        }
        return EventSimulation(self.work, setups, {})


def graph(edges: Mapping[str, Mapping[str, tuple[float, float]]], gathering: Sequence[str] = ()) -> Graph:
    """Build a graph of `{stage: {parent: (probability, fan_out)}}`."""
    return Graph.build(
        {
            child: {parent: GraphEdge(parent, child, *edge) for parent, edge in parents.items()}
            for child, parents in edges.items()
        },
        gathering,
    )


def chain(*stages: str) -> Graph:
    """Build a graph in which every item of one stage passes to the next."""
    return graph({stage: {stages[at - 1]: (1.0, 1.0)} if at else {} for at, stage in enumerate(stages)})


def constant(*batch_s: float) -> Floats:
    """Build a table in which a batch of b takes `batch_s[b - 1]`."""
    return np.array([batch_s[0], *batch_s])[:, None]


def replicas(count: int) -> list[tuple[float, float]]:
    return [ALWAYS] * count


def random_graph(draw: st.DrawFn, stages: int) -> Graph:
    edges: dict[str, dict[str, tuple[float, float]]] = {}
    gathering = []
    for at in range(stages):
        name, earlier = f"s{at}", list(edges)
        parents = draw(st.lists(st.sampled_from(earlier), unique=True, max_size=3)) if earlier else []
        if parents and draw(st.integers(0, 4)) == 0:
            gathering.append(name)
        fans = len(parents) == 1 and name not in gathering
        edges[name] = {
            parent: (
                draw(st.sampled_from([1.0, 1.0, 0.6, 0.2])),
                draw(st.sampled_from([1.0, 1.0, 2.0, 0.5, 2.4])) if fans else 1.0,
            )
            for parent in parents
        }
    return graph(edges, gathering)


def random_table(rng: np.random.Generator, max_batch: int, columns: int, on_grid: bool) -> Floats:
    ticks = rng.integers(1, 9) + rng.integers(0, 4) * np.arange(max_batch + 1)[:, None]
    ticks = ticks + rng.integers(0, 6, columns)[None, :]
    return (ticks if on_grid else ticks * rng.uniform(0.8, 1.2, columns)) / GRID


@st.composite
def systems(draw: st.DrawFn, max_stages: int = 6) -> System:
    """Random pipelines, saturated or light, with ties, batches, waits, windows and deadlines."""
    shape = random_graph(draw, draw(st.integers(1, max_stages)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    on_grid = draw(st.booleans())
    requests, span = draw(st.integers(0, 80)), draw(st.sampled_from([1, 60, 600]))
    ticks = np.sort(rng.integers(0, span, requests)) if on_grid else np.sort(rng.uniform(0, span, requests))
    drop_after_s = draw(st.sampled_from([None, None, 0.0, 5 / GRID, 40 / GRID]))
    trace = Trace.from_arrivals(ticks / GRID, duration_s=span / GRID)
    settings = {}
    for stage in shape.order:
        table = random_table(rng, draw(st.sampled_from([1, 2, 4, 7])), draw(st.sampled_from([1, 4, 64])), on_grid)
        window = st.tuples(
            st.sampled_from([-np.inf, -np.inf, 0.0, 8 / GRID, 100 / GRID]),
            st.sampled_from([np.inf, np.inf, np.inf, 20 / GRID, 150 / GRID]),
        )
        windows = draw(st.lists(window, max_size=4)) * draw(st.sampled_from([1, 1, 1, 1, MANY]))
        settings[stage] = Setting(table, windows, draw(st.sampled_from([0.0, 0.0, 3 / GRID, 0.5])))
    return System(Workload.of(shape, trace, draw(st.integers(0, 99)), drop_after_s=drop_after_s), settings)
