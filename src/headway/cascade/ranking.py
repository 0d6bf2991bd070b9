"""How well a cheap ranking finds the best K of a pool, and how many rows it must keep so that it surely does.

After Willump (Kraft et al., MLSys 2020, section 4.3), with three differences. How many rows a filter keeps is found
exactly, as a count of rows and not as a whole multiple of K. It is a tolerance limit (Wilks 1941), which holds at a
stated confidence, and not the share of a hundred draws. And pools are drawn from what the rows at hand are a sample of
(`needs`): drawing from them alone promises too much, since the best K of a pool are copies of a few.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headway.errors import CascadeError

BAND = 10
"""How many times more rows than the best K show how a filter errs; more are steadier, but less like the best.

Chosen on random halves of reviews and tweets: with 5, fewer calibrations kept their promise than the confidence says.
"""
BAND_ROWS = 60

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def best(score: Floats, count: int) -> Ints:
    """Return the positions of the `count` highest scores, best first; of equal ones the first come first.

    Raises CascadeError for a score that is no number.

    >>> best(np.array([0.2, 0.9, 0.2, 0.5]), 3).tolist()
    [1, 3, 0]
    """
    if np.isnan(score).any():
        raise CascadeError(
            f"top-K: the score of row {int(np.flatnonzero(np.isnan(score))[0])} is NaN; nothing ranks it"
        )
    if count >= score.size:
        return np.argsort(-score, kind="stable")
    if count <= 0:
        return np.empty(0, dtype=np.int64)
    last = np.partition(score, score.size - count)[score.size - count]
    above = np.flatnonzero(score > last)
    level = np.flatnonzero(score == last)[: count - above.size]
    chosen = np.sort(np.concatenate((above, level)))
    return chosen[np.argsort(-score[chosen], kind="stable")]


def recall(found: Ints, exact: Ints) -> float:
    """Return the share of the exact top K that is among what was found; 1 when there is nothing to find.

    >>> recall(np.array([4, 1, 7]), np.array([4, 9, 7, 2]))
    0.5
    """
    return float(np.isin(exact, found).mean()) if exact.size else 1.0


@dataclass(frozen=True, slots=True)
class Ranked:
    """Scores of the same rows by filter and full model, ordered once so that many pools of them are judged fast."""

    by_filter: Ints
    by_full: Ints

    @classmethod
    def of(cls, filter_score: Floats, full_score: Floats) -> Ranked:
        """Order the rows by both scores.

        Raises CascadeError for scores that are NaN or of different numbers of rows.
        """
        if filter_score.shape != full_score.shape:
            raise CascadeError(
                f"top-K: the filter scores {filter_score.size} rows and the full model {full_score.size}; both must "
                "score the same rows"
            )
        return cls(best(filter_score, filter_score.size), best(full_score, full_score.size))

    def needed(self, copies: Ints, k: int, recall: float) -> int:
        """Return how many rows the filter must keep of a pool with so many `copies` of each row, to reach the recall.

        Exactly that number reaches it and one fewer does not. Copies of a row have equal scores; of these, the first
        are the ones in the top K of both.
        """
        hits = np.cumsum(self._wanted(copies, k))
        goal = math.ceil(recall * min(k, int(copies.sum())) - 1e-9)
        if goal <= 0:
            return 0
        at = int(np.searchsorted(hits, goal))
        ahead = int(copies[self.by_filter[:at]].sum())
        return ahead + goal - (int(hits[at - 1]) if at else 0)

    def reached(self, copies: Ints, k: int, kept: int) -> float:
        """Return the recall when the filter keeps so many rows of the pool."""
        held = _first(copies[self.by_filter], kept)
        exact = min(k, int(copies.sum()))
        return float(np.minimum(self._wanted(copies, k), held).sum()) / exact if exact else 1.0

    def _wanted(self, copies: Ints, k: int) -> Ints:
        """How many copies of each row are among the exact best K, in the filter's order."""
        wanted = np.empty_like(copies)
        wanted[self.by_full] = _first(copies[self.by_full], k)
        found: Ints = wanted[self.by_filter]
        return found


def pools(rows: int, pool: int, draws: int, seed: int) -> Ints:
    """Return `draws` pools, drawn with replacement, as copies of each of `rows`: of shape (draws, rows), sums `pool`.

    >>> pools(3, 10, 2, seed=1).sum(axis=1).tolist()
    [10, 10]
    """
    copies: Ints = np.random.default_rng([seed, rows, pool]).multinomial(pool, np.full(rows, 1 / rows), size=draws)
    return copies


def needs(filter_score: Floats, full_score: Floats, k: int, pool: int, recall: float, draws: int, seed: int) -> Ints:
    """Return how many rows the filter would have to keep in each of `draws` pools of rows like these.

    Which rows exist is uncertain, so each draw weights them anew (the Bayesian bootstrap, Rubin 1981). And the few best
    of them say little of how low a filter may rank such a row: among the best `BAND` times as many, the filter's score
    is taken to be a line of the full one plus an error, which each draw fits and draws again (the smoothed bootstrap).
    Raises CascadeError for scores that are NaN or of different numbers of rows.

    >>> score = np.arange(100.0)
    >>> needs(score, score, k=5, pool=50, recall=1.0, draws=3, seed=1).tolist()
    [5, 5, 5]
    """
    rng = np.random.default_rng([seed, filter_score.size, pool])
    ranked = Ranked.of(filter_score, full_score)
    rows = filter_score.size
    band = ranked.by_full[: max(BAND_ROWS, math.ceil(BAND * k * rows / pool))]
    found = []
    for _ in range(draws):
        weights = rng.dirichlet(np.ones(rows))
        copies = rng.multinomial(pool, weights)
        drawn = filter_score.copy()
        drawn[band] = _redrawn(filter_score[band], full_score[band], weights[band], rng)
        found.append(Ranked(best(drawn, rows), ranked.by_full).needed(copies, k, recall))
    return np.array(found, dtype=np.int64)


def draws_needed(sure: float, confidence: float) -> int:
    """Return the fewest draws whose largest value is, with this confidence, not below the quantile `sure` (Wilks 1941).

    >>> draws_needed(sure=0.99, confidence=0.95)
    299
    """
    return math.ceil(math.log(1 - confidence) / math.log(sure) - 1e-12)


def upper_limit(values: Ints, sure: float, confidence: float) -> int:
    """Return what at least the share `sure` of the values' distribution does not exceed, with this confidence.

    The distribution-free tolerance limit: the smallest order statistic that is high enough (Wilks 1941, Annals of
    Mathematical Statistics 12). Raises CascadeError for too few values; it names the number needed.

    >>> upper_limit(np.arange(1, 300), sure=0.99, confidence=0.95)
    299
    """
    from scipy.stats import binom

    ranks = np.arange(1, values.size + 1)
    enough = np.flatnonzero(binom.sf(ranks - 1, values.size, sure) <= 1 - confidence + 1e-15)
    if not enough.size:
        raise CascadeError(
            f"top-K: {values.size} draws cannot show that {100 * sure:g}% reach the recall at {100 * confidence:g}% "
            f"confidence; {draws_needed(sure, confidence)} or more can"
        )
    return int(np.sort(values)[enough[0]])


def _redrawn(filter_score: Floats, full_score: Floats, weights: Floats, rng: np.random.Generator) -> Floats:
    """The filter's scores with their errors about a weighted line drawn anew."""
    share = weights / weights.sum()
    x, y = full_score - share @ full_score, filter_score - share @ filter_score
    spread = share @ (x * x)
    line = (share @ (x * y)) / spread * x if spread > 0 else np.zeros_like(x)
    # A line through few rows lies closer to them than to the next ones.
    errors = (y - line) * math.sqrt(x.size / max(1, x.size - 2))
    redrawn: Floats = filter_score - y + line + rng.choice(errors, size=x.size, p=share)
    return redrawn


def _first(copies: Ints, count: int) -> Ints:
    """How many copies of each row are among the first `count`, in the given order."""
    found: Ints = np.clip(count - (np.cumsum(copies) - copies), 0, copies)
    return found
