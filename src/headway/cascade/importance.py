"""How much a model relies on each feature: what it loses when that feature's rows are shuffled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headway.cascade.features import Known
from headway.cascade.rows import Block, stack, take


@dataclass(frozen=True, slots=True)
class Importance:
    """Mean drop of a score when a block is shuffled, and the standard error of that mean over repeats."""

    mean: float
    error: float


def block_importance(
    score: Callable[[Block], float], known: Known, names: Sequence[str], *, repeats: int = 5, seed: int = 0
) -> dict[str, Importance]:
    """Return the importance of each feature: all its columns are shuffled together, so that they stay consistent.

    `score` judges a model on stacked blocks of held-out rows, higher is better. Features that tell the same share
    their importance: what one loses the other still knows. After Breiman (2001), by blocks as Willump (section 4.2).

    >>> from headway.cascade.features import Feature, Features
    >>> rows = np.arange(100.0)
    >>> features = Features({"x": Feature(lambda rows: rows), "noise": Feature(lambda rows: 0 * rows)})
    >>> found = block_importance(lambda block: float(np.corrcoef(block[:, 0], rows)[0, 1]), features.known(rows),
    ...                          ["x", "noise"])
    >>> found["x"].mean > 0.5, found["noise"].mean
    (True, 0.0)
    """
    draws = np.random.default_rng(seed)
    blocks = [known.block(name) for name in names]
    whole = score(stack(blocks))
    found = {}
    for place, name in enumerate(names):
        drops = []
        for _ in range(repeats):
            shuffled: list[Any] = list(blocks)
            shuffled[place] = take(blocks[place], draws.permutation(len(known)))
            drops.append(whole - score(stack(shuffled)))
        spread = float(np.std(drops, ddof=1)) / repeats**0.5 if repeats > 1 else float("nan")
        found[name] = Importance(float(np.mean(drops)), spread)
    return found
