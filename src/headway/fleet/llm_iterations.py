"""The iterations of an LLM engine: what each does, how many are alike, and what becomes of requests as they end."""

from __future__ import annotations

import numpy as np

from headway.fleet.compiled import policies
from headway.fleet.llm_levels import gives_way, lowest
from headway.fleet.llm_memory import KEY_BITS, KEY_MASK, end_after, enter, evict, fitting, growth, over_by, publish
from headway.fleet.llm_running import admit, by_arrival, choose, drop, forget, hand_over, patient, preempt, preemptive
from headway.fleet.llm_state import (
    ANSWERED,
    COMPUTED,
    DECODE_FIRST,
    DECODING,
    DONE,
    ITERATIONS,
    PREFILL,
    PREFILL_FIRST,
    STATIC,
    Engines,
    Requests,
    Rules,
    State,
)
from headway.policy import kv_admission, routing
from headway.policy.kv_admission import HEADROOM
from headway.policy.routing import JBSQ, PREQUAL
from headway.policy.scheduling import OUTPUT_WEIGHT, VTC
from headway.policy.token_routing import RELEASE_WEIGHT
from headway.sim.jit import step

note_answered = policies(routing).note_answered
note_latency = policies(routing).note_latency
headroom_after = policies(kv_admission).headroom_after

_UNLIMITED = 1 << 60


@step
def lone(engines: Engines, rules: Rules) -> bool:
    """Return whether there is but one engine, always there, that gets all at once: a balancer has nothing to know."""
    always = engines.ready_s[0] == 0.0 and engines.stop_s[0] == np.inf
    return engines.capacity.size == 1 and always and rules.router.code != JBSQ


@step
def stands(engines: Engines, rules: Rules, state: State, e: int) -> bool:
    """Return whether what comes now changes nothing before a request leaves."""
    full = state.running[e] >= engines.most_running[e] and not preemptive(rules)
    return rules.hash_blocks == 0 and (full or (by_arrival(rules) and patient(rules) and state.waiting[e] > 0))


@step
def start(engines: Engines, rules: Rules, requests: Requests, state: State, e: int) -> None:
    """Begin the next iteration, or as many as are alike; none when there is nothing to do."""
    block_tokens = rules.block_tokens
    cache, residue, todo, chunk = state.cache, state.residue, state.todo, state.chunk
    batching = engines.batching[e]
    now_s = state.clock_s[e]
    state.step_s[e] = 0.0
    asked = 0
    pairs = 0.0
    evicted = False
    state.steady[e] = not preemptive(rules)
    mixed = batching == DECODE_FIRST
    if preemptive(rules) and state.waiting[e] > 0 and batching != STATIC:
        r = gives_way(engines, rules, requests, state, e, mixed, now_s)
        if r >= 0:
            preempt(engines, rules, requests, state, e, r)
    # Which comes first, memory for decoding or new requests: the other gets what is left.
    for turn in range(2):
        if (turn == 0) == mixed:
            if asked > 0:
                continue
            while residue[e, state.it[e] % block_tokens] > cache.free[e] + cache.evictable[e]:
                preempt(engines, rules, requests, state, e, lowest(engines, rules, requests, state, e, now_s))
                state.headroom[e] = rules.admission.most_headroom
                evicted = True
            need = residue[e, state.it[e] % block_tokens]
            evict(cache, e, need, rules.hash_blocks)
            cache.free[e] -= need
            continue
        left = _UNLIMITED if batching == STATIC else engines.budget[e]
        if mixed:
            left -= state.decoding[e]
        open_to_new = not evicted and (batching != STATIC or state.running[e] == 0)
        at = 0
        while True:
            if at == state.prefilling[e]:
                full = state.running[e] == engines.most_running[e]
                if not open_to_new or left <= 0 or full or state.waiting[e] == 0:
                    break
                r = choose(engines, rules, requests, state, e, now_s)
                if r < 0 or (batching == PREFILL_FIRST and asked > 0 and state.work[r] > left):
                    break
                admit(engines, rules, requests, state, e, r, now_s)
            r = state.pre[e, at]
            chunk[r] = min(todo[r], left) if mixed else todo[r]
            left -= chunk[r]
            asked += chunk[r]
            pairs += chunk[r] * (state.total[r] - todo[r] + 0.5 * (chunk[r] + 1))
            at += 1
    made = state.decoding[e] if mixed or asked == 0 else 0
    if made == 0 and state.prefilling[e] == 0:
        return
    state.decodes[e] = made
    state.growth_s[e] = engines.kv_token_s[e] * made
    alike = rules.jump and asked == 0 and state.prefilling[e] == 0 and state.step_s[e] == 0.0
    if asked + made > 0:
        computed_s = max(engines.floor_s[e], engines.token_s[e] * (asked + made))
        state.step_s[e] += engines.overhead_s[e] + computed_s + engines.pair_s[e] * pairs
        if made > 0:
            state.step_s[e] += engines.kv_token_s[e] * state.kv[e]
    state.begin_s[e] = now_s
    state.span[e] = 1
    if alike and not evicted and (state.waiting[e] == 0 or state.steady[e]):
        many = (state.heap[e, 0] >> KEY_BITS) - state.it[e]
        state.span[e] = fitting(residue, e, made, state.it[e], cache.free[e] + cache.evictable[e], many)


@step
def pass_by(engines: Engines, rules: Rules, state: State, e: int, count: int, grown: int, end_s: float) -> None:
    """Let iterations be over: what decodes has grown, `grown` of them beyond the first, and accounts are kept."""
    state.tally[e, ITERATIONS] += count
    state.busy_s[e] += end_s - state.begin_s[e]
    state.clock_s[e] = end_s
    decodes = state.decodes[e]
    if decodes > 0:
        if grown > 0:
            need = growth(state.residue, e, decodes, state.it[e] + 1, grown)
            evict(state.cache, e, need, rules.hash_blocks)
            state.cache.free[e] -= need
        state.it[e] += count
        state.kv[e] += decodes * count
        if rules.order.code == VTC:
            for tenant in range(state.account.shape[1]):
                state.account[e, tenant] += OUTPUT_WEIGHT * count * state.makers[e, tenant]
    if not lone(engines, rules):
        state.release[e] *= (1.0 - RELEASE_WEIGHT) ** count
    if rules.admission.code == HEADROOM:
        state.headroom[e] = headroom_after(rules.admission, state.headroom[e], count)


@step
def computed(engines: Engines, rules: Rules, requests: Requests, state: State, e: int, gone: int, end_s: float) -> int:
    """Let chunks of prompts be computed; return how many are `leaving`, of which `gone` were known."""
    hash_blocks, todo, shared, made, total = rules.hash_blocks, state.todo, state.shared, state.made, state.total
    kept = 0
    for at in range(state.prefilling[e]):
        r = state.pre[e, at]
        chunk = state.chunk[r]
        todo[r] -= chunk
        state.queued[e] -= chunk
        state.tally[e, COMPUTED] += chunk
        if hash_blocks > 0 and not state.loaded[r]:
            whole = min(requests.prompt[r], total[r] - todo[r]) // (hash_blocks * rules.block_tokens)
            if whole > shared[r]:
                first = requests.first_block[r]
                publish(state.cache, e, requests.blocks, first + shared[r], first + whole, hash_blocks)
                shared[r] = whole
        if todo[r] > 0:
            state.pre[e, kept] = r
            kept += 1
            continue
        if not state.loaded[r]:
            made[r] += 1
            if state.first_s[r] == np.inf:
                state.first_s[r] = end_s
                if rules.router.code == PREQUAL and not lone(engines, rules):
                    balance = state.balance
                    note_latency(balance.servers, e, end_s - balance.sent_s[r], balance.stretched[r], r)
        state.loaded[r] = 0
        if made[r] >= requests.output[r] or engines.role[e] == PREFILL:
            state.leaving[gone] = r
            gone += 1
            continue
        state.context[r] = total[r]
        state.entered[r] = state.it[e]
        state.status[r] = DECODING
        state.kv[e] += total[r]
        state.residue[e, (state.it[e] - total[r]) % rules.block_tokens] += 1
        ends = state.it[e] + requests.output[r] - made[r]
        enter(state.heap, e, state.decoding[e], (ends << KEY_BITS) + r)
        state.decoding[e] += 1
        if rules.order.code == VTC:
            state.makers[e, requests.tenant[r]] += 1
    state.prefilling[e] = kept
    return gone


@step
def complete(engines: Engines, rules: Rules, requests: Requests, state: State, e: int, end_s: float) -> None:
    """Let requests finish and prompts be computed as iterations end; memory is given back."""
    cache = state.cache
    gone = 0
    if state.decodes[e] > 0:
        while state.decoding[e] > 0 and state.heap[e, 0] >> KEY_BITS <= state.it[e]:
            r = state.heap[e, 0] & KEY_MASK
            state.leaving[gone] = r
            forget(rules, requests, state, e, r, 0)
            gone += 1
    gone = computed(engines, rules, requests, state, e, gone, end_s)
    before = cache.free[e] + cache.evictable[e]
    for at in range(gone):
        r = state.leaving[at]
        drop(engines, rules, requests, state, e, r, requests.prompt[r] + state.made[r] - 1)
        if not lone(engines, rules):
            note_answered(state.balance.servers, e)
        if state.made[r] >= requests.output[r]:
            state.status[r] = DONE
            state.done_s[r] = end_s
            state.counters[ANSWERED] += 1
        else:
            hand_over(rules, requests, state, r, end_s)
    if not lone(engines, rules):
        state.release[e] += RELEASE_WEIGHT * rules.block_tokens * (cache.free[e] + cache.evictable[e] - before)


@step
def settle(engines: Engines, rules: Rules, requests: Requests, state: State, e: int, now_s: float, split: bool) -> None:
    """End and begin iterations up to an instant; what would begin at it waits for what comes at it.

    With `split`, those under way are split into what is over by now and the rest.
    """
    span = state.span
    while True:
        if span[e] == 0:
            if (state.running[e] == 0 and state.waiting[e] == 0) or state.clock_s[e] >= now_s:
                return
            start(engines, rules, requests, state, e)
            if span[e] == 0:
                return
        count = span[e]
        begin_s, step_s, growth_s = state.begin_s[e], state.step_s[e], state.growth_s[e]
        end_s = end_after(begin_s, step_s, growth_s, count)
        whole = end_s <= now_s
        if not whole:
            # A tenant that comes is set beside what others were served up to now.
            told = rules.order.code == VTC or not lone(engines, rules)
            if not split or count == 1 or (not told and stands(engines, rules, state, e)):
                return
            count = over_by(begin_s, step_s, growth_s, count, now_s)
            if count == 0:
                return
            end_s = end_after(begin_s, step_s, growth_s, count)
        # The first iteration has its blocks; one that goes on has taken its own as it began.
        goes_on = not whole and end_s < now_s
        pass_by(engines, rules, state, e, count, count if goes_on else count - 1, end_s)
        if goes_on:
            state.step_s[e] += growth_s * count
            state.begin_s[e] = end_s
            span[e] -= count
            return
        span[e] = 0
        if whole:
            complete(engines, rules, requests, state, e, end_s)
