"""Which upstream gets a request: the routing policies of the simulator, asked with what this gateway knows."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple
from zlib import crc32

from headway.errors import ServeError
from headway.gateway.declare import GatewayOptions, Upstream
from headway.gateway.relay import Relay
from headway.policy.routing import CONSISTENT_HASH, JBSQ, Router, Servers, draws, route
from headway.policy.token_routing import LEAST_PREFILL, Tokens, believed, place, token_router

_BLOCK_BYTES: Final = 1024
_BLOCK_TOKENS: Final = _BLOCK_BYTES / 4.0
_BLOCKS: Final = 4096
"""Blocks of prompts that an engine is taken to keep whose memory is not known."""
_DECISIONS: Final = 256
_ROOM: Final = 1e15
"""KV tokens free in an engine that does not tell: its memory then decides nothing."""


class Seen(NamedTuple):
    """One decision with all that it was made from: columns as they were, the prompt, draws, key, and when."""

    servers: Servers
    tokens: Tokens
    prompt: float
    cached: list[float]
    u: list[float]
    key: int
    now_s: float
    chosen: int


class Chooser:
    """Asks the policy. `watch`, where set, is told every decision. Raises ServeError for a policy that is not known."""

    def __init__(self, options: GatewayOptions, upstreams: tuple[Upstream, ...]) -> None:
        self.servers = _servers(upstreams)
        self.tokens = _tokens(upstreams)
        self.prefixes: Prefixes | None = None
        self.watch: Callable[[Seen], None] | None = None
        self._random = random.Random(options.seed).random
        self._believed: Prefixes | None = None
        self._unknown = [0.0] * len(upstreams)
        self.obey(options)

    def obey(self, options: GatewayOptions) -> None:
        """Ask another policy from now on, with all that is known. Raises ServeError for one that is not known."""
        self.router = router_of(options)
        self.name = options.policy
        self._counts = self.router.code < LEAST_PREFILL
        self._draws = draws(self.router)
        self._drawn: list[float] = []
        self._next = 0
        self._keyed = self.router.code == CONSISTENT_HASH
        if not self._counts and self._believed is None:
            self._believed = Prefixes(len(self._unknown))
        self.prefixes = None if self._counts else self._believed

    def seat(self, number: int, upstream: Upstream) -> None:
        """Keep a column for an upstream of which nothing is known yet: one that is free, or the one after the last."""
        columns: Iterable[Any] = (*self.servers, *self.tokens)
        fresh = (*_servers([upstream]), *_tokens([upstream]))
        for column, values in zip(columns, fresh, strict=True):
            column[number : number + 1] = values
        self._unknown = [0.0] * len(self.servers.alive)
        if self._believed is not None:
            self._believed.seat(number)

    def weigh(self, number: int, upstream: Upstream) -> None:
        """Take an upstream's iterations to be as they are said to be from now on."""
        self.tokens.budget[number], self.tokens.full_s[number] = upstream.token_budget, upstream.iteration_s

    def __call__(self, relay: Relay, now_s: float) -> int:
        """Return the number of an upstream, or one below 0 when none may have the request now."""
        u = self._drawn[self._next : self._next + self._draws]
        self._next += self._draws
        if not u:
            self._draw()
            u, self._next = self._drawn[: self._draws], self._draws
        key = _key(relay) if self._keyed else 0
        if self._counts and not relay.barred and self.watch is None:
            return route(self.router, self.servers, u, key, now_s)
        # Whom this request may not go to is, for it alone, not alive.
        alive = self.servers.alive
        kept = [alive[number] for number in relay.barred]
        for number in relay.barred:
            alive[number] = False
        try:
            return self._place(relay, u, key, now_s)
        finally:
            for number, was in zip(relay.barred, kept, strict=True):
                alive[number] = was

    def _draw(self) -> None:
        """Draw numbers for many decisions: one by one they take as long as a decision."""
        draw = self._random
        self._drawn = [draw() for _ in range(_DECISIONS * self._draws)]
        self._next = 0

    def _place(self, relay: Relay, u: list[float], key: int, now_s: float) -> int:
        cached = self._unknown if self.prefixes is None else self.prefixes.cached(relay)
        chosen = place(self.router, self.servers, self.tokens, relay.tokens, cached, u, key, now_s)
        if self.watch is not None:
            servers, tokens = (Servers(*map(list, self.servers)), Tokens(*map(list, self.tokens)))
            self.watch(Seen(servers, tokens, relay.tokens, list(cached), u, key, now_s, chosen))
        return chosen

    def sent(self, relay: Relay, number: int) -> None:
        """Keep in mind what a request brings to an upstream, until its first token."""
        self.tokens.sent[number] += relay.tokens
        if self.prefixes is not None:
            self.prefixes.sent(relay, number)

    def computed(self, relay: Relay, number: int) -> None:
        """Keep in mind that an upstream has computed a request's prompt, or never will."""
        self.tokens.sent[number] = max(0.0, self.tokens.sent[number] - relay.tokens)

    def memory(self, number: int, usage: float | None, capacity: float | None) -> None:
        """Keep what an engine tells of its KV memory: the share in use, and how many tokens it holds."""
        if usage is not None and capacity is not None:
            self.tokens.used[number] = usage * capacity
            self.tokens.free[number] = (1.0 - usage) * capacity
            if self.prefixes is not None:
                self.prefixes.capacity[number] = capacity / _BLOCK_TOKENS


class Prefixes:
    """Which beginnings of prompts each upstream is believed to have computed, by blocks of their text."""

    def __init__(self, upstreams: int) -> None:
        self.capacity = [float(_BLOCKS)] * upstreams
        self._held: list[OrderedDict[int, float]] = [OrderedDict() for _ in range(upstreams)]
        self._volume = [0.0] * upstreams

    def seat(self, number: int) -> None:
        """Keep a place for an upstream that has computed nothing yet, as `Chooser.seat` does."""
        self.capacity[number : number + 1] = [float(_BLOCKS)]
        self._held[number : number + 1] = [OrderedDict()]
        self._volume[number : number + 1] = [0.0]

    def cached(self, relay: Relay) -> list[float]:
        """Return how many tokens of a request's prompt each upstream is believed to have in its cache."""
        blocks = _blocks(relay)
        out = []
        for held, volume, capacity in zip(self._held, self._volume, self.capacity, strict=True):
            count = 0
            for block in blocks:
                stamp = held.get(block)
                if stamp is None or not believed(volume, stamp, capacity):
                    break
                count += 1
            out.append(min(relay.tokens, count * _BLOCK_TOKENS))
        return out

    def sent(self, relay: Relay, number: int) -> None:
        """Keep in mind that an upstream computes a request's prompt."""
        held = self._held[number]
        for block in _blocks(relay):
            if block not in held:
                self._volume[number] += 1.0
            held[block] = self._volume[number]
            held.move_to_end(block)
        while len(held) > self.capacity[number]:
            held.popitem(last=False)


def router_of(options: GatewayOptions) -> Router:
    """Return the routing policy. Raises ServeError for one that is not known."""
    try:
        return token_router(options.policy, stale_s=options.stale_s)
    except ValueError as error:
        raise ServeError(f"gateway: {error}") from None


def depth(router: Router) -> float:
    """Return how many requests an upstream is sent for each that it works on at once; all others wait in the gateway.

    One, so that the gateway's order counts with any engine: all wait here. A bounded queue lets some wait there.

    >>> depth(token_router("jbsq")), depth(token_router("least-loaded"))
    (2.0, 1.0)
    """
    return router.depth if router.code == JBSQ else 1.0


def _servers(upstreams: Sequence[Upstream]) -> Servers:
    """Return what is known of upstreams that have been sent nothing yet: each has a place for all it works on."""
    return Servers.of([one.speed for one in upstreams], [float(one.max_in_flight) for one in upstreams]).lists()


def _tokens(upstreams: Sequence[Upstream]) -> Tokens:
    """Return what policies that weigh tokens know of upstreams that have told nothing yet."""
    nothing = [0.0] * len(upstreams)
    budget, full_s = [one.token_budget for one in upstreams], [one.iteration_s for one in upstreams]
    out = Tokens(*([float(x) for x in column] for column in Tokens.of(budget, full_s, nothing, nothing)))
    out.free[:] = [_ROOM] * len(upstreams)
    return out


def _blocks(relay: Relay) -> list[int]:
    """Return a number for each whole block of a body, which depends on all that is before it too."""
    found: list[int] | None = relay.blocks
    if found is None:
        found, before, body = [], 0, relay.message.body
        for begin in range(0, len(body) - _BLOCK_BYTES + 1, _BLOCK_BYTES):
            before = hash((before, body[begin : begin + _BLOCK_BYTES]))
            found.append(before)
        relay.blocks = found
    return found


def _key(relay: Relay) -> int:
    """Return what requests that belong together share: a session that they name, else how their prompt begins."""
    ask = relay.ask
    session = relay.message.named.get(b"x-session-id") or (ask.prompt_cache_key or ask.user or "").encode()
    return crc32(session or relay.message.body[:_BLOCK_BYTES])
