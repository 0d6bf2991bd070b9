"""The servers that Headway's is measured against, each set up as its documentation says, as processes of their own.

They get the same model classes, workers, threads and batches.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

from headway.bench.served import Case
from headway.errors import HeadwayError

PATH = "/predict"
BATCH_WAIT_S = 0.005
"""How long the others wait for a batch to fill; not at all makes the worker of LitServe spin."""
START_S = 180.0
STOP_S = 30.0


RIVALS: Mapping[str, str] = {
    "ray-serve": "headway.bench.rival_ray",
    "ray-serve-tuned": "headway.bench.rival_ray",
    "litserve": "headway.bench.rival_litserve",
}
"""Modules that serve a case until SIGTERM: `python -m MODULE CASE PORT`."""

TUNED = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
"""The switches that Ray's documentation names for throughput: HAProxy in front, calls over gRPC behind."""


@contextlib.contextmanager
def running(name: str, case: Case) -> Iterator[str]:
    """Start a server as a process of its own and yield its URL once it answers; stop it, and what it started.

    Raises HeadwayError when it does not start.
    """
    port = _free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", RIVALS[name], case.name, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **(TUNED if name == "ray-serve-tuned" else {})},
        start_new_session=True,
    )
    try:
        _wait(name, case, port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def _wait(name: str, case: Case, port: int, process: subprocess.Popen[bytes]) -> None:
    import httpx

    end_s = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < end_s:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.post(f"http://127.0.0.1:{port}{PATH}", content=case.body(), timeout=30.0).status_code == 200:
                return
        time.sleep(0.2)
    process.kill()
    said = process.stderr.read().decode(errors="replace")[-400:] if process.stderr is not None else ""
    raise HeadwayError(f"bench: {name} does not answer {case.name}: {said.strip()}")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
