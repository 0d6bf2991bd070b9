"""Requests that come to a gateway from its own process."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.e2e.upstreams import ANSWER, Asked, Scripted, gateway, play, stream, tokens

from headway.gateway import inside
from headway.gateway.inside import Inside, Reply, path_of

BODY = b'{"model": "small", "messages": []}'


async def asked_for(inside: Inside, body: bytes = BODY, within_s: float = 20.0) -> Reply:
    replied: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    inside.ask(body, replied.set_result, asyncio.get_running_loop().time() + within_s)
    return await replied


def test_answers_are_whole_however_they_came() -> None:
    async def by_its_end(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n\r\nall")
        asked.writer.close()

    async def scene() -> None:
        async with gateway(Scripted()) as stage:
            own = Inside(stage.gateway)
            # The second answer has a head that is known by then.
            for _ in range(2):
                found = await asked_for(own)
                assert found[:4] == (200, ANSWER, "application/json", stage.gateway.replicas[0].name)
                assert found.sent_s > 0.0
        async with gateway(Scripted(stream(4))) as stage:
            found = await asked_for(Inside(stage.gateway))
            assert (found.content_type, tokens(found.body)) == ("text/event-stream", [0, 1, 2, 3])
        async with gateway(Scripted(by_its_end)) as stage:
            found = await asked_for(Inside(stage.gateway))
            assert (found.body, found.content_type) == (b"all", "text/plain")

    play(scene)


def test_refusals_come_as_replies() -> None:
    async def dies(asked: Asked) -> None:
        asked.die()

    async def scene() -> None:
        async with gateway(Scripted(dies)) as stage:
            own = Inside(stage.gateway)
            assert (await asked_for(own, b"[")).status == 400
            assert (await asked_for(own, b'{"model": "other"}')).status == 404
            broken = await asked_for(own)
            assert (broken.status, broken.upstream) == (502, "")
            assert b"gave no answer" in broken.body
            assert stage.gateway.counts.in_flight == 0

    play(scene)


def test_what_is_given_up_is_given_up_upstream_and_told_to_nobody() -> None:
    async def scene() -> None:
        ended: list[bool] = []

        async def behave(asked: Asked) -> None:
            ended.append(await asked.gone(20.0))

        async with gateway(Scripted(behave)) as stage:
            told: list[Reply] = []
            call = Inside(stage.gateway).ask(BODY, told.append, float("inf"))
            await stage.until(lambda: bool(stage.upstreams[0].asked))
            assert call.open
            call.give_up()
            await stage.until(lambda: ended == [True])
            assert told == []
            assert not call.open
            assert stage.gateway.counts.to_dict()["dropped"] == 1

    play(scene)


def test_an_answer_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "MAX_ANSWER_BYTES", 1000)

    async def behave(asked: Asked) -> None:
        await asked.reply(b"x" * asked.json["size"])

    async def scene() -> None:
        async with gateway(Scripted(behave)) as stage:
            own = Inside(stage.gateway)
            bodies = {size: json.dumps({"model": "small", "size": size}).encode() for size in (9, 2000)}
            sizes = {size: await asked_for(own, body) for size, body in bodies.items()}
            assert [found.status for found in sizes.values()] == [200, 502]
            assert b"larger than 1000 bytes" in sizes[2000].body

    play(scene)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"messages": []}', b"/v1/chat/completions"),
        (b'{"prompt": "tell me of \\"messages\\": []"}', b"/v1/completions"),
        (b'{"prompt": "x", "metadata": {"messages": 1}}', b"/v1/completions"),
        (b"no JSON", b"/v1/chat/completions"),
    ],
)
def test_the_form_of_a_request_says_where_it_goes(body: bytes, path: bytes) -> None:
    assert path_of(body) == path
