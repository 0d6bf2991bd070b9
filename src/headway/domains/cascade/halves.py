"""Which samples of a validation table cascades are chosen on, and which say how right they are: never the same.

A cascade that was chosen among thousands because it does best on some samples does worse on others. So one half of the
table chooses, and the other half is what simulations and rehearsals ask the models about.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from headway.cascade import ValidationTable

Rows = NDArray[np.int64]

SELECTION = 0.5
"""The share of the table that cascades are chosen on."""
LEAST = 40
"""A table of fewer samples is not split: neither half would say anything."""


def chosen_on(table: ValidationTable) -> Rows:
    """Return the samples that cascades are chosen on.

    >>> table = ValidationTable([0, 1] * 50, {"a": [0] * 100}, {"a": [0.9] * 100})
    >>> chosen_on(table).size, np.intersect1d(chosen_on(table), judged_on(table)).size
    (50, 0)
    """
    return _halves(table)[0]


def judged_on(table: ValidationTable) -> Rows:
    """Return the samples that say how right a chosen cascade is, as many of each class as its share has it."""
    return _halves(table)[1]


@lru_cache(maxsize=8)
def _halves(table: ValidationTable) -> tuple[Rows, Rows]:
    if table.samples < LEAST:
        every = np.arange(table.samples)
        return every, every
    first, second = table.parts((SELECTION, 1 - SELECTION), seed=0)
    return first, second
