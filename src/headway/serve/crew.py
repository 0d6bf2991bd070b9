"""The replicas of a station: those that serve, those that are held back while a plan changes, those that leave."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from headway.errors import ServeError
from headway.serve.replica import DRAINING, READY, STARTING, Replica, StartWorker
from headway.serve.station import StationHost


@dataclass(frozen=True, slots=True)
class Way:
    """How replicas are started, batch, compute and are paid for. `service_s[n - 1]`: what a batch of n should take."""

    start: StartWorker
    max_batch_size: int
    max_wait_s: float
    threads: int
    pool: str | None
    hardware: str
    service_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """Replicas beside those that serve: `fresh` are those that were started for it, `state` is what they count as."""

    way: Way
    replicas: list[Replica]
    fresh: list[Replica]
    state: str = STARTING


class Crew:
    """Equal replicas of one `way`. `idle` are those that can take a batch, the longest idle one first.

    Beside them another set of replicas can be held back: on its way to take over (`prepare`) or, after `switch`, kept
    until it is certain that it is not needed any more. `spawn` runs a coroutine that the station waits for at its end.
    """

    def __init__(self, name: str, way: Way, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self.name = name
        self.way = way
        self.replicas: list[Replica] = []
        self.idle: deque[Replica] = deque()
        self._resting: deque[Replica] = deque()
        self._held: Held | None = None
        self._leaving: set[Replica] = set()
        self._host: StationHost
        self._spawn = spawn
        self._left_restarts = 0
        self._left_held_s: dict[str, float] = {}

    async def start(self, host: StationHost, count: int) -> None:
        """Start so many replicas at once; return when every one can work. Raises ServeError when one cannot."""
        self._host = host
        self.replicas = self._new(self.way, count)
        started = await asyncio.gather(*(r.first_start() for r in self.replicas), return_exceptions=True)
        for problem in started:
            if isinstance(problem, BaseException):
                await self.stop(0.0)
                raise problem
        for replica in self.replicas:
            replica.keep(self._on_ready, self._on_lost)

    def resize(self, count: int) -> None:
        """Change the number of replicas: new ones start in the background, busy ones leave when they are done.

        Raises ServeError for less than one, and while others are held back.
        """
        if count < 1:
            raise ServeError(f"stage {self.name!r}: {count} replicas; at least 1 is needed")
        self._check_free()
        added = self._new(self.way, count - len(self.replicas))
        removed = self._first_to_go(len(self.replicas) - count)
        self.replicas = [r for r in [*self.replicas, *added] if r not in removed]
        for replica in added:
            replica.keep(self._on_ready, self._on_lost)
        for replica in removed:
            self._let_go(replica)

    def prepare(self, way: Way, count: int) -> None:
        """Begin to start what takes over at `switch`. Raises ServeError while others are held back.

        Where workers of both ways are alike, those that are here stay as far as they are needed, and those that are
        added help as soon as they can.
        """
        self._check_free()
        keep = (way.start, way.threads, way.pool, way.hardware) == (
            self.way.start, self.way.threads, self.way.pool, self.way.hardware,
        )  # fmt: skip
        if keep:
            way = replace(way, start=self.way.start)
        leaving = self._first_to_go(len(self.replicas) - count) if keep else self.replicas
        kept = [r for r in self.replicas if r not in leaving]
        fresh = self._new(way, count - len(kept), serving=keep)
        self._held = Held(way, [*kept, *fresh], fresh)
        for replica in fresh:
            replica.keep(self._on_ready, self._on_lost)

    async def prepared(self) -> None:
        """Wait until all that was prepared can work. Raises ServeError when a replica cannot be started."""
        if self._held is not None:
            await asyncio.gather(*(replica.begun() for replica in self._held.fresh))

    def switch(self) -> None:
        """Exchange those that serve and those that are held back; a second call takes the first one back."""
        held = self._held
        if held is None:
            raise ServeError(f"stage {self.name!r}: nothing was prepared")
        self._held = Held(self.way, self.replicas, [], DRAINING)
        self.way, self.replicas = held.way, held.replicas
        for old in self._held.replicas:
            old.serving = False
        for new in self.replicas:
            new.serving = True
        free = [*self.idle, *self._resting]
        # Emptied and filled in place: whoever is just walking over the idle ones must see the change.
        self.idle.clear()
        self.idle.extend(r for r in free if r.serving)
        self._resting = deque(r for r in free if not r.serving)

    def dismiss(self) -> None:
        """Let those leave that are held back and are not among those that serve; busy ones when they are done."""
        held, self._held = self._held, None
        for replica in held.replicas if held is not None else ():
            if replica not in self.replicas:
                self._let_go(replica)

    def done(self, replica: Replica, sound: bool) -> None:
        """Take a replica back from its batch; one that is not `sound` comes back when its worker has been replaced."""
        replica.busy = False
        if replica.retiring:
            self._spawn(self._retire(replica))
        elif sound:
            self._rest(replica)

    @property
    def live(self) -> bool:
        """Whether a replica works, or is being started for the first time since it last worked."""
        # Asked once for every request: a loop, because a generator costs three times as much.
        for r in self.replicas if self._held is None else (*self.replicas, *self._held.fresh):
            if r.serving and (r.state == READY or (r.state == STARTING and r.failures == 0)):
                return True
        return False

    @property
    def at_work(self) -> int:
        """How many replicas work, or come back in a moment because their worker died; those that never ran do not."""
        count = 0
        for r in self.replicas if self._held is None else (*self.replicas, *self._held.fresh):
            if r.serving and (r.state == READY or (r.state == STARTING and r.restarts > 0 and r.failures == 0)):
                count += 1
        return count

    @property
    def restarts(self) -> int:
        """How many workers died and were replaced so far."""
        return self._left_restarts + sum(r.restarts for r in self.everyone())

    def everyone(self) -> list[Replica]:
        """All replicas, once each: those that serve, are held back, and leave."""
        held = self._held.replicas if self._held is not None else ()
        return list(dict.fromkeys([*self.replicas, *held, *self._leaving]))

    def states(self) -> dict[str, int]:
        """Return how many replicas are ready, starting and draining."""
        held = self._held.state if self._held is not None else DRAINING
        states = [r.state if r.serving else held if not r.retiring else DRAINING for r in self.everyone()]
        return {state: states.count(state) for state in (READY, STARTING, DRAINING)}

    def held_s(self, now_s: float) -> dict[str, float]:
        """Return the seconds for which replicas have been held so far, by hardware."""
        total_s = dict(self._left_held_s)
        for replica in self.everyone():
            total_s[replica.hardware] = total_s.get(replica.hardware, 0.0) + now_s - replica.held_from_s
        return total_s

    async def stop(self, grace_s: float = 5.0) -> None:
        """Stop everyone."""
        everyone = self.everyone()
        self.idle.clear()
        self._resting.clear()
        self.replicas = []
        self._held = None
        self._leaving = set(everyone)
        await asyncio.gather(*(self._retire(replica, grace_s) for replica in everyone))

    def _check_free(self) -> None:
        if self._held is not None:
            raise ServeError(f"stage {self.name!r} is being changed; change it again when that is over")

    def _new(self, way: Way, count: int, serving: bool = True) -> list[Replica]:
        return [Replica(way.start, self._host.clock(), way.hardware, serving) for _ in range(count)]

    def _first_to_go(self, count: int) -> list[Replica]:
        """Those that cannot work yet go first, then the most recently used idle ones, then busy ones."""
        if count <= 0:
            return []
        starting = [r for r in self.replicas if r.state == STARTING]
        idle = list(reversed(self.idle))
        rest = [r for r in self.replicas if r not in starting and r not in idle]
        return [*starting, *idle, *rest][:count]

    def _let_go(self, replica: Replica) -> None:
        self._leaving.add(replica)
        replica.retiring, replica.state, replica.serving = True, DRAINING, False
        if not replica.busy:
            self._on_lost(replica)
            self._spawn(self._retire(replica))

    async def _retire(self, replica: Replica, grace_s: float = 5.0) -> None:
        await replica.retire(grace_s)
        if replica in self._leaving:
            self._leaving.discard(replica)
            held_s = self._host.clock() - replica.held_from_s
            self._left_held_s[replica.hardware] = self._left_held_s.get(replica.hardware, 0.0) + held_s
            self._left_restarts += replica.restarts

    def _on_ready(self, replica: Replica) -> None:
        self._rest(replica)
        self._host.wake()

    def _on_lost(self, replica: Replica) -> None:
        for place in (self.idle, self._resting):
            if replica in place:
                place.remove(replica)
        self._host.wake()

    def _rest(self, replica: Replica) -> None:
        (self.idle if replica.serving else self._resting).append(replica)
