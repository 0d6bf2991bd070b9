"""Laws of the live engine, in virtual time: it decides as the simulator does, and answers everything exactly once."""

from __future__ import annotations

import asyncio

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from headway.domains.pipeline.declare import ReplicaConfig
from headway.plan.plan import Plan
from headway.policy.batching import take
from headway.profile import Profile
from headway.profile.profile import Row
from headway.serve.batcher import BatchStation
from headway.serve.engine import Answer, Engine, Limits
from headway.serve.gate import Rejected
from headway.serve.wire import Failure, Input, Payload, Result
from headway.sim.simulation import run_stages, simulate, workload
from headway.spec.model import Spec
from headway.testing.live import FakeWorker, echo, fake_starter, fake_stations, run_virtual
from headway.trace import Trace

# Figures of no common measure: sums that ought to differ must not coincide.
MEANS = {1: 0.010 * 2**0.5, 2: 0.010 * 3**0.5, 4: 0.010 * 5**0.5}


def make_plan(stages: dict[str, dict[str, object]], configs: dict[str, ReplicaConfig], pool: int | None = None) -> Plan:
    supply = {"cpu": {"price": "$1/h"}}
    document = {"slo": {"latency": "1s"}, "supply": supply, "stages": stages}
    if pool is not None:
        document["supply"] = {"cpu": {"price": "$1/h", "pool": "host"}}
        document["pools"] = {"host": {"cores": pool}}
    # Slightly different times per stage, so that no two events of different stages coincide.
    rows = [
        Row(name, "cpu", size, mean_s * (1 + 0.0137 * index))
        for index, name in enumerate(stages)
        for size, mean_s in MEANS.items()
    ]
    return Plan(Spec.from_dict(document), Profile.from_rows(rows), configs)


async def play(engine: Engine, trace: Trace, timeout_s: float = 1e6) -> tuple[np.ndarray, list[Answer | None]]:
    """Offer a trace's requests to an engine; return their latencies (infinite when not answered) and answers."""
    loop = asyncio.get_running_loop()
    latency_s = np.full(trace.requests, np.inf)
    answers: list[Answer | None] = [None] * trace.requests
    await engine.start()
    begin_s = loop.time()

    def offer(i: int) -> None:
        def end(answer: Answer) -> None:
            assert answers[i] is None, "answered twice"
            answers[i] = answer
            if answer.status == "answered":
                latency_s[i] = loop.time() - begin_s - trace.arrival_s[i]

        try:
            engine.submit(Payload("text", str(i).encode()), end, timeout_s)
        except Rejected as error:
            end(Answer("rejected", error=str(error)))
        offered = engine.counts
        assert offered.offered == sum(offered.by_status.values()) + offered.in_flight
        assert offered.in_flight >= 0

    for i, arrival_s in enumerate(trace.arrival_s):
        loop.call_at(begin_s + arrival_s, offer, i)
    await asyncio.sleep(trace.duration_s + 1e-6)
    await engine.drain(1e6)
    await engine.stop()
    return latency_s, answers


def live_latency_s(plan: Plan, trace: Trace, timeout_s: float = 1e6) -> np.ndarray:
    async def main() -> np.ndarray:
        loop = asyncio.get_running_loop()
        engine = Engine(plan, stations=fake_stations(plan, batch_timeout_s=1e9), clock=loop.time, limits=NO_LIMIT)
        latency_s, _ = await play(engine, trace, timeout_s)
        return latency_s

    return run_virtual(main)


def assert_same_completions(trace: Trace, found_s: np.ndarray, expected_s: np.ndarray) -> None:
    # Requests whose joins become ready at the very same instant may swap places, so times are compared in order.
    np.testing.assert_allclose(
        np.sort(trace.arrival_s + found_s), np.sort(trace.arrival_s + expected_s), rtol=0, atol=1e-7
    )


def rounding_decides(plan: Plan, trace: Trace) -> bool:
    """Whether some completions are one instant but for rounding: the same times, added up in another order.

    The simulator tells them apart, and an event loop, whose timers within its clock's resolution are one, does not.
    """
    runs = run_stages(plan, workload(plan, trace, 0), sampled=False)
    gap_s = np.diff(np.sort(np.concatenate([run.departures.done_s for run in runs.values()])))
    return bool(np.any((gap_s > 0) & (gap_s < 1e-8)))


NO_LIMIT = Limits(queue_limit=0, keep_promise=False)
SHAPES: dict[str, dict[str, dict[str, object]]] = {
    "single": {"a": {}},
    "tandem": {"a": {}, "b": {"after": "a"}, "c": {"after": "b"}},
    "join": {"a": {}, "b": {"after": "a"}, "c": {"after": "a"}, "d": {"after": ["b", "c"]}},
    "gather": {"a": {}, "b": {"after": "a", "fan_out": 3}, "c": {"after": "b", "gather": True}},
    "fan": {"a": {}, "b": {"after": "a", "fan_out": 2}, "c": {"after": "b", "fan_out": 2}},
    "nested": {
        "a": {},
        "b": {"after": "a", "fan_out": 2},
        "c": {"after": "b"},
        "d": {"after": "b"},
        "e": {"after": ["c", "d"]},
        "f": {"after": "e", "gather": True},
    },
}


@st.composite
def cases(draw: st.DrawFn, pooled: bool = False) -> tuple[Plan, Trace]:
    stages = SHAPES[draw(st.sampled_from(sorted(SHAPES)))]
    waits = st.just(0.0) if pooled else st.sampled_from([0.0, 0.0, 0.004, 0.03])
    configs = {
        name: ReplicaConfig("cpu", draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 4])), max_wait_s=draw(waits))
        for name in stages
    }
    trace = Trace.poisson(
        rate=draw(st.sampled_from([20.0, 80.0, 200.0])), requests=60, seed=draw(st.integers(0, 10**6))
    )
    return make_plan(stages, configs, pool=draw(st.integers(1, 3)) if pooled else None), trace


@settings(max_examples=30, deadline=None)
@given(cases())
def test_the_engine_in_virtual_time_equals_the_simulator(case: tuple[Plan, Trace]) -> None:
    plan, trace = case
    assume(not rounding_decides(plan, trace))
    assert_same_completions(trace, live_latency_s(plan, trace), simulate(plan, trace, mode="mean").latency_s)


@settings(max_examples=25, deadline=None)
@given(cases(pooled=True))
def test_shared_cores_are_given_out_as_in_the_simulator(case: tuple[Plan, Trace]) -> None:
    plan, trace = case
    assume(not rounding_decides(plan, trace))
    assert_same_completions(trace, live_latency_s(plan, trace), simulate(plan, trace, mode="mean").latency_s)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 4]), st.sampled_from([0.02, 0.05, 0.2]))
def test_deadlines_drop_the_same_requests_as_in_the_simulator(seed: int, batch: int, timeout_s: float) -> None:
    plan = make_plan(SHAPES["tandem"], {n: ReplicaConfig("cpu", 1, batch) for n in "abc"})
    trace = Trace.poisson(rate=120.0, requests=80, seed=seed)
    expected = simulate(plan, trace, mode="mean", drop_after_s=timeout_s).latency_s
    assert_same_completions(trace, live_latency_s(plan, trace, timeout_s), expected)


@settings(max_examples=20, deadline=None)
@given(cases())
def test_every_recorded_decision_is_what_the_policy_says(case: tuple[Plan, Trace]) -> None:
    plan, trace = case

    async def main() -> Engine:
        loop = asyncio.get_running_loop()
        engine = Engine(
            plan,
            stations=fake_stations(plan, batch_timeout_s=1e9),
            clock=loop.time,
            limits=NO_LIMIT,
            record_decisions=True,
        )
        await play(engine, trace)
        return engine

    engine = run_virtual(main)
    assert engine.decisions
    for d in engine.decisions:
        wanted = take(d.queued, d.oldest_arrival_s, d.now_s, d.max_batch_size, d.max_wait_s)
        assert (d.taken, d.wake_at_s) == wanted
        assert d.idle >= 1
    taken = sum(d.taken for d in engine.decisions)
    assert taken == sum(record.items for record in engine.records.values())


@settings(max_examples=30, deadline=None)
@given(cases(), st.integers(0, 10**6), st.integers(0, 6))
def test_nothing_is_lost_or_answered_twice_whatever_dies(case: tuple[Plan, Trace], seed: int, queue_limit: int) -> None:
    plan, trace = case
    rng = np.random.default_rng(seed)

    def flaky(inputs: list[Input]) -> list[Result]:
        return [
            Result(error=Failure("ValueError", "bad input")) if rng.random() < 0.02 else result
            for result in echo(inputs)
        ]

    async def main() -> tuple[Engine, list[Answer | None]]:
        loop = asyncio.get_running_loop()
        started: list[FakeWorker] = []
        stations = {}
        for name, config in plan.stages.items():
            fields = config.to_dict()
            service = plan.profile.service(name, "default", "cpu")
            stations[name] = BatchStation(
                name,
                fake_starter(service.mean_at, flaky, started),
                replicas=fields["replicas"],
                max_batch_size=fields["max_batch_size"],
                max_wait_s=fields["max_wait_s"],
            )
        engine = Engine(plan, stations=stations, clock=loop.time, limits=Limits(queue_limit=queue_limit))
        for at_s in np.sort(rng.uniform(0.0, trace.duration_s, 12)):
            loop.call_at(at_s, lambda: started[int(rng.integers(len(started)))].die())
        for at_s in rng.uniform(0.0, trace.duration_s, 4):
            stage = plan.spec.graph.order[int(rng.integers(len(plan.stages)))]
            loop.call_at(at_s, engine.set_replicas, stage, int(rng.integers(1, 5)))
        _, answers = await play(engine, trace, timeout_s=0.5)
        return engine, answers

    engine, answers = run_virtual(main)
    counts = engine.counts
    assert counts.in_flight == 0
    assert counts.offered == trace.requests == len(answers)
    by_status = {status: sum(a is not None and a.status == status for a in answers) for status in counts.by_status}
    assert by_status == counts.by_status
    assert sum(by_status.values()) == trace.requests


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(SHAPES)))
def test_the_answer_does_not_depend_on_what_finishes_first(seed: int, shape: str) -> None:
    stages = {name: dict(fields) for name, fields in SHAPES[shape].items()}
    for fields in stages.values():
        if "after" in fields and isinstance(fields["after"], str) and "gather" not in fields:
            fields.update(probability=0.6, fan_out=1.5)
    plan = make_plan(stages, {name: ReplicaConfig("cpu", 2, 2) for name in stages})
    trace = Trace.poisson(rate=100.0, requests=30, seed=seed)

    def answers(slow: float) -> list[tuple[tuple[str, Payload], ...]]:
        async def main() -> list[tuple[tuple[str, Payload], ...]]:
            rng = np.random.default_rng(seed)
            stations = {
                name: BatchStation(
                    name, fake_starter(lambda n: 0.01 + slow * float(rng.random())), replicas=2, max_batch_size=2
                )
                for name in stages
            }
            engine = Engine(plan, stations=stations, clock=asyncio.get_running_loop().time, seed=seed, limits=NO_LIMIT)
            _, found = await play(engine, trace)
            return [answer.results for answer in found if answer is not None]

        return run_virtual(main)

    assert answers(0.0) == answers(0.5)
