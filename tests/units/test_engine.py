"""The live engine with workers that only take virtual time: ways through the graph, faults, limits, live changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from headway.domains.pipeline.declare import ReplicaConfig
from headway.errors import ServeError
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.serve.batcher import BatchStation
from headway.serve.engine import Answer, Engine, Limits, Rejected
from headway.serve.replica import StartWorker
from headway.serve.wire import Failure, Input, Payload, Result
from headway.spec.model import Spec
from headway.testing.live import Behaviour, FakeWorker, echo, fake_starter, run_virtual

SERVICE_S = 0.01


def text(value: str) -> Payload:
    return Payload("text", value.encode())


def make_plan(stages: dict[str, dict[str, Any]], pool: int | None = None, **config: Any) -> Plan:
    hardware: dict[str, Any] = {"price": "$1/h", **({} if pool is None else {"pool": "host", "threads": 2})}
    pools = {} if pool is None else {"host": {"cores": pool}}
    spec = Spec.from_dict({"slo": {"latency": "1s"}, "supply": {"cpu": hardware}, "pools": pools, "stages": stages})
    rows = [Row(name, "cpu", size, SERVICE_S) for name in stages for size in (1, 8)]
    return Plan(spec, Profile.from_rows(rows), {name: ReplicaConfig("cpu", **config) for name in stages})


def upper(inputs: list[Input]) -> list[Result]:
    return [Result(value=text(item.data.decode().upper())) for item in inputs if isinstance(item, Payload)]


def run(
    plan: Plan,
    scenario: Callable[[Engine], Coroutine[Any, Any, Any]],
    behaviours: dict[str, Behaviour] | None = None,
    start: StartWorker | None = None,
    limits: Limits | None = None,
    **options: Any,
) -> Any:
    """Start an engine with fake workers in virtual time, play the scenario, stop it; return what the scenario does."""

    async def main() -> Any:
        stations = {}
        for name in plan.spec.graph.order:
            fields = plan.stages[name].to_dict()
            supply = plan.spec.supply["cpu"]
            stations[name] = BatchStation(
                name,
                start or fake_starter(lambda n: SERVICE_S, (behaviours or {}).get(name, echo)),
                replicas=fields["replicas"],
                max_batch_size=fields["max_batch_size"],
                max_wait_s=fields["max_wait_s"],
                threads=supply.threads,
                pool=supply.pool,
                **options,
            )
        engine = Engine(plan, stations=stations, clock=asyncio.get_running_loop().time, limits=limits)
        await engine.start()
        try:
            return await scenario(engine)
        finally:
            await engine.drain(1e6)
            await engine.stop()

    return run_virtual(main)


def values(answer: Answer) -> list[tuple[str, str]]:
    return [(stage, payload.data.decode()) for stage, payload in answer.results]


async def ask(engine: Engine, value: str = "x", timeout_s: float | None = None) -> Answer:
    return await engine.infer(text(value), timeout_s)


def test_a_value_passes_along_every_edge_and_the_last_results_are_the_answer() -> None:
    plan = make_plan({"a": {}, "b": {"after": "a", "fan_out": 2}, "c": {"after": "a"}})
    answer = run(plan, ask, {"a": upper})
    assert answer.status == "answered"
    assert values(answer) == [("b", "X"), ("b", "X"), ("c", "X")]


def test_data_decides_the_branches_and_their_number() -> None:
    plan = make_plan({"a": {}, "b": {"after": "a", "probability": 0.5}, "c": {"after": "a"}})

    def choose(inputs: list[Input]) -> list[Result]:
        return [Result(branches={"b": [text("1"), text("2")]}) for _ in inputs]

    assert values(run(plan, ask, {"a": choose})) == [("b", "1"), ("b", "2")]


def test_an_item_that_chooses_no_branch_ends_without_a_value() -> None:
    plan = make_plan({"a": {}, "b": {"after": "a"}})
    answer = run(plan, ask, {"a": lambda inputs: [Result(branches={}) for _ in inputs]})
    assert (answer.status, answer.results) == ("answered", ())


def test_a_branch_to_a_stage_that_does_not_follow_fails_the_request() -> None:
    plan = make_plan({"a": {}, "b": {"after": "a"}})
    answer = run(plan, ask, {"a": lambda inputs: [Result(branches={"z": [text("1")]}) for _ in inputs]})
    assert answer.status == "failed"
    assert "'z'" in answer.error
    assert "valid: b" in answer.error


def collect(inputs: list[Input]) -> list[Result]:
    out = []
    for item in inputs:
        assert not isinstance(item, Payload)
        parts = (f"{name}={'+'.join(p.data.decode() for p in payloads)}" for name, payloads in item.items())
        out.append(Result(value=text(" ".join(parts))))
    return out


def test_a_join_waits_for_every_branch_taken_and_a_gather_for_everything() -> None:
    plan = make_plan(
        {
            "split": {},
            "left": {"after": "split"},
            "right": {"after": "split"},
            "merge": {"after": ["left", "right"]},
            "all": {"after": "merge", "gather": True},
        }
    )

    def split(inputs: list[Input]) -> list[Result]:
        return [Result(branches={"left": [text("l1"), text("l2")], "right": [text("r")]}) for _ in inputs]

    answer = run(plan, ask, {"split": split, "merge": collect, "all": collect})
    assert values(answer) == [("all", "merge=left=l1+l2 right=r")]


def test_a_join_runs_on_the_branches_taken_and_is_skipped_when_none_was() -> None:
    plan = make_plan({"a": {}, "b": {"after": "a"}, "c": {"after": "a"}, "d": {"after": ["b", "c"]}})

    def only(*branches: str) -> Behaviour:
        return lambda inputs: [Result(branches={name: [text(name)] for name in branches}) for _ in inputs]

    assert values(run(plan, ask, {"a": only("b"), "d": collect})) == [("d", "b=b")]
    assert run(plan, ask, {"a": only(), "d": collect}).results == ()


def test_a_join_below_a_fan_out_runs_once_per_item_and_a_gather_keeps_the_order_of_items() -> None:
    plan = make_plan(
        {
            "a": {},
            "b": {"after": "a"},
            "c": {"after": "b"},
            "d": {"after": ["b", "c"]},
            "e": {"after": "d", "gather": True},
        },
        replicas=2,
    )

    def three(inputs: list[Input]) -> list[Result]:
        return [Result(branches={"b": [text("1"), text("2"), text("3")]}) for _ in inputs]

    answer = run(plan, ask, {"a": three, "d": collect, "e": collect})
    assert values(answer) == [("e", "d=b=1 c=1+b=2 c=2+b=3 c=3")]


def test_one_bad_input_fails_its_request_alone() -> None:
    plan = make_plan({"a": {}}, max_batch_size=8)

    def picky(inputs: list[Input]) -> list[Result]:
        return [
            Result(error=Failure("ValueError", "cannot read it")) if item == text("bad") else Result(value=text("ok"))
            for item in inputs
        ]

    async def scenario(engine: Engine) -> list[Answer]:
        return await asyncio.gather(*(ask(engine, value) for value in ("good", "bad", "good")))

    answers = run(plan, scenario, {"a": picky})
    assert [answer.status for answer in answers] == ["answered", "failed", "answered"]
    assert answers[1].error == "stage 'a': ValueError: cannot read it"


def test_edges_are_drawn_as_declared_and_by_the_seed() -> None:
    plan = make_plan({"a": {}, "b": {"after": "a", "probability": 0.25, "fan_out": 2.5}}, replicas=4, max_batch_size=8)

    async def scenario(engine: Engine) -> list[int]:
        answers = await asyncio.gather(*(ask(engine) for _ in range(1000)))
        return [sum(stage == "b" for stage, _ in answer.results) for answer in answers]

    counts = run(plan, scenario)
    assert counts == run(plan, scenario)
    assert set(counts) == {0, 2, 3}
    assert 200 < sum(n > 0 for n in counts) < 300
    assert 2.4 < sum(counts) / sum(n > 0 for n in counts) < 2.6


def test_a_killed_workers_batch_is_done_by_the_next_one() -> None:
    started: list[FakeWorker] = []
    plan = make_plan({"a": {}}, max_batch_size=4)

    async def scenario(engine: Engine) -> tuple[list[Answer], Any]:
        asyncio.get_running_loop().call_later(SERVICE_S / 2, lambda: started[0].die())
        answers = await asyncio.gather(*(ask(engine, str(i)) for i in range(4)))
        return answers, engine.stats()["stages"]["a"]

    answers, stats = run(plan, scenario, start=fake_starter(lambda n: SERVICE_S, echo, started))
    assert [values(answer) for answer in answers] == [[("a", str(i))] for i in range(4)]
    assert (stats["retries"], stats["restarts"], len(started)) == (4, 1, 2)


def test_an_input_that_kills_workers_fails_alone_after_its_retries() -> None:
    started: list[FakeWorker] = []
    plan = make_plan({"a": {}}, max_batch_size=4)

    def deadly(inputs: list[Input]) -> list[Result]:
        if text("poison") in inputs:
            started[-1].die()
            from headway.errors import WorkerDied

            raise WorkerDied("killed by its input")
        return echo(inputs)

    async def scenario(engine: Engine) -> list[Answer]:
        return await asyncio.gather(*(ask(engine, value) for value in ("1", "poison", "3", "4")))

    answers = run(plan, scenario, start=fake_starter(lambda n: SERVICE_S, deadly, started))
    assert [answer.status for answer in answers] == ["answered", "failed", "answered", "answered"]
    assert "3 times" in answers[1].error


def test_a_hanging_worker_is_replaced_and_its_batch_retried() -> None:
    started: list[FakeWorker] = []
    plan = make_plan({"a": {}})
    times = iter([100.0])

    async def scenario(engine: Engine) -> Answer:
        return await ask(engine)

    start = fake_starter(lambda n: next(times, SERVICE_S), echo, started)
    answer = run(plan, scenario, start=start, batch_timeout_s=2.0)
    assert answer.status == "answered"
    assert len(started) == 2


def test_a_stage_whose_worker_cannot_be_restarted_refuses_requests_until_it_can() -> None:
    started: list[FakeWorker] = []
    plan = make_plan({"a": {}})
    broken_until_s = 1.0

    async def before() -> None:
        loop = asyncio.get_running_loop()
        if started and loop.time() < broken_until_s:
            raise ServeError("no memory")

    async def scenario(engine: Engine) -> tuple[Rejected, Answer]:
        started[0].die()
        await asyncio.sleep(0.05)
        assert not engine.ready
        with pytest.raises(Rejected, match="no live replica") as caught:
            await ask(engine)
        await asyncio.sleep(3.0)
        assert engine.ready
        return caught.value, await ask(engine)

    refused, answer = run(plan, scenario, start=fake_starter(lambda n: SERVICE_S, echo, started, before))
    assert (refused.status, answer.status) == (503, "answered")


def test_a_full_queue_refuses_and_recovers() -> None:
    plan = make_plan({"a": {}})

    async def scenario(engine: Engine) -> tuple[list[Any], Answer, dict[str, int]]:
        many = await asyncio.gather(*(ask(engine) for _ in range(10)), return_exceptions=True)
        return many, await ask(engine), engine.counts.to_dict()

    many, after, counts = run(plan, scenario, limits=Limits(queue_limit=4))
    assert sum(isinstance(answer, Answer) for answer in many) == 4
    assert {error.status for error in many if isinstance(error, Rejected)} == {429}
    assert after.status == "answered"
    assert counts == {
        "offered": 11, "answered": 5, "rejected": 6, "dropped": 0, "failed": 0, "late": 0, "in_flight": 0,
    }  # fmt: skip


def test_a_request_past_its_deadline_is_dropped_when_a_batch_is_formed() -> None:
    plan = make_plan({"a": {}})

    async def scenario(engine: Engine) -> list[Answer]:
        return await asyncio.gather(ask(engine), ask(engine, timeout_s=SERVICE_S / 2), ask(engine))

    assert [answer.status for answer in run(plan, scenario)] == ["answered", "dropped", "answered"]


def test_a_failed_item_takes_its_siblings_out_of_the_queues() -> None:
    plan = make_plan({"a": {}, "b": {"after": "a", "fan_out": 5}})
    first = iter([True])

    def fail_once(inputs: list[Input]) -> list[Result]:
        return [Result(error=Failure("E", "")) if next(first, False) else Result(value=text("v")) for _ in inputs]

    async def scenario(engine: Engine) -> tuple[Answer, float, Any]:
        answer = await ask(engine)
        await asyncio.sleep(1.0)
        return answer, engine.stats()["stages"]["b"]["items"], engine.stats()["stages"]["b"]["queued"]

    answer, worked_on, queued = run(plan, scenario, {"b": fail_once})
    assert answer.status == "failed"
    assert (worked_on, queued) == (1, 0)


def test_replicas_are_added_and_removed_without_losing_a_request() -> None:
    started: list[FakeWorker] = []
    plan = make_plan({"a": {}})

    async def scenario(engine: Engine) -> tuple[list[Answer], list[Any], float]:
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        asked = [asyncio.ensure_future(ask(engine)) for _ in range(40)]
        states = []
        for count in (4, 1):
            await asyncio.sleep(SERVICE_S / 3)
            engine.set_replicas("a", count)
            await asyncio.sleep(SERVICE_S * 2)
            states.append(engine.stats()["stages"]["a"]["replicas"])
        answers = await asyncio.gather(*asked)
        return answers, states, loop.time() - begin_s

    answers, states, took_s = run(plan, scenario, start=fake_starter(lambda n: SERVICE_S, echo, started))
    assert all(answer.status == "answered" for answer in answers)
    assert [state["ready"] for state in states] == [4, 1]
    assert len(started) == 4
    assert took_s < 40 * SERVICE_S


@pytest.mark.parametrize(("stage", "count", "text"), [("b", 2, "not in the plan"), ("a", 0, "at least 1")])
def test_impossible_replica_counts_are_refused(stage: str, count: int, text: str) -> None:
    async def scenario(engine: Engine) -> None:
        with pytest.raises(ServeError, match=text):
            engine.set_replicas(stage, count)

    run(make_plan({"a": {}}), scenario)


def test_the_longest_idle_replica_works_next() -> None:
    started: list[FakeWorker] = []

    async def scenario(engine: Engine) -> None:
        for _ in range(6):
            await ask(engine)

    run(make_plan({"a": {}}, replicas=3), scenario, start=fake_starter(lambda n: SERVICE_S, echo, started))
    assert [len(worker.batches) for worker in started] == [2, 2, 2]


def test_a_drain_lets_nothing_in_and_finishes_what_is_there() -> None:
    async def scenario(engine: Engine) -> list[Any]:
        asked = [asyncio.ensure_future(ask(engine)) for _ in range(5)]
        await asyncio.sleep(0)
        drained = asyncio.ensure_future(engine.drain())
        await asyncio.sleep(0)
        with pytest.raises(Rejected, match="draining") as caught:
            await ask(engine)
        assert caught.value.status == 503
        await drained
        return [task.result().status for task in asked]

    assert run(make_plan({"a": {}}), scenario) == ["answered"] * 5


def test_stages_that_share_cores_never_compute_on_more_than_there_are() -> None:
    plan = make_plan({"a": {}, "b": {"after": "a"}}, pool=4, replicas=3)

    async def scenario(engine: Engine) -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        await asyncio.gather(*(ask(engine) for _ in range(10)))
        return loop.time() - begin_s, engine.pool("host").free

    took_s, free = run(plan, scenario)
    # 20 batches of two threads on four cores: two at a time.
    assert took_s == pytest.approx(10 * SERVICE_S)
    assert free == 4


def test_a_value_that_ends_early_is_converted_for_readers_outside() -> None:
    plan = make_plan({"a": {}, "b": {"after": "a", "probability": 1e-9}})
    pickled = Payload("object", b"opaque")
    answer = run(plan, ask, {"a": lambda inputs: [Result(value=pickled) for _ in inputs]})
    assert answer.results == (("a", Payload("text", b"opaque")),)


def test_a_request_that_grows_without_bound_fails() -> None:
    plan = make_plan({"a": {}, "b": {"after": "a"}})
    many = [text("x")] * 20_000
    answer = run(plan, ask, {"a": lambda inputs: [Result(branches={"b": many}) for _ in inputs]})
    assert answer.status == "failed"
    assert "beyond 10000 items" in answer.error


def test_statistics_describe_what_happened() -> None:
    async def scenario(engine: Engine) -> Any:
        await asyncio.gather(*(ask(engine) for _ in range(3)))
        return engine.stats(samples=True)

    stats = run(make_plan({"a": {}}), scenario)
    stage = stats["stages"]["a"]
    assert stats["requests"]["answered"] == 3
    assert (stage["items"], stage["batches"]) == (3, 3)
    assert stage["busy_s"] == pytest.approx(3 * SERVICE_S)
    assert stage["queue_wait_s"] == pytest.approx([0.0, SERVICE_S, 2 * SERVICE_S])


def test_what_waits_for_a_stage_that_never_comes_back_is_dropped_at_its_deadline() -> None:
    started: list[FakeWorker] = []

    async def before() -> None:
        if started:
            raise ServeError("no memory")

    async def scenario(engine: Engine) -> list[Answer]:
        asked = [asyncio.ensure_future(ask(engine, timeout_s=0.5)) for _ in range(3)]
        await asyncio.sleep(SERVICE_S / 2)
        started[0].die()
        return [await task for task in asked]

    start = fake_starter(lambda n: SERVICE_S, echo, started, before)
    assert [answer.status for answer in run(make_plan({"a": {}}), scenario, start=start)] == ["dropped"] * 3


def test_a_stop_without_a_drain_still_answers_everyone() -> None:
    async def scenario(engine: Engine) -> list[Answer]:
        asked = [asyncio.ensure_future(ask(engine)) for _ in range(3)]
        await asyncio.sleep(SERVICE_S / 2)
        await engine.stop(0.0)
        assert engine.counts.in_flight == 0
        return [await task for task in asked]

    answers = run(make_plan({"a": {}}), scenario)
    assert {answer.status for answer in answers} == {"failed"}
    assert "stopped" in answers[0].error


def test_a_batch_that_cannot_be_sent_is_tried_alone_and_costs_no_worker() -> None:
    started: list[FakeWorker] = []

    def too_large(inputs: list[Input]) -> list[Result]:
        if len(inputs) > 1:
            raise ServeError("too large")
        return echo(inputs)

    async def scenario(engine: Engine) -> list[Answer]:
        return await asyncio.gather(*(ask(engine) for _ in range(4)))

    start = fake_starter(lambda n: SERVICE_S, too_large, started)
    answers = run(make_plan({"a": {}}, max_batch_size=4), scenario, start=start)
    assert [answer.status for answer in answers] == ["answered"] * 4
    assert len(started) == 1


def test_a_defect_in_a_worker_forgets_no_request_and_keeps_no_cores() -> None:
    started: list[FakeWorker] = []
    defects = iter([TypeError("a defect")])

    def defective(inputs: list[Input]) -> list[Result]:
        for defect in defects:
            raise defect
        return echo(inputs)

    async def scenario(engine: Engine) -> tuple[Answer, int]:
        answer = await ask(engine)
        return answer, engine.pool("host").free

    start = fake_starter(lambda n: SERVICE_S, defective, started)
    answer, free = run(make_plan({"a": {}}, pool=2), scenario, start=start)
    assert (answer.status, free, len(started)) == ("answered", 2, 2)
