"""The HTTP face of an engine: the Open Inference Protocol v2, and what operators ask for.

An ASGI application, for whatever server of that kind. Headway's own (`headway.serve.front`) asks it for everything but
inference, whose short way (`headway.serve.infer`) both share. Probes (`/healthz`, `/v2/health/live`,
`/v2/health/ready`) are open to everyone; all else needs the token when there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headway.errors import nearest
from headway.serve import control
from headway.serve.engine import Engine
from headway.serve.infer import VERSION, Guard, Headers, Infer, Refused

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

CLOSE: Headers = ((b"connection", b"close"),)
"""Goes with an answer when the rest of a body is still on its way: no other request can follow it."""
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one client may ask for: the largest body and header, and how long it may take to send each of them.

    A connection on which nothing is asked for `keep_alive_s` is closed.
    """

    max_body_bytes: int = 32 * 2**20
    max_header_bytes: int = 64 * 2**10
    body_timeout_s: float = 30.0
    keep_alive_s: float = 75.0


class _Gone(Exception):
    """The client went away before its body was complete; there is nobody to answer."""


class App:
    """The ASGI application of an engine. `token`: the bearer token that clients must show, or None."""

    def __init__(self, engine: Engine, *, token: str | None = None, limits: HttpLimits | None = None) -> None:
        self.engine = engine
        self.limits = limits or HttpLimits()
        self.infer = Infer(engine)
        self.guard = Guard(token)
        self._router = Starlette(routes=_routes(self), exception_handlers={HTTPException: _http_error})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        path = scope["path"]
        try:
            refused = self.guard.refusal(path, headers)
            if refused is not None:
                raise refused
            if scope["method"] == "POST" and path in self.infer.paths:
                await self._infer(headers, receive, send)
                return
        except _Gone:
            return
        except Refused as error:
            await _respond(send, error.status, error.body, error.headers)
            return
        await self._router(scope, receive, send)

    async def _infer(self, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        body = await self.read(headers, receive, self.limits.max_body_bytes)
        replied: asyncio.Future[tuple[int, bytes, Headers]] = asyncio.get_running_loop().create_future()
        self.infer(headers, body, lambda *reply: None if replied.done() else replied.set_result(reply))
        await _respond(send, *await replied)

    async def read(self, headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes:
        """Read a body of at most `limit` bytes. Raises Refused."""
        too_large = Refused(413, f"the body is larger than {limit} bytes, the most that this server takes", CLOSE)
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            raise too_large
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.limits.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    part: bytes = message.get("body", b"")
                    size += len(part)
                    if size > limit:
                        raise too_large
                    parts.append(part)
                    if not message.get("more_body", False):
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError:
            raise Refused(408, f"the body did not arrive within {self.limits.body_timeout_s:g} s", CLOSE) from None


async def _respond(send: Send, status: int, body: bytes, headers: Headers) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Receive, send: Send) -> None:
    """Whoever runs the application starts and stops the engine; there is nothing to do here."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _json(value: Any, status: int = 200) -> Response:
    return Response(_encode(value), status, media_type="application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    text = {404: f"there is nothing at {request.url.path}", 405: f"{request.method} is not possible here"}
    response = _json({"error": text.get(status, str(error))}, status)
    response.headers.update(headers or {})
    return response


def _routes(app: App) -> list[Route]:
    engine = app.engine
    name = engine.plan.spec.name

    def unknown(request: Request) -> Response | None:
        asked, version = request.path_params["model"], request.path_params.get("version", VERSION)
        where = f"there is nothing at {request.url.path}"
        if asked != name:
            return _json({"error": f"{where}: no model {asked!r}{nearest(asked, [name])}; valid: {name}"}, 404)
        if version != VERSION:
            return _json({"error": f"{where}: no such version of {name!r}; valid: {VERSION}"}, 404)
        return None

    async def server(request: Request) -> Response:
        from importlib.metadata import version

        return _json({"name": "headway", "version": version("headway"), "extensions": ["binary_tensor_data"]})

    async def live(request: Request) -> Response:
        return _json({"live": True})

    async def ready(request: Request) -> Response:
        return _json({"ready": engine.ready}, 200 if engine.ready else 503)

    async def model(request: Request) -> Response:
        return unknown(request) or _json(metadata(engine))

    async def model_ready(request: Request) -> Response:
        return unknown(request) or _json({"name": name, "ready": engine.ready}, 200 if engine.ready else 503)

    async def no_such_model(request: Request) -> Response:
        return unknown(request) or await _http_error(request, HTTPException(404))

    async def metrics(request: Request) -> Response:
        from headway.serve.metrics import CONTENT_TYPE, exposition

        return Response(exposition(engine), media_type=CONTENT_TYPE)

    models = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    return [
        Route("/healthz", live),
        Route("/v2", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        *(Route(path, model) for path in models),
        *(Route(path + "/ready", model_ready) for path in models),
        *(Route(path + "/infer", no_such_model, methods=["POST"]) for path in models),
        *control.routes(app),
        Route("/metrics", metrics),
    ]


def metadata(engine: Engine) -> dict[str, Any]:
    """Return the model metadata of the protocol: the pipeline as one model, its stages as possible outputs."""
    return {
        "name": engine.plan.spec.name,
        "versions": [VERSION],
        "platform": "headway_pipeline",
        "inputs": [{"name": "input", "datatype": "BYTES", "shape": [1]}],
        "outputs": [{"name": stage, "datatype": "BYTES", "shape": [-1]} for stage in engine.graph.sinks],
        "parameters": {"plan_hash": engine.plan_hash},
    }
