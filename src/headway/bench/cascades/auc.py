"""Areas under the ROC curve, and how sure the difference of two of them is."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def auc(late: NDArray[np.int64], score: Floats) -> float:
    """Return the area under the ROC curve.

    >>> auc(np.array([0, 1, 1]), np.array([0.1, 0.4, 0.05]))
    0.5
    """
    of_late, _ = _placed(late, score)
    return float(of_late.mean())


def loss_error(late: NDArray[np.int64], full: Floats, other: Floats) -> float:
    """Return the standard error of the area that is lost by another score of the same rows (DeLong et al., 1988).

    >>> late, score = np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.3, 0.2])
    >>> loss_error(late, score, score)
    0.0
    """
    parts = [a - b for a, b in zip(_placed(late, full), _placed(late, other), strict=True)]
    return math.sqrt(sum(float(part.var(ddof=1)) / part.size for part in parts))


def _placed(late: NDArray[np.int64], score: Floats) -> tuple[Floats, Floats]:
    """For each late row the share of others that it is above, and for each other the share of late rows above it."""
    from scipy.stats import rankdata

    hit = late == 1
    among_all = rankdata(score)
    of_late, of_others = among_all[hit] - rankdata(score[hit]), among_all[~hit] - rankdata(score[~hit])
    return of_late / (~hit).sum(), 1.0 - of_others / hit.sum()
