"""The benchmarks of the gateway: what they measure with, and what they say where a rival is not there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httptools
import pytest

from headway.bench.fleets import gateway, gateway_rivals
from headway.bench.fleets.gateway_load import _Seen
from headway.bench.fleets.gateway_rivals import HAPROXY, NGINX, PATH
from headway.bench.fleets.gateway_upstream import TOKENS_PER_S, Pace, Upstream
from headway.bench.load import post
from headway.errors import HeadwayError


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closing


class Parsed:
    def __init__(self, data: bytes) -> None:
        self.done = 0
        parser: Any = httptools.HttpResponseParser(self)
        parser.feed_data(data)
        self.status = parser.get_status_code()

    def on_message_complete(self) -> None:
        self.done += 1


def test_a_rival_that_is_not_installed_is_named_and_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gateway_rivals, "binary", lambda name: None)
    for name in (NGINX, HAPROXY):
        assert not gateway._is_there(name)
        assert f"{name} is not installed (Debian package {name})" in capsys.readouterr().err
        with pytest.raises(HeadwayError, match="is not installed"):
            gateway_rivals._command(name, [1], 2, tmp_path)


@pytest.mark.parametrize("piece", [7, 10_000])
def test_the_upstream_answers_every_request_however_it_is_cut(piece: int) -> None:
    async def scene() -> bytes:
        upstream, transport = Upstream(Pace(asyncio.get_running_loop())), Transport()
        upstream.connection_made(transport)  # type: ignore[arg-type]
        asked = post(PATH, gateway.BODY) * 3
        for at in range(0, len(asked), piece):
            upstream.data_received(asked[at : at + piece])
        return b"".join(transport.written)

    found = Parsed(asyncio.run(scene()))
    assert (found.status, found.done) == (200, 3)


def test_every_stream_gets_its_events_at_the_pace_and_each_is_seen_once() -> None:
    async def scene() -> list[Transport]:
        pace = Pace(asyncio.get_running_loop())
        transports = [Transport() for _ in range(5)]
        for transport in transports:
            upstream = Upstream(pace)
            upstream.connection_made(transport)  # type: ignore[arg-type]
            upstream.data_received(post(PATH, gateway.STREAM_BODY))
        await asyncio.sleep(10 / TOKENS_PER_S)
        transports[0].closing = True
        count = len(transports[0].written)
        await asyncio.sleep(2 / TOKENS_PER_S)
        assert len(transports[0].written) == count
        return transports

    seen = _Seen()
    for transport in asyncio.run(scene()):
        head, *events = transport.written
        assert Parsed(head + b"".join(events) + b"0\r\n\r\n").done == 1
        assert len(events) >= 8
        before = len(seen.late_s)
        seen.note(b"".join(events))
        assert len(seen.late_s) - before == len(events)
    assert all(late_s >= 0.0 for late_s in seen.late_s)
