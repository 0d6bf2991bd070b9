"""An upstream as it is now: whether it may be asked, how much it has to do, and the connections kept to it."""

from __future__ import annotations

import asyncio
import math
import os
import ssl
from typing import Any, Final

from headway.gateway.breaker import CLOSED, OPEN, TRIAL, Breaker
from headway.gateway.choose import depth, router_of
from headway.gateway.declare import KINDS, GatewayOptions, Upstream
from headway.gateway.heads import Known
from headway.gateway.line import Line
from headway.gateway.relay import Relay
from headway.gateway.reports import Report
from headway.policy.routing import (
    ROUND_ROBIN,
    Router,
    Servers,
    note_alive,
    note_answered,
    note_latency,
    note_report,
    note_sent,
    stretch,
)

PATHS: Final = (b"/v1/chat/completions", b"/v1/completions")
"""What is passed on to upstreams."""
_SICK_CHECKS: Final = 2
"""Health checks in a row that must fail before an upstream counts as down."""


class Replica:
    """One upstream. `servers` holds what the routing policy sees of all of them; this keeps the column `number`."""

    def __init__(self, number: int, upstream: Upstream, options: GatewayOptions, servers: Servers) -> None:
        self.number = number
        self.upstream = upstream
        self.name = upstream.name
        self.kind = KINDS[upstream.kind]
        self.breaker = Breaker(options.failures, options.open_s, options.open_most_s, options.slow_start_s)
        self.up = True
        self.draining = False
        self.used = True
        """Whether it is one of those that requests go to, and not one that is on its way in or out."""
        self.models = frozenset(upstream.models) or None
        self.report: Report | None = None
        self.report_s = 0.0
        self.in_flight = 0
        self._tried = False
        """Whether a request is on its way by which it is tried, and nothing has come of that yet."""
        self._by(router_of(options))
        self.limit = math.ceil(self._depth * upstream.max_in_flight)
        self.sent = self.answered = self.failed = self.retried = 0
        self.route_line = self._route_line(options)
        self.prefix = {path: self._prefix(path) for path in PATHS}
        self._servers = servers
        self._connect_s = options.connect_s
        self.heads: Known[tuple[int, bool]] = Known()
        """Of heads of answers parsed before: the status, and whether some lines are for the gateway only."""
        self._tls = ssl.create_default_context() if upstream.address[2] else None
        self._idle: list[Line] = []
        self._lines: set[Line] = set()
        self._sick = 0
        self._closed = False
        if self.kind.metrics_path is None:
            # Who never reports is known by what this gateway has sent there, and that is always news.
            note_report(servers, number, 0.0, 0.0, float("inf"))

    def _prefix(self, path: bytes) -> bytes:
        upstream = self.upstream
        token = b"" if upstream.token is None else b"authorization: Bearer %b\r\n" % upstream.token.encode()
        where = upstream.base.encode() + path
        return b"POST %b HTTP/1.1\r\nhost: %b\r\n%b" % (where, upstream.authority.encode(), token)

    def _route_line(self, options: GatewayOptions) -> bytes:
        # The name may hold a percent sign, as addresses with a zone do.
        shown = f"{self.name}; {options.policy}".replace("%", "%%").encode()
        return b"x-headway-route: " + shown + b"; in_flight=%d; attempt=%d; waited_ms=%d\r\n"

    def obey(self, upstream: Upstream, options: GatewayOptions, used: bool, now_s: float) -> None:
        """Take what is declared of it otherwise from now on; what it has in flight beyond a lower limit is finished."""
        self.upstream, self.used = upstream, used
        self._by(router_of(options))
        self.route_line = self._route_line(options)
        self.check(now_s)

    def _by(self, router: Router) -> None:
        self._depth = depth(router)
        self._turns_by_speed = router.code != ROUND_ROBIN

    # Load

    def began(self) -> float:
        """Count a request that is sent there, and return what the policy's `stretch` was before."""
        stretched = stretch(self._servers, self.number)
        self.sent += 1
        self.in_flight += 1
        self._tried = self.breaker.state == TRIAL
        note_sent(self._servers, self.number, 1.0)
        if self.in_flight >= self.limit:
            self._servers.alive[self.number] = False
        return stretched

    def ended(self, sent_s: float) -> None:
        """Count a request that it is done with, or that was given up."""
        self.in_flight -= 1
        trial = self.breaker.state == TRIAL
        self._tried = self._tried and trial and not self.breaker.on_trial(sent_s)
        if trial:
            self.limit = self._trial_limit()
        note_answered(self._servers, self.number)
        # A report contains what has been answered since, as long as it is the last one.
        self._servers.sent[self.number] -= 1.0
        if self.up and self.in_flight < self.limit:
            self._has_room()

    def first_token(self, relay: Relay, now_s: float) -> bool:
        """Take note of how long a first token took; return whether that makes room for a request.

        That of an error, which is there soon, would draw requests here. A trial that has begun to answer may last for
        long: another joins it, and the first that ends well is enough.
        """
        if relay.status >= 400:
            return False
        note_latency(self._servers, self.number, now_s - relay.sent_s, relay.stretched, relay.number)
        if not (self._tried and self.breaker.on_trial(relay.sent_s)):
            return False
        self._tried = False
        self.check(now_s)
        return True

    def reported(self, report: Report, at_s: float) -> None:
        """Take in what the engine says of itself; one that does not tell its load is not taken for idle.

        What of this gateway's the engine does not count yet has been sent all the same.
        """
        self.report, self.report_s = report, at_s
        if report.load is not None:
            note_report(self._servers, self.number, max(report.load, float(self.in_flight)), 0.0, at_s)

    # Whether it may be asked

    def check(self, now_s: float) -> None:
        """Let what time alone brings about happen: a breaker that is tried, a share that grows."""
        state = self.breaker.check(now_s)
        up = state != OPEN and self._sick < _SICK_CHECKS and self.used and not self.draining
        if up and not self.up and state == CLOSED:
            self.breaker.returned(now_s)
        self.up = up
        share = self.breaker.share(now_s)
        places = max(1, int(self.upstream.max_in_flight * share))
        self.limit = self._trial_limit() if state == TRIAL else math.ceil(self._depth * places)
        servers, speed = self._servers, self.upstream.speed * share
        if self._turns_by_speed and speed != servers.speed[self.number]:
            # Turns that it had as a slower one count as many as it would have had by now.
            servers.assigned[self.number] *= speed / servers.speed[self.number]
        servers.speed[self.number], servers.places[self.number] = speed, float(places)
        if up and self.in_flight < self.limit:
            self._has_room()
        else:
            servers.alive[self.number] = False

    def _trial_limit(self) -> int:
        """Return the limit while it is tried: one request beyond those from before, as far as it has a place."""
        most = math.ceil(self._depth * self.upstream.max_in_flight)
        return min(self.in_flight + (not self._tried), most)

    def _has_room(self) -> None:
        """Let it be chosen; turns that it missed meanwhile are not made up for all at once."""
        if not self._servers.alive[self.number]:
            note_alive(self._servers, self.number, self._turns_by_speed)

    def checked(self, healthy: bool, now_s: float) -> None:
        """Take note of a health check."""
        self._sick = 0 if healthy else self._sick + 1
        self.check(now_s)

    def is_well(self, now_s: float, sent_s: float) -> None:
        """Take note of an answer that shows that it works."""
        self.answered += 1
        if self._counts(sent_s) and self.breaker.troubled:
            self.breaker.succeeded(now_s)
            self.check(now_s)

    def is_ill(self, now_s: float, sent_s: float) -> None:
        """Take note of a request that it failed."""
        self.failed += 1
        self.is_blamed(now_s, sent_s)

    def is_blamed(self, now_s: float, sent_s: float) -> None:
        """Take note that it is the upstream that failed a request, and not the request."""
        if self._counts(sent_s):
            self.breaker.failed(now_s)
            self.check(now_s)

    def _counts(self, sent_s: float) -> bool:
        return self.breaker.state != TRIAL or self.breaker.on_trial(sent_s)

    @property
    def state(self) -> str:
        """In one word: `up`, `draining`, `spare` (not used), `sick` (health checks), `open` or `trial` (breaker)."""
        if self.draining or (self.in_flight and not self.used):
            return "draining"
        if not self.used:
            return "spare"
        if self._sick >= _SICK_CHECKS:
            return "sick"
        return "up" if self.breaker.state == CLOSED else self.breaker.state

    # Connections

    def take(self) -> Line | None:
        """Return a connection that is free, the one last used, or None."""
        return self._idle.pop() if self._idle else None

    def free(self, line: Line) -> None:
        """Keep a connection for later."""
        if self._closed:
            line.abort()
        else:
            self._idle.append(line)

    def lost(self, line: Line) -> None:
        """Forget a connection that is closed."""
        self._lines.discard(line)
        if line in self._idle:
            self._idle.remove(line)

    async def connect(self) -> Line:
        """Return a new connection. Raises OSError with a text that says why it cannot be had."""
        host, port, _ = self.upstream.address
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_s):
                _, line = await loop.create_connection(lambda: Line(self), host, port, ssl=self._tls)
        except TimeoutError:
            raise OSError(f"no connection within {self._connect_s:g} s") from None
        except OSError as error:
            known = isinstance(error, ConnectionError) and error.errno is not None
            raise OSError(os.strerror(error.errno or 0) if known else error.strerror or str(error)) from None
        self._lines.add(line)
        return line

    def close(self) -> None:
        """Close all connections, and those that come to be later."""
        self._closed = True
        for line in tuple(self._lines):
            line.abort()

    def to_dict(self, now_s: float) -> dict[str, Any]:
        """Return its state as JSON values; what is not known is null."""
        report = self.report
        return {
            "name": self.name,
            "kind": self.upstream.kind,
            "state": self.state,
            "in_flight": self.in_flight,
            "limit": self.limit,
            "models": sorted(self.models) if self.models is not None else None,
            "sent": self.sent,
            "answered": self.answered,
            "failed": self.failed,
            "retried": self.retried,
            "report_age_s": None if report is None else round(now_s - self.report_s, 3),
            "running": None if report is None else report.running,
            "waiting": None if report is None else report.waiting,
            "kv_usage": None if report is None else report.kv_usage,
        }
