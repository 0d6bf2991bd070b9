"""The live engine in virtual time: workers that die, hang, misbehave or never come."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from tests.units import swapping
from tests.units.engine_plans import SERVICE_S, ask, make_plan, run, text, values

from headway.domains.pipeline.declare import ReplicaConfig
from headway.errors import ServeError
from headway.serve.engine import Answer, Engine
from headway.serve.gate import Rejected
from headway.serve.wire import Input, Result
from headway.testing.live import FakeWorker, echo, fake_starter


def test_a_killed_workers_batch_is_done_by_the_next_one() -> None:
    started: list[FakeWorker] = []
    plan = make_plan({"a": {}}, max_batch_size=4, max_wait_s=SERVICE_S / 4)

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


def test_a_workers_first_batch_may_take_longer_than_the_others() -> None:
    started: list[FakeWorker] = []
    plan = make_plan({"a": {}})
    times = iter([5.0, SERVICE_S, 5.0])

    async def scenario(engine: Engine) -> list[int]:
        counts = []
        for _ in range(3):
            assert (await ask(engine)).status == "answered"
            counts.append(len(started))
        return counts

    start = fake_starter(lambda n: next(times, SERVICE_S), echo, started)
    assert run(plan, scenario, start=start, batch_timeout_s=1.0, first_batch_timeout_s=10.0) == [1, 1, 2]


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


CAPACITY_PER_S = 100.0
"""Of two replicas that take 20 ms each."""


def test_three_times_the_load_for_a_minute_costs_a_tenth_of_the_capacity_at_most() -> None:
    plan = swapping.make_plan({"a": {}}, a=ReplicaConfig("cpu", replicas=2))
    overload_s, window_s = 60.0, 5.0

    async def scenario(engine: Engine, fakes: swapping.Fakes) -> None:
        answers: list[Answer] = []

        async def offer(rate_per_s: float, seconds: float) -> int:
            refused = 0
            for _ in range(round(rate_per_s * seconds)):
                try:
                    engine.submit(text("x"), answers.append, 1e6)
                except Rejected:
                    refused += 1
                await asyncio.sleep(1.0 / rate_per_s)
            return refused

        assert await offer(0.5 * CAPACITY_PER_S, 2.0) == 0
        began_s = engine.clock()
        refused = await offer(3.0 * CAPACITY_PER_S, overload_s)
        assert refused <= (3.0 - 0.9) * CAPACITY_PER_S * overload_s
        ended = engine.ended.rows()
        in_time_s = (ended[:, 0] + ended[:, 1])[ended[:, 1] <= plan.spec.slo.latency_s]
        # From the first window on: what is let in is let in from the start.
        for since_s in np.arange(began_s, began_s + overload_s - window_s / 2, window_s):
            good = np.count_nonzero((in_time_s >= since_s) & (in_time_s < since_s + window_s))
            assert good >= 0.9 * CAPACITY_PER_S * window_s, since_s - began_s
        assert engine.counts.late == 0

        await asyncio.sleep(5.0)
        before = len(answers)
        assert await offer(0.5 * CAPACITY_PER_S, 2.0) == 0
        await asyncio.sleep(1.0)
        assert [answer.status for answer in answers[before:]] == ["answered"] * 100
        assert float(np.max(engine.ended.rows()[-100:, 1])) == pytest.approx(swapping.SERVICE_S["cpu"])

    swapping.play(plan, scenario)
