"""The gateway's own queue: who goes next to an upstream that has room, by the orders of the simulator."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from headway.errors import ServeError
from headway.gateway.declare import GatewayOptions, Upstream
from headway.gateway.relay import Relay
from headway.policy.scheduling import FCFS, Backlog, Order, Waiting, first, order

__all__ = ["Queue"]

_NEW = 0.02
"""Weight of the newest in the moving average of answers' lengths."""


class Queue:
    """Requests that wait. With it, any engine's work is ordered: it never holds more than it works on."""

    def __init__(self, options: GatewayOptions, upstreams: tuple[Upstream, ...]) -> None:
        self._waiting: dict[int, Relay] = {}
        self._again: dict[int, Relay] = {}
        self._tokens = 0.0
        self._answer_tokens = math.nan
        self.size = 0
        self.memory = 0.0
        """KV memory in use, as a share of all, where engines tell it."""
        self.obey(options, upstreams)

    def obey(self, options: GatewayOptions, upstreams: tuple[Upstream, ...]) -> None:
        """Rank those that wait in another order from now on. Raises ServeError for one that is not known."""
        self._order = order_of(options)
        self._budget = sum(upstream.token_budget for upstream in upstreams)
        self._full_s = min(upstream.iteration_s for upstream in upstreams)

    @property
    def all(self) -> Iterable[Relay]:
        """All that wait."""
        return (*self._again.values(), *self._waiting.values())

    def add(self, relay: Relay) -> None:
        """Let a request wait. One that an upstream has failed goes before those that have not been sent yet."""
        (self._again if relay.attempts else self._waiting)[relay.number] = relay
        self._tokens += relay.tokens
        self.size += 1

    def discard(self, relay: Relay) -> None:
        """Take a request out, if it is there."""
        for held in (self._again, self._waiting):
            if held.pop(relay.number, None) is not None:
                self._tokens = max(0.0, self._tokens - relay.tokens)
                self.size -= 1

    def answered(self, tokens: float) -> None:
        """Take note of how long an answer was: what is expected of the next ones."""
        old = self._answer_tokens
        self._answer_tokens = tokens if math.isnan(old) else old + _NEW * (tokens - old)

    def next(self, now_s: float, passed_over: Collection[tuple[int, ...]] = ()) -> Relay | None:
        """Return who goes next, leaving out those barred from just the upstreams that `passed_over` names."""
        for relay in self._again.values():
            if relay.barred not in passed_over:
                return relay
        if self._order.code == FCFS:
            return next((relay for relay in self._waiting.values() if relay.barred not in passed_over), None)
        asked = [relay for relay in self._waiting.values() if relay.barred not in passed_over]
        backlog = Backlog(self._tokens, self._budget, self.memory, self._full_s / self._budget, self._full_s)
        at = first(self._order, [self.seen(relay) for relay in asked], backlog, now_s)
        return asked[at] if at >= 0 else None

    def seen(self, relay: Relay) -> Waiting:
        """Return what the order may know of a request."""
        most = relay.ask.most_tokens
        known = 0.0 if math.isnan(self._answer_tokens) else self._answer_tokens
        expected = known if most is None else min(known, float(most))
        return Waiting(relay.arrival_s, relay.tokens, relay.tokens, expected, relay.account.served)


def order_of(options: GatewayOptions) -> Order:
    """Return the order of those that wait. Raises ServeError for one that is not known."""
    try:
        return order(options.order, max_wait_s=options.max_wait_s)
    except ValueError as error:
        raise ServeError(f"gateway: {error}") from None
