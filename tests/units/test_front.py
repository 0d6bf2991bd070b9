"""The server's own HTTP: bytes in, bytes out, over loopback sockets, with stations that live in the same process."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.units.talking import HASTY, INFER, LIMITS, Client, SlowApp, body, get, post, talk, texts

from headway.serve.app import App, HttpLimits
from headway.serve.engine import Engine
from headway.serve.front import Front


def test_a_connection_is_kept_and_its_answers_say_how_long_they_are() -> None:
    async def what(client: Client, front: Front) -> None:
        for text in ("a", "b"):
            await client.send(post(text))
            status, headers, found = await client.answer()
            assert (status, texts(found), headers["content-type"]) == (200, [text], "application/json")
            assert "connection" not in headers

    talk(what)


def test_an_answer_to_head_has_no_body_whatever_it_says() -> None:
    pages = {"/healthz": 200, "/plan": 401, "/nothing": 401}

    async def what(client: Client, front: Front) -> None:
        for path, wanted in pages.items():
            await client.send(get(path, "HEAD"))
            status, headers, _ = await client.answer(bodiless=True)
            assert (status, int(headers["content-length"]) > 0) == (wanted, True)
        for path, wanted in {"/nothing": 404, INFER: 405}.items():
            await client.send(get(path, "HEAD", extra="authorization: Bearer t\r\n"))
            assert (await client.answer(bodiless=True))[0] == wanted
        await client.send(get("/healthz") + get("/healthz", "HEAD", extra=f"x: {'x' * 2000}\r\n"))
        assert json.loads((await client.answer())[2]) == {"live": True}
        assert (await client.answer(bodiless=True))[0] == 431
        assert await client.ended()

    talk(what, app=lambda engine: App(engine, token="t", limits=LIMITS))


def test_what_is_no_request_is_told_so_after_an_answer_to_head() -> None:
    async def what(client: Client, front: Front) -> None:
        await client.send(get("/healthz", "HEAD") + b"\0\0\0")
        assert (await client.answer(bodiless=True))[0] == 200
        status, _, found = await client.answer()
        assert (status, "not a request" in json.loads(found)["error"]) == (400, True)

    talk(what)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "GET", "bad", "HEAD"]), min_size=1, max_size=6), st.integers(1, 400))
def test_requests_cut_anywhere_and_sent_at_once_are_answered_in_order(kinds: list[str], piece: int) -> None:
    frames = {"GET": get("/healthz"), "HEAD": get("/healthz", "HEAD"), "bad": post("x").replace(b"inputs", b"INPUTS")}

    async def what(client: Client, front: Front) -> None:
        stream = b"".join(frames.get(kind) or post(kind) for kind in kinds)
        for at in range(0, len(stream), piece):
            client.writer.write(stream[at : at + piece])
            await asyncio.sleep(0)
        for kind in kinds:
            status, headers, found = await client.answer(bodiless=kind == "HEAD")
            assert status == (400 if kind == "bad" else 200)
            if kind == "HEAD":
                assert (found, headers["content-length"]) == (b"", "13")
            elif kind == "GET":
                assert json.loads(found) == {"live": True}
            elif kind != "bad":
                assert texts(found) == [kind]

    talk(what)


def test_a_chunked_body_is_one_body() -> None:
    async def what(client: Client, front: Front) -> None:
        sent = body("in chunks")
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        chunks = b"".join(b"5\r\n%b\r\n" % sent[at : at + 5] for at in range(0, len(sent) - len(sent) % 5, 5))
        rest = sent[len(sent) - len(sent) % 5 :]
        await client.send(head + chunks + b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest))
        status, _, found = await client.answer()
        assert (status, texts(found)) == (200, ["in chunks"])

    talk(what)


@pytest.mark.parametrize(
    ("frame", "connection", "closes"),
    [
        (post("a", "1.0"), "close", True),
        (post("a", "1.0", "Connection: keep-alive\r\n"), "keep-alive", False),
        (post("a", "1.1", "Connection: close\r\n"), "close", True),
        (post("a", "1.1", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"), None, False),
        (get("/healthz", version="1.0"), "close", True),
        (get("/healthz", version="1.0", extra="Connection: keep-alive\r\n"), "keep-alive", False),
        (get("/healthz", extra="Connection: close\r\n"), "close", True),
    ],
)
def test_a_connection_ends_when_the_client_wants_it_to(frame: bytes, connection: str | None, closes: bool) -> None:
    async def what(client: Client, front: Front) -> None:
        await client.send(frame)
        status, headers, _ = await client.answer()
        assert (status, headers.get("connection")) == (200, connection)
        if closes:
            assert await client.ended()
        else:
            await client.send(post("again"))
            assert (await client.answer())[0] == 200

    talk(what)


@pytest.mark.parametrize(
    ("sent", "status", "says"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "not a request of HTTP/1.1"),
        (b"GET / HTTP/9.9\r\n\r\n", 400, "not a request of HTTP/1.1"),
        (b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n", 400, "not a request of HTTP/1.1"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "not a request"),
        (b"POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc", 400, "not a request"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "not a request"),
        (f"POST {INFER} HTTP/1.1\r\nContent-Length: 2001\r\n\r\n".encode(), 413, "larger than 2000 bytes"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n7d1\r\n" + b"x" * 2001, 413, "larger than 2000 bytes"),
        (b"GET /" + b"x" * 1001 + b" HTTP/1.1\r\n\r\n", 431, "larger than 1000 bytes"),
        (b"GET / HTTP/1.1\r\nx: " + b"x" * 1001 + b"\r\n\r\n", 431, "larger than 1000 bytes"),
        (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 600 + b"\r\n", 431, "larger than 1000 bytes"),
        (b"CONNECT x:1 HTTP/1.1\r\n\r\n", 405, "CONNECT"),
        (b"POST", 408, "the header did not arrive within 0.1 s"),
        (b"POST / HTTP/1.1\r\nHost: x\r\n", 408, "the header did not arrive within 0.1 s"),
        (f"POST {INFER} HTTP/1.1\r\nContent-Length: 9\r\n\r\n{{".encode(), 408, "the body did not arrive within 0.1 s"),
        (b"GET /slow HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 408, "the body did not arrive within 0.1 s"),
    ],
)
@pytest.mark.parametrize("before", [0, 3])
def test_what_is_no_request_is_refused_after_what_came_before(sent: bytes, status: int, says: str, before: int) -> None:
    async def what(client: Client, front: Front) -> None:
        await client.send(post("first") * before + sent)
        for _ in range(before):
            assert texts((await client.answer())[2]) == ["first"]
        found, headers, text = await client.answer()
        assert (found, headers["connection"]) == (status, "close")
        assert says in json.loads(text)["error"]
        # The rest of what the client meant to send does not reset the connection under the answer.
        client.writer.write(b"x" * 50_000)
        assert await client.ended()

    talk(what, app=lambda engine: App(engine, limits=HASTY if status == 408 else LIMITS))


def test_a_header_without_end_is_refused_however_small_its_pieces() -> None:
    async def what(client: Client, front: Front) -> None:
        await client.send(b"GET / HTTP/1.1\r\nx: ")
        for _ in range(30):
            await client.send(b"x" * 50)
            await asyncio.sleep(0)
        assert (await client.answer())[0] == 431

    talk(what, app=lambda engine: App(engine, limits=HttpLimits(max_header_bytes=1000)))


def test_whoever_waits_for_leave_to_send_the_body_gets_it() -> None:
    async def what(client: Client, front: Front) -> None:
        sent = body("big")
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        await client.send((head % len(sent)).encode())
        assert (await client.answer())[0] == 100
        await client.send(sent)
        assert texts((await client.answer())[2]) == ["big"]
        await client.send((head % 2001).encode())
        assert (await client.answer())[0] == 413

    talk(what)


def test_no_body_is_kept_of_a_client_without_the_token() -> None:
    def guarded(engine: Engine) -> App:
        return App(engine, token="s3cret", limits=LIMITS)

    async def what(client: Client, front: Front) -> None:
        for extra, wanted in (("", 401), ("Authorization: Bearer s3cret\r\n", 200)):
            await client.send(post("a", extra=extra))
            status, headers, _ = await client.answer()
            assert status == wanted
        assert (await _get(client, "/plan"))[0] == 401
        assert (await _get(client, "/healthz"))[0] == 200
        sent = post("a", extra="Expect: 100-continue\r\n")
        await client.send(sent[: sent.index(b"\r\n\r\n") + 4])
        status, headers, _ = await client.answer()
        assert (status, headers["connection"], headers["www-authenticate"]) == (401, "close", "Bearer")

    talk(what, app=guarded)


async def _get(client: Client, path: str) -> tuple[int, dict[str, str], bytes]:
    await client.send(get(path))
    return await client.answer()


def test_a_thousand_requests_at_once_that_are_refused_at_once_do_not_nest() -> None:
    async def what(client: Client, front: Front) -> None:
        await front.app.engine.drain()
        client.writer.write(post("a") + get("/healthz") + post("b") * 1500)
        statuses = [(await client.answer())[0] for _ in range(1502)]
        assert statuses == [503, 200, *[503] * 1500]

    talk(what)


def test_an_idle_connection_is_closed_after_a_while_and_a_waiting_one_is_not() -> None:
    async def what(client: Client, front: Front) -> None:
        assert (await _get(client, "/slow?0.5"))[0] == 200
        assert await client.ended()

    talk(what, app=lambda engine: SlowApp(engine, HASTY))


def test_a_client_that_does_not_read_is_not_listened_to_and_then_cut_off() -> None:
    async def what(client: Client, front: Front) -> None:
        (connection,) = front.connections
        connection._transport.set_write_buffer_limits(high=0)
        transport: Any = client.writer.transport
        transport.pause_reading()
        for _ in range(200):
            client.writer.write(get("/large"))
        while front.connections:
            await asyncio.sleep(0.01)

    talk(what, app=lambda engine: SlowApp(engine, HASTY))


def test_a_client_that_ends_its_own_side_still_gets_its_answer() -> None:
    async def what(client: Client, front: Front) -> None:
        client.writer.write(get("/slow?0.1"))
        client.writer.write_eof()
        assert (await client.answer())[0] == 200
        assert await client.ended()

    talk(what, app=SlowApp)


def test_the_application_is_told_when_its_client_goes_away() -> None:
    async def what(client: Client, front: Front) -> None:
        assert isinstance(front.app, SlowApp)
        await client.send(get("/wait"))
        await front.app.asked.wait()
        client.writer.transport.abort()
        await front.app.told.wait()

    talk(what, app=SlowApp)


def test_an_application_that_fails_is_answered_for() -> None:
    async def what(client: Client, front: Front) -> None:
        status, _, found = await _get(client, "/fail")
        assert (status, json.loads(found)["error"]) == (500, "the server failed; its log says why")
        assert (await _get(client, "/chunks"))[2] == b"one two three"
        await client.send(get("/chunks", version="1.0"))
        status, headers, _ = await client.answer()
        assert headers["connection"] == "close"
        assert await client.reader.read() == b"one two three"

    talk(what, app=SlowApp)


def test_a_server_that_closes_ends_idle_connections_at_once_and_busy_ones_with_their_answer() -> None:
    async def what(client: Client, front: Front) -> None:
        assert isinstance(front.app, SlowApp)
        await client.send(get("/held"))
        await front.app.asked.wait()
        closing = asyncio.get_running_loop().create_task(front.close(20.0))
        await asyncio.sleep(0)
        front.app.let_go.set()
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert await client.ended()
        await closing

    talk(what, app=SlowApp)
