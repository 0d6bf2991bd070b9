"""The live station of a cascade: a queue per model, devices that hold several models, and a gear for the load."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from headway.domains.cascade.admit import Work as Asked
from headway.domains.cascade.gears import GearPlan
from headway.domains.cascade.live_answers import Rehearsal
from headway.domains.cascade.live_check import Checks
from headway.domains.cascade.live_devices import Layout
from headway.domains.cascade.live_drift import Drift
from headway.domains.cascade.live_flow import Ask, Flow
from headway.domains.cascade.live_route import Router
from headway.errors import ServeError
from headway.serve.station import LiveStation, StationHost, StationLoad, StationStats, Work
from headway.serve.wire import Input, Result, Told

if TYPE_CHECKING:
    from prometheus_client.core import Metric


class CascadeLive(Flow):
    """Serves a gear plan with the workers of its `layout`; models have the numbers of their places in `models`.

    With a `rehearsal` the workers only take time, and what models say comes from its table. `drift` watches what they
    say, `checks` chooses the answers that the dearest model is asked about again. `hardness` says how hard an input is
    at once, a `router` by asking a worker. `asked` is what an item asks of the devices; without it nobody knows who
    would come too late.
    """

    def __init__(
        self,
        name: str,
        plan: GearPlan,
        models: Sequence[str],
        layout: Layout,
        drift: Drift,
        *,
        checks: Checks | None = None,
        rehearsal: Rehearsal | None = None,
        hardness: Callable[[Input], float] | None = None,
        router: Router[Ask] | None = None,
        asked: Asked | None = None,
    ) -> None:
        super().__init__(name, plan, models, layout, drift, checks, rehearsal, hardness, asked)
        self._layout, self._asked, self._router = layout, asked, router
        self._held: tuple[GearPlan, Drift, Asked | None] | None = None

    @property
    def queued(self) -> int:
        """Items that wait, at any model."""
        return self._waiting + (0 if self._router is None else len(self._router))

    @property
    def live(self) -> bool:
        """Whether a model that the gear in force asks works, or is started for the first time since it last did."""
        alive = self._devices.alive
        return any(alive[model] for model in self.gears.row.steps)

    def load(self) -> StationLoad:
        """Return what there is to do, in items that have just come, and how many devices are at work."""
        return self._ahead.told(self._queues, self._devices.at_work)

    async def start(self, host: StationHost) -> None:
        """Start all workers. Raises ServeError when one cannot be started."""
        self._host = host
        await self._devices.start(host)
        if self._router is not None:
            try:
                await self._router.start(host, self._enter, self._spawn)
            except BaseException:
                await self.stop(0.0)
                raise

    def submit(self, work: Work) -> None:
        """Put an item into the queue of the model at which the gear in force has such items begin."""
        work.arrival_s = self._host.clock()
        self._count(work.arrival_s, 1.0)
        ask = Ask(work, -1 if self._rehearsal is None else self._rehearsal.sample())
        if self._router is None:
            self._enter(ask, self._hard(ask))
        else:
            self._router.put(ask)
        self._host.wake()

    def refused(self, items: float) -> None:
        """Count what was not let in as having come: gears are for what is offered."""
        before = self.gears.key
        self._count(self._host.clock(), items)
        if self.gears.key != before:
            self._host.wake()

    def ask(self, now_s: float) -> float:
        """Start every batch that the policies want started now, later steps first; return when to ask again."""
        if self._router is not None:
            self._router.ask()
        return super().ask(now_s)

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
            f"stage {self.name!r}: its gears are made for a fixed number of devices ({self.plan.devices}); for {count} "
            "send a plan that has gears for as many (PUT /plan)"
        )

    def prepare(self, other: LiveStation) -> None:
        """Start what another station, which was never started, has of other devices. Raises ServeError."""
        if not isinstance(other, CascadeLive) or other.models != self.models:
            raise ServeError(f"stage {self.name!r}: a cascade cannot become another kind of station")
        same = other.plan.table == self.plan.table
        if self.rehearsed and not same:
            raise ServeError(f"stage {self.name!r}: a rehearsal keeps its validation table; serve the plan anew")
        self._devices.prepare(other._layout)
        self._held = other.plan, self.drift if same else other.drift, other._asked

    async def prepared(self) -> None:
        """Wait until all that was prepared can work. Raises ServeError when a worker cannot be started."""
        await self._devices.prepared()

    def switch(self) -> None:
        """Exchange the plan that is served for the one that is held back, as it stands or with its own devices.

        What is being worked on is finished, and is judged by the new gears; what waits keeps its place.
        """
        if self._held is None:
            raise ServeError(f"stage {self.name!r}: nothing was prepared")
        now_s = self._host.clock()
        held, self._held = self._held, (self.plan, self.drift, self._asked)
        self._devices.switch()
        self._obey(held[0], held[1])
        self._asked = held[2]
        self._ahead.change(self._asked)
        self.gears.change(self.plan, self._devices.lost, now_s, self._waiting)
        self._rehouse(now_s)
        self._host.wake()

    def dismiss(self) -> None:
        """Let the devices that are held back leave, when they are done."""
        self._held = None
        self._devices.dismiss()

    def stats(self, now_s: float) -> StationStats:
        """Return the state and counters."""
        from headway.domains.cascade.live_metrics import about

        held_s = self._devices.held_s(now_s)
        return StationStats(
            queued=self.queued,
            running=self._running,
            replicas=self._devices.states(),
            batches=self._batches,
            busy_s=self._busy_s,
            held_s=sum(held_s.values()),
            held_by_hardware_s=held_s,
            restarts=self._devices.restarts,
            retries=self._retries,
            pids=self._devices.pids if self._router is None else (*self._devices.pids, *self._router.pids),
            about=about(self, now_s),
            samples={"gear_changes": self.gears.switches},
        )

    def metrics(self, labels: Mapping[str, str], now_s: float) -> list[Metric]:
        """Return what Prometheus is told beside what every station tells."""
        from headway.domains.cascade.live_metrics import families

        return families(self, labels, now_s)

    @property
    def rehearsed(self) -> bool:
        """Whether its models only sleep, so that it is known how accurate the answers are."""
        return self._rehearsal is not None

    def _count(self, now_s: float, items: float) -> None:
        self.gears.advance(now_s, self._waiting)
        self.gears.arrived(now_s, items)
        self.drift.came(now_s, self.gears.carried_per_s, items)

    async def stop(self, grace_s: float = 5.0) -> None:
        """Stop all workers; what still waits is not finished."""
        await self._devices.stop(grace_s)
        if self._router is not None:
            await self._router.stop(grace_s)
        while self._tasks or self._flights:
            await asyncio.gather(*self._tasks, *self._flights, return_exceptions=True)
