"""One inference request, whatever brought it: from headers and body to the status, body and headers of the answer."""

from __future__ import annotations

import hmac
import logging
import math
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from headway.errors import HeadwayError
from headway.serve import oip
from headway.serve.engine import Answer, Engine
from headway.serve.gate import Rejected
from headway.serve.walk import Request
from headway.spec.units import duration_s

log = logging.getLogger(__name__)

VERSION: Final = "1"
OPEN_PATHS: Final = frozenset({"/healthz", "/v2/health/live", "/v2/health/ready"})
MAX_TIMEOUT_S: Final = 86_400.0
_STATUS: Final = {"dropped": 504, "failed": 500}
_encode: Final = msgspec.json.Encoder().encode

Headers = tuple[tuple[bytes, bytes], ...]
Reply = Callable[[int, bytes, Headers], None]
"""Takes the status, the body and the headers of an answer, its length not among them."""

JSON: Final[Headers] = ((b"content-type", b"application/json"),)


class Refused(HeadwayError):
    """An answer other than the one hoped for: `status` is that of HTTP, `headers` go with it."""

    def __init__(self, status: int, text: str, headers: Headers = ()) -> None:
        super().__init__(text)
        self.status = status
        self.headers = JSON + headers

    @property
    def body(self) -> bytes:
        """The text as JSON."""
        return _encode({"error": str(self)})


class Infer:
    """Answers inference requests of one engine's pipeline. `paths` are where they are sent to."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._model = engine.plan.spec.name
        base = f"/v2/models/{self._model}"
        self.paths = frozenset({f"{base}/infer", f"{base}/versions/{VERSION}/infer"})

    def __call__(self, headers: Mapping[bytes, bytes], body: bytes, reply: Reply) -> Request | None:
        """Take in a request whose headers have lower-case names; `reply` is called once, maybe before this returns.

        Returns what `abandon` takes; None for a request that is not let in.
        """
        try:
            length = _whole(headers.get(b"inference-header-content-length"))
            timeout_s = read_timeout_s(headers.get(b"x-request-timeout"))
            asked = oip.parse(body, length)
            if asked.outputs:
                oip.check_outputs(asked, self._engine.graph.order)
            return self._engine.submit(asked.input, lambda answer: self._answer(asked, answer, reply), timeout_s)
        except oip.BadRequest as error:
            refused = Refused(400, str(error))
            reply(400, refused.body, refused.headers)
        except Rejected as error:
            refused = Refused(error.status, str(error), ((b"retry-after", str(error.retry_after_s).encode()),))
            reply(refused.status, refused.body, refused.headers)
        return None

    def abandon(self, request: Request) -> None:
        """Take note that the client of a request went away."""
        self._engine.abandon(request)

    def _answer(self, asked: oip.InferRequest, answer: Answer, reply: Reply) -> None:
        if answer.status != "answered":
            refused = Refused(_STATUS[answer.status], answer.error)
            reply(refused.status, refused.body, refused.headers)
            return
        try:
            body, length = oip.response(self._model, VERSION, asked, answer.results)
        except Exception:
            # The engine calls this in the middle of its work, which one odd result must not end.
            log.exception("an answer could not be written")
            refused = Refused(500, "the answer could not be written")
            reply(refused.status, refused.body, refused.headers)
            return
        if length is None:
            reply(200, body, JSON)
        else:
            mark = (b"inference-header-content-length", str(length).encode())
            reply(200, body, ((b"content-type", b"application/octet-stream"), mark))


class Guard:
    """Knows who may ask for what: probes are open to everyone, all else needs the token when there is one."""

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else b"Bearer " + token.encode()

    @property
    def active(self) -> bool:
        """Whether there is a token."""
        return self._token is not None

    def refusal(self, path: str, headers: Mapping[bytes, bytes]) -> Refused | None:
        """Return why a request is not let in, or None.

        >>> Guard("s3cret").refusal("/plan", {}).status
        401
        """
        if self._token is None or path in OPEN_PATHS:
            return None
        if hmac.compare_digest(headers.get(b"authorization", b""), self._token):
            return None
        text = "this server needs a token; send it as the header Authorization: Bearer TOKEN"
        return Refused(401, text, ((b"www-authenticate", b"Bearer"),))


def _whole(text: bytes | None) -> int | None:
    if text is None:
        return None
    if not text.isdigit() or len(text) > 15:
        raise oip.BadRequest("Inference-Header-Content-Length is not a number of bytes")
    return int(text)


def read_timeout_s(text: bytes | None) -> float | None:
    """Read the header `x-request-timeout`: seconds, or a duration with a unit such as `500ms`. Raises BadRequest."""
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
