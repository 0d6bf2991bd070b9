"""The event kernel of a cascade: devices that hold several models, one queue per model, and gears changed by load.

At one instant the gear is chosen first, by what came in the window that ends; then finished batches are delivered, in
the order in which they began; then new items; only then are batches started, later steps first. So the result does not
depend on how simultaneous events were scheduled. Every decision is a policy's (`headway.policy.cascading`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headway.policy import admission, cascading, sharing
from headway.sim.draws import draw
from headway.sim.jit import kernel
from headway.sim.station import Floats, Ints

answers = kernel(cascading.answers)
due = kernel(cascading.due)
first_step = kernel(cascading.first_step)
next_gear = kernel(cascading.next_gear)
expired = kernel(admission.expired)
stage_at = kernel(sharing.stage_at)

Longs = NDArray[np.int64]

QUEUED, LEFT, LOST, BATCHES, GEAR, SWITCHES, BUSY, SKIPPED = range(8)
"""Entries of `Scratch.counters`."""


class Models(NamedTuple):
    """What the models cost, how certain they are (`certainty[model, sample]`), and how hard samples are, or nothing.

    A batch of b of a model takes `service_s[offset[model] + (b << bits) + quantile]`, b at most `max_batch[model]`;
    `holds[device, model]` says where the models are. Of idle devices the first is used.
    """

    service_s: Floats
    offset: Longs
    bits: int
    max_batch: Longs
    certainty: Floats
    holds: NDArray[np.bool_]
    hardness: Floats


class Gears(NamedTuple):
    """One row per gear, from the dearest to the cheapest; what depends on the model has a column for each.

    An item starts at one of the models `steps[gear]`, as `first_step` says by `skip[gear]`; one that model m is not
    certain enough of (`threshold[gear, m]`) goes on to `following[gear, m]`, unless that is -1. Models are asked for
    batches in the order `asked[gear]`, the last first.
    """

    upper_per_s: Floats
    steps: Longs
    skip: Floats
    threshold: Floats
    following: Longs
    asked: Longs
    min_queue: Longs
    max_wait_s: Floats
    window_s: float
    alpha_per_s: float


class Scratch(NamedTuple):
    """What changes while it runs: queues by model (`[head, tail)` waits), per item, and per device its batch.

    `escalated`: how many items each model was not certain enough of.
    """

    counters: Longs
    escalated: Longs
    queue: Ints
    head: Longs
    tail: Longs
    entered_s: Floats
    asked_last: Ints
    free_s: Floats
    running: Longs
    low: Longs
    high: Longs
    batch: Longs

    @classmethod
    def of(cls, items: int, models: int, devices: int) -> Scratch:
        """Return room for a run, with every queue empty and every device idle."""
        longs = np.int64
        return cls(
            counters=np.zeros(8, longs),
            escalated=np.zeros(models, longs),
            queue=np.empty((models, items), np.int32),
            head=np.zeros(models, longs),
            tail=np.zeros(models, longs),
            entered_s=np.empty(items),
            asked_last=np.full(items, -1, np.int32),
            free_s=np.full(devices, np.inf),
            running=np.full(devices, -1, longs),
            low=np.zeros(devices, longs),
            high=np.zeros(devices, longs),
            batch=np.zeros(devices, longs),
        )


class Out(NamedTuple):
    """What is found. Departures in their order, by number of arrival, with the model that answered; per arrival its
    start (or empty); the arrivals dropped; and when the gear changed to which (or empty).
    """

    done_s: Floats
    left: Ints
    answered_by: Ints
    start_s: Floats
    dropped: Ints
    switched_s: Floats
    switched_to: Ints

    @classmethod
    def of(cls, items: int, *, record: bool, deadlines: bool) -> Out:
        """Return room for what a run finds: starts and changes of gear when it is to `record` them."""
        # A window in which something came changes the gear at most once, and so does the silence after it.
        switches = 2 * items + 2 if record else 0
        return cls(
            done_s=np.empty(items),
            left=np.empty(items, np.int32),
            answered_by=np.empty(items, np.int32),
            start_s=np.full(items if record else 0, np.inf),
            dropped=np.empty(items if deadlines else 0, np.int32),
            switched_s=np.empty(switches),
            switched_to=np.empty(switches, np.int32),
        )


@kernel
def serve_cascade(
    arrival_s: Floats,
    sample: Ints,
    deadline_s: Floats,
    key: int,
    models: Models,
    gears: Gears,
    scratch: Scratch,
    out: Out,
) -> float:
    """Serve sorted arrivals and return the devices' busy seconds; batch k draws its quantile from stream `key`.

    Item i has the certainties of validation sample `sample[i]`. Before its first step an item past its deadline is
    dropped; before a later one it is answered with what it has. The functions inside share the arrays as names of this
    one: as arguments, each call would count references to all.
    """
    service_s, offset, bits, max_batch, certainty, holds, hardness = models
    upper_per_s, steps, skip, threshold, following, asked, min_queue, max_wait_s, window_s, alpha_per_s = gears
    counters, escalated, queue, head, tail, entered_s, asked_last, free_s, running, low, high, batch = scratch
    done_s, left, answered_by, start_s, dropped, switched_s, switched_to = out
    devices, count = holds.shape
    n = arrival_s.size
    busy_s = np.zeros(1)

    def enqueue(item: int, model: int, now_s: float) -> None:
        queue[model, tail[model]] = item
        tail[model] += 1
        entered_s[item] = now_s
        counters[QUEUED] += 1

    def begins(item: int) -> int:
        gear = counters[GEAR]
        if skip.shape[1] == 0:
            return int(steps[gear, 0])
        step = first_step(hardness[sample[item]], skip[gear])
        if step > 0:
            counters[SKIPPED] += 1
        return int(steps[gear, step])

    def answer(item: int, now_s: float) -> None:
        at = counters[LEFT]
        done_s[at] = now_s
        left[at] = item
        answered_by[at] = asked_last[item]
        counters[LEFT] = at + 1

    def shift(rate_per_s: float, now_s: float) -> None:
        gear = counters[GEAR]
        to = next_gear(gear, rate_per_s, counters[QUEUED], upper_per_s, alpha_per_s)
        if to == gear:
            return
        counters[GEAR] = to
        if counters[SWITCHES] < switched_s.size:
            switched_s[counters[SWITCHES]] = now_s
            switched_to[counters[SWITCHES]] = to
        counters[SWITCHES] += 1

    def deliver(now_s: float) -> None:
        """Take back the batches that end now: answers leave, the rest goes on as the gear in force says."""
        while True:
            device = -1
            for d in range(devices):
                if free_s[d] == now_s and (device < 0 or batch[d] < batch[device]):
                    device = d
            if device < 0:
                return
            gear = counters[GEAR]
            model = running[device]
            to = following[gear, model]
            for at in range(low[device], high[device]):
                item = queue[model, at]
                if item < 0:
                    continue
                asked_last[item] = model
                if to < 0 or answers(certainty[model, sample[item]], threshold[gear, model]):
                    answer(item, now_s)
                else:
                    escalated[model] += 1
                    enqueue(item, to, now_s)
            running[device] = -1
            free_s[device] = np.inf
            counters[BUSY] -= 1

    def fill(model: int, size: int, now_s: float) -> int:
        """Take up to `size` items that are still wanted from a queue; return how many."""
        taken = 0
        at = head[model]
        while at < tail[model] and taken < size:
            item = queue[model, at]
            counters[QUEUED] -= 1
            if asked_last[item] < 0 and start_s.size > 0:
                start_s[item] = now_s
            if deadline_s.size > 0 and expired(deadline_s[item], now_s):
                queue[model, at] = -1
                if asked_last[item] < 0:
                    dropped[counters[LOST]] = item
                    counters[LOST] += 1
                else:
                    answer(item, now_s)
            else:
                taken += 1
            at += 1
        head[model] = at
        return taken

    def start(model: int, now_s: float) -> float:
        """Start batches of a model for as long as devices and policy allow; return when to ask again."""
        while head[model] < tail[model] and counters[BUSY] < devices:
            device = 0
            while device < devices and (running[device] >= 0 or not holds[device, model]):
                device += 1
            if device == devices:
                return np.inf
            gear = counters[GEAR]
            begin = head[model]
            oldest_s = entered_s[queue[model, begin]]
            size, wake_s = due(
                tail[model] - begin, oldest_s, now_s, min_queue[gear, model], max_wait_s[gear], max_batch[model]
            )
            if size == 0:
                return wake_s
            taken = fill(model, max_batch[model], now_s)
            if taken == 0:
                continue
            quantile = draw(key, counters[BATCHES], bits)
            took_s = service_s[offset[model] + (taken << bits) + quantile]
            busy_s[0] += took_s
            running[device] = model
            free_s[device] = now_s + took_s
            low[device] = begin
            high[device] = head[model]
            batch[device] = counters[BATCHES]
            counters[BATCHES] += 1
            counters[BUSY] += 1
        return np.inf

    counters[GEAR] = upper_per_s.size - 1
    since_s = arrival_s[0] if n > 0 else 0.0
    window = 0
    came = 0
    i = 0
    wake_s = np.inf
    while True:
        free = np.inf
        for d in range(devices):
            free = min(free, free_s[d])
        now_s = min(wake_s, free)
        if i < n:
            now_s = min(now_s, arrival_s[i])
        if now_s == np.inf:
            break
        edge_s = since_s + (window + 1) * window_s
        if edge_s <= now_s:
            now_s = edge_s
            before = counters[GEAR]
            shift(came / window_s, now_s)
            window += 1
            idle = counters[QUEUED] == 0 and counters[BUSY] == 0
            if came == 0 and i < n and before == counters[GEAR] and idle:
                # Nothing changes before the next arrival: the windows until then are as empty as this one.
                window = max(window, int((arrival_s[i] - since_s) / window_s) - 1)
            came = 0
        if free <= now_s:
            deliver(now_s)
        # While every device is busy, what comes before the next event only queues.
        until_s = now_s if counters[BUSY] < devices else min(free, edge_s)
        while i < n and (arrival_s[i] == now_s or arrival_s[i] < until_s):
            enqueue(i, begins(i), arrival_s[i])
            came += 1
            i += 1
        wake_s = np.inf
        for rank in range(count):
            wake_s = min(wake_s, start(asked[counters[GEAR], stage_at(rank, count)], now_s))
    return float(busy_s[0])
