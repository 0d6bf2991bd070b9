"""A server's own HTTP with stations that live in the same process, and a client that is read by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from typing import Any, TypeVar

from headway.serve.app import App, HttpLimits
from headway.serve.engine import Engine, Limits
from headway.serve.front import Front
from headway.serve.run import bind
from headway.testing.examples import tiny_plan
from headway.testing.live import fake_stations

T = TypeVar("T")
PLAN = tiny_plan()
INFER = f"/v2/models/{PLAN.spec.name}/infer"
LIMITS = HttpLimits(max_body_bytes=2000, max_header_bytes=1000)
HASTY = replace(LIMITS, body_timeout_s=0.1, keep_alive_s=0.2)
"""For what is cut off after a while; whoever wants an answer has the time that a busy machine takes."""


def body(text: str) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": [text]}]}).encode()


def post(text: str, version: str = "1.1", extra: str = "") -> bytes:
    sent = body(text)
    return f"POST {INFER} HTTP/{version}\r\nHost: x\r\n{extra}Content-Length: {len(sent)}\r\n\r\n".encode() + sent


def get(path: str, method: str = "GET", version: str = "1.1", extra: str = "") -> bytes:
    return f"{method} {path} HTTP/{version}\r\nHost: x\r\n{extra}\r\n".encode()


class Client:
    """One connection, read by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, bodiless: bool = False) -> tuple[int, dict[str, str], bytes]:
        raw = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = raw.split("\r\n")[:-2]
        headers = dict(line.split(": ", 1) for line in lines)
        if headers.get("transfer-encoding") == "chunked":
            return int(status.split()[1]), headers, await self._chunks()
        length = 0 if bodiless else int(headers.get("content-length", 0))
        return int(status.split()[1]), headers, await self.reader.readexactly(length)

    async def _chunks(self) -> bytes:
        found = b""
        while size := int(await self.reader.readline(), 16):
            found += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readline()
        return found

    async def ended(self) -> bool:
        """Whether the server has closed the connection and sent nothing more."""
        return await asyncio.wait_for(self.reader.read(), 20.0) == b""


def texts(found: bytes) -> list[str]:
    return [text for output in json.loads(found)["outputs"] for text in output["data"]]


def talk(
    what: Callable[[Client, Front], Awaitable[T]],
    *,
    app: Callable[[Engine], App] = lambda engine: App(engine, limits=LIMITS),
    limits: Limits | None = None,
) -> T:
    async def main() -> T:
        engine = Engine(PLAN, stations=fake_stations(PLAN), limits=limits)
        front = Front(app(engine))
        listener = bind("127.0.0.1", 0)
        port = listener.getsockname()[1]
        await engine.start()
        await front.start(listener)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            return await asyncio.wait_for(what(Client(reader, writer), front), 60.0)
        finally:
            writer.close()
            await engine.stop(0.0)
            await front.close(0.1)
            listener.close()

    return asyncio.run(main())


class SlowApp(App):
    """Paths that an application might have."""

    def __init__(self, engine: Engine, limits: HttpLimits = LIMITS) -> None:
        super().__init__(engine, limits=limits)
        self.asked, self.let_go, self.told = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        path = scope["path"]
        if path == "/fail":
            raise RuntimeError("on purpose")
        if path == "/wait":
            await receive()
            self.asked.set()
            assert (await receive())["type"] == "http.disconnect"
            self.told.set()
            return
        if path == "/held":
            self.asked.set()
            await self.let_go.wait()
        if path == "/slow":
            await asyncio.sleep(float(scope["query_string"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        parts = [b"one ", b"two ", b"three"] if path == "/chunks" else [b"x" * (100_000 if path == "/large" else 1)]
        for index, part in enumerate(parts):
            await send({"type": "http.response.body", "body": part, "more_body": index < len(parts) - 1})
