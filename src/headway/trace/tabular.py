"""Trace files in CSV: which columns each published format has, and how their cells become numbers."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.errors import TraceError, nearest
from headway.trace.prompts import BLOCK_TOKENS, HASH_IDS, Prompts
from headway.trace.rows import AT_LEAST_0, TIME_S, BadRow, Source, built, in_range, number, own_range, table
from headway.trace.trace import Trace

TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:\.\d{1,9})?)(?:Z|\+00:00)?")

CSV_COLUMNS: dict[str, dict[str, str]] = {
    "csv": {"arrival_s": "arrival_s"},
    "azure-llm": {"TIMESTAMP": "time", "ContextTokens": "input_tokens", "GeneratedTokens": "output_tokens"},
    "burstgpt": {"Timestamp": "arrival_s", "Request tokens": "input_tokens", "Response tokens": "output_tokens"},
    "vidur": {
        "arrived_at": "arrival_s",
        "num_prefill_tokens": "input_tokens",
        "num_decode_tokens": "output_tokens",
    },
}
"""Of each CSV format the columns that are read and what they are called here; plain CSV reads all."""


def cells(line: str) -> list[str]:
    """Return the values of one CSV line without the blanks around them. Raises csv.Error."""
    return [cell.strip() for cell in next(csv.reader([line], strict=True), [])]


def csv_reader(format: str) -> Callable[[Source, str], Trace]:
    """Return the reader of one of `CSV_COLUMNS`: (source, header line) -> Trace. It raises TraceError."""

    def reader(source: Source, first: str) -> Trace:
        header = cells(first)
        names = _names(source, format, header)
        where = [header.index(name) for name in names]
        kinds = [_kind(format, kind) for kind in names.values()]

        def whole(lines: list[str]) -> Sequence[Any]:
            try:
                rows = list(csv.reader(lines, strict=True))
            except csv.Error as error:
                raise BadRow(str(error)) from error
            if len(rows) != len(lines) or set(map(len, rows)) != {len(header)}:
                raise BadRow("not one row of full width per line")
            columns = list(zip(*rows, strict=True))
            return [kind.whole(columns[index]) for index, kind in zip(where, kinds, strict=True)]

        def single(line: str) -> Sequence[Any]:
            try:
                row = cells(line)
            except csv.Error as error:
                raise BadRow(f"not a CSV row ({error})") from None
            if len(row) != len(header):
                raise BadRow(f"{len(row)} values where the header names {len(header)} columns")
            return [kind.single(header[index], row[index]) for index, kind in zip(where, kinds, strict=True)]

        arrays = dict(zip(names.values(), table(source, len(names), whole, single), strict=True))
        start = None
        if "time" in arrays:
            ticks = arrays.pop("time").astype(np.int64)
            origin = int(ticks.min()) if len(ticks) else 0
            start = str(np.datetime64(origin, "ns")).rstrip("0").rstrip(".") + "Z" if len(ticks) else None
            arrays = {"arrival_s": (ticks - origin) / 1e9, **arrays}
        prompts = None
        if HASH_IDS in arrays:
            prompts = Prompts.of([blocks.numbers for blocks in arrays.pop(HASH_IDS)], _block_tokens(source))
        return built(source, arrays.pop("arrival_s").astype(np.float64), arrays, start, prompts)

    return reader


def _names(source: Source, format: str, header: list[str]) -> dict[str, str]:
    for wanted in CSV_COLUMNS[format]:
        if wanted not in header:
            raise source.error(source.line, f"no column {wanted!r}{nearest(wanted, header)}; {format} needs it")
    if len(set(header)) != len(header):
        raise source.error(source.line, "a column name comes twice; every column needs a name of its own")
    return {name: name for name in header} if format == "csv" else CSV_COLUMNS[format]


@dataclass(frozen=True, slots=True)
class _Kind:
    """How the cells of a column become numbers: many at once, or one with an error that says what is wrong."""

    whole: Callable[[Sequence[str]], NDArray[Any]]
    single: Callable[[str, str], Any]


def _kind(format: str, name: str) -> _Kind:
    if name == "time":
        return _Kind(_times, lambda column, text: int(_times([text], column)[0]))
    if name == HASH_IDS:
        return _Kind(
            lambda texts: np.array([_Blocks.of(text) for text in texts], object), lambda column, text: _Blocks.of(text)
        )
    valid = own_range(name) if format == "csv" else TIME_S if name == "arrival_s" else AT_LEAST_0
    return _Kind(
        lambda texts: in_range(np.array(list(map(float, texts))), valid),
        lambda column, text: number(column, text, valid),
    )


@dataclass(frozen=True, slots=True)
class _Blocks:
    """The blocks of one prompt."""

    numbers: list[int]

    @classmethod
    def of(cls, text: str) -> _Blocks:
        try:
            return cls([int(number) for number in text.split()])
        except ValueError:
            raise BadRow(f"{HASH_IDS} is {text!r}; write whole numbers with blanks between, like 0 1 2") from None


def _block_tokens(source: Source) -> int:
    text = source.head.get("block_tokens", str(BLOCK_TOKENS))
    if not text.isdecimal():
        raise TraceError(f"{source.where}: '# block_tokens: {text}' is not a number of tokens")
    return int(text)


def _times(texts: Sequence[str], column: str = "TIMESTAMP") -> NDArray[np.int64]:
    matches = [TIME.fullmatch(text.strip()) for text in texts]
    try:
        stamps = [f"{match[1]}T{match[2]}" for match in matches if match]
        if len(stamps) != len(texts):
            raise ValueError
        return np.array(stamps, dtype="datetime64[ns]").astype(np.int64)
    except ValueError:
        raise BadRow(f"{column} is {texts[0]!r}; it must be a UTC time like 2023-11-16 18:15:46.6805900") from None
