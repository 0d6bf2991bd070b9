"""The prompts of the demo: pieces of passages that ship with it, of any length."""

from __future__ import annotations

from importlib import resources
from itertools import chain, islice

import numpy as np

from headway.demo.scenario import STREAM

_TITLES = ("Mr.", "Mrs.")
TOKENS_PER_WORD = 1.3
"""Of English prose, about, until an engine has said how many it counts."""


class Prompts:
    """Prompts by number: each begins at a random sentence and goes on, from one passage to the next, as long as wanted.

    No two begin alike, so that no engine finds one in what it has cached of another.

    >>> Prompts(seed=1).text(7, tokens=13).split()[0]
    '7.'
    """

    def __init__(self, seed: int, tokens_per_word: float = TOKENS_PER_WORD) -> None:
        self._words = words()
        ends = (at for at, word in enumerate(self._words[:-1]) if word[-1] in ".?!" and word not in _TITLES)
        self._begins = [0, *(at + 1 for at in ends)]
        self._seed = seed
        self.tokens_per_word = tokens_per_word

    def text(self, number: int, tokens: int) -> str:
        """Return a prompt of about so many tokens."""
        count = max(1, round(tokens / self.tokens_per_word) - 1)
        begin = self._begins[int(np.random.default_rng([self._seed, STREAM, number]).integers(len(self._begins)))]
        endless = chain(self._words[begin:], *([self._words] * (1 + count // len(self._words))))
        return " ".join([f"{number}.", *islice(endless, count)])


def words() -> list[str]:
    """Return the words of all passages, one after another.

    >>> words()[:4]
    ['It', 'is', 'a', 'truth']
    """
    text = resources.files("headway.demo.llm").joinpath("passages.txt").read_text(encoding="utf-8")
    return [word for line in text.splitlines() if not line.startswith("#") for word in line.split()]
