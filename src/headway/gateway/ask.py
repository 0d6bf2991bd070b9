"""What the gateway reads of a request: as little as its decisions need. All else passes through as it came."""

from __future__ import annotations

from typing import Final

import msgspec

from headway.serve.infer import Headers, Refused

BYTES_PER_TOKEN: Final = 4.0
"""Of English text, about; the size of a prompt is estimated from the body's, since no tokenizer is at hand."""
MOST_TOKENS: Final = 2**31
"""No answer is longer; a request may name a number that is."""
_encode: Final = msgspec.json.Encoder().encode


class ApiError(Refused):
    """An answer other than the one hoped for, in the words of the OpenAI protocol."""

    def __init__(self, status: int, text: str, headers: Headers = (), code: str | None = None) -> None:
        super().__init__(status, text, headers)
        self.code = code

    @classmethod
    def of(cls, refused: Refused) -> ApiError:
        """Return a refusal of the server's own in those words."""
        return refused if isinstance(refused, cls) else cls(refused.status, str(refused), refused.headers[1:])

    @property
    def body(self) -> bytes:
        """The error as JSON."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return _encode({"error": {"message": str(self), "type": kind, "param": None, "code": self.code}})


class Ask(msgspec.Struct):
    """The fields of a body that decide where it goes. What a request asks for at most is not what it will take."""

    model: str | None = None
    stream: bool | None = None
    max_tokens: int | float | None = None
    max_completion_tokens: int | float | None = None
    user: str | None = None
    prompt_cache_key: str | None = None

    @property
    def most_tokens(self) -> int | None:
        """The most tokens that may be generated, where the request says so with a number that an engine could mean."""
        most = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return None if most is None else int(min(max(1, most), MOST_TOKENS))


_decode: Final = msgspec.json.Decoder(Ask).decode


def read(body: bytes) -> Ask:
    """Return what a body asks for. Raises ApiError when it is no JSON object, or a field has another type.

    >>> read(b'{"model": "small", "messages": []}').model
    'small'
    """
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"the body is not a request of the OpenAI protocol: {error}") from None


def prompt_tokens(body: bytes) -> float:
    """Return about how many tokens a body's prompt has.

    >>> prompt_tokens(b"x" * 400)
    100.0
    """
    return len(body) / BYTES_PER_TOKEN


def with_priority(body: bytes, priority: int) -> bytes:
    """Return the body, a JSON object, with its priority set. The last of two fields of one name counts.

    >>> with_priority(b'{"model": "small"} ', 7)
    b'{"model": "small","priority":7}'
    """
    inside = body.rstrip()[:-1]
    comma = b"" if inside.rstrip().endswith(b"{") else b","
    return b'%b%b"priority":%d}' % (inside, comma, priority)
