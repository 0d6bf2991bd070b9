"""Which server a balancer sends a request to, from counts: what servers last reported and what was sent since.

Policies read flat columns, one entry per server, so that a kernel compiles them (`headway.fleet.compiled`) and a
gateway calls them as they are. Chance is passed in: `u` holds independent draws from [0, 1), as many as `draws` says.
A report that is missing or older than `stale_s` is never compared with others: what needs all reports then takes the
better of two servers, by what the balancer itself has sent to them and has not been answered.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, NamedTuple

from headway.policy.routing_state import (
    Counts,
    Flags,
    Floats,
    Servers,
    fresh,
    is_news,
    load,
    note_alive,
    note_answered,
    note_latency,
    note_report,
    note_sent,
    own,
    per_speed,
    stretch,
    usable,
)

__all__ = [
    "HOLD", "NOBODY", "ROUTERS", "Router", "Servers", "draws", "fresh", "load", "note_alive", "note_answered",
    "note_latency", "note_report", "note_sent", "own", "route", "router", "stretch",
]  # fmt: skip

HOLD = -1
"""No server may have the request yet: it waits in the balancer's own queue until one is answered."""
NOBODY = -2
"""No server is alive: the request is refused, or kept until one comes."""

(
    RANDOM, WEIGHTED_RANDOM, ROUND_ROBIN, WEIGHTED_ROUND_ROBIN, POWER_OF_D, LEAST_LOADED, LEAST_OUTSTANDING, JBSQ, JIQ,
    PREQUAL, CONSISTENT_HASH,
) = range(11)  # fmt: skip


class Router(NamedTuple):
    """A policy and its parameters, as scalars; `router` makes it by name.

    `choices`: servers drawn (power of d, Prequal's pool). `depth`: requests a server may have per place (JBSQ).
    `explore`: share of requests sent anywhere, which breaks herds. `hot`: share of the others with less load above
    which a server is hot (Prequal). `bound`: how many times its fair share a server may have (consistent hash).
    """

    code: int
    choices: int = 2
    depth: float = 2.0
    explore: float = 0.0
    hot: float = 0.84
    bound: float = math.inf
    stale_s: float = math.inf


ROUTERS: dict[str, Router] = {
    "random": Router(RANDOM),
    "weighted-random": Router(WEIGHTED_RANDOM),
    "round-robin": Router(ROUND_ROBIN),
    "weighted-round-robin": Router(WEIGHTED_ROUND_ROBIN),
    "power-of-d": Router(POWER_OF_D),
    "least-loaded": Router(LEAST_LOADED),
    "least-outstanding": Router(LEAST_OUTSTANDING),
    "jbsq": Router(JBSQ),
    "central": Router(JBSQ, depth=1.0),
    "jiq": Router(JIQ),
    "prequal": Router(PREQUAL, choices=16),
    "consistent-hash": Router(CONSISTENT_HASH, bound=1.25),
}
"""Policies by name, with the parameters they have unless told otherwise."""


def router(name: str, **parameters: Any) -> Router:
    """Return a policy by name. Raises ValueError for a name, a parameter or a value that is not known.

    >>> router("power-of-d", choices=4).choices
    4
    """
    if name not in ROUTERS:
        raise ValueError(f"router is {name!r}; valid: {', '.join(ROUTERS)}")
    unknown = sorted(set(parameters) - set(Router._fields[1:]))
    if unknown:
        raise ValueError(f"router {name!r}: no parameter is called {unknown[0]!r}; {', '.join(Router._fields[1:])}")
    made = ROUTERS[name]._replace(**parameters)
    for each in ("depth", "explore", "hot", "bound", "stale_s"):
        if not isinstance(getattr(made, each), Real):
            raise ValueError(f"router {name!r}: {each} is {getattr(made, each)!r}; a number is needed")
    if not isinstance(made.choices, Integral):
        raise ValueError(f"router {name!r}: choices is {made.choices!r}; a whole number from 1 is needed")
    if not (made.choices >= 1 and made.depth > 0 and 0 <= made.explore <= 1 and 0 <= made.hot <= 1):
        raise ValueError(f"router {name!r}: choices from 1, depth above 0, explore and hot from 0 to 1; it has {made}")
    if not (made.bound >= 1 and made.stale_s > 0):
        raise ValueError(f"router {name!r}: bound from 1 and stale_s above 0; it has {made}")
    return made


def draws(router: Router) -> int:
    """Return how many numbers from [0, 1) `route` is given.

    >>> draws(ROUTERS["power-of-d"])
    3
    """
    return max(router.choices, 2) + 1


def route(router: Router, servers: Servers, u: Floats, key: int, now_s: float) -> int:
    """Return the server that a request goes to, `HOLD` or `NOBODY`; `key` says which requests belong together.

    >>> servers = Servers.of([1.0, 1.0])
    >>> note_sent(servers, 0, 1.0)
    >>> route(ROUTERS["least-outstanding"], servers, [0.0, 0.0, 0.0], key=0, now_s=0.0)
    1
    """
    _, _, _, outstanding, assigned, _, _, speed, places, alive = servers
    code = router.code
    if code == RANDOM or (router.explore > 0.0 and u[max(router.choices, 2)] < router.explore):
        return at_random(alive, u[0])
    if code == WEIGHTED_RANDOM:
        return weighted_random(alive, speed, u[0])
    if code == ROUND_ROBIN:
        return round_robin(alive, assigned)
    if code == WEIGHTED_ROUND_ROBIN:
        return weighted_round_robin(alive, assigned, speed)
    if code == POWER_OF_D:
        return power_of_d(servers, u, router.choices, now_s, router.stale_s)
    if code == LEAST_LOADED:
        return least_loaded(servers, u, now_s, router.stale_s)
    if code == LEAST_OUTSTANDING:
        return jbsq(alive, outstanding, speed, places, u[0], math.inf)
    if code == JBSQ:
        return jbsq(alive, outstanding, speed, places, u[0], router.depth)
    if code == JIQ:
        return jiq(servers, u, now_s, router.stale_s)
    if code == PREQUAL:
        return prequal(servers, u, router.choices, router.hot, now_s, router.stale_s)
    return consistent_hash(alive, outstanding, speed, key, router.bound)


def at_random(alive: Flags, u: float) -> int:
    """Return any living server, each as likely; what falls on a dead one is spread over the living."""
    place = u * len(alive)
    server = int(place)
    if alive[server]:
        return server
    living = 0
    for at in range(len(alive)):
        living += alive[at]
    skip = int((place - server) * living)
    for at in range(len(alive)):
        if alive[at]:
            if skip == 0:
                return at
            skip -= 1
    return NOBODY


def weighted_random(alive: Flags, speed: Floats, u: float) -> int:
    """Return a living server, each as likely as it is fast."""
    total = 0.0
    for at in range(len(alive)):
        if alive[at]:
            total += speed[at]
    left = u * total
    last = NOBODY
    for at in range(len(alive)):
        if alive[at]:
            last = at
            left -= speed[at]
            if left < 0.0:
                return at
    return last


def round_robin(alive: Flags, assigned: Floats) -> int:
    """Return the living server that was given the fewest requests, the first among equals."""
    best = NOBODY
    for at in range(len(alive)):
        if alive[at] and (best < 0 or assigned[at] < assigned[best]):
            best = at
    return best


def weighted_round_robin(alive: Flags, assigned: Floats, speed: Floats) -> int:
    """Return the living server whose turn it is when each is to be given requests in proportion to its speed.

    The one that would still have the fewest per unit of speed (the highest averages of D'Hondt): turns are spread
    evenly, as in NGINX's smooth weighted round robin.
    """
    best, least = NOBODY, math.inf
    for at in range(len(alive)):
        if alive[at]:
            share = per_speed(assigned[at] + 1.0, speed[at])
            if share < least:
                best, least = at, share
    return best


def power_of_d(servers: Servers, u: Floats, choices: int, now_s: float, stale_s: float) -> int:
    """Return the least loaded of `choices` living servers drawn with replacement, the first drawn among equals.

    RackSched's sampling (OSDI 2020) and Mitzenmacher's power of two choices (1996), the load divided by the speed. Two
    servers are compared by their reports when both are fresh, else by what this balancer has outstanding there.
    """
    reported, at_s, sent, outstanding, _, _, _, speed, _, alive = servers
    best = at_random(alive, u[0])
    if best < 0:
        return best
    known = usable(reported[best], at_s[best], now_s, stale_s)
    for drawn in range(1, choices):
        other = at_random(alive, u[drawn])
        if other == best:
            continue
        other_known = usable(reported[other], at_s[other], now_s, stale_s)
        if known and other_known:
            theirs = per_speed(reported[other] + sent[other], speed[other])
            better = theirs < per_speed(reported[best] + sent[best], speed[best])
        else:
            better = per_speed(outstanding[other], speed[other]) < per_speed(outstanding[best], speed[best])
        if better:
            best = other
            known = other_known
    return best


def least_loaded(servers: Servers, u: Floats, now_s: float, stale_s: float) -> int:
    """Return the living server with the least load (join the shortest queue), any of several equals.

    By power of two when a report is stale: with old reports all would run to the same server (Mitzenmacher, "How useful
    is old information?", 2000).
    """
    reported, at_s, sent, _, _, _, _, speed, _, alive = servers
    size = len(alive)
    at = int(u[0] * size)
    best, least = NOBODY, math.inf
    for _ in range(size):
        if alive[at]:
            if not usable(reported[at], at_s[at], now_s, stale_s):
                return power_of_d(servers, u, 2, now_s, stale_s)
            this = per_speed(reported[at] + sent[at], speed[at])
            if best < 0 or this < least:
                best, least = at, this
        at += 1
        if at == size:
            at = 0
    return best


def jbsq(alive: Flags, outstanding: Floats, speed: Floats, places: Counts, u: float, depth: float) -> int:
    """Return the server with the fewest of this balancer's requests per unit of speed, if it has room, else `HOLD`.

    A server has room for `depth` per place, the one that is worked on there included (join the bounded shortest queue,
    R2P2, ATC 2019): one is a central queue, infinity is the least outstanding of proxies. Any of several equals is
    taken.
    """
    size = len(alive)
    at = int(u * size)
    best, least, living = HOLD, math.inf, False
    for _ in range(size):
        if alive[at]:
            living = True
            this = per_speed(outstanding[at], speed[at])
            if this < least and outstanding[at] < depth * places[at]:
                best, least = at, this
        at += 1
        if at == size:
            at = 0
    return best if living else NOBODY


def jiq(servers: Servers, u: Floats, now_s: float, stale_s: float) -> int:
    """Return a server that has nothing to do; else one with an idle place; else any, each as likely as it is fast.

    Join the idle queue (Lu et al., Performance Evaluation 2011); who cannot be known to be idle is not. A worker may be
    idle while others of its server work, so places count. What an engine runs shares it, so an empty one goes first.
    """
    reported, at_s, sent, _, _, _, _, speed, places, alive = servers
    size = len(alive)
    idle = 0.0
    at = int(u[0] * size)
    for _ in range(size):
        if alive[at] and usable(reported[at], at_s[at], now_s, stale_s):
            has = reported[at] + sent[at]
            if has <= 0.0:
                return at
            if has < places[at]:
                idle += speed[at]
        at += 1
        if at == size:
            at = 0
    if idle == 0.0:
        return weighted_random(alive, speed, u[1])
    left, last = u[1] * idle, NOBODY
    for at in range(size):
        if alive[at] and usable(reported[at], at_s[at], now_s, stale_s) and reported[at] + sent[at] < places[at]:
            last = at
            left -= speed[at]
            if left < 0.0:
                return at
    return last


def prequal(servers: Servers, u: Floats, choices: int, hot: float, now_s: float, stale_s: float) -> int:
    """Return the cold server of the least expected latency among `choices` drawn; if all are hot, the least loaded.

    Prequal's hot and cold lexicographic rule (Wydrowski et al., NSDI 2024, section 4). Hot is a server when more than
    the share `hot` of the others have less load: of few servers the busiest, when no other is as busy. Here last
    reports, with what was sent since, stand for the paper's pool of probes. Latency at the present load, there the
    median of what was measured near it, is `latency_s` times the requests per place: steeper than the truth where
    places are idle, since latencies are heard of late and all would run to the quickest until then. An old latency is
    forgotten, and who has none is taken for as quick as the quickest: nobody is shut out by what it once was. Without
    two fresh reports among those drawn, as power of two.
    """
    reported, at_s, sent, outstanding, _, latency_s, heard, speed, places, alive = servers
    size = len(alive)
    newest, quickest = 0.0, math.inf
    for at in range(size):
        if alive[at]:
            newest = max(newest, heard[at])
    for at in range(size):
        if alive[at] and is_news(heard[at], newest, outstanding[at], size):
            quickest = min(quickest, latency_s[at])
    cold = warm = first = NOBODY
    reports, least, lightest, soonest_s = 0, math.inf, math.inf, math.inf
    for drawn in range(choices):
        server = at_random(alive, u[drawn])
        if server < 0:
            return NOBODY
        if not usable(reported[server], at_s[server], now_s, stale_s):
            continue
        reports += server != first
        first = server if first < 0 else first
        this, below, others = per_speed(reported[server] + sent[server], speed[server]), 0, -1
        for at in range(size):
            if alive[at] and usable(reported[at], at_s[at], now_s, stale_s):
                others += 1
                below += per_speed(reported[at] + sent[at], speed[at]) < this
        if below > hot * others:
            if this < least:
                warm, least = server, this
            continue
        known = is_news(heard[server], newest, outstanding[server], size)
        alone_s = latency_s[server] if known else quickest
        ahead = 1.0 + max(0.0, reported[server] + sent[server])
        expected_s = alone_s * ahead / places[server] if alone_s < math.inf else 0.0
        if cold < 0 or expected_s < soonest_s or (expected_s == soonest_s and this < lightest):
            cold, soonest_s, lightest = server, expected_s, this
    if reports < 2:
        return power_of_d(servers, u, 2, now_s, stale_s)
    return cold if cold >= 0 else warm


def consistent_hash(alive: Flags, outstanding: Floats, speed: Floats, key: int, bound: float) -> int:
    """Return the server that a key belongs to, the same one while it lives and has not too much.

    Rendezvous hashing weighted by speed (Thaler and Ravishankar, 1998): a server that comes or goes moves only its own
    keys. One that has `bound` times its fair share of what is outstanding is passed over (Mirrokni et al., SODA 2018).
    """
    total, speeds = 1.0, 0.0
    for at in range(len(alive)):
        if alive[at]:
            total += outstanding[at]
            speeds += speed[at]
    best, least = NOBODY, math.inf
    for at in range(len(alive)):
        if alive[at] and outstanding[at] < bound * total * speed[at] / speeds:
            distance = -math.log(hashed(key, at)) / speed[at]
            if distance < least:
                best, least = at, distance
    return best


def hashed(key: int, server: int) -> float:
    """Return a number in (0, 1) that depends on both alone (Murmur3's 32-bit finaliser).

    >>> 0.0 < hashed(1, 2) < 1.0
    True
    """
    x = (int(key) * 0x9E3779B1 + (int(server) + 1) * 0x85EBCA77) & 0xFFFFFFFF
    x ^= x >> 16
    x = (x * 0x85EBCA6B) & 0xFFFFFFFF
    x ^= x >> 13
    x = (x * 0xC2B2AE35) & 0xFFFFFFFF
    x ^= x >> 16
    return (x + 0.5) / 4294967296.0
