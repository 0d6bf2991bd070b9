"""The live station of a fleet: items go through a gateway of its own to engines that are there."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Final

from headway.errors import ServeError
from headway.gateway import GatewayOptions, Upstream
from headway.gateway.gateway import SWEEP_S, Gateway
from headway.gateway.inside import Call, Inside, Reply
from headway.gateway.server import attended
from headway.policy.admission import expired
from headway.serve.infer import MAX_TIMEOUT_S
from headway.serve.station import NEVER_S, StationHost, StationStats, Work
from headway.serve.wire import Failure, Input, Payload, Result, Told

_READABLE: Final = ("raw", "text", "json")
_NO_LIMIT: Final = 1 << 30
"""Of the gateway's own queue: the server has looked at what waits here before it let a request in."""
_SHOWN: Final = 500
"""Characters of an upstream's error that are passed on."""


class FleetLive:
    """Sends every item to one of the upstreams: queue, choice, retries and limits are the gateway's.

    An item is the body of a request of the OpenAI protocol, its result the body of the answer. Time of `accelerators`
    of `hardware` is counted for every upstream that is in use.
    """

    def __init__(
        self, name: str, upstreams: Iterable[Upstream], options: GatewayOptions, *, hardware: str, accelerators: int = 1
    ) -> None:
        self.name = name
        self._upstreams = tuple(upstreams)
        self._options = replace(options, queue_limit=_NO_LIMIT, timeout_s=MAX_TIMEOUT_S)
        self._hardware, self._accelerators = hardware, accelerators
        self._new: deque[Work] = deque()
        self._calls: dict[Work, Call] = {}
        self._used = len(self._upstreams)
        self._answered = 0
        self._busy_s = self._held_s = self._held_at_s = 0.0
        self._beside = contextlib.AsyncExitStack()
        self._sweeping: asyncio.Task[None] | None = None
        self._host: StationHost
        self._gateway: Gateway | None = None

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
        self._gateway = Gateway(self._upstreams, self._options, host.clock)
        self._inside = Inside(self._gateway)
        self._held_at_s = host.clock()
        await self._beside.enter_async_context(attended(self._gateway))
        self._sweeping = asyncio.get_running_loop().create_task(self._sweep())

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
            self._busy_s += (now_s - reply.sent_s) / self._places
        if 200 <= reply.status < 300:
            self._answered += 1
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

    @property
    def _places(self) -> float:
        """Requests that an upstream holds at a time, over all in the mean."""
        return sum(upstream.max_in_flight for upstream in self._upstreams) / len(self._upstreams)

    async def _sweep(self) -> None:
        """Give up what nobody waits for any more, so that engines stop working on it."""
        while True:
            await asyncio.sleep(SWEEP_S)
            for work in [work for work in self._calls if work.over]:
                self._calls.pop(work).give_up()

    async def render(self, work: Work, result: Result) -> Result:
        """Return the result as it is: answers are bytes already."""
        return result

    def set_replicas(self, count: int) -> None:
        """Send requests to the first `count` upstreams only; what the others have is finished."""
        if not 1 <= count <= len(self._upstreams):
            raise ServeError(
                f"stage {self.name!r}: {len(self._upstreams)} engines are there; from 1 to so many can be in use, not "
                f"{count}"
            )
        now_s = self._host.clock()
        self._held_s += self._used * (now_s - self._held_at_s)
        self._used, self._held_at_s = count, now_s
        for number, upstream in enumerate(self._upstreams):
            self.gateway.drain(upstream.name, draining=number >= count)
        self.gateway.serve_waiting(now_s)

    def stats(self, now_s: float) -> StationStats:
        """Return the state and counters; an upstream is as busy as its places are taken."""
        replicas = self.gateway.replicas
        up = sum(replica.up for replica in replicas)
        held_s = self._held_s + self._used * (now_s - self._held_at_s)
        return StationStats(
            queued=self.queued,
            running=sum(replica.in_flight for replica in replicas),
            replicas={"ready": up, "starting": 0, "draining": sum(replica.draining for replica in replicas)},
            batches=self._answered,
            busy_s=self._busy_s,
            held_s=held_s,
            held_by_hardware_s={self._hardware: held_s * self._accelerators},
            retries=self.gateway.stats.retries,
            about={"upstreams": [replica.to_dict(now_s) for replica in replicas]},
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
