"""The server's station."""

from __future__ import annotations

import asyncio
from collections import deque

from headway.errors import ServeError
from headway.policy.admission import expired
from headway.serve.station import NEVER_S, StationHost, StationStats, Work
from headway.serve.wire import Payload, Result


class LiveDelay:
    """Answers every item with what came in, after a delay."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._waiting: deque[Work] = deque()
        self._timers: set[asyncio.TimerHandle] = set()
        self._served = 0
        self._since_s = 0.0
        self.live = False

    @property
    def queued(self) -> int:
        return len(self._waiting)

    async def start(self, host: StationHost) -> None:
        self._host = host
        self._since_s = host.clock()
        self.live = True

    def submit(self, work: Work) -> None:
        work.arrival_s = self._host.clock()
        self._waiting.append(work)
        self._host.wake()

    def ask(self, now_s: float) -> float:
        while self._waiting:
            work = self._waiting.popleft()
            if work.over:
                continue
            if expired(work.deadline_s, now_s):
                self._host.dropped(work)
                continue
            work.start_s, work.batch_size = now_s, 1
            timer = asyncio.get_running_loop().call_later(self._delay_s, lambda work=work: self._done(work))
            self._timers.add(timer)
        return NEVER_S

    async def render(self, work: Work, result: Result) -> Result:
        return result

    def set_replicas(self, count: int) -> None:
        raise ServeError("a toy service has no replicas; change its tier")

    def stats(self, now_s: float) -> StationStats:
        return StationStats(
            queued=self.queued,
            batches=self._served,
            busy_s=self._served * self._delay_s,
            held_s=now_s - self._since_s if self.live else 0.0,
        )

    async def stop(self, grace_s: float = 5.0) -> None:
        self.live = False
        for timer in self._timers:
            timer.cancel()

    def _done(self, work: Work) -> None:
        self._timers = {timer for timer in self._timers if timer.when() > asyncio.get_running_loop().time()}
        self._served += 1
        payload = work.payload
        value = payload if isinstance(payload, Payload) else Payload("text", ",".join(sorted(payload)).encode())
        self._host.finished(work, Result(value=value), self._host.clock())
