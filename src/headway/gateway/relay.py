"""One request on its way: from its client through the queue to an upstream, maybe to another, and back."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from headway.gateway.ask import Ask

if TYPE_CHECKING:
    from headway.gateway.client import ClientConnection
    from headway.gateway.gateway import Gateway
    from headway.gateway.keys import Account
    from headway.gateway.line import Line
    from headway.gateway.replica import Replica
    from headway.serve.message import Message

BUSY: Final = frozenset({429, 502, 503, 504})
"""What an upstream answers that cannot take a request now; another one may."""
TAIL_BYTES: Final = 4096
"""Of each piece of an answer that are kept: the last pieces say what was used."""
_TAIL_PIECES: Final = 4
_PROMPT: Final = re.compile(rb'"prompt_tokens"\s*:\s*(\d{1,12})')
_COMPLETION: Final = re.compile(rb'"completion_tokens"\s*:\s*(\d{1,12})')


class Relay:
    """A request that was let in. What is not known at first is a default of the class, which costs nothing.

    `barred`: upstreams that it may not go to, by number; `tokens`: about how many its prompt has.
    """

    line: Line | None = None
    replica: Replica | None = None
    frame: bytes = b""
    sent_s = 0.0
    first_s = 0.0
    status = 0
    attempts = 0
    pieces = 0
    seen_pieces = -1
    seen_s = 0.0
    again = 0
    begun = False
    over = False
    decision: tuple[Any, ...] = ()
    failures: tuple[str, ...] = ()
    barred: tuple[int, ...] = ()
    blocks: list[int] | None = None

    def __init__(
        self,
        gateway: Gateway,
        client: ClientConnection,
        message: Message,
        ask: Ask,
        account: Account,
        number: int,
        arrival_s: float,
        deadline_s: float,
    ) -> None:
        self._gateway = gateway
        self.client = client
        self.message = message
        self.ask = ask
        self.account = account
        self.number = number
        self.arrival_s = arrival_s
        self.deadline_s = deadline_s
        self.tokens = len(message.body) / 4.0
        self.keep = client.keeps(message)
        self.speaks_chunks = message.http_version == "1.1"
        self.write = client.write_on
        self.tail: deque[bytes] = deque(maxlen=_TAIL_PIECES)

    # What its client's connection calls

    def disconnected(self) -> None:
        """Take note that nobody waits for the answer any more."""
        if not self.over:
            self._gateway.abandoned(self)

    def pause(self) -> None:
        """Let the upstream wait for the client."""
        if self.line is not None:
            self.line.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        if self.line is not None:
            self.line.resume()

    # What the upstream's connection calls

    def declines(self, status: int) -> bool:
        """Whether another upstream is asked instead of passing an answer with this status on."""
        return status in BUSY and self._gateway.may_retry(self)

    def first(self, status: int, head: bytes, body: bytes) -> None:
        """Send the head of the answer, given without its empty line, and what of the body there is."""
        self.begun = True
        self.status = status
        if body:
            self.tail.append(body[-TAIL_BYTES:])
        self.write(b"%b\r\n%b\r\n%b" % (head, self._gateway.began(self), body))

    def complete(self) -> None:
        """Take note that the answer has been passed on as a whole."""
        self.line = None
        self._gateway.completed(self)

    def broken(self, why: str, status: int = 0, unseen: bool = False) -> None:
        """Take note that this upstream gives no answer, or not the rest of it. `unseen`: it never saw the request."""
        self.line = None
        if not self.over:
            self._gateway.broken(self, why, status, unseen)

    def usage(self) -> tuple[int, int] | None:
        """Return the tokens of prompt and completion as the end of the answer tells them; None where it does not."""
        return usage_of(b"".join(self.tail))


def usage_of(tail: bytes) -> tuple[int, int] | None:
    """Return the tokens of prompt and completion that the end of an answer tells; None where it tells none.

    >>> usage_of(b'data: {"usage": {"prompt_tokens": 9, "total_tokens": 13, "completion_tokens": 4}}')
    (9, 4)
    """
    place = tail.rfind(b'"usage"')
    if place < 0:
        return None
    prompt = _PROMPT.search(tail, place)
    if prompt is None:
        return None
    completion = _COMPLETION.search(tail, place)
    return int(prompt[1]), 0 if completion is None else int(completion[1])
