"""One cell of a profile: batches of one size through one model on one hardware, timed until the mean is known well."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from headway.errors import ProfileError
from headway.profile.profile import Row
from headway.profile.target import Target, started
from headway.serve.wire import Input, Result
from headway.serve.worker import Worker

_NORMAL_95 = 1.96
_WARMUP_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a cell is measured.

    It ends when the mean is known to `precision` (half the 95 % interval over the mean) after at least `good_repeats`
    batches, when its share of time is used after at least `min_repeats`, or at `max_repeats`. `warmup` batches come
    first and are dropped; of slow ones, as many as fit into a quarter of the share, and at least one. A batch, and a
    start, may take `timeout_s`.
    """

    min_repeats: int = 8
    good_repeats: int = 40
    max_repeats: int = 2000
    precision: float = 0.02
    warmup: int = 3
    timeout_s: float = 120.0

    def __post_init__(self) -> None:
        if not (1 <= self.min_repeats <= self.good_repeats <= self.max_repeats and self.warmup >= 0):
            raise ProfileError("profile: repeats must satisfy 1 <= min_repeats <= good_repeats <= max_repeats")
        if not (self.precision > 0 and self.timeout_s > 0):
            raise ProfileError("profile: precision and timeout_s must be greater than 0")


async def measure_cell(
    target: Target,
    batch_size: int,
    inputs: Sequence[Input],
    *,
    effort: Effort,
    share_s: float,
    rng: random.Random,
    log: Callable[[str], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Row:
    """Return the measured row, from a worker process of its own.

    A batch's time runs from handing it over to holding its results, as a replica is busy in service; the payloads'
    way through the socket is part of it. Inputs that the model refuses are left out. Raises NotStarted when the model
    cannot be set up, HeadwayError when it dies, hangs, or refuses every input.
    """
    end_s = clock() + share_s
    name = f"{target.label}, batch size {batch_size}"
    worker = await started(target.model, target.hardware, name=name, timeout_s=effort.timeout_s, log=log)
    try:
        times_s = await _times(worker, batch_size, list(inputs), effort, end_s, rng, clock, not target.model.children)
        memory_mb = await worker.memory_mb()
    finally:
        await worker.stop()
    p50_s, p95_s, p99_s = (nearest_rank(times_s, percent) for percent in (50, 95, 99))
    return Row(
        stage=target.model.stage,
        hardware=target.hardware.name,
        batch_size=batch_size,
        mean_s=_rounded(statistics.fmean(times_s)),
        variant=target.model.variant,
        p50_s=_rounded(p50_s),
        p95_s=_rounded(p95_s),
        p99_s=_rounded(p99_s),
        samples=len(times_s),
        startup_s=round(worker.startup_s, 4),
        memory_mb=round(memory_mb, 1),
        evidence="measured",
    )


async def _times(
    worker: Worker,
    batch_size: int,
    pool: list[Input],
    effort: Effort,
    end_s: float,
    rng: random.Random,
    clock: Callable[[], float],
    last: bool,
) -> list[float]:
    times_s: list[float] = []
    warm = 0
    warm_until_s = clock() + _WARMUP_SHARE * (end_s - clock())
    batches = batches_of(pool, batch_size, rng)
    while not settled(times_s, effort, out_of_time=clock() >= end_s):
        batch = next(batches)
        started_s = clock()
        # A last stage's results leave the server, so making them readable is part of its work.
        results = await worker.predict([pool[i] for i in batch], render=last, timeout_s=effort.timeout_s)
        took_s = clock() - started_s
        if any(result.error is not None for result in results):
            pool = _without_failed(pool, batch, results)
            batches = batches_of(pool, batch_size, rng)
            continue
        if times_s or warm >= effort.warmup or (warm and started_s >= warm_until_s):
            times_s.append(took_s)
        warm += 1
    return times_s


def _without_failed(pool: list[Input], batch: Sequence[int], results: Sequence[Result]) -> list[Input]:
    errors = {i: r.error for i, r in zip(batch, results, strict=True) if r.error is not None}
    left = [payload for i, payload in enumerate(pool) if i not in errors]
    if not left:
        error = next(iter(errors.values()))
        raise ProfileError(f"the model refuses every input; {error.type}: {error.message}")
    return left


def batches_of(pool: Sequence[object], size: int, rng: random.Random) -> Iterator[list[int]]:
    """Yield batches of places in `pool` without end; every input comes once before any comes again.

    >>> sorted(next(batches_of("abc", 3, random.Random(1))))
    [0, 1, 2]
    """
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            order = list(range(len(pool)))
            rng.shuffle(order)
            waiting += order
        yield waiting[:size]
        waiting = waiting[size:]


def settled(times_s: Sequence[float], effort: Effort, *, out_of_time: bool) -> bool:
    """Return whether a cell has been measured enough.

    >>> settled([0.1] * 40, Effort(), out_of_time=False)
    True
    """
    count = len(times_s)
    if count < effort.min_repeats:
        return False
    if out_of_time or count >= effort.max_repeats:
        return True
    if count < max(effort.good_repeats, 2):
        return False
    half_s = _NORMAL_95 * statistics.stdev(times_s) / math.sqrt(count)
    return half_s <= effort.precision * statistics.fmean(times_s)


def nearest_rank(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` percent of the values do not exceed.

    >>> nearest_rank([3.0, 1.0, 2.0], 50)
    2.0
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def _rounded(seconds: float) -> float:
    # Beyond four significant digits there is only noise, and a file is read by people.
    return float(f"{seconds:.4g}")
