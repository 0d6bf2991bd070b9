"""Trace files of requests per second: whole numbers, alone or under a header."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from headway.errors import TraceError
from headway.trace.generate import from_counts
from headway.trace.rows import BadRow, Source
from headway.trace.trace import Trace

HEADERS = (["count"], ["second", "count"])
"""The column names that a file of counts may begin with."""

MAX_SECONDS = 366 * 86_400
"""Longest span that a file of counts may cover: each second takes memory, also one without requests."""


def is_counts(first: str) -> bool:
    """Return whether a file that begins with this line holds counts.

    >>> is_counts("3 0 12"), is_counts("second, count"), is_counts("arrival_s")
    (True, True, False)
    """
    return re.fullmatch(r"\d+(?:[ \t]+\d+)*", first) is not None or _names(first) in HEADERS


def counts(source: Source, first: str) -> Trace:
    """Read whole numbers, one per second; or lines `second,count`, which may leave seconds without requests out.

    Time counts from the first second that is listed. Raises TraceError.
    """
    names = _names(first)
    listed = names == HEADERS[1]
    found = _all(source, None if names in HEADERS else first, _pair if listed else _whole_numbers)
    try:
        if listed:
            found = _filled(found)
        return from_counts(np.array(found, dtype=np.float64), source.seed)
    except TraceError as error:
        raise TraceError(f"{source.where}: {error}") from error


def _names(first: str) -> list[str]:
    return [name.strip() for name in first.split(",")]


def _all(source: Source, first: str | None, numbers: Callable[[str], list[int]]) -> list[int]:
    found: list[int] = []
    for at, chunk in source.chunks(first):
        for line, text in enumerate(chunk, at):
            try:
                found += numbers(text)
            except BadRow as error:
                source.reject(line, error)
    return found


def _whole_numbers(text: str) -> list[int]:
    words = text.split()
    for word in words:
        _check(word, "whole numbers, one per second")
    return list(map(int, words))


def _pair(text: str) -> list[int]:
    if not text.strip():
        return []
    words = _names(text)
    if len(words) != 2:
        raise BadRow(f"{len(words)} values where the header names 2 columns; write lines like 7,25")
    second, count = words
    if not (second.isascii() and second.isdigit() and len(second) < 12):
        raise BadRow(f"{second[:40]!r} is not a second; write whole numbers, each once")
    _check(count, "lines like 7,25")
    return [int(second), int(count)]


def _check(word: str, valid: str) -> None:
    if not (word.isascii() and word.isdigit() and len(word) < 10):
        raise BadRow(f"{word[:40]!r} is not a number of requests; write {valid}")


def _filled(pairs: Sequence[int]) -> list[int]:
    seconds, numbers = pairs[::2], pairs[1::2]
    if not seconds:
        return []
    first, last = min(seconds), max(seconds)
    if len(set(seconds)) != len(seconds):
        raise TraceError("a second is listed twice; give each of them one count")
    if last - first >= MAX_SECONDS:
        raise TraceError(f"seconds run from {first} to {last}; at most {MAX_SECONDS:,} seconds are read")
    out = [0] * (last - first + 1)
    for second, number in zip(seconds, numbers, strict=True):
        out[second - first] = number
    return out
