"""What all-reduces between accelerators take: from published timings, else from the datasheet of their link."""

from __future__ import annotations

import statistics
from functools import cache

import numpy as np

from headway.fleet.datasheets import Gpu, Model, gpus, table
from headway.fleet.step_time import StepTime, Timing, error_left_out, error_of, fit, mean_of_others


def all_reduces_s(model: Model, gpu: Gpu, workers: int, tokens: float, gpu_name: str = "") -> float:
    """Return what all all-reduces of an iteration over so many tokens take: two in each layer.

    >>> from headway.fleet.datasheets import models
    >>> all_reduces_s(models()["llama-2-70b"], gpus()["a100-80gb"], 4, 2048, "a100-80gb") > 0.03
    True
    """
    step = all_reduce(gpu, workers, gpu_name)[0]
    return 2.0 * model.layers * step.seconds(tokens * model.hidden_bytes)


def all_reduce(gpu: Gpu, workers: int, gpu_name: str = "") -> tuple[StepTime, bool, float]:
    """Return what an all-reduce takes (its "tokens" are bytes), whether that is measured, and its relative error.

    Where no timings are published, each byte goes `2 (n - 1) / n` times over the link, at the share of its peak that
    published ones reach; the error is then what that says of those that are published. Else it is that at sizes which
    the fit to all others predicts.
    """
    timings = [timing for *key, timing in reductions() if key == [gpu_name, workers]]
    if timings:
        return _reduction(tuple(timings))[0], True, _reduction(tuple(timings))[1]
    floor_s, share, error_ratio = link_efficiency()
    return StepTime(floor_s, _byte_s(gpu, workers) / share), False, error_ratio


@cache
def _reduction(timings: tuple[Timing, ...]) -> tuple[StepTime, float]:
    step, error_ratio = fit(timings, overhead=True)
    return step, error_left_out(timings, overhead=True) or error_ratio


def _byte_s(gpu: Gpu, workers: int) -> float:
    """What a byte of a ring all-reduce takes at the peak of the link."""
    return 2.0 * (workers - 1) / workers / (gpu.link_bytes_per_s or gpu.host_bytes_per_s)


@cache
def reductions() -> tuple[tuple[str, int, Timing], ...]:
    """Return the all-reduces that are shipped, as (GPU, workers, timing over bytes)."""
    return tuple(
        (row["gpu"], int(row["workers"]), Timing(float(row["bytes"]), 0.0, float(row["seconds"])))
        for row in table("all_reduce.csv")
    )


@cache
def link_efficiency() -> tuple[float, float, float]:
    """Return the least time of an all-reduce, the share of a link's peak that published ones reach, and the error."""
    floors, shares, rows = [], [], []
    for gpu, workers in dict.fromkeys(row[:2] for row in reductions()):
        timings = tuple(row[2] for row in reductions() if row[:2] == (gpu, workers))
        step = fit(timings)[0]
        ideal_s = _byte_s(gpus()[gpu], workers)
        floors.append(step.floor_s)
        shares.append(ideal_s / step.token_s)
        rows.append((ideal_s, np.array([tuple(timing) for timing in timings])))
    errors = [
        error_of(StepTime(mean_of_others(floors, at), ideal_s / mean_of_others(shares, at)), timings)
        for at, (ideal_s, timings) in enumerate(rows)
    ]
    return statistics.geometric_mean(floors), statistics.geometric_mean(shares), statistics.fmean(errors)
