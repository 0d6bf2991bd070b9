"""Heads of messages: what follows from one is worked out once, since those of one client or engine are mostly equal.

Two heads that differ in nothing but the digits of the content's length mean the same. So a message that comes in one
piece, with a head that the parser has found to be good before, need not be parsed again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from headway.gateway.ask import ApiError
from headway.serve.infer import read_timeout_s
from headway.serve.oip import BadRequest

if TYPE_CHECKING:
    from headway.gateway.keys import Account
    from headway.serve.message import Message

HEAD_END: Final = b"\r\n\r\n"
MAX_HEAD_BYTES: Final = 4096
"""The largest head that is remembered."""
_LENGTH: Final = re.compile(rb"\r\n(?:content-length|Content-Length): (\d{1,9})(?=\r\n)")
_DROPPED: Final = frozenset(
    {
        b"host", b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"proxy-connection",
        b"proxy-authorization", b"te", b"trailer", b"upgrade", b"expect", b"authorization", b"x-request-timeout",
        b"x-headway-route",
        # What was used could not be read of an answer that is compressed.
        b"accept-encoding",
    }
)  # fmt: skip
"""Headers that are for the gateway alone, or that upstreams must not go by."""
T = TypeVar("T")
_NOTHING: Final = b"\0"
"""No message begins so."""


class Known(Generic[T]):
    """What is known of heads. It forgets all when there are too many: then they are not equal after all.

    >>> known = Known[int]()
    >>> known.match(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nhi") is None
    True
    >>> known.learn(200)
    >>> known.match(b"HTTP/1.1 200 OK\\r\\ncontent-length: 4\\r\\n\\r\\nwell")
    (200, 34)
    """

    def __init__(self, entries: int = 512) -> None:
        self._entries = entries
        self._found: dict[bytes, T] = {}
        self._missed = b""
        # The last one that was found: what stands before the digits of the length and after them, and its value.
        self._before = self._after = _NOTHING
        self._last: T | None = None

    def match(self, data: bytes) -> tuple[T, int] | None:
        """Return what is known of a message's head, and where that ends; None unless `data` is one whole message."""
        if data.startswith(self._before):
            begin = len(self._before)
            stop = data.find(b"\r\n", begin)
            if data.startswith(self._after, stop):
                digits = data[begin:stop]
                body = stop + len(self._after)
                if digits.isdigit() and len(digits) < 10 and int(digits) == len(data) - body:
                    return self._last, body - 4  # type: ignore[return-value]
        return self._look_up(data)

    def _look_up(self, data: bytes) -> tuple[T, int] | None:
        self._missed = b""
        end = data.find(HEAD_END)
        if end < 0 or end > MAX_HEAD_BYTES:
            return None
        found = _LENGTH.search(data, 0, end + 2)
        if found is None or len(data) - end - 4 != int(found[1]):
            return None
        begin, stop = found.span(1)
        key = data[:begin] + data[stop:end]
        value = self._found.get(key)
        if value is None:
            self._missed = key
            return None
        self._before, self._after, self._last = data[:begin], data[stop : end + 4], value
        return value, end

    def learn(self, value: T) -> None:
        """Keep what follows from the head just looked for, if the message was whole and its head was not known."""
        if self._missed:
            if len(self._found) >= self._entries:
                self._found.clear()
            self._found[self._missed] = value
            self._missed = b""


class Head:
    """What follows from the head of a request: whose it is, how long it may take, and what upstreams see of it."""

    __slots__ = ("account", "headers", "lines", "named", "url", "within_s")

    def __init__(self, message: Message, account: Account) -> None:
        self.url = message.url
        self.headers = message.headers
        self.named = message.named
        self.account = account
        self.within_s = _within_s(message.named)
        dropped = _DROPPED
        linked = message.named.get(b"connection")
        if linked is not None:
            dropped = _DROPPED | {name.strip().lower() for name in linked.split(b",")}
        lines = [b"%b: %b\r\n" % pair for pair in message.headers if pair[0] not in dropped]
        self.lines = b"".join(lines) + b"content-length: "


def _within_s(headers: Mapping[bytes, bytes]) -> float | None:
    """Return the seconds that a request's own header gives it, None where it has none. Raises ApiError."""
    try:
        return read_timeout_s(headers.get(b"x-request-timeout"))
    except BadRequest as error:
        raise ApiError(400, str(error)) from None
