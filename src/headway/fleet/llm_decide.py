"""Decisions of the kernel of LLM engines that look at many requests or engines; policies make them, these ask.

Compiled on their own, and given only the columns that they read.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from headway.fleet.compiled import policies
from headway.fleet.llm_memory import Cache, Lines, most_blocks
from headway.fleet.llm_state import DECODE, PREFILL, Balance, Engines, Requests, Rules
from headway.policy import routing, scheduling, token_routing
from headway.policy.routing import PREQUAL, ROUND_ROBIN, Servers
from headway.policy.scheduling import MLFQ, Backlog, Order, Waiting
from headway.sim.draws import draw
from headway.sim.jit import borrowing
from headway.sim.station import Floats

Longs = NDArray[np.int64]

_routing = policies(token_routing)
place = _routing.place
believed_cached = _routing.believed
note_sent = policies(routing).note_sent
note_alive = policies(routing).note_alive
stretch = policies(routing).stretch
overdue = policies(scheduling).overdue
rank = policies(scheduling).rank
returning = policies(scheduling).returning

_UNIT = 1.0 / (1 << 30)


@borrowing
def scan(
    order: Order,
    backlog: Backlog,
    lines: Lines,
    e: int,
    now_s: float,
    most_tokens: int,
    requests: Requests,
    work: Longs,
    total: Longs,
    made: Longs,
    account: Floats,
) -> tuple[int, int]:
    """Return who of those that wait at an engine goes first, and who first of those with at most so many tokens.

    Those that were preempted are ranked with the others by `mlfq` alone; else they are not asked about.
    """
    top = -1
    small = -1
    top_late = False
    small_late = False
    least = math.inf
    small_least = math.inf
    mixed = order.code == MLFQ and lines.back[e] >= 0
    again = mixed
    r = int(lines.back[e] if again else lines.head[e])
    while r >= 0:
        came_s = requests.arrival_s[r]
        late = overdue(order, came_s, now_s)
        value = came_s
        if not late:
            left = float(max(1, requests.predicted[r] - made[r]))
            seen = Waiting(
                came_s, float(work[r]), float(total[r]), left, account[e, requests.tenant[r]], float(made[r])
            )  # fmt: skip
            value = rank(order, seen, backlog, now_s)
        # Lines are in order of arrival, but those that were preempted are in one of their own.
        sooner = value < least or (mixed and value == least and came_s < requests.arrival_s[top])
        if top < 0 or (late and not top_late) or (late == top_late and sooner):
            top = r
            top_late = late
            least = value
        sooner = value < small_least or (mixed and value == small_least and came_s < requests.arrival_s[small])
        if total[r] <= most_tokens and (small < 0 or (late and not small_late) or (late == small_late and sooner)):
            small = r
            small_late = late
            small_least = value
        r = int(lines.following[r])
        if r < 0 and again:
            again = False
            r = int(lines.head[e])
    return top, small


@borrowing
def come_back(account: Floats, active: Longs, e: int, tenant: int) -> None:
    """Set the account of a tenant who has nothing at an engine, while others have, as the policy says."""
    least = math.inf
    for t in range(account.shape[1]):
        if active[e, t] > 0:
            least = min(least, account[e, t])
    if active[e, tenant] == 0 and least < math.inf:
        account[e, tenant] = returning(least, account[e, tenant])


@borrowing
def emptiest(
    engines: Engines, cache: Cache, waiting_tokens: Longs, servers: Servers, block_tokens: int, need: int, now_s: float
) -> int:
    """Return the decode engine of whose memory the least is used or asked for.

    Of those that can hold as many blocks as are needed, and of these of those that serve now, as far as there are such.
    """
    best = -1
    least = math.inf
    least_fit = 3
    for e in range(engines.capacity.size):
        if engines.role[e] != DECODE:
            continue
        capacity = engines.capacity[e]
        held = capacity - cache.free[e] - cache.evictable[e]
        asked = (held + waiting_tokens[e] / block_tokens) / capacity
        unfit = 2 * (need > capacity) + (not engines.ready_s[e] <= now_s < engines.stop_s[e])
        if best < 0 or unfit < least_fit or (unfit == least_fit and asked < least):
            best = e
            least = asked
            least_fit = unfit
    note_sent(servers, best, 0.0)
    return best


@borrowing
def look(
    capacity: Longs,
    cache: Cache,
    running: Longs,
    waiting: Longs,
    queued: Longs,
    waiting_tokens: Longs,
    release: Floats,
    balance: Balance,
    block_tokens: int,
    now_s: float,
) -> None:
    """Let the balancer see the engines as they are."""
    servers = balance.servers
    tokens = balance.tokens
    for e in range(capacity.size):
        servers.reported[e] = running[e] + waiting[e]
        servers.reported_at_s[e] = now_s
        servers.sent[e] = 0.0
        tokens.prefill[e] = queued[e]
        tokens.waiting[e] = waiting_tokens[e]
        tokens.free[e] = (cache.free[e] + cache.evictable[e]) * block_tokens
        tokens.used[e] = capacity[e] * block_tokens - tokens.free[e]
        tokens.release[e] = release[e]
        tokens.sent[e] = 0.0


@borrowing
def assign(
    engines: Engines, rules: Rules, requests: Requests, balance: Balance, r: int, whole_blocks: int, now_s: float
) -> int:
    """Ask the policy where a request that came goes, and keep the balancer's books of it."""
    servers = balance.servers
    u = balance.u
    hash_blocks = rules.hash_blocks
    hash_tokens = hash_blocks * rules.block_tokens
    for at in range(u.size):
        u[at] = draw(rules.key, r * u.size + at, 30) * _UNIT
    begin = requests.first_block[r]
    # All that are asked here compute prompts, and either all of them answer too or none does.
    need = most_blocks(requests.prompt[r], requests.limit[r], rules.block_tokens, engines.role[0] != PREFILL)
    some_fit = False
    for e in range(engines.capacity.size):
        alive = engines.role[e] != DECODE and engines.ready_s[e] <= now_s < engines.stop_s[e]
        if alive and not servers.alive[e]:
            note_alive(servers, e, rules.router.code != ROUND_ROBIN)
        servers.alive[e] = alive
        some_fit = some_fit or (alive and need <= engines.capacity[e])
        count = 0
        while count < whole_blocks and believed_cached(
            balance.volume[e], balance.stamp[e, requests.blocks[begin + count]], engines.capacity[e] / hash_blocks
        ):
            count += 1
        balance.believed[e] = count * hash_tokens
    prompt = float(requests.prompt[r])
    # Only where others can hold it: what nobody can is refused where it would have gone.
    unfit = 0
    for e in range(engines.capacity.size):
        if some_fit and servers.alive[e] and need > engines.capacity[e]:
            servers.alive[e] = False
            unfit += 1
    e = place(rules.router, servers, balance.tokens, prompt, balance.believed, u, requests.session[r], now_s)
    if unfit > 0:
        for other in range(engines.capacity.size):
            alive = engines.role[other] != DECODE and engines.ready_s[other] <= now_s < engines.stop_s[other]
            servers.alive[other] = alive
    if e >= 0:
        if rules.router.code == PREQUAL:
            balance.sent_s[r] = now_s
            balance.stretched[r] = stretch(servers, e)
        note_sent(servers, e, 1.0 if rules.deltas else 0.0)
        if rules.deltas:
            balance.tokens.sent[e] += prompt - balance.believed[e]
        for at in range(begin, begin + whole_blocks):
            b = requests.blocks[at]
            if not believed_cached(balance.volume[e], balance.stamp[e, b], engines.capacity[e] / hash_blocks):
                balance.volume[e] += 1
            balance.stamp[e, b] = balance.volume[e]
    return int(e)
