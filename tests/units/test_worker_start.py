"""Worker processes as they begin and end, on either event loop: no file is closed twice, and nothing is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from headway.errors import WorkerDied
from headway.serve.model_ref import HardwareView, ModelRef, resolve
from headway.serve.printed import Printed
from headway.serve.process import Process
from headway.serve.replica import Replica
from headway.serve.run import fastest_loop
from headway.serve.wire import Payload
from headway.serve.worker import Worker
from headway.testing.live import run_virtual

LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, fastest_loop], ids=["asyncio", "fastest"])
NewLoop = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture
def ref(tmp_path: Path) -> ModelRef:
    (tmp_path / "model.py").write_text("class Echo:\n    def predict(self, batch):\n        return batch\n")
    return resolve("model.py:Echo", tmp_path)


async def called_off(ref: ModelRef, after: int) -> None:
    """Begin to start a worker, and let go of it after so many rounds of the event loop."""
    start = asyncio.ensure_future(Worker.start(ref, HardwareView("cpu"), log=lambda line: None))
    for _ in range(after):
        await asyncio.sleep(0)
    start.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait_for(start, 60.0)


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="looks at open files")
@LOOPS
def test_a_start_that_is_called_off_at_any_moment_closes_its_files_and_no_others(ref: ModelRef, loop: NewLoop) -> None:
    async def main() -> None:
        await called_off(ref, 1)  # an event loop opens a file of its own with the first connection
        for after in range(1, 9):
            before = sorted(os.listdir("/dev/fd"))
            await called_off(ref, after)
            # These take the numbers that have just become free, as the next worker's files would.
            others = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
            gc.collect()
            for other in others:
                os.close(other)
            assert sorted(os.listdir("/dev/fd")) == before

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


@LOOPS
def test_a_start_that_is_called_off_twice_leaves_no_process_behind(
    ref: ModelRef, loop: NewLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Process] = []

    def remember(descriptors: Sequence[int], threads: int) -> Process:
        made.append(Process(descriptors, threads))
        return made[-1]

    monkeypatch.setattr("headway.serve.worker.Process", remember)

    async def main() -> None:
        start = asyncio.ensure_future(Worker.start(ref, HardwareView("cpu"), log=lambda line: None))
        while not made:
            await asyncio.sleep(0)
        for _ in range(2):
            start.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await start
        assert made[0].code is not None

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


def test_a_replica_that_is_retired_twice_ends_the_worker_that_it_was_starting() -> None:
    async def main() -> int:
        begun, ended = asyncio.Event(), 0

        async def start() -> Worker:
            nonlocal ended
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.01)
                ended += 1
            raise AssertionError

        replica = Replica(start, 0.0)
        replica.keep(lambda r: None, lambda r: None)
        await begun.wait()
        first = asyncio.ensure_future(replica.retire())
        await asyncio.sleep(0)
        await asyncio.gather(first, replica.retire())
        return ended

    assert run_virtual(main) == 1


@LOOPS
def test_a_batch_for_a_worker_whose_death_is_not_known_yet_is_told_of_it(ref: ModelRef, loop: NewLoop) -> None:
    async def main() -> None:
        worker = await Worker.start(ref, HardwareView("cpu"))
        os.kill(worker.pid, signal.SIGKILL)
        while not worker._link._transport.is_closing():
            await asyncio.sleep(0)
        while worker.alive:
            with pytest.raises(WorkerDied, match="died of signal SIGKILL before it answered"):
                await worker.predict([Payload("text", b"a")])
        await worker.stop()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(main(), 60.0))


@LOOPS
def test_what_a_process_has_left_in_its_pipe_is_passed_on_even_by_a_loop_that_was_late(loop: NewLoop) -> None:
    async def main() -> list[str]:
        lines: list[str] = []
        read, write = os.pipe()
        printed = Printed(os.fdopen(read, "rb"), "[a] ", lines.append)
        os.write(write, b"one\ntwo")
        # As if a grandchild held the other end.
        await printed.ended(0.0)
        os.close(write)
        return lines

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(main()) == ["[a] one", "[a] two"]
