"""Upstreams that do as they are told: answer, stream, stall, die, talk nonsense; and a gateway in front of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from headway.gateway import GatewayOptions, GatewayServer, Upstream
from headway.gateway.gateway import Gateway

CHAT = "/v1/chat/completions"
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
ANSWER = json.dumps({"id": "c", "object": "chat.completion", "choices": [], "usage": USAGE}).encode()


@dataclass
class Asked:
    """One request as an upstream saw it, and how it can answer."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    reader: asyncio.StreamReader = field(repr=False)
    writer: asyncio.StreamWriter = field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    async def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))
        await self.writer.drain()

    async def reply(self, body: bytes, status: int = 200, extra: bytes = b"") -> None:
        head = b"HTTP/1.1 %d Word\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"
        await self.send(head % (status, extra, len(body)), body)

    async def head(self, extra: bytes = b"") -> None:
        """Begin a stream."""
        lines = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n%b\r\n"
        await self.send(lines % extra)

    async def event(self, text: str, line_end: str = "\n") -> None:
        """Send one event, as a chunk of its own."""
        data = f"data: {text}{2 * line_end}".encode()
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        """End a stream."""
        await self.send(b"0\r\n\r\n")

    def die(self) -> None:
        """End the connection as a process that is killed does."""
        self.writer.transport.abort()

    async def gone(self, within_s: float = 10.0) -> bool:
        """Whether the gateway ends the connection in time."""
        try:
            return await asyncio.wait_for(self.reader.read(), within_s) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False


Behaviour = Callable[[Asked], Awaitable[None]]


async def answer(asked: Asked) -> None:
    """Answer at once."""
    await asked.reply(ANSWER)


def stream(tokens: int, gap_s: float = 0.0) -> Behaviour:
    """Stream some tokens, then what was used."""

    async def behave(asked: Asked) -> None:
        await asked.head()
        for number in range(tokens):
            await asked.event(json.dumps({"token": number}))
            await asyncio.sleep(gap_s)
        await asked.event(json.dumps({"choices": [], "usage": USAGE}))
        await asked.event("[DONE]")
        await asked.end()

    return behave


def engine(name: str, **values: float | None) -> str:
    """Return the metrics page of an engine: `running`, `waiting`, `kv_usage`; None leaves one out."""
    names = {
        "vllm": ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"),
        "sglang": ("sglang:num_running_reqs", "sglang:num_queue_reqs", "sglang:token_usage"),
        "llama.cpp": ("llamacpp:requests_processing", "llamacpp:requests_deferred", "llamacpp:kv_cache_usage_ratio"),
    }[name]
    labels = '{engine="0",model_name="small"}' if name != "llama.cpp" else ""
    given = zip(names, ("running", "waiting", "kv_usage"), strict=True)
    return "".join(f"# TYPE {n} gauge\n{n}{labels} {values[key]}\n" for n, key in given if values.get(key) is not None)


class Scripted:
    """An upstream on a free port of this machine. `behave` is called for every completion that is asked for."""

    def __init__(
        self,
        behave: Behaviour = answer,
        kind: str = "hosted",
        models: tuple[str, ...] = ("small",),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.behave = behave
        self.kind = kind
        self.models = models
        self.tls = tls
        self.metrics: str | None = None
        self.health = 200
        self.asked: list[Asked] = []
        self.now = 0
        self.most = 0
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, backlog=4096, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def declared(self, **more: Any) -> Upstream:
        """Return it as the gateway is told of it."""
        scheme = "http" if self.tls is None else "https"
        return Upstream(f"{scheme}://127.0.0.1:{self.port}", **{"kind": self.kind, **more})

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.transport.is_closing():
                await self._one(await read(reader, writer))
        writer.close()

    async def _one(self, asked: Asked) -> None:
        if asked.path.endswith("/health"):
            await asked.reply(b"", self.health)
        elif asked.path.endswith("/metrics"):
            await asked.reply((self.metrics or "").encode(), 404 if self.metrics is None else 200)
        elif asked.path.endswith("/v1/models"):
            await asked.reply(json.dumps({"data": [{"id": name} for name in self.models]}).encode())
        else:
            self.asked.append(asked)
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                await self.behave(asked)
            finally:
                self.now -= 1


async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Asked:
    """Read one request."""
    raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = raw.split("\r\n")[:-2]
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    method, path, _ = first.split(" ")
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, path, headers, body, reader, writer)


@dataclass
class Answer:
    """What a client of the gateway got. `whole`: whether the answer ended as it should."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True

    @property
    def error(self) -> str:
        return str(json.loads(self.body)["error"]["message"])

    @property
    def upstream(self) -> str:
        return self.headers["x-headway-route"].split(";")[0]


class Client:
    """One connection to the gateway, read by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, path: str = CHAT, body: Any = None, extra: str = "", method: str = "POST") -> None:
        sent = body if isinstance(body, bytes) else json.dumps(body or {"model": "small", "messages": []}).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n{extra}"
        self.writer.write(f"{head}content-length: {len(sent)}\r\n\r\n".encode() + sent)
        await self.writer.drain()

    async def head(self) -> Answer:
        raw = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = raw.split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Answer(int(status.split()[1]), headers, b"")

    async def chunk(self) -> bytes:
        size = int(await self.reader.readline(), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def answer(self) -> Answer:
        return await self.answer_after(await self.head())

    async def answer_after(self, found: Answer) -> Answer:
        """Read the rest of an answer whose head has been read."""
        parts: list[bytes] = []
        try:
            if found.headers.get("transfer-encoding") == "chunked":
                while part := await self.chunk():
                    parts.append(part)
            elif "content-length" in found.headers:
                found.body = await self.reader.readexactly(int(found.headers["content-length"]))
            else:
                found.body = await self.reader.read()
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            found.whole = False
        found.body += b"".join(parts)
        return found

    def close(self) -> None:
        self.writer.close()


@dataclass
class Stage:
    """A gateway in front of scripted upstreams, all on the present event loop."""

    server: GatewayServer
    upstreams: list[Scripted]
    port: int
    clients: list[Client] = field(default_factory=list)

    @property
    def gateway(self) -> Gateway:
        return self.server.gateway

    async def client(self) -> Client:
        """Open a connection, which is closed at the end if it is not before."""
        self.clients.append(await Client.open(self.port))
        return self.clients[-1]

    async def ask(self, body: Any = None, extra: str = "", path: str = CHAT) -> Answer:
        """Ask once, on a connection of its own."""
        client = await self.client()
        try:
            await client.ask(path, body, extra)
            return await client.answer()
        finally:
            client.close()

    async def get(self, path: str, extra: str = "") -> Answer:
        client = await self.client()
        try:
            await client.ask(path, b"", extra, method="GET")
            return await client.answer()
        finally:
            client.close()

    async def until(self, condition: Callable[[], bool], within_s: float = 20.0) -> None:
        """Wait until a condition holds; fails when it never does."""
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def gateway(
    *upstreams: Scripted, declared: dict[str, Any] | None = None, wait: bool = True, **options: Any
) -> AsyncIterator[Stage]:
    """Start upstreams and a gateway before them; end all."""
    for one in upstreams:
        if not one.port:
            await one.start()
    found = GatewayOptions(**{"grace_s": 1.0, **options})
    server = GatewayServer([one.declared(**(declared or {})) for one in upstreams], found)
    announced: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(server.run(announced.set_result))
    try:
        await asyncio.wait([task, announced], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        stage = Stage(server, list(upstreams), int(announced.result().rpartition(":")[2]))
        if wait:
            replicas = zip(upstreams, server.gateway.replicas, strict=True)
            for one, replica in replicas:
                if one.models:
                    await stage.until(lambda replica=replica: replica.models is not None)  # type: ignore[misc]
        yield stage
        for client in stage.clients:
            client.close()
    finally:
        server.stop()
        await asyncio.wait([task])
        for one in upstreams:
            await one.stop()
        task.result()


def play(scene: Callable[[], Awaitable[None]]) -> None:
    """Run a scene to its end, for a minute at most."""

    async def main() -> None:
        async with asyncio.timeout(60.0):
            await scene()

    asyncio.run(main())


def tokens(body: bytes) -> list[int]:
    """Return the tokens of a stream in their order."""
    events = [line.removeprefix("data: ") for line in body.decode().split("\n\n") if line]
    return [json.loads(event)["token"] for event in events if '"token"' in event]
