"""How well a cheap ranking finds the best K of a pool, and how many rows it must keep so that it surely does.

After Willump (Kraft et al., MLSys 2020, section 4.3), with three differences. How many rows a filter keeps is found
exactly, as a count of rows and not as a whole multiple of K. It holds at a stated confidence for whatever scores
(`kept_surely`), and not for a hundred draws. And where rows are too few for that, pools are drawn from a model of what
the rows at hand are a sample of (`needs`), which extrapolates and says so: drawing from the rows alone promises still
more, since the best K of a pool are copies of a few.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headway.cascade.model import digits
from headway.errors import CascadeError

BAND = 10
"""How many times more rows than the best K show how a filter errs; more are steadier, but less like the best.

Chosen on random halves of reviews and tweets: with 5, fewer calibrations kept their promise than the confidence says.
"""
BAND_ROWS = 60
MISSING, OTHERWISE = 0.8, 0.1
"""Of what may fail, and of the doubt, the shares for missing too many of the best and for each of two other causes."""

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
    What it finds is worth as much as that model: a filter that ranks just the very best at random is not seen.
    Raises CascadeError for scores that are NaN or of different numbers of rows, and for less than `BAND_ROWS` rows.

    >>> score = np.arange(100.0)
    >>> needs(score, score, k=5, pool=50, recall=1.0, draws=3, seed=1).tolist()
    [5, 5, 5]
    """
    rng = np.random.default_rng([seed, filter_score.size, pool])
    ranked = Ranked.of(filter_score, full_score)
    rows = filter_score.size
    enough_for_model(rows)
    band = ranked.by_full[: max(BAND_ROWS, math.ceil(BAND * k * rows / pool))]
    found = []
    for _ in range(draws):
        weights = rng.dirichlet(np.ones(rows))
        copies = rng.multinomial(pool, weights)
        drawn = filter_score.copy()
        drawn[band] = _redrawn(filter_score[band], full_score[band], weights[band], rng)
        found.append(Ranked(best(drawn, rows), ranked.by_full).needed(copies, k, recall))
    return np.array(found, dtype=np.int64)


def enough_for_model(rows: int) -> None:
    """Raise CascadeError for less than `BAND_ROWS` rows, which `needs` cannot fit its model to.

    >>> enough_for_model(60)
    """
    if rows < BAND_ROWS:
        raise CascadeError(f"top-K: {rows} rows do not show how a filter errs; at least {BAND_ROWS} are needed")


def rows_needed(k: int, pool: int, recall: float, sure: float, confidence: float) -> int:
    """Return the fewest calibration rows from which `kept_surely` can tell anything, however good the filter is.

    >>> rows_needed(k=50, pool=5000, recall=0.9, sure=0.9, confidence=0.95)
    5434
    """
    missed = _share_missed(k, pool, recall, sure)
    return math.ceil(math.log(MISSING * (1 - confidence)) / math.log1p(-missed) - 1e-9)


def enough_rows(rows: int, k: int, pool: int, recall: float, sure: float, confidence: float) -> None:
    """Raise CascadeError, with the number that would do, for less calibration rows than `rows_needed`.

    >>> enough_rows(5434, k=50, pool=5000, recall=0.9, sure=0.9, confidence=0.95)
    """
    needed = rows_needed(k, pool, recall, sure, confidence)
    if rows < needed:
        raise CascadeError(
            f"top-K: {rows:,} calibration rows cannot show that {100 * sure:g}% of pools of {pool:,} have a recall of "
            f"{recall:g} of their best {k} at {100 * confidence:.{digits(confidence)}g}% confidence; {needed:,} or "
            "more can, or ask for a lower recall or sure, or extrapolate=True, which rests on a model and claims no "
            "confidence"
        )


def kept_surely(
    filter_score: Floats, full_score: Floats, k: int, pool: int, recall: float, sure: float, confidence: float
) -> int:
    """Return how many rows of a pool the filter must keep, so that at least the share `sure` of pools has the recall.

    It holds with this confidence over the rows given, for whatever scores; rows and pools are drawn independently from
    the same population, and where scores tie, in no order. The rows given, cut off below by the full score, are so many
    that a pool has K rows in that tail; the tail, cut off by the filter's score, leaves out so few that a pool has no
    more of them than may be missed; and a pool has no more rows above that second cut than are kept. What lies beyond
    cuts that one after the other are made at counts of rows is distributed as the counts say and nothing else
    (statistically equivalent blocks: Tukey 1947, Annals of Mathematical Statistics 18).
    Raises CascadeError for fewer rows than `rows_needed`, and scores that are NaN or of different numbers of rows.

    >>> score = np.arange(6000.0)
    >>> kept_surely(score, score, k=50, pool=5000, recall=0.9, sure=0.9, confidence=0.95)
    145
    """
    from scipy.stats import beta, binom

    ranked, rows = Ranked.of(filter_score, full_score), filter_score.size
    enough_rows(rows, k, pool, recall, sure, confidence)
    fail, doubt = 1 - sure, 1 - confidence
    in_tail = beta.ppf(1 - OTHERWISE * fail, k, pool - k + 1)
    wide_enough = np.flatnonzero(binom.sf(np.arange(rows), rows, in_tail) <= OTHERWISE * doubt)
    tail = int(wide_enough[0]) if wide_enough.size else 0
    if not tail:
        return pool
    missed = _share_missed(k, pool, recall, sure)
    left_out = int(np.searchsorted(binom.cdf(np.arange(rows), rows, missed), MISSING * doubt, side="right")) - 1
    left_out = max(0, min(left_out, tail - 1))
    places = np.empty(rows, dtype=np.int64)
    places[ranked.by_filter] = np.arange(rows)
    # The row at the cut itself is on neither side.
    last = int(np.sort(places[ranked.by_full[:tail]])[tail - 1 - left_out])
    below = ranked.by_full[tail + 1 :]
    above_last = int((places[below] < last).sum())
    half = OTHERWISE * doubt / 2
    most_tail = beta.ppf(1 - half, tail + 1, rows - tail)
    most_below = beta.ppf(1 - half, above_last + 1, below.size - above_last) if above_last < below.size else 1.0
    kept = binom.ppf(1 - OTHERWISE * fail, pool, most_tail + (1 - most_tail) * most_below)
    return min(pool, max(k, int(kept)))


def _share_missed(k: int, pool: int, recall: float, sure: float) -> float:
    """The largest share of rows that may be among the best and left out by the filter."""
    from scipy.stats import beta

    missed = k - math.ceil(recall * k - 1e-9)
    return float(beta.ppf(MISSING * (1 - sure), missed + 1, pool - missed))


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
            f"top-K: {values.size} draws cannot show that {100 * sure:g}% reach the recall at "
            f"{100 * confidence:.{digits(confidence)}g}% confidence; {draws_needed(sure, confidence)} or more can"
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
