"""A gateway whose upstreams and rules change while it serves: no request is lost, and what was can be had back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.e2e.upstreams import ANSWER, Asked, Scripted, Stage, answer, gateway, play

from headway.errors import ServeError
from headway.gateway import Upstream
from headway.gateway.declare import Lineup
from headway.gateway.lineup import Change


def lineup(at: Stage, *upstreams: Upstream, used: int | None = None, **options: Any) -> Lineup:
    named = upstreams or at.gateway.lineup.upstreams
    return Lineup(named, len(named) if used is None else used, replace(at.gateway.options, **options))


async def become(at: Stage, wanted: Lineup) -> Change:
    """Change over, and leave what was held back for the test."""
    change = Change(at.gateway)
    change.prepare(wanted)
    await change.prepared()
    change.switch()
    return change


def test_another_policy_and_another_order_decide_from_the_next_request_on() -> None:
    async def scene() -> None:
        async with gateway(Scripted(), Scripted(), policy="round-robin") as at:
            assert {(await at.ask()).upstream for _ in range(2)} == {one.declared().name for one in at.upstreams}
            change = await become(at, lineup(at, policy="prefix-aware", order="sjf"))
            found = await at.ask()
            assert found.headers["x-headway-route"].split("; ")[1] == "prefix-aware"
            change.switch()
            change.dismiss()
            assert (await at.ask()).headers["x-headway-route"].split("; ")[1] == "round-robin"
            assert at.gateway.counts.to_dict()["answered"] == 4

    play(scene)


def test_an_upstream_is_added_slowly_and_one_that_is_taken_away_finishes() -> None:
    async def scene() -> None:
        gate = asyncio.Event()

        async def behave(asked: Asked) -> None:
            await gate.wait()
            await asked.reply(ANSWER)

        fresh = Scripted()
        await fresh.start()
        async with gateway(Scripted(behave)) as at:
            asking = asyncio.ensure_future(at.ask())
            await at.until(lambda: len(at.upstreams[0].asked) == 1)
            change = await become(at, lineup(at, fresh.declared()))
            old, new = at.gateway.replicas
            assert (old.state, new.state, new.limit) == ("draining", "up", 6)
            change.dismiss()
            assert [(await at.ask()).upstream for _ in range(3)] == [new.name] * 3
            assert at.gateway.replicas == [old, new]
            gate.set()
            assert (await asking).upstream == old.name
            await at.until(lambda: at.gateway.replicas == [new])
            assert "headway_upstream_up" in (await at.get("/metrics")).body.decode()
        await fresh.stop()

    play(scene)


@pytest.mark.parametrize("policy", ["round-robin", "weighted-round-robin", "least-outstanding", "jbsq"])
def test_an_upstream_that_is_back_never_gets_more_than_its_share(policy: str) -> None:
    """Turns that it missed are not made up for: who has just come back would be run over."""

    async def scene() -> None:
        async def behave(asked: Asked) -> None:
            await asyncio.sleep(0.005)
            await asked.reply(ANSWER)

        back, there = Scripted(behave), Scripted(behave)
        async with gateway(back, there, declared={"max_in_flight": 8}, policy=policy, slow_start_s=0.6) as at:
            replica, asking = at.gateway.replicas[0], True

            async def busy() -> None:
                client = await at.client()
                while asking:
                    await client.ask()
                    assert (await client.answer()).status == 200

            at.gateway.drain(replica.name)
            tasks = [asyncio.create_task(busy()) for _ in range(6)]
            await at.until(lambda: len(there.asked) >= 200)
            at.gateway.drain(replica.name, draining=False)
            assert 1 <= replica.limit <= 2
            given = len(there.asked)
            await at.until(lambda: len(there.asked) >= given + 200)
            asking = False
            await asyncio.gather(*tasks)
            assert 20 <= len(back.asked) <= 215

    play(scene)


def test_a_change_that_is_taken_back_leaves_nothing_behind() -> None:
    async def scene() -> None:
        added = Scripted()
        await added.start()
        async with gateway(Scripted(), policy="round-robin") as at:
            first = at.gateway.lineup
            for _ in range(3):
                change = await become(at, lineup(at, *first.upstreams, added.declared(), policy="sal"))
                for _ in range(4):
                    await at.ask()
                change.switch()
                change.dismiss()
                await at.until(lambda: len(at.gateway.replicas) == 1)
            assert at.gateway.lineup == first
            assert len(at.gateway.seats.by_number) == 2, "the seat of one who left is taken by the next"
            assert at.gateway.chooser.servers.alive == [True, False]
            assert (await at.ask()).status == 200
        await added.stop()

    play(scene)


def test_lower_limits_send_nothing_back_and_what_waits_goes_to_who_comes() -> None:
    async def scene() -> None:
        gate = asyncio.Event()

        async def behave(asked: Asked) -> None:
            await gate.wait()
            await asked.reply(ANSWER)

        fresh = Scripted(answer)
        await fresh.start()
        async with gateway(Scripted(behave), declared={"max_in_flight": 3}) as at:
            asking = [asyncio.ensure_future(at.ask()) for _ in range(5)]
            await at.until(lambda: at.gateway.queue.size == 2)
            [old] = at.gateway.lineup.upstreams
            change = await become(at, lineup(at, replace(old, max_in_flight=1)))
            change.dismiss()
            assert (at.gateway.queue.size, at.gateway.replicas[0].in_flight, at.gateway.replicas[0].limit) == (2, 3, 1)
            (await become(at, lineup(at, *at.gateway.lineup.upstreams, fresh.declared()))).dismiss()
            await at.until(lambda: len(fresh.asked) == 2)
            gate.set()
            assert [one.status for one in await asyncio.gather(*asking)] == [200] * 5
            assert at.upstreams[0].most == 3
        await fresh.stop()

    play(scene)


def test_who_waits_for_a_model_goes_to_who_serves_it() -> None:
    async def scene() -> None:
        gate = asyncio.Event()

        async def behave(asked: Asked) -> None:
            await gate.wait()
            await asked.reply(ANSWER)

        other, same = Scripted(models=("large",)), Scripted()
        for one in (other, same):
            await one.start()
        async with gateway(Scripted(behave), declared={"max_in_flight": 1}) as at:
            asking = [asyncio.ensure_future(at.ask()) for _ in range(2)]
            await at.until(lambda: at.gateway.queue.size == 1)
            (await become(at, lineup(at, *at.gateway.lineup.upstreams, other.declared()))).dismiss()
            await at.ask({"model": "large", "messages": []})
            assert (len(other.asked), at.gateway.queue.size) == (1, 1), "not sent to one that has another model"
            (await become(at, lineup(at, *at.gateway.lineup.upstreams, same.declared()))).dismiss()
            await at.until(lambda: len(same.asked) == 1)
            gate.set()
            assert [one.status for one in await asyncio.gather(*asking)] == [200] * 2
        for one in (other, same):
            await one.stop()

    play(scene)


def test_what_cannot_be_is_refused_and_nothing_has_changed() -> None:
    async def scene() -> None:
        sick = Scripted(kind="vllm")
        sick.health = 503
        await sick.start()
        async with gateway(Scripted()) as at:
            first, change = at.gateway.lineup, Change(at.gateway)
            [here] = first.upstreams
            for wanted, says in (
                (lineup(at, policy="lest-loaded"), "router is 'lest-loaded'"),
                (lineup(at, order="sfj"), "order is 'sfj'"),
                (lineup(at, used=2), "2 upstreams are asked for, and 1 are named"),
                (lineup(at, replace(here, kind="vllm")), "its kind cannot change while it is in use"),
                (lineup(at, here, here), "two upstreams are called"),
            ):
                with pytest.raises(ServeError, match=says):
                    change.prepare(wanted)
            with pytest.raises(ServeError, match="nothing was prepared"):
                change.switch()
            for there, says in ((sick.declared(), "answers 503"), (Upstream("http://127.0.0.1:9"), "gives no answer")):
                change.prepare(lineup(at, here, there))
                with pytest.raises(ServeError, match=says):
                    await change.prepared()
                with pytest.raises(ServeError, match="being changed"):
                    change.prepare(first)
                change.dismiss()
                await at.until(lambda: len(at.gateway.replicas) == 1)
            assert at.gateway.lineup == first
            assert (await at.ask()).status == 200
        await sick.stop()

    play(scene)
