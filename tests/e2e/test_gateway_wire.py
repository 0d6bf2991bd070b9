"""What clients may send the gateway in ways of their own: at once, in pieces, in chunks, too much, ambiguously."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.e2e.upstreams import ANSWER, CHAT, Asked, Client, Scripted, answer, gateway, play, stream, tokens

from headway.gateway import ApiKey
from headway.serve.app import HttpLimits

BODY = b'{"model": "small", "messages": []}'


def framed(lines: bytes, body: bytes = b"", path: str = CHAT) -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: gateway\r\n%b\r\n%b" % (path.encode(), lines, body)


def sized(body: bytes) -> bytes:
    return framed(b"content-length: %d\r\n" % len(body), body)


async def said(client: Client, raw: bytes) -> None:
    client.writer.write(raw)
    await client.writer.drain()


def test_requests_that_come_at_once_are_answered_in_their_order() -> None:
    async def behave(asked: Asked) -> None:
        if asked.json.get("stream"):
            await stream(3, gap_s=0.01)(asked)
        else:
            await asked.reply(asked.body)

    async def scene() -> None:
        async with gateway(Scripted(behave), Scripted(behave)) as at:
            client = await at.client()
            asked = [b'{"n": %d}' % n for n in range(5)]
            streaming = b'{"stream": true}'
            page = b"GET /v1/models HTTP/1.1\r\nhost: gateway\r\n\r\n"
            await said(client, sized(asked[0]) + sized(streaming) + page + b"".join(map(sized, asked[1:])))
            assert (await client.answer()).body == asked[0]
            assert tokens((await client.answer()).body) == [0, 1, 2]
            assert [one["id"] for one in json.loads((await client.answer()).body)["data"]] == ["small"]
            assert [(await client.answer()).body for _ in asked[1:]] == asked[1:]

    play(scene)


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_an_upstream_hears_that_a_client_is_gone_whatever_it_had_asked_beside(ahead: int) -> None:
    async def scene() -> None:
        gone = asyncio.get_running_loop().create_future()

        async def behave(asked: Asked) -> None:
            gone.set_result(await asked.gone())

        async with gateway(Scripted(behave)) as at:
            client = await at.client()
            await said(client, sized(b'{"n": 0}') + b"".join(sized(b'{"n": %d}' % (n + 1)) for n in range(ahead)))
            await at.until(lambda: at.gateway.active)
            client.close()
            assert await gone
            await at.until(lambda: not at.gateway.active)

    play(scene)


def test_an_answer_to_head_has_no_body_whatever_it_says() -> None:
    pages = {"/healthz": 200, "/v1/models": 200, "/v1/models/small": 200, "/metrics": 200, "/nothing": 404, CHAT: 405}

    async def scene() -> None:
        async with gateway(Scripted()) as at:
            client = await at.client()
            asked = b"".join(b"HEAD %b HTTP/1.1\r\nhost: gateway\r\n\r\n" % path.encode() for path in pages)
            await said(client, asked + b"GET /healthz HTTP/1.1\r\nhost: gateway\r\n\r\n")
            heads = [await client.head() for _ in pages]
            assert [found.status for found in heads] == list(pages.values())
            assert all(int(found.headers["content-length"]) > 0 for found in heads)
            assert (await client.answer()).body == b'{"live":true}'
        async with gateway(Scripted(), keys=(ApiKey("calm", "s1"),)) as at:
            client = await at.client()
            await said(client, b"HEAD /metrics HTTP/1.1\r\nhost: gateway\r\n\r\n")
            assert (await client.head()).status == 401
            await said(client, b"HEAD /healthz HTTP/1.1\r\nhost: gateway\r\nx-long: %b\r\n\r\n" % (b"x" * 100_000))
            assert (await client.head()).status == 431
            assert await client.reader.read() == b""

    play(scene)


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_a_body_in_chunks_reaches_the_upstream_with_its_length(piece: int) -> None:
    async def scene() -> None:
        async with gateway(Scripted()) as at:
            client = await at.client()
            middle = len(BODY) // 2
            parts = [b"%x;note=1\r\n%b\r\n" % (len(part), part) for part in (BODY[:middle], BODY[middle:])]
            raw = framed(b"transfer-encoding: chunked\r\n", b"".join(parts) + b"0\r\nx-trailer: 1\r\n\r\n")
            for _ in range(2):
                for begin in range(0, len(raw), piece):
                    await said(client, raw[begin : begin + piece])
                    await asyncio.sleep(0)
                assert (await client.answer()).body == ANSWER
            for asked in at.upstreams[0].asked:
                assert asked.body == BODY
                assert asked.headers["content-length"] == str(len(BODY))
                assert not {"transfer-encoding", "x-trailer"} & set(asked.headers)

    play(scene)


def test_a_trailer_behind_a_large_body_is_no_header_that_is_too_large() -> None:
    async def scene() -> None:
        async with gateway(Scripted()) as at:
            client = await at.client()
            body = b'{"pad": "%b"}' % (b"x" * 100_000)
            chunk = b"%x\r\n%b\r\n0\r\nauthorization: Bearer other\r\n\r\n" % (len(body), body)
            await said(client, framed(b"transfer-encoding: chunked\r\n", chunk))
            assert (await client.answer()).status == 200
            assert at.upstreams[0].asked[0].body == body
            assert "authorization" not in at.upstreams[0].asked[0].headers

    play(scene)


def test_a_client_that_asks_first_is_told_to_go_on() -> None:
    async def scene() -> None:
        async with gateway(Scripted()) as at:
            client = await at.client()
            await said(client, framed(b"expect: 100-continue\r\ncontent-length: %d\r\n" % len(BODY)))
            assert (await client.head()).status == 100
            await said(client, BODY)
            assert (await client.answer()).status == 200
            assert "expect" not in at.upstreams[0].asked[0].headers

    play(scene)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"content-length: 4\r\ntransfer-encoding: chunked\r\n", 400),
        (b"content-length: 4\r\ncontent-length: 9\r\n", 400),
        (b"content-length: -1\r\n", 400),
        (b"content-length : 4\r\n", 400),
        (b"transfer-encoding: gzip\r\n", 400),
        (b"x-much: %b\r\n" % (b"x" * 70_000), 431),
        (b"".join(b"x-%d: 1234567890\r\n" % n for n in range(6000)), 431),
    ],
)
def test_a_head_that_two_servers_could_read_in_two_ways_is_refused(lines: bytes, status: int) -> None:
    async def scene() -> None:
        async with gateway(Scripted(), http=HttpLimits()) as at:
            client = await at.client()
            await said(client, framed(lines, b"0\r\n\r\n" + sized(BODY)))
            found = await client.answer()
            assert found.status == status
            assert "message" in json.loads(found.body)["error"]
            assert at.upstreams[0].asked == [], "nothing of it came through"
            assert (await at.ask()).status == 200

    play(scene)


def test_a_body_that_grows_beyond_what_may_be_is_refused_before_it_ends() -> None:
    async def scene() -> None:
        async with gateway(Scripted(), http=HttpLimits(max_body_bytes=1000)) as at:
            client = await at.client()
            await said(client, framed(b"transfer-encoding: chunked\r\n", b"7d0\r\n" + b"x" * 1500))
            assert (await client.answer()).status == 413
            assert at.upstreams[0].asked == []

    play(scene)


def test_a_body_that_never_comes_is_waited_for_only_so_long() -> None:
    async def scene() -> None:
        async with gateway(Scripted(), http=HttpLimits(body_timeout_s=0.2)) as at:
            client = await at.client()
            await said(client, framed(b"content-length: 30\r\n", b"{"))
            assert (await client.answer()).status == 408
            assert at.gateway.counts.offered == 0

    play(scene)


def test_a_refusal_of_the_only_upstream_passes_on_with_its_time_to_come_back() -> None:
    async def busy(asked: Asked) -> None:
        await asked.reply(b'{"error": {"message": "slow down"}}', 429, b"retry-after: 7\r\n")

    async def scene() -> None:
        async with gateway(Scripted(busy)) as at:
            found = await at.ask()
            assert (found.status, found.headers["retry-after"], found.error) == (429, "7", "slow down")
            assert at.gateway.replicas[0].state == "up", "who is busy is not broken"
        async with gateway(Scripted(busy), Scripted(answer), policy="round-robin") as at:
            assert [(await at.ask()).status for _ in range(4)] == [200] * 4

    play(scene)


def test_an_upstream_that_sends_a_head_and_no_more_is_given_up_before_the_first_token() -> None:
    async def only_head(asked: Asked) -> None:
        await asked.head()
        await asked.gone(20.0)

    async def scene() -> None:
        async with gateway(Scripted(only_head), Scripted(), policy="round-robin", first_token_s=0.2) as at:
            found = [await at.ask() for _ in range(2)]
            assert [one.status for one in found] == [200, 200]
            assert {one.upstream for one in found} == {at.gateway.replicas[1].name}

    play(scene)


def test_what_an_upstream_says_of_the_gateway_is_not_passed_on() -> None:
    async def forge(asked: Asked) -> None:
        await asked.reply(ANSWER, extra=b"X-Headway-Route: elsewhere\r\n" + linked + b"server: engine\r\n")

    linked = b"connection: X-Secret, content-length\r\nx-secret: 1\r\n"

    async def scene() -> None:
        async with gateway(Scripted(forge)) as at:
            for _ in range(3):
                found = await at.ask()
                assert found.upstream == at.gateway.replicas[0].name
                assert found.headers["server"] == "engine"
                assert "x-secret" not in found.headers
                assert found.whole
                assert found.body == ANSWER

    play(scene)


def test_an_upstream_that_would_compress_is_not_asked_to() -> None:
    async def scene() -> None:
        async with gateway(Scripted()) as at:
            assert (await at.ask(extra="accept-encoding: gzip, br\r\n")).status == 200
            assert "accept-encoding" not in at.upstreams[0].asked[0].headers

    play(scene)


@pytest.mark.parametrize("host", ["http://gateway", "HTTP://127.0.0.1:8000"])
def test_a_whole_url_is_read_as_its_path(host: str) -> None:
    async def scene() -> None:
        async with gateway(Scripted(), keys=(ApiKey("one", "secret"),)) as at:
            key = "authorization: bearer secret\r\n"
            assert (await at.ask(path=f"{host}/v1/chat/completions", extra=key)).body == ANSWER
            assert (await at.get(f"{host}/v1/models", key)).status == 200
            assert (await at.get(f"{host}/health")).status == 200
            assert (await at.get(f"{host}/metrics")).status == 401

    play(scene)
