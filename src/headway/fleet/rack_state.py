"""The arrays that the kernel of a rack works on: what is asked, what is fixed, and what changes.

Units are those of the caller's times: seconds everywhere in Headway, though a rack's requests take microseconds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headway.fleet import rack_codes as code
from headway.sim.station import Floats, Ints

Longs = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Requests(NamedTuple):
    """What comes, in order of arrival: how long each computes on a worker of pace 1, its type and its session.

    `session` (empty: none, else -1 for a request without) keeps together what is unanswered at the same time.
    `balancer`: by whom it is sent, when several send without knowing of each other. `row`: of what the servers report;
    `ledger`: of what its balancer knows; `work`: what it counts for in reports.
    """

    arrival_s: Floats
    service_s: Floats
    kind: Ints
    session: Longs
    balancer: Ints
    row: Ints
    ledger: Ints
    work: Floats


class Rack(NamedTuple):
    """What does not change. `pace[server]`: by how much its workers are faster; `slo_s[kind]`: see `BY_SLO`.

    A request that has run for `quantum_s` gives way to those that wait, or in any case when `eager`: the next time it
    runs it takes `switch_s` more. `send_s` and `reply_s` are the ways there and back. `by_reply`: whether reports come
    with replies; a share `loss` of them never comes. `drifts`: whether the balancer then does not see the reply either.
    """

    workers: Longs
    pace: Floats
    quantum_s: float
    switch_s: float
    eager: bool
    discipline: int
    slo_s: Floats
    send_s: float
    reply_s: float
    signal: int
    by_reply: bool
    loss: float
    drifts: bool
    key: int


class Books(NamedTuple):
    """What balancers know, as `headway.policy.routing.Servers` has it, with a row per balancer.

    What is reported has a row per balancer and type (balancer by balancer); `alive` has one, or one per type.
    """

    reported: Floats
    reported_at_s: Floats
    sent: Floats
    outstanding: Floats
    assigned: Floats
    latency_s: Floats
    heard: Floats
    speed: Floats
    alive: Flags
    least: Longs
    sent_total: Floats
    u: Floats


class Sessions(NamedTuple):
    """Which server each session that is under way goes to: `WAYS` tables of a power of two of places."""

    bits: int
    key: Longs
    server: Longs
    open: Longs


class State(NamedTuple):
    """What changes: counters, one entry per request, one per server (and queue), one per worker (`slot_*`, `heap_*`).

    `stretched` is what its server's `stretch` was as a request was sent. `unfinished` is what a server has yet to
    finish, by row of its reports; `received` what ever reached it.
    """

    counters: Longs
    fate: Ints
    where: Ints
    remaining_s: Floats
    reached_s: Floats
    start_s: Floats
    done_s: Floats
    carried: Floats
    carried_received: Floats
    stretched: Floats
    following: Ints
    held: Ints
    wire: Ints
    wire_s: Floats
    reply: Ints
    head: Ints
    tail: Ints
    waiting: Longs
    busy: Longs
    busy_s: Floats
    works: Flags
    unfinished: Floats
    received: Floats
    first_slot: Longs
    free_slot: Longs
    slot_job: Ints
    slot_server: Longs
    slot_end_s: Floats
    slot_seq: Longs
    touched: Longs
    is_touched: Flags
    heap_s: Floats
    heap_seq: Longs
    heap_slot: Longs


def books(rack: Rack, speed: Floats, alive: Flags, rows: int, numbers: int, balancers: int) -> Books:
    """Return the books of balancers with `rows` each whose servers are all empty, and room for `numbers` draws."""
    servers, rows = rack.workers.size, balancers * rows
    reported, at_s = np.zeros((rows, servers)), np.zeros((rows, servers))
    if rack.signal == code.COUNTED:
        reported[:] = np.nan
    elif rack.signal == code.LEAST_REPORTED:
        reported[:, 1:] = np.inf
    elif rack.signal == code.EXACT:
        at_s[:] = np.inf
    return Books(
        reported=reported,
        reported_at_s=at_s,
        sent=np.zeros((rows, servers)),
        outstanding=np.zeros((balancers, servers)),
        assigned=np.zeros((balancers, servers)),
        latency_s=np.zeros((balancers, servers)),
        heard=np.zeros((balancers, servers)),
        speed=speed,
        alive=alive,
        least=np.zeros(rows, np.int64),
        sent_total=np.zeros((rows, servers)),
        u=np.zeros(numbers),
    )


def sessions(bits: int) -> Sessions:
    """Return an empty table of sessions with `WAYS` times 2**bits places."""
    places = code.WAYS << bits
    longs = np.int64
    return Sessions(bits, np.full(places, -1, longs), np.zeros(places, longs), np.zeros(places, longs))


def state(requests: Requests, rack: Rack, rows: int, balancers: int, failing: Longs) -> State:
    """Return an empty rack with room for all requests; `failing`: the server of each failure to come."""
    n, servers, kinds = requests.arrival_s.size, rack.workers.size, rack.slo_s.size
    slots = int(rack.workers.sum())
    longs, ints = np.int64, np.int32
    queues = 1 if rack.discipline == code.ONE_QUEUE else kinds
    # Ends of slices that a failure cut off stay in the heap until their time.
    events = slots + int(rack.workers[failing].sum())
    return State(
        counters=np.zeros(code.COUNTERS, longs),
        fate=np.zeros(n, ints),
        where=np.full(n, -1, ints),
        remaining_s=np.zeros(n),
        reached_s=np.zeros(n),
        start_s=np.full(n, np.inf),
        done_s=np.full(n, np.inf),
        carried=np.zeros(n),
        carried_received=np.zeros(n),
        stretched=np.ones(n),
        following=np.full(n, -1, ints),
        held=np.empty(n, ints),
        wire=np.empty(n, ints),
        wire_s=np.empty(n),
        reply=np.empty(n, ints),
        head=np.full((servers, queues), -1, ints),
        tail=np.full((servers, queues), -1, ints),
        waiting=np.zeros(servers, longs),
        busy=np.zeros(servers, longs),
        busy_s=np.zeros(servers),
        works=np.ones(servers, np.bool_),
        unfinished=np.zeros((rows, servers)),
        received=np.zeros((balancers * rows, servers)),
        first_slot=np.concatenate(([0], np.cumsum(rack.workers)[:-1])).astype(longs),
        free_slot=np.arange(slots, dtype=longs),
        slot_job=np.full(slots, -1, ints),
        slot_server=np.repeat(np.arange(servers, dtype=longs), rack.workers),
        slot_end_s=np.zeros(slots),
        slot_seq=np.full(slots, -1, longs),
        touched=np.zeros(servers, longs),
        is_touched=np.zeros(servers, np.bool_),
        heap_s=np.empty(events),
        heap_seq=np.empty(events, longs),
        heap_slot=np.empty(events, longs),
    )
