"""How hard an item is, found out before any model is asked, so that clearly hard ones can skip the cheap steps."""

from __future__ import annotations

import asyncio
import logging
import math
import struct
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from headway.domains.cascade.live_answers import named_function
from headway.errors import ServeError
from headway.serve.landing import landed
from headway.serve.model_ref import HardwareView, ModelRef
from headway.serve.replica import READY, Replica, StartWorker
from headway.serve.station import StationHost
from headway.serve.wire import Input, Payload, Result

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST = 256
"""Items that are looked at together."""
LOOK_TIMEOUT_S = 10.0
UNKNOWN = math.nan

_NUMBER = struct.Struct("<d")


def size_bytes(item: Input) -> float:
    """Return the bytes of an input, of all its parts together where it has several.

    >>> size_bytes(Payload("text", b"abc"))
    3.0
    """
    if isinstance(item, Payload):
        return float(len(item.data))
    return float(sum(len(part.data) for parts in item.values() for part in parts))


class HardnessModel:
    """In a worker: a function of a list of inputs, which returns a number for each. `function` is a reference."""

    def __init__(self, function: Any) -> None:
        self._ref = msgspec.convert(function, ModelRef)

    def setup(self, hardware: HardwareView) -> None:
        """Load the function. Raises ServeError, and whatever its own code raises."""
        self._function = named_function(self._ref, "hardness")

    def predict(self, batch: list[Any]) -> Any:
        """Return the hardness of each input, as bytes."""
        found = list(self._function(batch))
        if len(found) != len(batch):
            raise ServeError(f"hardness: {self._ref.text} returned {len(found)} numbers for {len(batch)} inputs")
        return [_NUMBER.pack(float(value)) for value in found]


class Router(Generic[T]):
    """Asks one worker how hard items are, in batches of whatever waits; `enter` takes each item with its hardness.

    An item of which it cannot be said, because the function fails or the worker is lost, is passed on at once as
    `UNKNOWN`: it begins at the first step, as without a router.
    """

    def __init__(self, name: str, start: StartWorker, payload: Callable[[T], Input]) -> None:
        self._name = name
        self._starter = start
        self._payload = payload
        self._queue: deque[T] = deque()
        self._flight: asyncio.Future[list[Result]] | None = None
        self._told = False
        self._enter: Callable[[T, float], None]
        self._spawn: Callable[[Coroutine[Any, Any, None]], None]
        self._replica: Replica | None = None
        self._host: StationHost

    def __len__(self) -> int:
        return len(self._queue)

    async def start(
        self,
        host: StationHost,
        enter: Callable[[T, float], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """Start the worker. Raises ServeError when that fails."""
        self._host, self._enter, self._spawn = host, enter, spawn
        replica = self._replica = Replica(self._starter, host.clock())
        await replica.first_start()
        replica.keep(self._hear, self._hear)

    def put(self, item: T) -> None:
        """Take an item; `ask` is called once all that happens at this instant is known."""
        self._queue.append(item)

    def ask(self) -> None:
        """Have the worker look at what waits."""
        if self._flight is not None or not self._queue:
            return
        replica = self._replica
        if replica is None or replica.state != READY or replica.worker is None:
            self._pass_on(list(self._queue), ())
            self._queue.clear()
            return
        batch = [self._queue.popleft() for _ in range(min(MOST, len(self._queue)))]
        answer = self._flight = replica.hand([self._payload(item) for item in batch], LOOK_TIMEOUT_S, LOOK_TIMEOUT_S)
        worker = replica.worker

        def done(answer: asyncio.Future[list[Result]]) -> None:
            self._flight = None
            if answer.cancelled():
                return
            results, _ = landed(answer, self._name, len(batch), worker, self._spawn)
            if results is not None:
                replica.proved, replica.failures = True, 0
            self._pass_on(batch, results or ())
            self._host.wake()

        answer.add_done_callback(done)

    async def stop(self, grace_s: float) -> None:
        """Stop the worker."""
        if self._replica is not None:
            await self._replica.retire(grace_s)
        if self._flight is not None:
            await asyncio.gather(self._flight, return_exceptions=True)

    @property
    def pids(self) -> tuple[int, ...]:
        """The worker's process."""
        worker = None if self._replica is None else self._replica.worker
        return () if worker is None else (worker.pid,)

    def _pass_on(self, batch: list[T], results: Any) -> None:
        known = list(map(self._number, results)) or [UNKNOWN] * len(batch)
        for item, hardness in zip(batch, known, strict=True):
            self._enter(item, hardness)

    def _number(self, result: Result) -> float:
        hardness = hardness_of(result)
        if math.isnan(hardness) and not self._told:
            self._told = True
            why = "it is no number" if result.error is None else f"{result.error.type}: {result.error.message}"
            log.warning("stage %s: the hardness of an item is not known: %s", self._name, why)
        return hardness

    def _hear(self, replica: Replica) -> None:
        self._host.wake()


def hardness_of(result: Result) -> float:
    """Return the number that a worker of a `HardnessModel` found, or `UNKNOWN`."""
    if result.value is None or len(result.value.data) != _NUMBER.size:
        return UNKNOWN
    return float(_NUMBER.unpack(result.value.data)[0])


def hardness_worker(ref: ModelRef) -> tuple[ModelRef, Mapping[str, Any]]:
    """Return what a worker loads to say how hard items are, and with which options."""
    return (
        ModelRef("python", module=HardnessModel.__module__, class_name=HardnessModel.__name__),
        {"function": msgspec.to_builtins(ref)},
    )
