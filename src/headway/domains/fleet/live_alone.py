"""A fleet that is served alone shows itself to operators as the server of pipelines does: `/stats`, and `/plan`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from starlette.applications import Starlette

from headway.domains.fleet.live_station import FleetLive
from headway.gateway.server import GatewayServer
from headway.plan.plan import Plan
from headway.serve.app import App
from headway.serve.control import routes
from headway.serve.engine import Engine, Limits

if TYPE_CHECKING:
    from headway.gateway.gateway import Gateway


class Alone(Engine):
    """The engine of a plan whose only stage is a fleet: requests go through its gateway, which counts them."""

    def __init__(self, plan: Plan, station: FleetLive, gateway: Gateway) -> None:
        self._gateway = gateway
        limits = Limits(gateway.options.queue_limit, gateway.options.timeout_s, keep_promise=False)
        super().__init__(plan, stations={station.name: station}, clock=gateway.clock, limits=limits)
        self.counts = gateway.counts
        self.arrivals, self.ended = gateway.stats.keep()
        self._state = "ready"

    @property
    def state(self) -> str:
        """As an engine's; the gateway knows when it lets nothing in any more."""
        return "draining" if self._gateway.draining and self._state == "ready" else self._state

    @state.setter
    def state(self, state: str) -> None:
        self._state = state

    def set_plan(self, plan: Plan) -> None:
        """Take note of the plan that the gateway goes by, and of what it promises."""
        super().set_plan(plan)
        self._gateway.stats.promise_s = plan.spec.slo.latency_s

    def overdue(self, since_s: float, slo_s: float) -> int:
        """Return how many requests came after `since_s`, have no answer, and are late already."""
        late_s = self.clock() - slo_s
        return sum(since_s < relay.arrival_s < late_s for relay in self._gateway.active.values())


@contextlib.asynccontextmanager
async def changeable(plan: Plan, station: FleetLive, server: GatewayServer) -> AsyncIterator[Alone]:
    """Let a gateway that is about to serve a plan tell of it and take on others, for as long as the block lasts."""
    station.stand_before(server.gateway)
    engine = Alone(plan, station, server.gateway)
    app = App(engine, limits=server.options.http)
    pages = Starlette(routes=routes(app))
    server.pages.update({b"/plan": pages, b"/stats": pages})
    try:
        yield engine
    finally:
        engine.state = "stopped"
        with contextlib.suppress(asyncio.CancelledError):
            await engine.swaps.stop()
