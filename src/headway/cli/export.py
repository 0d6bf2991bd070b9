"""`headway export`: hand a fleet's rules over to another proxy."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headway.cli.frame import Json, NoSeed, Output, Verb, duration, emit, say

if TYPE_CHECKING:
    from headway.gateway.declare import Upstream


class Proxy(StrEnum):
    """Whose configuration is written."""

    HAPROXY = "haproxy"
    NGINX = "nginx"
    ENVOY = "envoy"


def export(
    proxy: Annotated[Proxy, typer.Argument(metavar="PROXY", help="haproxy, nginx or envoy.")],
    plan: Annotated[
        Path | None,
        typer.Argument(metavar="[PLAN]", help="A plan, or a spec that says what runs, of a fleet with upstreams."),
    ] = None,
    upstream: Annotated[
        list[str] | None,
        typer.Option(
            "--upstream", metavar="URL[,WHAT=VALUE...]", help="Repeatable: as `python -m headway.gateway` has it."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", envvar="HEADWAY_HOST", help="Where it listens; loopback unless told otherwise.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", envvar="HEADWAY_PORT", min=1, max=65535, help="Port on which it listens.")
    ] = 8000,
    policy: Annotated[
        str | None, typer.Option("--policy", help="Which upstream gets a request (the plan's; least-outstanding).")
    ] = None,
    order: Annotated[
        str | None, typer.Option("--order", help="Of those that wait (the plan's; fcfs): proxies know fcfs alone.")
    ] = None,
    queue_limit: Annotated[int, typer.Option("--queue-limit", min=1, help="Requests that may wait; then 429.")] = 1024,
    timeout: Annotated[
        float, typer.Option("--timeout", parser=duration, metavar="TIME", help="How long an answer may take.")
    ] = "600s",  # type: ignore[assignment]
    first_token: Annotated[
        float, typer.Option("--first-token", parser=duration, metavar="TIME", help="Longest wait for a first token.")
    ] = "120s",  # type: ignore[assignment]
    stall: Annotated[
        float, typer.Option("--stall", parser=duration, metavar="TIME", help="Longest silence within an answer.")
    ] = "60s",  # type: ignore[assignment]
    attempts: Annotated[
        int, typer.Option("--attempts", min=1, help="Upstreams tried before the first byte of an answer.")
    ] = 3,
    max_body: Annotated[int, typer.Option("--max-body", min=1, metavar="MIB", help="Largest request body.")] = 32,
    seed: NoSeed = 0,
    output: Output = None,
    json: Json = False,
) -> None:
    """Write the configuration with which another proxy routes as the gateway would.

    Upstreams, weights by speed, requests in flight, queue, retries, health checks and timeouts; streams are passed on
    as they come. What the proxy cannot say stands at the top of the file, and on stderr.
    """
    from headway.export import export
    from headway.files import write_atomic
    from headway.gateway.declare import GatewayOptions
    from headway.serve.app import HttpLimits

    upstreams, planned = _fleet(plan, upstream)
    asked = {name: value for name, value in (("policy", policy), ("order", order)) if value is not None}
    options = GatewayOptions(
        host=host,
        port=port,
        queue_limit=queue_limit,
        timeout_s=timeout,
        first_token_s=first_token,
        stall_s=stall,
        attempts=attempts,
        http=HttpLimits(max_body_bytes=max_body * 2**20),
        **{**planned, **asked},
    )
    found = export(proxy.value, upstreams, options)
    for sentence in found.unsaid:
        say(f"{proxy.value} does not say: {sentence}")
    if output is not None:
        write_atomic(output, found.text)
    value = {"proxy": proxy.value, "text": found.text, "unsaid": list(found.unsaid)}
    emit(value, json, lambda: found.text if output is None else str(output))


def _fleet(plan: Path | None, upstreams: list[str] | None) -> tuple[tuple[Upstream, ...], dict[str, Any]]:
    from headway.errors import HeadwayError

    if (plan is None) == (not upstreams):
        raise HeadwayError("export: give a plan of a fleet, or its upstreams as --upstream; exactly one of the two")
    if plan is None:
        from headway.gateway.written import upstream_of

        return tuple(upstream_of(text) for text in upstreams or ()), {}
    from headway.cli.deployed import read_deployed
    from headway.export.plan import fleet_of

    return fleet_of(read_deployed(plan))


VERBS = (
    Verb(
        export,
        (
            "headway export haproxy plan.json > haproxy.cfg",
            "headway export haproxy --upstream http://gpu-1:8000 --upstream http://gpu-2:8000,speed=2 -o haproxy.cfg",
            "headway export nginx --upstream http://gpu-1:8000,in-flight=32 --policy power-of-d > headway.conf",
            "headway export envoy fleet.yaml --port 8080 > envoy.yaml",
        ),
    ),
)
