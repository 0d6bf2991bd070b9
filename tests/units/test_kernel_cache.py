"""Of processes that need a kernel at once one compiles it; a lock never keeps anybody from a kernel for good."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUMMING = """
from headway.sim.jit import kernel

@kernel
def total(n):
    found = 0
    for at in range(n):
        found += at
    return found
"""

WHEN_TOLD = """
import sys, summing
print("ready", flush=True)
sys.stdin.readline()
"""

CALL = """
from summing import total
print(total(5), sum(total.stats.cache_misses.values()), sum(total.stats.cache_hits.values()))
"""

LOCK = """
from pathlib import Path
from headway.sim.jit import cache_dir, held
lock = Path(cache_dir(), "summing.total.lock")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "summing.py").write_text(SUMMING, encoding="utf-8")
    return tmp_path


def started(folder: Path, code: str) -> subprocess.Popen[str]:
    """Start a process that finds the kernel, and the cache, in this folder."""
    env = {**os.environ, "PYTHONPATH": str(folder), "HEADWAY_CACHE_DIR": str(folder / "cache"), "HEADWAY_JIT": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def called(process: subprocess.Popen[str]) -> list[int]:
    """Return what the kernel returned, how often it was compiled, and how often loaded."""
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return [int(number) for number in out.split()]


def test_of_two_processes_one_compiles_and_the_other_loads(folder: Path) -> None:
    both = [started(folder, WHEN_TOLD + CALL) for _ in range(2)]
    for process in both:
        ready(process)
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert sorted(called(process) for process in both) == [[10, 0, 1], [10, 1, 0]]


def test_who_is_killed_while_compiling_leaves_the_kernel_to_others(folder: Path) -> None:
    killed = started(folder, LOCK + "with held(lock): print('ready', flush=True); input()")
    ready(killed)
    killed.kill()
    killed.communicate()
    assert called(started(folder, CALL)) == [10, 1, 0]


def test_a_lock_that_cannot_be_taken_is_no_obstacle(folder: Path) -> None:
    assert called(started(folder, LOCK + "lock.mkdir()" + CALL)) == [10, 1, 0]
