"""One replica of a station: a worker process that is started, watched, restarted with back-off, and retired."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from headway.errors import ServeError, WorkerDied
from headway.serve.model_ref import HardwareView, ModelRef
from headway.serve.wire import Input, Payload, Result

log = logging.getLogger(__name__)

STARTING, READY, DRAINING = "starting", "ready", "draining"
FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 10.0


class WorkerLike(Protocol):
    """What a replica needs of a worker; see `headway.serve.worker.Worker`."""

    pid: int

    def predict(
        self, inputs: Sequence[Input], render: bool = False, timeout_s: float | None = None
    ) -> Awaitable[list[Result]]: ...
    async def render(self, payloads: Sequence[Payload], timeout_s: float | None = None) -> list[Result]: ...
    async def wait(self) -> None: ...
    async def stop(self, grace_s: float = 5.0) -> None: ...


StartWorker = Callable[[], Awaitable[WorkerLike]]


class MakeStarter(Protocol):
    """Returns what starts workers for a model; see `worker_starter`."""

    def __call__(
        self,
        ref: ModelRef,
        hardware: HardwareView,
        *,
        name: str,
        options: Mapping[str, Any] | None = None,
        children: Sequence[str] = (),
        cores: tuple[int, ...] | None = None,
    ) -> StartWorker: ...


def worker_starter(
    ref: ModelRef,
    hardware: HardwareView,
    *,
    name: str,
    options: Mapping[str, Any] | None = None,
    children: Sequence[str] = (),
    cores: tuple[int, ...] | None = None,
    timeout_s: float = 120.0,
) -> StartWorker:
    """Return what starts a worker process for a model; the arguments are those of `Worker.start`.

    Starters whose workers would be alike are equal.
    """
    return _Starter(
        ref, hardware, name, dict(options or {}), tuple(children), cores, timeout_s, itertools.count(ref.seed)
    )


@dataclass(frozen=True)
class _Starter:
    ref: ModelRef
    hardware: HardwareView
    name: str
    options: Mapping[str, Any]
    children: tuple[str, ...]
    cores: tuple[int, ...] | None
    timeout_s: float
    seeds: Iterator[int] = field(compare=False)

    async def __call__(self) -> WorkerLike:
        from headway.serve.worker import Worker

        # Replicas that sleep must not all draw the same times.
        own = msgspec.structs.replace(self.ref, seed=next(self.seeds))
        return await Worker.start(
            own,
            self.hardware,
            options=self.options,
            children=self.children,
            cores=self.cores,
            timeout_s=self.timeout_s,
            name=self.name,
        )


def backoff_s(failures: int) -> float:
    """Return how long to wait before the next start after so many starts in a row that came to nothing.

    >>> [backoff_s(n) for n in (0, 1, 2, 20)]
    [0.0, 0.1, 0.2, 10.0]
    """
    return 0.0 if failures <= 0 else min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** (min(failures, 20) - 1))


class Replica:
    """A place for one worker at a time, which is restarted whenever it dies.

    `failures` counts the starts in a row after which no batch was finished; `proved` says whether the present worker
    has finished one. `serving`: whether it may take batches; `busy`: whether it works on one; `hardware`: what is paid.
    """

    __slots__ = (
        "_begun", "_keeper", "_start", "busy", "failures", "hardware", "held_from_s", "proved", "restarts", "retiring",
        "serving", "state", "worker",
    )  # fmt: skip

    def __init__(self, start: StartWorker, held_from_s: float, hardware: str = "", serving: bool = True) -> None:
        self._start = start
        self._keeper: asyncio.Task[None] | None = None
        self._begun: asyncio.Future[ServeError | None] | None = None
        self.hardware = hardware
        self.serving = serving
        self.busy = False
        self.worker: WorkerLike | None = None
        self.state = STARTING
        self.failures = 0
        self.proved = False
        self.restarts = 0
        self.retiring = False
        self.held_from_s = held_from_s

    def hand(
        self, inputs: Sequence[Input], timeout_s: float, first_timeout_s: float, render: bool = False
    ) -> asyncio.Future[list[Result]]:
        """Give a batch to the worker; one that has yet to finish a batch may take `first_timeout_s` for it.

        A future where the worker gives one: a task would cost more than the sending. An error is the future's, too.
        """
        if not self.proved:
            timeout_s = max(timeout_s, first_timeout_s)
        try:
            if self.worker is None:
                raise WorkerDied("the worker has just been lost")
            return asyncio.ensure_future(self.worker.predict(inputs, render, timeout_s))
        except Exception as error:
            answer: asyncio.Future[list[Result]] = asyncio.get_running_loop().create_future()
            answer.set_exception(error)
            return answer

    async def first_start(self) -> None:
        """Start the first worker. Raises ServeError when that fails: trying again would not help either."""
        self.worker = await self._start()
        self.state = READY

    def keep(self, ready: Callable[[Replica], None], lost: Callable[[Replica], None]) -> None:
        """Keep a worker running until the replica retires; `ready` hears when one can work, `lost` when one died."""
        loop = asyncio.get_running_loop()
        self._begun = loop.create_future()
        self._keeper = loop.create_task(self._keep(ready, lost))

    async def begun(self) -> None:
        """Wait for the end of the first start. Raises ServeError when it failed; the replica goes on trying."""
        if self._begun is not None and (problem := await asyncio.shield(self._begun)) is not None:
            raise problem

    def _begin(self, problem: ServeError | None = None) -> None:
        if self._begun is not None and not self._begun.done():
            self._begun.set_result(problem)

    async def _keep(self, ready: Callable[[Replica], None], lost: Callable[[Replica], None]) -> None:
        while not self.retiring:
            if self.worker is None and not await self._try_start():
                lost(self)
                continue
            worker = self.worker
            if worker is None or self.retiring:
                break
            self.state = READY
            self._begin()
            ready(self)
            await worker.wait()
            self.worker = None
            if not self.retiring:
                self.state = STARTING
                self.failures += not self.proved
                self.restarts += 1
                lost(self)

    async def _try_start(self) -> bool:
        await asyncio.sleep(backoff_s(self.failures))
        self.proved = False
        try:
            self.worker = await self._start()
        except (ServeError, OSError) as error:
            self.failures += 1
            self._begin(error if isinstance(error, ServeError) else ServeError(f"no worker can be started: {error}"))
            log.warning("a replica could not be started: %s", error)
            return False
        return True

    async def retire(self, grace_s: float = 5.0) -> None:
        """Stop for good: the worker is asked to exit, and killed after `grace_s`."""
        self.retiring = True
        self.state = DRAINING
        self._begin(ServeError("the replica was stopped before it could work"))
        if self.worker is not None:
            await self.worker.stop(grace_s)
        if self._keeper is not None:
            if not self._keeper.cancelling():  # a second time would call off the end of a worker that just began
                self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self.worker is not None:
            await self.worker.stop(0.0)
