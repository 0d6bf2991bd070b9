"""What only the event kernel can do: unequal replicas, shared cores, bounded queues, replicas that come and go."""

from __future__ import annotations

import numpy as np
import pytest

from headway.errors import PlanError
from headway.sim.eventsim import EventSimulation, ReplicaGroup, StageSetup
from headway.sim.replicas import ReplicaStation
from headway.sim.simulation import StageRun, build_outcome
from headway.sim.station import Floats
from headway.sim.workload import Workload
from headway.spec.graph import Graph, GraphEdge
from headway.testing.examples import tiny_plan
from headway.trace import Trace


def table(*batch_s: float) -> Floats:
    return np.array([batch_s[0], *batch_s])[:, None]


def chain(*stages: str) -> Graph:
    return Graph.build(
        {s: {stages[at - 1]: GraphEdge(stages[at - 1], s, 1.0, 1.0)} if at else {} for at, s in enumerate(stages)}
    )


def workload(arrival_s: list[float] | Floats, *stages: str) -> Workload:
    return Workload.of(chain(*stages), Trace.from_arrivals(np.array(arrival_s)), 0)


def finished(simulation: EventSimulation, stage: str) -> list[float]:
    """Return when each item left the stage, by item; infinite for those that did not."""
    left = simulation.departures()[stage]
    done_s = np.full(simulation.work.items[stage].count, np.inf)
    done_s[left.item] = left.done_s
    return done_s.tolist()


@pytest.mark.parametrize("slow_first", [True, False])
def test_of_idle_replicas_the_quickest_goes_first_however_the_groups_are_ordered(slow_first: bool) -> None:
    groups = [ReplicaGroup(table(5.0), 1), ReplicaGroup(table(1.0), 1)]
    setup = StageSetup(groups if slow_first else groups[::-1])
    simulation = EventSimulation(workload([0.0, 0.5, 2.0, 6.0], "s"), {"s": setup}, {})
    simulation.advance(np.inf)
    # 0.0 and 2.0 find the quick one idle; 0.5 takes the slow one at once; at 6.0 both are idle.
    assert finished(simulation, "s") == [1.0, 5.5, 3.0, 7.0]


def test_unequal_replicas_need_tables_of_one_shape() -> None:
    groups = [ReplicaGroup(table(1.0), 1), ReplicaGroup(table(1.0, 2.0), 1)]
    with pytest.raises(PlanError, match="same batch sizes"):
        EventSimulation(workload([0.0], "s"), {"s": StageSetup(groups)}, {})


def test_on_one_core_downstream_goes_first_and_two_stages_are_one_server() -> None:
    """Whoever has left the first stage is served by the second before anyone new starts: one server in all but name."""
    trace = Trace.from_arrivals(np.floor(np.random.default_rng(3).uniform(0, 400, 300)).cumsum() / 64)
    work = Workload.of(chain("a", "b"), trace, 0)
    one, two = 96 / 64, 60 / 64
    times = {"a": one, "b": two}
    setups = {stage: StageSetup([ReplicaGroup(table(s), 1, pool="p")]) for stage, s in times.items()}
    simulation = EventSimulation(work, setups, {"p": 1})
    simulation.advance(np.inf)
    single = Workload.of(chain("both"), trace, 0)
    left = {"both": single.run("both", ReplicaStation.always("both", table(one + two), 1), {})}
    done_s = work.completion(simulation.departures())
    assert done_s.tolist() == single.completion(left).tolist()
    assert np.any(done_s - trace.arrival_s > one + two), "requests queued"


@pytest.mark.parametrize(("cores", "threads"), [(1, (1, 1)), (3, (1, 1)), (4, (2, 1)), (5, (2, 3))])
def test_never_more_threads_compute_than_the_pool_has_cores(cores: int, threads: tuple[int, int]) -> None:
    rng = np.random.default_rng(cores)
    columns = np.sort(rng.uniform(0.5, 1.5, 1 << 12))
    tables = {stage: np.outer([1.0, 1.0, 1.5, 1.8], columns) for stage in "ab"}
    trace = Trace.poisson(rate=1.2 * cores, requests=3000, seed=5)
    setups = {
        stage: StageSetup([ReplicaGroup(tables[stage], 4, pool="p", threads=t)])
        for stage, t in zip("ab", threads, strict=True)
    }
    work = Workload.of(chain("a", "b"), trace, 1)
    simulation = EventSimulation(work, setups, {"p": cores})
    simulation.advance(np.inf)
    left, events = simulation.departures(), []
    waiting = []
    for stage, t in zip("ab", threads, strict=True):
        arrivals = work.arrivals(stage, left)
        done_s = np.empty(3000)
        done_s[left[stage].item] = left[stage].done_s
        spans = np.unique(np.stack([left[stage].start_s, done_s[arrivals.item]], axis=1), axis=0)
        assert spans.shape[0] == left[stage].batches
        events += [(s, t) for s, _ in spans] + [(e, -t) for _, e in spans]
        waiting.append((arrivals.arrival_s, left[stage].start_s))
    events.sort()
    moments, change = np.array(events).T
    used = np.cumsum(change)[np.append(np.diff(moments) > 0, True)]
    moments = np.unique(moments)
    assert used.max() <= cores
    assert used.min() >= 0
    queued = sum(np.searchsorted(a, moments, "right") - np.searchsorted(s, moments, "right") for a, s in waiting)
    assert np.all(used[queued > 0] > cores - max(threads)), "cores idle only when no waiting batch would fit on them"


def test_a_replica_on_free_cores_serves_while_a_quicker_one_waits_for_its_own() -> None:
    """The quick replica's pool is taken by the other stage; the slow replica has cores of its own."""
    setups = {
        "a": StageSetup([ReplicaGroup(table(10.0), 1, pool="small")]),
        "b": StageSetup([ReplicaGroup(table(1.0), 1, pool="small"), ReplicaGroup(table(4.0), 1, pool="large")]),
    }
    work = workload([0.0, 1.0], "a", "b")
    simulation = EventSimulation(work, setups, {"small": 1, "large": 1})
    simulation.advance(np.inf)
    # At 10 the first request frees the small pool; downstream goes first and takes it; the second starts at 11.
    assert finished(simulation, "b") == [11.0, 22.0]
    unequal = [ReplicaGroup(table(1.0), 1, pool="small"), ReplicaGroup(table(40.0), 1)]
    setups = {"a": StageSetup([ReplicaGroup(table(10.0), 3)]), "b": StageSetup(unequal)}
    wide = EventSimulation(workload([0.0, 0.0, 0.0], "a", "b"), setups, {"small": 1})
    wide.advance(np.inf)
    assert sorted(finished(wide, "b")) == [11.0, 12.0, 50.0], "two idle replicas, three items: quick, slow, quick again"


def test_threads_that_do_not_fit_and_unknown_pools_are_errors() -> None:
    work = workload([0.0], "s")
    with pytest.raises(PlanError, match="3 threads do not fit"):
        EventSimulation(work, {"s": StageSetup([ReplicaGroup(table(1.0), 1, pool="p", threads=3)])}, {"p": 2})
    with pytest.raises(PlanError, match="has no group"):
        EventSimulation(work, {"s": StageSetup([])}, {})
    with pytest.raises(PlanError, match="pool 'mian' does not exist; did you mean 'main'"):
        EventSimulation(work, {"s": StageSetup([ReplicaGroup(table(1.0), 1, pool="mian")])}, {"main": 2})


def test_a_full_queue_refuses_and_the_outcome_says_rejected() -> None:
    """One replica, one place to wait: of five requests at once one is served, one waits, three are refused."""
    plan = tiny_plan()
    trace = Trace.from_arrivals(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 9.0]), {"visits.second": np.ones(6)})
    work = Workload.of(plan.spec.graph, trace, 0)
    setups = {
        "first": StageSetup([ReplicaGroup(table(1.0), 1)], queue_limit=2),
        "second": StageSetup([ReplicaGroup(table(0.5), 1)]),
    }
    simulation = EventSimulation(work, setups, {})
    simulation.advance(np.inf)
    left = simulation.departures()
    assert simulation.refused.tolist() == [False, False, True, True, True, False]
    assert left["first"].refused.tolist() == [2, 3, 4]
    assert left["first"].dropped.size == left["first"].unserved.size == 0
    runs = {name: StageRun(simulation.arrived_s(name), left[name], 1) for name in left}
    outcome = build_outcome(plan, work, runs, seed=0, mode="mean")
    assert outcome.latency_s.tolist() == [1.5, 2.5, np.inf, np.inf, np.inf, 1.5]
    assert outcome.counts() == {
        "offered": 6, "answered": 3, "late": 3, "dropped": 0, "rejected": 3, "failed": 0, "in_flight": 0,
    }  # fmt: skip
    assert outcome.stages["first"].items == 3


def test_refused_dropped_and_unserved_requests_are_told_apart() -> None:
    """The replica leaves at 2: served 0 to 1 and 1 to 2, then one given up, the rest left in the queue or refused."""
    plan = tiny_plan()
    trace = Trace.from_arrivals(np.array([0.0, 0.1, 0.2, 1.9, 1.95, 3.0]), {"visits.second": np.zeros(6)})
    work = Workload.of(plan.spec.graph, trace, 0, drop_after_s=0.85)
    setups = {
        "first": StageSetup([ReplicaGroup(table(1.0), 1, until_s=1.5)], queue_limit=3),
        "second": StageSetup([ReplicaGroup(table(0.5), 1)]),
    }
    simulation = EventSimulation(work, setups, {})
    simulation.advance(np.inf)
    left = simulation.departures()["first"]
    # At 1.0 the second (due by 0.95) is given up and the third (due by 1.05) is served.
    assert left.item.tolist() == [0, 2]
    assert left.dropped.tolist() == [1]
    assert left.unserved.tolist() == [3, 4, 5]
    runs = {name: StageRun(simulation.arrived_s(name), part, 1) for name, part in simulation.departures().items()}
    counts = build_outcome(plan, work, runs, seed=0, mode="mean").counts()
    assert (counts["answered"], counts["dropped"], counts["rejected"], counts["in_flight"]) == (2, 1, 0, 3)


def test_a_replica_added_mid_run_starts_after_its_start_up_delay() -> None:
    work = workload(np.arange(8) * 1.0, "s")
    simulation = EventSimulation(work, {"s": StageSetup([ReplicaGroup(table(2.0), 1)])}, {}, spare_replicas=1)
    simulation.advance(3.0)
    assert simulation.queued("s") == 2
    added = simulation.add_replica("s", from_s=3.0 + 2.5, startup_s=2.5)
    assert simulation.replicas("s") == (0, added)
    simulation.advance(np.inf)
    # Alone: 0-2, 2-4, 4-6; from 5.5 on the backlog (requests 3, 4, ...) has two servers.
    assert finished(simulation, "s") == [2.0, 4.0, 6.0, 7.5, 8.0, 9.5, 10.0, 11.5]
    assert simulation.held_s("s", 0.0, 12.0) == 12.0 + (12.0 - 3.0), "the start-up is paid for"


def test_a_retired_replica_finishes_what_it_has_begun_and_is_held_until_then() -> None:
    work = workload([0.0, 0.1, 0.2, 0.3], "s")
    simulation = EventSimulation(work, {"s": StageSetup([ReplicaGroup(table(2.0), 2)])}, {})
    assert simulation.advance(1.0) == 2.0
    simulation.retire_replica(simulation.replicas("s")[0], until_s=1.0)
    simulation.advance(np.inf)
    assert finished(simulation, "s") == [2.0, 2.1, 4.1, 6.1]
    assert len(simulation.replicas("s")) == 1
    assert simulation.held_s("s", 0.0, 10.0) == 2.0 + 10.0


def test_changes_in_the_past_and_beyond_the_room_are_errors() -> None:
    work = workload([0.0, 5.0], "s")
    simulation = EventSimulation(work, {"s": StageSetup([ReplicaGroup(table(1.0), 1)])}, {}, spare_replicas=1)
    simulation.advance(3.0)
    with pytest.raises(PlanError, match=r"cannot change at 2\.5 s, the simulation stands at 3\.0 s"):
        simulation.add_replica("s", from_s=2.5)
    with pytest.raises(PlanError, match="cannot change"):
        simulation.retire_replica(0, until_s=1.0)
    simulation.add_replica("s", from_s=3.0)
    with pytest.raises(PlanError, match="spare_replicas"):
        simulation.add_replica("s", from_s=4.0)


def test_a_stage_without_replicas_serves_once_one_is_added() -> None:
    simulation = EventSimulation(
        workload([0.0, 1.0], "s"), {"s": StageSetup([ReplicaGroup(table(1.0), 0)])}, {}, spare_replicas=1
    )
    assert simulation.advance(2.0) == np.inf
    assert simulation.queued("s") == 2
    simulation.add_replica("s", from_s=4.0)
    simulation.advance(np.inf)
    assert finished(simulation, "s") == [5.0, 6.0]


def scaled_by_feedback(step_s: float, seed: int) -> tuple[list[float], int]:
    """Add a replica whenever more than ten wait, as a tuner would: look, decide, advance."""
    trace = Trace.poisson(rate=8, seconds=60, seed=seed)
    work = Workload.of(chain("a", "b"), trace, seed)
    setups = {"a": StageSetup([ReplicaGroup(table(0.2, 0.3), 1)]), "b": StageSetup([ReplicaGroup(table(0.1), 1)])}
    simulation = EventSimulation(work, setups, {}, spare_replicas=20)
    now_s = 0.0
    while simulation.advance(now_s) < np.inf:
        for stage in simulation.stages:
            if simulation.queued(stage) > 10 and len(simulation.replicas(stage)) < 8:
                simulation.add_replica(stage, from_s=now_s + 1.5, startup_s=1.5)
        now_s += step_s
    return work.completion(simulation.departures()).tolist(), sum(
        len(simulation.replicas(s)) for s in simulation.stages
    )


def test_feedback_can_be_simulated_and_is_reproducible() -> None:
    first, again, other = (scaled_by_feedback(0.5, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first[1] > 2, "the loop did add replicas"
    assert np.isfinite(first[0]).all()
