"""Running a plan's server: in this process until it is told to stop, in a thread, or as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.errors import ServeError, nearest
from headway.plan.config import StageContext
from headway.plan.contract import ServesAlone
from headway.plan.plan import Plan
from headway.serve.app import App, HttpLimits
from headway.serve.engine import Engine, Limits
from headway.serve.front import Front
from headway.serve.memory import given_back
from headway.serve.station import LiveStation
from headway.serve.system import descriptors
from headway.spec.kinds import load_domain

if TYPE_CHECKING:
    from headway.serve.ray_engine.engine import RayEngine

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 16_384
TOKEN_VARIABLE = "HEADWAY_TOKEN"
EMBEDDED, RAY = "embedded", "ray"
ENGINES = (EMBEDDED, RAY)
LOOPBACK = ("127.0.0.1", "::1", "localhost")
BesideState = Mapping[str, Any]
Beside = Callable[[str], AbstractAsyncContextManager[Callable[[], BesideState] | None]]
"""What runs beside the server at a URL, from when it lets requests in until it is told to end, before it drains. What
it gives tells how it fares, as JSON values with a `state`."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How a plan is served. `port` 0 takes a free one. `grace_s`: how long a drain may take.

    `engine`: `embedded`, or `ray` for replicas on Ray Serve, each of which books `ray_cpus` of Ray for each thread: a
    trifle, since the plan has decided already what fits.
    """

    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = field(default=None, repr=False)
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    http: HttpLimits = field(default_factory=HttpLimits)
    grace_s: float = 30.0
    engine: str = EMBEDDED
    ray_cpus: float = 0.001

    @property
    def warning(self) -> str | None:
        """What the operator should know before it is too late, or None."""
        if self.host in LOOPBACK or self.token is not None:
            return None
        return (
            f"the server listens on {self.host} without a token: whoever reaches this address can use it; "
            f"set {TOKEN_VARIABLE} or bind 127.0.0.1"
        )


class LiveServer:
    """A plan being served on the present event loop."""

    def __init__(
        self, plan: Plan, options: ServeOptions | None = None, stations: Mapping[str, LiveStation] | None = None
    ) -> None:
        self.options = options or ServeOptions()
        self._ray: RayEngine | None = None
        if self.options.engine != EMBEDDED and stations is None:
            self._ray = _ray_engine(self.options)
            stations = {name: self._ray.station(plan, name) for name in plan.spec.graph.order}
        self.engine = Engine(plan, stations=stations, seed=self.options.seed, limits=self.options.limits)
        if self._ray is not None:
            self.engine.swaps.make = self._ray.station
        self.app = App(self.engine, token=self.options.token, limits=self.options.http)
        self.url = ""
        self._stop = asyncio.Event()
        self.waits_for_ray = self._ray is not None
        """Whether Ray is being started or ended: nothing but the end of this process ends a call to it."""

    async def run(
        self,
        announce: Callable[[str], None] = lambda url: None,
        beside: Beside = lambda url: contextlib.nullcontext(),
    ) -> None:
        """Serve until `stop` is called, then drain. `announce` is told the URL once requests are let in.

        Raises ServeError when the address cannot be bound or a stage cannot be started.
        """
        listener = bind(self.options.host, self.options.port)
        host, port = listener.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        front = Front(self.app)
        await front.start(listener)
        try:
            await self.engine.start()
            self.waits_for_ray = False
            # What is there now stays; without this every full collection looks through all imported modules again.
            gc.collect()
            gc.freeze()
            announce(self.url)
            async with given_back(lambda: self.engine.counts.in_flight), beside(self.url) as self.engine.tuner:
                await self._stop.wait()
            await self.engine.drain(self.options.grace_s)
        finally:
            # The engine first: it ends what is still open, so that connections have their answers when they are closed.
            await self.engine.stop()
            await front.close()
            listener.close()
            if self._ray is not None:
                self.waits_for_ray = True
                await self._ray.stop()

    def stop(self) -> None:
        """Begin to drain; `run` returns when everything that was let in has been answered."""
        self._stop.set()


def _ray_engine(options: ServeOptions) -> RayEngine:
    if options.engine != RAY:
        raise ServeError(
            f"engine {options.engine!r} is not known{nearest(options.engine, ENGINES)}; valid: {', '.join(ENGINES)}"
        )
    from headway.serve.ray_engine.engine import RayEngine
    from headway.serve.ray_engine.runtime import Runtime

    return RayEngine(Runtime(), options.ray_cpus)


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises ServeError when the address is in use or not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns off Nagle's algorithm only for sockets that say they are TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise ServeError(f"port {port} on {host} is in use; choose another, or 0 for a free one") from None
        reason = getattr(error, "strerror", None) or error
        raise ServeError(f"cannot listen on {host}, port {port}: {reason}") from None
    listener.setblocking(False)
    return listener


def serve(
    plan: Plan,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    announce: Callable[[str], None] = lambda url: print(url, flush=True),
    warn: Callable[[str], None] = lambda text: print(f"warning: {text}", file=sys.stderr),
    beside: Beside = lambda url: contextlib.nullcontext(),
    more: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Serve a plan until SIGTERM or SIGINT, then drain. `announce` is told the URL, and `beside` entered with it.

    `options` are as in ServeOptions; `more` are of the server that a plan brings whose only stage is a fleet.

    A second signal ends the drain at once. Raises ServeError.
    """
    chosen = ServeOptions(host=host, port=port, token=token, **options)
    own = own_server(plan)
    if own is not None:
        own(chosen, more or {}, announce=announce, warn=warn)
        return
    if more:
        raise ServeError(f"serve: {', '.join(more)}: only a plan whose only stage is a fleet of engines is served so")
    if chosen.warning:
        warn(chosen.warning)
    stdout = sys.stdout

    def announce_there(url: str) -> None:
        with contextlib.redirect_stdout(stdout):
            announce(url)

    async def main() -> None:
        server = LiveServer(plan, chosen)
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        stopping = False

        def on_signal(number: int) -> None:
            nonlocal stopping
            if stopping and server.waits_for_ray:
                os._exit(128 + number)
            if stopping and task is not None:
                task.cancel()
            stopping = True
            server.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal, number)
        with contextlib.suppress(asyncio.CancelledError):
            await server.run(announce_there, beside)

    # Standard output is the announcement's alone; Ray prints there what it has to say.
    quiet = contextlib.redirect_stdout(sys.stderr) if chosen.engine == RAY else contextlib.nullcontext()
    with quiet, descriptors(MAX_CONNECTIONS), asyncio.Runner(loop_factory=fastest_loop) as runner:
        runner.run(main())


def own_server(plan: Plan) -> Callable[..., None] | None:
    """Return what serves a plan whose only stage has a server of its own (`plan.contract.ServesAlone`), else None.

    >>> from headway.testing.examples import tiny_plan
    >>> own_server(tiny_plan()) is None
    True
    """
    if len(plan.spec.stages) > 1:
        return None
    ((name, stage),) = plan.spec.stages.items()
    domain = load_domain(stage.kind)
    if not isinstance(domain, ServesAlone):
        return None
    return partial(domain.serve_alone, StageContext(name, stage, plan.spec, plan.profile), plan.stages[name])


def fastest_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop: uvloop's where it is installed, for about a tenth more requests, else asyncio's."""
    try:
        import uvloop  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


@contextlib.contextmanager
def running_in_thread(
    plan: Plan, options: ServeOptions | None = None, stations: Mapping[str, LiveStation] | None = None
) -> Iterator[LiveServer]:
    """Serve a plan in a thread of this process: for tests and notebooks, where the engine itself is of interest."""
    begun = threading.Event()
    held: dict[str, Any] = {}

    async def main() -> None:
        held["loop"] = asyncio.get_running_loop()
        held["server"] = LiveServer(plan, options, stations)
        await held["server"].run(lambda url: begun.set())

    def body() -> None:
        try:
            with asyncio.Runner(loop_factory=fastest_loop) as runner:
                runner.run(main())
        except BaseException as error:
            held["error"] = error
        finally:
            begun.set()

    thread = threading.Thread(target=body, name="headway-server")
    thread.start()
    begun.wait()
    if "error" in held:
        thread.join()
        raise held["error"]
    try:
        yield held["server"]
    finally:
        with contextlib.suppress(RuntimeError):
            held["loop"].call_soon_threadsafe(held["server"].stop)
        thread.join()
        if "error" in held:
            raise held["error"]


@dataclass(frozen=True, slots=True)
class ServerHandle:
    """A server that runs as a process of its own."""

    url: str
    process: subprocess.Popen[str]


@contextlib.contextmanager
def running(plan: Plan, *, start_timeout_s: float = 180.0, **options: Any) -> Iterator[ServerHandle]:
    """Serve a plan in a process of its own, so that a client here does not share its interpreter; stop it at the end.

    It also ends when this process does, even when that is killed. `options` as in ServeOptions. Raises ServeError when
    the server does not start.
    """
    chosen = ServeOptions(**options)
    with tempfile.TemporaryDirectory(prefix="headway-serve-") as folder:
        path = Path(folder) / "plan.json"
        plan.write(path)
        given = asdict(chosen)
        token = given.pop("token")
        environment = {**os.environ, **({TOKEN_VARIABLE: token} if token is not None else {})}
        command = [sys.executable, "-m", "headway.serve", str(path), "--options", json.dumps(given)]
        with started(command, start_timeout_s, chosen.grace_s + 10.0, env=environment) as server:
            yield server


@contextlib.contextmanager
def started(
    command: Sequence[str], start_timeout_s: float, stop_timeout_s: float, **more: Any
) -> Iterator[ServerHandle]:
    """Run a server that prints its URL once it is ready, in a process of its own; stop it at the end.

    `more` goes to `subprocess.Popen`. Raises ServeError when it does not start.
    """
    # The pipe is the process's to watch: it is closed when we end, even when we are killed.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **more)
    try:
        yield ServerHandle(_wait_for_url(process, start_timeout_s), process)
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(stop_timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _wait_for_url(process: subprocess.Popen[str], timeout_s: float) -> str:
    timer = threading.Timer(timeout_s, process.kill)
    timer.start()
    try:
        line = process.stdout.readline() if process.stdout is not None else ""
    finally:
        timer.cancel()
    if not line.startswith("http"):
        code = process.wait()
        raise ServeError(f"the server did not start (exit code {code}); what it wrote to standard error says why")
    return line.strip()


def options_from(value: Mapping[str, Any]) -> ServeOptions:
    """Return the options that JSON values (as `running` passes them) describe."""
    rest = {key: item for key, item in value.items() if key not in ("limits", "http")}
    return ServeOptions(limits=Limits(**value.get("limits", {})), http=HttpLimits(**value.get("http", {})), **rest)
