"""A tuner as a process of its own beside a server, for as long as the server lets requests in.

It is `headway tune --url`, and no thread of the server: whenever it looked, requests would wait for the interpreter.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from headway.serve.run import TOKEN_VARIABLE, BesideState

END_S = 10.0
"""How long a tuner may take to write down what came of its last decisions."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
"""How long it is waited before a tuner that died is started again: doubling, from the first up to the longest."""
STEADY_S = 300.0
"""A tuner that ran for so long is started again as if it had died for the first time."""
RUNNING, WAITING, ENDED = "running", "waiting", "ended"
_STDERR = 2


@dataclass(slots=True)
class _Kept:
    """The tuner beside a server: its process, and how it has fared so far. `again`: whether it may be started again."""

    command: Sequence[str]
    environment: dict[str, str]
    folder: Path | None
    warn: Callable[[str], None]
    again: bool
    process: asyncio.subprocess.Process | None = None
    state: str = WAITING
    restarts: int = 0
    why: str = ""

    def to_dict(self) -> BesideState:
        """Return how it fares, as `/stats` tells it."""
        pid = None if self.process is None or self.state != RUNNING else self.process.pid
        return {"state": self.state, "pid": pid, "restarts": self.restarts, "why": self.why}

    async def run(self) -> None:
        """Keep the tuner running until cancelled, or until it ends in order."""
        pause_s = FIRST_PAUSE_S
        while True:
            began_s = time.monotonic()
            code = await self._once()
            if code == 0 or not self.again:
                self.state = ENDED
                hint = "" if code == 0 else "; its trace came on standard input, so it cannot be started again"
                self.warn(f"{self.why}; the plan is served on without it{hint}")
                return
            if time.monotonic() - began_s >= STEADY_S:
                pause_s = FIRST_PAUSE_S
            self.state = WAITING
            self.warn(f"{self.why}; the plan is served on, and the tuner started again in {pause_s:g} s")
            await asyncio.sleep(pause_s)
            pause_s, self.restarts = min(2.0 * pause_s, LONGEST_PAUSE_S), self.restarts + 1

    async def end(self) -> None:
        """End the process, by force when it takes too long or the server is told to end at once."""
        process = self.process
        if process is None:
            return
        try:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), END_S)
        except TimeoutError:
            pass
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()

    async def _once(self) -> int | None:
        """Run the tuner until it ends; return its code, or None where it could not be started."""
        try:
            self.process = await asyncio.create_subprocess_exec(
                *self.command, stdout=_STDERR, cwd=self.folder, env=self.environment
            )
        except OSError as error:
            self.why = f"the tuner cannot be started: {error.strerror or error}"
            return None
        self.state = RUNNING
        code = await self.process.wait()
        self.why = f"the tuner has ended {_how(code)}"
        return code


@contextlib.asynccontextmanager
async def tuner_beside(
    url: str,
    arguments: Sequence[str],
    *,
    token: str | None = None,
    folder: Path | None = None,
    warn: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
    again: bool = True,
) -> AsyncIterator[Callable[[], BesideState]]:
    """Run `headway tune` with these arguments on the server at `url` for the length of the block.

    It works in `folder`, else in the present one, and prints on standard error. One that dies is started again, after
    pauses that grow, unless `again` is false; `warn` is told, and what the block is given says how the tuner fares.
    """
    shared = {} if token is None else {TOKEN_VARIABLE: token}
    kept = _Kept(
        (sys.executable, "-m", "headway", "tune", *arguments, "--url", url),
        {**os.environ, "HEADWAY_JSON": "0", **shared},
        folder,
        warn,
        again,
    )
    running = asyncio.create_task(kept.run())
    try:
        yield kept.to_dict
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await kept.end()


def _how(code: int) -> str:
    """How a process ended, by its return code.

    >>> _how(1), _how(-9)
    ('with exit code 1', 'by SIGKILL')
    """
    if code >= 0:
        return f"with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"by {signal.Signals(-code).name}"
    return f"by signal {-code}"
