"""The gateway's HTTP: completions go to upstreams, all else is answered here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast
from urllib.parse import parse_qs, unquote_to_bytes

import msgspec

from headway.errors import nearest
from headway.gateway.ask import ApiError
from headway.gateway.client import ClientConnection
from headway.gateway.keys import Account, Accounts
from headway.gateway.replica import PATHS
from headway.serve.app import App, HttpLimits, Receive, Scope, Send
from headway.serve.front import Front
from headway.serve.infer import JSON, Headers

if TYPE_CHECKING:
    from headway.gateway.gateway import Gateway
    from headway.serve.message import Message

_encode: Final = msgspec.json.Encoder().encode
_LAST: Final = 100
_MODEL: Final = b"/v1/models/"
Page = tuple[int, bytes, Headers]
Asgi: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class Face:
    """What connections ask an application for; the gateway has no other."""

    def __init__(self, limits: HttpLimits, guard: Accounts, pages: Mapping[bytes, Asgi]) -> None:
        self.limits = limits
        self.guard = guard
        self.infer = _NoInference()
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have what answers at a path beside the gateway answer a request."""
        await self._pages[scope["raw_path"]](scope, receive, send)


class _NoInference:
    paths: frozenset[str] = frozenset()


class GatewayFront(Front):
    """Listens for a gateway."""

    connection = ClientConnection

    def __init__(self, gateway: Gateway, pages: Mapping[bytes, Asgi]) -> None:
        super().__init__(cast("App", Face(gateway.options.http, gateway.accounts, pages)))
        self.gateway = gateway
        self._pages = pages

    def beside(self, message: Message) -> bool:
        """Whether a request is for what answers beside the gateway. Raises ApiError when it is not for this client."""
        if message.url.partition(b"?")[0] not in self._pages:
            return False
        accounts = self.gateway.accounts
        if accounts.active and accounts.of(message.named) is not accounts.operator:
            raise ApiError(403, "this is for whoever runs the gateway: send the token that it was started with")
        return True

    def page(self, message: Message) -> Page:
        """Return what is answered here: status, body and headers."""
        path, _, query = message.url.partition(b"?")
        if path in PATHS and message.method == b"POST":
            return _refusal(400, f"leave out the query of {path.decode()}: it would not be passed on")
        if path in PATHS:
            return _refusal(405, f"{message.method.decode()} is not possible here; POST is")
        make = _PAGES.get(_MODEL if path.startswith(_MODEL) else path)
        if make is None:
            where = path[:200].decode("latin-1")
            return _refusal(404, f"there is nothing at {where}; completions are at /v1/chat/completions")
        if message.method not in (b"GET", b"HEAD"):
            return _refusal(405, f"{message.method.decode()} is not possible here; GET is")
        asking = self.gateway.accounts.of(message.named)
        return make(self.gateway, path[len(_MODEL) :] if make is _model else query, asking)


def _refusal(status: int, text: str, code: str | None = None) -> Page:
    error = ApiError(status, text, code=code)
    return status, error.body, error.headers


def _json(value: Any, status: int = 200) -> Page:
    return status, _encode(value), JSON


def _live(gateway: Gateway, query: bytes, asking: Account) -> Page:
    return _json({"live": True})


def _ready(gateway: Gateway, query: bytes, asking: Account) -> Page:
    ready = not gateway.draining and any(replica.up for replica in gateway.replicas)
    return _json({"ready": ready}, 200 if ready else 503)


def _served(gateway: Gateway) -> list[str]:
    return sorted(set().union(*(replica.models or () for replica in gateway.replicas if replica.up)))


def _about(model: str) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": 0, "owned_by": "headway"}


def _models(gateway: Gateway, query: bytes, asking: Account) -> Page:
    return _json({"object": "list", "data": [_about(name) for name in _served(gateway)]})


def _model(gateway: Gateway, quoted: bytes, asking: Account) -> Page:
    # Names have slashes, which clients quote or leave as they are.
    name, known = unquote_to_bytes(quoted).decode("utf-8", "replace"), _served(gateway)
    if name in known:
        return _json(_about(name))
    text = f"no upstream that is up serves the model {name[:200]!r}{nearest(name[:200], known)}"
    return _refusal(404, f"{text}; valid: {', '.join(known)}" if known else text, "model_not_found")


def _metrics(gateway: Gateway, query: bytes, asking: Account) -> Page:
    from headway.gateway.metrics import CONTENT_TYPE, exposition

    return 200, exposition(gateway), ((b"content-type", CONTENT_TYPE.encode()),)


def _decisions(gateway: Gateway, query: bytes, asking: Account) -> Page:
    asked = parse_qs(query.decode("latin-1")).get("last", [str(_LAST)])[0]
    if not (asked.isascii() and asked.isdecimal()) or len(asked) > 9:
        return _refusal(400, f"last is {asked[:40]!r}; it must be a number of decisions")
    # What others ask is none of the business of one of several keys; the operator has the token.
    own = asking.name if gateway.options.keys and asking is not gateway.accounts.operator else None
    return _json(gateway.journal.last(int(asked), own))


def _upstreams(gateway: Gateway, query: bytes, asking: Account) -> Page:
    return _json([replica.to_dict(gateway.clock()) for replica in gateway.replicas])


_PAGES: Final = {
    b"/health": _live,
    b"/healthz": _live,
    b"/ready": _ready,
    b"/v1/models": _models,
    _MODEL: _model,
    b"/metrics": _metrics,
    b"/decisions": _decisions,
    b"/upstreams": _upstreams,
}
