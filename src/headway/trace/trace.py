"""A trace: when requests came, with numeric columns that travel with each request."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headway.errors import TraceError
from headway.files import content_hash, write_atomic
from headway.trace.prompts import PROMPT, Prompts

Floats = NDArray[np.float64]
Readable = str | os.PathLike[str] | io.BufferedReader
"""What a trace is read from: the path of a file, or a file that is open for reading bytes."""

MIN_WINDOW_S = 1e-9
"""Shortest window that has a rate: below it requests come at one instant."""

MAX_TIME_S = 1e9
"""Latest arrival and longest window, about 30 years: beyond it a unit is wrong, or times count from 1970."""


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Trace:
    """Arrivals of requests over an observed window, as read-only columns.

    `arrival_s`: seconds from the start of the window, shape (n,), sorted, from 0 to `MAX_TIME_S`.
    `columns`: further numbers per request, each of shape (n,) and finite (`input_tokens`, `payload`, `visits.STAGE`).
    `duration_s`: length of the observed window, at least the last arrival. `start`: its begin on the clock (ISO-8601,
    UTC). `skipped`: malformed rows that were left out on request when the trace was read. `prompts`: of which blocks
    prompts consist; the column `prompt` then says which of them each request has.
    Raises TraceError when any of this does not hold.

    >>> Trace.from_arrivals([0.0, 0.5, 2.0], duration_s=4.0).rate_per_s
    0.75
    """

    arrival_s: Floats
    columns: Mapping[str, Floats]
    duration_s: float
    start: str | None = None
    name: str = ""
    skipped: int = 0
    prompts: Prompts | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "arrival_s", _frozen("arrival_s", self.arrival_s))
        put(self, "columns", MappingProxyType({key: _frozen(key, self.columns[key]) for key in self.columns}))
        put(self, "duration_s", float(self.duration_s))
        put(self, "start", None if self.start is None else utc(self.start))
        _check(self)

    def __repr__(self) -> str:
        columns = f", columns {', '.join(self.columns)}" if self.columns else ""
        return f"Trace({self.name!r}, {self.requests} requests in {self.duration_s:g} s{columns})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Trace, (
            self.arrival_s,
            dict(self.columns),
            self.duration_s,
            self.start,
            self.name,
            self.skipped,
            self.prompts,
        )

    @property
    def requests(self) -> int:
        """Number of requests."""
        return len(self.arrival_s)

    @property
    def has_length(self) -> bool:
        """Whether the window is long enough to speak of a rate: at least `MIN_WINDOW_S`."""
        return self.duration_s >= MIN_WINDOW_S

    @property
    def rate_per_s(self) -> float:
        """Mean rate over the observed window. Raises TraceError when the window has no length."""
        if not self.has_length:
            raise TraceError(f"trace {self.name!r}: {self.without_length('has no rate')}")
        return self.requests / self.duration_s

    @property
    def hash(self) -> str:
        """Content hash: equal for equal arrivals, columns, duration and start; the name does not count."""
        names = sorted(name for name in self.columns if self.prompts is None or name != PROMPT)
        head = json.dumps([self.requests, names, repr(self.duration_s), self.start]).encode()
        arrays = [self.arrival_s, *(self.columns[name] for name in names)]
        parts = [head, *(array.astype("<f8").tobytes() for array in arrays)]
        if self.prompts is not None:
            parts.append(self.prompts.content(self.columns[PROMPT].astype(np.int64)))
        return content_hash(b"\n".join(parts))

    def without_length(self, verdict: str) -> str:
        """Return the sentence for a trace whose requests all come at one instant, which therefore `verdict`."""
        count = "1 request" if self.requests == 1 else f"{self.requests} requests"
        return (
            f"its window of {self.duration_s:g} s with {count} {verdict}; say for how long requests were observed, "
            "with duration_s or a line such as '# duration_s: 60' at the head of its file"
        )

    # Reading and writing

    @classmethod
    def from_arrivals(
        cls,
        arrival_s: ArrayLike,
        columns: Mapping[str, ArrayLike] | None = None,
        duration_s: float | None = None,
        name: str = "",
    ) -> Trace:
        """Build a trace from sorted arrival times; `duration_s` defaults to the last of them. Raises TraceError.

        >>> Trace.from_arrivals([1.0, 2.0], {"payload": [7, 8]}).duration_s
        2.0
        """
        arrival = _frozen("arrival_s", arrival_s)
        if duration_s is None:
            if not len(arrival):
                raise TraceError(f"trace {name!r}: no requests and no duration_s; give at least one of the two")
            duration_s = float(arrival[-1])
        return cls(
            arrival, {key: _frozen(key, values) for key, values in (columns or {}).items()}, duration_s, name=name
        )

    @classmethod
    def read(cls, path: Readable, *, format: str | None = None, skip_bad: bool = False, seed: int = 0) -> Trace:
        """Read a trace file (or an open binary one), plain or compressed; its header tells the format unless named.

        `skip_bad` leaves malformed rows out and counts them in `skipped`. `seed` spreads arrivals that the file gives
        only as counts. Raises TraceError with file and line. The formats are described in `headway.trace.formats`.
        """
        from headway.trace.formats import read

        return read(path, format=format, skip_bad=skip_bad, seed=seed)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write as plain CSV (compressed when `path` ends in .gz or .bz2); reading it back gives the same bits.

        Raises HeadwayError when the file cannot be written.
        """
        from headway.trace.formats import dump

        write_atomic(path, dump(self, os.fspath(path)))

    # Transformations: each returns a new trace

    def slice(self, start_s: float, end_s: float | None = None) -> Trace:
        """Keep the requests in [start_s, end_s), by default to the end of the trace, and count time from `start_s`.

        A request exactly at the end of the whole trace belongs to the last slice.

        >>> Trace.from_arrivals([1.0, 2.0, 3.0]).slice(1.5).arrival_s.tolist()
        [0.5, 1.5]
        """
        from headway.trace.transform import cut

        return cut(self, start_s, end_s)

    def scale_time(self, factor: float) -> Trace:
        """Stretch time: factor 2 plays the same requests twice as slowly.

        >>> Trace.from_arrivals([1.0, 2.0]).scale_time(2.0).arrival_s.tolist()
        [2.0, 4.0]
        """
        if not (math.isfinite(factor) and factor > 0.0):
            raise TraceError(f"scale_time: factor is {factor!r}; it must be a positive number")
        return Trace(
            self.arrival_s * factor, self.columns, self.duration_s * factor, self.start, self.name, self.skipped,
            self.prompts,
        )  # fmt: skip

    def thin(self, keep_ratio: float, seed: int = 0) -> Trace:
        """Keep each request with probability `keep_ratio`, independently; a smaller ratio keeps a subset.

        >>> Trace.from_arrivals([1.0, 2.0]).thin(1.0, seed=1).requests
        2
        """
        from headway.trace.transform import thin

        return thin(self, keep_ratio, seed)

    def gaps(self, min_s: float) -> list[tuple[float, float]]:
        """Return the empty spells of at least `min_s` seconds as half-open (start_s, end_s), in order.

        >>> [(round(a, 3), b) for a, b in Trace.from_arrivals([0.0, 1.0, 9.0]).gaps(5.0)]
        [(1.0, 9.0)]
        """
        from headway.trace.transform import gaps

        return gaps(self, min_s)

    def mask(self, gaps: Iterable[tuple[float, float]]) -> Trace:
        """Cut out the half-open spans (start_s, end_s) and close them up: what follows moves earlier.

        The clock `start` is kept, and is exact only up to the first span.

        >>> Trace.from_arrivals([1.0, 4.0, 9.0]).mask([(2.0, 7.0)]).arrival_s.tolist()
        [1.0, 4.0]
        """
        from headway.trace.transform import mask

        return mask(self, gaps)

    def with_tokens(self, input_tokens: float, output_tokens: float, seed: int = 0) -> Trace:
        """Give every request a prompt and an answer: log-normal numbers of tokens with these means.

        They are the columns `input_tokens` and `output_tokens`, which fleets of LLM engines go by.

        >>> sorted(Trace.from_arrivals([1.0]).with_tokens(700, 200, seed=1).columns)
        ['input_tokens', 'output_tokens']
        """
        from headway.trace.transform import with_tokens

        return with_tokens(self, input_tokens, output_tokens, seed)

    @staticmethod
    def merge(*traces: Trace) -> Trace:
        """Play several traces at once, each from its own time 0. All must have the same columns.

        >>> Trace.merge(Trace.from_arrivals([1.0]), Trace.from_arrivals([0.5])).arrival_s.tolist()
        [0.5, 1.0]
        """
        from headway.trace.transform import merge

        return merge(traces)

    def resample(self, block_s: float, seed: int) -> Trace:
        """Draw a trace of the same length from this one: a circular block bootstrap in time.

        Blocks of `block_s` seconds (at most the whole trace) that start anywhere in the trace are placed end to end,
        the last one cut; a block that runs over the end goes on at the begin. Bursts shorter than a block are kept, and
        columns travel with their request. Source: Politis and Romano, "A circular block-resampling procedure for
        stationary data" (1992), applied to time instead of to the index. Raises TraceError for an empty trace.

        >>> Trace.from_arrivals([1.0, 2.0, 3.0]).resample(1.0, seed=1).duration_s
        3.0
        """
        from headway.trace.transform import resample

        return resample(self, block_s, seed)

    # Generators: described in `headway.trace.generate`; rates are per second

    @classmethod
    def poisson(cls, rate: float, seconds: float | None = None, seed: int = 0, *, requests: int | None = None) -> Trace:
        """Poisson arrivals, for `seconds` or until `requests`. See `headway.trace.generate.poisson`."""
        from headway.trace import generate

        return generate.poisson(rate, seconds, seed, requests=requests)

    @classmethod
    def gamma(
        cls, rate: float, cv: float, seconds: float | None = None, seed: int = 0, *, requests: int | None = None
    ) -> Trace:
        """Gamma gaps with coefficient of variation `cv` (4 is bursty). See `headway.trace.generate.gamma`."""
        from headway.trace import generate

        return generate.gamma(rate, cv, seconds, seed, requests=requests)

    @classmethod
    def mmpp2(cls, rates: Sequence[float], mean_sojourn_s: Sequence[float], seconds: float, seed: int = 0) -> Trace:
        """Poisson arrivals that switch between two rates. See `headway.trace.generate.mmpp2`."""
        from headway.trace import generate

        return generate.mmpp2(rates, mean_sojourn_s, seconds, seed)

    @classmethod
    def diurnal(cls, mean_rate: float, peak_ratio: float, seconds: float, period_s: float, seed: int = 0) -> Trace:
        """Poisson arrivals whose rate is a sine over `period_s`. See `headway.trace.generate.diurnal`."""
        from headway.trace import generate

        return generate.diurnal(mean_rate, peak_ratio, seconds, period_s, seed)

    @classmethod
    def ramp(cls, start_rate: float, end_rate: float, seconds: float, seed: int = 0) -> Trace:
        """Poisson arrivals whose rate moves in a straight line. See `headway.trace.generate.ramp`."""
        from headway.trace import generate

        return generate.ramp(start_rate, end_rate, seconds, seed)

    @classmethod
    def spike(cls, rate: float, factor: float, at_s: float, for_s: float, seconds: float, seed: int = 0) -> Trace:
        """Poisson arrivals with one spell of `factor` times the rate. See `headway.trace.generate.spike`."""
        from headway.trace import generate

        return generate.spike(rate, factor, at_s, for_s, seconds, seed)

    @classmethod
    def from_counts(cls, counts: ArrayLike, seed: int = 0, bucket_s: float = 1.0) -> Trace:
        """Spread counts per bucket over time. See `headway.trace.generate.from_counts`."""
        from headway.trace import generate

        return generate.from_counts(counts, seed, bucket_s)


def utc(text: str) -> str:
    """Return an ISO-8601 time with zone as UTC with a final Z. Raises TraceError.

    >>> utc("2026-01-31T10:00:00+01:00")
    '2026-01-31T09:00:00Z'
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise TraceError(f"start: {text!r} is not a time with zone; write it like 2026-01-31T09:00:00Z")
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def later(start: str | None, seconds: float) -> str | None:
    """Return the clock time `seconds` after `start`, to the microsecond; None stays None."""
    if start is None:
        return None
    return utc((datetime.fromisoformat(start) + timedelta(seconds=seconds)).isoformat())


def _frozen(name: str, values: ArrayLike) -> Floats:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise TraceError(f"trace column {name!r}: not all values are numbers ({error})") from error
    if array.ndim != 1:
        raise TraceError(f"trace column {name!r}: has {array.ndim} dimensions; one number per request is needed")
    if array.flags.writeable or array.base is not None:
        array = array.copy()
        array.flags.writeable = False
    return array


def _check(trace: Trace) -> None:
    where, arrival = f"trace {trace.name!r}", trace.arrival_s
    # With NaN every comparison is false, so these few comparisons also prove that all values are finite.
    in_order = arrival[1:] >= arrival[:-1]
    if len(arrival) and not (arrival[0] >= 0.0 and arrival[-1] <= MAX_TIME_S and in_order.all()):
        bad = np.flatnonzero(~((arrival >= 0.0) & (arrival <= MAX_TIME_S)))
        if len(bad):
            raise TraceError(
                f"{where}: arrival_s[{bad[0]}] is {arrival[bad[0]]}; arrivals are seconds from the start of the trace, "
                f"from 0 to {MAX_TIME_S:g}"
            )
        late = int(np.argmin(in_order)) + 1
        raise TraceError(
            f"{where}: arrival_s[{late}] = {arrival[late]} comes before the one ahead of it; sort by arrival"
        )
    last = float(arrival[-1]) if len(arrival) else 0.0
    if not (last <= trace.duration_s <= MAX_TIME_S and (len(arrival) or trace.duration_s > 0.0)):
        raise TraceError(
            f"{where}: duration_s is {trace.duration_s}; it must reach the last arrival ({last}) and be at most "
            f"{MAX_TIME_S:g}"
        )
    for key, values in trace.columns.items():
        if not key or key != key.strip() or not key.isprintable() or key == "arrival_s":
            raise TraceError(
                f"{where}: {key!r} is not a valid column name; use one line of text other than 'arrival_s'"
            )
        if len(values) != len(arrival):
            raise TraceError(f"{where}: column {key!r} has {len(values)} values for {len(arrival)} requests")
        if not np.isfinite(values).all():
            raise TraceError(f"{where}: column {key!r} holds a value that is not finite; every request needs a number")
    if trace.prompts is not None:
        rows = trace.columns.get(PROMPT)
        if rows is None:
            raise TraceError(f"{where}: its prompts' blocks are known, and no column {PROMPT!r} says whose they are")
        if len(rows) and not (rows.min() >= 0 and rows.max() < trace.prompts.size and (rows == np.rint(rows)).all()):
            raise TraceError(f"{where}: column {PROMPT!r} must number its {trace.prompts.size} prompts, from 0 on")
