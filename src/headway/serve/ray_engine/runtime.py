"""Ray itself, as far as it is used here: started for one server or joined, asked what runs, and ended.

Everything that depends on how Ray names things stands in this file. Two of its calls, for the state of replicas and
for their number, are offered by Ray over its dashboard's REST interface only; without a dashboard they go to the actor
that answers there, the controller of Ray Serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from headway.errors import ServeError
from headway.serve.ray_engine.address import ADDRESS_VARIABLE, AUTO, VALID, check_answers, host_and_port, joins
from headway.serve.ray_engine.replica import StageReplica

FOLDER_PREFIX = "hw-ray-"
_MAX_ERROR_CHARS = 300
_STARTS = 3
"""Ray gives itself 30 s to start, and no more can be granted: on a busy machine that is not always enough."""

_END_S = 10.0
"""For how long a process of Ray that was killed is waited for."""
_HEALTH_PERIOD_S = 1.0
_DRAIN_LOOK_S = 0.1
_DRAIN_S = 60.0
_LONGEST_SOCKET_FOLDER = 40
"""Ray puts sockets about 60 characters below its folder, and no path of a socket may be longer than 107."""


@dataclass(frozen=True, slots=True)
class Order:
    """A deployment to be made: an application of Ray Serve with one deployment, both named for the stage."""

    app: str
    stage: str
    start: bytes
    replicas: int
    cpus: float
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Seen:
    """What Ray says of a deployment: process numbers of running replicas by actor, and what troubles it."""

    running: Mapping[str, int]
    trouble: str = ""


def check_installed() -> None:
    """Raise ServeError when Ray Serve cannot be imported."""
    try:
        with _environment({}):
            from ray import serve  # noqa: F401
    except ImportError as error:
        raise ServeError(
            f"the engine 'ray' needs Ray Serve, which cannot be imported ({error}); pip install 'headway[ray]'"
        ) from None


@contextlib.contextmanager
def local_ray() -> Iterator[None]:
    """Run a Ray of our own on loopback for the length of the block, with nothing of it left behind.

    The thread that enters the block must be there until its end: Ray's processes die with it. Raises ServeError.
    """
    # Another user of the machine must not be able to run code here.
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    folder = tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-", dir=_short_folder())
    try:
        with _environment(own):
            _read_environment()
            options = {"include_dashboard": False, "_temp_dir": folder}
            _init("local", f"Ray cannot be started in {folder}", _STARTS, **options)
            try:
                yield
            finally:
                # With Ray all of Serve ends at once; to end Serve first would only let Ray complain of it.
                _shut_down()
    finally:
        _read_environment()
        shutil.rmtree(folder, ignore_errors=True)


def _quiet() -> None:
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _pass_on_what_stages_print() -> None:
    """Print it as the embedded engine does; Ray's own way prints on standard output, which is the result's alone."""
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as lines

    lines.remove_handler("ray_print_logs")
    lines.add_handler("ray_print_logs", _pass_on)


def _pass_on(data: Mapping[str, Any]) -> None:
    name = str(data.get("actor_name") or "")
    if name.startswith("ServeReplica:"):
        for line in data["lines"]:
            print(f"[{name.rpartition(':')[2]}] {line}", file=sys.stderr)


def _own_signals() -> None:
    """Take the signals back that end the server: Ray's own handlers print where the process was."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            if callable(handler := signal.getsignal(number)):
                signal.signal(number, handler)


def _read_environment() -> None:
    """Have Ray read its settings anew: it has done so when it was imported, by whomever."""
    from ray._raylet import AuthenticationTokenLoader, Config

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _joined_ray(address: str) -> Iterator[None]:
    """Be connected to a Ray that runs already, for the length of the block."""
    if address != AUTO:
        host_and_port(address)
    with _environment({}):
        import ray

        _check_answers(address)
        _init(address, f"{ADDRESS_VARIABLE}={address}: Ray cannot be joined")
        try:
            yield
        finally:
            ray.shutdown()


def _shut_down() -> None:
    """End our own Ray, and wait for its processes longer than Ray does, which leaves them unreaped after a second."""
    import ray
    from ray._private import worker

    node = worker._global_node
    started = [] if node is None else [info.process for infos in node.all_processes.values() for info in infos]
    ray.shutdown()
    for process in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)


def _end_half_started(error: BaseException) -> None:
    """End the processes of a start that failed: Ray forgets them, and only the traceback still leads to them."""
    from ray._private.node import Node

    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("self")
        if isinstance(node, Node):
            node.kill_all_processes(check_alive=False, wait=True)


def _check_answers(address: str) -> None:
    """Raise ServeError when no Ray answers where Ray will look for it, which for a loopback address is elsewhere."""
    from ray._private.services import canonicalize_bootstrap_address

    try:
        found = canonicalize_bootstrap_address(address)
    except ConnectionError:
        raise ServeError(f"{ADDRESS_VARIABLE}={address}: no Ray runs on this machine; {VALID}") from None
    except OSError as error:
        raise ServeError(f"{ADDRESS_VARIABLE}={address}: no such host ({error.strerror}); {VALID}") from None
    check_answers(address, found or address)


def _init(address: str, problem: str, tries: int = 1, **options: Any) -> None:
    import ray

    _quiet()
    for left in reversed(range(tries)):
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=True, **options)
            break
        except Exception as error:  # some of Ray's errors are of no class of their own
            _end_half_started(error)
            _shut_down()
            if not left:
                raise ServeError(f"{problem}: {' '.join(str(error).split())[:_MAX_ERROR_CHARS]}") from None
    _pass_on_what_stages_print()


class Runtime:
    """Ray for one server: one of its own, or that at `RAY_ADDRESS`, or that to which this process is connected.

    Only the first is ended with the server; in the others our deployments are deleted. All methods belong to one event
    loop. Raises ServeError when Ray is not installed.
    """

    def __init__(self) -> None:
        check_installed()
        # One thread for as long as Ray runs: what Ray starts dies with the thread that started it.
        self._thread = ThreadPoolExecutor(1, "headway-ray")
        self._until = contextlib.ExitStack()
        self._beginning: asyncio.Future[None] | None = None
        self._controller: Any = None
        self._apps: set[str] = set()
        self._home = ""
        self._owned = False

    async def begin(self) -> None:
        """Start or join Ray; later calls wait for the first one. Raises ServeError."""
        if self._beginning is None:
            self._beginning = asyncio.ensure_future(self._in_thread(self._begin))
        await asyncio.shield(self._beginning)
        _own_signals()

    async def deploy(self, orders: Sequence[Order]) -> list[Any]:
        """Make deployments, without waiting for their replicas; return their handles."""
        self._apps.update(order.app for order in orders)
        handles: list[Any] = await self._in_thread(self._deploy, orders)
        return handles

    async def scale(self, order: Order, replicas: int) -> None:
        """Change a deployment's number of replicas; those that are there stay as far as they are needed."""
        from ray.serve._private.common import DeploymentID

        await self._controller.update_deployment_replicas.remote(DeploymentID(order.stage, order.app), replicas)

    async def delete(self, order: Order) -> None:
        """Delete a deployment once its replicas have finished what they work on, without waiting for that."""
        await self._controller.delete_apps.remote([order.app])
        self._apps.discard(order.app)

    async def look(self) -> dict[str, Seen]:
        """Return what there is to be seen of our deployments, by application."""
        details = await self._controller.get_serve_instance_details.remote()
        return {app: _seen(found) for app, found in details["applications"].items() if app in self._apps}

    async def end(self) -> None:
        """Delete our deployments and end or leave Ray."""
        if self._beginning is not None:
            await asyncio.wait([self._beginning])
        if self._controller is not None and not self._owned and self._apps:
            await self._controller.delete_apps.remote(sorted(self._apps))
        await self._in_thread(self._until.close)
        self._thread.shutdown()

    async def _in_thread(self, call: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    def _begin(self) -> None:
        import ray
        from ray import serve

        address = os.environ.get(ADDRESS_VARIABLE)
        if not ray.is_initialized():
            self._owned = not joins(address)
            self._until.enter_context(_joined_ray(address) if address and joins(address) else local_ray())
        _quiet()
        serve.start(proxy_location="Disabled", logging_config=_serve_logging())
        _quiet()
        self._home = ray.get_runtime_context().get_node_id()
        self._controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")

    def _deploy(self, orders: Sequence[Order]) -> list[Any]:
        from ray import serve
        from ray.serve.api import RunTarget

        targets = [
            RunTarget(self._application(order), order.app, None, external_scaler_enabled=True) for order in orders
        ]
        return list(serve.run_many(targets, wait_for_applications_running=False))

    def _application(self, order: Order) -> Any:
        from ray import serve

        deployment = serve.deployment(StageReplica).options(
            name=order.stage,
            num_replicas=order.replicas,
            # A batch goes to a replica that has none: all others wait in the queue of the stage, where they are seen.
            max_ongoing_requests=1,
            ray_actor_options={"num_cpus": order.cpus, "runtime_env": {"env_vars": dict(order.environment)}},
            health_check_period_s=_HEALTH_PERIOD_S,
            graceful_shutdown_wait_loop_s=_DRAIN_LOOK_S,
            graceful_shutdown_timeout_s=_DRAIN_S,
            logging_config=_serve_logging(),
        )
        return deployment.bind(order.start, self._home)


def _serve_logging() -> dict[str, Any]:
    return {"log_level": "ERROR", "enable_access_log": False}


def _seen(found: Mapping[str, Any]) -> Seen:
    deployments = list(found["deployments"].values())
    running = {
        str(replica["actor_id"]): int(replica["pid"] or 0)
        for deployment in deployments
        for replica in deployment["replicas"]
        if replica["state"] == "RUNNING"
    }
    return Seen(running, "\n".join([found["message"], *(deployment["message"] for deployment in deployments)]).strip())


def _short_folder() -> str | None:
    return None if len(tempfile.gettempdir()) <= _LONGEST_SOCKET_FOLDER else "/tmp"


@contextlib.contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """Set for the length of the block what Ray reads from the environment, at its import and later."""
    wanted = {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Processes would be started ahead that no replica can use: each stage has an environment of its own.
        "RAY_prestart_worker_first_driver": "0",
        # A stage names its device itself.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        **more,
    }
    if not joins(os.environ.get(ADDRESS_VARIABLE)):
        # Ray's word for: this machine is all there is, so listen on loopback.
        wanted["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
