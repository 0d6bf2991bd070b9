"""Requests that an LLM engine runs: who is admitted to its memory, how they get it, and how they lose it again."""

from __future__ import annotations

import numpy as np

from headway.fleet.compiled import policies
from headway.fleet.llm_decide import scan
from headway.fleet.llm_memory import (
    KEY_MASK,
    blocks_of,
    evict,
    leave_line,
    matched,
    most_blocks,
    put_back,
    remove,
    reuse,
    unshare,
    used_by_others,
)
from headway.fleet.llm_state import (
    ADMITTED,
    CACHED,
    DECODING,
    MOVED,
    MOVES,
    MOVING,
    PREEMPTIONS,
    PREFILL,
    PREFILLING,
    SWAPPED,
    SWAPS,
    WAITING,
    WASTED,
    Engines,
    Requests,
    Rules,
    State,
)
from headway.policy import kv_admission
from headway.policy.kv_admission import OPTIMISTIC, PEAK, RESERVE, Memory
from headway.policy.scheduling import FCFS, INPUT_WEIGHT, MLFQ, VTC, Backlog
from headway.sim.heap import push
from headway.sim.jit import step

fits = policies(kv_admission).fits
predicted_peak = policies(kv_admission).predicted_peak
swaps = policies(kv_admission).swaps


@step
def cacheable(rules: Rules, requests: Requests, r: int) -> int:
    """Return how many blocks of a prompt may come from the prefix cache: one token at least is left to compute."""
    if rules.hash_blocks == 0:
        return 0
    whole = (requests.prompt[r] - 1) // (rules.hash_blocks * rules.block_tokens)
    return int(min(requests.first_block[r + 1] - requests.first_block[r], whole))


@step
def by_arrival(rules: Rules) -> bool:
    """Return whether requests are taken in order of arrival and none is passed by."""
    return rules.order.code == FCFS and rules.order.bypass == 0


@step
def patient(rules: Rules) -> bool:
    """Return whether a request that does not fit goes on not fitting until another comes or leaves."""
    return (rules.admission.code == OPTIMISTIC or rules.admission.code == RESERVE) and not preemptive(rules)


@step
def preemptive(rules: Rules) -> bool:
    """Return whether what runs may give way to what waits: with each token that is made."""
    return rules.order.code == MLFQ


@step
def choose(engines: Engines, rules: Rules, requests: Requests, state: State, e: int, now_s: float) -> int:
    """Return the request to admit next, or -1; `state.steady`: whether that lasts until one comes or leaves."""
    state.steady[e] = patient(rules)
    overtaker = -1
    top = int(state.lines.back[e])
    if top < 0 and by_arrival(rules):
        top = int(state.lines.head[e])
    elif top < 0 or preemptive(rules):
        top, overtaker = foremost(engines, rules, requests, state, e, now_s)
        if overtaker >= 0 or rules.hash_blocks > 0:
            state.steady[e] = False
    passed = -1
    for _ in range(2):
        if has_room(engines, rules, requests, state, e, top, -1, 0):
            if passed >= 0:
                state.skipped[passed] += 1
            return top
        if passed >= 0 or overtaker < 0 or overtaker == top or state.skipped[top] >= rules.order.bypass:
            return -1
        passed = top
        top = overtaker
    return -1


@step
def foremost(engines: Engines, rules: Rules, requests: Requests, state: State, e: int, now_s: float) -> tuple[int, int]:
    """Return who goes first of those that wait, and who of those that fit into memory that is free."""
    cache, capacity, block_tokens = state.cache, engines.capacity[e], rules.block_tokens
    asked = capacity - cache.free[e] - cache.evictable[e] + state.waiting_tokens[e] / block_tokens
    backlog = Backlog(
        float(state.queued[e]), float(engines.budget[e]), asked / capacity, engines.token_s[e],
        engines.overhead_s[e] + engines.floor_s[e],
    )  # fmt: skip
    spare = (cache.free[e] + cache.evictable[e]) * block_tokens
    top, overtaker = scan(
        rules.order, backlog, state.lines, e, now_s, spare, requests,
        state.joined if preemptive(rules) else state.work, state.total, state.made, state.account,
    )  # fmt: skip
    return top, overtaker


@step
def has_room(
    engines: Engines, rules: Rules, requests: Requests, state: State, e: int, r: int, gone: int, gained: int
) -> bool:
    """Return whether a request fits into memory, if `gone` ran no more (-1: nobody) and so many blocks were gained."""
    cache, block_tokens, hash_blocks = state.cache, rules.block_tokens, rules.hash_blocks
    need = blocks_of(state.total[r], block_tokens)
    if hash_blocks > 0 and not state.loaded[r]:
        first = requests.first_block[r]
        need -= matched(cache, e, requests.blocks, first, cacheable(rules, requests, r), True) * hash_blocks
    answers = engines.role[e] != PREFILL
    most = most_blocks(requests.prompt[r], requests.limit[r], block_tokens, answers)
    peak = peak_with(requests, state, e, r, gone, answers) / block_tokens if rules.admission.code == PEAK else 0.0
    reserved = state.reserved[e]
    if gone >= 0:
        reserved -= most_blocks(requests.prompt[gone], requests.limit[gone], block_tokens, answers)
    memory = Memory(
        float(engines.capacity[e]), float(cache.free[e] + cache.evictable[e] + gained), float(reserved),
        state.headroom[e] / block_tokens, peak, state.running[e] - (gone >= 0),
    )  # fmt: skip
    return bool(fits(rules.admission, float(need), float(most), memory))


@step
def peak_with(requests: Requests, state: State, e: int, r: int, gone: int, answers: bool) -> float:
    """Return the most tokens that what runs is predicted to hold, without `gone`, together with one more request."""
    used, remaining = state.used, state.remaining
    at = 0
    for place in range(state.running[e]):
        other = state.run[e, place]
        if other == gone:
            continue
        decodes = state.status[other] == DECODING
        since = state.it[e] - state.entered[other] if decodes else 0
        used[at] = state.context[other] + since if decodes else state.total[other]
        remaining[at] = max(1, requests.predicted[other] - state.made[other] - since) if answers else 1
        at += 1
    used[at] = state.total[r]
    remaining[at] = max(1, requests.predicted[r] - state.made[r]) if answers else 1
    return float(predicted_peak(used, remaining, at + 1))


@step
def admit(engines: Engines, rules: Rules, requests: Requests, state: State, e: int, r: int, now_s: float) -> None:
    """Give a request memory and let it be computed."""
    block_tokens, hash_blocks = rules.block_tokens, rules.hash_blocks
    cache, total = state.cache, state.total[r]
    leave_line(state.lines, e, r)
    state.waiting[e] -= 1
    state.waiting_tokens[e] -= total
    found = 0
    if hash_blocks > 0 and not state.loaded[r]:
        first = requests.first_block[r]
        found = matched(cache, e, requests.blocks, first, cacheable(rules, requests, r), False)
        reuse(cache, e, requests.blocks, first, found, hash_blocks)
    need = blocks_of(total, block_tokens) - found * hash_blocks
    evict(cache, e, need, hash_blocks)
    cache.free[e] -= need
    state.shared[r] = found
    state.reserved[e] += most_blocks(requests.prompt[r], requests.limit[r], block_tokens, engines.role[e] != PREFILL)
    known = found * hash_blocks * block_tokens
    state.todo[r] = 0 if state.loaded[r] else total - known
    state.queued[e] += state.todo[r] - state.work[r]
    state.cached[r] += known
    state.tally[e, CACHED] += known
    if state.start_s[r] == np.inf:
        state.start_s[r] = now_s
    if state.loaded[r] == SWAPPED:
        state.step_s[e] += engines.swap_token_s[e] * total
    if rules.order.code == VTC:
        state.account[e, requests.tenant[r]] += INPUT_WEIGHT * state.todo[r]
    state.status[r] = PREFILLING
    state.admitted[r] = state.counters[ADMITTED]
    state.counters[ADMITTED] += 1
    state.run[e, state.running[e]] = r
    state.slot[r] = state.running[e]
    state.running[e] += 1
    state.pre[e, state.prefilling[e]] = r
    state.prefilling[e] += 1


@step
def forget(rules: Rules, requests: Requests, state: State, e: int, r: int, place_in_heap: int) -> None:
    """Let a request decode no more."""
    state.decoding[e] -= 1
    remove(state.heap, e, state.decoding[e] + 1, place_in_heap)
    since = state.it[e] - state.entered[r]
    state.residue[e, (state.entered[r] - state.context[r]) % rules.block_tokens] -= 1
    state.context[r] += since
    state.made[r] += since
    state.kv[e] -= state.context[r]
    if rules.order.code == VTC:
        state.makers[e, requests.tenant[r]] -= 1


@step
def drop(engines: Engines, rules: Rules, requests: Requests, state: State, e: int, r: int, tokens: int) -> None:
    """Give back the memory of a request with so many tokens in it; what is shared stays cached."""
    shared = state.shared[r]
    state.cache.free[e] += blocks_of(tokens, rules.block_tokens) - shared * rules.hash_blocks
    if shared > 0:
        unshare(state.cache, e, requests.blocks, requests.first_block[r], shared, rules.hash_blocks)
        state.shared[r] = 0
    state.reserved[e] -= most_blocks(
        requests.prompt[r], requests.limit[r], rules.block_tokens, engines.role[e] != PREFILL
    )
    state.running[e] -= 1
    last = state.run[e, state.running[e]]
    state.run[e, state.slot[r]] = last
    state.slot[last] = state.slot[r]
    if rules.order.code == VTC:
        state.active[e, requests.tenant[r]] -= 1


@step
def preempt(engines: Engines, rules: Rules, requests: Requests, state: State, e: int, r: int) -> None:
    """Send a request that runs back to those that wait, ahead of all that never ran."""
    total, todo, loaded = state.total, state.todo, state.loaded
    lost = total[r] - todo[r]
    kept = total[r]
    loaded[r] = 0
    if state.status[r] == DECODING:
        place_in_heap = 0
        while state.heap[e, place_in_heap] & KEY_MASK != r:
            place_in_heap += 1
        forget(rules, requests, state, e, r, place_in_heap)
        lost = state.context[r]
        kept = lost
        stay = used_by_others(state.cache, e, requests.blocks, requests.first_block[r], state.shared[r])
        anew = lost - stay * rules.hash_blocks * rules.block_tokens
        if swaps(float(lost), float(anew), engines.token_s[e], engines.swap_token_s[e]):
            loaded[r] = SWAPPED
    else:
        at = 0
        while state.pre[e, at] != r:
            at += 1
        state.prefilling[e] -= 1
        for later in range(at, state.prefilling[e]):
            state.pre[e, later] = state.pre[e, later + 1]
        state.queued[e] -= todo[r]
    again = state.shared[r] * rules.hash_blocks * rules.block_tokens
    drop(engines, rules, requests, state, e, r, kept)
    state.tally[e, PREEMPTIONS] += 1
    state.preempted[r] += 1
    total[r] = requests.prompt[r] + state.made[r]
    state.work[r] = total[r]
    if loaded[r]:
        state.tally[e, SWAPS] += 1
        state.step_s[e] += engines.swap_token_s[e] * lost
        total[r] = lost
        state.work[r] = 0
    else:
        state.tally[e, WASTED] += lost - again
    state.queued[e] += state.work[r]
    state.status[r] = WAITING
    state.waiting[e] += 1
    state.waiting_tokens[e] += total[r]
    put_back(state.lines, e, r)
    if rules.order.code == VTC:
        state.active[e, requests.tenant[r]] += 1


@step
def hand_over(rules: Rules, requests: Requests, state: State, r: int, end_s: float) -> None:
    """Let a request's keys and values move from the prefill engine that made them to a decode engine."""
    state.status[r] = MOVING
    state.loaded[r] = MOVED
    state.total[r] = requests.prompt[r] + state.made[r] - 1
    state.work[r] = 0
    moved_s = end_s + rules.transfer_token_s * state.total[r]
    state.counters[MOVES] = push(state.move_s, state.move, state.move, state.counters[MOVES], moved_s, r, r)
