"""A worker's operating-system process: how it is started, and that it is ended and reaped whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import IO

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
)

EXIT_GRACE_S = 1.0
"""How long a process that was told to end may take before it is killed."""


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a worker process: this one's, with every numeric library limited to `threads`.

    >>> environment(2)["OMP_NUM_THREADS"]
    '2'
    """
    return {**os.environ, **thread_limits(threads)}


def thread_limits(threads: int) -> dict[str, str]:
    """Return the part of an environment that limits every numeric library to `threads`."""
    # Threads that spin while they wait take the cores of other replicas.
    quiet = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
    return {**dict.fromkeys(_THREAD_VARIABLES, str(threads)), **quiet}


class Process:
    """A started `headway.serve.child` that was given open files. Raises OSError when it cannot be started.

    It has a process group of its own, so that Ctrl-C reaches only us and what it started itself goes with it.
    """

    def __init__(self, descriptors: Sequence[int], threads: int) -> None:
        # -P: the working directory is not a place to import from.
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-u", "-X", "faulthandler", "-m", "headway.serve.child", *map(str, descriptors)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=descriptors,
            env=environment(threads),
            process_group=0,
        )
        assert self._popen.stdout is not None
        self.pid = self._popen.pid
        self.output: IO[bytes] = self._popen.stdout
        """What it prints, standard error included."""

    @property
    def code(self) -> int | None:
        """The exit status once the process was seen to have ended and reaped; negative: the signal that ended it."""
        return self._popen.returncode

    def how(self) -> str:
        """Return how it ended, in words."""
        if self.code is not None and self.code < 0:
            return f"died of signal {signal.Signals(-self.code).name}"
        return f"exited with code {self.code}"

    def kill(self) -> None:
        """Kill the process and whatever it started; as long as it is not reaped, its group's number is its own."""
        if self._popen.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    async def end(self, grace_s: float, terminate: bool = False) -> None:
        """Wait for its end, at most `grace_s`, then terminate it if asked to, then kill it; it is reaped on return.

        Whoever is called off here may have no later moment: the process is then killed and waited for at once.
        """
        try:
            if await self._exited(grace_s):
                return
            if terminate:
                self._popen.terminate()
                if await self._exited(EXIT_GRACE_S):
                    return
            self.kill()
            await self._exited(None)
        except asyncio.CancelledError:
            self.kill()
            self._popen.wait()
            raise

    async def _exited(self, timeout_s: float | None) -> bool:
        """Whether the process has ended (and been reaped) within the time."""
        clock = asyncio.get_running_loop().time
        end_s = None if timeout_s is None else clock() + timeout_s
        pause_s = 0.001
        while self._popen.poll() is None:
            if end_s is not None and clock() >= end_s:
                return False
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.05)
        return True
