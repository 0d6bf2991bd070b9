"""A tuner as a process of its own beside a server, for as long as the server lets requests in.

It is `headway tune --url`, and no thread of the server: whenever it looked, requests would wait for the interpreter.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from headway.serve.run import TOKEN_VARIABLE

END_S = 10.0
"""How long a tuner may take to write down what came of its last decisions."""
_STDERR = 2


@contextlib.asynccontextmanager
async def tuner_beside(
    url: str,
    arguments: Sequence[str],
    *,
    token: str | None = None,
    folder: Path | None = None,
    warn: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> AsyncIterator[None]:
    """Run `headway tune` with these arguments on the server at `url` for the length of the block.

    It works in `folder`, else in the present one, and prints on standard error. One that ends by itself, with an error,
    is told to `warn`: the server goes on without it.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "headway", "tune", *arguments, "--url", url),
        stdout=_STDERR,
        cwd=folder,
        env={**os.environ, "HEADWAY_JSON": "0", **({} if token is None else {TOKEN_VARIABLE: token})},
    )
    watching = asyncio.create_task(_watch(process, warn))
    try:
        yield
    finally:
        watching.cancel()
        await _end(process)


async def _watch(process: asyncio.subprocess.Process, warn: Callable[[str], None]) -> None:
    code = await process.wait()
    if code:
        warn(f"the tuner has ended with exit code {code}; the plan is served on without it")


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process, by force when it takes too long or the server is told to end at once."""
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
