"""What is let in and what is given up: bounded queues, deadlines, and the promise.

Under more load than capacity a queue that deadlines alone bound is as long as the deadlines: every replica is busy, and
every answer is late. So a request is refused when what is ahead of it would make it late.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = Sequence[float] | NDArray[np.float64]
Longs: TypeAlias = Sequence[int] | NDArray[np.int64]

SLACK = 0.1
"""By how much waits may exceed what is computed: a queue that grows to the last instant makes half the answers late."""


class Terms(NamedTuple):
    """What a plan says of its stages, one entry per stage, parents first. Times are means in seconds.

    `head_s`, `tail_s`: the longest way to a stage and from it on in batches of one, `full_tail_s` in full batches.
    `service_s` holds, from `first` on, the time of a batch of 1, 2, ... `size` items. `items`: those per request;
    `per_item[above * stages + stage]`: those per item at another stage above it. A batch takes `threads` of the pool
    numbered `pool` (-1: of none), which has `cores[pool]`.
    """

    head_s: Floats
    tail_s: Floats
    full_tail_s: Floats
    service_s: Floats
    first: Longs
    size: Longs
    items: Floats
    per_item: Floats
    pool: Longs
    threads: Longs
    cores: Longs


class Load(NamedTuple):
    """What the stages have to do now, one entry each.

    Items `queued` and `running`; batches in service (`busy`) and the sum of the times at which they began (`began_s`);
    `replicas` at work; `pace`: how many times longer than the plan says batches take of late.
    """

    queued: Longs
    running: Longs
    busy: Longs
    began_s: Floats
    replicas: Longs
    pace: Floats


def in_time(terms: Terms, load: Load, now_s: float, promise_s: float) -> bool:
    """Return whether a request that comes now is expected to be answered within `promise_s`.

    At each stage, and for the cores of each pool, it waits for the items ahead of it, those on their way included.
    First come is first served everywhere, so the longest of these waits counts, not their sum; it may take `SLACK`
    longer than computed. A request that need not wait is always let in.

    >>> one = Terms([0.0], [0.0], [0.0], [0.1], [0], [1], [1.0], [1.0], [-1], [1], [])
    >>> in_time(one, Load([3], [1], [1], [0.0], [1], [1.0]), now_s=0.05, promise_s=0.5)
    True
    >>> in_time(one, Load([4], [1], [1], [0.0], [1], [1.0]), now_s=0.05, promise_s=0.5)
    False
    """
    stages = len(terms.head_s)
    for pool in range(-1, len(terms.cores)):
        work_s = 0.0
        waiting = 0.0
        used = 0
        way_s = 0.0
        full_way_s = 0.0
        crowd = 0.0
        for stage in range(stages):
            if pool >= 0 and terms.head_s[stage] == 0.0:
                first = terms.first[stage]
                size = terms.size[stage]
                way_s = max(way_s, terms.service_s[first] + terms.tail_s[stage])
                full_way_s = max(full_way_s, terms.service_s[first + size - 1] + terms.full_tail_s[stage])
                crowd = max(crowd, min(1.0, (load.queued[stage] + 1.0) / size))
            if pool >= 0 and terms.pool[stage] != pool:
                continue
            ahead = float(load.queued[stage])
            for above in range(stage):
                ahead += terms.per_item[above * stages + stage] * (load.queued[above] + load.running[above])
            last = ahead + max(0.0, terms.items[stage] - 1.0)
            first = terms.first[stage]
            size = terms.size[stage]
            full_s = terms.service_s[first + size - 1] * load.pace[stage]
            busy = load.busy[stage]
            left_s = max(0.0, busy * full_s - (busy * now_s - load.began_s[stage]))
            if pool >= 0:
                work_s += terms.threads[stage] * (last / size * full_s + left_s)
                waiting += ahead
                used += terms.threads[stage] * busy
                continue
            servers = load.replicas[stage]
            if terms.pool[stage] >= 0:
                servers = min(servers, terms.cores[terms.pool[stage]] // terms.threads[stage])
            if servers <= 0 or ahead / size < servers - busy:
                continue
            # When its batch begins, the other servers still have half a batch before them, on average.
            work_s = int(last / size) * full_s + left_s - (servers - 1) * full_s / 2.0
            wait_s = max(0.0, work_s) / servers * (1.0 + SLACK)
            own_s = terms.service_s[first + min(size, int(last) + 1) - 1] * load.pace[stage]
            tail_s = terms.tail_s[stage]
            tail_s += (terms.full_tail_s[stage] - tail_s) * min(1.0, (last + 1.0) / size)
            if max(terms.head_s[stage], wait_s) + own_s + tail_s > promise_s:
                return False
        if pool >= 0 and (waiting > 0.0 or used >= terms.cores[pool]):
            wait_s = work_s / terms.cores[pool] * (1.0 + SLACK)
            if wait_s + way_s + (full_way_s - way_s) * crowd > promise_s:
                return False
    return True


def full(queued: int, queue_limit: int) -> bool:
    """Return whether a request that arrives now must be refused. A limit of 0 or less means no limit.

    >>> full(queued=10, queue_limit=10)
    True
    """
    return queue_limit > 0 and queued >= queue_limit


def expired(deadline_s: float, now_s: float) -> bool:
    """Return whether a queued request is given up instead of being put into the batch that starts now.

    >>> expired(deadline_s=2.0, now_s=2.0)
    False
    """
    return now_s > deadline_s
