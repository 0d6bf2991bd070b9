"""Requests from inside this process: who has no connection asks a gateway as its clients do, and gets whole answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from headway.gateway.heads import HEAD_END, Head
from headway.gateway.replica import PATHS
from headway.serve.infer import Refused
from headway.serve.message import Message

if TYPE_CHECKING:
    from headway.gateway.gateway import Gateway
    from headway.gateway.relay import Relay

MAX_ANSWER_BYTES: Final = 64 * 2**20
"""The largest answer that is gathered."""
_HEADERS: Final = [(b"content-type", b"application/json")]
_TYPE_LINE: Final = re.compile(rb"\r\ncontent-type:[ \t]*([^\r\n;]*)", re.I)
_CHAT, _COMPLETION = PATHS


class Reply(NamedTuple):
    """What came of a request: the answer of `upstream`, or with an empty one the gateway's own refusal.

    `sent_s`: when it was sent to the upstream that answered, on the gateway's clock; 0 where it never was.
    """

    status: int
    body: bytes
    content_type: str = "application/json"
    upstream: str = ""
    sent_s: float = 0.0


class _Form(msgspec.Struct):
    messages: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode: Final = msgspec.json.Decoder(_Form).decode


def path_of(body: bytes) -> bytes:
    """Return where a request is sent to, by its form: one with messages is a chat.

    >>> path_of(b'{"messages": []}'), path_of(b'{"prompt": "x"}')
    (b'/v1/chat/completions', b'/v1/completions')
    """
    try:
        return _CHAT if _decode(body).messages is not msgspec.UNSET else _COMPLETION
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _CHAT


class Call:
    """One request, in the place of a client's connection. `done` is told what came of it, unless it is given up."""

    slow = False

    def __init__(self, message: Message, done: Callable[[Reply], None]) -> None:
        self.message = message
        self.transport: Any = self
        self.relay: Relay | None = None
        self._done: Callable[[Reply], None] | None = done
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def open(self) -> bool:
        """Whether `done` has yet to be told what came of it."""
        return self._done is not None

    def give_up(self) -> None:
        """Take note that nobody waits for the answer any more; its upstream hears of it."""
        self._done = None
        if self.relay is not None:
            self.relay.disconnected()

    # What a relay asks of a client's connection

    def write(self, data: bytes) -> None:
        """Gather a part of the answer, its head first."""
        self._size += len(data)
        if self._size <= MAX_ANSWER_BYTES:
            self._parts.append(data)

    def keeps(self, message: Message) -> bool:
        """Whether another request could follow: there is no connection that would have to be closed."""
        return True

    def refuse(self, message: Message, refused: Refused) -> None:
        """Take an error in the place of an answer."""
        self._tell(Reply(refused.status, str(refused).encode(), "text/plain"))

    def ended(self, message: Message, keep: bool) -> None:
        """Take note that the answer is complete."""
        relay = self.relay
        assert relay is not None
        if self._size > MAX_ANSWER_BYTES:
            self._tell(self._failed(f"the answer is larger than {MAX_ANSWER_BYTES} bytes, the most that is gathered"))
            return
        head, _, body = b"".join(self._parts).partition(HEAD_END)
        found = _TYPE_LINE.search(head)
        kind = "" if found is None else found[1].decode("latin-1").strip().lower()
        self._tell(Reply(relay.status, body, kind, relay.decision[0], relay.sent_s))

    def abort(self) -> None:
        """Take note that the answer was cut off."""
        self._tell(self._failed("the answer was cut off"))

    def _failed(self, why: str) -> Reply:
        relay = self.relay
        assert relay is not None
        return Reply(502, f"the upstream {relay.decision[0]}: {why}".encode(), "text/plain", sent_s=relay.sent_s)

    def _tell(self, reply: Reply) -> None:
        done, self._done = self._done, None
        self._parts.clear()
        if done is not None:
            done(reply)


class Inside:
    """Asks one gateway from inside its process."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        account = gateway.accounts.of({})
        self._heads = {path: Head(_message(path, b""), account) for path in PATHS}

    def ask(self, body: bytes, done: Callable[[Reply], None], deadline_s: float) -> Call:
        """Send a request of the OpenAI protocol; `done` is told what came of it, maybe before this returns.

        It is given up at `deadline_s` on the gateway's clock.
        """
        message = _message(path_of(body), body)
        call = Call(message, done)
        call.relay = self._gateway.submit(call, message, self._heads[message.url])
        if call.relay is not None:
            call.relay.deadline_s = min(call.relay.deadline_s, deadline_s)
        return call


def _message(path: bytes, body: bytes) -> Message:
    # As a client of HTTP/1.0 it gets answers without chunks.
    return Message(b"POST", path, _HEADERS, dict(_HEADERS), "1.0", True, body)
