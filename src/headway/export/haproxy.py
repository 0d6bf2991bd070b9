"""HAProxy: its own queue in front of servers with a bounded number in flight. Written for HAProxy 2.6 and later."""

from __future__ import annotations

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
    rules,
    silence_s,
    span,
)
from headway.gateway.declare import GatewayOptions, Upstream

MOST_WEIGHT = 256

_UNSAID = (
    "a deadline for a whole answer: only how long it may be silent",
    "that an upstream which answers 502, 503 or 504 is left alone: only one that cannot be reached, or is not well",
    "that a request is tried again when an upstream answers 429, or when its body is larger than one buffer (16 KiB)",
)


def haproxy(upstreams: Iterable[Upstream], options: GatewayOptions) -> Exported:
    """Return a whole configuration. Raises HeadwayError as `rules` does."""
    found = rules(upstreams, options, MOST_WEIGHT)
    unsaid = (*found.unsaid, *_UNSAID)
    sections = {
        "defaults": _defaults(options),
        "frontend headway": _frontend(options),
        "backend engines": _backend(found, options),
    }
    parts = [heading("HAProxy", unsaid)]
    for name, lines in sections.items():
        parts.append("\n".join([name, *(f"    {line}" for line in lines)]) + "\n")
    return Exported("\n".join(parts), unsaid)


def _defaults(options: GatewayOptions) -> Iterator[str]:
    yield "mode http"
    yield f"timeout connect {span(options.connect_s)}"
    yield f"timeout client {span(silence_s(options))}"
    yield f"timeout server {span(silence_s(options))}"
    yield f"timeout queue {span(options.timeout_s)}"
    yield f"timeout check {span(options.connect_s)}"
    # An event of a stream leaves at once, and who has gone gives up a place.
    yield "option http-no-delay"
    yield "option abortonclose"
    yield f"retries {options.attempts - 1}"
    if options.attempts > 1:
        yield "option redispatch 1"
        yield f"retry-on conn-failure empty-response {' '.join(map(str, BUSY))}"


def _frontend(options: GatewayOptions) -> Iterator[str]:
    host = f"[{options.host}]" if ":" in options.host else options.host
    yield f"bind {host}:{options.port}"
    yield f"http-request deny deny_status 413 if {{ req.body_size gt {options.http.max_body_bytes} }}"
    yield f"http-request deny deny_status 404 unless {{ path_reg {PATHS} }}"
    yield "http-request del-header authorization"
    full = f"{{ queue(engines) ge {options.queue_limit} }}"
    yield f"http-request return status 429 hdr retry-after 1 if {full}"
    yield "default_backend engines"


def _backend(found: Rules, options: GatewayOptions) -> Iterator[str]:
    algorithm = {
        Balance.RANDOM: "random(1)",
        Balance.TURNS: "roundrobin",
        Balance.SAMPLE: f"random({found.policy.choices})",
        Balance.LEAST: "leastconn",
        Balance.HASH: f"hdr({SESSION_HEADER})",
    }[found.balance]
    yield f"balance {algorithm}"
    if found.balance is Balance.HASH:
        yield "hash-type consistent"
        yield f"hash-balance-factor {round(100 * found.policy.bound)}"
    # Servers are called by the names under which they are to be asked.
    yield "http-send-name-header host"
    yield f'http-response set-header {ROUTE_HEADER} "%s; {algorithm}"'
    if found.health_path is not None:
        yield "option httpchk"
        yield f"http-check send meth GET uri {found.health_path}"
    yield f"default-server slowstart {span(options.slow_start_s)}"
    for server in found.servers:
        yield " ".join(_server(server, found, options))


def _server(server: Server, found: Rules, options: GatewayOptions) -> Iterator[str]:
    yield f"server {server.name.translate(_NAME)} {server.address} maxconn {server.in_flight}"
    if found.weighted:
        yield f"weight {server.weight}"
    if server.tls:
        yield f"ssl verify required ca-file {ROOTS} sni str({server.host})"
    if server.health_path is not None:
        yield f"check inter {span(options.health_every_s)} fall {options.failures} rise 1"
        # Not by its answers: that a request breaks an engine (500) says nothing of the others' requests.
        yield f"observe layer4 error-limit {options.failures} on-error mark-down"


_NAME = str.maketrans("[]", "__")
"""What a server's name cannot hold."""
