"""NGINX: a file for the `http` context, such as one in /etc/nginx/conf.d. Written for open-source NGINX from 1.22 on.

NGINX has no queue in front of its upstreams, so what they have no room for is refused with 429.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from headway.export.rules import (
    BUSY,
    PATHS,
    ROOTS,
    ROUTE_HEADER,
    SESSION_HEADER,
    Balance,
    Exported,
    Rules,
    Server,
    heading,
    one_scheme,
    rules,
    silence_s,
    span,
)
from headway.gateway.declare import GatewayOptions, Upstream

MOST_WEIGHT = 100

_UNSAID = (
    "a queue: what its upstreams have no room for is refused with 429 at once, or with 502 while one of them is down",
    "health checks: an upstream is left alone after requests have failed there",
    "slow starts: an upstream that is back gets its full share at once",
    "a deadline for a whole answer: only how long it may be silent",
)
_RETRIED = ("error", "timeout", "invalid_header", "http_429", *(f"http_{one}" for one in BUSY), "non_idempotent")


def nginx(upstreams: Iterable[Upstream], options: GatewayOptions) -> Exported:
    """Return a file for the `http` context. Raises HeadwayError as `rules` does."""
    found = rules(upstreams, options, MOST_WEIGHT)
    tls = one_scheme(found.servers, "NGINX")
    unsaid = (*found.unsaid, *_beyond(found, tls))
    parts = [heading("NGINX (for its http context)", unsaid), *_outside(found)]
    parts.append(_block("upstream engines", _upstream(found, options)))
    parts.append(_block("server", _server(found, options, tls)))
    return Exported("\n".join(parts), unsaid)


def _beyond(found: Rules, tls: bool) -> Iterator[str]:
    yield from _UNSAID
    if found.balance is Balance.SAMPLE and found.policy.choices != 2:
        yield f"the better of {found.policy.choices} upstreams: it takes the better of two"
    if found.balance is Balance.HASH:
        yield f"the bound of {found.policy.bound:g} times its share that an upstream may have"
    if tls and len({server.host for server in found.servers}) > 1:
        yield f"the names of its upstreams: all are asked as {found.servers[0].host}"


def _outside(found: Rules) -> Iterator[str]:
    yield "limit_conn_zone $server_port zone=headway:64k;\n"
    if found.balance is Balance.HASH:
        session = "$http_" + SESSION_HEADER.replace("-", "_")
        yield _block(f"map {session} $headway_key", ['"" $request_id;', f"default {session};"])


def _upstream(found: Rules, options: GatewayOptions) -> Iterator[str]:
    yield "zone engines 256k;"
    method = _method(found)
    if method:
        yield f"{method};"
    for server in found.servers:
        yield " ".join(_one(server, found, options)) + ";"
    yield f"keepalive {sum(server.in_flight for server in found.servers)};"


def _method(found: Rules) -> str:
    return {
        Balance.RANDOM: "random",
        Balance.TURNS: "",
        Balance.SAMPLE: "random two least_conn",
        Balance.LEAST: "least_conn",
        Balance.HASH: "hash $headway_key consistent",
    }[found.balance]


def _one(server: Server, found: Rules, options: GatewayOptions) -> Iterator[str]:
    yield f"server {server.address} max_conns={server.in_flight}"
    if found.weighted:
        yield f"weight={server.weight}"
    # In whole seconds, as it takes them.
    yield f"max_fails={options.failures} fail_timeout={math.ceil(options.open_s)}s"


def _server(found: Rules, options: GatewayOptions, tls: bool) -> Iterator[str]:
    host = f"[{options.host}]" if ":" in options.host else options.host
    yield f"listen {host}:{options.port};"
    yield f"client_max_body_size {options.http.max_body_bytes};"
    yield f"limit_conn headway {sum(server.in_flight for server in found.servers)};"
    yield "limit_conn_status 429;"
    yield "error_page 429 = @busy;"
    yield from _block("location /", ["return 404;"]).splitlines()
    yield from _block(f"location ~ {PATHS}", _location(found, options, tls)).splitlines()
    yield from _block("location @busy", ["internal;", "add_header retry-after 1 always;", "return 429;"]).splitlines()


def _location(found: Rules, options: GatewayOptions, tls: bool) -> Iterator[str]:
    yield f"proxy_pass {'https' if tls else 'http'}://engines;"
    yield "proxy_http_version 1.1;"
    yield 'proxy_set_header connection "";'
    yield 'proxy_set_header authorization "";'
    if tls:
        yield f"proxy_set_header host {found.servers[0].name};"
        yield f"proxy_ssl_name {found.servers[0].host};"
        yield "proxy_ssl_server_name on;"
        yield "proxy_ssl_verify on;"
        yield f"proxy_ssl_trusted_certificate {ROOTS};"
    # A stream is passed on as it comes; a request is kept whole, so that it can be sent again.
    yield "proxy_buffering off;"
    yield "proxy_request_buffering on;"
    yield f"proxy_connect_timeout {span(options.connect_s)};"
    yield f"proxy_read_timeout {span(silence_s(options))};"
    if options.attempts > 1:
        yield f"proxy_next_upstream {' '.join(_RETRIED)};"
        yield f"proxy_next_upstream_tries {options.attempts};"
    else:
        yield "proxy_next_upstream off;"
    yield f'add_header {ROUTE_HEADER} "$upstream_addr; {_method(found) or "round robin"}" always;'


def _block(name: str, lines: Iterable[str]) -> str:
    return "\n".join([f"{name} {{", *(f"    {line}" for line in lines), "}"]) + "\n"
