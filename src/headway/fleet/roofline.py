"""What an iteration of an LLM engine takes: two constants per model, accelerator and parallelism, with their evidence.

An iteration reads all weights once, however few tokens it has, and computes with them for each token: so it takes the
longer of a floor and a time per token (a roofline). Reading the keys and values of the context adds a time per token of
context, attention within prompts a time per pair of tokens. Measured constants are imported from published timings or
fitted; for all other models they are priors from the number of parameters and the accelerator's datasheet. Every one
says what its evidence is and how far off it was where that is known.
"""

from __future__ import annotations

import csv
import itertools
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import NamedTuple, TypeVar

import numpy as np

from headway.errors import ProfileError, nearest

T = TypeVar("T")

WEIGHT_BYTES = 2.0
USUAL_TOKENS = (8.0, 512.0, 2048.0, 4096.0)
"""Tokens of the iterations whose timings are shipped."""

MEMORY_SHARE = 0.9
"""The share of an accelerator's memory that weights and keys and values may take, as engines have it by default."""

COPY_SHARE = 0.8
"""The share of the link's peak that copies to the host reach."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """What an iteration takes, in seconds: `overhead_s` and the longer of `floor_s` and `token_s` for each token.

    On top `kv_token_s` for each token of context of the requests that decode, and `pair_s` for each pair of a prompt's
    token and one that it attends to. Raises ProfileError for a time below 0, or none at all.

    >>> StepTime(floor_s=0.01, token_s=6e-5, kv_token_s=2.6e-7).seconds(tokens=512, kv_tokens=10_000)
    0.03332
    """

    floor_s: float
    token_s: float
    kv_token_s: float = 0.0
    pair_s: float = 0.0
    overhead_s: float = 0.0

    def __post_init__(self) -> None:
        times = (self.floor_s, self.token_s, self.kv_token_s, self.pair_s, self.overhead_s)
        if not all(0.0 <= time < math.inf for time in times) or self.floor_s + self.overhead_s <= 0.0:
            raise ProfileError(f"step time: {self} has a time below 0, or takes none; give seconds above 0")

    def seconds(self, tokens: float, kv_tokens: float = 0.0, pairs: float = 0.0) -> float:
        """Return what one iteration takes."""
        computed_s = self.overhead_s + max(self.floor_s, self.token_s * tokens)
        return computed_s + self.kv_token_s * kv_tokens + self.pair_s * pairs


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


class Timing(NamedTuple):
    """One measured iteration: tokens computed, tokens of context of what decoded, seconds; pairs within prompts."""

    tokens: float
    kv_tokens: float
    seconds: float
    pairs: float = 0.0


class Model(NamedTuple):
    """What of a model decides its speed."""

    parameters: float
    layers: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def hidden_bytes(self) -> float:
        """Bytes of what a layer hands on for one token."""
        return self.heads * self.head_dim * WEIGHT_BYTES

    @property
    def kv_bytes(self) -> float:
        """Bytes of one token's keys and values."""
        return 2.0 * self.layers * self.kv_heads * self.head_dim * WEIGHT_BYTES


class Gpu(NamedTuple):
    """Peak figures of an accelerator; without a `link_bytes_per_s` of its own it reaches others as it does the host."""

    memory_bytes: float
    bandwidth_bytes_per_s: float
    flops_per_s: float
    host_bytes_per_s: float
    link_bytes_per_s: float | None = None


def roofline(model: str, gpu: str, tensor_parallel: int = 1) -> Roofline:
    """Return what is known of a model on an accelerator: measured constants where there are, else a prior.

    Raises ProfileError for a name that is not known, or where the weights do not fit.

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
    section 3). Raises ProfileError where the weights do not fit.
    """
    if tensor_parallel < 1:
        raise ProfileError(f"roofline: tensor_parallel is {tensor_parallel}; at least 1 is needed")
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


def all_reduces_s(model: Model, gpu: Gpu, workers: int, tokens: float, gpu_name: str = "") -> float:
    """Return what all all-reduces of an iteration over so many tokens take: two in each layer.

    >>> all_reduces_s(models()["llama-2-70b"], gpus()["a100-80gb"], 4, 2048, "a100-80gb") > 0.03
    True
    """
    step = all_reduce(gpu, workers, gpu_name)[0]
    return 2.0 * model.layers * step.seconds(tokens * model.hidden_bytes)


def all_reduce(gpu: Gpu, workers: int, gpu_name: str = "") -> tuple[StepTime, bool, float]:
    """Return what an all-reduce takes (its "tokens" are bytes), whether that is measured, and its relative error.

    Where no timings are published, each byte goes `2 (n - 1) / n` times over the link, at the share of its peak that
    published ones reach; the error is then what that says of those that are published.
    """
    timings = [timing for *key, timing in reductions() if key == [gpu_name, workers]]
    if timings:
        return _reduction(tuple(timings))[0], True, _reduction(tuple(timings))[1]
    floor_s, share, error_ratio = link_efficiency()
    return StepTime(floor_s, _byte_s(gpu, workers) / share), False, error_ratio


@cache
def _reduction(timings: tuple[Timing, ...]) -> tuple[StepTime, float]:
    return fit(timings, overhead=True)


def _byte_s(gpu: Gpu, workers: int) -> float:
    """What a byte of a ring all-reduce takes at the peak of the link."""
    return 2.0 * (workers - 1) / workers / (gpu.link_bytes_per_s or gpu.host_bytes_per_s)


def fit(timings: Iterable[Timing], *, overhead: bool = False) -> tuple[StepTime, float]:
    """Return the constants that timings lead to, and the mean relative error that they leave.

    Least squares of relative errors, once for every way to split the timings by tokens into those at the floor and
    those above; the split with the least error counts. With `overhead`, so does one that adds to the time per token
    instead of a floor, as on processors, which compute where GPUs wait for memory. Times per token of context, and per
    pair of a prompt's token and one that it attends to, are fitted where these differ. Raises ProfileError for fewer
    than two different numbers of tokens, or a time that is not above 0.

    >>> step, error = fit([Timing(8, 0, 0.01), Timing(64, 0, 0.01), Timing(1000, 0, 0.1), Timing(2000, 0, 0.2)])
    >>> round(step.floor_s, 6), round(step.token_s, 8), round(error, 6)
    (0.01, 0.0001, 0.0)
    """
    rows = np.array([tuple(timing) for timing in timings], np.float64).reshape(-1, len(Timing._fields))
    tokens, kv_tokens, seconds, pairs = rows.T
    counts = np.unique(tokens)
    if counts.size < 2 or not np.all(np.isfinite(rows)) or not np.all(seconds > 0.0) or not np.all(tokens > 0.0):
        raise ProfileError("fit: timings of at least two different numbers of tokens are needed, all above 0 seconds")
    shapes = [{"floor_s": tokens <= last, "token_s": np.where(tokens <= last, 0.0, tokens)} for last in counts[:-1]]
    if overhead:
        shapes.append({"overhead_s": np.ones(seconds.size), "token_s": tokens})
    differ = {"kv_token_s": kv_tokens, "pair_s": pairs}
    more = [name for name, column in differ.items() if np.unique(column).size > 1]
    best: tuple[float, StepTime] | None = None
    for shape, count in itertools.product(shapes, range(len(more) + 1)):
        for names in itertools.combinations(more, count):
            columns = {**shape, **{name: differ[name] for name in names}}
            design = np.column_stack(list(columns.values())) / seconds[:, None]
            found = np.linalg.lstsq(design, np.ones(seconds.size), rcond=None)[0]
            if not (found[0] > 0.0 and np.all(found >= 0.0)):
                continue
            step = StepTime(**{"floor_s": 0.0, **dict(zip(columns, found.tolist(), strict=True))})
            error = error_of(step, rows)
            if best is None or error < best[0]:
                best = error, step
    if best is None:
        raise ProfileError("fit: no roofline passes near these timings; check that they are seconds of one iteration")
    return best[1], best[0]


def error_of(step: StepTime, rows: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> float:
    """Return the mean relative error of a step time on rows of timings, their fields as columns."""
    tokens, kv_tokens, seconds, pairs = rows.T
    predicted = step.overhead_s + np.maximum(step.floor_s, step.token_s * tokens)
    predicted = predicted + step.kv_token_s * kv_tokens + step.pair_s * pairs
    return float(np.mean(np.abs(predicted / seconds - 1.0)))


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


def endpoint_timings(
    prompt_tokens: Sequence[float],
    ttft_s: Sequence[float],
    output_tokens: Sequence[float],
    e2e_s: Sequence[float],
    group: Sequence[int] | None = None,
) -> list[Timing]:
    """Return the iterations that the answers of an otherwise idle endpoint stand for.

    Requests of one `group` were sent together and had equally long prompts and outputs; without groups each was sent
    alone, one after another. A request that is alone has its prompt computed at once, then makes a token per iteration.
    Of several only the one whose first token came last says something: from then on all make tokens, each iteration one
    for all of them. Raises ProfileError for columns of different lengths.

    >>> [timing.tokens for timing in endpoint_timings([9, 9], [0.1, 0.2], [5, 5], [0.5, 0.6], group=[1, 1])]
    [2.0]
    """
    numbered = range(len(prompt_tokens)) if group is None else group
    columns = (prompt_tokens, ttft_s, output_tokens, e2e_s, numbered)
    if len({len(column) for column in columns}) > 1:
        raise ProfileError("endpoint timings: the columns have different lengths; one value per request is needed")
    together: dict[int, list[tuple[float, float, float, float]]] = {}
    for prompt, first_s, output, end_s, number in zip(*columns, strict=True):
        together.setdefault(int(number), []).append((prompt, first_s, output, end_s))
    found = []
    for requests in together.values():
        prompt, first_s, output, end_s = max(requests, key=lambda request: request[1])
        if len(requests) == 1:
            found.append(Timing(prompt, 0.0, first_s, 0.5 * prompt * (prompt + 1)))
        if output > 1:
            context = sum(prompt + 0.5 * output for prompt, _, output, _ in requests)
            found.append(Timing(float(len(requests)), context, (end_s - first_s) / (output - 1)))
    return found


def read_timings(path: str | os.PathLike[str]) -> list[Timing]:
    """Read measured iterations: a CSV with the columns tokens and seconds, and kv_tokens and pairs if there are any.

    Raises ProfileError with file and line.
    """
    found = []
    try:
        with open(path, encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(_rows(lines))
            missing = [name for name in ("tokens", "seconds") if name not in (reader.fieldnames or ())]
            if missing:
                raise ProfileError(f"{path}: no column {missing[0]!r}; tokens,seconds and perhaps kv_tokens are needed")
            for at, row in enumerate(reader, 1):
                try:
                    timing = Timing(*(float(row.get(name) or 0.0) for name in Timing._fields))
                except (TypeError, ValueError) as error:
                    raise ProfileError(f"{path}: row {at}: {error}") from None
                if not (
                    timing.tokens > 0.0
                    and min(timing.kv_tokens, timing.pairs) >= 0.0
                    and 0.0 < timing.seconds < math.inf
                ):
                    raise ProfileError(f"{path}: row {at}: {timing}; tokens and seconds must be above 0")
                found.append(timing)
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror or error}") from error
    return found


@cache
def models() -> dict[str, Model]:
    """Return the models that are known by name.

    >>> round(models()["llama-2-7b"].kv_bytes)
    524288
    """
    return {
        row["model"]: Model(float(row["parameters"]), *(int(row[name]) for name in Model._fields[1:]))
        for row in _table("models.csv")
    }


@cache
def gpus() -> dict[str, Gpu]:
    """Return the accelerators that are known by name.

    >>> "a100-80gb" in gpus()
    True
    """
    return {row["gpu"]: Gpu(*(float(row[name]) for name in Gpu._fields)) for row in _table("gpus.csv")}


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
        for row in _table("step_times.csv")
    )


@cache
def reductions() -> tuple[tuple[str, int, Timing], ...]:
    """Return the all-reduces that are shipped, as (GPU, workers, timing over bytes)."""
    return tuple(
        (row["gpu"], int(row["workers"]), Timing(float(row["bytes"]), 0.0, float(row["seconds"])))
        for row in _table("all_reduce.csv")
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
        error_of(StepTime(_without(floors, at), ideal_s / _without(shares, at)), timings)
        for at, (ideal_s, timings) in enumerate(rows)
    ]
    return statistics.geometric_mean(floors), statistics.geometric_mean(shares), statistics.fmean(errors)


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
        error_of(StepTime(least_s / _without(memory, at), token_s / _without(compute, at)), timings)
        for at, (least_s, token_s, timings) in enumerate(rows)
    ]
    return statistics.geometric_mean(memory), statistics.geometric_mean(compute), statistics.fmean(errors)


def _without(values: Sequence[float], at: int) -> float:
    return statistics.geometric_mean([value for place, value in enumerate(values) if place != at])


def _known(name: str, table: Mapping[str, T], kind: str) -> T:
    if name not in table:
        raise ProfileError(
            f"roofline: no {kind} is called {name!r}{nearest(name, table)}; known: {', '.join(table)}; for another "
            "give its figures to prior()"
        )
    return table[name]


def _table(name: str) -> list[dict[str, str]]:
    text = resources.files("headway.fleet").joinpath("data", name).read_text(encoding="utf-8")
    return list(csv.DictReader(_rows(text.splitlines())))


def _rows(lines: Iterable[str]) -> Iterable[str]:
    return (line for line in lines if line.strip() and not line.startswith("#"))
