"""When the gateway leaves an upstream alone: what counts against it, and how it is tried again."""

from __future__ import annotations

import asyncio

from tests.e2e.test_gateway_faults import die_before, stall_in_stream
from tests.e2e.upstreams import Asked, Scripted, answer, gateway, play


def poisoned(asked: Asked) -> bool:
    return bool(asked.json.get("poison"))


def test_an_upstream_is_tried_while_old_streams_are_under_way() -> None:
    async def behave(asked: Asked) -> None:
        if poisoned(asked):
            asked.die()
        elif asked.json.get("mute"):
            await asked.gone(30.0)
        elif asked.json.get("long"):
            await stall_in_stream(asked)
        else:
            await answer(asked)

    async def scene() -> None:
        async with gateway(Scripted(behave), failures=1, open_s=0.2, stall_s=30.0) as stage:
            replica = stage.gateway.replicas[0]
            streams = [await stage.client() for _ in range(5)]
            for client in streams:
                await client.ask(body={"model": "small", "long": True})
                await client.head()
            assert (await stage.ask({"model": "small", "poison": True})).status == 502
            await stage.until(lambda: replica.state == "trial")
            assert (replica.in_flight, replica.limit) == (5, 6)
            # One that ends meanwhile makes no room for a second trial, and one that is given up makes it again.
            trial = await stage.client()
            await trial.ask(body={"model": "small", "mute": True})
            await stage.until(lambda: replica.in_flight == 6)
            streams[0].close()
            await stage.until(lambda: replica.in_flight == 5)
            assert (replica.state, replica.limit) == ("trial", 5)
            trial.close()
            await stage.until(lambda: replica.in_flight == 4)
            assert (replica.state, replica.limit) == ("trial", 5)
            assert (await stage.ask()).status == 200
            assert replica.state == "up"

    play(scene)


def test_a_trial_that_is_a_long_stream_lets_others_join_it() -> None:
    async def behave(asked: Asked) -> None:
        if poisoned(asked):
            asked.die()
        elif asked.json.get("long"):
            await stall_in_stream(asked)
        else:
            await answer(asked)

    async def scene(last: dict[str, object], status: int, state: str) -> None:
        async with gateway(Scripted(behave), failures=1, open_s=0.2, open_most_s=30.0, stall_s=30.0) as stage:
            replica = stage.gateway.replicas[0]
            assert (await stage.ask({"model": "small", "poison": True})).status == 502
            await stage.until(lambda: replica.state == "trial")
            for begun in range(3):
                assert (replica.in_flight, replica.limit) == (begun, begun + 1)
                client = await stage.client()
                await client.ask(body={"model": "small", "long": True})
                await client.head()
            assert replica.state == "trial"
            assert (await stage.ask({"model": "small", **last})).status == status
            assert replica.state == state

    play(lambda: scene({}, 200, "up"))
    play(lambda: scene({"poison": True}, 502, "open"))


def test_a_request_that_breaks_every_upstream_closes_none() -> None:
    async def behave(asked: Asked) -> None:
        await (die_before if poisoned(asked) else answer)(asked)

    async def scene() -> None:
        async with gateway(Scripted(behave), Scripted(behave), failures=3) as stage:
            for _ in range(6):
                assert (await stage.ask({"model": "small", "poison": True})).status == 502
            assert [replica.state for replica in stage.gateway.replicas] == ["up", "up"]
            assert (await stage.ask()).status == 200

    play(scene)


def test_a_request_that_ends_kept_connections_is_sent_once_more_and_over_a_new_one() -> None:
    async def behave(asked: Asked) -> None:
        if poisoned(asked):
            seen.append(asked)
            await asyncio.sleep(asked.json["poison"])
            asked.die()
        else:
            await answer(asked)

    seen: list[Asked] = []

    async def scene() -> None:
        async with gateway(Scripted(behave), failures=100) as stage:
            for after_s, times in ((0.01, 2), (1.1, 1)):
                clients = [await stage.client() for _ in range(12)]
                for client in clients:
                    await client.ask()
                assert {(await client.answer()).status for client in clients} == {200}
                assert (await stage.ask({"model": "small", "poison": after_s})).status == 502
                assert len(seen) == times
                seen.clear()

    play(scene)


def test_two_upstreams_that_fail_what_a_third_answers_are_left_alone() -> None:
    async def scene() -> None:
        async with gateway(
            Scripted(die_before), Scripted(die_before), Scripted(), failures=3, attempts=3, policy="round-robin"
        ) as stage:
            for _ in range(9):
                assert (await stage.ask()).status == 200
            assert [replica.state for replica in stage.gateway.replicas] == ["open", "open", "up"]

    play(scene)
