"""Trace files in JSONL: one object per line, of our own shape or Mooncake's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from headway.trace.prompts import BLOCK_TOKENS, Prompts
from headway.trace.rows import AT_LEAST_0, TIME_MS, BadRow, Source, built, in_range, number, own_range, table
from headway.trace.trace import Trace


class _Mooncake(msgspec.Struct):
    timestamp: float
    input_length: float
    output_length: float


class _MooncakeBlocks(_Mooncake):
    hash_ids: list[int]


def jsonl(source: Source, first: str) -> Trace:
    """Read objects with `arrival_s` and any numbers; each has the keys of the first. Raises TraceError."""
    decoder = msgspec.json.Decoder(dict[str, float])

    def decoded(line: str) -> dict[str, float]:
        try:
            return decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise BadRow(f'not an object of numbers ({error}); write it like {{"arrival_s": 0.25}}') from None

    try:
        keys = list(decoded(first))
    except BadRow as error:
        raise source.error(source.line, str(error)) from None
    if "arrival_s" not in keys:
        raise source.error(source.line, f"no key 'arrival_s' but {', '.join(keys) or 'none'}; each object needs it")

    def whole(lines: list[str]) -> Sequence[Any]:
        objects = [decoded(line) for line in lines]
        if any(len(item) != len(keys) for item in objects):
            raise BadRow("keys differ")
        try:
            return [in_range(np.array([item[key] for item in objects]), own_range(key)) for key in keys]
        except KeyError as error:
            raise BadRow("keys differ") from error

    def single(line: str) -> Sequence[float]:
        item = decoded(line)
        if set(item) != set(keys):
            raise BadRow(f"keys are {', '.join(item) or 'none'} where the first row has {', '.join(keys)}")
        return [number(key, item[key], own_range(key)) for key in keys]

    arrays = dict(zip(keys, table(source, len(keys), whole, single, first), strict=True))
    return built(source, arrays.pop("arrival_s"), arrays)


def mooncake(source: Source, first: str) -> Trace:
    """Read Mooncake's objects: milliseconds, lengths in tokens, and the blocks of prompts. Raises TraceError."""
    blocks = '"hash_ids"' in first
    kind = _MooncakeBlocks if blocks else _Mooncake
    decoder = msgspec.json.Decoder(kind)

    def row(line: str) -> Sequence[Any]:
        try:
            item = decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise BadRow(
                f"not a row of Mooncake's ({error}); timestamp, input_length and output_length are needed"
            ) from None
        values = (item.timestamp, item.input_length, item.output_length)
        return (*values, len(item.hash_ids), item) if isinstance(item, _MooncakeBlocks) else values

    def whole(lines: list[str]) -> Sequence[Any]:
        rows = [row(line) for line in lines]
        columns = np.array([values[: len(keys)] for values in rows], dtype=np.float64).T
        checked = [in_range(values, valid[key]) for key, values in zip(keys, columns, strict=True)]
        return [*checked, np.array([values[-1] for values in rows], object)] if blocks else checked

    def single(line: str) -> Sequence[Any]:
        values = row(line)
        checked = [number(key, value, valid[key]) for key, value in zip(keys, values, strict=False)]
        return [*checked, values[-1]] if blocks else checked

    keys = ["timestamp", "input_length", "output_length", *(["hash_ids"] if blocks else [])]
    valid = {key: TIME_MS if key == "timestamp" else AT_LEAST_0 for key in keys}
    names = [*keys, *(["rows"] if blocks else [])]
    arrays = dict(zip(names, table(source, len(names), whole, single, first), strict=True))
    columns = {"input_tokens": arrays["input_length"], "output_tokens": arrays["output_length"]}
    if blocks:
        columns["prefix_blocks"] = arrays["hash_ids"]
    prompts = None
    if blocks:
        prompts = Prompts.of([item.hash_ids for item in arrays["rows"]], BLOCK_TOKENS)
    return built(source, arrays["timestamp"] / 1e3, columns, prompts=prompts)
