"""The kernel of LLM engines: continuous batching over KV memory, many engines behind a balancer, on one clock.

At one instant iterations end first, then engines report, then requests come and are sent to engines, and only then do
iterations begin. Iterations that only decode, and in which nothing can be admitted, are taken at once: their times sum
up in closed form. Where requests go, in which order they are taken, whether they fit, and who is preempted how, are
decisions of policies (`headway.policy.token_routing`, `scheduling`, `kv_admission`).
"""

from __future__ import annotations

import numpy as np

from headway.fleet.compiled import policies
from headway.fleet.heap import pop, push
from headway.fleet.llm_decide import assign, emptiest, look, scan
from headway.fleet.llm_memory import (
    KEY_BITS,
    KEY_MASK,
    blocks_of,
    end_after,
    enter,
    evict,
    growth,
    matched,
    over_by,
    publish,
    put_back,
    remove,
    reuse,
    unshare,
)
from headway.fleet.llm_state import (
    ADMITTED,
    ANSWERED,
    CACHED,
    COMPUTED,
    DECODE,
    DECODE_FIRST,
    DECODING,
    DONE,
    HELD_FROM,
    HELD_TO,
    ITERATIONS,
    MOVED,
    MOVES,
    MOVING,
    NEXT,
    PREEMPTIONS,
    PREFILL,
    PREFILL_FIRST,
    PREFILLING,
    REFUSED,
    STATIC,
    SWAPPED,
    SWAPS,
    WAITING,
    WASTED,
    Engines,
    Requests,
    Rules,
    State,
)
from headway.policy import kv_admission, routing, scheduling
from headway.policy.kv_admission import HEADROOM, OPTIMISTIC, PEAK, RESERVE, Memory
from headway.policy.scheduling import FCFS, INPUT_WEIGHT, OUTPUT_WEIGHT, VTC, Backlog
from headway.policy.token_routing import RELEASE_WEIGHT
from headway.sim.jit import kernel

note_answered = policies(routing).note_answered
returning = policies(scheduling).returning
fits = policies(kv_admission).fits
headroom_after = policies(kv_admission).headroom_after
predicted_peak = policies(kv_admission).predicted_peak
swaps = policies(kv_admission).swaps

_UNLIMITED = 1 << 60


@kernel
def advance(engines: Engines, rules: Rules, requests: Requests, state: State, until_s: float) -> int:
    """Do everything up to `until_s`; return how many requests are answered.

    What begins at `until_s` itself is left to the next call. The functions inside share the arrays as names of this
    one: as arguments, each call would count references to all. Each is called in as few places as can be: the compiler
    repeats it in every one.
    """
    (
        overhead_s, floor_s, token_s, kv_token_s, pair_s, swap_token_s, capacity, budget, most_running, batching, role,
        ready_s, stop_s,
    ) = engines  # fmt: skip
    order, admission, _router, report_s, _deltas, block_tokens, hash_blocks, transfer_token_s, _draw_key, jump = rules
    arrival_s, prompt, output, limit, predicted, tenant, _session, first_block, blocks = requests
    (
        counters, report_at_s, held, move_s, move, status, engine, todo, chunk, work, total, context, made, entered,
        shared, loaded, skipped, admitted, slot, start_s, first_s, done_s, preempted, cached, clock_s, begin_s, step_s,
        growth_s, busy_s, span, decodes, it, kv, reserved, queued, waiting_tokens, waiting, running, prefilling,
        decoding, steady, headroom, release, tally, run, pre, heap, residue, account, active, makers, leaving, used,
        remaining, cache, lines, balance,
    ) = state  # fmt: skip
    free = cache.free
    evictable = cache.evictable
    servers = balance.servers
    # By names of their own: what a function inside writes to a column of a tuple is lost when compiled.
    following, preceding, head, tail, back = lines
    size = capacity.size
    n = arrival_s.size
    hash_tokens = hash_blocks * block_tokens
    lone = size == 1 and ready_s[0] == 0.0 and stop_s[0] == np.inf
    watched = order.code == VTC
    by_arrival = order.code == FCFS and order.bypass == 0
    patient = admission.code == OPTIMISTIC or admission.code == RESERVE

    # Requests of an engine

    def forget(e: int, r: int, place_in_heap: int) -> None:
        """Let a request decode no more."""
        decoding[e] -= 1
        remove(heap, e, decoding[e] + 1, place_in_heap)
        since = it[e] - entered[r]
        residue[e, (entered[r] - context[r]) % block_tokens] -= 1
        context[r] += since
        made[r] += since
        kv[e] -= context[r]
        if watched:
            makers[e, tenant[r]] -= 1

    def drop(e: int, r: int, count: int) -> None:
        """Give back the memory of a request with so many tokens in it; what is shared stays cached."""
        free[e] += blocks_of(count, block_tokens) - shared[r] * hash_blocks
        if shared[r] > 0:
            unshare(cache, e, blocks, first_block[r], shared[r], hash_blocks)
            shared[r] = 0
        reserved[e] -= blocks_of(prompt[r] + limit[r], block_tokens)
        running[e] -= 1
        last = run[e, running[e]]
        run[e, slot[r]] = last
        slot[last] = slot[r]
        if watched:
            active[e, tenant[r]] -= 1

    def preempt(e: int) -> None:
        """Send the request that was admitted last back to those that wait, ahead of all that never ran."""
        r = run[e, 0]
        for at in range(1, running[e]):
            if admitted[run[e, at]] > admitted[r]:
                r = run[e, at]
        lost = total[r] - todo[r]
        kept = total[r]
        loaded[r] = 0
        if status[r] == DECODING:
            place_in_heap = 0
            while heap[e, place_in_heap] & KEY_MASK != r:
                place_in_heap += 1
            forget(e, r, place_in_heap)
            lost = context[r]
            kept = lost
            if swaps(float(lost), token_s[e], swap_token_s[e]):
                loaded[r] = SWAPPED
        else:
            at = 0
            while pre[e, at] != r:
                at += 1
            prefilling[e] -= 1
            for later in range(at, prefilling[e]):
                pre[e, later] = pre[e, later + 1]
            queued[e] -= todo[r]
        again = shared[r] * hash_tokens
        drop(e, r, kept)
        tally[e, PREEMPTIONS] += 1
        preempted[r] += 1
        headroom[e] = admission.most_headroom
        total[r] = prompt[r] + made[r]
        work[r] = total[r]
        if loaded[r]:
            tally[e, SWAPS] += 1
            step_s[e] += swap_token_s[e] * lost
            total[r] = lost
            work[r] = 0
        else:
            tally[e, WASTED] += lost - again
        queued[e] += work[r]
        status[r] = WAITING
        waiting[e] += 1
        waiting_tokens[e] += total[r]
        put_back(lines, e, r)
        if watched:
            active[e, tenant[r]] += 1

    def whole_blocks(r: int) -> int:
        """Return how many blocks of a prompt may come from the prefix cache: one token at least is left to compute."""
        return int(min(first_block[r + 1] - first_block[r], (prompt[r] - 1) // max(1, hash_tokens)))

    def choose(e: int, now_s: float) -> int:
        """Return the request to admit next, or -1; `steady` says whether that lasts until one comes or leaves."""
        steady[e] = patient
        overtaker = -1
        top = back[e]
        if top < 0 and by_arrival:
            top = head[e]
        elif top < 0:
            asked = capacity[e] - free[e] - evictable[e] + waiting_tokens[e] / block_tokens
            backlog = Backlog(
                float(queued[e]), float(budget[e]), asked / capacity[e], token_s[e], overhead_s[e] + floor_s[e]
            )
            spare = (free[e] + evictable[e]) * block_tokens
            top, overtaker = scan(order, backlog, lines, e, now_s, spare, requests, work, total, made, account)
            if overtaker >= 0 or hash_blocks > 0:
                steady[e] = False
        passed = -1
        for _ in range(2):
            need = blocks_of(total[top], block_tokens)
            if hash_blocks > 0 and not loaded[top]:
                need -= matched(cache, e, blocks, first_block[top], whole_blocks(top), True) * hash_blocks
            most = blocks_of(prompt[top] + limit[top], block_tokens)
            peak = 0.0
            if admission.code == PEAK:
                for at in range(running[e]):
                    other = run[e, at]
                    since = it[e] - entered[other] if status[other] == DECODING else 0
                    used[at] = context[other] + since if status[other] == DECODING else total[other]
                    remaining[at] = max(1, predicted[other] - made[other] - since)
                used[running[e]] = total[top]
                remaining[running[e]] = max(1, predicted[top] - made[top])
                peak = predicted_peak(used, remaining, running[e] + 1) / block_tokens
            memory = Memory(
                float(capacity[e]), float(free[e] + evictable[e]), float(reserved[e]), headroom[e] / block_tokens,
                peak, running[e],
            )  # fmt: skip
            if fits(admission, float(need), float(most), memory):
                if passed >= 0:
                    skipped[passed] += 1
                return int(top)
            if passed >= 0 or overtaker < 0 or overtaker == top or skipped[top] >= order.bypass:
                return -1
            passed = top
            top = overtaker
        return -1

    def admit(e: int, r: int, now_s: float) -> None:
        """Give a request memory and let it be computed."""
        before = preceding[r]
        after = following[r]
        if before >= 0:
            following[before] = after
        elif back[e] == r:
            back[e] = after
        else:
            head[e] = after
        if after >= 0:
            preceding[after] = before
        elif tail[e] == r:
            tail[e] = before
        waiting[e] -= 1
        waiting_tokens[e] -= total[r]
        found = 0
        if hash_blocks > 0 and not loaded[r]:
            found = matched(cache, e, blocks, first_block[r], whole_blocks(r), False)
            reuse(cache, e, blocks, first_block[r], found, hash_blocks)
        need = blocks_of(total[r], block_tokens) - found * hash_blocks
        if free[e] < need:
            evict(cache, e, need, hash_blocks)
        free[e] -= need
        shared[r] = found
        reserved[e] += blocks_of(prompt[r] + limit[r], block_tokens)
        todo[r] = 0 if loaded[r] else total[r] - found * hash_tokens
        queued[e] += todo[r] - work[r]
        cached[r] += found * hash_tokens
        tally[e, CACHED] += found * hash_tokens
        if start_s[r] == np.inf:
            start_s[r] = now_s
        if loaded[r] == SWAPPED:
            step_s[e] += swap_token_s[e] * total[r]
        if watched:
            account[e, tenant[r]] += INPUT_WEIGHT * todo[r]
        status[r] = PREFILLING
        admitted[r] = counters[ADMITTED]
        counters[ADMITTED] += 1
        run[e, running[e]] = r
        slot[r] = running[e]
        running[e] += 1
        pre[e, prefilling[e]] = r
        prefilling[e] += 1

    # Iterations

    def start(e: int) -> None:
        """Begin the next iteration, or as many as are alike; none when there is nothing to do."""
        now_s = clock_s[e]
        step_s[e] = 0.0
        asked = 0
        pairs = 0.0
        evicted = False
        steady[e] = True
        mixed = batching[e] == DECODE_FIRST
        # Which comes first, memory for decoding or new requests: the other gets what is left.
        for turn in range(2):
            if (turn == 0) == mixed:
                if asked > 0:
                    continue
                need = residue[e, it[e] % block_tokens]
                while need > free[e] + evictable[e]:
                    preempt(e)
                    evicted = True
                    need = residue[e, it[e] % block_tokens]
                if free[e] < need:
                    evict(cache, e, need, hash_blocks)
                free[e] -= need
                continue
            left = _UNLIMITED if batching[e] == STATIC else budget[e]
            if mixed:
                left -= decoding[e]
            open_to_new = not evicted and (batching[e] != STATIC or running[e] == 0)
            at = 0
            while True:
                if at == prefilling[e]:
                    if not open_to_new or left <= 0 or running[e] == most_running[e] or waiting[e] == 0:
                        break
                    r = choose(e, now_s)
                    if r < 0 or (batching[e] == PREFILL_FIRST and asked > 0 and work[r] > left):
                        break
                    admit(e, r, now_s)
                r = pre[e, at]
                chunk[r] = min(todo[r], left) if mixed else todo[r]
                left -= chunk[r]
                asked += chunk[r]
                pairs += chunk[r] * (total[r] - todo[r] + 0.5 * (chunk[r] + 1))
                at += 1
        now_made = decoding[e] if mixed or asked == 0 else 0
        if now_made == 0 and prefilling[e] == 0:
            return
        decodes[e] = now_made
        growth_s[e] = kv_token_s[e] * now_made
        alike = jump and asked == 0 and prefilling[e] == 0 and step_s[e] == 0.0
        if asked + now_made > 0:
            step_s[e] += overhead_s[e] + max(floor_s[e], token_s[e] * (asked + now_made)) + pair_s[e] * pairs
            if now_made > 0:
                step_s[e] += kv_token_s[e] * kv[e]
        begin_s[e] = now_s
        span[e] = 1
        if alike and not evicted and (waiting[e] == 0 or steady[e]):
            many = (heap[e, 0] >> KEY_BITS) - it[e]
            spare = free[e] + evictable[e]
            if spare < now_made * (many // block_tokens + 1):
                fitting = 1 + (spare // now_made) * block_tokens
                spare %= now_made
                while fitting < many:
                    spare -= residue[e, (it[e] + fitting) % block_tokens]
                    if spare < 0:
                        break
                    fitting += 1
                many = min(many, fitting)
            span[e] = many

    def pass_by(e: int, count: int, grown: int, end_s: float) -> None:
        """Let iterations be over: what decodes has grown, `grown` of them beyond the first, and accounts are kept."""
        tally[e, ITERATIONS] += count
        busy_s[e] += end_s - begin_s[e]
        clock_s[e] = end_s
        if decodes[e] > 0:
            if grown > 0:
                need = growth(residue, e, decodes[e], it[e] + 1, grown)
                if free[e] < need:
                    evict(cache, e, need, hash_blocks)
                free[e] -= need
            it[e] += count
            kv[e] += decodes[e] * count
            if watched:
                for t in range(account.shape[1]):
                    account[e, t] += OUTPUT_WEIGHT * count * makers[e, t]
        if not lone:
            release[e] *= (1.0 - RELEASE_WEIGHT) ** count
        if admission.code == HEADROOM:
            headroom[e] = headroom_after(admission, headroom[e], count)

    def complete(e: int, end_s: float) -> None:
        """Let requests finish and prompts be computed as iterations end; memory is given back."""
        gone = 0
        if decodes[e] > 0:
            while decoding[e] > 0 and heap[e, 0] >> KEY_BITS <= it[e]:
                leaving[gone] = heap[e, 0] & KEY_MASK
                forget(e, leaving[gone], 0)
                gone += 1
        kept = 0
        for at in range(prefilling[e]):
            r = pre[e, at]
            todo[r] -= chunk[r]
            queued[e] -= chunk[r]
            tally[e, COMPUTED] += chunk[r]
            if hash_blocks > 0 and not loaded[r]:
                whole = min(prompt[r], total[r] - todo[r]) // hash_tokens
                if whole > shared[r]:
                    publish(cache, e, blocks, first_block[r] + shared[r], first_block[r] + whole, hash_blocks)
                    shared[r] = whole
            if todo[r] > 0:
                pre[e, kept] = r
                kept += 1
                continue
            if not loaded[r]:
                made[r] += 1
                if first_s[r] == np.inf:
                    first_s[r] = end_s
            loaded[r] = 0
            if made[r] >= output[r] or role[e] == PREFILL:
                leaving[gone] = r
                gone += 1
                continue
            context[r] = total[r]
            entered[r] = it[e]
            status[r] = DECODING
            kv[e] += total[r]
            residue[e, (it[e] - total[r]) % block_tokens] += 1
            enter(heap, e, decoding[e], ((it[e] + output[r] - made[r]) << KEY_BITS) + r)
            decoding[e] += 1
            if watched:
                makers[e, tenant[r]] += 1
        prefilling[e] = kept
        before = free[e] + evictable[e]
        for at in range(gone):
            r = leaving[at]
            drop(e, r, prompt[r] + made[r] - 1)
            if not lone:
                note_answered(servers, e)
            if made[r] >= output[r]:
                status[r] = DONE
                done_s[r] = end_s
                counters[ANSWERED] += 1
            else:
                status[r] = MOVING
                loaded[r] = MOVED
                total[r] = prompt[r] + made[r] - 1
                work[r] = 0
                moved_s = end_s + transfer_token_s * total[r]
                counters[MOVES] = push(move_s, move, move, counters[MOVES], moved_s, r, r)
        if not lone:
            release[e] += RELEASE_WEIGHT * block_tokens * (free[e] + evictable[e] - before)

    def stands(e: int) -> bool:
        """Return whether what comes now changes nothing before a request leaves."""
        return hash_blocks == 0 and (running[e] >= most_running[e] or (by_arrival and patient and waiting[e] > 0))

    def settle(e: int, now_s: float, split: bool) -> None:
        """End and begin iterations up to an instant; what would begin at it waits for what comes at it.

        With `split`, those under way are split into what is over by now and the rest.
        """
        while True:
            if span[e] == 0:
                if (running[e] == 0 and waiting[e] == 0) or clock_s[e] >= now_s:
                    return
                start(e)
                if span[e] == 0:
                    return
            count = span[e]
            end_s = end_after(begin_s[e], step_s[e], growth_s[e], count)
            whole = end_s <= now_s
            if not whole:
                if not split or count == 1 or (lone and stands(e)):
                    return
                count = over_by(begin_s[e], step_s[e], growth_s[e], count, now_s)
                if count == 0:
                    return
                end_s = end_after(begin_s[e], step_s[e], growth_s[e], count)
            # The first iteration has its blocks; one that goes on has taken its own as it began.
            goes_on = not whole and end_s < now_s
            pass_by(e, count, count if goes_on else count - 1, end_s)
            if goes_on:
                step_s[e] += growth_s[e] * count
                begin_s[e] = end_s
                span[e] -= count
                return
            span[e] = 0
            if whole:
                complete(e, end_s)

    # The balancer

    def enqueue(e: int, r: int, now_s: float) -> None:
        """Let a request wait at an engine."""
        engine[r] = e
        if not loaded[r]:
            total[r] = prompt[r]
        if blocks_of(prompt[r] + limit[r], block_tokens) > capacity[e]:
            status[r] = REFUSED
            if not lone:
                note_answered(servers, e)
            return
        if not loaded[r]:
            work[r] = total[r]
            if hash_blocks > 0:
                work[r] -= matched(cache, e, blocks, first_block[r], whole_blocks(r), False) * hash_tokens
        if span[e] == 0:
            clock_s[e] = max(clock_s[e], now_s)
        elif not stands(e):
            span[e] = 1
        status[r] = WAITING
        last = tail[e]
        preceding[r] = last
        following[r] = -1
        if last >= 0:
            following[last] = r
        else:
            head[e] = r
        tail[e] = r
        waiting[e] += 1
        waiting_tokens[e] += total[r]
        queued[e] += work[r]
        if watched:
            least = np.inf
            for t in range(account.shape[1]):
                if active[e, t] > 0:
                    least = min(least, account[e, t])
            if active[e, tenant[r]] == 0 and least < np.inf:
                account[e, tenant[r]] = returning(least, account[e, tenant[r]])
            active[e, tenant[r]] += 1

    last_s = -np.inf
    while True:
        now_s = np.inf
        if counters[NEXT] < n:
            now_s = arrival_s[counters[NEXT]]
        if counters[HELD_FROM] < counters[HELD_TO]:
            for e in range(size):
                if span[e] > 0:
                    now_s = min(now_s, end_after(begin_s[e], step_s[e], growth_s[e], span[e]))
                elif running[e] > 0 or waiting[e] > 0:
                    now_s = min(now_s, np.nextafter(clock_s[e], np.inf))
                if ready_s[e] > last_s:
                    now_s = min(now_s, ready_s[e])
        reports = report_s > 0.0 and now_s < np.inf and report_at_s[0] <= now_s
        if reports:
            now_s = report_at_s[0]
        if counters[MOVES] > 0:
            now_s = min(now_s, move_s[0])
        final = now_s > until_s or now_s == np.inf
        if final:
            now_s = until_s
        for e in range(size):
            if role[e] == DECODE and counters[MOVES] > 0 and move_s[0] <= now_s:
                now_s = move_s[0]
                final = False
            settle(e, now_s, not final)
        if final:
            return int(counters[ANSWERED])
        last_s = now_s
        reports = reports and report_at_s[0] <= now_s
        while counters[NEXT] < n and arrival_s[counters[NEXT]] <= now_s:
            held[counters[HELD_TO]] = counters[NEXT]
            counters[HELD_TO] += 1
            counters[NEXT] += 1
        if not lone and (reports or (report_s == 0.0 and counters[HELD_FROM] < counters[HELD_TO])):
            look(capacity, cache, running, waiting, queued, waiting_tokens, release, balance, block_tokens, now_s)
        if reports:
            report_at_s[0] += report_s
        while True:
            e = 0
            if counters[MOVES] > 0 and move_s[0] <= now_s:
                r = move[0]
                counters[MOVES] = pop(move_s, move, move, counters[MOVES])
                e = emptiest(role, capacity, cache, waiting_tokens, servers, block_tokens)
            elif counters[HELD_FROM] < counters[HELD_TO]:
                r = held[counters[HELD_FROM]]
                if not lone:
                    e = assign(engines, rules, requests, balance, r, whole_blocks(r) if hash_blocks > 0 else 0, now_s)
                if e < 0:
                    break
                counters[HELD_FROM] += 1
            else:
                break
            enqueue(e, r, now_s)
