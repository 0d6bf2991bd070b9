"""How items go through the models of a live cascade: where they begin, which batches start, what follows of an answer.

What happens at one instant is decided as in `headway.domains.cascade.kernel`, by the same policies, without an await
between reading the state and committing the decision.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from headway.domains.cascade.admit import Work as Asked
from headway.domains.cascade.gears import GearPlan
from headway.domains.cascade.live_answers import Rehearsal, Said, read_said
from headway.domains.cascade.live_check import Checks
from headway.domains.cascade.live_devices import Device, Devices, Layout
from headway.domains.cascade.live_drift import Drift
from headway.domains.cascade.live_gears import GearBox
from headway.domains.cascade.live_load import Ahead
from headway.domains.cascade.live_route import UNKNOWN
from headway.domains.cascade.rows import GearRow
from headway.errors import ServeError
from headway.policy.admission import expired
from headway.policy.cascading import answers, due, first_step
from headway.policy.sharing import stage_at
from headway.serve.landing import MAX_RETRIES, landed, tried
from headway.serve.station import NEVER_S, StationHost, Work
from headway.serve.wire import Failure, Input, Result


class Ask:
    """One item on its way through the models: since when it waits, what was said of it last, and by which model.

    `open`: whether every item begins where this one began.
    """

    __slots__ = ("entered_s", "model", "open", "said", "sample", "work")

    def __init__(self, work: Work, sample: int) -> None:
        self.work = work
        self.sample = sample
        self.entered_s = 0.0
        self.said: Said | None = None
        self.model = -1
        self.open = True


class Flow:
    """Items, queues by model, devices and the gear in force; models have the numbers of their places in `models`."""

    def __init__(
        self,
        name: str,
        plan: GearPlan,
        models: Sequence[str],
        layout: Layout,
        drift: Drift,
        checks: Checks | None,
        rehearsal: Rehearsal | None,
        hardness: Callable[[Input], float] | None,
        asked: Asked | None,
    ) -> None:
        self.name = name
        self.models = tuple(models)
        self.exits = [0] * len(models)
        self.escalations = [0] * len(models)
        self.skipped = 0
        self.credit = 0.0
        self.gears = GearBox(plan, name, models)
        self._devices = Devices(name, layout, self._workers_changed, self._spawn)
        self._rehearsal, self._checks, self._hardness = rehearsal, checks, hardness
        self._ahead = Ahead(asked)
        self._queues: list[deque[Ask]] = [deque() for _ in models]
        self._host: StationHost
        self._waiting = 0
        self._running = 0
        self._busy = 0
        self._batches = 0
        self._busy_s = 0.0
        self._retries = 0
        self._flights: set[asyncio.Future[list[Result]]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._obey(plan, drift)

    def _obey(self, plan: GearPlan, drift: Drift) -> None:
        """Decide by this plan from now on."""
        self.plan, self.drift = plan, drift
        sizes = dict(plan.max_batch_size)
        self._sizes = tuple(sizes.get(name, 1) for name in self.models)
        self._dearest = self.models.index(plan.models[-1])

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

    def _hard(self, ask: Ask) -> float:
        """How hard an item is, as far as that is known at once."""
        if self._rehearsal is not None:
            return self._rehearsal.hardness(ask.sample)
        return UNKNOWN if self._hardness is None else self._hardness(ask.work.payload)

    def _enter(self, ask: Ask, hardness: float) -> None:
        """Put an item where the gear in force has one begin that is so hard."""
        row, now_s = self.gears.row, self._host.clock()
        if not math.isnan(hardness):
            self.drift.hard(hardness)
        step = first_step(hardness, row.skip)
        ask.open = not row.skip
        self.skipped += step > 0
        first = self._alive_from(row, row.steps[step])
        self._put(ask, row.steps[step] if first < 0 else first, now_s)

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

    def _empty(self, model: int) -> list[Ask]:
        """Take all items from a queue."""
        asks = list(self._queues[model])
        self._waiting -= len(asks)
        self._queues[model] = deque()
        return asks

    def _bypass(self, model: int, now_s: float) -> None:
        """No device is about to work on a model: what waits for it goes to the next one, or is answered as it is."""
        row = self.gears.row
        onward = self._alive_from(row, row.following[model])
        asks = self._empty(model)
        for ask in asks:
            if ask.work.over or self._expired(ask, now_s):
                continue
            if onward < 0 and ask.said is not None:
                self._answer(ask, now_s)
            else:
                self._put(ask, model if onward < 0 else onward, ask.entered_s if onward < 0 else now_s)
        if len(self._queues[model]) < len(asks):
            self._host.wake()

    def _rehouse(self, now_s: float) -> None:
        """What waits for a model that the plan has no device for goes to where it would go from what was said of it."""
        row, rank = self.gears.row, {self.models.index(name): at for at, name in enumerate(self.plan.models)}
        for model in range(len(self.models)):
            for ask in () if model in rank else self._empty(model):
                further = [step for step in row.steps if rank[step] > rank.get(ask.model, -1)]
                if further:
                    self._put(ask, further[0], ask.entered_s)
                elif not ask.work.over:
                    self._answer(ask, now_s)
        self._queues = [deque(sorted(queue, key=lambda ask: ask.entered_s)) for queue in self._queues]

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
        counted = self._ahead.began(model, len(batch), now_s)
        worker = device.replicas[model].worker
        flight = self._devices.hand(device, model, [ask.work.payload for ask in batch])
        self._flights.add(flight)
        flight.add_done_callback(partial(self._landed, device, model, worker, batch, now_s, counted))

    def _landed(
        self,
        device: Device,
        model: int,
        worker: Any,
        batch: list[Ask],
        start_s: float,
        counted: tuple[float, float],
        flight: asyncio.Future[list[Result]],
    ) -> None:
        """Take back a batch: answers leave, the rest goes on as the gear in force says."""
        self._flights.discard(flight)
        if flight.cancelled():
            return  # the event loop is being closed
        done_s = self._host.clock()
        self.gears.advance(done_s, self._waiting)
        self._running -= len(batch)
        self._busy -= 1
        results, _ = landed(flight, self.name, len(batch), worker, self._spawn)
        self._ahead.landed(model, len(batch), done_s - start_s, counted, results is not None)
        self._devices.done(device, model, results is not None)
        if results is None:
            self._put_back(model, batch, done_s)
        else:
            self._batches += 1
            self._busy_s += done_s - start_s
            for ask, result in zip(batch, results, strict=True):
                self._take(ask, model, result, done_s)
        self._host.wake()

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
        self.drift.certain(model, said.certainty, ask.open and ask.said is None)
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
        return read_said(result, self.models[model])

    def _answer(self, ask: Ask, now_s: float) -> None:
        assert ask.said is not None
        self.exits[ask.model] += 1
        if self._rehearsal is not None:
            self.credit += self._rehearsal.credit(ask.model, ask.sample)
        if self._checks is not None and ask.model != self._dearest:
            self._checks.offer(self.gears.row, ask.model, ask.said.answer, ask.work.payload, ask.sample)
        self._host.finished(ask.work, ask.said.result, now_s)

    def _put_back(self, model: int, batch: list[Ask], done_s: float) -> None:
        for ask in reversed(batch):
            if (given_up := tried(ask.work)) is not None:
                self._host.finished(ask.work, given_up, done_s)
                continue
            self._retries += 1
            self._waiting += 1
            self._queues[model].appendleft(ask)

    def _look_again(self, now_s: float) -> None:
        """Ask the dearest model about an answer of another one, while nothing else is to do."""
        dearest = self._dearest
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

        def done(flight: asyncio.Future[list[Result]]) -> None:
            self._flights.discard(flight)
            if flight.cancelled():
                return
            self._busy -= 1
            self._busy_s += self._host.clock() - now_s
            results, _ = landed(flight, self.name, 1, worker, self._spawn)
            self._devices.done(device, dearest, results is not None)
            if results is not None:
                said = self._said(Ask(Work(check.payload), check.sample), dearest, results[0])
                if said is not None:
                    self.drift.check(check.row, check.model, dearest, said.answer == check.answer)
            self._host.wake()

        flight.add_done_callback(done)

    def _workers_changed(self) -> None:
        self.gears.lose(self._devices.lost, self._host.clock(), self._waiting)
        self._host.wake()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
