"""The server's own HTTP/1.1: inference requests go straight to the engine, all else to the ASGI application.

A request's way through a general ASGI server (a task, a scope, messages) costs more than all that the engine does with
it. Here a parser in C calls back, the engine is called from there, and the answer is one write.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final

from headway.serve.app import App
from headway.serve.asgi import Exchange
from headway.serve.connection import Connection

log = logging.getLogger(__name__)

BACKLOG: Final = 1024
_LONGEST_PAUSE_S: Final = 5.0


class Front:
    """Listens for an application: what all connections share. `connection` is the class of these."""

    connection: type[Connection] = Connection

    def __init__(self, app: App) -> None:
        self.app = app
        self.limits = app.limits
        self.infer_urls = frozenset(path.encode() for path in app.infer.paths)
        self.connections: set[Connection] = set()
        self.closing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, listener: socket.socket) -> None:
        """Answer the connections that come to a listening socket."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: self.connection(self, loop), sock=listener, backlog=BACKLOG)
        self._watch()

    async def close(self, grace_s: float = 5.0) -> None:
        """Take no more connections, let what is being answered end for at most `grace_s`, and close all."""
        loop = asyncio.get_running_loop()
        self.closing = True
        if self._server is not None:
            self._server.close()
        if self._timer is not None:
            self._timer.cancel()
        for connection in tuple(self.connections):
            connection.finish()
        end_s = loop.time() + grace_s
        while self.connections and loop.time() < end_s:
            await asyncio.sleep(0.005)
        for connection in tuple(self.connections):
            connection.abort()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def run(self, exchange: Exchange) -> None:
        """Have the ASGI application answer a request."""
        task = asyncio.get_running_loop().create_task(exchange.run(self.app))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _watch(self) -> None:
        """One timer for all connections: one for each request would cost more than many a request itself."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for connection in tuple(self.connections):
            connection.check(now_s)
        pause_s = min(_LONGEST_PAUSE_S, self.limits.body_timeout_s / 2, self.limits.keep_alive_s / 2)
        self._timer = loop.call_later(pause_s, self._watch)
