"""New traces from old ones: cut, mask, thin, merge and resample."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from headway.errors import TraceError
from headway.trace.generate import generator
from headway.trace.prompts import PROMPT
from headway.trace.trace import Floats, Trace, later


def _chosen(
    trace: Trace, index: NDArray[np.intp] | NDArray[np.bool_], arrival_s: Floats, duration_s: float, start: str | None
) -> Trace:
    columns = {key: values[index] for key, values in trace.columns.items()}
    return Trace(arrival_s, columns, duration_s, start, trace.name, trace.skipped, trace.prompts)


def cut(trace: Trace, start_s: float, end_s: float | None) -> Trace:
    """Return [start_s, end_s) of a trace, counted from start_s. Raises TraceError for a span that is not in it."""
    end = trace.duration_s if end_s is None else min(end_s, trace.duration_s)
    if not 0.0 <= start_s < end:
        raise TraceError(
            f"slice: [{start_s}, {end_s}) is not a span of the trace, which runs from 0 to {trace.duration_s} s"
        )
    first, last = np.searchsorted(trace.arrival_s, [start_s, end])
    if end == trace.duration_s:
        last = trace.requests
    index = np.arange(first, last)
    moved = np.minimum(trace.arrival_s[index] - start_s, end - start_s)
    return _chosen(trace, index, moved, end - start_s, later(trace.start, start_s))


def thin(trace: Trace, keep_ratio: float, seed: int) -> Trace:
    """Keep each request with probability keep_ratio. Raises TraceError for a ratio outside (0, 1]."""
    if not 0.0 < keep_ratio <= 1.0:
        raise TraceError(f"thin: keep_ratio is {keep_ratio!r}; it must be above 0 and at most 1")
    kept = generator("thin", seed).random(trace.requests) < keep_ratio
    return _chosen(trace, kept, trace.arrival_s[kept], trace.duration_s, trace.start)


def gaps(trace: Trace, min_s: float) -> list[tuple[float, float]]:
    """Return the empty half-open spans of at least min_s seconds, those at both ends of the window included."""
    if not min_s > 0.0:
        raise TraceError(f"gaps: min_s is {min_s!r}; it must be a positive number of seconds")
    ends = np.append(trace.arrival_s, trace.duration_s)
    # A span starts just after a request, so that cutting it out loses none.
    starts = np.append(0.0, np.nextafter(trace.arrival_s, np.inf))
    lengths = ends - np.append(0.0, trace.arrival_s)
    long = (lengths >= min_s) & (ends > starts)
    return list(zip(starts[long].tolist(), ends[long].tolist(), strict=True))


def mask(trace: Trace, spans: Iterable[tuple[float, float]]) -> Trace:
    """Cut spans out and close them up. Raises TraceError for a span that is empty or leaves nothing."""
    merged: list[list[float]] = []
    for start, end in sorted(spans):
        if not (0.0 <= start < end):
            raise TraceError(f"mask: ({start}, {end}) is not a span; 0 <= start < end is needed")
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(end, merged[-1][1])
        elif start < trace.duration_s:
            merged.append([start, end])
    if not merged:
        return trace
    starts, ends = np.array(merged).T
    removed = np.append(0.0, np.cumsum(np.minimum(ends, trace.duration_s) - starts))
    if removed[-1] >= trace.duration_s:
        raise TraceError(f"mask: the spans cover the whole trace of {trace.duration_s} s; nothing would be left")
    before = np.searchsorted(starts, trace.arrival_s, side="right")
    kept = (before == 0) | (trace.arrival_s >= ends[before - 1])
    duration = trace.duration_s - float(removed[-1])
    moved = np.maximum.accumulate(np.clip(trace.arrival_s[kept] - removed[before[kept]], 0.0, duration))
    return _chosen(trace, kept, moved, duration, trace.start)


def merge(traces: Sequence[Trace]) -> Trace:
    """Overlay traces; the clock start is kept when they agree on it. Raises TraceError when columns differ."""
    if not traces:
        raise TraceError("merge: no trace was given; give at least one")
    names = sorted(traces[0].columns)
    for trace in traces[1:]:
        if sorted(trace.columns) != names:
            here, there = ", ".join(names) or "none", ", ".join(sorted(trace.columns)) or "none"
            raise TraceError(f"merge: columns differ ({here} against {there}); all traces need the same columns")
    if any(trace.prompts is not traces[0].prompts for trace in traces):
        raise TraceError("merge: blocks of prompts cannot be compared between files; leave hash_ids out of all of them")
    arrival = np.concatenate([trace.arrival_s for trace in traces])
    order = np.argsort(arrival, kind="stable")
    columns = {name: np.concatenate([trace.columns[name] for trace in traces])[order] for name in names}
    starts = {trace.start for trace in traces}
    return Trace(
        arrival[order],
        columns,
        max(trace.duration_s for trace in traces),
        starts.pop() if len(starts) == 1 else None,
        "+".join(dict.fromkeys(trace.name for trace in traces if trace.name)),
        sum(trace.skipped for trace in traces),
        traces[0].prompts,
    )


def resample(trace: Trace, block_s: float, seed: int) -> Trace:
    """Circular block bootstrap in time. Raises TraceError for an empty trace or a block without length."""
    duration = trace.duration_s
    if not trace.requests:
        raise TraceError(f"resample: trace {trace.name!r} has no requests; there is nothing to draw from")
    if not trace.has_length:
        raise TraceError(f"resample: trace {trace.name!r}: {trace.without_length('cannot be resampled')}")
    if not (math.isfinite(block_s) and block_s > 0.0):
        raise TraceError(f"resample: block_s is {block_s!r}; it must be a positive number of seconds")
    block = min(block_s, duration)
    edges = np.append(np.arange(math.ceil(duration / block)) * block, duration)
    begin = generator("resample", seed).random(len(edges) - 1) * duration
    # The trace written twice in a row: a block that runs over the end goes on in the copy.
    twice = np.concatenate([trace.arrival_s, trace.arrival_s + duration])
    first = np.searchsorted(twice, begin)
    counts = np.searchsorted(twice, begin + np.diff(edges)) - first
    ahead = np.cumsum(counts) - counts
    index = np.arange(int(counts.sum())) + np.repeat(first - ahead, counts)
    # Rounding may move a request over the edge of its block by one bit, out of order: hold it inside.
    moved = twice[index] + np.repeat(edges[:-1] - begin, counts)
    arrival = np.clip(moved, np.repeat(edges[:-1], counts), np.repeat(edges[1:], counts))
    index[index >= trace.requests] -= trace.requests
    return _chosen(trace, index, arrival, duration, None)


INPUT_SPREAD, OUTPUT_SPREAD = 1.0, 0.8
"""Standard deviations of the logarithm of a request's tokens, about those of published conversation traces."""
LONGEST_RATIO = 16.0
"""How many times the mean of tokens the longest prompt or answer has."""


def with_tokens(trace: Trace, input_tokens: float, output_tokens: float, seed: int) -> Trace:
    """Give every request a prompt and an answer of so many tokens on average. Raises TraceError for a mean below 1."""
    rng = generator("tokens", seed)
    # A prompt of another length has other blocks.
    columns = {name: values for name, values in trace.columns.items() if trace.prompts is None or name != PROMPT}
    for name, mean, spread in (
        ("input_tokens", input_tokens, INPUT_SPREAD), ("output_tokens", output_tokens, OUTPUT_SPREAD)
    ):  # fmt: skip
        if not 1.0 <= mean < math.inf:
            raise TraceError(f"with_tokens: {name} is {mean!r}; on average it must be at least 1")
        drawn = rng.lognormal(math.log(mean) - spread**2 / 2, spread, trace.requests)
        columns[name] = np.clip(np.rint(drawn), 1.0, LONGEST_RATIO * mean)
    return Trace(trace.arrival_s, columns, trace.duration_s, trace.start, trace.name, trace.skipped)
