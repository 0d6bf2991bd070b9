"""Who gives way on an LLM engine: when memory is short, and, under `mlfq`, to those of a higher level that wait."""

from __future__ import annotations

from headway.fleet.compiled import policies
from headway.fleet.llm_memory import blocks_of
from headway.fleet.llm_running import foremost, has_room, preemptive
from headway.fleet.llm_state import DECODING, Engines, Requests, Rules, State
from headway.policy import scheduling
from headway.sim.jit import step

level = policies(scheduling).level
overdue = policies(scheduling).overdue


@step
def level_of(engines: Engines, rules: Rules, requests: Requests, state: State, e: int, r: int, now_s: float) -> float:
    """Return the level of a request that waits or runs: the first, once it is overdue."""
    if overdue(rules.order, requests.arrival_s[r], now_s):
        return 0.0
    made = state.made[r]
    if state.status[r] == DECODING:
        made += state.it[e] - state.entered[r]
    step_s = engines.overhead_s[e] + engines.floor_s[e]
    return float(level(state.joined[r] * engines.token_s[e], made * step_s, step_s))


@step
def lowest(engines: Engines, rules: Rules, requests: Requests, state: State, e: int, now_s: float) -> int:
    """Return who gives way when memory is short: who was admitted last, under `mlfq` of those on the lowest level."""
    r = -1
    below = 0.0
    for at in range(state.running[e]):
        other = state.run[e, at]
        stands_on = level_of(engines, rules, requests, state, e, other, now_s) if preemptive(rules) else 0.0
        if r < 0 or stands_on > below or (stands_on == below and state.admitted[other] > state.admitted[r]):
            r = other
            below = stands_on
    return int(r)


@step
def gives_way(
    engines: Engines, rules: Rules, requests: Requests, state: State, e: int, mixed: bool, now_s: float
) -> int:
    """Return who gives way to the first of those that wait, or -1: who is below its level, and makes it fit alone.

    Of several the one on the lowest level, of these who was admitted last. Nobody does where it fits anyway, or where
    the iteration has no tokens left to begin with it.
    """
    left = engines.budget[e] - (state.decoding[e] if mixed else 0)
    for at in range(state.prefilling[e]):
        left -= state.todo[state.pre[e, at]]
    top, _ = foremost(engines, rules, requests, state, e, now_s)
    if left <= 0 or (not mixed and state.prefilling[e] > 0 and state.work[top] > left):
        return -1
    full = state.running[e] == engines.most_running[e]
    # What decodes grows before anyone is admitted where decoding goes first.
    phase = state.it[e] % rules.block_tokens
    growth = state.residue[e, phase] if mixed else 0
    least = level_of(engines, rules, requests, state, e, top, now_s)
    gone = -1
    for at in range(-1, state.running[e]):
        other = -1
        gained = -growth
        if at >= 0:
            other = state.run[e, at]
            below = level_of(engines, rules, requests, state, e, other, now_s)
            if below < least or (below == least and (gone < 0 or state.admitted[other] < state.admitted[gone])):
                continue
            tokens = state.total[other]
            if state.status[other] == DECODING:
                tokens = state.context[other] + state.it[e] - state.entered[other]
                gained += mixed and (state.entered[other] - state.context[other]) % rules.block_tokens == phase
            gained += blocks_of(tokens, rules.block_tokens) - state.shared[other] * rules.hash_blocks
        elif full:
            continue
        if has_room(engines, rules, requests, state, e, top, other, gained):
            if at < 0:
                return -1
            gone = other
            least = below
    return int(gone)
