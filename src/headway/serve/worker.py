"""One replica as one operating-system process, driven from an event loop over a socket pair.

Processes are started with `subprocess`, never forked from a parent with threads, and share nothing with it but the
socket and a pipe for what they print.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headway.errors import ServeError, WorkerDied, WorkerTimeout
from headway.serve import shared
from headway.serve.model_ref import HardwareView, ModelRef
from headway.serve.printed import Printed
from headway.serve.process import EXIT_GRACE_S, Process
from headway.serve.wire import (
    SOCKET_BYTES,
    Batch,
    Body,
    Broken,
    Done,
    FrameReader,
    FromWorker,
    Input,
    Measure,
    Measured,
    Payload,
    Ready,
    Render,
    Result,
    ResultSlots,
    Start,
    Stop,
    ToWorker,
    from_worker_decoder,
    pack,
    slot,
    slots,
)

_OUTPUT_GRACE_S = 0.2


class Worker:
    """A started replica. Create it with `Worker.start`, end it with `stop`; all methods belong to one event loop.

    `startup_s` is the time from the start of the process to the end of `setup`; `service_s` the time that `predict`
    took for the last batch, measured in the process.
    """

    def __init__(
        self,
        name: str,
        process: Process,
        log: Callable[[str], None],
        memory: shared.Shared | None = None,
    ) -> None:
        self.name = name
        self.pid = process.pid
        self.startup_s = 0.0
        self.service_s = 0.0
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._output = Printed(process.output, f"[{name}] ", log)
        self._shared = memory
        self._link: _Link = _Link(self)
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._due: dict[int, tuple[float, float, str]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._problem: str | None = None
        self._ended = asyncio.Event()
        self._reaper: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        ref: ModelRef,
        hardware: HardwareView,
        *,
        options: Mapping[str, Any] | None = None,
        children: Sequence[str] = (),
        cores: tuple[int, ...] | None = None,
        timeout_s: float = 60.0,
        name: str = "",
        log: Callable[[str], None] | None = None,
    ) -> Worker:
        """Start a process, load the model in it and return when it is ready for batches.

        `options` go to the class, `hardware` to its `setup`; `children` are the stages that `predict` may choose among;
        `cores` pins the process where the system can; `log` takes the lines that it prints (default: standard error).
        Raises ServeError when the model cannot be set up, WorkerDied or WorkerTimeout when the process ends or hangs.
        """
        started_s = time.perf_counter()
        loop = asyncio.get_running_loop()
        name = name or f"{ref.text} on {hardware.name}"
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            # Fewer switches between the processes per large batch; the system may grant less.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        memory = shared.create()
        try:
            process = Process([theirs.fileno(), *([] if memory is None else [memory])], hardware.threads)
        except OSError as error:
            ours.close()
            if memory is not None:
                os.close(memory)
            raise ServeError(f"worker of {name}: the process cannot be started: {error.strerror or error}") from None
        finally:
            theirs.close()
        worker = cls(name, process, log or _to_stderr, None if memory is None else shared.Shared(memory, "server"))
        try:
            ours.setblocking(False)
            await loop.create_unix_connection(lambda: worker._link, sock=ours)
            message = Start(ref, hardware, dict(options or {}), list(children), None if cores is None else list(cores))
            await worker._ask(message, (), timeout_s, "to set up its model")
        except BaseException:
            await worker._end(0.0)
            raise
        worker.startup_s = time.perf_counter() - started_s
        return worker

    @property
    def alive(self) -> bool:
        """Whether the worker can take batches: it has neither died nor timed out nor been stopped."""
        return self._problem is None

    def predict(
        self, inputs: Sequence[Input], render: bool = False, timeout_s: float | None = None
    ) -> asyncio.Future[list[Result]]:
        """Work on one batch and return one result per input; one batch at a time.

        With `render` values come back as `raw`, `text` or `json`, for readers outside. Raises WorkerDied when the
        process ends first; after `timeout_s` it is killed and WorkerTimeout raised; a batch too large to send raises
        ServeError.
        """
        handed_s = time.monotonic()
        buffers: list[bytes] = []
        items = [slots(item, buffers) for item in inputs]
        self._number += 1
        return self._ask(Batch(self._number, items, render, handed_s), buffers, timeout_s, "for a batch")

    async def render(self, payloads: Sequence[Payload], timeout_s: float | None = None) -> list[Result]:
        """Return payloads, pickled ones included, as values that readers outside can read."""
        buffers: list[bytes] = []
        items = [slot(payload, buffers) for payload in payloads]
        self._number += 1
        results: list[Result] = await self._ask(Render(self._number, items), buffers, timeout_s, "to render results")
        return results

    async def memory_mb(self, timeout_s: float = 10.0) -> float:
        """Return the process's peak resident memory so far, in MiB."""
        self._number += 1
        memory: float = await self._ask(Measure(self._number), (), timeout_s, "to measure its memory")
        return memory

    async def wait(self) -> None:
        """Return when the process has ended, whatever the reason, and been cleaned up after."""
        await self._ended.wait()

    async def stop(self, grace_s: float = 5.0) -> None:
        """Ask the process to exit after the batch in hand; terminate it after `grace_s`, kill it a second later."""
        if self.alive:
            self._problem = "was stopped"
            self._link.send(pack(Stop()))
        await self._end(grace_s)

    def _ask(
        self, message: ToWorker, buffers: Sequence[bytes], timeout_s: float | None, why: str
    ) -> asyncio.Future[Any]:
        """Send a message; the future gives its answer. A plain future costs less per batch than a coroutine."""
        answer = self._loop.create_future()
        try:
            if self._problem is not None:
                raise WorkerDied(f"worker of {self.name} (pid {self.pid}) {self._problem}")
            # Each area of the shared memory holds one body: it is free when nothing else is under way.
            free = self._shared if not self._waiting else None
            frame = pack(message, buffers, free, may_share=free is not None)
        except ServeError as error:
            answer.set_exception(error)
            return answer
        number = getattr(message, "number", 0)
        self._waiting[number] = answer
        if timeout_s is not None:
            end_s = self._loop.time() + timeout_s
            self._due[number] = end_s, timeout_s, why
            if self._timer is None or self._timer.when() > end_s:
                self._watch(end_s)
        self._link.send(frame)
        return answer

    def _receive(self, message: FromWorker, body: Body) -> None:
        number = getattr(message, "number", 0)
        self._due.pop(number, None)
        answer = self._waiting.pop(number, None)
        if answer is None or answer.done():
            return  # whoever asked was cancelled
        if isinstance(message, Done):
            self.service_s = message.service_s
            answer.set_result([read_result(slots_, body) for slots_ in message.results])
        elif isinstance(message, Measured):
            answer.set_result(message.memory_mb)
        elif isinstance(message, Ready):
            answer.set_result(None)
        elif isinstance(message, Broken):
            answer.set_exception(ServeError(f"worker of {self.name}: the model cannot be set up: {message.message}"))

    def _watch(self, end_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(end_s, self._look)

    def _look(self) -> None:
        """See whether an answer is overdue. The timer is left running between batches: starting one costs more."""
        self._timer = None
        if not self._due:
            return
        end_s, timeout_s, why = min(self._due.values())
        if end_s <= self._loop.time():
            self._time_out(timeout_s, why)
        else:
            self._watch(end_s)

    def _time_out(self, timeout_s: float, why: str) -> None:
        problem = f"took longer than {timeout_s:g} s {why} and was killed"
        self._fail(WorkerTimeout(f"worker of {self.name} (pid {self.pid}) {problem}"), problem)
        self._process.kill()

    def _fail(self, error: ServeError, problem: str) -> None:
        self._problem = self._problem or problem
        waiting, self._waiting = self._waiting, {}
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(error)

    def _give_up(self, error: Exception) -> None:
        """Take note that the connection failed on this side: the process then exits, and nothing is wrong with that."""
        self._problem = self._problem or f"was given up, as its connection failed: {error}"

    def _disconnected(self) -> None:
        if self._reaper is None:
            self._reaper = self._loop.create_task(self._reap())

    async def _reap(self) -> None:
        """After the socket closed: wait for the process, learn why it ended, tell whoever waits for an answer."""
        await self._process.end(EXIT_GRACE_S)
        await self._output.ended(_OUTPUT_GRACE_S)
        last = "; last output: " + " | ".join(self._output.tail) if self._output.tail else ""
        problem = self._problem or f"{self._process.how()} before it answered{last}"
        self._fail(WorkerDied(f"worker of {self.name} (pid {self.pid}) {problem}"), problem)
        self._output.close()
        if self._shared is not None:
            self._shared.close()
        self._ended.set()

    async def _end(self, grace_s: float) -> None:
        self._problem = self._problem or "was stopped"
        await self._process.end(grace_s, terminate=True)
        self._fail(WorkerDied(f"worker of {self.name} (pid {self.pid}) was stopped"), "was stopped")
        self._link.close()
        # A loop that was interrupted while it connected may never say that the connection is lost.
        self._disconnected()
        await self._ended.wait()


class _Link(asyncio.BufferedProtocol):
    """The socket to the process: bytes are received where the frame reader wants them."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._reader: FrameReader[FromWorker] = FrameReader(from_worker_decoder, worker._receive, worker._shared)
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.space()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self._reader.filled(nbytes)
        except ServeError as error:
            self._worker._give_up(error)
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        # A process that dies may break the connection in its own way, and is to say itself how it died.
        if exc is not None and not isinstance(exc, ConnectionError):
            self._worker._give_up(exc)
        self._worker._disconnected()

    def send(self, frame: bytes) -> None:
        if not self._transport.is_closing():  # else the worker is about to be told that it is lost
            self._transport.write(frame)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def read_result(at: ResultSlots, body: Body) -> Result:
    """Return the result that stands in a header, with its bytes. Raises ServeError when it is nothing."""
    if at.error is not None:
        return Result(error=at.error)
    if at.branches is not None:
        return Result(branches={name: [body.payload(part) for part in parts] for name, parts in at.branches.items()})
    if at.value is None:
        raise ServeError("a worker's frame holds a result that is nothing")
    return Result(value=body.payload(at.value))


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)
