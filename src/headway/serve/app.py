"""The HTTP face of an engine: the Open Inference Protocol v2, and what operators ask for.

Infer requests take a short way of their own past the router: it is the only path where microseconds count. Probes
(`/healthz`, `/v2/health/live`, `/v2/health/ready`) are open to everyone; all else needs the token when there is one.
"""

from __future__ import annotations

import asyncio
import hmac
import math
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headway.errors import HeadwayError, nearest
from headway.serve import oip
from headway.serve.engine import Answer, Engine, Rejected
from headway.spec.units import duration_s

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

VERSION = "1"
OPEN_PATHS = frozenset({"/healthz", "/v2/health/live", "/v2/health/ready"})
MAX_TIMEOUT_S = 86_400.0
_STATUS = {"dropped": 504, "failed": 500}
_JSON = (b"content-type", b"application/json")
_BINARY = (b"content-type", b"application/octet-stream")
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one client may ask for: the largest body and header, and how long it may take to send the body."""

    max_body_bytes: int = 32 * 2**20
    max_header_bytes: int = 64 * 2**10
    body_timeout_s: float = 30.0


class _Refused(HeadwayError):
    """An answer other than the one hoped for."""

    def __init__(self, status: int, text: str, retry_after_s: int | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after_s = retry_after_s


class _Gone(Exception):
    """The client went away before its body was complete; there is nobody to answer."""


class _Patience:
    """Cuts off clients whose body does not arrive in time, with one timer for all instead of one per request.

    A body is cut off between one and two timeouts after its begin.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._young: set[asyncio.Task[Any]] = set()
        self._old: set[asyncio.Task[Any]] = set()
        self._cut: set[asyncio.Task[Any]] = set()
        self._ticking = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._young.add(task)
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(self._timeout_s, self._tick)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._young.discard(task)
        self._old.discard(task)
        if task in self._cut:
            self._cut.discard(task)
            task.uncancel()
            raise _Refused(408, f"the body did not arrive within {self._timeout_s:g} s") from None

    def _tick(self) -> None:
        for task in self._old:
            self._cut.add(task)
            task.cancel()
        self._old, self._young = self._young, set()
        self._ticking = bool(self._old)
        if self._ticking:
            asyncio.get_running_loop().call_later(self._timeout_s, self._tick)


class App:
    """The ASGI application of an engine. `token`: the bearer token that clients must show, or None."""

    def __init__(self, engine: Engine, *, token: str | None = None, limits: HttpLimits | None = None) -> None:
        self.engine = engine
        self.limits = limits or HttpLimits()
        self._token = None if token is None else b"Bearer " + token.encode()
        self._model = engine.plan.spec.name
        base = f"/v2/models/{self._model}"
        self._infer_paths = frozenset({f"{base}/infer", f"{base}/versions/{VERSION}/infer"})
        self._stages = engine.graph.order
        self._patience = _Patience(self.limits.body_timeout_s)
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
            if self._token is not None and path not in OPEN_PATHS:
                self._check_token(headers.get(b"authorization", b""))
            if scope["method"] == "POST" and path in self._infer_paths:
                await self._infer(headers, receive, send)
                return
        except _Gone:
            return
        except _Refused as refused:
            await _send_error(send, refused)
            return
        await self._router(scope, receive, send)

    def _check_token(self, shown: bytes) -> None:
        if self._token is not None and not hmac.compare_digest(shown, self._token):
            raise _Refused(401, "this server needs a token; send it as the header Authorization: Bearer TOKEN")

    async def _infer(self, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        body = await self._read(headers, receive)
        try:
            length = _whole(headers.get(b"inference-header-content-length"))
            timeout_s = _timeout_s(headers.get(b"x-request-timeout"))
            asked = oip.parse(body, length)
            oip.check_outputs(asked, self._stages)
        except oip.BadRequest as error:
            raise _Refused(400, str(error)) from None
        try:
            answer = await self.engine.infer(asked.input, timeout_s)
        except Rejected as error:
            raise _Refused(error.status, str(error), error.retry_after_s) from None
        await self._answer(send, asked, answer)

    async def _answer(self, send: Send, asked: oip.InferRequest, answer: Answer) -> None:
        if answer.status != "answered":
            raise _Refused(_STATUS[answer.status], answer.error)
        body, length = oip.response(self._model, VERSION, asked, answer.results)
        headers = [_JSON if length is None else _BINARY, (b"content-length", str(len(body)).encode())]
        if length is not None:
            headers.append((b"inference-header-content-length", str(length).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        limit = self.limits.max_body_bytes
        too_large = _Refused(413, f"the body is larger than {limit} bytes, the most that this server takes")
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            raise too_large
        parts: list[bytes] = []
        size = 0
        with self._patience:
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
                    break
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _whole(text: bytes | None) -> int | None:
    if text is None:
        return None
    if not text.isdigit() or len(text) > 15:
        raise oip.BadRequest("Inference-Header-Content-Length is not a number of bytes")
    return int(text)


def _timeout_s(text: bytes | None) -> float | None:
    """Read the header `x-request-timeout`: seconds, or a duration with a unit such as `500ms`."""
    if text is None:
        return None
    written = text.decode("latin-1").strip()
    try:
        value = float(written) if written[-1:].isdigit() else duration_s(written)
    except ValueError:
        value = math.nan
    if not 0.0 < value <= MAX_TIMEOUT_S:
        raise oip.BadRequest(
            f"x-request-timeout is {written[:40]!r}; it must be seconds or a duration such as '500ms', above 0 "
            f"and at most {MAX_TIMEOUT_S:g} s"
        )
    return value


async def _send_error(send: Send, refused: _Refused) -> None:
    body = _encode({"error": str(refused)})
    headers = [_JSON, (b"content-length", str(len(body)).encode())]
    if refused.retry_after_s is not None:
        headers.append((b"retry-after", str(refused.retry_after_s).encode()))
    if refused.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refused.status in (408, 413):
        # The rest of the body is still on its way; the connection cannot be used for another request.
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
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

    async def plan(request: Request) -> Response:
        return Response(engine.plan.to_json(), media_type="application/json")

    async def stats(request: Request) -> Response:
        try:
            since_s = float(request.query_params.get("since_s", "-inf"))
        except ValueError:
            return _json({"error": "since_s must be a number of seconds of the server's clock"}, 400)
        return _json(engine.stats(since_s, request.query_params.get("samples") == "true"))

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
        Route("/plan", plan),
        Route("/stats", stats),
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
        "parameters": {"plan_hash": engine.plan.hash},
    }
