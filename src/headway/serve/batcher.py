"""The live station of a replicated, batching model: one central bounded queue from which idle replicas pull batches.

Every decision is made by the functions that the simulator calls (`policy.batching`, `policy.admission`,
`policy.sharing`), without an await between reading the state and committing the decision.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from typing import Any

from headway.errors import ServeError, WorkerDied, WorkerTimeout
from headway.policy.admission import expired
from headway.policy.batching import take
from headway.policy.sharing import fits
from headway.serve.replica import DRAINING, READY, STARTING, Replica, StartWorker
from headway.serve.station import NEVER_S, CorePool, Decision, StationHost, StationStats, Work
from headway.serve.wire import Failure, Result

log = logging.getLogger(__name__)

MAX_RETRIES = 2
"""How often an item whose worker died is put back into the queue; the last time it runs alone."""

WORKER_LOST = "WorkerLost"


class BatchStation:
    """Equal replicas that serve one batch each at a time.

    `start` makes a worker; `threads` is how many cores a batch computes with, taken from the pool named `pool`. With
    `render` the workers are told to return values in a form that leaves the server. `batch_timeout_s`: a worker that
    takes longer is killed and replaced.
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
        batch_timeout_s: float = 60.0,
    ) -> None:
        self.name = name
        self.max_batch_size = max_batch_size
        self.max_wait_s = max_wait_s
        self.threads = threads
        self.batch_timeout_s = batch_timeout_s
        self._start_worker = start
        self._pool_name = pool
        self._render = render
        self._initial = replicas
        self._queue: deque[Work] = deque()
        self._idle: deque[Replica] = deque()
        self._replicas: list[Replica] = []
        self._retiring: set[Replica] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pool: CorePool | None = None
        self._host: StationHost
        self._running = 0
        self._batches = 0
        self._busy_s = 0.0
        self._held_s = 0.0
        self._restarts = 0
        self._retries = 0

    @property
    def queued(self) -> int:
        """Items that wait."""
        return len(self._queue)

    @property
    def live(self) -> bool:
        """Whether a replica works, or is being started for the first time since it last worked."""
        return any(r.state == READY or (r.state == STARTING and r.failures == 0) for r in self._replicas)

    async def start(self, host: StationHost) -> None:
        """Start all replicas at once; return when every one can take items. Raises ServeError when one cannot."""
        self._host = host
        self._pool = None if self._pool_name is None else host.pool(self._pool_name)
        self._replicas = [Replica(self._start_worker, host.clock()) for _ in range(self._initial)]
        started = await asyncio.gather(*(r.first_start() for r in self._replicas), return_exceptions=True)
        for problem in started:
            if isinstance(problem, BaseException):
                await self.stop(0.0)
                raise problem
        for replica in self._replicas:
            replica.keep(self._on_ready, self._on_lost)

    def submit(self, work: Work) -> None:
        """Put one item at the end of the queue."""
        work.arrival_s = self._host.clock()
        self._queue.append(work)
        self._host.wake()

    def ask(self, now_s: float) -> float:
        """Start every batch that the policies want started now; return when to ask again though nothing happened."""
        queue, idle = self._queue, self._idle
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
        if self._pool is not None:
            self._pool.free -= self.threads
        self._running += len(batch)
        size = len(batch)
        for work in batch:
            work.start_s = now_s
            work.batch_size = size
        self._spawn(self._run(replica, batch, now_s))

    async def _run(self, replica: Replica, batch: list[Work], start_s: float) -> None:
        worker = replica.worker
        results: list[Result] | None = None
        sound = worker is not None
        try:
            if worker is not None:
                results = await worker.predict(
                    [work.payload for work in batch], render=self._render, timeout_s=self.batch_timeout_s
                )
        except (WorkerDied, WorkerTimeout) as error:
            sound = False
            log.warning("stage %s: %s", self.name, error)
            if worker is not None:
                self._spawn(worker.stop(0.0))
        except ServeError as error:
            log.warning("stage %s: a batch of %d could not be sent: %s", self.name, len(batch), error)
        except Exception:
            # Whatever it is, the batch goes back into the queue: nothing that was let in may be forgotten.
            sound = False
            log.exception("stage %s: a batch failed in a way that is not foreseen", self.name)
            if worker is not None:
                self._spawn(worker.stop(0.0))
        done_s = self._host.clock()
        self._running -= len(batch)
        if self._pool is not None:
            self._pool.free += self.threads
        if replica.retiring:
            self._spawn(self._retire(replica))
        elif sound and replica.worker is worker:
            self._idle.append(replica)
        if results is None:
            self._put_back(batch, done_s)
        else:
            self._batches += 1
            self._busy_s += done_s - start_s
            replica.proved = True
            replica.failures = 0
            for work, result in zip(batch, results, strict=True):
                self._host.finished(work, result, done_s)
        self._host.wake()

    def _put_back(self, batch: list[Work], done_s: float) -> None:
        for work in reversed(batch):
            work.tries += 1
            if work.tries <= MAX_RETRIES:
                self._retries += 1
                self._queue.appendleft(work)
            else:
                text = f"the worker died, hung or refused the batch {work.tries} times while it had this item"
                self._host.finished(work, Result(error=Failure(WORKER_LOST, text)), done_s)

    async def render(self, work: Work, result: Result) -> Result:
        """Return the result with its value in a form that leaves the server: some worker of this stage converts it."""
        value = result.value
        if value is None or value.codec != "object":
            return result
        for replica in [*self._idle, *self._replicas]:
            if replica.worker is not None and replica.state == READY:
                return (await replica.worker.render([value], timeout_s=self.batch_timeout_s))[0]
        raise ServeError(f"stage {self.name!r}: no worker is there to convert its result")

    def set_replicas(self, count: int) -> None:
        """Change the number of replicas: new ones start in the background, busy ones leave when they are done."""
        if count < 1:
            raise ServeError(f"stage {self.name!r}: {count} replicas; at least 1 is needed")
        while len(self._replicas) < count:
            replica = Replica(self._start_worker, self._host.clock())
            self._replicas.append(replica)
            replica.keep(self._on_ready, self._on_lost)
        surplus = len(self._replicas) - count
        # Those that cannot work yet go first, then the most recently used idle ones, then busy ones.
        starting = [r for r in self._replicas if r.state == STARTING]
        busy = [r for r in self._replicas if r.state == READY and r not in self._idle]
        for replica in [*starting, *reversed(self._idle), *busy][: max(0, surplus)]:
            self._replicas.remove(replica)
            self._retiring.add(replica)
            replica.retiring, replica.state = True, DRAINING
            if replica not in busy:
                self._on_lost(replica)
                self._spawn(self._retire(replica))

    def stats(self, now_s: float) -> StationStats:
        """Return the state and counters."""
        states = [replica.state for replica in [*self._replicas, *self._retiring]]
        held_s = self._held_s + sum(now_s - r.held_from_s for r in [*self._replicas, *self._retiring])
        return StationStats(
            queued=len(self._queue),
            running=self._running,
            replicas={state: states.count(state) for state in (READY, STARTING, DRAINING)},
            batches=self._batches,
            busy_s=self._busy_s,
            held_s=held_s,
            restarts=self._restarts + sum(r.restarts for r in [*self._replicas, *self._retiring]),
            retries=self._retries,
            pids=tuple(r.worker.pid for r in self._replicas if r.worker is not None),
        )

    async def stop(self, grace_s: float = 5.0) -> None:
        """Stop all replicas; what still waits is not finished."""
        self._idle.clear()
        everyone = [*self._replicas, *self._retiring]
        self._replicas = []
        self._retiring = set(everyone)
        await asyncio.gather(*(self._retire(replica, grace_s) for replica in everyone))
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _retire(self, replica: Replica, grace_s: float = 5.0) -> None:
        await replica.retire(grace_s)
        if replica in self._retiring:
            self._retiring.discard(replica)
            self._held_s += self._host.clock() - replica.held_from_s
            self._restarts += replica.restarts

    def _on_ready(self, replica: Replica) -> None:
        self._idle.append(replica)
        self._host.wake()

    def _on_lost(self, replica: Replica) -> None:
        if replica in self._idle:
            self._idle.remove(replica)
        self._host.wake()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
