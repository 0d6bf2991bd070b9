"""The live station of a cascade: a queue per model, devices that hold several models, and a gear for the load.

What happens at one instant is decided as in `headway.domains.cascade.kernel`, by the same policies, without an await
between reading the state and committing the decision.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from headway.domains.cascade.gears import GearPlan
from headway.domains.cascade.live_answers import Rehearsal, Said, read_said
from headway.domains.cascade.live_check import Checks
from headway.domains.cascade.live_devices import Device, Devices, Timeouts
from headway.domains.cascade.live_drift import Drift
from headway.domains.cascade.live_gears import GearBox
from headway.domains.cascade.rows import GearRow
from headway.errors import ServeError, WorkerDied, WorkerTimeout
from headway.policy.admission import expired
from headway.policy.cascading import answers, due
from headway.policy.sharing import stage_at
from headway.serve.batcher import MAX_RETRIES, given_up
from headway.serve.replica import StartWorker
from headway.serve.station import NEVER_S, StationHost, StationStats, Work
from headway.serve.wire import Failure, Result, Told

if TYPE_CHECKING:
    from prometheus_client.core import Metric

log = logging.getLogger(__name__)


class Ask:
    """One item on its way through the models: since when it waits, what was said of it last, and by which model."""

    __slots__ = ("entered_s", "model", "said", "sample", "work")

    def __init__(self, work: Work, sample: int) -> None:
        self.work = work
        self.sample = sample
        self.entered_s = 0.0
        self.said: Said | None = None
        self.model = -1


class CascadeLive:
    """Serves a gear plan with workers that `starters[device][model]` start; `timeouts` are by model.

    With a `rehearsal` the workers only take time, and what models say comes from its table. `drift` watches what they
    say, `checks` chooses the answers that the dearest model is asked about again.
    """

    def __init__(
        self,
        name: str,
        plan: GearPlan,
        starters: Sequence[Mapping[int, StartWorker]],
        timeouts: Sequence[Timeouts],
        drift: Drift,
        checks: Checks | None = None,
        rehearsal: Rehearsal | None = None,
    ) -> None:
        self.name = name
        self.plan = plan
        self.gears = GearBox(plan, name)
        self.drift = drift
        self.exits = [0] * len(plan.models)
        self.escalations = [0] * len(plan.models)
        self.credit = 0.0
        self._sizes = tuple(size for _, size in plan.max_batch_size)
        self._devices = Devices(starters, plan.hardware, timeouts, self._workers_changed)
        self._rehearsal = rehearsal
        self._checks = checks
        self._queues: list[deque[Ask]] = [deque() for _ in plan.models]
        self._host: StationHost
        self._waiting = 0
        self._running = 0
        self._busy = 0
        self._batches = 0
        self._busy_s = 0.0
        self._retries = 0
        self._flights: set[asyncio.Future[list[Result]]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def queued(self) -> int:
        """Items that wait, at any model."""
        return self._waiting

    @property
    def live(self) -> bool:
        """Whether a model that the gear in force asks works, or is started for the first time since it last did."""
        row, alive = self.gears.row, self._devices.alive
        at = row.first
        while at >= 0:
            if alive[at]:
                return True
            at = row.following[at]
        return False

    async def start(self, host: StationHost) -> None:
        """Start all workers. Raises ServeError when one cannot be started."""
        self._host = host
        await self._devices.start(host)

    def submit(self, work: Work) -> None:
        """Put an item into the queue of the model that the gear in force begins with."""
        now_s = work.arrival_s = self._host.clock()
        self.gears.advance(now_s, self._waiting)
        self.gears.arrived(now_s)
        sample = -1 if self._rehearsal is None else self._rehearsal.sample()
        row = self.gears.row
        first = self._alive_from(row, row.first)
        self._put(Ask(work, sample), row.first if first < 0 else first, now_s)
        self._host.wake()

    def ask(self, now_s: float) -> float:
        """Start every batch that the policies want started now, later steps first; return when to ask again."""
        self.gears.advance(now_s, self._waiting)
        asked = self.gears.row.asked
        wake_s = NEVER_S
        for rank in range(len(asked)):
            wake_s = min(wake_s, self._start(asked[stage_at(rank, len(asked))], now_s))
        if self._waiting:
            # Another gear may want batches of what waits at once.
            return min(wake_s, self.gears.edge_s)
        if self._busy == 0:
            self._look_again(now_s)
        return wake_s

    def _put(self, ask: Ask, model: int, now_s: float) -> None:
        ask.entered_s = now_s
        self._queues[model].append(ask)
        self._waiting += 1

    def _alive_from(self, row: GearRow, model: int) -> int:
        """Return the model, or the first after it in the gear that lives; -1 when none does."""
        while model >= 0 and not self._devices.alive[model]:
            model = row.following[model]
        return model

    def _start(self, model: int, now_s: float) -> float:
        queue = self._queues[model]
        while queue:
            device = self._devices.idle(model)
            if device is None:
                if not self._devices.alive[model]:
                    self._bypass(model, now_s)
                return NEVER_S
            row = self.gears.row
            # What killed its worker twice runs alone, so that it cannot take others with it a third time.
            limit = 1 if queue[0].work.tries >= MAX_RETRIES else self._sizes[model]
            n, wake_s = due(len(queue), queue[0].entered_s, now_s, row.min_queue[model], row.max_wait_s, limit)
            if n == 0:
                return wake_s
            batch = self._form(model, limit, now_s)
            if batch:
                self._launch(device, model, batch, now_s)
        return NEVER_S

    def _form(self, model: int, most: int, now_s: float) -> list[Ask]:
        """Take up to `most` items from a queue, without those that are given up."""
        queue = self._queues[model]
        batch: list[Ask] = []
        while queue and len(batch) < most:
            if batch and queue[0].work.tries >= MAX_RETRIES:
                break
            ask = queue.popleft()
            self._waiting -= 1
            if not ask.work.over and not self._expired(ask, now_s):
                batch.append(ask)
        return batch

    def _bypass(self, model: int, now_s: float) -> None:
        """No device is about to work on a model: what waits for it goes to the next one, or is answered as it is."""
        queue, row = self._queues[model], self.gears.row
        onward = self._alive_from(row, row.following[model])
        self._waiting -= len(queue)
        asks, self._queues[model] = list(queue), deque()
        for ask in asks:
            if ask.work.over or self._expired(ask, now_s):
                continue
            if onward < 0 and ask.said is not None:
                self._answer(ask, now_s)
            else:
                self._put(ask, model if onward < 0 else onward, ask.entered_s if onward < 0 else now_s)
        if len(self._queues[model]) < len(asks):
            self._host.wake()

    def _expired(self, ask: Ask, now_s: float) -> bool:
        """Whether an item is out of time; it is then dropped, unless a model has said something: that is the answer."""
        if not expired(ask.work.deadline_s, now_s):
            return False
        if ask.said is None:
            self._host.dropped(ask.work)
        else:
            self._answer(ask, now_s)
            self._host.wake()
        return True

    def _launch(self, device: Device, model: int, batch: list[Ask], now_s: float) -> None:
        self._running += len(batch)
        self._busy += 1
        for ask in batch:
            if ask.said is None:
                ask.work.start_s, ask.work.batch_size = now_s, len(batch)
        worker = device.replicas[model].worker
        flight = self._devices.hand(device, model, [ask.work.payload for ask in batch])
        self._flights.add(flight)
        flight.add_done_callback(partial(self._landed, device, model, worker, batch, now_s))

    def _landed(
        self, device: Device, model: int, worker: Any, batch: list[Ask], start_s: float, flight: asyncio.Future[Any]
    ) -> None:
        """Take back a batch: answers leave, the rest goes on as the gear in force says."""
        self._flights.discard(flight)
        if flight.cancelled():
            return  # the event loop is being closed
        done_s = self._host.clock()
        self.gears.advance(done_s, self._waiting)
        self._running -= len(batch)
        self._busy -= 1
        results = self._results(flight, worker)
        self._devices.done(device, model, results is not None)
        if results is None:
            self._put_back(model, batch, done_s)
        else:
            self._batches += 1
            self._busy_s += done_s - start_s
            for ask, result in zip(batch, results, strict=True):
                self._take(ask, model, result, done_s)
        self._host.wake()

    def _results(self, flight: asyncio.Future[list[Result]], worker: Any) -> list[Result] | None:
        """Return a batch's results, or None when its worker failed, which is then ended and replaced."""
        error = flight.exception()
        if error is None:
            return flight.result()
        known = isinstance(error, ServeError)
        log.warning("stage %s: %s", self.name, error, exc_info=None if known else error)
        if worker is not None and (isinstance(error, WorkerDied | WorkerTimeout) or not known):
            self._spawn(worker.stop(0.0))
        return None

    def _take(self, ask: Ask, model: int, result: Result, done_s: float) -> None:
        """Take what a model made of an item: it is the answer, or another model is asked."""
        try:
            said = self._said(ask, model, result)
        except ServeError as error:
            said, result = None, Result(error=Failure("ServeError", str(error)))
        if said is None:
            self._host.finished(ask.work, result, done_s)
            return
        row = self.gears.row
        self.drift.certain(model, said.certainty, ask.said is None)
        ask.said, ask.model = said, model
        to = self._alive_from(row, row.following[model])
        if ask.work.over:
            self._host.finished(ask.work, said.result, done_s)
        elif to < 0 or answers(said.certainty, row.threshold[model]):
            self._answer(ask, done_s)
        else:
            self.escalations[model] += 1
            self._put(ask, to, done_s)

    def _said(self, ask: Ask, model: int, result: Result) -> Said | None:
        if self._rehearsal is not None and result.error is None:
            return self._rehearsal.said(model, ask.sample, result)
        return read_said(result, self.plan.models[model])

    def _answer(self, ask: Ask, now_s: float) -> None:
        assert ask.said is not None
        self.exits[ask.model] += 1
        if self._rehearsal is not None:
            self.credit += self._rehearsal.credit(ask.model, ask.sample)
        if self._checks is not None:
            self._checks.offer(self.gears.row, ask.model, ask.said.answer, ask.work.payload, ask.sample)
        self._host.finished(ask.work, ask.said.result, now_s)

    def _put_back(self, model: int, batch: list[Ask], done_s: float) -> None:
        for ask in reversed(batch):
            ask.work.tries += 1
            if ask.work.tries <= MAX_RETRIES:
                self._retries += 1
                self._waiting += 1
                self._queues[model].appendleft(ask)
            else:
                self._host.finished(ask.work, given_up(ask.work.tries), done_s)

    def _look_again(self, now_s: float) -> None:
        """Ask the dearest model about an answer of another one, while nothing else is to do."""
        dearest = len(self._queues) - 1
        if self._checks is None or not self._checks:
            return
        device = self._devices.idle(dearest)
        if device is None:
            return
        check = self._checks.next()
        flight = self._devices.hand(device, dearest, [check.payload])
        worker = device.replicas[dearest].worker
        self._busy += 1
        self._flights.add(flight)

        def landed(flight: asyncio.Future[list[Result]]) -> None:
            self._flights.discard(flight)
            if flight.cancelled():
                return
            self._busy -= 1
            self._busy_s += self._host.clock() - now_s
            results = self._results(flight, worker)
            self._devices.done(device, dearest, results is not None)
            if results is not None:
                said = self._said(Ask(Work(check.payload), check.sample), dearest, results[0])
                if said is not None:
                    self.drift.check(check.row, check.model, said.answer == check.answer)
            self._host.wake()

        flight.add_done_callback(landed)

    def _workers_changed(self) -> None:
        self.gears.lose(self._devices.lost, self._host.clock(), self._waiting)
        self._host.wake()

    async def render(self, work: Work, result: Result) -> Result:
        """Return the result with its value in a form that leaves the server: some worker converts it."""
        value = result.value
        if value is None or value.codec != "object":
            return result
        worker = self._devices.any_worker().worker
        assert worker is not None
        found = (await worker.render([value]))[0]
        if found.value is None or not isinstance(value, Told):
            return found
        return msgspec.structs.replace(found, value=Told(found.value.codec, found.value.data, value.about))

    def set_replicas(self, count: int) -> None:
        """Raises ServeError: gears are made for a number of devices."""
        raise ServeError(
            f"stage {self.name!r}: its gears are made for a fixed number of devices ({self.plan.devices}); to have "
            f"{count}, serve a plan for as many"
        )

    def stats(self, now_s: float) -> StationStats:
        """Return the state and counters."""
        from headway.domains.cascade.live_metrics import about

        held_s = self._devices.held_s(now_s)
        return StationStats(
            queued=self._waiting,
            running=self._running,
            replicas=self._devices.states(),
            batches=self._batches,
            busy_s=self._busy_s,
            held_s=held_s,
            held_by_hardware_s={self.plan.hardware: held_s},
            restarts=self._devices.restarts,
            retries=self._retries,
            pids=self._devices.pids,
            about=about(self, now_s),
        )

    def metrics(self, labels: Mapping[str, str], now_s: float) -> list[Metric]:
        """Return what Prometheus is told beside what every station tells."""
        from headway.domains.cascade.live_metrics import families

        return families(self, labels, now_s)

    @property
    def rehearsed(self) -> bool:
        """Whether its models only sleep, so that it is known how accurate the answers are."""
        return self._rehearsal is not None

    async def stop(self, grace_s: float = 5.0) -> None:
        """Stop all workers; what still waits is not finished."""
        await self._devices.stop(grace_s)
        while self._tasks or self._flights:
            await asyncio.gather(*self._tasks, *self._flights, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
