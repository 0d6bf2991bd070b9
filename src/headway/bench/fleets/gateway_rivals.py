"""The gateway, and the proxies that it is measured against: one process each, on one core, before the same upstreams.

NGINX and HAProxy are Debian packages (`apt install nginx haproxy`); where one is not installed it is left out.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from headway.bench.rivals import Server
from headway.bench.tied import tied
from headway.errors import HeadwayError

HEADWAY, NGINX, HAPROXY, NONE = "headway", "nginx", "haproxy", "none"
PATH: Final = "/v1/chat/completions"
UPSTREAMS: Final = 4
START_S: Final = 60.0

_NGINX: Final = """\
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream all {{
    zone all 64k; random two least_conn;
    {servers}
    keepalive 2048; keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://all; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""
_HAPROXY: Final = """\
global
  maxconn 8192
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend in
  bind 127.0.0.1:{port} backlog 4096
  default_backend all
backend all
  balance random(2)
  http-reuse always
  {servers}
"""


def installed(name: str) -> bool:
    """Whether a proxy can be run here."""
    return name in (HEADWAY, NONE) or binary(name) is not None


def binary(name: str) -> str | None:
    """Return where a proxy's program is, None where it is not installed."""
    # Debian puts servers where only the administrator's path looks.
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def upstreams(core: int | None) -> Iterator[list[int]]:
    """Start the upstreams, on one core; yield their ports."""
    ports = [free_port() for _ in range(UPSTREAMS)]
    command = [sys.executable, "-m", "headway.bench.fleets.gateway_upstream", *map(str, ports)]
    with _process(command, ports[-1], core):
        yield ports


@contextlib.contextmanager
def proxy(name: str, ports: Sequence[int], core: int | None) -> Iterator[Server]:
    """Start a proxy before upstreams, on one core, and stop it; `none` stands for the first upstream itself.

    Raises HeadwayError when it does not start.
    """
    if name == NONE:
        yield Server(f"http://127.0.0.1:{ports[0]}", PATH, -1)
        return
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="headway-bench-") as folder,
        _process(_command(name, ports, port, Path(folder)), port, core) as process,
    ):
        yield Server(f"http://127.0.0.1:{port}", PATH, process.pid)


def _command(name: str, ports: Sequence[int], port: int, folder: Path) -> list[str]:
    if name == HEADWAY:
        each = [f"--upstream=http://127.0.0.1:{one},kind=hosted,models=small,in-flight=2048" for one in ports]
        more = ["--port", str(port), "--policy", "power-of-d", "--end-with-stdin"]
        return [sys.executable, "-m", "headway.gateway", *each, *more]
    found = binary(name)
    if found is None:
        raise HeadwayError(f"bench: {name} is not installed; it is the Debian package {name}")
    config = folder / f"{name}.conf"
    if name == NGINX:
        servers = " ".join(f"server 127.0.0.1:{one};" for one in ports)
        config.write_text(_NGINX.format(folder=folder, port=port, servers=servers), encoding="utf-8")
        return tied([found, "-c", str(config), "-p", str(folder)])
    servers = "\n  ".join(f"server s{one} 127.0.0.1:{one}" for one in ports)
    config.write_text(_HAPROXY.format(port=port, servers=servers), encoding="utf-8")
    return tied([found, "-f", str(config), "-db"])


@contextlib.contextmanager
def _process(command: Sequence[str], port: int, core: int | None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own until its port answers; end it afterwards.

    When this process is killed, those of our own end as their standard input is closed, all others as they are `tied`.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
        )
        try:
            if core is not None:
                os.sched_setaffinity(process.pid, {core})
            end_s = time.monotonic() + START_S
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > end_s:
                    errors.seek(0)
                    said = errors.read().decode(errors="replace").strip()[-400:]
                    raise HeadwayError(f"bench: {command[0]} does not start: {said}")
                time.sleep(0.02)
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10.0)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdin is not None:
                process.stdin.close()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
