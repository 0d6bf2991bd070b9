"""What a gateway is told: the upstreams it stands in front of, who may use it, and its limits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from headway.errors import ServeError, nearest
from headway.serve.app import HttpLimits
from headway.serve.run import MAX_CONNECTIONS

OPERATOR: Final = "token"
"""Under which name whoever runs the gateway is counted, who shows its own token."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What is known of a kind of engine: where it tells whether it is well, and how much it has to do.

    `priority`: a request may say how urgent it is.
    """

    health_path: str | None
    metrics_path: str | None
    priority: bool = False


KINDS: Final[Mapping[str, Kind]] = {
    "vllm": Kind("/health", "/metrics", priority=True),
    "sglang": Kind("/health", "/metrics"),
    "llama.cpp": Kind("/health", "/metrics"),
    "hosted": Kind(None, None),
}
"""`hosted` is any other endpoint: it is known by its answers alone."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """One server that speaks the OpenAI protocol. `url` is its root, without `/v1`.

    `max_in_flight`: requests that it works on at a time; what is beyond waits in the gateway, but for as many again
    that the policy `jbsq` sends. `speed` relates it to the others. `token` goes with every request as a bearer token.
    `models`: what it serves; asked of it where not given. `token_budget`: tokens that its engine works on in one
    iteration, which takes `iteration_s` when it is full; of these policies that weigh tokens need only the ratios.
    Raises ServeError.

    >>> Upstream("http://127.0.0.1:8001").name
    '127.0.0.1:8001'
    """

    url: str
    kind: str = "vllm"
    name: str = ""
    max_in_flight: int = 64
    speed: float = 1.0
    token: str | None = field(default=None, repr=False)
    models: tuple[str, ...] = ()
    token_budget: float = 2048.0
    iteration_s: float = 0.1

    def __post_init__(self) -> None:
        parts = _parts(self.url)
        if not self.name:
            object.__setattr__(self, "name", parts.netloc)
        if not self.name.isascii() or not self.name.isprintable() or ";" in self.name:
            raise ServeError(f"upstream {self.name!r}: a name is printable ASCII without a semicolon")
        if self.kind not in KINDS:
            raise ServeError(
                f"upstream {self.name}: kind {self.kind!r} is not known{nearest(self.kind, KINDS)}; "
                f"valid: {', '.join(KINDS)}"
            )
        if self.max_in_flight < 1:
            raise ServeError(f"upstream {self.name}: max_in_flight is {self.max_in_flight}; it must be at least 1")
        for name in ("speed", "token_budget", "iteration_s"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ServeError(f"upstream {self.name}: {name} is {getattr(self, name):g}; it must be above 0")
        if "" in self.models:
            raise ServeError(
                f"upstream {self.name}: a model has no name; leave models out to ask the upstream for them"
            )
        if any(ord(c) < 33 or ord(c) > 126 for c in self.token or ""):
            raise ServeError(f"upstream {self.name}: the token holds characters that a header cannot")

    @property
    def address(self) -> tuple[str, int, bool]:
        """Host, port, and whether it is reached by TLS."""
        parts = _parts(self.url)
        tls = parts.scheme == "https"
        return parts.hostname or "", parts.port or (443 if tls else 80), tls

    @property
    def authority(self) -> str:
        """What the header `host` says."""
        return str(_parts(self.url).netloc)

    @property
    def base(self) -> str:
        """The path before `/v1`, mostly none."""
        return str(_parts(self.url).path).rstrip("/")


def _parts(url: str) -> Any:
    wanted = "write it like http://127.0.0.1:8001"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ServeError(f"upstream {url!r}: {error}; {wanted}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or not url.isprintable():
        raise ServeError(f"upstream {url!r} is not an address of a server; {wanted}")
    if parts.username or parts.query or parts.fragment or " " in url:
        raise ServeError(f"upstream {url!r}: a user, query or fragment has no place in it; {wanted}")
    if parts.path.rstrip("/").endswith("/v1"):
        raise ServeError(f"upstream {url!r}: leave out /v1, the gateway adds it")
    return parts


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Who may use the gateway: `name` in logs and metrics, `secret` as the bearer token. Zero means no limit.

    `weight`: its share where several wait. Raises ServeError.
    """

    name: str
    secret: str = field(repr=False)
    requests_per_s: float = 0.0
    request_burst: float = 0.0
    tokens_per_s: float = 0.0
    token_burst: float = 0.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.secret or any(ord(c) < 33 or ord(c) > 126 for c in self.secret):
            raise ServeError(f"key {self.name!r}: the secret must be printable ASCII without spaces")
        for name in ("requests_per_s", "request_burst", "tokens_per_s", "token_burst"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ServeError(f"key {self.name!r}: {name} is {getattr(self, name):g}; it must be 0 or more")
        if not 0.0 < self.weight < math.inf:
            raise ServeError(f"key {self.name!r}: weight is {self.weight:g}; it must be above 0")


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """How a gateway works. Times are in seconds; `port` 0 takes a free one. Raises ServeError.

    `policy` chooses the upstream, `order` the next of those that wait, none of them longer than `max_wait_s` behind
    later ones. A request is given up after `timeout_s`, unless it brings its own; when nothing comes of it for
    `first_token_s`, or for `stall_s` in the middle of an answer. Until the first token has come it is tried on at most
    `attempts` upstreams. An upstream that fails `failures` times in a row is left alone for `open_s`, twice as long
    each further time up to `open_most_s`; when it is back its share grows over `slow_start_s`. A load older than
    `stale_s` counts as unknown. `priority`: tell vLLM how urgent each request is.
    Clients beyond `max_connections` at a time are turned away.
    """

    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = field(default=None, repr=False)
    keys: tuple[ApiKey, ...] = ()
    policy: str = "least-outstanding"
    order: str = "fcfs"
    seed: int = 0
    queue_limit: int = 1024
    max_wait_s: float = 30.0
    timeout_s: float = 600.0
    connect_s: float = 5.0
    first_token_s: float = 120.0
    stall_s: float = 60.0
    attempts: int = 3
    failures: int = 3
    open_s: float = 1.0
    open_most_s: float = 30.0
    slow_start_s: float = 10.0
    health_every_s: float = 2.0
    scrape_every_s: float = 0.5
    stale_s: float = 3.0
    priority: bool = False
    grace_s: float = 30.0
    max_connections: int = MAX_CONNECTIONS
    decisions: int = 10_000
    decision_log: Path | None = None
    http: HttpLimits = field(default_factory=HttpLimits)

    def __post_init__(self) -> None:
        for name in ("timeout_s", "connect_s", "first_token_s", "stall_s", "health_every_s", "scrape_every_s"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ServeError(f"gateway: {name} is {getattr(self, name):g}; it must be above 0")
        for name in ("attempts", "failures", "queue_limit", "max_connections"):
            if getattr(self, name) < 1:
                raise ServeError(f"gateway: {name} is {getattr(self, name)}; it must be at least 1")
        if any(ord(c) < 33 or ord(c) > 126 for c in self.token or ""):
            raise ServeError("gateway: the token holds characters that a header cannot; use printable ASCII")
        for what in ("name", "secret"):
            if len({getattr(key, what) for key in self.keys}) < len(self.keys):
                raise ServeError(f"gateway: two keys have the same {what}")
        if self.token is not None and any(key.secret == self.token or key.name == OPERATOR for key in self.keys):
            raise ServeError(
                f"gateway: a key has the secret of the gateway's own token, or the name {OPERATOR!r} that stands for it"
            )


class Lineup(NamedTuple):
    """Upstreams, to the first `used` of which requests are sent, and how it is decided to which."""

    upstreams: tuple[Upstream, ...]
    used: int
    options: GatewayOptions


def checked(upstreams: Iterable[Upstream]) -> tuple[Upstream, ...]:
    """Return the upstreams. Raises ServeError when there is none, or two have one name."""
    found = tuple(upstreams)
    if not found:
        raise ServeError("gateway: there is no upstream; name at least one")
    names = [upstream.name for upstream in found]
    for name in names:
        if names.count(name) > 1:
            raise ServeError(f"gateway: two upstreams are called {name}; give them names of their own")
    return found
