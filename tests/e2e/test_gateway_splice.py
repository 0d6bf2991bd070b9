"""Streams that compiled code passes on: slow clients, those that leave, upstreams that die, descriptors used again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from tests.e2e.streams import ASK, HEAD, LOOPS, Reader, chunk, needs_splice, read_stream, reset, spliced
from tests.e2e.test_gateway_crowd import STREAMS, crowd
from tests.e2e.upstreams import Asked, Scripted, gateway, stream, tokens

from headway.gateway import GatewayOptions
from headway.gateway.declare import Upstream
from headway.gateway.gateway import Gateway
from headway.serve.system import descriptors

BLOCK = chunk(bytes(range(256)) * 64)
Scene = Callable[[], Awaitable[None]]


@pytest.fixture(params=LOOPS, ids=["asyncio", "fastest"])
def play(request: pytest.FixtureRequest) -> Callable[[Scene], None]:
    def run(scene: Scene) -> None:
        async def main() -> None:
            async with asyncio.timeout(60.0):
                await scene()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(main())

    return run


def endless(asked_of: list[Asked], gap_s: float = 0.002) -> Callable[[Asked], Awaitable[None]]:
    """Stream until the client is gone."""

    async def behave(asked: Asked) -> None:
        asked_of.append(asked)
        await asked.head()
        number = 0
        while True:
            await asked.event(f'{{"token": {number}}}')
            number += 1
            await asyncio.sleep(gap_s)

    return behave


@needs_splice
def test_a_stream_is_spliced_and_told_as_any_other(play: Callable[[Scene], None]) -> None:
    async def scene() -> None:
        async with gateway(Scripted(stream(20, gap_s=0.005))) as at:
            await spliced(at)
            reader = await read_stream(at.port)
            await at.until(lambda: len(at.gateway.splice) == 1)
            await at.until(lambda: not at.gateway.active)
            found = at.gateway.journal.last(1)[0]
            assert (found["answered"], len(at.gateway.splice)) == ("answered", 0)
            # The end may come with the last event or by itself.
            assert 10 <= found["pieces"] <= 22
            account = at.gateway.accounts.of({})
            assert (account.prompt_tokens, account.completion_tokens) == (9.0, 3.0)
            again = await read_stream(at.port)
            await at.until(lambda: again.body.endswith(b"0\r\n\r\n"))
            assert reader.body == again.body

    play(scene)


@needs_splice
def test_an_upstream_waits_for_a_client_that_does_not_read(play: Callable[[Scene], None]) -> None:
    total = 1500
    sent = 0

    async def behave(asked: Asked) -> None:
        nonlocal sent
        await asked.head()
        for _ in range(3):
            await asked.event("warm")
            await asyncio.sleep(0.01)
        for sent in range(1, total + 1):  # noqa: B007
            await asked.send(BLOCK)
        await asyncio.sleep(0.05)
        for _ in range(3):
            await asked.event("well")
            await asyncio.sleep(0.05)
        await asked.end()

    async def scene() -> None:
        async with gateway(Scripted(behave)) as at:
            await spliced(at)
            reader = await read_stream(at.port)
            await at.until(lambda: len(at.gateway.splice) == 1)
            reader.transport.pause_reading()
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.3)
            assert 0 < sent < total
            assert len(at.gateway.splice) == 0
            reader.transport.resume_reading()
            await at.until(lambda: len(at.gateway.splice) == 1)
            await at.until(lambda: not at.gateway.active)
            await at.until(lambda: reader.body.endswith(b"0\r\n\r\n"))
            middle = reader.body.removeprefix(3 * chunk(b"data: warm\n\n")).removesuffix(b"0\r\n\r\n")
            assert middle == total * BLOCK + 3 * chunk(b"data: well\n\n")

    play(scene)


@needs_splice
@pytest.mark.parametrize("how", ["close", "abort", "write_eof"])
def test_an_upstream_hears_of_a_client_that_leaves(play: Callable[[Scene], None], how: str) -> None:
    async def scene() -> None:
        asked: list[Asked] = []
        async with gateway(Scripted(endless(asked))) as at:
            await spliced(at)
            reader = await read_stream(at.port)
            await at.until(lambda: len(at.gateway.splice) == 1 and reader.body.count(b"token") > 5)
            getattr(reader.transport, how)()
            await at.until(lambda: not at.gateway.active)
            assert await asked[0].gone()
            assert len(at.gateway.splice) == 0
            found = at.gateway.journal.last(1)[0]
            assert (found["answered"], found["why"]) == ("dropped", "the client went away")
            assert found["pieces"] >= 5
            assert at.gateway.replicas[0].in_flight == 0

    play(scene)


@needs_splice
@pytest.mark.parametrize("end", [reset, lambda asked: asked.writer.close()], ids=["reset", "close"])
def test_a_client_hears_of_an_upstream_that_dies(play: Callable[[Scene], None], end: Callable[[Asked], object]) -> None:
    async def scene() -> None:
        async def behave(asked: Asked) -> None:
            await asked.head()
            for number in range(10):
                await asked.event(f'{{"token": {number}}}')
                await asyncio.sleep(0.005)
            assert len(at.gateway.splice) == 1
            end(asked)

        async with gateway(Scripted(behave)) as at:
            await spliced(at)
            client = await at.client()
            await client.ask(body={"model": "small", "stream": True})
            found = await client.answer()
            assert (found.whole, tokens(found.body)) == (False, list(range(10)))
            record = at.gateway.journal.last(1)[0]
            assert record["answered"] == "failed"
            assert "it closed the connection" in record["why"]

    play(scene)


@needs_splice
def test_a_stream_that_stalls_is_given_up_and_one_that_goes_on_is_not(play: Callable[[Scene], None]) -> None:
    async def scene() -> None:
        async def behave(asked: Asked) -> None:
            await asked.head()
            for _ in range(90 if asked.json.get("n") else 5):
                await asked.event('{"token": 1}')
                await asyncio.sleep(0.02)
            if asked.json.get("n"):
                await asked.end()
            else:
                await asked.gone(30.0)

        async with gateway(Scripted(behave), stall_s=1.0) as at:
            await spliced(at)
            steady, silent = await at.client(), await at.client()
            await steady.ask(body={"model": "small", "stream": True, "n": 1})
            await silent.ask(body={"model": "small", "stream": True})
            await at.until(lambda: len(at.gateway.splice) == 2)
            answers = await asyncio.gather(steady.answer(), silent.answer())
            assert [one.whole for one in answers] == [True, False]
            assert len(tokens(answers[0].body)) == 90
            records = {record["answered"]: record for record in at.gateway.journal.last(2)}
            assert records["failed"]["why"].endswith("nothing came of it for 1 s")

    play(scene)


@needs_splice
def test_no_client_gets_what_is_anothers_when_descriptors_are_used_again(play: Callable[[Scene], None]) -> None:
    """Clients and upstreams leave at random, in every way that there is, and others come in their places."""
    rng = random.Random(3)

    async def behave(asked: Asked) -> None:
        name = asked.json["user"].encode()
        await asked.send(HEAD)
        for _ in range(rng.randrange(3, 40)):
            await asked.send(chunk(b"<%b>" % name) * rng.randrange(1, 4))
            await asyncio.sleep(0.001 * rng.random())
        if rng.random() < 0.7:
            await asked.end()
        else:
            rng.choice([reset, Asked.die])(asked)

    async def scene() -> None:
        async with gateway(Scripted(behave), Scripted(behave), failures=10_000) as at:
            await spliced(at)
            most = 0

            async def visit(number: int) -> None:
                nonlocal most
                for turn in range(6):
                    body = b'{"model": "small", "stream": true, "user": "%d-%d"}' % (number, turn)
                    frame = ASK.partition(b"content-length")[0] + b"content-length: %d\r\n\r\n%b" % (len(body), body)
                    loop = asyncio.get_running_loop()
                    _, reader = await loop.create_connection(partial(Reader, frame), "127.0.0.1", at.port)
                    patience_s = rng.choice([0.01, 0.03, 5.0])
                    end_s = loop.time() + patience_s
                    while reader.open and loop.time() < end_s and not reader.body.endswith(b"0\r\n\r\n"):
                        most = max(most, len(at.gateway.splice))
                        await asyncio.sleep(0.002)
                    rng.choice([reader.transport.close, reader.transport.abort])()
                    mine = chunk(b"<%d-%d>" % (number, turn))
                    whole = mine * (len(reader.body) // len(mine) + 1)
                    assert whole.startswith(reader.body.removesuffix(b"0\r\n\r\n"))

            await asyncio.gather(*(visit(number) for number in range(40)))
            await at.until(lambda: not at.gateway.active)
            assert most > 5
            assert len(at.gateway.splice) == 0
            assert [replica.in_flight for replica in at.gateway.replicas] == [0, 0]

    play(scene)


@needs_splice
def test_thousands_of_spliced_streams_are_all_whole() -> None:
    async def scene() -> None:
        with descriptors(4 * STREAMS + 200) as room:
            count = min(STREAMS, (room - 200) // 4)
            async with asyncio.timeout(100.0):
                _, server = await crowd(count, spliced=True)
        assert server.gateway.counts.to_dict()["answered"] == count
        assert len(server.gateway.splice) == 0

    asyncio.run(scene())


def test_without_compiled_code_streams_are_passed_on_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_JIT", "0")

    async def scene() -> None:
        async with gateway(Scripted(stream(5, gap_s=0.01))) as at:
            at.gateway.splice.crowd = 0
            found = await at.ask({"model": "small", "stream": True})
            assert tokens(found.body) == list(range(5))
            assert not at.gateway.splice.ready()

    asyncio.run(scene())


def test_nothing_is_loaded_for_a_few_streams() -> None:
    upstream = Upstream("http://127.0.0.1:1")
    splice = Gateway([upstream], GatewayOptions(), lambda: 0.0).splice
    assert not splice.ready()
    assert splice._loading is None
