"""Trace files: plain CSV and JSONL of our own, and the formats that the field publishes. Plain or in .gz or .bz2.

| format | recognised by | what is read |
|---|---|---|
| `csv` | header with `arrival_s` | every column, numbers all; may begin with `# start:` and `# duration_s:` |
| `jsonl` | objects with `arrival_s` | likewise |
| `azure-llm` | `TIMESTAMP,ContextTokens,GeneratedTokens` | times from the first one on, which becomes `start` |
| `burstgpt` | `Timestamp,Model,Request tokens,Response tokens,...` | seconds; of the rest only the tokens |
| `vidur` | `arrived_at,num_prefill_tokens,num_decode_tokens` | seconds |
| `mooncake` | objects with `timestamp`, `input_length`, `output_length` | milliseconds; see below |
| `counts` | whole numbers only, or header `count` or `second,count` | requests per second, spread within each second |

Token counts are named `input_tokens` and `output_tokens`; `prefix_blocks` is the number of Mooncake's `hash_ids`. These
are the blocks of a prompt, of 512 tokens each, and are kept as the trace's `prompts`. Plain CSV has them in a column of
this name, numbers with blanks between, and `# block_tokens:` says how many tokens a block has where it is not 512.
Rows out of order are sorted by arrival, ties as they stand.
A malformed row is an error that names file and line, or is left out and counted (of `counts`: its second is left out).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from headway.errors import TraceError, nearest
from headway.trace.counts import counts, is_counts
from headway.trace.jsonlines import jsonl, mooncake
from headway.trace.prompts import HASH_IDS, PROMPT
from headway.trace.rows import Source
from headway.trace.tabular import CSV_COLUMNS, cells, csv_reader
from headway.trace.trace import Floats, Readable, Trace
from headway.trace.transport import label, open_text, pack


def read(path: Readable, *, format: str | None = None, skip_bad: bool = False, seed: int = 0) -> Trace:
    """Read a trace file; see the table of this module. Raises TraceError with file and line."""
    if format is not None and format not in FORMATS:
        raise TraceError(f"{label(path)}: no format is called {format!r}{nearest(format, FORMATS)}; {KNOWN}")
    with open_text(path) as lines:
        source = Source(label(path), lines, skip_bad, seed)
        first = _head(source)
        reader = FORMATS[format or _recognise(source, first)]
        trace = reader(source, first)
    return _labelled(trace, source)


def dump(trace: Trace, path: str) -> bytes:
    """Return the trace as plain CSV, compressed as the ending of `path` says; every float is written in full."""
    text = io.StringIO()
    if trace.start is not None:
        text.write(f"# start: {trace.start}\n")
    text.write(f"# duration_s: {trace.duration_s!r}\n")
    columns: dict[str, Iterable[str]] = {name: map(repr, _shortest(values)) for name, values in trace.columns.items()}
    if trace.prompts is not None:
        text.write(f"# block_tokens: {trace.prompts.block_tokens}\n")
        del columns[PROMPT]
        columns[HASH_IDS] = trace.prompts.texts(trace.columns[PROMPT].astype(np.int64))
    csv.writer(text, lineterminator="\n").writerow(["arrival_s", *columns])
    cells = [map(repr, trace.arrival_s.tolist()), *columns.values()]
    text.writelines(f"{','.join(row)}\n" for row in zip(*cells, strict=True))
    return pack(text.getvalue().encode(), path)


def _shortest(values: Floats) -> list[float] | list[int]:
    whole = (values == np.rint(values)) & (np.abs(values) < 2.0**53) & ~((values == 0.0) & np.signbit(values))
    numbers: list[float] | list[int] = (values.astype(np.int64) if whole.all() else values).tolist()
    return numbers


# The head of a file


def _head(source: Source) -> str:
    """Read comments and blank lines up to the first line with content, and return that."""
    for text in source.lines:
        source.line += 1
        stripped = text.strip()
        if stripped.startswith("#"):
            key, colon, value = stripped[1:].partition(":")
            if colon:
                source.head[key.strip()] = value.strip()
        elif stripped:
            return stripped
    raise TraceError(f"{source.where}: the file is empty; a header line and one row per request are needed")


def _recognise(source: Source, first: str) -> str:
    if first.startswith("{"):
        return "mooncake" if '"timestamp"' in first and '"input_length"' in first else "jsonl"
    if is_counts(first):
        return "counts"
    try:
        names = cells(first)
    except csv.Error as error:
        raise source.error(source.line, f"the header is not CSV ({error}); {KNOWN}") from None
    for format, wanted in CSV_COLUMNS.items():
        if set(wanted) <= set(names):
            return format
    raise source.error(source.line, f"the header {first[:80]!r} is of no known format; {KNOWN}")


def _labelled(trace: Trace, source: Source) -> Trace:
    duration, start = trace.duration_s, source.head.get("start", trace.start)
    if "duration_s" in source.head:
        try:
            duration = float(source.head["duration_s"])
        except ValueError as error:
            text = source.head["duration_s"]
            raise TraceError(f"{source.where}: '# duration_s: {text}' is not a number of seconds") from error
    name = Path(source.where).name
    for ending in (".gz", ".bz2", ".csv", ".jsonl", ".json", ".txt"):
        name = name.removesuffix(ending)
    try:
        return Trace(trace.arrival_s, trace.columns, duration, start, name, source.skipped, trace.prompts)
    except TraceError as error:
        raise TraceError(f"{source.where}: {error}") from error


FORMATS: dict[str, Callable[[Source, str], Trace]] = {
    **{format: csv_reader(format) for format in CSV_COLUMNS},
    "jsonl": jsonl,
    "mooncake": mooncake,
    "counts": counts,
}
"""Each format by name: (source, first line with content) -> Trace."""

LOOKS = {
    "csv": "header with arrival_s",
    "jsonl": 'lines like {"arrival_s": 0.25}',
    "azure-llm": "header TIMESTAMP,ContextTokens,GeneratedTokens",
    "burstgpt": "header Timestamp,Model,Request tokens,Response tokens",
    "vidur": "header arrived_at,num_prefill_tokens,num_decode_tokens",
    "mooncake": 'lines like {"timestamp": 27, "input_length": 9, "output_length": 5}',
    "counts": "a whole number per second, or header second,count",
}
"""What a file of each format looks like, in a few words."""

KNOWN = f"known formats: {'; '.join(f'{name} ({LOOKS[name]})' for name in FORMATS)}"
