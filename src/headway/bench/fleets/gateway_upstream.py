"""Upstreams for the benchmarks of the gateway: `python -m headway.bench.fleets.gateway_upstream PORT...`.

A completion is answered at once with a small body, or with `"stream": true` by a stream of events at a steady pace,
each one a write of its own that holds when it was sent. They cost next to nothing: the proxy is what is measured.
"""

from __future__ import annotations

import asyncio
import re
import sys
from time import perf_counter
from typing import Any, Final

from headway.serve.parent import end_with_parent
from headway.serve.run import fastest_loop

TOKENS_PER_S: Final = 30.0
_TICK_S: Final = 0.001
_USAGE: Final = b'"usage":{"prompt_tokens":12,"completion_tokens":2,"total_tokens":14}'
_BODY: Final = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"small","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Hello."},"finish_reason":"stop"}],' + _USAGE + b"}"
)
ANSWER: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(_BODY),
    _BODY,
)
_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT: Final = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"small","choices":[{"index":0,'
    b'"delta":{"content":" word"},"finish_reason":null}],"sent_s":%.6f}\n\n'
)
_LENGTH: Final = re.compile(rb"content-length: (\d+)", re.I)


class Pace:
    """Sends events of all streams when they are due, spread evenly over time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, list[Any]] = {}
        self._count = 0
        self._slot = 0
        self._number = max(1, round(1.0 / (TOKENS_PER_S * _TICK_S)))
        self._begun_s = perf_counter()
        loop.call_soon(self._tick)

    def add(self, transport: Any) -> None:
        """Begin a stream."""
        self._slots.setdefault(self._count % self._number, []).append(transport)
        self._count += 1

    def _tick(self) -> None:
        period_s = 1.0 / TOKENS_PER_S / self._number
        # Up to now, and not to when that is done: where the machine is too slow, requests must be read all the same.
        now_s = perf_counter()
        while self._begun_s + self._slot * period_s <= now_s:
            place = self._slot % self._number
            open_ones = self._slots[place] = [one for one in self._slots.get(place, ()) if not one.is_closing()]
            for transport in open_ones:
                event = _EVENT % perf_counter()
                transport.write(b"%x\r\n%b\r\n" % (len(event), event))
            self._slot += 1
        self._loop.call_later(_TICK_S, self._tick)


class Upstream(asyncio.Protocol):
    """One connection."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._held = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._held + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            found = _LENGTH.search(data, 0, end)
            size = end + 4 + (int(found[1]) if found else 0)
            if len(data) < size:
                break
            if b'"stream": true' in data[end:size]:
                self._transport.write(_HEAD)
                self._pace.add(self._transport)
            else:
                self._transport.write(ANSWER)
            data = data[size:]
        self._held = data


async def main(ports: list[int]) -> None:
    """Answer on all ports until killed."""
    loop = asyncio.get_running_loop()
    pace = Pace(loop)
    for port in ports:
        await loop.create_server(lambda: Upstream(pace), "127.0.0.1", port, backlog=4096)
    await asyncio.Event().wait()


if __name__ == "__main__":
    end_with_parent()
    with asyncio.Runner(loop_factory=fastest_loop) as runner:
        runner.run(main([int(port) for port in sys.argv[1:]]))
