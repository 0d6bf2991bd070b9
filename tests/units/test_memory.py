"""What a burst took is given back when it has passed, and nothing is done while it lasts or when nothing was taken."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from headway.serve import memory
from headway.testing.live import run_virtual

MB = 1 << 20
BURST = """
from headway.serve.memory import release
from headway.serve.system import resident_bytes
release()
before = resident_bytes()
held = [bytearray(60_000) for _ in range(500)]
last = bytearray(60_000)  # at the end of the heap, so that what lies before it cannot be given back by itself
during = resident_bytes()
del held
kept = resident_bytes()
if not release():
    raise SystemExit(77)
print(before, during, kept, resident_bytes())
"""


def test_memory_that_lies_free_is_given_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", BURST], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 77:
        pytest.skip("the C library cannot give memory back")
    before, during, kept, after = map(int, done.stdout.split())
    assert during - before > 25 * MB
    assert kept - before > 25 * MB, "the library gave it back by itself: the test shows nothing"
    assert after - before < 5 * MB


@pytest.mark.parametrize(
    ("in_flight", "resident_mb", "released_at"),
    [
        pytest.param([0, 0, 0, 0, 0], [50, 50, 50, 50, 50], [], id="nothing was taken"),
        pytest.param([4, 400, 400, 400, 400], [50, 90, 90, 90, 90], [], id="the burst lasts"),
        pytest.param([4, 400, 400, 90, 4], [50, 90, 90, 90, 90], [4], id="the burst has passed"),
        pytest.param([0, 1, 0, 0, 1], [50, 80, 80, 80, 80], [3], id="few large requests"),
        pytest.param([400, 4, 4, 1, 4], [90, 90, 90, 95, 95], [2, 4], id="once for each growth"),
    ],
)
def test_memory_is_given_back_once_when_a_burst_has_passed(
    monkeypatch: pytest.MonkeyPatch, in_flight: list[int], resident_mb: list[int], released_at: list[int]
) -> None:
    released: list[int] = []

    def second() -> int:
        return round(asyncio.get_running_loop().time())

    def resident() -> int:
        return MB * [50, *resident_mb][second()]

    def release() -> bool:
        released.append(second())
        return True

    monkeypatch.setattr(memory, "resident_bytes", resident)
    monkeypatch.setattr(memory, "release", release)

    async def main() -> None:
        async with memory.given_back(lambda: in_flight[second() - 1]):
            await asyncio.sleep(memory.LOOK_S * len(in_flight) + 0.4)

    run_virtual(main)
    assert released == [0, *released_at]


def test_where_the_library_cannot_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_malloc_trim", lambda: None)
    assert not memory.release()

    async def main() -> None:
        async with memory.given_back(lambda: pytest.fail("nobody should ask")):
            await asyncio.sleep(10 * memory.LOOK_S)

    run_virtual(main)
