"""Rows of trace files: read in chunks and converted a chunk at once, with errors that name the line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.errors import TraceError
from headway.trace.generate import MAX_REQUESTS
from headway.trace.prompts import PROMPT, Prompts
from headway.trace.trace import MAX_TIME_S, Floats, Trace

CHUNK_LINES = 65_536


class BadRow(ValueError):
    """A row cannot be read; the text says what is wrong and what would be valid."""


@dataclass(slots=True)
class Source:
    """A file while it is read: the lines still to come, what its head said, and how rows are to be treated.

    `line` is the number of the last line of the head; `skipped` counts the malformed rows that were left out.
    """

    where: str
    lines: Iterator[str]
    skip_bad: bool
    seed: int
    line: int = 0
    skipped: int = 0
    head: dict[str, str] = field(default_factory=dict)

    def error(self, line: int, text: str) -> TraceError:
        """Return an error that names the file and the line."""
        return TraceError(f"{self.where}:{line}: {text}")

    def reject(self, line: int, bad: BadRow) -> None:
        """Count a malformed row when those are to be left out, else raise TraceError."""
        if not self.skip_bad:
            raise self.error(line, str(bad)) from None
        self.skipped += 1

    def chunks(self, first: str | None = None) -> Iterator[tuple[int, list[str]]]:
        """Yield (number of the first line, lines) to the end of the file; `first` is the last line of the head."""
        lines, at = self.lines, self.line + 1
        if first is not None:
            lines, at = chain([first], lines), self.line
        while chunk := list(islice(lines, CHUNK_LINES)):
            yield at, chunk
            at += len(chunk)


def table(
    source: Source,
    width: int,
    whole: Callable[[list[str]], Sequence[Any]],
    single: Callable[[str], Sequence[Any]],
    first: str | None = None,
) -> list[NDArray[Any]]:
    """Return one array per column.

    `whole` converts many lines into columns; where it raises ValueError, `single` converts line by line into rows, and
    raises BadRow for what is wrong. Raises TraceError.
    """
    parts: list[Sequence[NDArray[Any]]] = []
    rows = 0
    for at, chunk in source.chunks(first):
        try:
            columns = whole(chunk)
        except ValueError:
            columns = _line_by_line(source, chunk, at, width, single)
        parts.append([np.asarray(column) for column in columns])
        rows += len(parts[-1][0])
        if rows > MAX_REQUESTS:
            raise source.error(at, f"more than {MAX_REQUESTS:,} requests; split the file")
    if not rows and source.skipped:
        raise TraceError(f"{source.where}: none of its {source.skipped} rows could be read; is the format right?")
    return [np.concatenate([part[index] for part in parts]) if parts else np.zeros(0) for index in range(width)]


def _line_by_line(
    source: Source, chunk: list[str], at: int, width: int, single: Callable[[str], Sequence[Any]]
) -> Sequence[Sequence[Any]]:
    rows = []
    for line, text in enumerate(chunk, at):
        if not text.strip():
            continue
        try:
            rows.append(single(text))
        except BadRow as error:
            source.reject(line, error)
    return list(zip(*rows, strict=True)) if rows else [()] * width


Range = tuple[float, float]
"""The least and the greatest value that a column may hold."""

ANY: Range = (-sys.float_info.max, sys.float_info.max)
AT_LEAST_0: Range = (0.0, ANY[1])
TIME_S: Range = (0.0, MAX_TIME_S)
TIME_MS: Range = (0.0, MAX_TIME_S * 1e3)
AMOUNTS = frozenset(("service_s", "input_tokens", "output_tokens", "max_tokens", "predicted_tokens"))
"""Columns of Headway's own formats that hold amounts of work, so that a value below 0 is a mistake in the file."""


def own_range(column: str) -> Range:
    """Return what a column of Headway's own formats may hold.

    >>> own_range("service_s")[0], own_range("arrival_s") == TIME_S, own_range("score") == ANY
    (0.0, True, True)
    """
    if column == "arrival_s":
        return TIME_S
    return AT_LEAST_0 if column in AMOUNTS else ANY


def in_range(values: Floats, valid: Range) -> Floats:
    """Return `values` when all of them are numbers of this range, else raise BadRow."""
    if not ((values >= valid[0]) & (values <= valid[1])).all():
        raise BadRow("a value is out of range")
    return values


def number(column: str, value: str | float, valid: Range) -> float:
    """Return one value as a number of this range, else raise BadRow that names the column."""
    try:
        result = float(value)
    except ValueError:
        result = np.nan
    if not valid[0] <= result <= valid[1]:
        least = "" if valid[0] < 0.0 else " of at least 0"
        most = (
            "" if valid[1] == ANY[1] or not result > valid[1] else f" and at most {valid[1]:g}, from the trace's start"
        )
        raise BadRow(f"{column} is {value!r}; it must be a finite number{least}{most}")
    return result


def built(
    source: Source,
    arrival_s: Floats,
    columns: dict[str, NDArray[Any]],
    start: str | None = None,
    prompts: Prompts | None = None,
) -> Trace:
    """Return the trace of these columns, sorted by arrival (ties as they stand). Raises TraceError when it is empty.

    `prompts` are those of the rows as they stand.
    """
    if prompts is not None:
        columns = {**columns, PROMPT: np.arange(prompts.size, dtype=np.float64)}
    if not len(arrival_s) and "duration_s" not in source.head:
        raise TraceError(f"{source.where}: no requests; one row per request is needed after the header")
    if (arrival_s[1:] < arrival_s[:-1]).any():
        order = np.argsort(arrival_s, kind="stable")
        arrival_s, columns = arrival_s[order], {key: values[order] for key, values in columns.items()}
    # An empty trace is given its window when the head of the file is applied.
    duration = float(arrival_s[-1]) if len(arrival_s) else 1.0
    return Trace(arrival_s, columns, duration, start, name=source.where, prompts=prompts)
