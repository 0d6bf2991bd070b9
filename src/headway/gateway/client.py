"""A client's connection to the gateway: that of the server, with answers that upstreams give piece by piece."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Any

from headway.gateway.ask import ApiError
from headway.gateway.heads import Head
from headway.gateway.replica import PATHS
from headway.serve.asgi import Exchange
from headway.serve.connection import Connection
from headway.serve.infer import Refused
from headway.serve.message import Message

if TYPE_CHECKING:
    from headway.gateway.front import GatewayFront
    from headway.gateway.relay import Relay
    from headway.serve.front import Front

log = logging.getLogger(__name__)


class ClientConnection(Connection):
    """One client's connection; limits, order and refusals are those of every server here."""

    def __init__(self, front: Front, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(front, loop)
        self._gateway_front: GatewayFront = front  # type: ignore[assignment]
        self._gateway = self._gateway_front.gateway
        self._heads = self._gateway.heads
        self._relay: Relay | None = None
        self._looked_up = False

    @property
    def slow(self) -> bool:
        """Whether the client does not read as fast as its answer comes."""
        return self._stalled_s != math.inf

    def refuse(self, message: Message, refused: Refused) -> None:
        """Answer a request with an error, in the words of the protocol."""
        error = ApiError.of(refused)
        self._reply(message, error.status, error.body, error.headers)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport: Any = transport
        if len(self._gateway_front.connections) > self._gateway.options.max_connections:
            self.abort()

    def data_received(self, data: bytes) -> None:
        if self._current is None and not (self._begun or self._deaf or self._waiting):
            known = self._heads.match(data)
            if known is not None:
                head, end = known
                if len(data) - end - 4 <= self._limits.max_body_bytes:
                    self._idle_s = math.inf
                    message = self._current = Message(
                        b"POST", head.url, head.headers, head.named, "1.1", True, data[end + 4 :]
                    )
                    self._submit(message, head)
                    return
            self._looked_up = True
        super().data_received(data)
        self._looked_up = False

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._relay is not None:
            self._relay.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._relay is not None:
            self._relay.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        relay, self._relay = self._relay, None
        super().connection_lost(exc)
        if relay is not None:
            relay.disconnected()

    def eof_received(self) -> bool:
        # Who stops listening to a stream often ends only its own side: to work on for nobody is what costs here.
        relay, self._relay = self._relay, None
        self._deaf = True
        if relay is not None:
            self._current = None
            relay.disconnected()
        return False

    def ended(self, message: Message, keep: bool) -> None:
        if message is self._current:
            self._relay = None
        super().ended(message, keep)

    def _begin(self, message: Message) -> None:
        self._current = message
        self._idle_s = math.inf
        if message.refused is not None:
            self.refuse(message, message.refused)
        elif message.method == b"POST" and message.url in PATHS:
            try:
                head = Head(message, self._gateway.accounts.of(message.named))
            except ApiError as error:
                self.refuse(message, error)
                return
            if self._looked_up and message.http_version == "1.1" and message.keep_alive and _plain(message):
                self._heads.learn(head)
            self._submit(message, head)
        else:
            self._page(message)

    def _page(self, message: Message) -> None:
        try:
            beside = self._gateway_front.beside(message)
        except ApiError as error:
            self.refuse(message, error)
            return
        if beside:
            self._exchange = Exchange(self, message)
            self._front.run(self._exchange)
        else:
            try:
                page = self._gateway_front.page(message)
            except Exception:
                log.exception("a page of the gateway failed in a way that is not foreseen")
                self.refuse(message, Refused(500, "the gateway failed; its log says why"))
                return
            self._reply(message, *page)

    def _submit(self, message: Message, head: Head) -> None:
        try:
            relay = self._gateway.submit(self, message, head)
        except Exception:
            log.exception("a request failed in the gateway in a way that is not foreseen")
            self.refuse(message, Refused(500, "the gateway failed; its log says why"))
            return
        if message is self._current:
            self._relay = relay

    def _refuse(self, refused: Refused) -> None:
        super()._refuse(ApiError.of(refused))


def _plain(message: Message) -> bool:
    """Whether a message's head says no more of how it is sent than how long its body is."""
    named = message.named
    return b"expect" not in named and b"transfer-encoding" not in named and b"upgrade" not in named
