"""A gateway with thousands of streams at once, from clients and upstreams that take little time themselves."""

from __future__ import annotations

import asyncio
from typing import Any

from headway.gateway import GatewayOptions, GatewayServer, Upstream
from headway.serve.system import descriptors

STREAMS = 2000
BODY = b'{"model": "small", "stream": true}'
ASK = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS = [b"11\r\ndata: token %d..\n\n\r\n" % number for number in range(4)]
END = b"0\r\n\r\n"


class Engine(asyncio.Protocol):
    """Answers when all are there: a head, then one event of each stream after the other."""

    open: list[Any]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data.endswith(BODY):
            self.open.append(self.transport)


class Reader(asyncio.Protocol):
    """Asks, and keeps what comes."""

    def __init__(self) -> None:
        self.found = bytearray()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(ASK)

    def data_received(self, data: bytes) -> None:
        self.found += data


async def crowd(count: int, spliced: bool = False) -> tuple[list[Reader], GatewayServer]:
    loop = asyncio.get_running_loop()
    there: list[Any] = []
    engine = type("Engine", (Engine,), {"open": there})
    fleet = [await loop.create_server(engine, "127.0.0.1", 0, backlog=count) for _ in range(2)]
    ports = [one.sockets[0].getsockname()[1] for one in fleet]
    declared = [
        Upstream(f"http://127.0.0.1:{port}", kind="hosted", models=("small",), max_in_flight=count) for port in ports
    ]
    server = GatewayServer(declared, GatewayOptions(connect_s=60.0, grace_s=1.0))
    announced: asyncio.Future[str] = loop.create_future()
    task = asyncio.ensure_future(server.run(announced.set_result))
    port = int((await announced).rpartition(":")[2])
    splice = server.gateway.splice
    splice.crowd = 0 if spliced else 2 * count
    while spliced and not splice.ready():
        await asyncio.sleep(0.01)
    readers = [(await loop.create_connection(Reader, "127.0.0.1", port))[1] for _ in range(count)]
    while len(there) < count:
        await asyncio.sleep(0.01)
    assert server.gateway.counts.in_flight == count
    for piece in (HEAD, *EVENTS, END):
        for transport in there:
            transport.write(piece)
        await asyncio.sleep(0.01)
        while spliced and piece is EVENTS[1] and len(splice) < count:
            await asyncio.sleep(0.01)
    while server.gateway.counts.in_flight:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    for reader in readers:
        reader.transport.close()
    server.stop()
    await task
    for one in fleet:
        one.close()
    for transport in there:
        transport.close()
    await asyncio.sleep(0.01)
    return readers, server


def test_thousands_of_streams_at_once_are_all_whole() -> None:
    async def scene() -> None:
        with descriptors(4 * STREAMS + 200) as room:
            count = min(STREAMS, (room - 200) // 4)
            async with asyncio.timeout(100.0):
                readers, server = await crowd(count)
        whole = b"".join((*EVENTS, END))
        assert {bytes(reader.found).partition(b"\r\n\r\n")[2] for reader in readers} == {whole}
        assert server.gateway.counts.to_dict()["answered"] == count
        assert [replica.in_flight for replica in server.gateway.replicas] == [0, 0]

    asyncio.run(scene())
