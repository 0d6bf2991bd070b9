"""What the kernel of LLM engines reads and changes: flat columns of engines, of requests and of blocks of prompts."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headway.fleet.llm_memory import Cache, Lines
from headway.policy.kv_admission import Admission
from headway.policy.routing import Router, Servers, draws
from headway.policy.scheduling import Order
from headway.policy.token_routing import Tokens
from headway.sim.station import Floats, Ints

Longs = NDArray[np.int64]

DECODE_FIRST, PREFILL_FIRST, STATIC = range(3)
"""How an iteration is made up (`Engines.batching`)."""

BOTH, PREFILL, DECODE = range(3)
"""What an engine does (`Engines.role`)."""

MOVED, SWAPPED = range(1, 3)
"""Where the keys and values of a request that waits come from, if it has any (`State.loaded`)."""

NEVER = -(1 << 60)
"""When a block was sent that never was (`Balance.stamp`)."""

COMING, WAITING, PREFILLING, DECODING, MOVING, DONE, REFUSED = range(7)
"""Where a request is (`State.status`); one that is held by the balancer is still coming."""

NEXT, HELD_FROM, HELD_TO, MOVES, ADMITTED, ANSWERED = range(6)
"""Entries of `State.counters`."""

ITERATIONS, PREEMPTIONS, SWAPS, COMPUTED, WASTED, CACHED = range(6)
"""Columns of `State.tally`, per engine: iterations, preemptions (of these by swap), prompt tokens computed, tokens
computed that a preemption threw away, prompt tokens found in the prefix cache."""


class Engines(NamedTuple):
    """The engines, prefill engines before decode engines.

    An iteration over `n` tokens takes `overhead_s + max(floor_s, token_s n)`, `kv_token_s` for each token of context
    of what decodes, and `pair_s` for each pair of a prompt's token and one that it attends to. `swap_token_s`: copying
    a token's keys and values out, or in. `capacity`: KV memory in blocks. `budget`: tokens of an iteration.
    `most_running`: requests at once. Each takes requests from `ready_s` until `stop_s`.
    """

    overhead_s: Floats
    floor_s: Floats
    token_s: Floats
    kv_token_s: Floats
    pair_s: Floats
    swap_token_s: Floats
    capacity: Longs
    budget: Longs
    most_running: Longs
    batching: Longs
    role: Longs
    ready_s: Floats
    stop_s: Floats


class Rules(NamedTuple):
    """How engines and balancer decide.

    `report_s`: seconds between reports of the engines to the balancer, 0 where it sees them as they are; `deltas`:
    whether it adds what it sent since. `block_tokens`: tokens of a block of memory; `hash_blocks`: blocks of memory
    that one block of a prompt takes in the prefix cache, 0 without one. `transfer_token_s`: moving a token's keys and
    values from a prefill engine to a decode engine. `key`: of the balancer's draws. `jump`: identical iterations at
    once, to the same result.
    """

    order: Order
    admission: Admission
    router: Router
    report_s: float
    deltas: bool
    block_tokens: int
    hash_blocks: int
    transfer_token_s: float
    key: int
    jump: bool


class Requests(NamedTuple):
    """The requests, in order of arrival.

    Tokens of the `prompt` and of the `output` (at least 1 each); the most output that was declared (`limit`) and what
    a predictor expects (`predicted`): of the output itself only the engine that makes it learns. `tenant` and
    `session` by number. Request r's prompt consists of the blocks `blocks[first_block[r]:first_block[r + 1]]`, each
    of which stands for everything up to its end.
    """

    arrival_s: Floats
    prompt: Longs
    output: Longs
    limit: Longs
    predicted: Longs
    tenant: Longs
    session: Longs
    first_block: Longs
    blocks: Ints


class Balance(NamedTuple):
    """What the balancer knows: of the engines, and of the blocks of prompts that it sent them.

    By engine and block, how many blocks had been sent there when it was last (`stamp`); by engine, how many in all
    (`volume`). `believed` and `u` are room for the tokens that each engine has of one prompt, and for draws. By
    request, when it was sent and its engine's `stretch` then (of a policy that reads latencies).
    """

    volume: Longs
    stamp: Longs
    believed: Floats
    u: Floats
    sent_s: Floats
    stretched: Floats
    servers: Servers
    tokens: Tokens


class State(NamedTuple):
    """What changes. Columns of requests, of engines, and of engines by something else, in this order.

    A request that decodes has the context `context + it - entered` and has made `made + it - entered` tokens, `it`
    being its engine's count of decoding iterations. `joined`: its `work` as it came. `span` iterations are under way
    on an engine since `begin_s`, the first of `step_s` and each `growth_s` longer than the one before; 0 when it stands
    at `clock_s`.
    """

    counters: Longs
    last_s: Floats
    report_at_s: Floats
    held: Longs
    move_s: Floats
    move: Longs
    status: NDArray[np.int8]
    engine: Ints
    todo: Longs
    chunk: Longs
    work: Longs
    joined: Longs
    total: Longs
    context: Longs
    made: Longs
    entered: Longs
    shared: Longs
    loaded: NDArray[np.int8]
    skipped: Ints
    admitted: Longs
    slot: Longs
    start_s: Floats
    first_s: Floats
    done_s: Floats
    preempted: Ints
    cached: Longs
    clock_s: Floats
    begin_s: Floats
    step_s: Floats
    growth_s: Floats
    busy_s: Floats
    span: Longs
    decodes: Longs
    it: Longs
    kv: Longs
    reserved: Longs
    queued: Longs
    waiting_tokens: Longs
    waiting: Longs
    running: Longs
    prefilling: Longs
    decoding: Longs
    steady: NDArray[np.bool_]
    headroom: Floats
    release: Floats
    tally: Longs
    run: Longs
    pre: Longs
    heap: Longs
    residue: Longs
    account: Floats
    active: Longs
    makers: Longs
    leaving: Longs
    used: Floats
    remaining: Floats
    cache: Cache
    lines: Lines
    balance: Balance

    @classmethod
    def of(cls, engines: Engines, rules: Rules, requests: Requests) -> State:
        """Return the state before the first arrival: nothing has come, every engine is empty."""
        n, size = requests.arrival_s.size, engines.capacity.size
        slots = int(min(engines.most_running.max(), max(n, 1)))
        tenants = int(requests.tenant.max()) + 1 if n else 1
        blocks = int(requests.blocks.max()) + 1 if rules.hash_blocks and requests.blocks.size else 0
        full_s = engines.overhead_s + np.maximum(engines.floor_s, engines.token_s * engines.budget)
        known = Tokens.of(
            engines.budget.astype(np.float64), full_s, engines.kv_token_s,
            engines.capacity.astype(np.float64) * rules.block_tokens,
        )  # fmt: skip
        per_token_s = full_s / engines.budget
        servers = Servers.of(per_token_s.min() / per_token_s, engines.most_running)
        width = draws(rules.router)
        per: dict[str, Any] = {
            **{name: _longs(n) for name in (
                "held", "todo", "chunk", "work", "joined", "total", "context", "made", "entered", "shared")},
            **{name: _ints(n) for name in ("skipped", "preempted")},
            **{name: _ints(n, -1) for name in ("engine",)},
            **{name: np.full(n, np.inf) for name in ("start_s", "first_s", "done_s")},
            **{name: _longs(size) for name in (
                "span", "decodes", "it", "kv", "reserved", "queued", "waiting_tokens", "waiting",
                "running", "prefilling", "decoding")},
            **{name: np.zeros(size) for name in (
                "clock_s", "begin_s", "step_s", "growth_s", "busy_s", "release")},
            **{name: np.zeros((size, slots), np.int64) for name in ("run", "pre")},
            **{name: np.zeros((size, tenants), np.int64) for name in ("active", "makers")},
            **{name: np.zeros(slots + 1) for name in ("used", "remaining")},
        }  # fmt: skip
        return cls(
            counters=_longs(6),
            last_s=np.full(1, -np.inf),
            report_at_s=np.zeros(1),
            move_s=np.zeros(n),
            move=_longs(n),
            status=np.zeros(n, np.int8),
            loaded=np.zeros(n, np.int8),
            admitted=_longs(n),
            slot=_longs(n),
            cached=_longs(n),
            cache=Cache.of(engines.capacity, blocks),
            lines=Lines.of(size, n),
            steady=np.ones(size, np.bool_),
            headroom=np.full(size, rules.admission.least_headroom),
            tally=np.zeros((size, 6), np.int64),
            heap=np.zeros((size, slots), np.int64),
            residue=np.zeros((size, rules.block_tokens), np.int64),
            account=np.zeros((size, tenants)),
            leaving=_longs(2 * slots),
            balance=Balance(
                _longs(size),
                np.full((size, blocks), NEVER),
                np.zeros(size),
                np.zeros(width),
                np.zeros(n),
                np.ones(n),
                servers,
                known,
            ),
            **per,
        )


def _longs(size: int) -> Longs:
    return np.zeros(size, np.int64)


def _ints(size: int, value: int = 0) -> Ints:
    return np.full(size, value, np.int32)
