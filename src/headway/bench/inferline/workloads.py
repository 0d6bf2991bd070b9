"""The traffic of InferLine's evaluation: Gamma arrivals, real arrivals played faster, shapes of one rate per minute.

What a plan is made from and what it then serves are never the same requests: Gamma traces differ by their seed, all
others are split, the first quarter to plan from and the rest to serve, as in the paper (section 7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from headway.errors import HeadwayError, TraceError
from headway.trace import Trace

PLANNED_SHARE = 0.25
MOST_PER_S = 300.0
"""To what the busiest minute of a shape is scaled: the most that the paper's coarse-grained baseline could serve."""
PLAYED_S = 30.0
"""How long the rate of one minute is played."""
LIVE_SEED = 1_000_000
"""Added to a plan's seed, so that no live trace is one that was planned on."""

AZURE = (
    191, 265, 329, 353, 307, 273, 268, 261, 322, 298, 301, 302, 345, 326, 283, 279, 280, 308, 343, 351,
    351, 343, 408, 396, 386, 398, 432, 480, 476, 453, 448, 507, 438, 413, 423, 418, 465, 311, 329, 316,
    333, 355, 319, 360, 334, 375, 330, 249, 221, 249, 265, 280, 256, 254, 242, 260, 246, 225,
)  # fmt: skip
"""Requests in each whole minute of the Azure LLM inference trace 2023, conversation; by Microsoft, from
github.com/Azure/AzurePublicDataset, CC-BY 4.0. The counts are ours, the trace itself is not part of Headway."""

DUAL_PHASE = (
    70, 72, 69, 74, 78, 75, 80, 77, 82, 85, 81, 86, 90, 88, 92, 95, 93, 97, 100, 98,
    110, 130, 150, 168, 180, 190, 198, 204, 208, 210, 212, 209, 211, 207, 210, 205, 208, 203, 206, 200,
    196, 180, 160, 142, 128, 118, 112, 108, 105, 103, 101, 99, 98, 96, 97, 95, 94, 93, 92, 90,
)  # fmt: skip
"""Made up: a slow rise, a second phase of twice the traffic for twenty minutes, and back."""

BIG_SPIKE = (
    100, 104, 98, 102, 97, 103, 105, 99, 101, 96, 100, 106, 103, 98, 102, 100, 97, 104, 101, 99,
    103, 100, 98, 102, 105, 101, 99, 97, 170, 260, 300, 290, 240, 180, 130, 110, 104, 101, 99, 102,
    98, 100, 103, 97, 101, 105, 100, 98, 102, 99, 101, 97, 103, 100, 98, 104, 102, 99, 101, 100,
)  # fmt: skip
"""Made up: steady but for six minutes, in which traffic triples within two and falls again."""

SHAPES: Mapping[str, Sequence[float]] = {"azure": AZURE, "dual-phase": DUAL_PHASE, "big-spike": BIG_SPIKE}


class Load(NamedTuple):
    """What is planned from, and what is served."""

    planned: Trace
    live: Trace


def gamma(rate_per_s: float, cv: float, requests: int, seed: int, lives: int = 1) -> list[Load]:
    """Return Gamma traces of a mean rate and coefficient of variation: one to plan from, beside each of `lives`.

    >>> gamma(50.0, 4.0, 100, seed=1)[0].live.requests
    100
    """
    planned = Trace.gamma(rate_per_s, cv, requests=requests, seed=seed)
    seeds = (LIVE_SEED * (1 + number) + seed for number in range(lives))
    return [Load(planned, Trace.gamma(rate_per_s, cv, requests=requests, seed=each)) for each in seeds]


def rates_per_s(per_minute: Sequence[float], most_per_s: float = MOST_PER_S) -> list[float]:
    """Return a shape scaled so that its busiest minute has `most_per_s`. Raises TraceError for no or negative traffic.

    >>> rates_per_s([10, 20], 300.0)
    [150.0, 300.0]
    """
    if not per_minute or min(per_minute) < 0 or max(per_minute) <= 0:
        raise TraceError("a shape needs one rate per minute, none below 0 and one above")
    return [rate * most_per_s / max(per_minute) for rate in per_minute]


def played(rates: Sequence[float], seed: int, played_s: float = PLAYED_S) -> Trace:
    """Return Gamma arrivals of CV 1 (Poisson) at one rate after the other, each for `played_s` seconds.

    >>> played([10.0, 20.0], seed=1).duration_s
    60.0
    """
    pieces = [
        Trace.gamma(rate, 1.0, played_s, seed=seed * 1009 + at).arrival_s + at * played_s
        for at, rate in enumerate(rates)
        if rate > 0
    ]
    return Trace.from_arrivals(np.concatenate(pieces), duration_s=len(rates) * played_s, name="rates by the minute")


def split(trace: Trace, share: float = PLANNED_SHARE) -> Load:
    """Return the first `share` of a trace's window to plan from, and the rest to serve.

    >>> [part.requests for part in split(Trace.from_arrivals([0.5, 1.5, 2.5, 3.5], duration_s=4.0))]
    [1, 3]
    """
    if not 0.0 < share < 1.0:
        raise TraceError(f"split: share is {share!r}; it must lie between 0 and 1")
    at_s = trace.duration_s * share
    return Load(trace.slice(0.0, at_s), trace.slice(at_s))


def rescaled(trace: Trace, rate_per_s: float) -> Trace:
    """Return the same arrivals, played so much faster or slower that their mean rate is `rate_per_s`.

    >>> rescaled(Trace.from_arrivals([0.0, 1.0, 2.0, 3.0], duration_s=4.0), 2.0).duration_s
    2.0
    """
    if not trace.requests:
        raise TraceError(f"trace {trace.name!r} holds no request; there is nothing to rescale")
    scaled = trace.scale_time(trace.rate_per_s / rate_per_s)
    return Trace.from_arrivals(scaled.arrival_s, duration_s=scaled.duration_s, name=trace.name)


def shape(name: str, seed: int, minutes: int | None = None, most_per_s: float = MOST_PER_S) -> Load:
    """Return one of `SHAPES` played at `most_per_s` in its busiest minute, split; only its first `minutes` when given.

    >>> shape("azure", 1, minutes=4, most_per_s=20.0).live.duration_s
    90.0
    """
    rates = rates_per_s(SHAPES[name], most_per_s)
    return split(played(rates[:minutes], seed))


def real_traces(path: Path | None) -> dict[str, Trace]:
    """Return the trace of a file, or those of a folder's files by name; none without a path.

    Raises HeadwayError when there is no such path, and TraceError for a file that is not a trace.
    """
    if path is None:
        return {}
    if not path.exists():
        raise HeadwayError(f"bench inferline: {path} does not exist; give a trace file or a folder of them")
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if _may_be_trace(p))
    if not files:
        raise HeadwayError(f"bench inferline: {path} holds no trace (.csv, .jsonl, .txt, also .gz or .bz2)")
    return {file.name.split(".")[0]: Trace.read(file) for file in files}


def _may_be_trace(path: Path) -> bool:
    bare = path.with_suffix("") if path.suffix in (".gz", ".bz2") else path
    return path.is_file() and bare.suffix in (".csv", ".jsonl", ".txt")
