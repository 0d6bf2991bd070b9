"""Load for the benchmark of streams: many streams at once, and how late each of their events comes."""

from __future__ import annotations

import asyncio
import gc
import statistics
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from headway.bench.calm import are_calm, in_calmest
from headway.errors import HeadwayError
from headway.serve.run import fastest_loop
from headway.serve.system import ProcessorTimes
from headway.sim.outcome import percentile

_MARK: Final = b'"sent_s":'


@dataclass(frozen=True, slots=True)
class Streamed:
    """What was seen of streams over `span_s`: how many events came, and how many reads brought some.

    In the calmest windows, `late_p99_s`: the P99 of the seconds from sending an event to seeing it, the median of such
    windows; `cpu_us`: what the proxy took per event, None where that is not known. Its time is counted by a clock that
    goes on while the host has the processor.
    """

    events: int
    late_p99_s: float
    reads: int
    span_s: float
    cpu_us: float | None


class _Stream(asyncio.Protocol):
    def __init__(self, frame: bytes, seen: _Seen) -> None:
        self._frame = frame
        self._seen = seen
        self._head = b""
        self.open = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self._frame)

    def data_received(self, data: bytes) -> None:
        if not self.open:
            self._head += data
            self.open = b"\r\n\r\n" in self._head
            if self.open and not self._head.startswith(b"HTTP/1.1 200"):
                self._seen.problem = self._head[:80].decode("latin-1")
            return
        self._seen.note(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._seen.closing:
            self._seen.problem = f"a stream ended: {exc}"


class _Seen:
    def __init__(self) -> None:
        self.late_s = array("d")
        self.reads = 0
        self.problem = ""
        self.closing = False

    def note(self, data: bytes) -> None:
        now_s = perf_counter()
        self.reads += 1
        place = data.find(_MARK)
        while place >= 0:
            self.late_s.append(now_s - float(data[place + 9 : data.index(b"}", place)]))
            place = data.find(_MARK, place + 9)


def streams(
    url: str, frame: bytes, count: int, windows: tuple[int, int], meter: Callable[[], float | None], settle_s: float
) -> Streamed:
    """Hold `count` streams open and after `settle_s` watch them until enough seconds were calm, for `most` at most.

    `windows`: both of these numbers. Raises HeadwayError when a stream is refused or ends.
    """
    enough, most = windows

    async def main() -> Streamed:
        parts = urlsplit(url)
        if parts.hostname is None or parts.port is None:
            raise HeadwayError(f"bench: {url!r} names no host and port")
        host, port = parts.hostname, parts.port
        loop = asyncio.get_running_loop()
        seen, found = _Seen(), []
        for _ in range(count):
            _, one = await loop.create_connection(lambda: _Stream(frame, seen), host, port)
            found.append(one)
        end_s = perf_counter() + 60.0
        while not all(one.open for one in found) and perf_counter() < end_s and not seen.problem:
            await asyncio.sleep(0.05)
        await asyncio.sleep(settle_s)
        seen.reads, events = 0, 0
        watched: list[tuple[float, tuple[NDArray[np.float64], float | None]]] = []
        begun_s = perf_counter()
        while len(watched) < most and not are_calm(watched, enough):
            seen.late_s, before, before_s = array("d"), ProcessorTimes.now(), meter()
            await asyncio.sleep(1.0)
            after, after_s = ProcessorTimes.now(), meter()
            stolen_share = after.stolen_share(before) if after and before else 0.0
            cpu_s = None if before_s is None or after_s is None else after_s - before_s
            watched.append((stolen_share, (np.array(seen.late_s), cpu_s)))
            events += len(seen.late_s)
        span_s = perf_counter() - begun_s
        if seen.problem or not all(one.open for one in found):
            raise HeadwayError(f"bench: not all of {count} streams were open: {seen.problem or 'some gave no answer'}")
        seen.closing = True
        for one in found:
            one.transport.abort()
        await asyncio.sleep(0.1)
        late, took = zip(*in_calmest(watched, enough), strict=True)
        late_p99_s = statistics.median(percentile(late_s, 99) for late_s in late)
        cpu_us = None if None in took else 1e6 * sum(took) / max(1, sum(map(len, late)))
        return Streamed(events, late_p99_s, seen.reads, span_s, cpu_us)

    with asyncio.Runner(loop_factory=fastest_loop) as runner:
        gc.collect()
        gc.freeze()
        try:
            return runner.run(main())
        finally:
            gc.unfreeze()
