"""Changing the plan that a server runs, while it runs.

What the new plan needs is started beside what serves. When everything is ready, all stages change over between two
awaits: at no moment is half of a plan live, the queues keep their items and their order, and what is being worked on is
finished. When something cannot be started nothing has happened. Replicas that are not needed any more are kept until
the change has been watched for a while, so that taking it back is immediate and cannot fail.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headway.errors import HeadwayError, ServeError
from headway.plan.config import StageContext
from headway.plan.difference import diff
from headway.plan.plan import Plan
from headway.serve import becoming
from headway.serve.station import Changeable, LiveStation
from headway.serve.watch import Seen, Watch, worse
from headway.sim.promise import admission_terms
from headway.spec.kinds import load_domain

if TYPE_CHECKING:
    from headway.serve.engine import Engine

log = logging.getLogger(__name__)

LOOKS_PER_WINDOW = 20
IDLE, STARTING, WATCHING = "idle", "starting", "watching"
KEPT, FAILED, ROLLED_BACK = "kept", "failed", "rolled_back"

MakeStation = Callable[[Plan, str], LiveStation]


def live_station(plan: Plan, name: str) -> LiveStation:
    """Return the station of a plan's stage, made by the domain that its kind stands for."""
    stage = plan.spec.stages[name]
    context = StageContext(name, stage, plan.spec, plan.profile)
    station: LiveStation = load_domain(stage.kind).live(context, plan.stages[name])
    return station


class SwapRefused(ServeError):
    """A plan was not made the live one, and nothing has changed. `status` is the HTTP status to answer with."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(slots=True)
class Change:
    """One change of plan, from being taken on to its end, by the `id` that no other change of this server has.

    Times are of the server's clock.
    """

    id: int
    old: Plan
    new: Plan
    watch: Watch
    stages: Mapping[str, Changeable]
    begun_s: float
    restarts: int
    difference: Mapping[str, Any]
    state: str = STARTING
    why: str = ""
    committed_s: float | None = None
    ended_s: float | None = None
    refusal: SwapRefused | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the new plan is live, or is known not to become so."""
    task: asyncio.Task[None] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "id": self.id,
            "state": self.state,
            "why": self.why,
            "from": self.difference["from"]["plan_hash"],
            "to": self.difference["to"]["plan_hash"],
            "changes": self.difference["changes"],
            "cost_usd_per_hour": self.difference["cost_usd_per_hour"],
            "watch_s": self.watch.window_s,
            "begun_s": self.begun_s,
            "committed_s": self.committed_s,
            "ended_s": self.ended_s,
        }


def _at_once(id: int, old: Plan, new: Plan, watch: Watch, difference: Mapping[str, Any], now_s: float) -> Change:
    """A change that touches no stage: over at once, with nothing to watch."""
    change = Change(id, old, new, watch, {}, now_s, 0, difference, KEPT, committed_s=now_s, ended_s=now_s)
    change.settled.set()
    return change


class Swaps:
    """The changes of an engine's plan, one at a time. `make` makes the station of a plan's stage, not yet started."""

    def __init__(self, engine: Engine, make: MakeStation) -> None:
        self.make = make
        self.results: dict[str, int] = dict.fromkeys((KEPT, FAILED, ROLLED_BACK), 0)
        self._engine = engine
        self._now: Change | None = None
        self._last: Change | None = None
        self._ids = itertools.count(1)

    async def swap(
        self,
        plan: Plan,
        watch: Watch | None = None,
        *,
        supersede: bool = False,
        wait: bool = True,
        pause_s: float = 0.0,
    ) -> dict[str, Any]:
        """Make another plan the live one; return what changed, once it is live.

        It is then watched; `to_dict` tells what came of it. Without `wait` the answer comes when the plan has been
        found fit. With `supersede` a change that is only being watched, or that only changes numbers of replicas, gives
        way: it counts as kept. For `pause_s` from now on no batch begins. Raises SwapRefused: 409 while another change
        is under way, 422 when the plan does not fit or something cannot be started, 503 when the server is not ready.
        """
        change = self._begin(plan, watch or Watch(), supersede)
        if pause_s > 0.0:
            self._engine.pause(pause_s)
        if wait:
            await change.settled.wait()
            if change.refusal is not None:
                raise change.refusal
        return change.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """Return the state (`idle`, `starting`, `watching`), the change under way and the last one that ended."""
        return {
            "state": IDLE if self._now is None else self._now.state,
            "now": None if self._now is None else self._now.to_dict(),
            "last": None if self._last is None else self._last.to_dict(),
        }

    async def stop(self) -> None:
        """Stop what is under way; a plan that is live stays so."""
        if self._now is not None and self._now.task is not None:
            self._now.task.cancel()
            await asyncio.gather(self._now.task, return_exceptions=True)

    def _begin(self, plan: Plan, watch: Watch, supersede: bool) -> Change:
        engine = self._engine
        if engine.state != "ready":
            raise SwapRefused(503, f"the server is {engine.state}; its plan cannot be changed")
        self._check_free(supersede)
        # What gives way is kept, so that it is what is changed, even where it is not live yet.
        old = engine.plan if self._now is None else self._now.new
        try:
            becoming.check(old, plan)
            made = {name: self.make(plan, name) for name in becoming.changed(old, plan)}
            difference = diff(old, plan)
            admission_terms(plan)
        except HeadwayError as error:
            raise SwapRefused(422, str(error)) from None
        if not made and self._now is None:
            # The promise, prices or predictions: what is judged by them is judged by the other ones from here on.
            engine.set_plan(plan)
            change = _at_once(next(self._ids), old, plan, watch, difference, engine.clock())
            if plan.hash != old.hash:
                self.results[KEPT] += 1
                self._last = change
            return change
        stages: dict[str, Changeable] = {}
        for name in made:
            station = engine.stations[name]
            if not isinstance(station, Changeable):
                raise SwapRefused(422, f"stage {name!r}: what runs it cannot be changed while it runs")
            stages[name] = station
        if self._now is not None:
            self._give_way(self._now)
        change = Change(next(self._ids), old, plan, watch, stages, engine.clock(), 0, difference)
        change.restarts = self._restarts(change)
        try:
            for name, changeable in stages.items():
                changeable.prepare(made[name])
        except ServeError as error:
            self._dismiss(change)
            raise SwapRefused(422, str(error)) from None
        self._now = change
        change.task = asyncio.get_running_loop().create_task(self._run(change))
        return change

    def _check_free(self, supersede: bool) -> None:
        now = self._now
        if now is None:
            return
        light = now.state == WATCHING or becoming.fields_changed(now.old, now.new) <= {"replicas"}
        if not supersede or not light:
            hint = "" if not light else ", or supersede it"
            raise SwapRefused(
                409, f"a change to plan {now.difference['to']['plan_hash']} is {now.state}; wait for its end{hint}"
            )

    def _give_way(self, now: Change) -> None:
        """Keep a change without waiting for its end: what it still starts goes on starting under its plan."""
        if now.task is not None:
            now.task.cancel()
        if now.committed_s is None:
            self._commit(now)
        self._end(now, KEPT, "another change followed")

    async def _run(self, change: Change) -> None:
        try:
            try:
                await asyncio.gather(*(station.prepared() for station in change.stages.values()))
            except ServeError as error:
                change.refusal = SwapRefused(422, f"nothing was changed: {error}")
                self._end(change, FAILED, str(error))
                return
            self._commit(change)
            why = await self._watched(change)
            if why is not None:
                self._switch(change, change.old)
                log.warning("the change to plan %s was taken back: %s", change.new.hash, why)
            self._end(change, KEPT if why is None else ROLLED_BACK, why or "")
        except asyncio.CancelledError:
            # Superseded changes have ended already; else the server stops.
            if change.ended_s is None:
                if change.committed_s is None:
                    change.refusal = SwapRefused(503, "nothing was changed: the server was stopped")
                self._end(change, FAILED if change.committed_s is None else KEPT, "the server was stopped")

    def _commit(self, change: Change) -> None:
        self._switch(change, change.new)
        change.committed_s = self._engine.clock()
        change.state = WATCHING
        change.settled.set()

    def _switch(self, change: Change, plan: Plan) -> None:
        """All stages and the plan, without an await in between."""
        self._engine.set_plan(plan)
        for station in change.stages.values():
            station.switch()

    def _end(self, change: Change, state: str, why: str) -> None:
        self._dismiss(change)
        change.state, change.why, change.ended_s = state, why, self._engine.clock()
        self.results[state] += 1
        self._now, self._last = None, change
        change.settled.set()

    def _dismiss(self, change: Change) -> None:
        for station in change.stages.values():
            station.dismiss()

    async def _watched(self, change: Change) -> str | None:
        """Watch for the window's length; return why the change must be taken back, or None."""
        step_s = change.watch.window_s / LOOKS_PER_WINDOW
        for _ in range(LOOKS_PER_WINDOW if step_s > 0 else 0):
            await asyncio.sleep(step_s)
            why = self._unhealthy(change) or self._slower(change)
            if why is not None:
                return why
        return None

    def _unhealthy(self, change: Change) -> str | None:
        for name in change.stages:
            if not self._engine.stations[name].live:
                return f"stage {name!r} was left without a live replica"
        died = self._restarts(change) - change.restarts
        if died > change.watch.max_restarts:
            return f"{died} workers of the stages that changed died"
        return None

    def _slower(self, change: Change) -> str | None:
        engine, window_s = self._engine, change.watch.window_s
        since_s, now_s = change.committed_s or change.begun_s, engine.clock()
        if becoming.adds_only(change.old, change.new):
            return None
        arrivals, ended = engine.arrivals.rows()[:, 0], engine.ended.rows()
        slo_s = change.new.spec.slo.latency_s
        first_s = max(change.begun_s - window_s, engine.started_s)
        before = Seen.of((first_s, change.begun_s), arrivals, ended, slo_s)
        after = Seen.of((since_s, now_s), arrivals, ended, slo_s, engine.overdue(since_s, slo_s))
        return worse(before, after, change.watch)

    def _restarts(self, change: Change) -> int:
        now_s = self._engine.clock()
        return sum(self._engine.stations[name].stats(now_s).restarts for name in change.stages)
