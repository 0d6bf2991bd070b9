"""The live station of a replicated, batching model: one central bounded queue from which idle replicas pull batches.

Every decision is made by the functions that the simulator calls (`policy.batching`, `policy.admission`,
`policy.sharing`), without an await between reading the state and committing the decision.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from headway.errors import ServeError
from headway.policy.admission import expired
from headway.policy.batching import take
from headway.policy.sharing import fits
from headway.serve.crew import Crew, Way
from headway.serve.landing import MAX_RETRIES, Pace, landed, tried
from headway.serve.replica import READY, Replica, StartWorker, WorkerLike
from headway.serve.station import (
    NEVER_S,
    CorePool,
    Decision,
    LiveStation,
    StationHost,
    StationLoad,
    StationStats,
    Work,
)
from headway.serve.wire import Result

FIRST_BATCH_TIMEOUT_S = 60.0
"""For workers that have yet to finish a batch: models may put off until then what belongs into `setup`."""


class BatchStation:
    """Equal replicas that serve one batch each at a time.

    `start` makes a worker; `threads` is how many cores a batch computes with, taken from the pool named `pool`. With
    `render` the workers are told to return values in a form that leaves the server. A worker that takes longer than
    `batch_timeout_s` is killed and replaced; for its first batch it has `first_batch_timeout_s`, if that is more.
    `hardware` is the name under which the time of its replicas is counted; `service_s[n - 1]` is what a batch of n
    should take, for `load` to tell how much longer it does take.
    """

    def __init__(
        self,
        name: str,
        start: StartWorker,
        *,
        replicas: int,
        max_batch_size: int = 1,
        max_wait_s: float = 0.0,
        threads: int = 1,
        pool: str | None = None,
        render: bool = False,
        batch_timeout_s: float = FIRST_BATCH_TIMEOUT_S,
        first_batch_timeout_s: float = 0.0,
        hardware: str = "",
        service_s: Sequence[float] = (),
    ) -> None:
        self.name = name
        self.max_batch_size = max_batch_size
        self.max_wait_s = max_wait_s
        self.threads = threads
        self.batch_timeout_s = batch_timeout_s
        self.first_batch_timeout_s = first_batch_timeout_s
        self._render = render
        self._initial = replicas
        self._way = Way(start, max_batch_size, max_wait_s, threads, pool, hardware, tuple(service_s))
        self._queue: deque[Work] = deque()
        self._crew = Crew(name, self._way, self._spawn)
        self._tasks: set[asyncio.Task[None]] = set()
        self._flights: set[asyncio.Future[list[Result]]] = set()
        self._pool: CorePool | None = None
        self._host: StationHost
        self._running = 0
        self._busy = 0
        self._began_s = 0.0
        self._pace = Pace()
        self._batches = 0
        self._busy_s = 0.0
        self._retries = 0

    @property
    def queued(self) -> int:
        """Items that wait."""
        return len(self._queue)

    @property
    def live(self) -> bool:
        """Whether a replica works, or is being started for the first time since it last worked."""
        return self._crew.live

    def load(self) -> StationLoad:
        """Return what there is to do, and how many replicas are at work."""
        return StationLoad(
            len(self._queue), self._running, self._busy, self._began_s, self._crew.at_work, self._pace.told
        )

    async def start(self, host: StationHost) -> None:
        """Start all replicas at once; return when every one can take items. Raises ServeError when one cannot."""
        self._host = host
        self._obey(self._way)
        await self._crew.start(host, self._initial)

    def submit(self, work: Work) -> None:
        """Put one item at the end of the queue."""
        work.arrival_s = self._host.clock()
        self._queue.append(work)
        self._host.wake()

    def ask(self, now_s: float) -> float:
        """Start every batch that the policies want started now; return when to ask again though nothing happened."""
        queue, idle = self._queue, self._crew.idle
        if queue and not idle and not self.live:
            self._expire(now_s)
        while queue and idle:
            if self._pool is not None and not fits(self._pool.free, self.threads):
                return NEVER_S
            # What killed its worker twice runs alone, so that it cannot take others with it a third time.
            alone = queue[0].tries >= MAX_RETRIES
            limit = 1 if alone else self.max_batch_size
            queued, oldest_s, waiting = len(queue), queue[0].arrival_s, len(idle)
            n, wake_at_s = take(queued, oldest_s, now_s, limit, self.max_wait_s)
            if self._host.recording:
                self._host.decided(
                    Decision(self.name, now_s, queued, oldest_s, waiting, limit, self.max_wait_s, n, wake_at_s)
                )
            if n == 0:
                return wake_at_s
            batch = self._form(n, now_s)
            if batch:
                self._launch(idle.popleft(), batch, now_s)
        return NEVER_S

    def _form(self, n: int, now_s: float) -> list[Work]:
        """Take up to `n` items from the queue, leaving out those that are given up."""
        batch: list[Work] = []
        while self._queue and len(batch) < n:
            if batch and self._queue[0].tries >= MAX_RETRIES:
                break
            work = self._queue.popleft()
            if work.over:
                continue
            if expired(work.deadline_s, now_s):
                self._host.dropped(work)
                continue
            batch.append(work)
        return batch

    def _expire(self, now_s: float) -> None:
        """Give up what is past its deadline, though no batch can be formed: no replica may ever come back."""
        for work in [work for work in self._queue if work.over or expired(work.deadline_s, now_s)]:
            self._queue.remove(work)
            if not work.over:
                self._host.dropped(work)

    def _launch(self, replica: Replica, batch: list[Work], now_s: float) -> None:
        pool, threads = self._pool, self.threads
        if pool is not None:
            pool.free -= threads
        replica.busy = True
        self._running += len(batch)
        self._busy += 1
        self._began_s += now_s
        size = len(batch)
        for work in batch:
            work.start_s = now_s
            work.batch_size = size
        inputs = [work.payload for work in batch]
        answer = replica.hand(inputs, self.batch_timeout_s, self.first_batch_timeout_s, self._render)
        self._flights.add(answer)
        answer.add_done_callback(partial(self._landed, replica, replica.worker, batch, now_s, pool, threads))

    def _landed(
        self,
        replica: Replica,
        worker: WorkerLike | None,
        batch: list[Work],
        start_s: float,
        pool: CorePool | None,
        threads: int,
        answer: asyncio.Future[list[Result]],
    ) -> None:
        """Take back a batch with its results, or without: nothing that was let in may be forgotten."""
        self._flights.discard(answer)
        if answer.cancelled():
            return  # the event loop is being closed
        results, sound = landed(answer, self.name, len(batch), worker, self._spawn)
        done_s = self._host.clock()
        self._running -= len(batch)
        self._busy -= 1
        # A sum of many differences drifts; with nothing in service it is known.
        self._began_s = self._began_s - start_s if self._busy else 0.0
        if pool is not None:
            pool.free += threads
        self._crew.done(replica, sound and replica.worker is worker)
        if results is None:
            self._put_back(batch, done_s)
        else:
            self._batches += 1
            self._busy_s += done_s - start_s
            if len(batch) <= len(self._crew.way.service_s):
                self._pace.observe(done_s - start_s, self._crew.way.service_s[len(batch) - 1])
            replica.proved = True
            replica.failures = 0
            if self._settled(results):
                self.ask(done_s)
            for work, result in zip(batch, results, strict=True):
                self._host.finished(work, result, done_s)
        self._host.wake()

    def _settled(self, results: list[Result]) -> bool:
        """Whether the next batch is known before these results are delivered, so that a worker need not wait for that.

        A full one is the same whatever else comes at this instant, unless a failure ends requests that wait in it,
        another stage may take the cores, or no batch may begin.
        """
        if self._pool is not None or len(self._queue) < self.max_batch_size or self._host.paused:
            return False
        return all(result.error is None for result in results)

    def _put_back(self, batch: list[Work], done_s: float) -> None:
        for work in reversed(batch):
            if (given_up := tried(work)) is not None:
                self._host.finished(work, given_up, done_s)
                continue
            self._retries += 1
            self._queue.appendleft(work)

    async def render(self, work: Work, result: Result) -> Result:
        """Return the result with its value in a form that leaves the server: some worker of this stage converts it."""
        value = result.value
        if value is None or value.codec != "object":
            return result
        for replica in [*self._crew.idle, *self._crew.everyone()]:
            if replica.worker is not None and replica.state == READY:
                return (await replica.worker.render([value], timeout_s=self.batch_timeout_s))[0]
        raise ServeError(f"stage {self.name!r}: no worker is there to convert its result")

    def set_replicas(self, count: int) -> None:
        """Change the number of replicas: new ones start in the background, busy ones leave when they are done."""
        self._crew.resize(count)

    def prepare(self, other: LiveStation) -> None:
        """Start what another station, which was never started, is made of, beside what serves. Raises ServeError."""
        if not isinstance(other, BatchStation):
            raise ServeError(f"stage {self.name!r}: a station with replicas cannot become another kind of station")
        self._crew.prepare(other._way, other._initial)
        # Batches of both sorts are under way for a while.
        self.batch_timeout_s = max(self.batch_timeout_s, other.batch_timeout_s)

    async def prepared(self) -> None:
        """Wait until all that was prepared can work. Raises ServeError when a replica cannot be started."""
        await self._crew.prepared()

    def switch(self) -> None:
        """Exchange the replicas that serve and those that are held back; what is being worked on is finished."""
        self._crew.switch()
        self._obey(self._crew.way)
        self._host.wake()

    def dismiss(self) -> None:
        """Let those that are held back leave, when they are done."""
        self._crew.dismiss()

    def stats(self, now_s: float) -> StationStats:
        """Return the state and counters."""
        crew = self._crew
        held_s = crew.held_s(now_s)
        return StationStats(
            queued=len(self._queue),
            running=self._running,
            replicas=crew.states(),
            batches=self._batches,
            busy_s=self._busy_s,
            held_s=sum(held_s.values()),
            held_by_hardware_s=held_s,
            restarts=crew.restarts,
            retries=self._retries,
            pids=tuple(r.worker.pid for r in crew.replicas if r.worker is not None),
        )

    async def stop(self, grace_s: float = 5.0) -> None:
        """Stop all replicas; what still waits is not finished."""
        await self._crew.stop(grace_s)
        while self._tasks or self._flights:
            await asyncio.gather(*self._tasks, *self._flights, return_exceptions=True)

    def _obey(self, way: Way) -> None:
        """Decide by these figures from now on."""
        self.max_batch_size, self.max_wait_s, self.threads = way.max_batch_size, way.max_wait_s, way.threads
        self._pool = None if way.pool is None else self._host.pool(way.pool)
        self._pace = Pace()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
