"""The live engine in virtual time: limits, deadlines, replicas that come and go, draining."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.units.engine_plans import SERVICE_S, ask, make_plan, run, text

from headway.errors import ServeError
from headway.serve.engine import Answer, Engine, Limits
from headway.serve.gate import Rejected
from headway.serve.wire import Failure, Input, Payload, Result
from headway.testing.live import FakeWorker, echo, fake_starter


def test_a_full_queue_refuses_and_recovers() -> None:
    plan = make_plan({"a": {}})

    async def scenario(engine: Engine) -> tuple[list[Any], Answer, dict[str, int]]:
        many = await asyncio.gather(*(ask(engine) for _ in range(10)), return_exceptions=True)
        return many, await ask(engine), engine.counts.to_dict()

    many, after, counts = run(plan, scenario, limits=Limits(queue_limit=4))
    # One is worked on at once, four wait.
    assert sum(isinstance(answer, Answer) for answer in many) == 5
    assert {error.status for error in many if isinstance(error, Rejected)} == {429}
    assert after.status == "answered"
    assert counts == {
        "offered": 11, "answered": 6, "rejected": 5, "dropped": 0, "failed": 0, "late": 0, "in_flight": 0,
    }  # fmt: skip


def test_a_request_past_its_deadline_is_dropped_when_a_batch_is_formed() -> None:
    plan = make_plan({"a": {}})

    async def scenario(engine: Engine) -> list[Answer]:
        return await asyncio.gather(ask(engine), ask(engine, timeout_s=SERVICE_S / 2), ask(engine))

    answers = run(plan, scenario, limits=Limits(keep_promise=False))
    assert [answer.status for answer in answers] == ["answered", "dropped", "answered"]


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


@pytest.mark.parametrize(
    ("requests", "pool", "running"),
    [(5, None, [2, 2, 2, 0, 0]), (4, None, [2, 0, 0, 0]), (5, 2, [0, 0, 0, 0, 0])],
)
def test_a_full_batch_begins_before_the_answers_of_the_last_one_go_out(
    requests: int, pool: int | None, running: list[int]
) -> None:
    plan = make_plan({"a": {}}, pool=pool, max_batch_size=2)

    async def scenario(engine: Engine) -> list[int]:
        running = []
        for _ in range(requests):
            engine.submit(text("x"), lambda _: running.append(engine.stations["a"].stats(0.0).running))
        await asyncio.sleep(1.0)
        return running

    assert run(plan, scenario) == running


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
