"""What edges, joins, gathers and visits mean, each on a case that can be computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from headway.errors import TraceError
from headway.profile import RecordedVisits
from headway.sim.items import build_items
from headway.sim.replicas import ReplicaStation
from headway.sim.station import Departures
from headway.sim.workload import Workload
from headway.spec.graph import Graph, GraphEdge
from headway.trace import Trace

ONE = (1.0, 1.0)


def graph(edges: dict[str, dict[str, tuple[float, float]]], gathering: tuple[str, ...] = ()) -> Graph:
    return Graph.build(
        {
            child: {parent: GraphEdge(parent, child, *e) for parent, e in above.items()}
            for child, above in edges.items()
        },
        gathering,
    )


def requests(*arrival_s: float, **visits: list[float]) -> Trace:
    columns = {f"visits.{stage}": np.array(counts) for stage, counts in visits.items()}
    return Trace.from_arrivals(np.array(arrival_s), columns)


def run(work: Workload, service_s: dict[str, float], replicas: int = 99) -> dict[str, Departures]:
    """Serve every stage with a constant time; with 99 replicas nothing queues."""
    left: dict[str, Departures] = {}
    for stage in work.graph.order:
        table = np.full((2, 1), service_s[stage])
        left[stage] = work.run(stage, ReplicaStation.always(stage, table, replicas), left, record=True)
    return left


def served(work: Workload, left: dict[str, Departures], stage: str) -> list[tuple[int, float]]:
    """Return (request, done_s) of every item that left a stage."""
    return [
        (int(work.items[stage].request[i]), float(d)) for i, d in zip(left[stage].item, left[stage].done_s, strict=True)
    ]


def test_an_item_that_takes_no_edge_ends_there() -> None:
    work = Workload.of(graph({"a": {}, "b": {"a": ONE}}), requests(0.0, 10.0, b=[0, 1]), seed=0)
    left = run(work, {"a": 1.0, "b": 2.0})
    assert served(work, left, "b") == [(1, 13.0)]
    assert work.completion(left).tolist() == [1.0, 13.0]


def test_probability_is_per_item_and_independent_of_other_edges() -> None:
    shape = graph({"a": {}, "split": {"a": (1.0, 3.0)}, "x": {"split": (0.6, 1.0)}, "y": {"split": (0.3, 1.0)}})
    n = 40_000
    items = Workload.of(shape, Trace.from_arrivals(np.arange(n) * 1.0), seed=4).items
    assert items["split"].count == 3 * n
    x, y = np.zeros(3 * n, bool), np.zeros(3 * n, bool)
    x[items["x"].up], y[items["y"].up] = True, True
    sigma = 0.5 / np.sqrt(3 * n)
    assert abs(x.mean() - 0.6) < 4 * sigma
    assert abs(y.mean() - 0.3) < 4 * sigma
    assert abs((x & y).mean() - 0.18) < 4 * sigma, "edges of one item are independent"
    siblings = x.reshape(n, 3)
    assert abs((siblings[:, 0] & siblings[:, 1]).mean() - 0.36) < 4 * 0.5 / np.sqrt(n), "items are independent"


def test_a_fractional_fan_out_is_drawn() -> None:
    shape = graph({"a": {}, "b": {"a": (0.5, 2.4)}})
    n = 40_000
    children = np.diff(Workload.of(shape, Trace.from_arrivals(np.arange(n) * 1.0), 4).items["a"].first_child["b"])
    assert set(children.tolist()) == {0, 2, 3}
    for count, share in ((0, 0.5), (2, 0.3), (3, 0.2)):
        assert abs((children == count).mean() - share) < 4 * 0.5 / np.sqrt(n)


def test_children_stay_apart_until_the_end() -> None:
    """Three children on one replica: served one after the other; the request is done with the last."""
    work = Workload.of(graph({"a": {}, "b": {"a": (1.0, 3.0)}, "c": {"b": ONE}}), requests(0.0), seed=0)
    left = run(work, {"a": 1.0, "b": 1.0, "c": 0.5}, replicas=1)
    assert served(work, left, "b") == [(0, 2.0), (0, 3.0), (0, 4.0)]
    assert served(work, left, "c") == [(0, 2.5), (0, 3.5), (0, 4.5)]
    assert work.completion(left).tolist() == [4.5]


DIAMOND = {"a": {}, "x": {"a": ONE}, "y": {"a": ONE}, "join": {"x": ONE, "y": ONE}}


def test_a_join_waits_for_every_branch_that_was_taken_and_is_skipped_when_none_was() -> None:
    trace = requests(0.0, 100.0, 200.0, 300.0, x=[1, 1, 0, 0], y=[1, 0, 1, 0])
    work = Workload.of(graph(DIAMOND), trace, seed=0)
    left = run(work, {"a": 1.0, "x": 2.0, "y": 5.0, "join": 0.5})
    assert served(work, left, "join") == [(0, 6.5), (1, 103.5), (2, 206.5)]
    assert work.completion(left).tolist() == [6.5, 103.5, 206.5, 301.0]


def test_a_branch_that_dies_in_the_region_holds_the_join_until_it_is_finished() -> None:
    """The slow branch y never reaches the join, but what was started between scope and join has to end first."""
    shape = graph({"a": {}, "x": {"a": ONE}, "y": {"a": ONE}, "z": {"y": ONE}, "join": {"x": ONE, "z": ONE}})
    work = Workload.of(shape, requests(0.0, x=[1], y=[1], z=[0]), seed=0)
    left = run(work, {"a": 1.0, "x": 1.0, "y": 9.0, "z": 1.0, "join": 0.5})
    assert served(work, left, "z") == []
    assert served(work, left, "join") == [(0, 10.5)]


def test_a_side_branch_that_cannot_reach_the_join_does_not_hold_it() -> None:
    shape = graph({**DIAMOND, "log": {"x": ONE}})
    work = Workload.of(shape, requests(0.0), seed=0)
    left = run(work, {"a": 1.0, "x": 1.0, "y": 2.0, "join": 0.5, "log": 9.0})
    assert served(work, left, "join") == [(0, 3.5)]
    assert work.completion(left).tolist() == [11.0]


def test_a_join_never_runs_for_an_item_that_was_lost_above_its_scope() -> None:
    """Both requests come at once and one replica serves the first stage; the second request is given up there."""
    shape = graph({"top": {}, **DIAMOND, "a": {"top": ONE}})
    work = Workload.of(shape, requests(0.0, 0.0), seed=0, drop_after_s=0.5)
    assert shape.scope["join"] == "a"
    late = Workload.of(shape, requests(0.0, 0.0), seed=0, drop_after_s=9.0)
    times = {"top": 1.0, "a": 0.01, "x": 0.01, "y": 0.01, "join": 0.01}
    left = run(work, times, replicas=1)
    assert left["top"].dropped.tolist() == [1]
    assert served(work, left, "join") == []
    assert np.isinf(work.completion(left)).all(), "the first one is given up at the second stage, at 1.0"
    assert [request for request, _ in served(late, run(late, times, replicas=1), "join")] == [0, 1]


def test_a_join_inside_a_fan_out_runs_once_per_item() -> None:
    """Two pages per document, each page joined on its own: page by page on one replica of each branch."""
    shape = graph({"doc": {}, "page": {"doc": (1.0, 2.0)}, "x": {"page": ONE}, "y": {"page": ONE},
                   "join": {"x": ONE, "y": ONE}})  # fmt: skip
    work = Workload.of(shape, requests(0.0), seed=0)
    assert shape.scope["join"] == "page"
    left = run(work, {"doc": 1.0, "page": 1.0, "x": 2.0, "y": 3.0, "join": 0.5}, replicas=1)
    assert served(work, left, "page") == [(0, 2.0), (0, 3.0)]
    assert served(work, left, "y") == [(0, 5.0), (0, 8.0)]
    assert served(work, left, "join") == [(0, 5.5), (0, 8.5)]


def test_nested_fan_out_joins_at_its_own_level_and_gathers_once_per_request() -> None:
    """doc -> 2 pages -> (3 lines, 1 table) joined per page -> gathered per document."""
    shape = graph(
        {"doc": {}, "page": {"doc": (1.0, 2.0)}, "line": {"page": (1.0, 3.0)}, "table": {"page": ONE},
         "merge": {"line": ONE, "table": ONE}, "all": {"merge": ONE}}, ("all",),
    )  # fmt: skip
    work = Workload.of(shape, requests(0.0, 50.0), seed=0)
    assert [work.items[name].count for name in shape.order] == [2, 4, 12, 4, 4, 2]
    left = run(work, {"doc": 1.0, "page": 1.0, "line": 2.0, "table": 4.0, "merge": 1.0, "all": 0.5})
    assert served(work, left, "merge") == [(0, 7.0), (0, 7.0), (1, 57.0), (1, 57.0)]
    assert served(work, left, "all") == [(0, 7.5), (1, 57.5)]
    slow = run(work, {"doc": 1.0, "page": 1.0, "line": 2.0, "table": 4.0, "merge": 1.0, "all": 0.5}, replicas=1)
    # One replica each: pages at 2 and 3, lines 4, 6, .. 14, tables 7 and 11, merges 9 (lines to 8) and 15.
    assert served(work, slow, "merge")[:2] == [(0, 9.0), (0, 15.0)]
    assert served(work, slow, "all")[0] == (0, 15.5)


def test_a_gathering_stage_is_skipped_when_nothing_reached_it() -> None:
    shape = graph({"a": {}, "b": {"a": (1.0, 2.0)}, "g": {"b": ONE}}, ("g",))
    work = Workload.of(shape, requests(0.0, 10.0, b=[2, 0]), seed=0)
    left = run(work, {"a": 1.0, "b": 1.0, "g": 1.0})
    assert served(work, left, "g") == [(0, 3.0)]
    assert work.completion(left).tolist() == [3.0, 11.0]


def test_several_sources_start_at_once_and_join_once_per_request() -> None:
    work = Workload.of(graph({"a": {}, "b": {}, "join": {"a": ONE, "b": ONE}}), requests(0.0, 10.0), seed=0)
    left = run(work, {"a": 1.0, "b": 4.0, "join": 1.0})
    assert served(work, left, "join") == [(0, 5.0), (1, 15.0)]


def test_recorded_visits_replace_declared_edges_and_keep_correlation() -> None:
    """In every sample either x twice or y once: never both, whatever the declared probabilities say."""
    shape = graph({"a": {}, "x": {"a": (0.9, 1.0)}, "y": {"a": (0.9, 1.0)}})
    recorded = RecordedVisits({"a": (1, 1, 1), "x": (2, 0, 0), "y": (0, 1, 1)})
    trace = Trace.from_arrivals(np.arange(9000) * 1.0)
    items = Workload.of(shape, trace, 1, recorded).items
    x = np.bincount(items["x"].request, minlength=9000)
    y = np.bincount(items["y"].request, minlength=9000)
    assert set(zip(x.tolist(), y.tolist(), strict=True)) == {(2, 0), (0, 1)}
    assert abs((x == 2).mean() - 1 / 3) < 4 * 0.5 / np.sqrt(9000)


def test_a_stage_that_no_sample_reached_keeps_its_declared_edges() -> None:
    """That nothing was recorded of it is no reason to take its load for nothing."""
    shape = graph({"a": {}, "x": {"a": ONE}, "y": {"a": (0.5, 2.0)}, "end": {"x": ONE, "y": ONE}})
    recorded = RecordedVisits({"a": (1, 1), "x": (3, 1), "y": (0, 0), "end": (1, 1)})
    items = Workload.of(shape, Trace.from_arrivals(np.arange(9000) * 1.0), 1, recorded).items
    y = np.bincount(items["y"].request, minlength=9000)
    assert set(y.tolist()) == {0, 2}
    assert abs((y == 2).mean() - 0.5) < 4 * 0.5 / np.sqrt(9000)
    assert set(np.bincount(items["x"].request).tolist()) == {1, 3}
    assert items["end"].count == 9000


def test_the_payload_column_says_which_sample_a_request_repeats() -> None:
    trace = Trace.from_arrivals(np.arange(3) * 1.0, {"payload": np.array([1, 0, 1])})
    items = Workload.of(graph({"a": {}, "b": {"a": ONE}}), trace, 1, RecordedVisits({"b": (3, 5)})).items
    assert np.bincount(items["b"].request).tolist() == [5, 3, 5]


def test_visits_in_the_trace_go_before_recorded_ones_and_spread_over_parent_items() -> None:
    shape = graph({"a": {}, "b": {"a": ONE}, "c": {"b": ONE}})
    work = Workload.of(shape, requests(0.0, 1.0, b=[2, 1], c=[5, 0]), 1, RecordedVisits({"b": (9,), "c": (9,)}))
    assert np.diff(work.items["b"].first_child["c"]).tolist() == [3, 2, 0]


@pytest.mark.parametrize(
    ("edges", "visits", "message"),
    [
        ({"a": {}, "b": {"a": ONE}}, {"b": [1.5]}, "visits.b must hold whole numbers"),
        ({"a": {}, "b": {"a": ONE}}, {"b": [-1.0]}, "visits.b must hold whole numbers"),
        ({"a": {}, "b": {"a": ONE}, "c": {"b": ONE}}, {"b": [0], "c": [1]}, "stage 'c'.*none at the stage before"),
        (DIAMOND, {"join": [2]}, "stage 'join'.*at most 1"),
        ({"a": {}, "b": {"a": ONE}}, {"a": [0]}, "stage 'a'.*exactly once"),
    ],
)
def test_visits_that_contradict_the_graph_are_an_error(
    edges: dict[str, dict[str, tuple[float, float]]], visits: dict[str, list[float]], message: str
) -> None:
    with pytest.raises(TraceError, match=message):
        Workload.of(graph(edges), requests(0.0, **visits), seed=0)


def test_ways_through_the_graph_do_not_depend_on_other_stages_or_on_capacity() -> None:
    """Adding a stage leaves the draws of the others alone (common random numbers)."""
    trace = Trace.from_arrivals(np.arange(500) * 1.0)
    small = graph({"a": {}, "b": {"a": (0.5, 2.4)}})
    large = graph({"a": {}, "z": {"a": (0.3, 1.5)}, "b": {"a": (0.5, 2.4)}})
    one, two = (Workload.of(shape, trace, 3).items["b"].request.tolist() for shape in (small, large))
    assert one == two
    assert one != Workload.of(small, trace, 4).items["b"].request.tolist()


def test_visits_of_an_unknown_stage_are_an_error() -> None:
    graph = Graph.build({"first": {}})
    trace = Trace.from_arrivals(np.array([0.0]), {"visits.frist": np.array([1.0])})
    with pytest.raises(TraceError, match="names no stage; did you mean 'first'"):
        build_items(graph, trace, seed=1)
