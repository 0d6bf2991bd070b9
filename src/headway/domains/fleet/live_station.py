"""The live station of a fleet: items go through a gateway of its own to engines that are there."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from functools import partial
from typing import Final

from headway.domains.fleet.live_fleet import Fleet
from headway.errors import ServeError
from headway.gateway import GatewayOptions
from headway.gateway.gateway import SWEEP_S, Gateway
from headway.gateway.inside import Call, Inside, Reply
from headway.gateway.lineup import Change
from headway.gateway.server import attended
from headway.policy.admission import expired
from headway.serve.infer import MAX_TIMEOUT_S
from headway.serve.landing import NOTICED_PACE
from headway.serve.station import NEVER_S, LiveStation, StationHost, StationLoad, StationStats, Work
from headway.serve.wire import Failure, Input, Payload, Result, Told

_READABLE: Final = ("raw", "text", "json")
_NO_LIMIT: Final = 1 << 30
"""Of the gateway's own queue: the server has looked at what waits here before it let a request in."""
_SHOWN: Final = 500
"""Characters of an upstream's error that are passed on."""


class FleetLive:
    """Sends every item to one of the upstreams: queue, choice, retries and limits are the gateway's.

    An item is the body of a request of the OpenAI protocol, its result the body of the answer.
    """

    def __init__(self, name: str, fleet: Fleet) -> None:
        self.name = name
        self.fleet = fleet
        self._new: deque[Work] = deque()
        self._calls: dict[Work, Call] = {}
        self._held_s = self._held_at_s = 0.0
        self._beside = contextlib.AsyncExitStack()
        self._sweeping: asyncio.Task[None] | None = None
        self._host: StationHost
        self._gateway: Gateway | None = None
        self._other: Fleet | None = None

    @property
    def gateway(self) -> Gateway:
        """The gateway, once it is started."""
        assert self._gateway is not None
        return self._gateway

    @property
    def queued(self) -> int:
        """Items that wait."""
        return len(self._new) + (0 if self._gateway is None else self._gateway.queue.size)

    @property
    def live(self) -> bool:
        """Whether an upstream is up; each is taken to be so until it is known not to be."""
        return self._gateway is None or any(replica.up for replica in self._gateway.replicas)

    async def start(self, host: StationHost) -> None:
        """Begin to look after the upstreams. Raises ServeError for a policy or an upstream that cannot be."""
        self._host = host
        options = GatewayOptions(**self.fleet.rules, queue_limit=_NO_LIMIT, timeout_s=MAX_TIMEOUT_S)
        self.stand_before(Gateway(self.fleet.upstreams, options, host.clock))
        self._inside = Inside(self.gateway)
        await self._beside.enter_async_context(attended(self.gateway))
        self._sweeping = asyncio.get_running_loop().create_task(self._sweep())

    def stand_before(self, gateway: Gateway) -> None:
        """Take a gateway for this fleet's own, which serves as many upstreams from now on as the fleet uses."""
        self._gateway, self._change = gateway, Change(gateway)
        self._held_at_s = gateway.clock()
        gateway.obey(self.fleet.lineup(gateway.options))

    def submit(self, work: Work) -> None:
        """Put one item into the queue."""
        work.arrival_s = self._host.clock()
        self._new.append(work)
        self._host.wake()

    def ask(self, now_s: float) -> float:
        """Hand what came to the gateway, which sends it or lets it wait."""
        while self._new:
            work = self._new.popleft()
            if work.over:
                continue
            if expired(work.deadline_s, now_s):
                self._host.dropped(work)
                continue
            body = request_of(work.payload)
            if isinstance(body, Failure):
                self._end(work, Result(error=body), now_s)
                continue
            call = self._inside.ask(body, partial(self._replied, work), work.deadline_s)
            if call.open:
                self._calls[work] = call
        return NEVER_S

    def _replied(self, work: Work, reply: Reply) -> None:
        self._calls.pop(work, None)
        now_s = self._host.clock()
        if work.over:
            return
        if reply.sent_s:
            work.start_s = reply.sent_s
        if 200 <= reply.status < 300:
            codec = "json" if reply.content_type == "application/json" else "raw"
            value = Told(codec, reply.body, {"upstream": reply.upstream})
            self._end(work, Result(value=value), now_s)
        elif expired(work.deadline_s, now_s):
            self._host.dropped(work)
        else:
            self._end(work, Result(error=_failure(reply)), now_s)
        self._host.wake()

    def _end(self, work: Work, result: Result, now_s: float) -> None:
        work.start_s = work.start_s or now_s
        work.batch_size = 1
        self._host.finished(work, result, now_s)

    async def _sweep(self) -> None:
        """Give up what nobody waits for any more, so that engines stop working on it."""
        while True:
            await asyncio.sleep(SWEEP_S)
            for work in [work for work in self._calls if work.over]:
                self._calls.pop(work).give_up()

    async def render(self, work: Work, result: Result) -> Result:
        """Return the result as it is: answers are bytes already."""
        return result

    def load(self) -> StationLoad:
        """Return what there is to do: a place that an upstream has for a request counts as a replica."""
        gateway, least_s = self.gateway, self.fleet.least_s
        places = sum(replica.limit for replica in gateway.replicas if replica.up)
        began_s = [relay.sent_s for relay in gateway.active.values() if relay.replica is not None]
        ratio = gateway.stats.mean_s / least_s if least_s else math.nan
        pace = ratio if ratio > NOTICED_PACE else 1.0
        return StationLoad(self.queued, len(began_s), len(began_s), sum(began_s), places, pace)

    def set_replicas(self, count: int) -> None:
        """Send requests to the first `count` upstreams only; what the others have is finished."""
        named = len(self.fleet.upstreams)
        if not 1 <= count <= named:
            raise ServeError(
                f"stage {self.name!r}: {named} engines are there; from 1 to so many can be in use, not {count}"
            )
        if self._other is not None:
            raise ServeError(f"stage {self.name!r} is being changed; change it again when that is over")
        self._become(self.fleet._replace(used=count))
        self.gateway.obey(self.fleet.lineup(self.gateway.options))

    def _become(self, fleet: Fleet) -> None:
        now_s = self.gateway.clock()
        self._held_s += self.fleet.used * (now_s - self._held_at_s)
        self.fleet, self._held_at_s = fleet, now_s

    def prepare(self, other: LiveStation) -> None:
        """Look at the engines that another station, which was never started, has beside these. Raises ServeError."""
        if not isinstance(other, FleetLive):
            raise ServeError(f"stage {self.name!r}: a fleet cannot become another kind of station")
        self.fleet.check(other.fleet, self.name)
        try:
            self._change.prepare(other.fleet.lineup(self.gateway.options))
        except ServeError as error:
            raise ServeError(f"stage {self.name!r}: {error}") from None
        self._other = other.fleet

    async def prepared(self) -> None:
        """Wait until all engines that are added have answered. Raises ServeError when one does not."""
        await self._change.prepared()

    def switch(self) -> None:
        """Exchange the engines and rules that are in use for those that are held back; nothing is sent anew."""
        if self._other is None:
            raise ServeError(f"stage {self.name!r}: nothing was prepared")
        before, after = self.fleet, self._other
        self._other = before
        self._become(after)
        self._change.switch()

    def dismiss(self) -> None:
        """Let engines go that are not named any more, when they have finished what they have."""
        self._other = None
        self._change.dismiss()

    def stats(self, now_s: float) -> StationStats:
        """Return the state and counters; an upstream is as busy as its places are taken."""
        gateway, fleet = self.gateway, self.fleet
        replicas = gateway.replicas
        held_s = self._held_s + fleet.used * (now_s - self._held_at_s)
        places = sum(upstream.max_in_flight for upstream in fleet.upstreams) / len(fleet.upstreams)
        return StationStats(
            queued=self.queued,
            running=sum(replica.in_flight for replica in replicas),
            replicas={
                "ready": sum(replica.up for replica in replicas),
                "starting": 0,
                "draining": sum(replica.state == "draining" for replica in replicas),
            },
            batches=gateway.counts.by_status["answered"],
            busy_s=gateway.stats.served_s / places,
            held_s=held_s,
            held_by_hardware_s={fleet.hardware: held_s * fleet.accelerators},
            retries=gateway.stats.retries,
            about={
                "policy": gateway.options.policy,
                "order": gateway.options.order,
                "upstreams": [replica.to_dict(now_s) for replica in replicas],
            },
        )

    async def stop(self, grace_s: float = 5.0) -> None:
        """Close all connections; what still waits is not finished."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        for call in self._calls.values():
            call.give_up()
        self._calls.clear()
        await self._beside.aclose()


def request_of(payload: Input) -> bytes | Failure:
    """Return the request that an item is, or why it is none.

    >>> request_of(Payload("text", b"{}"))
    b'{}'
    >>> request_of(Payload("object", b"")).type
    'PayloadError'
    """
    if isinstance(payload, Payload) and payload.codec in _READABLE:
        return payload.data
    what = f"a value of codec {payload.codec}" if isinstance(payload, Payload) else "several values"
    return Failure(
        "PayloadError",
        f"engines take a request of the OpenAI protocol as JSON text, and this is {what}; the stage before has to "
        "return json.dumps(request)",
    )


def _failure(reply: Reply) -> Failure:
    text = reply.body[:_SHOWN].decode("utf-8", "replace")
    if reply.upstream:
        return Failure("UpstreamError", f"{reply.upstream} answered {reply.status}: {text}")
    return Failure("GatewayError", f"{reply.status}: {text}")
