"""Which engine a balancer sends a request to, by tokens: what is left to compute and what memory holds.

Engines report what they have (`Tokens`); to that the balancer adds what it sent since. Requests are counted in the same
`Servers` that count-based policies read, and `place` asks either kind by one name.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from headway.policy import routing
from headway.policy.routing import NOBODY, ROUTERS, Router, power_of_d, route
from headway.policy.routing_state import Floats, Servers, fresh

LEAST_PREFILL, LMETRIC, SAL, FIRST_TOKEN, PREFIX, LEAST_MEMORY = range(100, 106)

TOKEN_ROUTERS: dict[str, Router] = {
    "least-prefill": Router(LEAST_PREFILL),
    "lmetric": Router(LMETRIC),
    "sal": Router(SAL),
    "first-token": Router(FIRST_TOKEN),
    "prefix-aware": Router(PREFIX, bound=1.5),
    "least-memory": Router(LEAST_MEMORY),
}
"""Policies by name, as `routing.ROUTERS` has those that count; `score` says what each is."""

LEAST_RELEASE_TOKENS = 1.0
"""KV tokens per iteration that an engine is taken to release when it never was seen to: a cold start."""

RELEASE_WEIGHT = 0.02
"""What one iteration counts in an engine's mean release of memory."""

GUARD_REQUESTS = 64
"""How many more requests than the least loaded an engine may have while prefixes decide (SGLang's default)."""

GUARD_MATCH = 0.3
"""The share of a prompt that must be cached for its prefix to decide (SGLang's default)."""


class Tokens(NamedTuple):
    """What a balancer knows of engines beyond `Servers`, one entry each.

    Of the last report: prompt tokens not computed (`prefill`), of these and of what was preempted the `waiting` ones
    that hold no memory; KV tokens `used` and `free`; `release`, the mean freed per iteration. `sent`: prompt tokens
    sent since. `budget`: tokens per iteration; `full_s`: seconds of one with a full budget and no context;
    `kv_token_s`: what a token of context adds to it.
    """

    prefill: Floats
    waiting: Floats
    used: Floats
    free: Floats
    release: Floats
    sent: Floats
    budget: Floats
    full_s: Floats
    kv_token_s: Floats

    @classmethod
    def of(cls, budget: Floats, full_s: Floats, kv_token_s: Floats, capacity: Floats) -> Tokens:
        """Return what is known of engines before any report: they are empty.

        >>> Tokens.of([512.0], [0.03], [2.6e-7], [80000.0]).free.tolist()
        [80000.0]
        """
        size = len(budget)
        prefill, waiting, used, release, sent = (np.zeros(size) for _ in range(5))
        given = [np.array(column, np.float64) for column in (budget, full_s, kv_token_s)]
        return cls(prefill, waiting, used, np.array(capacity, np.float64), release, sent, *given)


def token_router(name: str, **parameters: Any) -> Router:
    """Return a policy by name, of those that count requests or tokens. Raises ValueError as `routing.router` does.

    >>> token_router("sal").code == SAL, token_router("random") == ROUTERS["random"]
    (True, True)
    """
    if name in ROUTERS:
        return routing.router(name, **parameters)
    if name not in TOKEN_ROUTERS:
        raise ValueError(f"router is {name!r}; valid: {', '.join([*ROUTERS, *TOKEN_ROUTERS])}")
    unknown = sorted(set(parameters) - {"stale_s", "bound"})
    if unknown:
        raise ValueError(f"router {name!r}: no parameter is called {unknown[0]!r}; bound, stale_s")
    made = TOKEN_ROUTERS[name]._replace(**parameters)
    if not (made.bound >= 1 and made.stale_s > 0):
        raise ValueError(f"router {name!r}: bound from 1 and stale_s above 0; it has {made}")
    return made


def place(
    router: Router, servers: Servers, tokens: Tokens, prompt: float, cached: Floats, u: Floats, key: int, now_s: float
) -> int:
    """Return the engine that a request goes to, `routing.HOLD` or `routing.NOBODY`.

    `prompt`: its tokens; `cached`: how many of them each engine is believed to have in its prefix cache. `u` and `key`
    are as `routing.route` wants them. Where a report is stale, tokens are not compared: the better of two engines is
    taken by what this balancer has outstanding there.

    >>> engines = Tokens.of([512.0] * 2, [0.03] * 2, [0.0] * 2, [8000.0] * 2)
    >>> servers = Servers.of([1.0, 1.0])
    >>> for at in range(2): routing.note_report(servers, at, 0.0, 0.0, 0.0)
    >>> engines.sent[0] = 700.0
    >>> place(token_router("least-prefill"), servers, engines, 100.0, [0.0, 0.0], [0.0, 0.0, 0.0], 0, 0.0)
    1
    """
    if router.code < LEAST_PREFILL:
        return route(router, servers, u, key, now_s)
    size = len(servers.alive)
    for at in range(size):
        if servers.alive[at] and not fresh(servers, at, now_s, router.stale_s):
            return power_of_d(servers, u, 2, now_s, router.stale_s)
    by = router.code
    if by == PREFIX:
        by = LEAST_PREFILL
        holder = longest_prefix(router, servers, prompt, cached)
        if holder >= 0:
            return holder
    best, least, fewest = NOBODY, math.inf, math.inf
    at = int(u[0] * size)
    for _ in range(size):
        if servers.alive[at]:
            this = score(by, servers, tokens, at, prompt, cached[at])
            requests = (servers.reported[at] + servers.sent[at]) / servers.speed[at]
            if best < 0 or this < least or (this == least and requests < fewest):
                best, least, fewest = at, this, requests
        at += 1
        if at == size:
            at = 0
    return best


def score(code: int, servers: Servers, tokens: Tokens, at: int, prompt: float, cached: float) -> float:
    """Return what decides against sending a request to an engine: the least is taken.

    - `least-prefill`: seconds of prompts that are ahead, its own included (llm-d's token load).
    - `lmetric`: those tokens times the requests there (arXiv 2603.15202).
    - `sal`: the iterations until the token budget, or the memory, has room for it, whichever is later, in seconds. A
      reconstruction: of SAL (arXiv 2410.17840) it is known that queued prefill tokens and free memory decide, not how.
    - `first-token`: the seconds until its first token: as `sal`, with the budget that decoding leaves and the time that
      iterations take for the context there is.
    - `least-memory`: KV tokens used; a bad signal, since it lags what was sent (kept to be compared with).

    >>> engines = Tokens.of([512.0], [0.03], [0.0], [100.0])
    >>> score(SAL, Servers.of([1.0]), engines, 0, 256.0, 0.0)
    4.68
    """
    ahead = tokens.prefill[at] + tokens.sent[at] + prompt - cached
    if code == LEAST_PREFILL:
        return float(ahead * tokens.full_s[at] / tokens.budget[at])
    requests = max(0.0, servers.reported[at] + servers.sent[at])
    if code == LMETRIC:
        return float(ahead * (requests + 1.0) * tokens.full_s[at] / tokens.budget[at])
    if code == LEAST_MEMORY:
        return float(tokens.used[at] / servers.speed[at])
    wanted = tokens.waiting[at] + tokens.sent[at] + prompt - cached
    release = max(tokens.release[at], LEAST_RELEASE_TOKENS)
    memory_steps = max(0.0, wanted - tokens.free[at]) / release
    if code == SAL:
        return float(max(ahead / tokens.budget[at], memory_steps) * tokens.full_s[at])
    left = max(tokens.budget[at] - requests, 0.1 * tokens.budget[at])
    step_s = tokens.full_s[at] + tokens.kv_token_s[at] * tokens.used[at]
    return float(max(ahead / left, memory_steps) * step_s)


def longest_prefix(router: Router, servers: Servers, prompt: float, cached: Floats) -> int:
    """Return the engine that has most of a prompt cached, or `NOBODY` when that is little or loads are too uneven.

    Loads decide when they differ by more than `GUARD_REQUESTS` and by more than the factor `router.bound`: prefixes
    alone would send everything to the engine that has once had everything (the guard of SGLang's cache-aware router).

    >>> servers = Servers.of([1.0, 1.0])
    >>> longest_prefix(TOKEN_ROUTERS["prefix-aware"], servers, 100.0, [0.0, 80.0])
    1
    """
    best, longest = NOBODY, GUARD_MATCH * prompt
    fewest, most = math.inf, 0.0
    for at in range(len(servers.alive)):
        if servers.alive[at]:
            requests = servers.outstanding[at] / servers.speed[at]
            fewest, most = min(fewest, requests), max(most, requests)
            if cached[at] > longest:
                best, longest = at, cached[at]
    if most - fewest > GUARD_REQUESTS and most > router.bound * fewest:
        return NOBODY
    return best


def believed(volume: float, stamp: float, capacity: float) -> bool:
    """Return whether a block of a prompt is believed to be in an engine's prefix cache still.

    It is when less than the cache holds was sent there since: `volume` counts blocks sent in all, `stamp` is what it
    was when this one was sent last. A balancer that no engine tells about evictions can know no more.

    >>> believed(120.0, 100.0, 50.0), believed(160.0, 100.0, 50.0)
    (True, False)
    """
    return volume - stamp < capacity
