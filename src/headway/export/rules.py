"""What is the same for every proxy: the servers behind it, the balancing nearest to a policy, and what is unsaid."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from headway.errors import HeadwayError
from headway.gateway.choose import depth
from headway.gateway.declare import KINDS, GatewayOptions, Upstream, checked
from headway.policy.routing import Router
from headway.policy.token_routing import token_router

SESSION_HEADER: Final = "x-session-id"
"""What says which requests belong together."""
ROUTE_HEADER: Final = "x-headway-route"
"""Where an answer says which upstream it is from."""
BUSY: Final = (502, 503, 504)
"""Answers of an upstream that cannot take a request now, and that every proxy can try again elsewhere."""
PATHS: Final = "^/v1/(chat/completions|completions|models((/|%2[Ff])[A-Za-z0-9_-][A-Za-z0-9._:-]*)*)$"
"""What engines are asked for through a gateway. Whoever may do that may not do all else that engines offer: no part of
a model's name begins with a dot, or leads out of where it stands.
"""
ROOTS: Final = "/etc/ssl/certs/ca-certificates.crt"
"""Whom proxies trust to certify upstreams, where Debian and its kin keep them."""

_WEIGHT_ERROR: Final = 0.02
"""By how much whole weights may miss the ratio of two speeds before larger ones are taken."""


class Balance(StrEnum):
    """The kinds of balancing that proxies know."""

    RANDOM = "random"
    TURNS = "turns"
    SAMPLE = "sample"
    LEAST = "least"
    HASH = "hash"


NEAREST: Final[dict[str, tuple[Balance, bool]]] = {
    "random": (Balance.RANDOM, False),
    "weighted-random": (Balance.RANDOM, True),
    "round-robin": (Balance.TURNS, False),
    "weighted-round-robin": (Balance.TURNS, True),
    "power-of-d": (Balance.SAMPLE, True),
    "least-outstanding": (Balance.LEAST, True),
    "least-loaded": (Balance.LEAST, True),
    "jbsq": (Balance.LEAST, True),
    "central": (Balance.LEAST, True),
    "consistent-hash": (Balance.HASH, True),
}
"""What proxies know of policies, and whether they are told speeds; for all others the least of their own requests."""

_BY_REPORTS: Final = ("power-of-d", "least-loaded")
_HOST: Final = re.compile(r"[A-Za-z0-9._:-]+")
"""What may stand in a configuration as it is."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A configuration, and what of the rules it was made from it does not say, one sentence each."""

    text: str
    unsaid: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Server:
    """An upstream as proxies see it. `name`: what the header `host` says; `health_path`: where its health is asked."""

    name: str
    address: str
    host: str
    port: int
    tls: bool
    weight: int
    in_flight: int
    health_path: str | None


@dataclass(frozen=True, slots=True)
class Rules:
    """What every proxy is told. `health_path`: of those servers that have one, None where none has."""

    servers: tuple[Server, ...]
    balance: Balance
    policy: Router
    health_path: str | None
    unsaid: tuple[str, ...]

    @property
    def weighted(self) -> bool:
        """Whether servers differ in what they get."""
        return len({server.weight for server in self.servers}) > 1


def rules(upstreams: Iterable[Upstream], options: GatewayOptions, most_weight: int) -> Rules:
    """Return what a proxy whose weights go up to `most_weight` is told.

    Raises HeadwayError for a policy that is not known, and for upstreams that a proxy cannot stand in front of.
    """
    found = checked(upstreams)
    _refuse(found, options)
    try:
        policy = token_router(options.policy)
    except ValueError as error:
        raise HeadwayError(f"export: {error}") from None
    balance, weighted = NEAREST.get(options.policy, (Balance.LEAST, True))
    weights = whole_weights([upstream.speed for upstream in found], most_weight) if weighted else [1] * len(found)
    servers = tuple(_server(upstream, weight, depth(policy)) for upstream, weight in zip(found, weights, strict=True))
    path = next((server.health_path for server in servers if server.health_path), None)
    return Rules(servers, balance, policy, path, tuple(_unsaid(found, options)))


def whole_weights(speeds: Sequence[float], most: int) -> list[int]:
    """Return the smallest whole weights whose ratios are those of the speeds, within 2 % where `most` allows.

    >>> whole_weights([1.0, 1.5, 3.0], most=256)
    [2, 3, 6]
    """
    least, largest = min(speeds), max(speeds)
    scales = [scale for scale in range(1, most + 1) if round(scale * largest / least) <= most]
    for scale in scales:
        exact = [scale * speed / least for speed in speeds]
        if all(abs(round(weight) - weight) <= _WEIGHT_ERROR * weight for weight in exact):
            return [round(weight) for weight in exact]
    return [max(1, round(most * speed / largest)) for speed in speeds]


def one_scheme(servers: Sequence[Server], proxy: str) -> bool:
    """Return whether servers are reached by TLS. Raises HeadwayError where some are and some are not."""
    if len({server.tls for server in servers}) > 1:
        raise HeadwayError(f"export: {proxy} reaches all upstreams by http or all by https; export two configurations")
    return servers[0].tls


def span(seconds: float, unit: str = "ms") -> str:
    """Return a time in the words of HAProxy and NGINX, or with `unit` s in Envoy's.

    >>> span(0.25), span(600.0), span(0.25, "s")
    ('250ms', '600s', '0.250s')
    """
    whole, rest = divmod(math.ceil(1e3 * seconds), 1000)
    if rest == 0:
        return f"{whole}s"
    return f"{whole}.{rest:03d}s" if unit == "s" else f"{1000 * whole + rest}ms"


def silence_s(options: GatewayOptions) -> float:
    """Return how long an upstream may be silent, before its first token and after it: proxies have one limit."""
    return max(options.first_token_s, options.stall_s)


def heading(proxy: str, unsaid: Sequence[str]) -> str:
    """Return the comment at the top of a configuration: what it is, and what it does not say."""
    lines = [f"# {proxy}, as a Headway gateway would route. What it does not say:", *(f"# - {one}" for one in unsaid)]
    return "\n".join(lines if unsaid else [f"# {proxy}, as a Headway gateway would route."]) + "\n"


def _server(upstream: Upstream, weight: int, deep: float) -> Server:
    host, port, tls = upstream.address
    kind = KINDS[upstream.kind]
    bracketed = f"[{host}]" if ":" in host else host
    address, in_flight = f"{bracketed}:{port}", math.ceil(deep * upstream.max_in_flight)
    return Server(upstream.authority, address, host, port, tls, weight, in_flight, kind.health_path)


def _refuse(upstreams: Sequence[Upstream], options: GatewayOptions) -> None:
    if not 0 < options.port < 65536:
        raise HeadwayError(f"export: the port is {options.port}; say on which one, from 1 to 65535, the proxy listens")
    addresses = [upstream.address for upstream in upstreams]
    for host in (options.host, *(address[0] for address in addresses)):
        if not _HOST.fullmatch(host):
            raise HeadwayError(f"export: {host!r} is not the name or the address of a host")
    for upstream in upstreams:
        if upstream.base:
            raise HeadwayError(
                f"export: upstream {upstream.name} is below the path {upstream.base}; a proxy sends every upstream the "
                "path that it was asked for, so give the upstream's root"
            )
        if addresses.count(upstream.address) > 1:
            raise HeadwayError(f"export: two upstreams are at {upstream.authority}; a proxy knows them by that")


def _unsaid(upstreams: Sequence[Upstream], options: GatewayOptions) -> Iterable[str]:
    reporting = [upstream for upstream in upstreams if KINDS[upstream.kind].metrics_path]
    if options.policy not in NEAREST:
        yield f"the policy {options.policy}: a request goes where the fewest of this proxy's own are, per unit of speed"
    elif options.policy in _BY_REPORTS and reporting:
        yield "what engines report of their load: this proxy goes by the requests that it has sent itself"
    if options.policy == "consistent-hash":
        yield f"which requests belong together, unless they carry the header {SESSION_HEADER}"
    if options.order != "fcfs":
        yield f"the order {options.order}: requests that wait go in the order in which they came"
    if options.priority:
        yield "how urgent a request is: vLLM is not told"
    if options.token is not None or options.keys:
        yield "who may use it: neither keys nor their limits are asked for"
    tokens = [upstream.name for upstream in upstreams if upstream.token is not None]
    if tokens:
        yield (
            f"the bearer token of {', '.join(tokens)}: a secret does not belong here, add the header where it is safe; "
            "that of a client is not passed on"
        )
    if len({upstream.models for upstream in upstreams if upstream.models}) > 1:
        yield "which upstream serves which model: a request goes to any"
    if options.first_token_s != options.stall_s:
        yield f"two limits for silence: {span(silence_s(options))} holds before the first token and after it"
