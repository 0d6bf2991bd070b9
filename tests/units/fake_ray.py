"""A Ray in virtual time: replicas that start after a while, answer what they were asked, and can be killed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from headway.serve.ray_engine.replica import BROKEN
from headway.serve.ray_engine.runtime import Order, Seen
from headway.serve.wire import Batch, Done, ResultSlots, Slot, pack, slot, to_worker_decoder, unpack


class ActorDied(Exception):
    """As Ray's own error: it names the actor, unless Ray does not know it."""

    def __init__(self, actor_id: str | None) -> None:
        super().__init__("The actor died unexpectedly before finishing this task.\nmore")
        self.actor_id = actor_id


class FakeReplica:
    def __init__(self, actor: str, pid: int) -> None:
        self.actor, self.pid = actor, pid
        self.running = False
        self.dead = asyncio.Event()
        self.batches: list[int] = []
        self.busy = 0


class FakeDeployment:
    """`listed` replicas are those that Ray believes in: one that died stays listed until that is noticed."""

    def __init__(self, ray: FakeRay, order: Order) -> None:
        self.ray, self.order = ray, order
        self.target = order.replicas
        self.listed: list[FakeReplica] = []
        self.trouble = ""
        self.most_at_once = 0

    async def remote(self, frame: bytes, timeout_s: float | None) -> bytes:
        """Answer one frame by echo, at a replica that has nothing else to do."""
        while not (idle := [r for r in self.listed if r.running and not r.busy and not r.dead.is_set()]):
            await asyncio.sleep(0.005)
        replica = idle[0]
        message, body = unpack(frame, to_worker_decoder)
        assert isinstance(message, Batch)
        replica.busy += 1
        replica.batches.append(len(message.items))
        self.most_at_once = max(self.most_at_once, sum(r.busy for r in self.listed))
        try:
            takes_s = self.ray.service_s
            if timeout_s is not None and takes_s > timeout_s:
                await asyncio.sleep(timeout_s)
                self.ray.kill(replica)
                raise ActorDied(replica.actor)
            await asyncio.wait([asyncio.ensure_future(replica.dead.wait())], timeout=takes_s)
        finally:
            replica.busy -= 1
        if replica.dead.is_set():
            raise ActorDied(replica.actor if self.ray.names_the_dead else None)
        buffers: list[bytes] = []
        parts: list[Slot] = []
        for item in message.items:
            assert isinstance(item, tuple)
            parts.append(slot(body.payload(item), buffers))
        return pack(Done(message.number, takes_s, [ResultSlots(part, None, None) for part in parts]), buffers)


class FakeRay:
    """Stands for `headway.serve.ray_engine.runtime.Runtime`."""

    def __init__(self, *, startup_s: float = 0.5, service_s: float = 0.02, broken: str = "") -> None:
        self.startup_s, self.service_s, self.broken = startup_s, service_s, broken
        self.names_the_dead = True
        self.deployments: dict[str, FakeDeployment] = {}
        self.asked: list[tuple[str, int]] = []
        self.ended = False
        self._pids = itertools.count(1000)
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        await asyncio.sleep(0.1)

    async def deploy(self, orders: Sequence[Order]) -> list[Any]:
        for order in orders:
            self.deployments[order.app] = FakeDeployment(self, order)
            self.asked.append((order.stage, order.replicas))
            self._reconcile(self.deployments[order.app])
        return [self.deployments[order.app] for order in orders]

    async def scale(self, order: Order, replicas: int) -> None:
        deployment = self.deployments[order.app]
        deployment.target = replicas
        self.asked.append((order.stage, replicas))
        self._reconcile(deployment)

    async def delete(self, order: Order) -> None:
        self.asked.append((order.stage, 0))
        del self.deployments[order.app]

    async def look(self) -> Mapping[str, Seen]:
        return {
            app: Seen({r.actor: r.pid for r in d.listed if r.running}, d.trouble) for app, d in self.deployments.items()
        }

    async def end(self) -> None:
        self.ended = True
        for task in self._tasks:
            task.cancel()

    def of(self, stage: str) -> FakeDeployment:
        """The one deployment of a stage."""
        (found,) = [d for d in self.deployments.values() if d.order.stage == stage]
        return found

    def kill(self, replica: FakeReplica) -> None:
        """End a replica's process; Ray notices a second later."""
        replica.dead.set()
        self._later(1.0, replica)

    def _later(self, delay_s: float, replica: FakeReplica) -> None:
        async def notice() -> None:
            await asyncio.sleep(delay_s)
            for deployment in self.deployments.values():
                if replica in deployment.listed:
                    deployment.listed.remove(replica)
                    self._reconcile(deployment)

        self._do(notice())

    def _reconcile(self, deployment: FakeDeployment) -> None:
        while len(deployment.listed) < deployment.target:
            replica = FakeReplica(f"actor-{next(self._pids)}", next(self._pids))
            deployment.listed.append(replica)
            self._do(self._start(deployment, replica))
        # Ray chooses whom it stops; one that works finishes first.
        for replica in sorted(deployment.listed, key=lambda r: (r.running, r.actor))[
            : max(0, len(deployment.listed) - deployment.target)
        ]:
            replica.running = False
            deployment.listed.remove(replica)

    async def _start(self, deployment: FakeDeployment, replica: FakeReplica) -> None:
        await asyncio.sleep(self.startup_s)
        if self.broken:
            deployment.trouble = f"The deployment failed to start.\nRuntimeError: {BROKEN}{self.broken}\nRetrying."
        else:
            replica.running = True

    def _do(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
