"""Streams through a gateway step by step: an upstream sends its next piece when the client has the one before."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httptools
import pytest
from tests.e2e.upstreams import Asked, Scripted, Stage

from headway.gateway.relay import Relay
from headway.serve.run import fastest_loop
from headway.sim.jit import enabled

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
needs_splice = pytest.mark.skipif(
    not (enabled() and hasattr(select, "epoll")), reason="streams are spliced by compiled code, with epoll"
)
LOOPS: Sequence[Callable[[], asyncio.AbstractEventLoop]] = (asyncio.new_event_loop, fastest_loop)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def spliced(stage: Stage) -> None:
    """Have a gateway pass streams on by its splice from the first on."""
    stage.gateway.splice.crowd = 0
    await stage.until(stage.gateway.splice.ready)


def reset(asked: Asked) -> None:
    """End an upstream's connection as a machine that is gone does."""
    found = asked.writer.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    asked.writer.transport.abort()


@dataclass
class Told:
    """What came of a stream: the body that the client got, and what the gateway wrote down."""

    body: bytes
    status: str
    pieces: int
    events: int
    why: str
    tail: tuple[bytes, ...]
    usage: tuple[int, int] | None
    most: int
    """Streams that were spliced at a time."""


class Reader(asyncio.Protocol):
    """A client that takes what comes."""

    def __init__(self, frame: bytes) -> None:
        self.found = bytearray()
        self.open = True
        self._frame = frame

    @property
    def body(self) -> bytes:
        return bytes(self.found.partition(b"\r\n\r\n")[2])

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self._frame)

    def data_received(self, data: bytes) -> None:
        self.found += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False


BODY = b'{"model": "small", "stream": true}'
ASK = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)


async def read_stream(port: int) -> Reader:
    """Ask for a stream."""
    loop = asyncio.get_running_loop()
    return (await loop.create_connection(lambda: Reader(ASK), "127.0.0.1", port))[1]


def complete(answer: bytes) -> bool:
    """Whether all of an answer is there."""
    ends: list[bool] = []
    parser = httptools.HttpResponseParser(SimpleNamespace(on_message_complete=lambda: ends.append(True)))
    parser.feed_data(answer)
    return bool(ends)


async def told(stage: Stage, pieces: Sequence[bytes], end: Callable[[Asked], object] = lambda asked: None) -> Told:
    """Send an answer's body piece by piece, and end it so; return what came of it."""
    relays: list[Relay] = []
    reader: Reader
    most = 0

    async def behave(asked: Asked) -> None:
        nonlocal most
        relays.extend(stage.gateway.active.values())
        sent = 0
        for number, piece in enumerate(pieces):
            await asked.send(HEAD + piece if number == 0 else piece)
            sent += len(piece)
            await stage.until(lambda wanted=sent: len(reader.body) >= wanted or not stage.gateway.active)  # type: ignore[misc]
            # So that the gateway has come to what it does next.
            for _ in range(3):
                await asyncio.sleep(0)
            most = max(most, len(stage.gateway.splice))
        end(asked)

    upstream: Scripted = stage.upstreams[0]
    upstream.behave = behave
    reader = await read_stream(stage.port)
    await stage.until(lambda: bool(relays) and not stage.gateway.active)
    record = stage.gateway.journal.last(1)[0]
    relay = relays[0]
    # What the gateway has sent is yet to come to the client.
    await stage.until(lambda: complete(reader.found) or not reader.open)
    reader.transport.close()
    assert len(stage.gateway.splice) == 0
    name = record["upstream"]
    why = record["why"].replace(name, "NAME")
    return Told(
        reader.body.replace(name.encode(), b"NAME"),
        record["answered"],
        record["pieces"],
        relay.events,
        why,
        tuple(relay.tail),
        relay.usage(),
        most,
    )
