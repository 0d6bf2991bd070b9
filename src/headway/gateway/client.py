"""A client's connection to the gateway: that of the server, with answers that upstreams give piece by piece."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from headway.gateway.ask import ApiError
from headway.gateway.replica import PATHS
from headway.serve.connection import Connection
from headway.serve.infer import Refused

if TYPE_CHECKING:
    from headway.gateway.front import GatewayFront
    from headway.gateway.relay import Relay
    from headway.serve.front import Front
    from headway.serve.message import Message


class ClientConnection(Connection):
    """One client's connection; limits, order and refusals are those of every server here."""

    def __init__(self, front: Front, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(front, loop)
        self._gateway_front: GatewayFront = front  # type: ignore[assignment]
        self._relay: Relay | None = None

    @property
    def slow(self) -> bool:
        """Whether the client does not read as fast as its answer comes."""
        return self._stalled_s != math.inf

    def write_on(self, data: bytes) -> None:
        """Send a piece of an answer."""
        self._transport.write(data)

    def refuse(self, message: Message, refused: Refused) -> None:
        """Answer a request with an error, in the words of the protocol."""
        error = ApiError.of(refused)
        self._reply(message, error.status, error.body, error.headers)

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
            relay = self._gateway_front.gateway.submit(self, message)
            if message is self._current:
                self._relay = relay
        else:
            self._reply(message, *self._gateway_front.page(message))

    def _refuse(self, refused: Refused) -> None:
        super()._refuse(ApiError.of(refused))
