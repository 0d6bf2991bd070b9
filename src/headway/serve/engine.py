"""The server's engine: lets requests in, walks them through the stations of a plan, and ends each exactly once.

One event loop drives everything. A decision is made between two awaits, and all completions of one instant are
delivered before stations are asked what they start next, as in the simulator; a request starts what it can as it comes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from headway.errors import ServeError, nearest
from headway.plan.plan import Plan
from headway.policy.admission import full
from headway.policy.sharing import stage_at
from headway.serve.gate import Gate, Rejected
from headway.serve.record import LATENCY_BUCKETS_S, RING_ENTRIES, Counts, Histogram, Ring, StageRecord
from headway.serve.station import NEVER_S, CorePool, Decision, LiveStation, StationStats, Work
from headway.serve.swap import Swaps, live_station
from headway.serve.walk import Ended, Item, Request, Walk, answer
from headway.serve.watch import Watch
from headway.serve.wire import Input, Payload, Result
from headway.sim.outcome import number

log = logging.getLogger(__name__)

DECISIONS_KEPT = 1 << 16


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server takes on.

    `queue_limit` (items, 0: none) holds per stage; requests without a timeout get `timeout_s`. With `keep_promise`
    requests are refused that would be answered later than promised.
    """

    queue_limit: int = 1024
    timeout_s: float = 30.0
    keep_promise: bool = True


class Answer(msgspec.Struct, frozen=True):
    """How a request ended: `status` is `answered`, `dropped` or `failed`; `results` are its last items, in order."""

    status: str
    results: tuple[tuple[str, Payload], ...] = ()
    error: str = ""


class Engine:
    """A plan, live. `stations` are made from the plan unless given; `seed` decides the drawn edges.

    All methods belong to one event loop. `decisions` is filled when `record_decisions` is set, and bounded.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        stations: Mapping[str, LiveStation] | None = None,
        clock: Callable[[], float] = time.monotonic,
        seed: int = 0,
        limits: Limits | None = None,
        record_decisions: bool = False,
    ) -> None:
        self.clock = clock
        self.limits = limits or Limits()
        self.graph = plan.spec.graph
        self.stations: dict[str, LiveStation] = dict(
            stations if stations is not None else {name: live_station(plan, name) for name in self.graph.order}
        )
        self._usd_per_hour: dict[str, float] = {}
        self.set_plan(plan)
        self.counts = Counts()
        self.latency = Histogram(LATENCY_BUCKETS_S)
        self.records = {name: StageRecord() for name in self.graph.order}
        self.arrivals = Ring(RING_ENTRIES, 1)
        self.ended = Ring(RING_ENTRIES, 2)
        self.swaps = Swaps(self, live_station)
        self.decisions: deque[Decision] | None = deque(maxlen=DECISIONS_KEPT) if record_decisions else None
        self.state = "new"
        self.tuner: Callable[[], Mapping[str, Any]] | None = None
        self.started_s = clock()
        self._pools = {name: CorePool(pool.cores) for name, pool in plan.spec.pools.items()}
        self._walk = Walk(self.graph, self._submit, seed)
        order = [self.stations[name] for name in self.graph.order]
        self._asked = [order[stage_at(rank, len(order))] for rank in range(len(order))]
        self._number = 0
        self._open: set[Request] = set()
        self._joining: list[Item] = []
        self._loop: asyncio.AbstractEventLoop
        self._pumping = False
        self._paused_until_s = -math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = NEVER_S
        self._empty = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    # What stations use (StationHost)

    def pool(self, name: str) -> CorePool:
        """Return the named pool of cores. Raises ServeError when the spec has none of that name."""
        if name not in self._pools:
            raise ServeError(f"pool {name!r} is not declared{nearest(name, self._pools)}; declare it under pools:")
        return self._pools[name]

    def wake(self) -> None:
        """Ask all stations what they start, once everything that happens at this instant has been delivered."""
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def finished(self, work: Work, result: Result, done_s: float) -> None:
        """Take an item's result and start what follows from it."""
        if not isinstance(work, Item):
            raise TypeError("a station returned an item that it was not given")
        self.records[work.stage].add(work.request.number, work.arrival_s, work.start_s, done_s, work.batch_size)
        request = work.request
        if request.over:
            return
        if result.error is not None:
            self._end(request, "failed", f"stage {work.stage!r}: {result.error.type}: {result.error.message}")
            return
        try:
            self._walk.follow(work, result)
        except ServeError as error:
            self._end(request, "failed", str(error))
            return
        if request.open == 0:
            self._complete(request)

    def dropped(self, work: Work) -> None:
        """Give up a request whose item's deadline passed before it was started."""
        if isinstance(work, Item) and not work.request.over:
            self._end(work.request, "dropped", f"the deadline passed while the request waited at stage {work.stage!r}")

    @property
    def recording(self) -> bool:
        """Whether decisions are recorded."""
        return self.decisions is not None

    def decided(self, decision: Decision) -> None:
        """Keep a decision, when decisions are recorded."""
        if self.decisions is not None:
            self.decisions.append(decision)

    # Life

    async def start(self) -> None:
        """Start all stations. Raises ServeError when one cannot be started; what was started is then stopped."""
        self._loop = asyncio.get_running_loop()
        self.state = "starting"
        started = await asyncio.gather(*(s.start(self) for s in self.stations.values()), return_exceptions=True)
        problem = next((p for p in started if isinstance(p, BaseException)), None)
        if problem is not None:
            await self.stop(0.0)
            raise problem
        self.state = "ready"

    async def drain(self, grace_s: float = 30.0) -> None:
        """Let nothing in any more and wait until everything that was let in is answered, at most `grace_s`."""
        self.state = "draining"
        if self.counts.in_flight:
            self._empty.clear()
            try:
                await asyncio.wait_for(self._empty.wait(), grace_s)
            except TimeoutError:
                log.warning("%d requests were still in flight after %g s", self.counts.in_flight, grace_s)

    async def stop(self, grace_s: float = 5.0) -> None:
        """Stop all stations. Requests still in flight fail: drain first."""
        self.state = "stopped"
        for request in tuple(self._open):
            self._end(request, "failed", "the server was stopped before the request was finished")
        if self._timer is not None:
            self._timer.cancel()
        await self.swaps.stop()
        await asyncio.gather(*(station.stop(grace_s) for station in self.stations.values()))

    @property
    def ready(self) -> bool:
        """Whether requests are let in."""
        return self.state == "ready" and all(station.live for station in self._asked)

    def set_replicas(self, stage: str, count: int) -> None:
        """Change a stage's number of replicas without losing a request. Raises ServeError."""
        if stage not in self.stations:
            known = ", ".join(self.stations)
            raise ServeError(f"stage {stage!r} is not in the plan{nearest(stage, self.stations)}; valid: {known}")
        self.stations[stage].set_replicas(count)

    async def swap(self, plan: Plan, watch: Watch | None = None, **how: Any) -> dict[str, Any]:
        """Make another plan the live one without losing a request, as `Swaps.swap` says. Raises SwapRefused."""
        return await self.swaps.swap(plan, watch, **how)

    def pause(self, seconds: float) -> None:
        """Begin no batch for so long; what is being worked on is finished, and what comes waits."""
        self._paused_until_s = max(self._paused_until_s, self.clock() + seconds)

    @property
    def paused(self) -> bool:
        """Whether no batch may begin."""
        return self.clock() < self._paused_until_s

    def set_plan(self, plan: Plan) -> None:
        """Take note of the plan that the stations run."""
        self.plan = plan
        self.plan_hash = plan.hash
        # Hardware that a plan has given up has been paid for nevertheless.
        self._usd_per_hour |= {name: hardware.price_usd_per_hour for name, hardware in plan.spec.supply.items()}
        self._gate = Gate(plan, self.stations, keep_promise=self.limits.keep_promise)

    def cost_usd(self, stage: str, state: StationStats) -> float:
        """Return what a stage's capacity has cost so far, by the price of the hardware that it was held on."""
        held_s = state.held_by_hardware_s
        if held_s and held_s.keys() <= self._usd_per_hour.keys():
            return sum(self._usd_per_hour[name] * seconds for name, seconds in held_s.items()) / 3600.0
        replicas = float(self.plan.stages[stage].to_dict().get("replicas", 1))
        return self.plan.stage_cost_usd_per_hour(stage) / replicas * state.held_s / 3600.0

    def overdue(self, since_s: float, slo_s: float) -> int:
        """Return how many requests came after `since_s`, have no answer, and are late already."""
        late_s = self.clock() - slo_s
        return sum(since_s < request.arrival_s < late_s for request in self._open)

    # Requests

    def submit(self, payload: Input, on_end: Callable[[Answer], None], timeout_s: float | None = None) -> Request:
        """Let a request in; `on_end` is called once with its answer. Raises Rejected, having counted the request."""
        now_s = self.clock()
        timeout_s = self.limits.timeout_s if timeout_s is None else timeout_s
        self.counts.offered += 1
        self.arrivals.add(now_s)
        try:
            self._admit(now_s, timeout_s)
        except Rejected:
            self.counts.by_status["rejected"] += 1
            self.ended.add(now_s, math.inf)
            if self.state == "ready":
                self._gate.refused()
            raise
        self._number += 1
        request = Request(self._number, on_end, now_s, now_s + timeout_s)
        self._open.add(request)
        # Waiting for what else the event loop has ready would batch requests that came a millisecond apart.
        self._pumping = True
        try:
            self._walk.enter(request, payload)
        finally:
            self._pump()
        return request

    def abandon(self, request: Request) -> None:
        """Give up a request for whose answer nobody waits any more: what has not been started is not done."""
        self._end(request, "dropped", "the client went away")

    async def infer(self, payload: Input, timeout_s: float | None = None) -> Answer:
        """Let a request in and return its answer. Raises Rejected."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.submit(payload, lambda found: None if future.done() else future.set_result(found), timeout_s)
        return await future

    def stats(self, since_s: float = -math.inf, samples: bool = False, timings: bool = True) -> dict[str, Any]:
        """Return the summary behind `GET /stats`; timings are of items that arrived from `since_s` (our clock) on."""
        now_s = self.clock()
        stages: dict[str, Any] = {}
        for name, station in self.stations.items():
            state = station.stats(now_s)
            stages[name] = {
                "queued": state.queued,
                "running": state.running,
                "replicas": dict(state.replicas),
                "pids": list(state.pids),
                "batches": state.batches,
                "busy_s": state.busy_s,
                "held_s": state.held_s,
                "cost_usd": self.cost_usd(name, state),
                "utilization": number(state.busy_s / state.held_s) if state.held_s else 0.0,
                "restarts": state.restarts,
                "retries": state.retries,
                "items": self.records[name].items,
                **(self.records[name].summary(since_s, samples) if timings else {}),
                **state.about,
                **({name: list(each) for name, each in state.samples.items()} if samples else {}),
            }
        return {
            "name": self.plan.spec.name,
            "plan_hash": self.plan_hash,
            "swap": self.swaps.to_dict(),
            "tuner": None if self.tuner is None else self.tuner(),
            "state": self.state,
            "ready": self.ready,
            "refuses_late": self.limits.keep_promise,
            "now_s": now_s,
            "uptime_s": now_s - self.started_s,
            "requests": self.counts.to_dict(),
            "stages": stages,
        }

    def _admit(self, now_s: float, timeout_s: float) -> None:
        if self.state != "ready":
            raise Rejected(503, f"the server is {self.state}; try again later")
        limit = self.limits.queue_limit
        for name, station in self.stations.items():
            if not station.live:
                raise Rejected(503, f"stage {name!r} has no live replica; try again later")
            # All stages are looked at here, so that what is let in is not refused half-way with work already done.
            if full(station.queued, limit):
                raise Rejected(429, f"the queue of stage {name!r} is full ({limit} items); try again later")
        if not self._gate.in_time(now_s, timeout_s):
            within_s = min(self._gate.promise_s, timeout_s)
            raise Rejected(429, f"there is too much to do to answer within {within_s:g} s; try again later")

    def _submit(self, item: Item) -> None:
        if item.stage in self.graph.joins:
            self._joining.append(item)
            self.wake()
        else:
            self.stations[item.stage].submit(item)

    def _deliver_joins(self) -> None:
        """Queue the joins that became ready at this instant in the order of their items, as the simulator does."""
        if not self._joining:
            return
        ready, self._joining = self._joining, []
        for item in sorted(ready, key=lambda item: (item.request.number, item.key)):
            if not item.request.over:
                self.stations[item.stage].submit(item)

    def _pump(self) -> None:
        self._pumping = False
        if self.state == "stopped":
            return
        self._deliver_joins()
        now_s = self.clock()
        paused = now_s < self._paused_until_s
        wake_at_s = self._paused_until_s if paused else NEVER_S
        for station in () if paused else self._asked:
            wake_at_s = min(wake_at_s, station.ask(now_s))
        if wake_at_s < self._timer_at_s:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at_s = wake_at_s
            self._timer = self._loop.call_later(max(0.0, wake_at_s - now_s), self._alarm)

    def _alarm(self) -> None:
        self._timer, self._timer_at_s = None, NEVER_S
        self.wake()

    def _complete(self, request: Request) -> None:
        ended = answer(request, self.graph)
        if all(e.result.value is None or e.result.value.codec != "object" for e in ended):
            self._end(request, "answered", "", ended)
            return
        task = self._loop.create_task(self._render(request, ended))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _render(self, request: Request, ended: list[Ended]) -> None:
        """Some last items ended where more could have followed: their values are converted by a worker."""
        try:
            rendered = [await self.stations[e.stage].render(e.item, e.result) for e in ended]
        except ServeError as error:
            self._end(request, "failed", str(error))
            return
        for e, result in zip(ended, rendered, strict=True):
            if result.error is not None:
                self._end(request, "failed", f"stage {e.stage!r}: {result.error.type}: {result.error.message}")
                return
        self._end(
            request, "answered", "",
            [Ended(e.stage, e.key, e.item, result) for e, result in zip(ended, rendered, strict=True)],
        )  # fmt: skip

    def _end(self, request: Request, status: str, error: str, ended: list[Ended] | None = None) -> None:
        if request.over:
            return
        request.over = True
        self._open.discard(request)
        latency_s = self.clock() - request.arrival_s
        self.counts.by_status[status] += 1
        self.ended.add(request.arrival_s, latency_s if status == "answered" else math.inf)
        if status == "answered":
            self.latency.observe(latency_s)
            self.counts.late += latency_s > self.plan.spec.slo.latency_s
        results = tuple((e.stage, e.result.value) for e in ended or () if e.result.value is not None)
        request.joins = None
        request.ended = []
        request.on_end(Answer(status, results, error))
        if not self._open:
            self._empty.set()
