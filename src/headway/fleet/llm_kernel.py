"""The kernel of LLM engines: continuous batching over KV memory, many engines behind a balancer, on one clock.

At one instant iterations end first, then engines report, then requests come and are sent to engines, and only then do
iterations begin. Iterations that only decode, and in which nothing can be admitted, are taken at once: their times sum
up in closed form. Where requests go, in which order they are taken, whether they fit, and who is preempted how, are
decisions of policies (`headway.policy.token_routing`, `scheduling`, `kv_admission`).
"""

from __future__ import annotations

import numpy as np

from headway.fleet.compiled import policies
from headway.fleet.llm_decide import assign, come_back, emptiest, look
from headway.fleet.llm_iterations import lone, settle, stands
from headway.fleet.llm_memory import blocks_of, end_after, line_up, matched, most_blocks
from headway.fleet.llm_running import cacheable
from headway.fleet.llm_state import (
    ANSWERED,
    DECODE,
    HELD_FROM,
    HELD_TO,
    MOVES,
    NEXT,
    PREFILL,
    REFUSED,
    WAITING,
    Engines,
    Requests,
    Rules,
    State,
)
from headway.policy import routing
from headway.policy.scheduling import VTC
from headway.sim.heap import pop
from headway.sim.jit import borrowing, step

note_answered = policies(routing).note_answered


@borrowing
def advance(engines: Engines, rules: Rules, requests: Requests, state: State, until_s: float) -> int:
    """Do everything up to `until_s`; return how many requests are answered.

    What begins at `until_s` itself is left to the next call.
    """
    counters, held, move_s, move, report_at_s = state.counters, state.held, state.move_s, state.move, state.report_at_s
    report_s, arrival_s = rules.report_s, requests.arrival_s
    n, size = arrival_s.size, engines.capacity.size
    last_s = state.last_s[0]
    while True:
        now_s = arrival_s[counters[NEXT]] if counters[NEXT] < n else np.inf
        if counters[HELD_FROM] < counters[HELD_TO]:
            now_s = min(now_s, next_change_s(engines, state, last_s))
        reports = report_s > 0.0 and now_s < np.inf and report_at_s[0] <= now_s
        if reports:
            now_s = report_at_s[0]
        if counters[MOVES] > 0:
            now_s = min(now_s, move_s[0])
        final = now_s > until_s or now_s == np.inf
        if final:
            now_s = until_s
        for e in range(size):
            if engines.role[e] == DECODE and counters[MOVES] > 0 and move_s[0] <= now_s:
                now_s = move_s[0]
                final = False
            settle(engines, rules, requests, state, e, now_s, not final)
        if final:
            state.last_s[0] = last_s
            return int(counters[ANSWERED])
        last_s = now_s
        reports = reports and report_at_s[0] <= now_s
        while counters[NEXT] < n and arrival_s[counters[NEXT]] <= now_s:
            held[counters[HELD_TO]] = counters[NEXT]
            counters[HELD_TO] += 1
            counters[NEXT] += 1
        if not lone(engines, rules) and (reports or (report_s == 0.0 and counters[HELD_FROM] < counters[HELD_TO])):
            look(
                engines.capacity, state.cache, state.running, state.waiting, state.queued, state.waiting_tokens,
                state.release, state.balance, rules.block_tokens, now_s,
            )  # fmt: skip
        if reports:
            report_at_s[0] += report_s
        while True:
            e = 0
            if counters[MOVES] > 0 and move_s[0] <= now_s:
                r = move[0]
                counters[MOVES] = pop(move_s, move, move, counters[MOVES])
                e = emptiest(
                    engines, state.cache, state.waiting_tokens, state.balance.servers, rules.block_tokens,
                    blocks_of(requests.prompt[r] + requests.limit[r], rules.block_tokens), now_s,
                )  # fmt: skip
            elif counters[HELD_FROM] < counters[HELD_TO]:
                r = held[counters[HELD_FROM]]
                if not lone(engines, rules):
                    e = assign(engines, rules, requests, state.balance, r, cacheable(rules, requests, r), now_s)
                if e < 0:
                    break
                counters[HELD_FROM] += 1
            else:
                break
            enqueue(engines, rules, requests, state, e, r, now_s)


@step
def next_change_s(engines: Engines, state: State, last_s: float) -> float:
    """Return when next the balancer may send what it holds: an engine's iterations end, or it is ready."""
    next_s = np.inf
    for e in range(engines.capacity.size):
        if state.span[e] > 0:
            next_s = min(next_s, end_after(state.begin_s[e], state.step_s[e], state.growth_s[e], state.span[e]))
        elif state.running[e] > 0 or state.waiting[e] > 0:
            next_s = min(next_s, np.nextafter(state.clock_s[e], np.inf))
        if engines.ready_s[e] > last_s:
            next_s = min(next_s, engines.ready_s[e])
    return next_s


@step
def is_held(engines: Engines, rules: Rules, requests: Requests, e: int, r: int) -> bool:
    """Return whether a request fits into an engine's memory; after one for prompts also into some that decodes."""
    prompt, limit, block_tokens = requests.prompt[r], requests.limit[r], rules.block_tokens
    held = most_blocks(prompt, limit, block_tokens, engines.role[e] != PREFILL) <= engines.capacity[e]
    if engines.role[e] != PREFILL:
        return bool(held)
    most = 0
    for other in range(engines.capacity.size):
        if engines.role[other] == DECODE:
            most = max(most, engines.capacity[other])
    return bool(held and most_blocks(prompt, limit, block_tokens, True) <= most)


@step
def enqueue(engines: Engines, rules: Rules, requests: Requests, state: State, e: int, r: int, now_s: float) -> None:
    """Let a request wait at an engine; one that could never fit is refused."""
    total, span, prompt = state.total, state.span, requests.prompt[r]
    state.engine[r] = e
    if not state.loaded[r]:
        total[r] = prompt
    if not is_held(engines, rules, requests, e, r):
        state.status[r] = REFUSED
        if not lone(engines, rules):
            note_answered(state.balance.servers, e)
        return
    if not state.loaded[r]:
        whole = cacheable(rules, requests, r)
        found = matched(state.cache, e, requests.blocks, requests.first_block[r], whole, False)
        state.work[r] = prompt - found * rules.hash_blocks * rules.block_tokens
        state.joined[r] = state.work[r]
    if span[e] == 0:
        state.clock_s[e] = max(state.clock_s[e], now_s, engines.ready_s[e])
    elif not stands(engines, rules, state, e):
        span[e] = 1
    state.status[r] = WAITING
    line_up(state.lines, e, r)
    state.waiting[e] += 1
    state.waiting_tokens[e] += total[r]
    state.queued[e] += state.work[r]
    if rules.order.code == VTC:
        come_back(state.account, state.active, e, requests.tenant[r])
        state.active[e, requests.tenant[r]] += 1
