"""Devices, live: on each a worker process for every model that it holds, of which one at a time works.

Beside those that serve others can be held back while a plan changes: on their way to take over (`prepare`) or, after
`switch`, kept until it is certain that they are not needed any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headway.errors import ServeError
from headway.serve.replica import DRAINING, READY, STARTING, Replica, StartWorker
from headway.serve.station import StationHost
from headway.serve.wire import Input, Result


@dataclass(frozen=True, slots=True)
class Timeouts:
    """After how long a batch hangs for sure, the first one of a worker and those that follow."""

    first_s: float
    batch_s: float


@dataclass(frozen=True, slots=True)
class Layout:
    """Which models each device of one hardware holds: what starts their workers, by number; `timeouts` are by model."""

    starters: Sequence[Mapping[int, StartWorker]]
    hardware: str
    timeouts: Sequence[Timeouts]


class Device:
    """One device: a replica for each model that it holds, by the model's number, and whether a batch is under way."""

    __slots__ = ("busy", "hardware", "held_from_s", "replicas", "retiring", "starters")

    def __init__(self, starters: Mapping[int, StartWorker], hardware: str, held_from_s: float) -> None:
        self.starters = starters
        self.hardware = hardware
        self.held_from_s = held_from_s
        self.replicas = {model: Replica(start, held_from_s, hardware) for model, start in starters.items()}
        self.busy = False
        self.retiring = False

    def works(self, model: int) -> bool:
        """Whether it can take a batch of this model now."""
        replica = self.replicas.get(model)
        return replica is not None and replica.state == READY and replica.worker is not None

    @property
    def lost(self) -> bool:
        """Whether none of its workers lives."""
        return all(replica.state != READY for replica in self.replicas.values())

    @property
    def at_work(self) -> bool:
        """Whether a worker lives, or comes back in a moment because it died."""
        return any(r.state == READY or (r.restarts > 0 and r.failures == 0) for r in self.replicas.values())

    @property
    def state(self) -> str:
        """Ready when all of its models are."""
        of = {replica.state for replica in self.replicas.values()}
        return DRAINING if DRAINING in of else STARTING if STARTING in of else READY


@dataclass(frozen=True, slots=True)
class _Held:
    """Devices beside those that serve: `fresh` are those that were started for it, `state` is what they count as."""

    layout: Layout
    devices: list[Device]
    fresh: list[Device]
    state: str = STARTING


class Devices:
    """All devices of a station, in the order in which idle ones are used: those that hold the fewest models first.

    `changed` hears when a worker has come or gone; `spawn` runs a coroutine that the station waits for at its end.
    """

    def __init__(
        self,
        name: str,
        layout: Layout,
        changed: Callable[[], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self.layout = layout
        self.all: list[Device] = []
        self.alive = [False] * len(layout.timeouts)
        """By model: whether some device works on it, or is on its way to, for the first time since it last did."""
        self._name = name
        self._changed = changed
        self._spawn = spawn
        self._held: _Held | None = None
        self._leaving: list[Device] = []
        self._left_restarts = 0
        self._left_held_s: dict[str, float] = {}
        self._host: StationHost

    async def start(self, host: StationHost) -> None:
        """Start every worker at once; return when all can work. Raises ServeError when one cannot."""
        self._host = host
        now_s, layout = host.clock(), self.layout
        self.all = [Device(starters, layout.hardware, now_s) for starters in _fewest_first(layout)]
        replicas = list(_replicas(self.all))
        started = await asyncio.gather(*(r.first_start() for r in replicas), return_exceptions=True)
        for problem in started:
            if isinstance(problem, BaseException):
                await self.stop(0.0)
                raise problem
        for replica in replicas:
            replica.keep(self._hear, self._hear)
        self.look()

    def prepare(self, layout: Layout) -> None:
        """Begin to start what takes over at `switch`; devices that are alike stay. Raises ServeError."""
        if self._held is not None:
            raise ServeError(f"stage {self._name!r} is being changed; change it again when that is over")
        # Those of which nothing lives stay last.
        left, taken, fresh = sorted(self.all, key=lambda device: device.lost), [], []
        for starters in _fewest_first(layout):
            wanted = {model: self._known(start) for model, start in starters.items()}
            device = next((d for d in left if (d.starters, d.hardware) == (wanted, layout.hardware)), None)
            if device is None:
                device = Device(wanted, layout.hardware, self._host.clock())
                fresh.append(device)
            else:
                left.remove(device)
            taken.append(device)
        self._held = _Held(layout, taken, fresh)
        for replica in _replicas(fresh):
            replica.keep(self._hear, self._hear)

    async def prepared(self) -> None:
        """Wait until all that was prepared can work. Raises ServeError when a worker cannot be started."""
        if self._held is not None:
            await asyncio.gather(*(replica.begun() for replica in _replicas(self._held.fresh)))

    def switch(self) -> None:
        """Exchange those that serve and those that are held back; a second call takes the first one back."""
        held = self._held
        if held is None:
            raise ServeError(f"stage {self._name!r}: nothing was prepared")
        self._held = _Held(self.layout, self.all, [], DRAINING)
        self.layout, self.all = held.layout, held.devices
        self.look()

    def dismiss(self) -> None:
        """Let those leave that are held back and are not among those that serve; busy ones when they are done."""
        held, self._held = self._held, None
        for device in held.devices if held is not None else ():
            if device not in self.all:
                device.retiring = True
                self._leaving.append(device)
                if not device.busy:
                    self._spawn(self._retire(device))

    async def stop(self, grace_s: float = 5.0) -> None:
        """Stop every worker."""
        everyone = self._everyone()
        self.all, self._held, self._leaving = [], None, everyone
        await asyncio.gather(*(self._retire(device, grace_s) for device in everyone))

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

    @property
    def at_work(self) -> int:
        """How many devices work, or come back in a moment."""
        return sum(device.at_work for device in self.all)

    def hand(self, device: Device, model: int, inputs: Sequence[Input]) -> asyncio.Future[list[Result]]:
        """Give a batch to a device; it is busy until `done`."""
        device.busy = True
        timeouts = self.layout.timeouts[model]
        return device.replicas[model].hand(inputs, timeouts.batch_s, timeouts.first_s)

    def done(self, device: Device, model: int, finished: bool) -> None:
        """Take a device back from a batch, which it has `finished` or not."""
        device.busy = False
        if finished:
            replica = device.replicas[model]
            replica.proved, replica.failures = True, 0
        if device.retiring:
            self._spawn(self._retire(device))

    @property
    def restarts(self) -> int:
        """How many workers died and were replaced."""
        return self._left_restarts + sum(replica.restarts for replica in _replicas(self._everyone()))

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes of all workers."""
        return tuple(r.worker.pid for r in _replicas(self._everyone()) if r.worker is not None)

    def states(self) -> dict[str, int]:
        """Return how many devices are ready (all of their models are), starting and draining."""
        held = self._held.state if self._held is not None else DRAINING
        states = [d.state if d in self.all else DRAINING if d.retiring else held for d in self._everyone()]
        return {state: states.count(state) for state in (READY, STARTING, DRAINING)}

    def held_s(self, now_s: float) -> dict[str, float]:
        """Return the seconds for which devices have been held so far, by hardware."""
        total_s = dict(self._left_held_s)
        for device in self._everyone():
            total_s[device.hardware] = total_s.get(device.hardware, 0.0) + now_s - device.held_from_s
        return total_s

    def any_worker(self) -> Replica:
        """Return a replica that can convert a result. Raises ServeError when there is none."""
        for replica in _replicas(self._everyone()):
            if replica.worker is not None and replica.state == READY:
                return replica
        raise ServeError("no worker is there to convert a result")

    def _everyone(self) -> list[Device]:
        """All devices, once each: those that serve, are held back, and leave."""
        held = self._held.devices if self._held is not None else ()
        return list(dict.fromkeys([*self.all, *held, *self._leaving]))

    def _known(self, start: StartWorker) -> StartWorker:
        """What starts such workers already, if anything does: on Ray their number is counted there."""
        known = (other for device in self._everyone() for other in device.starters.values())
        return next((other for other in known if other == start), start)

    async def _retire(self, device: Device, grace_s: float = 5.0) -> None:
        await asyncio.gather(*(replica.retire(grace_s) for replica in device.replicas.values()))
        if device in self._leaving:
            self._leaving.remove(device)
            held_s = self._host.clock() - device.held_from_s
            self._left_held_s[device.hardware] = self._left_held_s.get(device.hardware, 0.0) + held_s
            self._left_restarts += sum(replica.restarts for replica in device.replicas.values())

    def _hear(self, replica: Replica) -> None:
        self.look()
        self._changed()


def _replicas(devices: Iterable[Device]) -> Iterable[Replica]:
    return (replica for device in devices for replica in device.replicas.values())


def _fewest_first(layout: Layout) -> list[Mapping[int, StartWorker]]:
    return sorted(layout.starters, key=len)
