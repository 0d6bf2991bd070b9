"""Live code without waiting: an event loop in virtual time, and workers that only take time on it."""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from headway.domains.pipeline.declare import ReplicaConfig
from headway.errors import WorkerDied, WorkerTimeout
from headway.plan.plan import Plan
from headway.serve.batcher import BatchStation
from headway.serve.replica import StartWorker, WorkerLike
from headway.serve.wire import Input, Payload, Result

T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer whenever nothing is left to do at the present instant.

    For code that waits for timers only: sockets, processes and threads live in another time.
    """

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__(_Jump(self))

    def time(self) -> float:
        """The virtual time, in seconds from 0."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Move the clock on."""
        self._now_s += seconds


class _Jump(selectors.SelectSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing is scheduled in virtual time any more: the program waits for ever")
        ready = super().select(0.0)
        if not ready and timeout > 0:
            self._loop.advance(timeout)
        return ready


def run_virtual(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in virtual time and return its result.

    >>> async def main() -> float:
    ...     await asyncio.sleep(3600.0)
    ...     return asyncio.get_running_loop().time()
    >>> run_virtual(main)
    3600.0
    """
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main())


Behaviour = Callable[[list[Input]], list[Result]]


def echo(inputs: list[Input]) -> list[Result]:
    """Return every input as it came; of a joining input, a text that says how many results each stage gave."""
    out = []
    for item in inputs:
        if isinstance(item, Payload):
            out.append(Result(value=item))
        else:
            text = ",".join(f"{name}:{len(parts)}" for name, parts in item.items())
            out.append(Result(value=Payload("text", text.encode())))
    return out


class FakeWorker:
    """A worker that takes `service_s(n)` for a batch of n on the loop's clock and answers by `behaviour`.

    `die()` makes it fail as a killed process does; a service time beyond the timeout makes it hang.
    """

    def __init__(
        self, service_s: Callable[[int], float], behaviour: Behaviour = echo, order: Iterator[int] | None = None
    ) -> None:
        self.pid = id(self)
        self._order = order if order is not None else itertools.repeat(0)
        self.batches: list[int] = []
        self._service_s = service_s
        self._behaviour = behaviour
        self._dead = asyncio.Event()

    async def predict(
        self, inputs: Sequence[Input], render: bool = False, timeout_s: float | None = None
    ) -> list[Result]:
        """Take the time, then answer. Raises WorkerDied or WorkerTimeout."""
        self.batches.append(len(inputs))
        takes_s = self._service_s(len(inputs))
        hangs = timeout_s is not None and takes_s > timeout_s
        loop = asyncio.get_running_loop()
        # Timers of one instant fire in any order. This order decides ties by who started first, as the simulator does.
        takes_s += next(self._order) * 1e-13
        done: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_later(timeout_s if hangs and timeout_s is not None else takes_s, _settle, done, True)
        watch = loop.create_task(self._dead.wait())
        watch.add_done_callback(lambda _: _settle(done, False))
        finished = await done
        timer.cancel()
        watch.cancel()
        if not finished:
            raise WorkerDied("the fake worker died")
        if hangs:
            self.die()
            raise WorkerTimeout("the fake worker hung")
        return self._behaviour(list(inputs))

    async def render(self, payloads: Sequence[Payload], timeout_s: float | None = None) -> list[Result]:
        """Return payloads with another codec, as a real worker would."""
        return [Result(value=Payload("text", payload.data)) for payload in payloads]

    async def wait(self) -> None:
        """Return when it is dead."""
        await self._dead.wait()

    async def stop(self, grace_s: float = 5.0) -> None:
        """End it."""
        self.die()

    def die(self) -> None:
        """End it at once, in the middle of a batch if there is one."""
        self._dead.set()


def _settle(future: asyncio.Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)


def fake_stations(
    plan: Plan, behaviour: Callable[[str], Behaviour] = lambda stage: echo, **options: Any
) -> dict[str, BatchStation]:
    """Return stations for a plan's stages of kind pipeline, whose workers are fakes that take the profile's mean times.

    `behaviour(stage)` says what they answer; `options` go to every BatchStation.
    """
    out: dict[str, BatchStation] = {}
    for name in plan.spec.graph.order:
        config = plan.stages[name]
        if not isinstance(config, ReplicaConfig):
            continue
        supply = plan.spec.supply[config.hardware]
        service = plan.profile.service(name, config.variant, config.hardware)
        out[name] = BatchStation(
            name,
            fake_starter(service.mean_at, behaviour(name)),
            replicas=config.replicas,
            max_batch_size=config.max_batch_size,
            max_wait_s=config.max_wait_s,
            threads=supply.threads,
            pool=supply.pool,
            **options,
        )
    return out


def fake_starter(
    service_s: Callable[[int], float],
    behaviour: Behaviour = echo,
    started: list[FakeWorker] | None = None,
    before: Callable[[], Awaitable[None]] | None = None,
) -> StartWorker:
    """Return what starts fake workers; they are appended to `started`, and each start awaits `before()` first."""
    order = itertools.count()

    async def start() -> WorkerLike:
        if before is not None:
            await before()
        worker = FakeWorker(service_s, behaviour, order)
        if started is not None:
            started.append(worker)
        return worker

    return start
