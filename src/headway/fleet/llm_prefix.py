"""Of which blocks prompts consist: what requests share is known by the numbers of their first blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from headway.errors import TraceError
from headway.sim.station import Ints
from headway.trace import Trace
from headway.trace.trace import Readable
from headway.trace.transport import label, open_text

Longs = NDArray[np.int64]

PROMPT = "prompt"
"""The column of a trace that says which of the prompts each request has, counted from 0."""

MOONCAKE_BLOCK_TOKENS = 512


@dataclass(frozen=True, eq=False, slots=True)
class Prompts:
    """Prompts as rows of block numbers; equal numbers mean equal text from the begin of the prompt to the block's end.

    Row i is `blocks[first[i]:first[i + 1]]`, each of `block_tokens` tokens, the last one perhaps not full.

    >>> Prompts.of([[0, 1], [0, 2, 3]], block_tokens=512).size
    2
    """

    first: Longs
    blocks: Ints
    block_tokens: int

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], block_tokens: int) -> Prompts:
        """Return prompts of these blocks, numbered anew from 0. Raises TraceError for blocks of no tokens."""
        if block_tokens < 1:
            raise TraceError(f"prompts: block_tokens is {block_tokens}; at least 1 is needed")
        first = np.concatenate(([0], np.cumsum([len(row) for row in rows], dtype=np.int64))).astype(np.int64)
        every = np.fromiter((block for row in rows for block in row), np.int64, int(first[-1]))
        numbers = np.unique(every, return_inverse=True)[1].astype(np.int32)
        return cls(first, numbers, block_tokens)

    @property
    def size(self) -> int:
        """Number of prompts."""
        return int(self.first.size - 1)

    def rows(self, chosen: Longs) -> Prompts:
        """Return the prompts of these numbers, in this order; blocks keep their numbers."""
        counts = self.first[chosen + 1] - self.first[chosen]
        first = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        at = np.arange(int(first[-1])) - np.repeat(first[:-1], counts) + np.repeat(self.first[chosen], counts)
        return Prompts(first, self.blocks[at], self.block_tokens)


class _Row(msgspec.Struct):
    timestamp: float
    hash_ids: list[int]


def read_mooncake(path: Readable) -> tuple[Trace, Prompts]:
    """Read a trace of Mooncake's with the blocks of its prompts; the trace's column `prompt` numbers them.

    The column stays right when the trace is cut, thinned or resampled. Raises TraceError with file and line.
    """
    trace = Trace.read(path, format="mooncake")
    decoder = msgspec.json.Decoder(_Row)
    rows: list[_Row] = []
    with open_text(path) as lines:
        for line, text in enumerate(lines, 1):
            if not text.strip():
                continue
            try:
                rows.append(decoder.decode(text))
            except msgspec.MsgspecError as error:
                raise TraceError(f"{label(path)}:{line}: no row with hash_ids ({error})") from None
    rows.sort(key=lambda row: row.timestamp)
    columns = {**trace.columns, PROMPT: np.arange(len(rows), dtype=np.float64)}
    numbered = Trace(trace.arrival_s, columns, trace.duration_s, trace.start, trace.name)
    return numbered, Prompts.of([row.hash_ids for row in rows], MOONCAKE_BLOCK_TOKENS)
