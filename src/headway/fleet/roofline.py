"""What an iteration of an LLM engine takes: two constants per model, accelerator and parallelism, with their evidence.

An iteration reads all weights once, however few tokens it has, and computes with them for each token: so it takes the
longer of a floor and a time per token (a roofline). Reading the keys and values of the context adds a time per token of
context, attention within prompts a time per pair of tokens. Measured constants are imported from published timings or
fitted; for all other models they are priors from the number of parameters and the accelerator's datasheet. Every one
says what its evidence is and how far off it was where that is known.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple, TypeVar

import numpy as np

from headway.errors import ProfileError, nearest
from headway.fleet.all_reduce import all_reduce, all_reduces_s
from headway.fleet.datasheets import WEIGHT_BYTES, Gpu, Model, gpus, models, table
from headway.fleet.step_time import StepTime, Timing, error_left_out, error_of, fit

T = TypeVar("T")

USUAL_TOKENS = (8.0, 512.0, 2048.0, 4096.0)
"""Tokens of the iterations whose timings are shipped."""

MEMORY_SHARE = 0.9
"""The share of an accelerator's memory that weights and keys and values may take, as engines have it by default."""

LEFT_OUT = "at more than the fewest tokens, each timing predicted from the others"
"""What the error of constants that were fitted to timings is measured on."""

FITTED = "at the timings that they were fitted to, too few to leave one out"
"""What it is measured on where that cannot be."""

COPY_SHARE = 0.8
"""The share of the link's peak that copies to the host reach."""


@dataclass(frozen=True, slots=True)
class Roofline:
    """A model on an accelerator with a degree of tensor parallelism: what its iterations take and what memory it has.

    `kv_tokens`: tokens of context that fit beside the weights. `swap_token_s`: copying one token's keys and values to
    the host. `evidence`: `measured`, `imported` or `prior`, as in profiles. `error_ratio`: the mean error, relative, at
    timings that were not used, `error_on` says which; None where unknown. It covers no attention and no context.
    """

    model: str
    gpu: str
    tensor_parallel: int
    step: StepTime
    kv_tokens: int
    swap_token_s: float
    evidence: str
    error_ratio: float | None
    source: str
    error_on: str = ""


def roofline(model: str, gpu: str, tensor_parallel: int = 1) -> Roofline:
    """Return what is known of a model on an accelerator: measured constants where there are, else a prior.

    Raises ProfileError for a name that is not known, or as `prior`.

    >>> found = roofline("llama-2-7b", "a100-80gb")
    >>> found.evidence, round(found.step.token_s * 1e6), found.error_ratio < 0.05
    ('imported', 64, True)
    >>> roofline("llama-2-13b", "a100-80gb").evidence
    'prior'
    """
    timings = [timing for *key, timing in published() if key == [model, gpu, tensor_parallel]]
    made = prior(_known(model, models(), "model"), _known(gpu, gpus(), "GPU"), tensor_parallel, model, gpu)
    if not timings:
        return made
    parts = models()[model], gpus()[gpu], tensor_parallel, gpu
    step, _, source = _with_all_reduces(timings, *parts)
    error_ratio = _error_left_out(timings, *parts)
    step = replace(step, kv_token_s=made.step.kv_token_s, pair_s=made.step.pair_s)
    return replace(
        made, step=step, evidence="imported", error_ratio=error_ratio,
        source=f"Vidur's profiled operators (MIT licence){source}; context and attention from peak figures",
        error_on=LEFT_OUT,
    )  # fmt: skip


def prior(model: Model, gpu: Gpu, tensor_parallel: int, model_name: str = "", gpu_name: str = "") -> Roofline:
    """Return what peak figures and the efficiency of measured models let expect.

    The floor is the time to read the weights, the time per token 2 FLOP per weight, each divided by the share of the
    peak that the published timings reach (their geometric mean). With tensor parallelism the accelerators share that
    work, and two all-reduces of each layer's output are added (Shoeybi et al., "Megatron-LM", arXiv 1909.08053,
    section 3). Raises ProfileError where the weights do not fit, or the heads cannot be split so.
    """
    if tensor_parallel < 1:
        raise ProfileError(f"roofline: tensor_parallel is {tensor_parallel}; at least 1 is needed")
    refused = model.unsplit(tensor_parallel)
    if refused is not None:
        raise ProfileError(f"roofline: tensor_parallel is {tensor_parallel}; {refused}")
    memory_share, compute_share, error_ratio = efficiency()
    measured = list(dict.fromkeys(row[1] for row in published()))
    error_on = f"for models left out, on {', '.join(measured)}"
    if gpu_name not in measured:
        error_ratio = error_on_other_gpus()
        error_on = f"for a GPU left out of {', '.join(measured)}; no timing of {gpu_name or 'this GPU'} is known"
    bandwidth = gpu.bandwidth_bytes_per_s * tensor_parallel
    flops = gpu.flops_per_s * tensor_parallel * compute_share
    weights = model.parameters * WEIGHT_BYTES
    kv_bytes = model.kv_bytes_over(tensor_parallel)
    spare = gpu.memory_bytes * MEMORY_SHARE * tensor_parallel - weights
    if spare < kv_bytes:
        raise ProfileError(
            f"roofline: {model_name or 'the model'} has {weights / 1e9:.0f} GB of weights, and {tensor_parallel} "
            f"x {gpu_name or 'the GPU'} gives {gpu.memory_bytes * MEMORY_SHARE * tensor_parallel / 1e9:.0f} GB; raise "
            "tensor_parallel, or take a GPU with more memory"
        )
    computed = StepTime(weights / (bandwidth * memory_share), 2.0 * model.parameters / flops)
    timings = [Timing(tokens, 0.0, computed.seconds(tokens)) for tokens in (1.0, *USUAL_TOKENS)]
    step, more_ratio, source = _with_all_reduces(timings, model, gpu, tensor_parallel, gpu_name)
    step = replace(
        computed if tensor_parallel == 1 else step,
        kv_token_s=kv_bytes / bandwidth,
        pair_s=4.0 * model.layers * model.heads * model.head_dim / flops,
    )
    return Roofline(
        model_name, gpu_name, tensor_parallel, step, int(spare / kv_bytes),
        kv_bytes / (gpu.host_bytes_per_s * tensor_parallel * COPY_SHARE), "prior",
        error_ratio if tensor_parallel == 1 else error_ratio + more_ratio,
        f"parameters, peak figures, and the efficiency of published timings{source}", error_on,
    )  # fmt: skip


def _with_all_reduces(
    timings: Sequence[Timing], model: Model, gpu: Gpu, workers: int, gpu_name: str
) -> tuple[StepTime, float, str]:
    """The constants of iterations with the all-reduces of tensor parallelism, how wrong they may be, and their source.

    The error is that of the fit, and that of an all-reduce by its share of the time.
    """
    if workers == 1:
        return *fit(timings), ""
    whole, more_ratio = _whole(timings, model, gpu, workers, gpu_name)
    step, error_ratio = fit(whole, overhead=True)
    is_known = all_reduce(gpu, workers, gpu_name)[1]
    return step, error_ratio + more_ratio, " and all-reduces" if is_known else ", and all-reduces by their link"


def _whole(
    timings: Sequence[Timing], model: Model, gpu: Gpu, workers: int, gpu_name: str
) -> tuple[list[Timing], float]:
    """Timings with their all-reduces, and the error of these by their share of the time."""
    added_s = [all_reduces_s(model, gpu, workers, timing.tokens, gpu_name) for timing in timings]
    whole = [each._replace(seconds=each.seconds + s) for each, s in zip(timings, added_s, strict=True)]
    share = statistics.fmean(s / each.seconds for each, s in zip(whole, added_s, strict=True))
    return whole, share * all_reduce(gpu, workers, gpu_name)[2]


def _error_left_out(timings: Sequence[Timing], model: Model, gpu: Gpu, workers: int, gpu_name: str) -> float | None:
    """The error at timings that are left out, and that of all-reduces."""
    if workers == 1:
        return error_left_out(timings)
    whole, more_ratio = _whole(timings, model, gpu, workers, gpu_name)
    error_ratio = error_left_out(whole, overhead=True)
    return None if error_ratio is None else error_ratio + more_ratio


def fitted(base: Roofline, timings: Iterable[Timing], *, evidence: str, source: str) -> Roofline:
    """Return a roofline with its constants fitted to timings; what these do not show stays as it was.

    `evidence` is `measured` for timings of the engine itself, `imported` for others'. Raises ProfileError as `fit`.
    """
    if evidence not in ("measured", "imported"):
        raise ProfileError(f"roofline: evidence is {evidence!r}; valid: measured, imported")
    step, error_ratio, error_on = best_fit(list(timings))
    kv_token_s = step.kv_token_s or base.step.kv_token_s
    step = replace(step, kv_token_s=kv_token_s, pair_s=step.pair_s or base.step.pair_s)
    return replace(base, step=step, evidence=evidence, error_ratio=error_ratio, source=source, error_on=error_on)


def best_fit(timings: Sequence[Timing]) -> tuple[StepTime, float, str]:
    """Return the constants that timings lead to, how far off they are on average, and on what that was measured.

    With a time per iteration in the place of the floor where timings that are left out are so predicted better: it is
    so on processors. Raises ProfileError as `fit`.

    >>> step, error_ratio, _ = best_fit([Timing(n, 0.0, 0.03 + n / 25_600) for n in (1, 512, 1024, 2048)])
    >>> round(step.overhead_s, 6), error_ratio < 1e-9
    (0.03, True)
    """
    step, error_ratio = fit(timings)
    left_out, with_overhead = (error_left_out(timings, overhead=overhead) for overhead in (False, True))
    if left_out is None:
        return step, error_ratio, FITTED
    if with_overhead is not None and with_overhead < left_out:
        return fit(timings, overhead=True)[0], with_overhead, LEFT_OUT
    return step, left_out, LEFT_OUT


@cache
def published() -> tuple[tuple[str, str, int, Timing], ...]:
    """Return the timings that are shipped, as (model, GPU, tensor parallelism, timing)."""
    return tuple(
        (
            row["model"],
            row["gpu"],
            int(row["tensor_parallel"]),
            Timing(float(row["tokens"]), 0.0, float(row["seconds"])),
        )
        for row in table("step_times.csv")
    )


class _System(NamedTuple):
    """A measured system: what its floor and its time per token are at the peak, what share it reaches, its timings."""

    gpu: str
    least_s: float
    token_s: float
    memory_share: float
    compute_share: float
    timings: np.ndarray[tuple[int, int], np.dtype[np.float64]]

    def error_by(self, others: Sequence[_System]) -> float:
        """Return how wrong the shares of others are about this one."""
        memory_share = statistics.geometric_mean([other.memory_share for other in others])
        compute_share = statistics.geometric_mean([other.compute_share for other in others])
        return error_of(StepTime(self.least_s / memory_share, self.token_s / compute_share), self.timings)


@cache
def _systems() -> tuple[_System, ...]:
    found = []
    for model_name, gpu_name, tensor_parallel in dict.fromkeys(row[:3] for row in published()):
        timings = [row[3] for row in published() if row[:3] == (model_name, gpu_name, tensor_parallel)]
        step, _ = fit(timings)
        model, gpu = models()[model_name], gpus()[gpu_name]
        least_s = model.parameters * WEIGHT_BYTES / (gpu.bandwidth_bytes_per_s * tensor_parallel)
        token_s = 2.0 * model.parameters / (gpu.flops_per_s * tensor_parallel)
        rows = np.array([tuple(timing) for timing in timings])
        found.append(_System(gpu_name, least_s, token_s, least_s / step.floor_s, token_s / step.token_s, rows))
    return tuple(found)


@cache
def efficiency() -> tuple[float, float, float]:
    """Return the shares of peak bandwidth and peak FLOPS that published timings reach, and the error of a prior.

    The error is what the shares of all other measured systems say of each one, averaged: what a prior may be wrong by
    on a GPU of which timings are known.
    """
    systems = _systems()
    errors = [each.error_by([other for other in systems if other is not each]) for each in systems]
    return (
        statistics.geometric_mean([each.memory_share for each in systems]),
        statistics.geometric_mean([each.compute_share for each in systems]),
        statistics.fmean(errors),
    )


@cache
def error_on_other_gpus() -> float:
    """Return the error of a prior on a GPU of which no timing is known: that on each measured one, by the others'.

    >>> error_on_other_gpus() > efficiency()[2]
    True
    """
    errors = []
    for gpu in {each.gpu for each in _systems()}:
        others = [each for each in _systems() if each.gpu != gpu]
        errors.append(statistics.fmean(each.error_by(others) for each in _systems() if each.gpu == gpu))
    return statistics.fmean(sorted(errors))


def _known(name: str, table: Mapping[str, T], kind: str) -> T:
    if name not in table:
        raise ProfileError(
            f"roofline: no {kind} is called {name!r}{nearest(name, table)}; known: {', '.join(table)}; for another "
            "give its figures to prior()"
        )
    return table[name]
