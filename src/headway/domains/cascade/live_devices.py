"""Devices, live: on each a worker process for every model that it holds, of which one at a time works."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from headway.errors import ServeError
from headway.serve.replica import DRAINING, READY, STARTING, Replica, StartWorker
from headway.serve.station import StationHost
from headway.serve.wire import Input, Result


@dataclass(frozen=True, slots=True)
class Timeouts:
    """After how long a batch hangs for sure, the first one of a worker and those that follow."""

    first_s: float
    batch_s: float


class Device:
    """One device: a replica for each model that it holds, by the model's number, and whether a batch is under way."""

    __slots__ = ("busy", "replicas")

    def __init__(self, replicas: Mapping[int, Replica]) -> None:
        self.busy = False
        self.replicas = replicas

    def works(self, model: int) -> bool:
        """Whether it can take a batch of this model now."""
        replica = self.replicas.get(model)
        return replica is not None and replica.state == READY and replica.worker is not None

    @property
    def lost(self) -> bool:
        """Whether none of its workers lives."""
        return all(replica.state != READY for replica in self.replicas.values())


class Devices:
    """All devices of a station, in the order in which idle ones are used: those that hold the fewest models first.

    `starters[device]` makes workers by model, in any order of devices. `changed` hears when a worker has come or gone.
    """

    def __init__(
        self,
        starters: Sequence[Mapping[int, StartWorker]],
        hardware: str,
        timeouts: Sequence[Timeouts],
        changed: Callable[[], None],
    ) -> None:
        self._starters = sorted(starters, key=len)
        self._hardware = hardware
        self._timeouts = timeouts
        self._changed = changed
        self.all: list[Device] = []
        self._from_s = 0.0
        self.alive = [False] * len(timeouts)
        """By model: whether some device works on it, or is on its way to, for the first time since it last did."""

    async def start(self, host: StationHost) -> None:
        """Start every worker at once; return when all can work. Raises ServeError when one cannot."""
        self._from_s = host.clock()
        self.all = [
            Device({m: Replica(start, self._from_s, self._hardware) for m, start in starters.items()})
            for starters in self._starters
        ]
        replicas = list(self._replicas())
        started = await asyncio.gather(*(r.first_start() for r in replicas), return_exceptions=True)
        for problem in started:
            if isinstance(problem, BaseException):
                await self.stop(0.0)
                raise problem
        for replica in replicas:
            replica.keep(self._hear, self._hear)
        self.look()

    async def stop(self, grace_s: float = 5.0) -> None:
        """Stop every worker."""
        await asyncio.gather(*(replica.retire(grace_s) for replica in self._replicas()))

    def look(self) -> None:
        """Find out which models live."""
        for model in range(len(self.alive)):
            held = [r for device in self.all if (r := device.replicas.get(model)) is not None]
            self.alive[model] = any(r.state == READY or (r.state == STARTING and r.failures == 0) for r in held)

    def idle(self, model: int) -> Device | None:
        """Return the first device that can take a batch of a model now."""
        for device in self.all:
            if not device.busy and device.works(model):
                return device
        return None

    @property
    def lost(self) -> bool:
        """Whether some device has no worker that lives."""
        return any(device.lost for device in self.all)

    def hand(self, device: Device, model: int, inputs: Sequence[Input]) -> asyncio.Future[list[Result]]:
        """Give a batch to a device; it is busy until `done`."""
        device.busy = True
        timeouts = self._timeouts[model]
        return device.replicas[model].hand(inputs, timeouts.batch_s, timeouts.first_s)

    def done(self, device: Device, model: int, finished: bool) -> None:
        """Take a device back from a batch, which it has `finished` or not."""
        device.busy = False
        if finished:
            replica = device.replicas[model]
            replica.proved, replica.failures = True, 0

    @property
    def restarts(self) -> int:
        """How many workers died and were replaced."""
        return sum(replica.restarts for replica in self._replicas())

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes of all workers."""
        return tuple(r.worker.pid for r in self._replicas() if r.worker is not None)

    def states(self) -> dict[str, int]:
        """Return how many devices are ready (all of their models are), starting and draining."""
        states = []
        for device in self.all:
            of = {replica.state for replica in device.replicas.values()}
            states.append(DRAINING if DRAINING in of else STARTING if STARTING in of else READY)
        return {state: states.count(state) for state in (READY, STARTING, DRAINING)}

    def held_s(self, now_s: float) -> float:
        """Return the seconds for which devices have been held so far."""
        return len(self.all) * (now_s - self._from_s)

    def any_worker(self) -> Replica:
        """Return a replica that can convert a result. Raises ServeError when there is none."""
        for replica in self._replicas():
            if replica.worker is not None and replica.state == READY:
                return replica
        raise ServeError("no worker is there to convert a result")

    def _replicas(self) -> Iterable[Replica]:
        return (replica for device in self.all for replica in device.replicas.values())

    def _hear(self, replica: Replica) -> None:
        self.look()
        self._changed()
