"""One load generator for every server that is measured: ready-made requests on kept connections, and nothing else.

Closed loop (a connection sends its next request when it has its answer) shows throughput; open loop (requests go out
when they are due, whatever became of those before) shows latency.
"""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import httptools
import numpy as np
from numpy.typing import NDArray

from headway.errors import HeadwayError
from headway.serve.system import precise_loop
from headway.sim.outcome import percentile

DRAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Load:
    """What was measured over `span_s`: seconds of each request answered with 200, and how many were not.

    `cpu_s`: the CPU time that the server has taken for it, where that was asked for and the system tells.
    """

    latency_s: NDArray[np.float64]
    span_s: float
    failed: int
    cpu_s: float | None = None

    @property
    def rate_per_s(self) -> float:
        """Requests answered per second."""
        return len(self.latency_s) / self.span_s

    @property
    def cpu_ms(self) -> float | None:
        """CPU time per answered request, in milliseconds: unlike the others, hardly moved by what else the cores do."""
        return None if self.cpu_s is None else 1e3 * self.cpu_s / max(1, len(self.latency_s))

    def p_ms(self, percent: float) -> float:
        """A percentile of the latency (nearest rank), in milliseconds."""
        return percentile(self.latency_s, percent) * 1e3


def post(path: str, body: bytes) -> bytes:
    r"""Return the bytes of a POST of a JSON body.

    >>> post("/predict", b"{}").splitlines()[0]
    b'POST /predict HTTP/1.1'
    """
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def closed_loop(
    url: str,
    frame: bytes,
    *,
    connections: int,
    seconds: float,
    warmup_s: float = 1.0,
    meter: Callable[[], float | None] = lambda: None,
) -> Load:
    """Keep `connections` requests outstanding for `seconds`, after a warm-up that is not counted.

    `meter` returns the CPU time of the server so far. Raises HeadwayError when a connection is lost.
    """

    async def main() -> Load:
        tally = _Tally()
        lines = await _connect(url, connections)

        def again(line: _Line, status: int, latency_s: float) -> None:
            tally.note(status, latency_s)
            line.send(frame, again)

        for line in lines:
            line.send(frame, again)
        await asyncio.sleep(warmup_s)
        tally.clear()
        before_s = meter()
        started_s = perf_counter()
        await asyncio.sleep(seconds)
        span_s, after_s = perf_counter() - started_s, meter()
        cpu_s = None if before_s is None or after_s is None else after_s - before_s
        found = tally.load(span_s, cpu_s)
        _close(lines)
        return found

    return _run(main())


def open_loop(url: str, frame: bytes, *, rate_per_s: float, seconds: float, seed: int, connections: int = 256) -> Load:
    """Send requests at Poisson times for `seconds`; latency counts from the time at which each was due.

    A request that finds all `connections` in use waits for one. Raises HeadwayError when a connection is lost.
    """
    gaps_s = np.random.default_rng(seed).exponential(1.0 / rate_per_s, max(1, int(rate_per_s * seconds)))
    due_s: list[float] = np.cumsum(gaps_s).tolist()

    async def main() -> Load:
        loop = asyncio.get_running_loop()
        tally = _Tally()
        lines = await _connect(url, connections)
        idle = lines.copy()
        late: deque[float] = deque()
        finished = asyncio.Event()
        start_s = perf_counter() + 0.05
        sent = 0

        def answered(line: _Line, status: int, latency_s: float) -> None:
            tally.note(status, latency_s)
            if late:
                line.send(frame, answered, late.popleft())
            else:
                idle.append(line)
            if tally.count == len(due_s):
                finished.set()

        def send_due() -> None:
            nonlocal sent
            while sent < len(due_s) and start_s + due_s[sent] <= perf_counter():
                if idle:
                    idle.pop().send(frame, answered, start_s + due_s[sent])
                else:
                    late.append(start_s + due_s[sent])
                sent += 1
            if sent < len(due_s):
                loop.call_later(max(0.0, start_s + due_s[sent] - perf_counter()), send_due)

        send_due()
        try:
            await asyncio.wait_for(finished.wait(), due_s[-1] + DRAIN_S)
        except TimeoutError:
            tally.failed += len(due_s) - tally.count
        found = tally.load(perf_counter() - start_s)
        _close(lines)
        return found

    return _run(main())


class _Tally:
    def __init__(self) -> None:
        self._latency_s: list[float] = []
        self.failed = 0

    @property
    def count(self) -> int:
        return len(self._latency_s) + self.failed

    def note(self, status: int, latency_s: float) -> None:
        if status == 200:
            self._latency_s.append(latency_s)
        else:
            self.failed += 1

    def clear(self) -> None:
        self._latency_s, self.failed = [], 0

    def load(self, span_s: float, cpu_s: float | None = None) -> Load:
        return Load(np.array(self._latency_s), span_s, self.failed, cpu_s)


class _Line(asyncio.Protocol):
    """One kept connection with at most one request under way; made anew when the server announces its end."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._parser: Any = None
        self._transport: Any = None
        self._answered: Callable[[_Line, int, float], None] | None = None
        self._since_s = 0.0
        self._opening: asyncio.Task[None] | None = None
        self.closing = False

    async def open(self) -> None:
        """Connect. Raises HeadwayError."""
        self._parser = httptools.HttpResponseParser(self)
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, *self._address)
        except OSError as error:
            raise HeadwayError(f"bench: cannot connect to {self._address}: {error}") from None

    def send(self, frame: bytes, answered: Callable[[_Line, int, float], None], since_s: float | None = None) -> None:
        """Send a request; `answered(line, status, latency_s)` is called with its answer, timed from `since_s`."""
        if self.closing:
            return
        self._answered = answered
        self._since_s = perf_counter() if since_s is None else since_s
        self._transport.write(frame)

    def close(self) -> None:
        """Close it for good."""
        self.closing = True
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        answered, self._answered = self._answered, None
        if answered is None:
            return
        status, latency_s = self._parser.get_status_code(), perf_counter() - self._since_s
        if self._parser.should_keep_alive():
            answered(self, status, latency_s)
        else:
            self._transport.close()
            self._opening = asyncio.get_running_loop().create_task(
                self._go_on(partial(answered, self, status, latency_s))
            )

    async def _go_on(self, answered: Callable[[], None]) -> None:
        await self.open()
        answered()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered is not None and not self.closing:
            loop = asyncio.get_running_loop()
            loop.call_exception_handler({"message": f"bench: the server closed a connection: {exc}"})


async def _connect(url: str, connections: int) -> list[_Line]:
    parts = urlsplit(url)
    lines = [_Line(parts.hostname or "", parts.port or 80) for _ in range(connections)]
    for line in lines:
        await line.open()
    return lines


def _close(lines: list[_Line]) -> None:
    for line in lines:
        line.close()


def _run(work: Coroutine[Any, Any, Load]) -> Load:
    """Run on a loop of its own; a connection that is lost ends the run, since the load is then not what was asked."""
    problem: list[str] = []
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        loop = runner.get_loop()
        task = loop.create_task(work)
        loop.set_exception_handler(partial(_give_up, problem, task))
        gc.collect()
        gc.freeze()
        try:
            return loop.run_until_complete(task)
        except asyncio.CancelledError:
            raise HeadwayError(problem[0] if problem else "bench: the load was broken off") from None
        finally:
            gc.unfreeze()


def _give_up(problem: list[str], task: asyncio.Task[Load], loop: Any, context: dict[str, Any]) -> None:
    problem.append(str(context.get("exception") or context["message"]))
    task.cancel()
