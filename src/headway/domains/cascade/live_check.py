"""Which answers the dearest model is asked about again, when a device has nothing else to do."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from headway.domains.cascade.rows import GearRow
from headway.serve.wire import Input

SHARE = 0.01
KEPT = 64


@dataclass(frozen=True, slots=True)
class Check:
    """An answer to look at again: what was asked, who answered in which gear, and the answer's hash."""

    row: GearRow
    model: int
    answer: int
    payload: Input
    sample: int


class Checks:
    """A seeded `share` of the answers that were not the dearest model's; beyond the last `KEPT` the oldest goes.

    >>> from headway.serve.wire import Payload
    >>> checks = Checks(share=1.0)
    >>> checks.offer(None, 0, 7, Payload("text", b"x"), -1)
    >>> len(checks), checks.next().answer
    (1, 7)
    """

    def __init__(self, share: float = SHARE, seed: int = 0) -> None:
        self._share = share
        self._rng = random.Random(seed)
        self._kept: deque[Check] = deque(maxlen=KEPT)

    def __len__(self) -> int:
        return len(self._kept)

    def offer(self, row: GearRow, model: int, answer: int, payload: Input, sample: int) -> None:
        """Take note of an answer of a cheaper model, which may be chosen."""
        if self._rng.random() < self._share:
            self._kept.append(Check(row, model, answer, payload, sample))

    def next(self) -> Check:
        """Return the oldest that was chosen."""
        return self._kept.popleft()
