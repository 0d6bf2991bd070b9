"""Running a gateway: in this process until it is told to stop, or on an event loop that is there."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

from headway.gateway.declare import GatewayOptions, Upstream
from headway.gateway.front import Asgi, GatewayFront
from headway.gateway.gateway import SWEEP_S, Gateway
from headway.gateway.watch import Watch
from headway.serve.run import LOOPBACK, bind, fastest_loop
from headway.serve.system import descriptors

log = logging.getLogger(__name__)


class GatewayServer:
    """A gateway on the present event loop."""

    def __init__(self, upstreams: Iterable[Upstream], options: GatewayOptions | None = None) -> None:
        self.options = options or GatewayOptions()
        self._upstreams = tuple(upstreams)
        self._stop = asyncio.Event()
        self.url = ""
        self.pages: dict[bytes, Asgi] = {}
        """What answers at which path beside the gateway, to whoever runs it."""
        self.gateway = Gateway(self._upstreams, self.options, time.monotonic)

    async def run(self, announce: Callable[[str], None] = lambda url: None) -> None:
        """Serve until `stop` is called, then drain. `announce` is told the URL once requests are let in.

        Raises ServeError when the address cannot be bound.
        """
        listener = bind(self.options.host, self.options.port)
        host, port = listener.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        front = GatewayFront(self.gateway, self.pages)
        async with attended(self.gateway):
            try:
                await front.start(listener)
                # What is there now stays; without this every full collection looks through all imported modules again.
                gc.collect()
                gc.freeze()
                announce(self.url)
                await self._stop.wait()
                await self._drain()
            finally:
                self.gateway.give_up()
                await front.close(1.0)
                listener.close()

    def stop(self) -> None:
        """Begin to drain; `run` returns when everything that was let in has been answered."""
        self._stop.set()

    async def _drain(self) -> None:
        gateway = self.gateway
        gateway.draining = True
        end_s = gateway.clock() + self.options.grace_s
        while gateway.active and gateway.clock() < end_s:
            await asyncio.sleep(0.02)


Beside: TypeAlias = Callable[[GatewayServer], AbstractAsyncContextManager[object]]
"""What runs beside a gateway, for as long as it does."""


@contextlib.asynccontextmanager
async def attended(gateway: Gateway) -> AsyncIterator[None]:
    """Look after a gateway's requests and upstreams for as long as the block lasts, and close its connections then."""

    async def sweep() -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            gateway.sweep(gateway.clock())

    beside: set[asyncio.Task[None]] = set()

    def begin(work: Callable[[], Awaitable[None]]) -> Callable[[], object]:
        task = asyncio.get_running_loop().create_task(_to_the_end(work))
        beside.add(task)
        task.add_done_callback(beside.discard)
        return task.cancel

    begin(sweep)
    gateway.seats.attend(lambda replica: begin(Watch(gateway, replica).run))
    try:
        yield
    finally:
        for task in tuple(beside):
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await gateway.close()


async def _to_the_end(work: Callable[[], Awaitable[None]]) -> None:
    """Do work until it ends by itself; what goes wrong once in a way not foreseen must not end it for good."""
    while True:
        try:
            await work()
            return
        except Exception:
            log.exception("what looks after requests and upstreams went wrong; it goes on in a second")
            await asyncio.sleep(1.0)


def run(
    upstreams: Iterable[Upstream | str],
    *,
    announce: Callable[[str], None] = lambda url: print(url, flush=True),
    beside: Beside = lambda server: contextlib.nullcontext(),
    warn: Callable[[str], None] = lambda text: print(f"warning: {text}", file=sys.stderr),
    **options: Any,
) -> None:
    """Stand in front of upstreams until SIGTERM or SIGINT, then drain; a second signal ends the drain at once.

    An upstream given as an address is of kind `vllm`. `options` are as in GatewayOptions. `announce` is told the URL;
    `beside` is entered before. Raises ServeError.
    """
    chosen = GatewayOptions(**options)
    found = [Upstream(one) if isinstance(one, str) else one for one in upstreams]
    if chosen.host not in LOOPBACK and not chosen.token and not chosen.keys:
        warn(
            f"the gateway listens on {chosen.host} without a key: whoever reaches this address can use its upstreams; "
            "give it keys or a token, or bind 127.0.0.1"
        )

    async def main() -> None:
        server = GatewayServer(found, chosen)
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        stopping = False

        def on_signal() -> None:
            nonlocal stopping
            if stopping and task is not None:
                task.cancel()
            stopping = True
            server.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        with contextlib.suppress(asyncio.CancelledError):
            async with beside(server):
                await server.run(announce)

    with descriptors(2 * chosen.max_connections), asyncio.Runner(loop_factory=fastest_loop) as runner:
        runner.run(main())
