"""In which order an engine takes the requests that wait: what an order may know, and the orders by name.

No order knows how long an answer will be. All give way to the maximum wait: a request that has waited so long goes
first, so that preferring short work starves nobody (the weight of age is a promise here, not a number to tune).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import NamedTuple

FCFS, SJF, HRRN, AGED, SRPT, MLFQ, VTC, LARRY, LARRY_BACKLOG = range(9)

ORDERS: dict[str, int] = {
    "fcfs": FCFS,
    "sjf": SJF,
    "hrrn": HRRN,
    "aged": AGED,
    "srpt": SRPT,
    "mlfq": MLFQ,
    "vtc": VTC,
    "larry": LARRY,
    "larry-backlog": LARRY_BACKLOG,
}
"""Orders by name; `rank` says what each is."""

PLENTY = 0.5
"""The share of KV memory in use or asked for, up to which `larry` takes requests as they came."""

REACH_TOKENS = 4096.0
"""The longest prompt that is expected unless told otherwise."""

INPUT_WEIGHT, OUTPUT_WEIGHT = 1.0, 2.0
"""What a token counts in a tenant's account, as VTC has it (Sheng et al., OSDI 2024)."""


class Order(NamedTuple):
    """An order and its knobs, as scalars; `order` makes it by name.

    `max_wait_s`: when a request goes before all that have waited less. `reach_tokens`: the longest prompt that is
    expected, for orders in which that must not be passed over for longer than `max_wait_s`. `bypass`: how many others
    may overtake a request that does not fit into memory, before the queue stands.
    """

    code: int
    max_wait_s: float = math.inf
    reach_tokens: float = REACH_TOKENS
    bypass: int = 0


class Waiting(NamedTuple):
    """What an order may know of a request that waits.

    `work_tokens`: to compute before its next token (what is cached left out; after a preemption, what it had generated
    counts too, but for `mlfq`, whose levels no preemption may change). `memory_tokens`: KV memory it starts with.
    `predicted_tokens`: output that a predictor still expects. `served`: its tenant's account (`INPUT_WEIGHT`,
    `OUTPUT_WEIGHT`). `made_tokens`: output that it has, of one that was preempted.
    """

    arrived_s: float
    work_tokens: float
    memory_tokens: float
    predicted_tokens: float
    served: float
    made_tokens: float = 0.0


class Backlog(NamedTuple):
    """What an order may know of the engine: `tokens` of prompts that are not computed yet, `budget` of an iteration.

    `memory`: KV tokens in use and asked for by what waits, as a share of all. `token_s`: seconds per token of a prompt.
    `step_s`: seconds of an iteration that only decodes.
    """

    tokens: float
    budget: float
    memory: float
    token_s: float
    step_s: float


def order(name: str, *, max_wait_s: float = math.inf, reach_tokens: float = REACH_TOKENS, bypass: int = 0) -> Order:
    """Return an order by name. Raises ValueError for a name or a value that is not valid.

    >>> order("sjf", max_wait_s=30.0).code == SJF
    True
    """
    if name not in ORDERS:
        raise ValueError(f"order is {name!r}; valid: {', '.join(ORDERS)}")
    numbers = isinstance(max_wait_s, Real) and isinstance(reach_tokens, Real) and isinstance(bypass, Integral)
    if not (numbers and max_wait_s > 0.0 and 0.0 < reach_tokens < math.inf and bypass >= 0):
        raise ValueError(
            f"order {name!r}: max_wait_s and reach_tokens are numbers above 0 and bypass is a whole one from 0; it has "
            f"{max_wait_s!r}, {reach_tokens!r} and {bypass!r}"
        )
    return Order(ORDERS[name], float(max_wait_s), float(reach_tokens), int(bypass))


def overdue(order: Order, arrived_s: float, now_s: float) -> bool:
    """Return whether a request has waited so long that it goes before all that have not.

    >>> overdue(order("sjf", max_wait_s=30.0), arrived_s=0.0, now_s=30.0)
    True
    """
    return now_s - arrived_s >= order.max_wait_s


def level(prompt_s: float, made_s: float, quantum_s: float) -> float:
    """Return in which queue of `mlfq` a request is, 0 the first: of skip-join MLFQ (FastServe, arXiv 2305.05920).

    Quanta double from `quantum_s`. It joins the first queue whose quantum covers the work of its prompt (`prompt_s`),
    and is in the next one each time that its service, with the tokens that it has made (`made_s`), exceeds a quantum.
    Of what waits in a gateway nothing was served: there this is the queue that it joins. Engines of the simulator let
    what runs give way to what waits in an earlier queue; where they differ from FastServe, docs/fleets.md says.

    >>> level(0.03, 0.0, 0.01), level(0.03, 0.02, 0.01), level(0.03, 0.1, 0.01)
    (2.0, 3.0, 4.0)
    """
    queue = 0.0
    while quantum_s < prompt_s:
        quantum_s *= 2.0
        queue += 1.0
    service_s = prompt_s + made_s
    while quantum_s < service_s:
        service_s -= quantum_s
        quantum_s *= 2.0
        queue += 1.0
    return queue


def rank(order: Order, request: Waiting, engine: Backlog, now_s: float) -> float:
    """Return where a request stands among those that wait: the least goes first, the earliest of equals.

    - `fcfs`: arrival. `sjf`: tokens to compute. `srpt`: seconds of work left, by the predicted output. `vtc`: what its
      tenant was served.
    - `hrrn`: highest response ratio, wait over work (Brinch Hansen). `mlfq`: its `level`; arrival within one.
    - `aged`: tokens to compute, less those that it earns by waiting: `reach_tokens` in `max_wait_s`.
    - `larry` and `larry-backlog` are reconstructions: of LARRY (arXiv 2410.17840) it is known that it ranks by memory
      demand, wait and load, not how. `larry`: arrival while memory is plentiful; under pressure large prompts step
      back, one of `reach_tokens` by `max_wait_s` (without one, each token by the time that it takes to compute).
      `larry-backlog`: short work first, but the more iterations of work are queued the more age counts.

    >>> engine = Backlog(tokens=0.0, budget=512.0, memory=0.2, token_s=1e-4, step_s=0.01)
    >>> long, short = Waiting(0.0, 900.0, 900.0, 50.0, 0.0), Waiting(1.0, 100.0, 100.0, 50.0, 0.0)
    >>> rank(order("sjf"), short, engine, 2.0) < rank(order("sjf"), long, engine, 2.0)
    True
    >>> rank(order("larry"), short, engine, 2.0) < rank(order("larry"), long, engine, 2.0)
    False
    """
    code = order.code
    age_s = now_s - request.arrived_s
    if code == FCFS:
        return request.arrived_s
    if code == SJF:
        return request.work_tokens
    if code == HRRN:
        return -age_s / (engine.step_s + request.work_tokens * engine.token_s)
    if code == AGED:
        return request.work_tokens - order.reach_tokens * (age_s / order.max_wait_s)
    if code == SRPT:
        return request.work_tokens * engine.token_s + request.predicted_tokens * engine.step_s
    if code == MLFQ:
        return level(request.work_tokens * engine.token_s, request.made_tokens * engine.step_s, engine.step_s)
    if code == VTC:
        return request.served
    if code == LARRY:
        pressure = max(0.0, engine.memory - PLENTY)
        each_s = engine.token_s if order.max_wait_s == math.inf else order.max_wait_s / order.reach_tokens
        return request.arrived_s + pressure * each_s * request.memory_tokens
    load = engine.tokens / engine.budget
    return request.work_tokens - load * age_s / engine.token_s


def first(order: Order, requests: Sequence[Waiting], engine: Backlog, now_s: float) -> int:
    """Return which of the requests that wait goes first; -1 for none.

    >>> engine = Backlog(0.0, 512.0, 0.2, 1e-4, 0.01)
    >>> first(order("sjf"), [Waiting(0.0, 9.0, 9.0, 1.0, 0.0), Waiting(1.0, 2.0, 2.0, 1.0, 0.0)], engine, 2.0)
    1
    """
    best, best_late, least, came_s = -1, False, math.inf, math.inf
    for at, request in enumerate(requests):
        late = overdue(order, request.arrived_s, now_s)
        value = request.arrived_s if late else rank(order, request, engine, now_s)
        if (late and not best_late) or (
            late == best_late and (value < least or (value == least and request.arrived_s < came_s))
        ):
            best, best_late, least, came_s = at, late, value, request.arrived_s
    return best


def returning(least_active: float, served: float) -> float:
    """Return a tenant's account when it comes back with nothing in the engine: not below those who stayed (VTC).

    >>> returning(100.0, 20.0)
    100.0
    """
    return max(least_active, served)
