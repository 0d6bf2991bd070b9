"""Changes of a live plan in virtual time: what is kept, what is taken back and why, and what is refused."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from tests.units.swapping import Fakes, assert_whole, but, make_plan, play

from headway.domains.pipeline.declare import ReplicaConfig
from headway.errors import ServeError
from headway.plan.plan import Plan
from headway.serve.engine import Answer, Engine
from headway.serve.gate import Rejected
from headway.serve.swap import SwapRefused
from headway.serve.watch import Watch
from headway.serve.wire import Payload

SLO_S = 0.2
ONE: dict[str, dict[str, Any]] = {"a": {}}


async def offer(engine: Engine, rate_per_s: float, seconds: float) -> list[Answer]:
    answers: list[Answer] = []
    for _ in range(round(rate_per_s * seconds)):
        engine.submit(Payload("text", b"x"), answers.append, 1e6)
        await asyncio.sleep(1.0 / rate_per_s)
    return answers


def run(plan: Plan, scenario: Any) -> Any:
    return play(plan, scenario, queue_limit=0, keep_promise=False)


def last(engine: Engine) -> dict[str, Any]:
    found: dict[str, Any] = engine.swaps.to_dict()["last"]
    return found


def test_a_change_that_makes_requests_late_is_taken_back_at_once_and_says_why() -> None:
    plan = make_plan(ONE, a=ReplicaConfig("gpu"))

    async def scenario(engine: Engine, fakes: Fakes) -> None:
        load = asyncio.ensure_future(offer(engine, 100.0, 20.0))
        await asyncio.sleep(6.0)
        # A worker on `cpu` takes 20 ms, which is twice what the load leaves it.
        assert (await engine.swap(but(plan, hardware="cpu"), Watch(10.0)))["state"] == "watching"
        await asyncio.sleep(6.0)
        assert engine.plan == plan
        assert_whole(engine)
        assert last(engine)["state"] == "rolled_back"
        assert "requests missed the promise since the change, and 0 of " in last(engine)["why"]
        # The old replicas were still there: the load never had to wait for one to start.
        assert len(fakes.workers) == 2
        late_before = engine.counts.late
        await load
        assert engine.counts.late - late_before < 100
        assert engine.swaps.results == {"kept": 0, "failed": 0, "rolled_back": 1}

    run(plan, scenario)


def test_more_load_is_not_blamed_on_the_change() -> None:
    plan = make_plan(ONE, a=ReplicaConfig("cpu", replicas=3))

    async def scenario(engine: Engine, fakes: Fakes) -> None:
        await offer(engine, 40.0, 12.0)
        await engine.swap(but(plan, replicas=2), Watch(10.0))
        await offer(engine, 120.0, 12.0)
        assert engine.counts.late > 100
        assert (last(engine)["state"], engine.plan) == ("kept", but(plan, replicas=2))

    run(plan, scenario)


def test_replicas_that_are_added_are_never_taken_back_for_lateness() -> None:
    plan = make_plan(ONE)

    async def scenario(engine: Engine, fakes: Fakes) -> None:
        load = asyncio.ensure_future(offer(engine, 200.0, 24.0))
        await asyncio.sleep(12.0)
        await engine.swap(but(plan, replicas=2), Watch(10.0))
        await load
        assert last(engine)["state"] == "kept"

    run(plan, scenario)


def test_workers_that_die_after_a_change_take_it_back() -> None:
    plan = make_plan(ONE)

    async def scenario(engine: Engine, fakes: Fakes) -> None:
        await engine.swap(but(plan, hardware="gpu", replicas=2), Watch(10.0, max_restarts=2))
        for _ in range(3):
            fakes.workers[-1].die()
            await asyncio.sleep(1.0)
        assert engine.plan == plan
        assert last(engine)["state"] == "rolled_back"
        assert last(engine)["why"] == "3 workers of the stages that changed died"
        assert [answer.status for answer in await offer(engine, 10.0, 1.0)] == ["answered"] * 10

    run(plan, scenario)


def test_what_is_given_up_is_held_until_the_change_was_watched_and_paid_for_what_it_was() -> None:
    plan = make_plan(ONE, a=ReplicaConfig("cpu", replicas=3))

    async def scenario(engine: Engine, fakes: Fakes) -> None:
        await asyncio.sleep(10.0)
        await engine.swap(but(plan, replicas=1, hardware="gpu"), Watch(5.0))
        states = [dict(engine.stats()["stages"]["a"]["replicas"])]
        await asyncio.sleep(10.0)
        stage = engine.stats()["stages"]["a"]
        states.append(stage["replicas"])
        assert states == [{"ready": 1, "starting": 0, "draining": 3}, {"ready": 1, "starting": 0, "draining": 0}]
        assert stage["cost_usd"] == pytest.approx((3 * 15.0 * 1.0 + 10.0 * 5.0) / 3600)

    run(plan, scenario)


def test_batching_alone_is_changed_without_a_start() -> None:
    plan = make_plan(ONE)

    async def scenario(engine: Engine, fakes: Fakes) -> None:
        fakes.start_s = lambda stage: 1e3
        await engine.swap(but(plan, max_batch_size=8, max_wait_s=0.01), Watch(0.0))
        assert asyncio.get_running_loop().time() < 1.0
        assert len(fakes.workers) == 1
        assert_whole(engine)
        await asyncio.gather(*(engine.infer(Payload("text", b"x")) for _ in range(8)))
        assert fakes.workers[0].batches[-1] == 8

    run(plan, scenario)


def test_added_replicas_help_before_the_whole_change_is_ready() -> None:
    plan = make_plan({"a": {}, "b": {"after": "a"}})

    async def scenario(engine: Engine, fakes: Fakes) -> None:
        fakes.start_s = lambda stage: 100.0 if stage == "b" else 0.0
        change = asyncio.ensure_future(engine.swap(but(plan, replicas=2), Watch(0.0)))
        await asyncio.sleep(1.0)
        assert engine.plan == plan
        assert {name: s["replicas"]["ready"] for name, s in engine.stats()["stages"].items()} == {"a": 2, "b": 1}
        assert (await change)["to"] == engine.plan_hash
        assert_whole(engine)

    run(plan, scenario)


def test_replicas_cannot_be_set_while_the_plan_is_changing() -> None:
    async def scenario(engine: Engine, fakes: Fakes) -> None:
        await engine.swap(but(engine.plan, replicas=2), Watch(5.0))
        with pytest.raises(ServeError, match="stage 'a' is being changed"):
            engine.set_replicas("a", 3)
        await asyncio.sleep(6.0)
        engine.set_replicas("a", 3)

    run(make_plan(ONE), scenario)


def test_a_change_is_refused_while_the_server_is_not_ready_and_ends_with_it() -> None:
    plan = make_plan(ONE)

    async def scenario(engine: Engine, fakes: Fakes) -> None:
        fakes.start_s = lambda stage: 100.0
        change = asyncio.ensure_future(engine.swap(but(plan, hardware="gpu")))
        await asyncio.sleep(1.0)
        await engine.stop()
        for asking in (change, engine.swap(but(plan, replicas=2))):
            with pytest.raises(SwapRefused) as caught:
                await asking
            assert caught.value.status == 503
        assert engine.plan == plan

    run(plan, scenario)


def test_a_change_that_only_adds_gives_way_to_the_next_without_losing_what_it_started() -> None:
    plan = make_plan(ONE)

    async def scenario(engine: Engine, fakes: Fakes) -> None:
        fakes.start_s = lambda stage: 30.0
        first = asyncio.ensure_future(engine.swap(but(plan, replicas=3), Watch(0.0)))
        await asyncio.sleep(20.0)
        second = asyncio.ensure_future(engine.swap(but(plan, replicas=4), Watch(0.0), supersede=True))
        assert (await first)["state"] == "kept"
        await asyncio.sleep(11.0)
        assert engine.stats()["stages"]["a"]["replicas"] == {"ready": 3, "starting": 1, "draining": 0}
        await second
        assert len(fakes.workers) == 4
        assert_whole(engine)

    run(plan, scenario)


def test_another_kind_of_worker_is_not_superseded() -> None:
    plan = make_plan(ONE)

    async def scenario(engine: Engine, fakes: Fakes) -> None:
        fakes.start_s = lambda stage: 30.0
        first = asyncio.ensure_future(engine.swap(but(plan, hardware="gpu"), Watch(0.0)))
        await asyncio.sleep(1.0)
        with pytest.raises(SwapRefused, match="is starting; wait for its end"):
            await engine.swap(but(plan, replicas=2), supersede=True)
        await first

    run(plan, scenario)


def test_a_station_that_cannot_be_changed_refuses_and_keeps_its_stage() -> None:
    plan = make_plan(ONE)

    async def scenario(engine: Engine, fakes: Fakes) -> None:
        class Fixed:
            def __init__(self, station: Any) -> None:
                for name in ("queued", "live", "submit", "ask", "stats", "stop", "load"):
                    value = getattr(station, name)
                    setattr(self, name, value)

        station = engine.stations["a"]
        engine.stations["a"] = Fixed(station)  # type: ignore[assignment]
        with pytest.raises(SwapRefused, match="stage 'a': what runs it cannot be changed while it runs"):
            await engine.swap(but(plan, replicas=2))
        engine.stations["a"] = station

    run(plan, scenario)


def test_predictions_alone_make_another_plan_live_without_touching_a_stage() -> None:
    plan = make_plan(ONE)
    told = dataclasses.replace(plan, predicted={"p99_s": 0.1})

    async def scenario(engine: Engine, fakes: Fakes) -> None:
        answer = await engine.swap(told, Watch(0.0))
        assert (answer["changes"], engine.plan, len(fakes.workers)) == ([], told, 1)

    run(plan, scenario)


def promising(plan: Plan, **promise: Any) -> Plan:
    slo = plan.spec.slo.model_copy(update=promise)
    return dataclasses.replace(plan, spec=plan.spec.model_copy(update={"slo": slo}))


def test_another_promise_is_a_change_that_is_named_and_kept_at_once() -> None:
    plan = make_plan(ONE)
    stricter = promising(plan, latency_s=0.01, percentile=95.0)

    async def scenario(engine: Engine, fakes: Fakes) -> None:
        await offer(engine, 10.0, 1.0)
        assert engine.counts.late == 0
        answer = await engine.swap(stricter, Watch(60.0))
        assert (answer["state"], answer["to"], engine.plan_hash) == ("kept", stricter.hash, stricter.hash)
        assert answer["changes"] == [
            {"stage": "", "field": "slo.latency", "from": plan.spec.slo.model_dump(mode="json")["latency_s"],
             "to": stricter.spec.slo.model_dump(mode="json")["latency_s"]},
            {"stage": "", "field": "slo.percentile", "from": 99.0, "to": 95.0},
        ]  # fmt: skip
        assert (last(engine)["id"], engine.swaps.results["kept"]) == (answer["id"], 1)
        # A batch takes 20 ms: every request from here on breaks what is promised from here on.
        await offer(engine, 10.0, 1.0)
        await asyncio.sleep(1.0)
        assert engine.counts.late == 10
        assert len(fakes.workers) == 1
        await engine.swap(but(stricter, max_batch_size=2), Watch(0.0))

    run(plan, scenario)


def test_what_is_let_in_goes_by_the_promise_that_is_live() -> None:
    plan = make_plan(ONE)

    async def scenario(engine: Engine, fakes: Fakes) -> None:
        await offer(engine, 40.0, 1.0)
        assert engine.counts.by_status["rejected"] == 0
        await engine.swap(promising(plan, latency_s=0.001))
        answers: list[Answer] = []
        engine.submit(Payload("text", b"x"), answers.append)
        with pytest.raises(Rejected, match=r"within 0\.001 s"):
            engine.submit(Payload("text", b"x"), answers.append)

    play(plan, scenario)


def test_the_plan_that_is_live_already_is_not_watched_and_in_nobodys_way() -> None:
    plan = make_plan(ONE)

    async def scenario(engine: Engine, fakes: Fakes) -> None:
        answer = await engine.swap(plan, Watch(60.0))
        assert (answer["state"], answer["changes"]) == ("kept", [])
        await engine.swap(but(plan, max_batch_size=2), Watch(0.0))

    run(plan, scenario)


def test_a_pause_begins_no_batch_and_loses_nothing() -> None:
    plan = make_plan(ONE)

    async def scenario(engine: Engine, fakes: Fakes) -> None:
        clock = asyncio.get_running_loop().time
        load = asyncio.ensure_future(offer(engine, 20.0, 8.0))
        await asyncio.sleep(2.0)
        begun_s, before = clock(), sum(len(worker.batches) for worker in fakes.workers)
        await engine.swap(but(plan, replicas=2), Watch(0.0), pause_s=3.0)
        await asyncio.sleep(2.9)
        assert sum(len(worker.batches) for worker in fakes.workers) - before <= 1
        assert engine.stats()["stages"]["a"]["queued"] > 50
        answers = await load
        await engine.drain(1e6)
        assert [answer.status for answer in answers] == ["answered"] * 160
        # Every request that came in the pause waited for its end.
        rows = engine.records["a"].ring.rows()
        started_s = rows[:, 2] if rows.size else rows
        assert not ((started_s > begun_s + 0.001) & (started_s < begun_s + 2.999)).any()

    run(plan, scenario)


def test_every_change_has_an_id_of_its_own() -> None:
    plan = make_plan(ONE)

    async def scenario(engine: Engine, fakes: Fakes) -> None:
        more = but(plan, replicas=2)
        told = [await engine.swap(wanted, Watch(0.0)) for wanted in (more, plan, plan, more)]
        await asyncio.sleep(1.0)
        assert len({change["id"] for change in told}) == 4
        assert (last(engine)["id"], last(engine)["to"]) == (told[-1]["id"], more.hash)

    run(plan, scenario)
