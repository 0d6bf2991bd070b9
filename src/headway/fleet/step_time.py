"""What an iteration takes as a function of its tokens, and how its constants are fitted to measured iterations."""

from __future__ import annotations

import csv
import itertools
import math
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from headway.errors import ProfileError
from headway.fleet.datasheets import without_comments

FARTHEST = 1.0
"""How far off constants may be from the timings that they are fitted to, on average and relative to these."""


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


class Timing(NamedTuple):
    """One measured iteration: tokens computed, tokens of context of what decoded, seconds; pairs within prompts."""

    tokens: float
    kv_tokens: float
    seconds: float
    pairs: float = 0.0


def fit(timings: Iterable[Timing], *, overhead: bool = False) -> tuple[StepTime, float]:
    """Return the constants that timings lead to, and the mean relative error that they leave.

    Least squares of relative errors, once for every way to split the timings by tokens into those at the floor and
    those above; the split with the least error counts. With `overhead`, so does one that adds to the time per token
    instead of a floor, as on processors, which compute where GPUs wait for memory. Times per token of context, and per
    pair of a prompt's token and one that it attends to, are fitted where these differ. Raises ProfileError for fewer
    than two different numbers of tokens, a time that is not above 0, or timings that no constants come near to
    (`FARTHEST`).

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
    if best is None or best[0] > FARTHEST:
        off = "" if best is None else f" (the nearest is off by {100 * best[0]:.0f}% on average)"
        raise ProfileError(
            f"fit: no roofline passes near these timings{off}; check that they are seconds of one iteration"
        )
    return best[1], best[0]


def error_left_out(timings: Iterable[Timing], *, overhead: bool = False) -> float | None:
    """Return the mean relative error at timings that a fit to all others predicts; None where there are too few.

    Each timing above the fewest tokens is left out once. Those of the fewest alone show the floor.

    >>> error_left_out([Timing(8, 0, 0.01), Timing(512, 0, 0.03), Timing(1024, 0, 0.06), Timing(4096, 0, 0.24)]) < 1e-9
    True
    """
    known = list(timings)
    if len({timing.tokens for timing in known}) < 4:
        return None
    least = min(timing.tokens for timing in known)
    errors = []
    for at, timing in enumerate(known):
        if timing.tokens > least:
            try:
                step = fit(known[:at] + known[at + 1 :], overhead=overhead)[0]
            except ProfileError:
                return None
            errors.append(error_of(step, np.array([tuple(timing)])))
    return statistics.fmean(errors)


def error_of(step: StepTime, rows: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> float:
    """Return the mean relative error of a step time on rows of timings, their fields as columns."""
    tokens, kv_tokens, seconds, pairs = rows.T
    predicted = step.overhead_s + np.maximum(step.floor_s, step.token_s * tokens)
    predicted = predicted + step.kv_token_s * kv_tokens + step.pair_s * pairs
    return float(np.mean(np.abs(predicted / seconds - 1.0)))


def mean_of_others(values: Sequence[float], at: int) -> float:
    """Return the geometric mean of all values but one: what the others say of it."""
    return statistics.geometric_mean([value for place, value in enumerate(values) if place != at])


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
    for all of them. Raises ProfileError for columns of different lengths, or a request with times that cannot be.

    >>> [timing.tokens for timing in endpoint_timings([9, 9], [0.1, 0.2], [5, 5], [0.5, 0.6], group=[1, 1])]
    [2.0]
    """
    numbered = range(len(prompt_tokens)) if group is None else group
    columns = (prompt_tokens, ttft_s, output_tokens, e2e_s, numbered)
    if len({len(column) for column in columns}) > 1:
        raise ProfileError("endpoint timings: the columns have different lengths; one value per request is needed")
    for at, (prompt, first_s, output, end_s, _) in enumerate(zip(*columns, strict=True)):
        if not (prompt > 0.0 and output >= 1.0 and 0.0 < first_s <= end_s < math.inf):
            raise ProfileError(
                f"endpoint timings: request {at} (from 0) has {prompt:g} tokens in its prompt, {output:g} in its "
                f"answer, the first after {first_s:g} s and the last after {end_s:g} s; whole tokens and times "
                "above 0 in this order are needed"
            )
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
            reader = csv.DictReader(without_comments(lines))
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
