"""The light client of replays against servers that misbehave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from headway.errors import ServeError
from headway.serve.http1 import Client, Reply
from headway.serve.replay import replay
from headway.serve.run import bind
from headway.trace import Trace

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@contextmanager
def stub(handler: Handler) -> Iterator[str]:
    """A server in a thread that treats each connection as `handler` says."""
    listener = bind("127.0.0.1", 0)
    begun = threading.Event()
    held: dict[str, Any] = {}

    async def main() -> None:
        held["loop"], held["stop"] = asyncio.get_running_loop(), asyncio.Event()
        writers: list[asyncio.StreamWriter] = []

        async def treat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            try:
                await handler(reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        async with await asyncio.start_server(treat, sock=listener):
            begun.set()
            await held["stop"].wait()
            for writer in writers:
                writer.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert begun.wait(60.0), "the stub server did not start"
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        held["loop"].call_soon_threadsafe(held["stop"].set)
        thread.join()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    return head.split(b" ")[1]


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def ask(url: str, count: int = 1, **options: Any) -> list[Reply]:
    async def main() -> list[Reply]:
        client = Client(url, **{"max_connections": 1, **options})
        try:
            return list(await asyncio.gather(*(client.request("GET", f"/{i}", timeout_s=30.0) for i in range(count))))
        finally:
            await client.close()

    return asyncio.run(main())


def test_a_connection_is_kept_and_requests_beyond_the_limit_wait_for_it() -> None:
    connections: list[int] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        while True:
            await read_request(reader)
            writer.write(OK)

    with stub(handler) as url:
        replies = ask(url, 5)
    assert [(reply.status, reply.body) for reply in replies] == [(200, b"ok")] * 5
    assert len(connections) == 1


def test_a_request_on_a_connection_that_was_just_closed_is_sent_again() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await read_request(reader)

    with stub(handler) as url:
        assert [reply.status for reply in ask(url, 4)] == [200] * 4


def test_a_server_that_says_it_closes_is_believed() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))

    with stub(handler) as url:
        assert [reply.status for reply in ask(url, 3)] == [200] * 3


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "closed before the answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", "closed before the answer"),
        (b"SSH-2.0-x\r\n\r\n", "not HTTP/1.1"),
    ],
)
def test_a_broken_answer_is_an_error_once(answer: bytes, says: str) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)

    with stub(handler) as url:
        (reply,) = ask(url)
    assert reply.status == 0
    assert says in reply.error


def test_a_chunked_answer_in_small_pieces_is_put_together() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for byte in b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n":
            writer.write(bytes([byte]))
            await asyncio.sleep(0)

    with stub(handler) as url:
        assert ask(url)[0].body == b"abcde"


def test_silence_times_out_and_the_next_request_gets_a_fresh_connection() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await read_request(reader) == b"/silent":
            await reader.read()
            return
        writer.write(OK)

    async def main(url: str) -> list[Reply]:
        client = Client(url, max_connections=1)
        try:
            asked = (("/silent", 0.1), ("/", 30.0))
            return [await client.request("GET", path, timeout_s=wait_s) for path, wait_s in asked]
        finally:
            await client.close()

    with stub(handler) as url:
        silent, answered = asyncio.run(main(url))
    assert "no answer within 0.1 s" in silent.error
    assert answered.status == 200


def test_a_server_that_is_no_headway_is_named_as_such() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK.replace(b"200 OK", b"404 Not Found"))

    with stub(handler) as url, pytest.raises(ServeError, match="is it a Headway server"):
        replay(url, Trace.from_arrivals([0.0]))
