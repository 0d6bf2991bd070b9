"""Large payloads between the server and a worker: through shared memory, whole, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from headway.errors import ServeError, WorkerDied
from headway.serve import shared, wire
from headway.serve.model_ref import HardwareView, resolve
from headway.serve.shared import AREA_BYTES, FROM_BYTES, Shared
from headway.serve.wire import Batch, FrameReader, Payload
from headway.serve.worker import Worker

T = TypeVar("T")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shared memory without a name is Linux's")
MODEL = """
import os
class Reverse:
    def predict(self, batch):
        if batch == [b"exit"]:
            os._exit(3)
        return [part[::-1] for part in batch]
"""


def run(tmp_path: Path, what: Callable[[Worker], Awaitable[T]]) -> T:
    (tmp_path / "model.py").write_text(MODEL)

    async def main() -> T:
        worker = await Worker.start(resolve("model.py:Reverse", tmp_path), HardwareView("cpu"))
        try:
            return await what(worker)
        finally:
            await worker.stop()

    return asyncio.run(asyncio.wait_for(main(), 120.0))


def raw(*sizes: int) -> list[Payload]:
    return [Payload("raw", bytes(range(256)) * (size // 256) + bytes(size % 256)) for size in sizes]


def test_payloads_of_every_size_come_back_whole(tmp_path: Path) -> None:
    async def what(worker: Worker) -> None:
        for sizes in ((10,), (FROM_BYTES - 1,), (FROM_BYTES,), (3, 2 * FROM_BYTES, 5), (5_000_000, 1_000_001), (7,)):
            for render in (False, True):
                sent = raw(*sizes)
                found = await worker.predict(sent, render=render)
                assert [result.value.data for result in found if result.value] == [p.data[::-1] for p in sent]

    run(tmp_path, what)


def test_batches_that_are_under_way_at_once_do_not_overwrite_each_other(tmp_path: Path) -> None:
    async def what(worker: Worker) -> None:
        batches = [[Payload("raw", bytes([i]) * (FROM_BYTES + i))] for i in range(12)]
        found = await asyncio.gather(*(worker.predict(batch) for batch in batches))
        assert [f[0].value for f in found] == [batch[0] for batch in batches]

    run(tmp_path, what)


def test_the_memory_of_a_worker_that_died_is_given_back(tmp_path: Path) -> None:
    def held() -> int:
        return Path("/proc/self/maps").read_text().count("memfd:headway")

    async def what(worker: Worker) -> None:
        await worker.predict(raw(FROM_BYTES))
        assert held() == before + 1
        with pytest.raises(WorkerDied):
            await worker.predict([Payload("raw", b"exit")])
        await worker.wait()
        assert held() == before

    gc.collect()  # what other tests have left may go now, but not in between
    before = held()
    files = len(os.listdir("/proc/self/fd"))
    run(tmp_path, what)
    assert held() == before
    assert len(os.listdir("/proc/self/fd")) == files


def test_a_body_goes_through_the_memory_only_where_it_pays_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = shared.create()
    assert memory is not None
    mine, theirs = Shared(os.dup(memory), "server"), Shared(memory, "worker")
    got: list[bytes] = []
    reader = FrameReader(wire.to_worker_decoder, lambda m, body: got.append(body.payload(m.items[0]).data), theirs)
    for size in (1, FROM_BYTES, FROM_BYTES + 1):
        buffers: list[bytes] = []
        items = [wire.slot(*raw(size), buffers)]
        frame = wire.pack(Batch(1, items, False, 0.5), buffers, mine, may_share=size > 1)
        assert (len(frame) < size) == (size > 1)
        for at in range(0, len(frame), 7):
            part = frame[at : at + 7]
            reader.space()[: len(part)] = part
            reader.filled(len(part))
        assert reader.may_share == (size > 1)
        assert got[-1] == raw(size)[0].data
    monkeypatch.setattr(wire, "AREA_BYTES", 10)
    assert len(wire.pack(Batch(1, [], False, 0.5), [bytes(FROM_BYTES)], mine)) > FROM_BYTES
    mine.close()
    theirs.close()


def test_a_frame_that_points_outside_the_memory_is_refused() -> None:
    header = wire.pack(Batch(1, [], False, 0.5))[12:]
    memory = shared.create()
    assert memory is not None
    for area, size, says in (
        (None, FROM_BYTES, "there is none"),
        (Shared(memory, "worker"), AREA_BYTES + 1, "not fit"),
    ):
        reader = FrameReader(wire.to_worker_decoder, lambda m, body: None, area)
        frame = wire._PREFIX.pack(len(header), size | wire._IN_SHARED) + header
        reader.space()[: len(frame)] = frame
        with pytest.raises(ServeError, match=says):
            reader.filled(len(frame))


def test_a_rare_large_body_does_not_hold_its_memory_for_good() -> None:
    descriptor = shared.create()
    assert descriptor is not None
    seen = os.dup(descriptor)
    server, worker = Shared(os.dup(descriptor), "server"), Shared(descriptor, "worker")
    large, small = bytes(8 * 2**20), bytes(range(256)) * 1024
    for side in (server, worker):
        side.put([large])
        for _ in range(2 * shared.KEPT_BODIES):
            side.put([small])
    assert os.fstat(seen).st_blocks * 512 == 2 * len(small)
    assert server.body(len(small)) == worker.body(len(small)) == small
    os.close(seen)
    server.close()
    worker.close()
