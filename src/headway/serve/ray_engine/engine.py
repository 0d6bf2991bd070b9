"""A plan's stations with their replicas on Ray Serve, and the loop that keeps the two in step."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from headway.errors import ServeError
from headway.plan.config import StageContext
from headway.plan.contract import StartsWorkers
from headway.plan.plan import Plan
from headway.serve.model_ref import HardwareView, ModelRef
from headway.serve.ray_engine.runtime import Order, Seen
from headway.serve.ray_engine.stage import RayStage, Recipe
from headway.serve.replica import StartWorker
from headway.serve.station import LiveStation
from headway.spec.kinds import load_domain

log = logging.getLogger(__name__)


UNSETTLED_LOOK_S = 0.1
SETTLED_LOOK_S = 1.0


class RuntimeLike(Protocol):
    """What the engine needs of Ray; see `headway.serve.ray_engine.runtime.Runtime`."""

    async def begin(self) -> None: ...
    async def deploy(self, orders: Sequence[Order]) -> list[Any]: ...
    async def scale(self, order: Order, replicas: int) -> None: ...
    async def delete(self, order: Order) -> None: ...
    async def look(self) -> Mapping[str, Seen]: ...
    async def end(self) -> None: ...


class RayEngine:
    """Makes stations whose replicas are Ray's; Ray is started when the first one is. `stop` ends it."""

    def __init__(self, runtime: RuntimeLike, cpus_per_thread: float) -> None:
        self._cpus = cpus_per_thread
        self._runtime = runtime
        self._stages: list[RayStage] = []
        self._news = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    def station(self, plan: Plan, name: str) -> LiveStation:
        """Return the station of a plan's stage. Raises ServeError for a kind that starts no workers."""
        stage = plan.spec.stages[name]
        domain = load_domain(stage.kind)
        if not isinstance(domain, StartsWorkers):
            raise ServeError(
                f"stages.{name}: kind {stage.kind!r} cannot be run on Ray; serve the plan with --engine embedded"
            )
        context = StageContext(name, stage, plan.spec, plan.profile)
        return domain.live_with(context, plan.stages[name], self._starter)

    async def stop(self) -> None:
        """End what was started."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._runtime.end()

    def _starter(
        self,
        ref: ModelRef,
        hardware: HardwareView,
        *,
        name: str,
        options: Mapping[str, Any] | None = None,
        children: Sequence[str] = (),
        cores: tuple[int, ...] | None = None,
        timeout_s: float = 120.0,
    ) -> StartWorker:
        recipe = Recipe(ref, hardware, name, dict(options or {}), tuple(children), cores, timeout_s)
        return RayStage(recipe, self._cpus, self._begin)

    async def _begin(self, stage: RayStage) -> Callable[[], None]:
        await self._runtime.begin()
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        if not any(stage is known for known in self._stages):
            self._stages.append(stage)
        return self._news.set

    async def _watch(self) -> None:
        told = ""
        while True:
            self._news.clear()
            try:
                await self._adjust()
                seen = await self._runtime.look()
                for stage in self._stages:
                    if stage.order is not None and stage.order.app in seen:
                        stage.see(seen[stage.order.app])
                told = ""
            except Exception as error:
                # Whatever Ray's trouble is, it may pass; batches that fail meanwhile are tried again.
                if told != str(error):
                    told = str(error)
                    log.warning("Ray does not answer as it should: %s", error)
            unsettled = any(stage.unsettled for stage in self._stages)
            # Not at once though there are news: what comes together is done together, and Ray's controller has time.
            await asyncio.sleep(UNSETTLED_LOOK_S)
            if not unsettled:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), SETTLED_LOOK_S)

    async def _adjust(self) -> None:
        """Make, scale and delete deployments, so that there are the replicas that stages want."""
        now_s = asyncio.get_running_loop().time()
        due = [(stage, count) for stage in self._stages if (count := stage.due(now_s)) is not None]
        new = [(stage, stage.ordered(count), count) for stage, count in due if stage.order is None]
        if new:
            handles = await self._runtime.deploy([order for _, order, _ in new])
            for (stage, made, count), handle in zip(new, handles, strict=True):
                stage.asked(count, made, handle)
        for stage, count in due:
            order = stage.order
            if order is None or any(stage is fresh for fresh, _, _ in new):
                continue
            if count:
                await self._runtime.scale(order, count)
                stage.asked(count, order, stage.handle)
            else:
                await self._runtime.delete(order)
                stage.asked(0, None, None)
        self._stages = [stage for stage in self._stages if stage.order is not None or stage.wanted]
