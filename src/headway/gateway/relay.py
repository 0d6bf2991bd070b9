"""One request on its way: from its client through the queue to an upstream, maybe to another, and back."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from headway.gateway.ask import BYTES_PER_TOKEN, Ask

if TYPE_CHECKING:
    from headway.gateway.gateway import Gateway
    from headway.gateway.heads import Head
    from headway.gateway.line import Line
    from headway.gateway.replica import Replica
    from headway.gateway.splice import Splice
    from headway.serve.infer import Refused
    from headway.serve.message import Message

BUSY: Final = frozenset({429, 502, 503, 504})
"""What an upstream answers that cannot take a request now; another one may."""
_SICK: Final = frozenset({502, 503, 504})
TAIL_BYTES: Final = 4096
"""Of each piece of an answer that are kept: the last pieces say what was used."""
TAIL_PIECES: Final = 4
_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')
USAGE_BYTES: Final = 1024
"""Within how many bytes of its name what was used is told."""
_OBJECT: Final = re.compile(rb"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")
"""One that is not cut off, with at most one level of others within."""
_CHUNK_LINE: Final = re.compile(rb"\r\n[0-9a-fA-F]{1,8}\r\n")
"""What may stand between two parts of a number, where answers are passed on in chunks as they came."""
_PROMPT: Final = re.compile(rb'"prompt_tokens"\s*:\s*(\d{1,12})')
_COMPLETION: Final = re.compile(rb'"completion_tokens"\s*:\s*(\d{1,12})')


class Asker(Protocol):
    """Who asked, and gets the answer: a client's connection, or a part of this process (`headway.gateway.inside`)."""

    @property
    def transport(self) -> Any:
        """What takes the answer, by `write`."""
        ...

    @property
    def slow(self) -> bool:
        """Whether it does not take its answer as fast as that comes."""
        ...

    def keeps(self, message: Message) -> bool:
        """Whether another request may follow this one."""
        ...

    def refuse(self, message: Message, refused: Refused) -> None:
        """Take an error in the place of an answer."""
        ...

    def ended(self, message: Message, keep: bool) -> None:
        """Take note that the answer is complete."""
        ...

    def abort(self) -> None:
        """Take note that the answer was cut off."""
        ...


class Relay:
    """A request that was let in. What is not known at first is a default of the class, which costs nothing.

    `barred`: upstreams that it may not go to, by number; of these `tried` have failed it. `tokens`: about how many its
    prompt has. `stretched`: what the `stretch` of its upstream was as it was sent. `look_s`: before then, time alone
    brings nothing about. `pieces`: reads of the answer after the first; `events`: those of a stream that have passed;
    `passed_bytes`: of its body. `used`: what it said last of what was used, and what comes right behind that;
    `used_before`: the same of the time before, as the last may be cut off.
    """

    line: Line | None = None
    replica: Replica | None = None
    sent_s = 0.0
    stretched = 1.0
    first_s = 0.0
    status = 0
    attempts = 0
    pieces = 0
    events = 0
    passed_bytes = 0
    used = used_before = b""
    seen_pieces = -1
    seen_s = 0.0
    look_s = 0.0
    again = False
    begun = False
    over = False
    tail: Sequence[bytes] = ()
    decision: tuple[Any, ...] = ()
    failures: tuple[str, ...] = ()
    suspects: tuple[tuple[Replica, float], ...] = ()
    tried: tuple[int, ...] = ()
    barred: tuple[int, ...] = ()
    blocks: list[int] | None = None

    def __init__(
        self,
        gateway: Gateway,
        client: Asker,
        message: Message,
        head: Head,
        ask: Ask,
        number: int,
        arrival_s: float,
        deadline_s: float,
    ) -> None:
        self._gateway = gateway
        self.client = client
        self.message = message
        self.head = head
        self.ask = ask
        self.account = head.account
        self.number = number
        self.arrival_s = arrival_s
        self.deadline_s = deadline_s
        self.tokens = len(message.body) / BYTES_PER_TOKEN
        self.keep = True
        self.speaks_chunks = message.http_version == "1.1"

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

    # Whose fault it was

    def blame(self, replica: Replica, now_s: float, sure: bool) -> None:
        """Take note that an upstream failed this request; `sure`: whatever was asked, it would have.

        A request that fails in the hands of two may be what breaks them: neither is blamed, until a third answers.
        """
        if sure or not self.suspects:
            replica.is_ill(now_s, self.sent_s)
        else:
            replica.failed += 1
        if not sure:
            if len(self.suspects) == 1:
                self.suspects[0][0].breaker.forgiven()
            self.suspects = (*self.suspects, (replica, self.sent_s))

    def judge(self, replica: Replica, now_s: float) -> None:
        """Take note of what an answer says of its upstream, and that those which could not give one are to blame."""
        if self.status in _SICK:
            replica.is_ill(now_s, self.sent_s)
            return
        replica.is_well(now_s, self.sent_s)
        if len(self.suspects) > 1:
            for replica, sent_s in self.suspects:
                replica.is_blamed(now_s, sent_s)

    # What the upstream's connection calls

    @property
    def splice(self) -> Splice:
        """What may pass a stream on in the place of its connection."""
        return self._gateway.splice

    def declines(self, status: int) -> bool:
        """Whether another upstream is asked instead of passing an answer with this status on."""
        return status in BUSY and self._gateway.may_retry(self)

    def first(self, status: int, head: bytes, body: bytes) -> Callable[[bytes], None]:
        """Send the head of the answer, given without its empty line, and what of the body there is.

        Returns what passes on the rest.
        """
        gateway, replica = self._gateway, self.replica
        assert replica is not None
        self.status = status
        tail = self.tail = deque((body[-TAIL_BYTES:],), TAIL_PIECES)
        self.note = tail.append
        write: Callable[[bytes], None] = self.client.transport.write
        write(b"".join((head, b"\r\n", gateway.began(self, replica, gateway.clock()), b"\r\n", body)))
        self.events = events_in(body)
        self.passed_bytes = len(body)
        self._read_usage(body)

        def passed(data: bytes) -> None:
            self.events += events_in(data)
            self.passed_bytes += len(data)
            self._read_usage(data)
            write(data)

        return passed

    def whole(self, status: int, head: bytes, body: bytes) -> None:
        """Send an answer that came in one piece; its head is given without its empty line."""
        gateway, replica = self._gateway, self.replica
        assert replica is not None
        now_s = gateway.clock()
        self.line = None
        self.status = status
        self.tail = (body,)
        self.events = events_in(body)
        self.passed_bytes = len(body)
        lines = gateway.began(self, replica, now_s)
        self.client.transport.write(b"".join((head, b"\r\n", lines, b"\r\n", body)))
        gateway.completed(self, now_s)

    def complete(self) -> None:
        """Take note that the answer has been passed on as a whole."""
        self.line = None
        self._gateway.completed(self, self._gateway.clock())

    def broken(self, why: str, status: int = 0, unseen: bool = False) -> None:
        """Take note that this upstream gives no answer, or not the rest of it. `unseen`: it never saw the request."""
        self.line = None
        if not self.over:
            self._gateway.broken(self, why, status, unseen)

    def _read_usage(self, data: bytes) -> None:
        """Keep what a piece of an answer says of what was used: much may follow that, such as what its prompt was."""
        places = places_of_usage(data)
        for place in places[-2:]:
            self.used_before, self.used = self.used, data[place : place + USAGE_BYTES]
        if not places and 0 < len(self.used) < USAGE_BYTES:
            self.used += data[: USAGE_BYTES - len(self.used)]

    def usage(self) -> tuple[int, int] | None:
        """Return the tokens of prompt and completion as the answer tells them; None where it does not."""
        tail = self.tail
        told = usage_of(self.used) or usage_of(self.used_before)
        return told or usage_of(tail[0] if len(tail) == 1 else b"".join(tail))

    def settle(self, cancelled: bool = False) -> float | None:
        """Charge what its client got to its key, once; return the tokens of the answer where that tells them.

        `cancelled`: its client gave it up while an upstream worked on it, maybe before anything came of that.
        """
        account, estimated = self.account, self.tokens
        if not self.sent_s:
            account.give_back(estimated)
            return None
        prompt, completion = 0.0, 0.0
        told = self.usage() if self.begun else None
        if told is not None:
            prompt, completion = told
        elif self.begun and self.status < 400:
            # What is not told is about one token for each event of a stream, and of another answer as many as a text of
            # its size has; an engine that refuses computes nothing.
            said = any(b"data: [DONE]" in piece for piece in self.tail)
            whole = max(float(self.pieces), self.passed_bytes / BYTES_PER_TOKEN)
            prompt, completion = estimated, float(max(0, self.events - said)) if self.events else whole
        elif cancelled:
            prompt = estimated
        account.settle(estimated, float(prompt), float(completion))
        return None if told is None else float(completion)


def events_in(data: bytes) -> int:
    """Return how many events begin in a part of a stream: its lines that begin with `data:`.

    >>> events_in(b'data: {"text": "data: of"}\\n\\ndata: [DONE]\\n\\n')
    2
    """
    return data.count(b"\ndata:") + data.startswith(b"data:")


def places_of_usage(data: bytes) -> list[int]:
    """Return where a part of an answer begins to tell what was used.

    >>> places_of_usage(b'{"usage": {"prompt_tokens": 9}, "prompt_logprobs": [{"decoded_token": "usage"}]}')
    [1]
    """
    # Rarely there, and found fast.
    if b'"usage"' not in data:
        return []
    return [found.start() for found in _USAGE.finditer(data)]


def usage_of(data: bytes) -> tuple[int, int] | None:
    """Return the tokens of prompt and completion that a part of an answer last tells as a whole; None if it tells none.

    >>> usage_of(b'data: {"usage": {"prompt_tokens": 9, "total_tokens": 13, "completion_tokens": 4}}')
    (9, 4)
    """
    if b"\r\n" in data:
        data = _CHUNK_LINE.sub(b"", data)
    for place in reversed(places_of_usage(data)):
        whole = _OBJECT.search(data, place)
        prompt = whole and _PROMPT.search(whole[0])
        if whole and prompt:
            completion = _COMPLETION.search(whole[0])
            return int(prompt[1]), 0 if completion is None else int(completion[1])
    return None
