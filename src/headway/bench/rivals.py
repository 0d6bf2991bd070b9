"""Headway's server and those that it is measured against, each set up as its documentation says.

They get the same model classes, workers, threads and batches, and each is a session of its own: Linux shares busy cores
between sessions, so that one started with less would get less of them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from headway.bench.served import Case
from headway.errors import HeadwayError

PATH = "/predict"
BATCH_WAIT_S = 0.005
"""How long the others wait for a batch to fill; not at all makes the worker of LitServe spin."""
START_S = 180.0
STOP_S = 30.0
HEADWAY = "headway"


RIVALS: Mapping[str, str] = {
    "ray-serve": "headway.bench.rival_ray",
    "ray-serve-tuned": "headway.bench.rival_ray",
    "litserve": "headway.bench.rival_litserve",
}
"""Modules that serve a case until SIGTERM, or until their standard input is closed: `python -m MODULE CASE PORT`."""

PACKAGES: dict[str, str] = {"headway.bench.rival_ray": "ray", "headway.bench.rival_litserve": "litserve"}
"""What has to be installed for a rival's module."""

MODULES = {HEADWAY: "headway.bench.ours", **RIVALS}

TUNED = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
"""The switches that Ray's documentation names for throughput: HAProxy in front, calls over gRPC behind."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server under way: its URL, the path of inference, and the session that its processes form."""

    url: str
    path: str
    session: int

    def cpu_s(self) -> float | None:
        """Return the CPU time that its processes have taken so far, in seconds; None where there is no /proc."""
        proc = Path("/proc")
        if not (proc / "self" / "stat").exists():
            return None
        ticks = 0
        for stat in proc.glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # a process that ends meanwhile
                # proc(5): after the name, the session is field 4, and 12 to 15 are ticks, of ended children too.
                fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                if int(fields[3]) == self.session:
                    ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(name: str, case: Case) -> Iterator[Server]:
    """Start a server as a session of its own and yield it once it answers; stop it, and what it started.

    Raises HeadwayError when it is not installed, or does not start.
    """
    needed = PACKAGES.get(MODULES[name])
    if needed is not None and importlib.util.find_spec(needed) is None:
        raise HeadwayError(f"{needed} is not installed; `make bench` installs it (extra bench)")
    port = _free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", MODULES[name], case.name, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **(TUNED if name == "ray-serve-tuned" else {})},
        start_new_session=True,
    )
    path = f"/v2/models/{case.name}/infer" if name == HEADWAY else PATH
    server = Server(f"http://127.0.0.1:{port}", path, process.pid)
    try:
        _wait(name, case, server, process)
        yield server
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stderr):
            if pipe is not None:
                pipe.close()


def _wait(name: str, case: Case, server: Server, process: subprocess.Popen[bytes]) -> None:
    import httpx

    end_s = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < end_s:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.post(server.url + server.path, content=case.body(), timeout=30.0).status_code == 200:
                return
        time.sleep(0.2)
    process.kill()
    said = process.stderr.read().decode(errors="replace").strip() if process.stderr is not None else ""
    # The last line is the error itself; what is before it says where.
    last = said.splitlines()[-1][-400:] if said else "it says nothing"
    raise HeadwayError(f"{name} does not answer {case.name}: {last}")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
