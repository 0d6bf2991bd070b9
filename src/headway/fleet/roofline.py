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
from typing import TypeVar

import numpy as np

from headway.errors import ProfileError, nearest
from headway.fleet.all_reduce import all_reduce, all_reduces_s
from headway.fleet.datasheets import WEIGHT_BYTES, Gpu, Model, gpus, models, table
from headway.fleet.step_time import StepTime, Timing, error_of, fit, mean_of_others

T = TypeVar("T")

USUAL_TOKENS = (8.0, 512.0, 2048.0, 4096.0)
"""Tokens of the iterations whose timings are shipped."""

MEMORY_SHARE = 0.9
"""The share of an accelerator's memory that weights and keys and values may take, as engines have it by default."""

COPY_SHARE = 0.8
"""The share of the link's peak that copies to the host reach."""


@dataclass(frozen=True, slots=True)
class Roofline:
    """A model on an accelerator with a degree of tensor parallelism: what its iterations take and what memory it has.

    `kv_tokens`: tokens of context that fit beside the weights. `swap_token_s`: copying one token's keys and values to
    the host. `evidence`: `measured`, `imported` or `prior`, as in profiles. `error_ratio`: the mean error, relative, on
    the timings that the constants rest on; of a prior, on those of models that were measured; None where unknown.
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
    step, error_ratio, source = _with_all_reduces(timings, models()[model], gpus()[gpu], tensor_parallel, gpu)
    step = replace(step, kv_token_s=made.step.kv_token_s, pair_s=made.step.pair_s)
    return replace(
        made, step=step, evidence="imported", error_ratio=error_ratio,
        source=f"Vidur's profiled operators (MIT licence){source}; context and attention from peak figures",
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
    bandwidth = gpu.bandwidth_bytes_per_s * tensor_parallel
    flops = gpu.flops_per_s * tensor_parallel * compute_share
    weights = model.parameters * WEIGHT_BYTES
    spare = gpu.memory_bytes * MEMORY_SHARE * tensor_parallel - weights
    if spare < model.kv_bytes:
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
        kv_token_s=model.kv_bytes / bandwidth,
        pair_s=4.0 * model.layers * model.heads * model.head_dim / flops,
    )
    return Roofline(
        model_name, gpu_name, tensor_parallel, step, int(spare / model.kv_bytes),
        model.kv_bytes / (gpu.host_bytes_per_s * tensor_parallel * COPY_SHARE), "prior",
        error_ratio if tensor_parallel == 1 else error_ratio + more_ratio,
        f"parameters, peak figures, and the efficiency of published timings{source}",
    )  # fmt: skip


def _with_all_reduces(
    timings: Sequence[Timing], model: Model, gpu: Gpu, workers: int, gpu_name: str
) -> tuple[StepTime, float, str]:
    """The constants of iterations with the all-reduces of tensor parallelism, how wrong they may be, and their source.

    The error is that of the fit, and that of an all-reduce by its share of the time.
    """
    if workers == 1:
        return *fit(timings), ""
    added_s = [all_reduces_s(model, gpu, workers, timing.tokens, gpu_name) for timing in timings]
    whole = [each._replace(seconds=each.seconds + s) for each, s in zip(timings, added_s, strict=True)]
    step, error_ratio = fit(whole, overhead=True)
    known, reduce_error = all_reduce(gpu, workers, gpu_name)[1:]
    share = statistics.fmean(s / each.seconds for each, s in zip(whole, added_s, strict=True))
    return step, error_ratio + share * reduce_error, " and all-reduces" if known else ", and all-reduces by their link"


def fitted(base: Roofline, timings: Iterable[Timing], *, evidence: str, source: str) -> Roofline:
    """Return a roofline with its constants fitted to timings; what these do not show stays as it was.

    `evidence` is `measured` for timings of the engine itself, `imported` for others'. Raises ProfileError as `fit`.
    """
    if evidence not in ("measured", "imported"):
        raise ProfileError(f"roofline: evidence is {evidence!r}; valid: measured, imported")
    step, error_ratio = fit(timings)
    kv_token_s = step.kv_token_s or base.step.kv_token_s
    step = replace(step, kv_token_s=kv_token_s, pair_s=step.pair_s or base.step.pair_s)
    return replace(base, step=step, evidence=evidence, error_ratio=error_ratio, source=source)


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


@cache
def efficiency() -> tuple[float, float, float]:
    """Return the shares of peak bandwidth and peak FLOPS that published timings reach, and the error of a prior.

    The error is what the shares of all other measured systems say of each one, averaged: what a prior may be wrong by.
    """
    keys = list(dict.fromkeys(row[:3] for row in published()))
    memory, compute, rows = [], [], []
    for model_name, gpu_name, tensor_parallel in keys:
        timings = [row[3] for row in published() if row[:3] == (model_name, gpu_name, tensor_parallel)]
        step, _ = fit(timings)
        model, gpu = models()[model_name], gpus()[gpu_name]
        least_s = model.parameters * WEIGHT_BYTES / (gpu.bandwidth_bytes_per_s * tensor_parallel)
        token_s = 2.0 * model.parameters / (gpu.flops_per_s * tensor_parallel)
        memory.append(least_s / step.floor_s)
        compute.append(token_s / step.token_s)
        rows.append((least_s, token_s, np.array([tuple(timing) for timing in timings])))
    errors = [
        error_of(StepTime(least_s / mean_of_others(memory, at), token_s / mean_of_others(compute, at)), timings)
        for at, (least_s, token_s, timings) in enumerate(rows)
    ]
    return statistics.geometric_mean(memory), statistics.geometric_mean(compute), statistics.fmean(errors)


def _known(name: str, table: Mapping[str, T], kind: str) -> T:
    if name not in table:
        raise ProfileError(
            f"roofline: no {kind} is called {name!r}{nearest(name, table)}; known: {', '.join(table)}; for another "
            "give its figures to prior()"
        )
    return table[name]
