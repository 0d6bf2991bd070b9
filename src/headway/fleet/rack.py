"""The event kernel of a rack: a balancer, the way to the servers, their queues and workers, and the way back.

At one instant slices of work end first, in the order in which they began; then replies reach the balancer, then
requests; then the balancer sends what it may, and what reaches a server is queued; only then do workers start. So the
result does not depend on how simultaneous events were scheduled. Where a request goes is a policy's decision
(`headway.policy.routing`), from what the balancer can know.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from headway.fleet import rack_codes as code
from headway.fleet.compiled import policies
from headway.fleet.rack_state import Books, Longs, Rack, Requests, Sessions, State
from headway.policy import routing
from headway.policy.routing import HOLD, NOBODY, Router, Servers
from headway.sim.draws import draw
from headway.sim.heap import pop, push
from headway.sim.jit import borrowing

route: Callable[..., int] = policies(routing).route
note_latency: Callable[..., None] = policies(routing).note_latency
stretch: Callable[..., float] = policies(routing).stretch
power_of_d: Callable[..., int] = policies(routing).power_of_d
least_loaded: Callable[..., int] = policies(routing).least_loaded
consistent_hash: Callable[..., int] = policies(routing).consistent_hash

_UNIT = 1.0 / 4294967296.0
_SESSION_KEY = 0x2545F491
_RESIDUE = 1e-9


@borrowing
def place_of(place_key: Longs, bits: int, session: int) -> int:
    """Return where a session stands in the table; if it does not, -1 - (the free place it may take, or the size).

    RackSched's table of requests: one of `WAYS` places, each by a hash of its own.
    """
    free = place_key.size
    for way in range(code.WAYS):
        at = (way << bits) + draw(_SESSION_KEY + way, session, bits)
        if place_key[at] == session:
            return at
        if place_key[at] < 0 and free == place_key.size:
            free = at
    return -1 - free


@borrowing
def advance(
    requests: Requests, rack: Rack, router: Router, books: Books, sessions: Sessions, state: State, until_s: float
) -> float:
    """Process every event up to and at `until_s`; return the time of the next one (infinite when nothing will happen).

    The functions inside share the arrays as names of this one.
    """
    arrival_s, service_s, kind, session, balancer, row, ledger, work = requests
    (
        workers, pace, quantum_s, switch_s, eager, discipline, slo_s, send_s, reply_s, signal, by_reply, loss, drifts,
        key,
    ) = rack  # fmt: skip
    (
        reported, reported_at_s, sent, outstanding, assigned, latency_s, heard, speed, alive, least, sent_total, u,
    ) = books  # fmt: skip
    bits, place_key, place_server, place_open = sessions
    (
        counters, fate, where, remaining_s, reached_s, start_s, done_s, carried, carried_received, stretched,
        following, held,
        wire, wire_s, reply, head, tail, waiting, busy, busy_s, works, unfinished, received, first_slot, free_slot,
        slot_job, slot_server, slot_end_s, slot_seq, touched, is_touched, heap_s, heap_seq, heap_slot,
    ) = state  # fmt: skip
    adds_sent = signal == code.REPORTED_SENT or signal == code.WORK_SENT
    # One balancer that knows one kind of load keeps its columns at hand, and the most used policies are called without
    # `route` in between.
    is_alone = reported.shape[0] == 1 and outstanding.shape[0] == 1 and alive.shape[0] == 1
    alone = Servers(
        reported[0], reported_at_s[0], sent[0], outstanding[0], assigned[0], latency_s[0], heard[0], speed, workers,
        alive[0],
    )  # fmt: skip
    learns = router.code == routing.PREQUAL
    directly = router.code if router.explore == 0.0 else -1

    def known_by(job: int) -> Servers:
        """Return what the balancer of a request knows of the servers."""
        at, by = ledger[job], balancer[job]
        return Servers(
            reported[at], reported_at_s[at], sent[at], outstanding[by], assigned[by], latency_s[by], heard[by], speed,
            workers, alive[kind[job] if alive.shape[0] > 1 else 0],
        )  # fmt: skip

    def name_of(job: int) -> int:
        """Return what keeps requests together: their session, of one type where types have servers of their own."""
        return int(session[job] if alive.shape[0] == 1 else session[job] * alive.shape[0] + kind[job])

    def lose(job: int) -> None:
        fate[job] = code.LOST
        counters[code.LOSSES] += 1

    def touch(server: int) -> None:
        """Have a server's workers asked at the end of this instant."""
        if not is_touched[server]:
            is_touched[server] = True
            touched[counters[code.TOUCHED]] = server
            counters[code.TOUCHED] += 1

    def enqueue(server: int, job: int, first: bool) -> None:
        """Put a request into its queue of a server, at the tail or (`first`) at the head."""
        queue = 0 if discipline == code.ONE_QUEUE else kind[job]
        following[job] = -1
        if head[server, queue] < 0:
            head[server, queue] = job
            tail[server, queue] = job
        elif first:
            following[job] = head[server, queue]
            head[server, queue] = job
        else:
            following[tail[server, queue]] = job
            tail[server, queue] = job
        waiting[server] += 1
        counters[code.QUEUED] += 1

    def first_of(server: int, now_s: float) -> int:
        """Return the queue that a free worker takes the next request from."""
        queue = 0
        if discipline == code.BY_PRIORITY:
            while head[server, queue] < 0:
                queue += 1
        elif discipline == code.BY_SLO:
            longest = -1.0
            for at in range(slo_s.size):
                if head[server, at] >= 0:
                    share = (now_s - reached_s[head[server, at]]) / slo_s[at]
                    if share > longest:
                        longest = share
                        queue = at
        return queue

    def run(slot: int, job: int, now_s: float, extra_s: float) -> None:
        """Let a worker run a request for a quantum, or for what is left of it."""
        slice_s = min(quantum_s, remaining_s[job])
        remaining_s[job] -= slice_s
        if remaining_s[job] < _RESIDUE * slice_s:
            # What rounding leaves of a time that is a multiple of the quantum is no slice of its own.
            remaining_s[job] = 0.0
        seq = counters[code.SLICES]
        counters[code.SLICES] = seq + 1
        end_s = now_s + (extra_s + slice_s)
        slot_job[slot] = job
        slot_end_s[slot] = end_s
        slot_seq[slot] = seq
        busy_s[slot_server[slot]] += extra_s + slice_s
        counters[code.HEAP] = push(heap_s, heap_seq, heap_slot, counters[code.HEAP], end_s, seq, slot)

    def start(server: int, now_s: float) -> None:
        """Give idle workers of a server what waits, as its discipline says."""
        while busy[server] < workers[server] and waiting[server] > 0:
            queue = first_of(server, now_s)
            job = head[server, queue]
            head[server, queue] = following[job]
            waiting[server] -= 1
            counters[code.QUEUED] -= 1
            slot = free_slot[first_slot[server] + busy[server]]
            busy[server] += 1
            counters[code.RUNNING] += 1
            extra_s = switch_s
            if start_s[job] == np.inf:
                start_s[job] = now_s
                extra_s = 0.0
            run(slot, job, now_s, extra_s)

    def finish(job: int, server: int, now_s: float) -> None:
        """A request is done: its reply sets off, with what the server still has as a report."""
        unfinished[row[job], server] -= work[job]
        done_s[job] = now_s
        carried[job] = unfinished[row[job], server]
        carried_received[job] = received[ledger[job], server]
        if signal == code.EXACT:
            reported[ledger[job], server] -= 1.0
        reply[counters[code.REPLY_TAIL]] = job
        counters[code.REPLY_TAIL] += 1

    def end_slice(slot: int, now_s: float) -> None:
        """A slice is over: the request is finished, gives way, or goes on."""
        server = slot_server[slot]
        job = slot_job[slot]
        if remaining_s[job] > 0.0 and waiting[server] == 0 and not eager:
            run(slot, job, now_s, 0.0)
            return
        busy[server] -= 1
        counters[code.RUNNING] -= 1
        free_slot[first_slot[server] + busy[server]] = slot
        slot_job[slot] = -1
        slot_seq[slot] = -1
        touch(server)
        if remaining_s[job] > 0.0:
            counters[code.PREEMPTIONS] += 1
            enqueue(server, job, discipline != code.ONE_QUEUE)
        else:
            finish(job, server, now_s)

    def believe(job: int, server: int) -> None:
        """The balancer reads the report of a reply, as the signal in use has it."""
        if signal == code.COUNTED or signal == code.EXACT or done_s[job] < reported_at_s[ledger[job], server]:
            return
        at = ledger[job]
        if signal == code.LEAST_REPORTED:
            stored = least[at]
            if server != stored and carried[job] > reported[at, stored]:
                return
            reported[at, stored] = np.inf
            least[at] = server
        reported[at, server] = carried[job]
        reported_at_s[at, server] = done_s[job]
        sent[at, server] = sent_total[at, server] - carried_received[job] if adds_sent else 0.0

    def answer(job: int) -> None:
        """A reply reaches the client by way of the balancer, which may not get to read it."""
        if counters[code.DOWN] == 1:
            lose(job)
            return
        fate[job] = code.ANSWERED
        counters[code.ANSWERS] += 1
        lost = loss > 0.0 and draw(key ^ code.LOSS_KEY, job, 32) * _UNIT < loss
        if lost and drifts:
            return
        server = where[job]
        by = balancer[job]
        if session.size > 0 and session[job] >= 0:
            at = place_of(place_key, bits, name_of(job))
            if at >= 0:
                # With the last that is under way the session leaves the table.
                place_open[at] -= 1
                if place_open[at] == 0:
                    place_key[at] = -1
        if learns:
            took_s = done_s[job] - reached_s[job]
            note_latency(known_by(job), server, took_s, stretched[job], job // assigned.shape[0])
        outstanding[by, server] = max(0.0, outstanding[by, server] - 1.0)
        if by_reply and not lost:
            believe(job, server)

    def choose(job: int, now_s: float) -> int:
        """Return where a request goes: to its session's server, else where the policy sends it."""
        by = balancer[job]
        living = kind[job] if alive.shape[0] > 1 else 0
        name = job
        free = -1
        if session.size > 0 and session[job] >= 0:
            name = name_of(job)
            place = place_of(place_key, bits, name)
            if place >= 0:
                place_open[place] += 1
                return int(place_server[place])
            free = -1 - place
            if free == place_key.size:
                counters[code.OVERFLOWS] += 1
                return consistent_hash(alive[living], outstanding[by], speed, name, np.inf)
        for number in range(u.size):
            u[number] = draw(key, int(job) * u.size + number, 32) * _UNIT
        known = alone
        if not is_alone:
            known = known_by(job)
        if directly == routing.POWER_OF_D:
            server = power_of_d(known, u, router.choices, now_s, router.stale_s)
        elif directly == routing.LEAST_LOADED:
            server = least_loaded(known, u, now_s, router.stale_s)
        else:
            server = route(router, known, u, name, now_s)
        if free >= 0 and server >= 0:
            place_key[free] = name
            place_server[free] = server
            place_open[free] = 1
        return server

    def dispatch(now_s: float) -> None:
        """Send what the balancer holds, in order of arrival, until the policy holds one back.

        The books are kept as `note_sent`, `note_answered` and `note_report` of the policies do, row by row; latencies
        only for a policy that reads them.
        """
        while counters[code.HELD_HEAD] < counters[code.HELD_TAIL]:
            job = held[counters[code.HELD_HEAD]]
            server = choose(job, now_s)
            if server == HOLD:
                return
            counters[code.HELD_HEAD] += 1
            if server == NOBODY:
                fate[job] = code.REFUSED
                counters[code.REFUSALS] += 1
                continue
            where[job] = server
            if learns:
                stretched[job] = stretch(known_by(job), server)
            outstanding[balancer[job], server] += 1.0
            assigned[balancer[job], server] += 1.0
            sent_total[ledger[job], server] += work[job]
            if adds_sent:
                sent[ledger[job], server] += work[job]
            if signal == code.EXACT:
                reported[ledger[job], server] += 1.0
            wire[counters[code.WIRE_TAIL]] = job
            wire_s[counters[code.WIRE_TAIL]] = now_s + send_s
            counters[code.WIRE_TAIL] += 1

    def deliver(job: int, now_s: float) -> None:
        """A request reaches its server; where that has failed it is lost."""
        server = where[job]
        # What finds nobody there is owed nothing either, once a report says what came.
        received[ledger[job], server] += work[job]
        if not works[server]:
            lose(job)
            if signal == code.EXACT:
                reported[ledger[job], server] -= 1.0
            return
        unfinished[row[job], server] += work[job]
        reached_s[job] = now_s
        remaining_s[job] = service_s[job] / pace[server]
        enqueue(server, job, False)
        touch(server)

    n = arrival_s.size
    while True:
        now_s = np.inf
        if counters[code.NEXT_ARRIVAL] < n:
            now_s = arrival_s[counters[code.NEXT_ARRIVAL]]
        if counters[code.HEAP] > 0:
            now_s = min(now_s, heap_s[0])
        if counters[code.REPLY_HEAD] < counters[code.REPLY_TAIL]:
            now_s = min(now_s, done_s[reply[counters[code.REPLY_HEAD]]] + reply_s)
        if counters[code.WIRE_HEAD] < counters[code.WIRE_TAIL]:
            now_s = min(now_s, wire_s[counters[code.WIRE_HEAD]])
        if counters[code.ASK] == 0 and (now_s > until_s or now_s == np.inf):
            return now_s
        if counters[code.ASK] == 1:
            now_s = min(now_s, until_s)
            counters[code.ASK] = 0
        while counters[code.HEAP] > 0 and heap_s[0] <= now_s:
            slot = heap_slot[0]
            seq = heap_seq[0]
            counters[code.HEAP] = pop(heap_s, heap_seq, heap_slot, counters[code.HEAP])
            if slot_seq[slot] == seq:
                end_slice(slot, now_s)
                counters[code.EVENTS] += 1
        while counters[code.REPLY_HEAD] < counters[code.REPLY_TAIL]:
            job = reply[counters[code.REPLY_HEAD]]
            if done_s[job] + reply_s > now_s:
                break
            counters[code.REPLY_HEAD] += 1
            answer(job)
            counters[code.EVENTS] += 1
        while counters[code.NEXT_ARRIVAL] < n and arrival_s[counters[code.NEXT_ARRIVAL]] <= now_s:
            job = counters[code.NEXT_ARRIVAL]
            counters[code.NEXT_ARRIVAL] += 1
            counters[code.EVENTS] += 1
            if counters[code.DOWN] == 1:
                lose(job)
            else:
                held[counters[code.HELD_TAIL]] = job
                counters[code.HELD_TAIL] += 1
        if counters[code.DOWN] == 0:
            dispatch(now_s)
        while counters[code.WIRE_HEAD] < counters[code.WIRE_TAIL] and wire_s[counters[code.WIRE_HEAD]] <= now_s:
            counters[code.WIRE_HEAD] += 1
            counters[code.EVENTS] += 1
            deliver(wire[counters[code.WIRE_HEAD] - 1], now_s)
        for at in range(counters[code.TOUCHED]):
            is_touched[touched[at]] = False
            start(touched[at], now_s)
        counters[code.TOUCHED] = 0
