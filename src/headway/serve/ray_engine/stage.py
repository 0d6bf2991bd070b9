"""A stage's deployment as a source of workers for its station, which batches, retries and counts as with processes.

A station's replica holds a *lease*: leave to have one batch at a time with Ray. There are never more leases than
replicas running at Ray, and Ray chooses which of them works on a batch.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headway.errors import ServeError, WorkerDied, WorkerTimeout
from headway.serve.model_ref import HardwareView, ModelRef
from headway.serve.process import thread_limits
from headway.serve.ray_engine.replica import BROKEN
from headway.serve.ray_engine.runtime import Order, Seen
from headway.serve.wire import (
    Batch,
    Done,
    Input,
    Payload,
    Render,
    Result,
    Start,
    ToWorker,
    from_worker_decoder,
    pack,
    slot,
    slots,
    unpack,
)
from headway.serve.worker import read_result

log = logging.getLogger(__name__)

SETTLE_S = 1.0
"""A place given up is kept for so long: that of a replica that died is asked for again in a moment."""

ROUTING_S = 10.0
"""How much longer than its batch a call may take on its way; the replica itself watches over the batch."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What replicas of a deployment are made of; the fields are the arguments of `worker_starter`."""

    ref: ModelRef
    hardware: HardwareView
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    children: tuple[str, ...] = ()
    cores: tuple[int, ...] | None = None
    timeout_s: float = 120.0


class RayWorker:
    """A lease, as a station sees it. `pid` is that of a replica for each lease; Ray may have another one work."""

    def __init__(self, stage: RayStage, actor: str, pid: int) -> None:
        self.actor = actor
        self.pid = pid
        self.calls = 0
        self.doomed = False
        self.ended = asyncio.Event()
        self._stage = stage

    async def predict(
        self, inputs: Sequence[Input], render: bool = False, timeout_s: float | None = None
    ) -> list[Result]:
        """Have a batch worked on and return one result per input. Raises as `headway.serve.worker.Worker.predict`."""
        handed_s = time.monotonic()
        buffers: list[bytes] = []
        items = [slots(item, buffers) for item in inputs]
        return await self._ask(Batch(0, items, render, handed_s), buffers, timeout_s)

    async def render(self, payloads: Sequence[Payload], timeout_s: float | None = None) -> list[Result]:
        """Return payloads, pickled ones included, as values that readers outside can read."""
        buffers: list[bytes] = []
        items = [slot(payload, buffers) for payload in payloads]
        return await self._ask(Render(0, items), buffers, timeout_s)

    async def wait(self) -> None:
        """Return when the lease has ended: given up, or its replica is gone."""
        await self.ended.wait()

    async def stop(self, grace_s: float = 5.0) -> None:
        """Give the lease up."""
        self._stage.give_up(self)

    async def _ask(self, message: ToWorker, buffers: Sequence[bytes], timeout_s: float | None) -> list[Result]:
        if self.ended.is_set():
            raise WorkerDied(f"a replica of {self._stage.recipe.name} on Ray has ended")
        frame = pack(message, buffers)
        self.calls += 1
        try:
            answer, body = unpack(await self._stage.call(self, frame, timeout_s), from_worker_decoder)
        finally:
            self.calls -= 1
            if self.doomed:
                self._stage.give_up(self)
        if not isinstance(answer, Done):
            raise WorkerDied(f"a replica of {self._stage.recipe.name} on Ray gave an answer that is none")
        return [read_result(at, body) for at in answer.results]


class RayStage:
    """Starts workers that are leases on replicas of one deployment. `hurry` is called when Ray has something to do.

    The deployment has as many replicas as there are leases, those that are waited for included.
    """

    def __init__(self, recipe: Recipe, cpus_per_thread: float, begin: Callable[[RayStage], Any]) -> None:
        self.recipe = recipe
        self.order: Order | None = None
        self.handle: Any = None
        self._cpus = cpus_per_thread * recipe.hardware.threads
        self._begin = begin
        self._hurry: Callable[[], None] = lambda: None
        self._leases: list[RayWorker] = []
        self._waiting: list[asyncio.Future[RayWorker]] = []
        self._gone: set[str] = set()
        self._asked = 0
        self._low_since_s: float | None = None
        self._told = ""

    def __eq__(self, other: object) -> bool:
        """Whether workers would be alike."""
        return isinstance(other, RayStage) and self.recipe == other.recipe

    __hash__ = None  # type: ignore[assignment]

    async def __call__(self) -> RayWorker:
        """Return a lease once there is a replica for it. Raises ServeError when the model cannot be set up."""
        self._hurry = await self._begin(self)
        lease: asyncio.Future[RayWorker] = asyncio.get_running_loop().create_future()
        self._waiting.append(lease)
        self._hurry()
        name, timeout_s = self.recipe.name, self.recipe.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await lease
        except TimeoutError:
            raise WorkerTimeout(f"replica of {name} on Ray took longer than {timeout_s:g} s to be ready") from None
        except asyncio.CancelledError:
            if lease.done() and not lease.cancelled() and lease.exception() is None:
                self.give_up(lease.result())  # granted at the very moment
            raise
        finally:
            if lease in self._waiting:
                self._waiting.remove(lease)
                self._hurry()

    @property
    def wanted(self) -> int:
        """How many replicas there should be."""
        return len(self._leases) + len(self._waiting)

    @property
    def unsettled(self) -> bool:
        """Whether Ray is expected to change something soon."""
        return bool(self._waiting or self._gone) or self.wanted != self._asked

    def due(self, now_s: float) -> int | None:
        """Return the number of replicas to ask Ray for, or None while the present one is right."""
        if self.wanted >= self._asked:
            self._low_since_s = None
            return self.wanted if self.wanted > self._asked else None
        if self._low_since_s is None:
            self._low_since_s = now_s
        return self.wanted if now_s - self._low_since_s >= SETTLE_S else None

    def ordered(self, replicas: int) -> Order:
        """Return the order for a deployment that is not there yet."""
        recipe = self.recipe
        start = Start(
            recipe.ref, recipe.hardware, dict(recipe.options), list(recipe.children),
            None if recipe.cores is None else list(recipe.cores),
        )  # fmt: skip
        app = f"headway-{recipe.name}-{secrets.token_hex(4)}"
        return Order(app, recipe.name, pack(start), replicas, self._cpus, thread_limits(recipe.hardware.threads))

    def asked(self, replicas: int, order: Order | None, handle: Any) -> None:
        """Take note of what Ray was asked for."""
        self._asked, self.order, self.handle, self._low_since_s = replicas, order, handle, None
        if order is None:
            self._gone.clear()
            self._told = ""

    def see(self, seen: Seen) -> None:
        """Take note of what runs: end leases without a replica, grant those that are waited for."""
        self._gone &= set(seen.running)
        running = {actor: pid for actor, pid in seen.running.items() if actor not in self._gone}
        held = {lease.actor for lease in self._leases}
        free = [actor for actor in running if actor not in held]
        for lease in [one for one in self._leases if one.actor not in running and not one.doomed]:
            if free:  # Ray has fewer replicas than before because it was asked to, and chose another to go
                lease.actor = free.pop()
                lease.pid = running[lease.actor]
            else:
                log.warning("stage %s: a replica on Ray (pid %d) has ended", self.recipe.name, lease.pid)
                self._doom(lease)
        while self._waiting and free:
            actor = free.pop()
            self._grant(RayWorker(self, actor, running[actor]))
        self._hear(seen.trouble)

    def fail(self, problem: ServeError) -> None:
        """End the wait of whoever waits for a lease."""
        waiting, self._waiting = self._waiting, []
        for lease in waiting:
            if not lease.done():
                lease.set_exception(problem)

    def _doom(self, lease: RayWorker) -> None:
        """End a lease without a replica; when it has a batch under way, with that: another replica may work on it."""
        lease.doomed = True
        if not lease.calls:
            self.give_up(lease)

    def give_up(self, lease: RayWorker) -> None:
        """End a lease."""
        lease.ended.set()
        if lease in self._leases:
            self._leases.remove(lease)
            self._hurry()

    async def call(self, lease: RayWorker, frame: bytes, timeout_s: float | None) -> bytes:
        """Have one frame answered by a replica of Ray's choice. Raises WorkerDied or WorkerTimeout when it is lost."""
        clock = asyncio.get_running_loop().time
        begun_s = clock()
        try:
            async with asyncio.timeout(None if timeout_s is None else timeout_s + ROUTING_S):
                answer: bytes = await self.handle.remote(frame, timeout_s)
                return answer
        except Exception as error:
            # The actor that died is known from the error; this lease may stand for another one, that one's for it.
            actor = getattr(error, "actor_id", None) or lease.actor
            other = next((one for one in self._leases if one.actor == actor), lease)
            other.actor, other.pid, lease.actor, lease.pid = lease.actor, lease.pid, other.actor, other.pid
            self._gone.add(actor)
            self.give_up(lease)
            who = f"replica of {self.recipe.name} on Ray (pid {lease.pid})"
            if timeout_s is not None and clock() - begun_s >= timeout_s:
                raise WorkerTimeout(f"{who} took longer than {timeout_s:g} s for a batch and was killed") from None
            raise WorkerDied(f"{who} was lost: {_first_line(error)}") from None

    def _grant(self, lease: RayWorker) -> None:
        while self._waiting:
            waiting = self._waiting.pop(0)
            if not waiting.done():
                self._leases.append(lease)
                waiting.set_result(lease)
                return

    def _hear(self, trouble: str) -> None:
        """Tell whoever waits why nothing comes, once for each thing that Ray has to say."""
        at = trouble.rfind(BROKEN)
        if not self._waiting or at < 0 or trouble == self._told:
            return
        self._told = trouble
        self.fail(ServeError(f"worker of {self.recipe.name}: {_first_line(trouble[at:])}"))


def _first_line(text: object) -> str:
    lines = str(text).strip().splitlines()
    return lines[0].strip() if lines else type(text).__name__
