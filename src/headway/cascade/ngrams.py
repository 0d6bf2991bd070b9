"""Runs of characters counted by a compiled loop: the same matrix as scikit-learn's vectorizers, without a string each.

Importing this imports the compiler; `compiled` does so when it compiles generators.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.sim.jit import kernel

Floats = NDArray[np.float64]
Codes = NDArray[np.uint32]
Hashes = NDArray[np.uint64]
Longs = NDArray[np.int64]
Ints = NDArray[np.int32]

_SEED, _PRIME, _HALF = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3), np.uint64(32)
"""Of the hash that Fowler, Noll and Vo designed, which takes one character after the other."""
_ROOM = 4
"""Slots for each term: the fewer are taken, the sooner a run that is no term is known to be none."""
_SPACES = re.compile(r"\s\s+")
_NORMS = {None: 0, "l1": 1, "l2": 2}


class CharCounts:
    """A fitted vectorizer of runs of characters, as `transform` alone.

    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> fitted = TfidfVectorizer(analyzer="char", ngram_range=(1, 3)).fit(["tea cup", "cup"])
    >>> bool(abs(CharCounts(fitted).transform(["a cup"]) - fitted.transform(["a cup"])).max() < 1e-12)
    True
    """

    def __init__(self, vectorizer: Any) -> None:
        self._prepare, self._decode = vectorizer.build_preprocessor(), vectorizer.decode
        self._shortest, self._longest = vectorizer.ngram_range
        terms = sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.__getitem__)
        self._terms, self._ends = _codes(terms)
        self._slots, self._hashes = _table(self._terms, self._ends)
        self._dtype, self._binary = vectorizer.dtype, bool(vectorizer.binary)
        weighted = hasattr(vectorizer, "idf_") and vectorizer.use_idf
        self._weight = np.asarray(vectorizer.idf_, np.float64) if weighted else np.ones(len(terms))
        self._norm = _NORMS[getattr(vectorizer, "norm", None)]
        self._sublinear = bool(getattr(vectorizer, "sublinear_tf", False))

    def transform(self, texts: Sequence[Any]) -> Any:
        """Return the matrix of texts, sparse by rows."""
        from scipy import sparse

        codes, ends = _codes([_SPACES.sub(" ", self._prepare(self._decode(text))) for text in texts])
        columns, values, rows = _count(
            codes,
            ends,
            self._shortest,
            self._longest,
            self._terms,
            self._ends,
            self._slots,
            self._hashes,
            self._weight,
            self._binary,
            self._sublinear,
            self._norm,
        )
        shape = (len(rows) - 1, len(self._weight))
        return sparse.csr_matrix((values.astype(self._dtype, copy=False), columns, rows), shape=shape)


def can_count(vectorizer: Any) -> bool:
    """Return whether a vectorizer is one that `CharCounts` stands for."""
    return (
        type(vectorizer).__name__ in ("TfidfVectorizer", "CountVectorizer")
        and vectorizer.analyzer == "char"
        and vectorizer.input == "content"
        and hasattr(vectorizer, "vocabulary_")
    )


def _codes(texts: Sequence[str]) -> tuple[Codes, Longs]:
    """All characters as numbers, one text after the other, and where each text ends."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return codes, np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))


def _table(terms: Codes, ends: Longs) -> tuple[Longs, Hashes]:
    """An open hash table: the term in each slot or -1, and every term's hash."""
    size = 1 << max(4, int(_ROOM * ends.size - 1).bit_length())
    slots, hashes = np.full(size, -1, np.int64), np.zeros(ends.size, np.uint64)
    _fill(terms, ends, slots, hashes)
    return slots, hashes


@kernel
def _fill(terms: Codes, ends: Longs, slots: Longs, hashes: Hashes) -> None:
    mask = np.uint64(slots.size - 1)
    begin = 0
    for term in range(ends.size):
        found = _SEED
        for at in range(begin, ends[term]):
            found = (found ^ np.uint64(terms[at])) * _PRIME
        begin = ends[term]
        hashes[term] = found
        slot = (found ^ (found >> _HALF)) & mask
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = term


@kernel
def _same(codes: Codes, at: int, terms: Codes, begin: int, length: int) -> bool:
    """Whether the run at a place is the term that begins there."""
    same = 0
    while same < length and codes[at + same] == terms[begin + same]:
        same += 1
    return same == length


@kernel
def _count(
    codes: Codes,
    ends: Longs,
    shortest: int,
    longest: int,
    terms: Codes,
    term_ends: Longs,
    slots: Longs,
    hashes: Hashes,
    weight: Floats,
    binary: bool,
    sublinear: bool,
    norm: int,
) -> tuple[Ints, Floats, Ints]:
    """Return columns and values of each text's terms, and where each text's begin, the last end included."""
    most = codes.size * (longest - shortest + 1)
    columns, values = np.empty(most, np.int32), np.empty(most, np.float64)
    rows = np.zeros(ends.size + 1, np.int32)
    counts = np.zeros(weight.size)
    mask = np.uint64(slots.size - 1)
    used = begin = 0
    for text in range(ends.size):
        first = used
        for at in range(begin, ends[text]):
            found = _SEED
            for length in range(1, min(longest, ends[text] - at) + 1):
                found = (found ^ np.uint64(codes[at + length - 1])) * _PRIME
                if length < shortest:
                    continue
                slot = (found ^ (found >> _HALF)) & mask
                while slots[slot] >= 0:
                    term = slots[slot]
                    start = term_ends[term - 1] if term else 0
                    if (
                        hashes[term] == found
                        and term_ends[term] - start == length
                        and _same(codes, at, terms, start, length)
                    ):
                        if counts[term] == 0.0:
                            columns[used] = term
                            used += 1
                        counts[term] += 1.0
                        break
                    slot = (slot + np.uint64(1)) & mask
        begin = ends[text]
        columns[first:used].sort()
        total = 0.0
        for place in range(first, used):
            term = columns[place]
            value = 1.0 if binary else counts[term]
            if sublinear:
                value = 1.0 + np.log(value)
            value *= weight[term]
            values[place] = value
            counts[term] = 0.0
            total += value * value if norm == 2 else abs(value)
        if norm > 0 and total > 0.0:
            length_of_all = np.sqrt(total) if norm == 2 else total
            for place in range(first, used):
                values[place] /= length_of_all
        rows[text + 1] = used
    return columns[:used].copy(), values[:used].copy(), rows
