"""Of which blocks prompts consist: what requests share is known by the numbers of their first blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headway.errors import TraceError

Longs = NDArray[np.int64]

PROMPT = "prompt"
"""The column of a trace that says which of its prompts each request has, counted from 0."""

HASH_IDS = "hash_ids"
"""How files call the blocks of a request's prompt."""

BLOCK_TOKENS = 512
"""The tokens of a block where a file does not say it, as in Mooncake's traces."""


@dataclass(frozen=True, eq=False, slots=True)
class Prompts:
    """Prompts as rows of block numbers; equal numbers mean equal text from the begin of the prompt to the block's end.

    Row i is `blocks[first[i]:first[i + 1]]`, each of `block_tokens` tokens, the last one perhaps not full.

    >>> Prompts.of([[0, 1], [0, 2, 3]], block_tokens=512).size
    2
    """

    first: Longs
    blocks: NDArray[np.int32]
    block_tokens: int

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], block_tokens: int) -> Prompts:
        """Return prompts of these blocks, numbered anew from 0. Raises TraceError for blocks of no tokens."""
        if block_tokens < 1:
            raise TraceError(f"prompts: block_tokens is {block_tokens}; at least 1 is needed")
        first = np.concatenate(([0], np.cumsum([len(row) for row in rows], dtype=np.int64))).astype(np.int64)
        every = np.fromiter((block for row in rows for block in row), np.int64, int(first[-1]))
        return cls(first, _numbered(every), block_tokens)

    @property
    def size(self) -> int:
        """Number of prompts."""
        return int(self.first.size - 1)

    def __reduce__(self) -> tuple[object, ...]:
        return Prompts, (self.first, self.blocks, self.block_tokens)

    def rows(self, chosen: Longs) -> Prompts:
        """Return the prompts of these numbers, in this order; blocks keep their numbers."""
        counts = self.first[chosen + 1] - self.first[chosen]
        first = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        at = np.arange(int(first[-1])) - np.repeat(first[:-1], counts) + np.repeat(self.first[chosen], counts)
        return Prompts(first, self.blocks[at], self.block_tokens)

    def content(self, chosen: Longs) -> bytes:
        """Return bytes that are equal for prompts that share equally much, whatever their blocks' numbers are."""
        mine = self.rows(chosen)
        return b"%d %b %b" % (self.block_tokens, mine.first.tobytes(), _numbered(mine.blocks).tobytes())

    def texts(self, chosen: Longs) -> Iterable[str]:
        """Return the blocks of each of these prompts with blanks between, as files have them.

        >>> list(Prompts.of([[7, 8], [9]], 16).texts(np.array([1, 0])))
        ['2', '0 1']
        """
        for row in chosen.tolist():
            yield " ".join(map(str, self.blocks[self.first[row] : self.first[row + 1]].tolist()))

    def unseen_tokens(self, chosen: Longs, prompt: Longs) -> Longs:
        """Return by request how many tokens of its prompt no cache can spare: summed over any of them, a lower bound.

        `prompt` are the tokens of each. A full block is counted where it comes first, and again wherever it ends a
        prompt, since one token at least of a prompt is computed; what is behind the last full block counts always.

        >>> prompts = Prompts.of([[1, 2], [1, 3], [1, 2]], block_tokens=10)
        >>> prompts.unseen_tokens(np.arange(3), np.array([25, 15, 25])).tolist()
        [25, 5, 5]
        """
        mine = self.rows(chosen)
        counts = np.diff(mine.first)
        place = np.arange(mine.blocks.size) - np.repeat(mine.first[:-1], counts)
        reusable = place < np.repeat((prompt - 1) // self.block_tokens, counts)
        ends = (place < np.repeat(prompt // self.block_tokens, counts)) & ~reusable
        known = np.zeros(mine.blocks.size, np.bool_)
        if mine.blocks.size:
            whole = np.where(reusable)[0]
            comes_first = np.full(int(mine.blocks.max()) + 1, -1)
            comes_first[mine.blocks[whole[::-1]]] = whole[::-1]
            # Whoever ends with a block computes it in any case: then it needs no computing for others.
            comes_first[mine.blocks[ends]] = -1
            known = reusable & (comes_first[mine.blocks] != np.arange(mine.blocks.size))
        spared = np.bincount(np.repeat(np.arange(chosen.size), counts)[known], minlength=chosen.size)
        return np.asarray(prompt - self.block_tokens * spared, np.int64)


def _numbered(blocks: NDArray[np.integer]) -> NDArray[np.int32]:
    """Blocks with the numbers from 0, in the same order."""
    return np.asarray(np.unique(blocks, return_inverse=True)[1], np.int32)
