"""Point queries that join eight tables, made fast by all means together, and what each of these means is worth.

The tables are kept by a process of its own (`store`), once as near as the loopback interface and once a millisecond
away. Compared with: the pandas pipeline as people write it, which joins the query with its tables in memory, and
dictionaries in memory, which need no store at all.
"""

from __future__ import annotations

import importlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.bench import BenchOptions, Row
from headway.bench.cascades import batches, flights
from headway.bench.cascades.auc import auc, loss_error
from headway.bench.cascades.flights import KEYS, Flights
from headway.bench.cascades.store import Client, serving
from headway.bench.cascades.timed import DataClock, Variant, answered, latency_rows, time_rows, use_rows
from headway.bench.cascades.unmeasured import check, where
from headway.cascade.adapt import Scorer, scorer
from headway.cascade.cache import Cache
from headway.cascade.compiled import compiled
from headway.cascade.costs import measure
from headway.cascade.features import Feature, Features, Known
from headway.cascade.graded import bootstrap_bound
from headway.cascade.importance import block_importance
from headway.cascade.lookup import Lookup
from headway.cascade.model import Cascade, Step
from headway.cascade.run import FittedCascade
from headway.cascade.select import subsets
from headway.errors import HeadwayError

Floats = NDArray[np.float64]

INPUTS = ("base", *KEYS)
TOLERANCE = 0.01
"""How much AUC the cascade may lose against the full model, at 95 % confidence."""
QUICK_TOLERANCE = 0.05
"""So few flights cannot show a smaller loss: nothing would be cascaded."""
CACHE_ENTRIES = 2_000
TTL_S = 3_600.0
WARM, QUERIES, SPANS = 100, 100, 20
"""Queries of a span that warm the caches and that are timed, and spans: the weather of a few days is not that of many,
and with it the share of queries that the small model leaves to the full one."""
QUICK_SPANS, QUICK_LIMIT = 2, 3_000
FAR_S, FAR_QUERIES = 0.001, 20
"""A store in another rack answers after about a millisecond."""
PANDAS_SHARE = 10
"""One query of so many is also put to pandas, which takes a hundred times as long."""
RESAMPLES = 300


@dataclass(frozen=True)
class Learned:
    """The models, the features that the small one sees, and from which certainty on it answers."""

    full: Any
    small: Any
    inputs: tuple[str, ...]
    threshold: float
    columns: Mapping[str, slice]

    def wide(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Return the places of these features' columns among all columns."""
        return np.concatenate([np.arange(self.columns[n].start, self.columns[n].stop) for n in names])


@dataclass(frozen=True, slots=True)
class Means:
    """Which of the means are used. `ahead`: together without threads, by asking all sources before waiting for any."""

    cascade: bool = True
    lazy: bool = True
    cache: bool = True
    compiled: bool = True
    together: bool = True
    ahead: bool = True


ABLATION = {
    "whole": Means(),
    "without-cascade": Means(cascade=False),
    "without-lazy-features": Means(lazy=False),
    "without-cache": Means(cache=False),
    "without-compiled": Means(compiled=False),
    "without-concurrency": Means(together=False),
    "with-threads": Means(ahead=False),
    "without-cache-and-concurrency": Means(cache=False, together=False),
    "without-any": Means(*[False] * 6),
}


def features_all(options: BenchOptions) -> Iterator[Row]:
    """Latency of point queries with every means, with each left out in turn, with pandas and with dictionaries; then
    the same with a store that is further away, and batches."""
    # One thread each: only a threading library that is loaded already can be limited.
    importlib.import_module("sklearn.ensemble")
    from threadpoolctl import threadpool_limits

    data = flights.load(QUICK_LIMIT if options.quick else None)
    tables = {name: data.rows(name) for name in KEYS}
    tolerance = QUICK_TOLERANCE if options.quick else TOLERANCE
    with threadpool_limits(1):
        with serving(tables) as client:
            learned = learn(data, client, options.seed, tolerance=tolerance)
            yield from _auc_rows(data, learned, options.seed)
            cascaded = yield from _near(data, learned, client, tables, options.quick)
        with serving(tables, FAR_S) as client:
            yield from _far(data, learn(data, client, options.seed, learned, tolerance), client, options.quick)
        yield from batches.rows(data, learned, options)
    check({"features-all": cascaded}, "the small model answered no query")


def learn(
    data: Flights, client: Client, seed: int, before: Learned | None = None, tolerance: float = TOLERANCE
) -> Learned:
    """Fit the full model; choose the small one and its threshold on the selection part, by expected cost.

    The full model is that of `before` where it is known. `tolerance`: the AUC that may be lost.
    """
    wide = {part: data.joined(data.parts[part]).to_numpy(np.float64) for part in ("train", "selection")}
    columns = _columns(data)
    full = _model(200).fit(wide["train"], data.late["train"]) if before is None else before.full
    late = data.late["selection"]
    features = remote_features(data, client, DataClock(), Means(cache=False, together=False))
    known = _known(features, wide["selection"], columns)
    worth = block_importance(lambda block: auc(late, _score(full, block)), known, INPUTS, repeats=2, seed=seed)
    some = data.parts["selection"].head(500).to_dict("records")
    costs = measure(features, {"all": (INPUTS, len)}, some, sizes=(1,), rounds=50, seed=seed)
    cost_s = {name: cost.of(1) for name, cost in costs.features.items()}
    full_score = _score(full, wide["selection"])
    best: tuple[float, Learned] | None = None
    for names in subsets(features, INPUTS, {name: found.mean for name, found in worth.items()}, cost_s):
        candidate = Learned(full, None, names, 1.0, columns)
        small = _model(60).fit(wide["train"][:, candidate.wide(names)], data.late["train"])
        score = _score(small, wide["selection"][:, candidate.wide(names)])
        threshold, share = _threshold(late, score, full_score, tolerance)
        expected_s = sum(cost_s[n] for n in names) + (1 - share) * sum(cost_s[n] for n in INPUTS if n not in names)
        if best is None or expected_s < best[0]:
            best = expected_s, replace(candidate, small=small, threshold=threshold)
    if best is None:
        raise HeadwayError("bench features-all: no cheap subset of the features was found")
    return best[1]


def remote_features(data: Flights, client: Client, clock: DataClock, means: Means) -> Features:
    """Return the features of a flight: what the request says, and a look-up in the store for every table."""
    made: dict[str, Feature] = {"base": Feature(flights.base)}
    for name, keys in KEYS.items():
        cache = Cache(CACHE_ENTRIES, TTL_S, clock) if means.cache else None
        unknown = [float("nan")] * len(data.columns(name))
        table = client.table(name)
        # Without its `begin` a source needs threads to be asked beside others.
        fetch = table if means.ahead else table.__call__
        lookup = Lookup(fetch, cache=cache, default=unknown, remote=means.together)
        made[name] = Feature(lookup, of=keys if len(keys) > 1 else keys[0])
    return Features(made)


def margin(scores: Floats) -> Floats:
    """Return how far apart the probabilities of late and in time are."""
    apart: Floats = np.abs(scores[:, 1] - scores[:, 0])
    return apart


def _near(
    data: Flights, learned: Learned, client: Client, tables: Mapping[str, Mapping[Any, Floats]], quick: bool
) -> Generator[Row, None, bool]:
    """Yield the rows of a store that is near; return whether the small model answered any query."""
    clock = DataClock()
    variants = {name: _variant(data, learned, client, clock, means) for name, means in ABLATION.items()}
    variants["indexed"] = Variant(partial(_indexed, learned.full, tables))
    variants["indexed-compiled"] = Variant(partial(_indexed, compiled(learned.full, _sample(data)), tables))
    variants["pandas"] = Variant(partial(_pandas, data, learned.full), every=PANDAS_SHARE)
    _replay(data, variants, clock, QUERIES, QUICK_SPANS if quick else SPANS)
    bars = {"pandas": ">= 16", "indexed": ">= 4"}
    cascaded = answered(variants["whole"])["small"] > 0
    yield from where(cascaded, latency_rows("features-all", variants, bars))
    yield from use_rows("features-all", variants["whole"])
    for name in ("without-any", "whole"):
        yield from time_rows(f"features-all/time/{name}", variants[name])
    return cascaded


def _far(data: Flights, learned: Learned, client: Client, quick: bool) -> list[Row]:
    clock = DataClock()
    variants = {name: _variant(data, learned, client, clock, means) for name, means in ABLATION.items()}
    _replay(data, variants, clock, FAR_QUERIES, QUICK_SPANS if quick else SPANS)
    return [*latency_rows("features-all/far", variants, {}), *use_rows("features-all/far", variants["whole"])]


def _variant(data: Flights, learned: Learned, client: Client, clock: DataClock, means: Means) -> Variant:
    features = remote_features(data, client, clock, means)
    models, steps = models_of(learned, _sample(data) if means.compiled else None, means.cascade, means.lazy)
    runner = FittedCascade(Cascade(steps), features, models, {"small": margin})
    lookups = {name: feature.compute for name, feature in features.items() if isinstance(feature.compute, Lookup)}
    return Variant(lambda query: float(runner.predict_proba([query])[0, 1]), lookups=lookups, runner=runner)


def models_of(
    learned: Learned, sample: Floats | None, cascade: bool = True, lazy: bool = True
) -> tuple[dict[str, Scorer], tuple[Step, ...]]:
    """Return models and steps; compiled where there is a sample to compare on."""
    full, small = learned.full, learned.small
    if sample is not None:
        full, small = compiled(full, sample), compiled(small, sample[:, learned.wide(learned.inputs)])
    models, steps = {"full": scorer(full)}, [Step("full", INPUTS)]
    if cascade:
        models["small"] = scorer(small) if lazy else _narrowed(small, learned)
        steps.insert(0, Step("small", learned.inputs if lazy else INPUTS, learned.threshold))
    return models, tuple(steps)


def _sample(data: Flights) -> Floats:
    wide: Floats = data.joined(data.parts["selection"].head(2_000)).to_numpy(np.float64)
    return wide


def _narrowed(small: Any, learned: Learned) -> Scorer:
    """The small model behind all features, of which it takes its own."""
    places, inner = learned.wide(learned.inputs), scorer(small)
    return Scorer(lambda block: inner.scores(block[:, places]), inner.classes)


def _indexed(model: Any, tables: Mapping[str, Mapping[Any, Floats]], query: Mapping[str, Any]) -> float:
    """Look rows up in dictionaries in memory, then ask the full model: the fast way to write it by hand."""
    parts = [flights.base([query])[0]]
    for name, keys in KEYS.items():
        table = tables[name]
        row = table.get(query[keys[0]] if len(keys) == 1 else tuple(query[key] for key in keys))
        parts.append(np.full(next(iter(table.values())).size, np.nan) if row is None else row)
    return float(model.predict_proba(np.concatenate(parts)[None, :])[0, 1])


def _pandas(data: Flights, model: Any, query: Mapping[str, Any]) -> float:
    """Join a frame of one row with all tables, then ask the full model: as people write it."""
    import pandas as pd

    return float(model.predict_proba(data.joined(pd.DataFrame([query])).to_numpy(np.float64))[0, 1])


def _replay(data: Flights, variants: Mapping[str, Variant], clock: DataClock, queries: int, spans: int) -> None:
    """Put spans of consecutive flights, from all over the test months, to every variant in turn.

    The first of each span only warm the caches, which have nothing left of the span before.
    """
    flights = data.parts["test"]
    for begin in np.linspace(0, len(flights) - WARM - queries, spans).astype(int).tolist():
        asked = flights.iloc[begin : begin + WARM + queries].to_dict("records")
        for variant in variants.values():
            variant.warm(asked[:WARM], clock)
        for variant in variants.values():
            variant.time(asked[WARM:], clock)


def _auc_rows(data: Flights, learned: Learned, seed: int) -> list[Row]:
    """AUC on the test part, and the bound of its loss on the calibration part, which nothing was chosen by."""
    found = {part: _both(data, learned, part) for part in ("calibration", "test")}
    late = data.late["calibration"]
    full, ours, seen = found["calibration"]

    def loss(rows: NDArray[np.int64]) -> float:
        return auc(late[rows], full[rows]) - auc(late[rows], ours[rows])

    bound = bootstrap_bound(loss, len(late), 0.95, RESAMPLES, seed)
    full_auc, our_auc = (auc(data.late["test"], score) for score in found["test"][:2])
    lost = Row("features-all/auc-loss", full_auc - our_auc, "AUC", bar=f"<= {TOLERANCE}")
    bounded = Row("features-all/auc-loss-bound", bound, "AUC", bar=f"<= {TOLERANCE}")
    return [
        Row("features-all/auc", our_auc, "AUC", baseline=full_auc),
        *where(found["test"][2], [lost]),
        *where(seen, [bounded]),
    ]


def _both(data: Flights, learned: Learned, part: str) -> tuple[Floats, Floats, bool]:
    """Scores of the full model and the cascade, and whether the small model answered any flight."""
    wide = data.joined(data.parts[part]).to_numpy(np.float64)
    full = _score(learned.full, wide)
    small = _score(learned.small, wide[:, learned.wide(learned.inputs)])
    sure = np.abs(2 * small - 1) >= learned.threshold
    return full, np.where(sure, small, full), bool(sure.any())


def _threshold(late: NDArray[np.int64], small: Floats, full: Floats, tolerance: float) -> tuple[float, float]:
    """Return the least certainty that loses at most half the tolerance here, with two standard errors, and its share.

    It is the share of flights that are so certain; beyond every certainty, and 0, where there is none.
    """
    certainty = np.abs(2 * small - 1)
    whole = auc(late, full)
    for share in np.arange(0.95, 0.0, -0.05):
        threshold = float(np.quantile(certainty, 1 - share))
        mixed = np.where(certainty >= threshold, small, full)
        if whole - auc(late, mixed) + 2 * loss_error(late, full, mixed) <= tolerance / 2:
            return threshold, float(share)
    return 2.0, 0.0


def _model(iterations: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=iterations, learning_rate=0.06, early_stopping=False, random_state=0)


def _score(model: Any, block: Any) -> Floats:
    score: Floats = model.predict_proba(block)[:, 1]
    return score


def _columns(data: Flights) -> dict[str, slice]:
    found, begin = {}, 0
    for name, width in [("base", len(flights.BASE)), *((name, len(data.columns(name))) for name in KEYS)]:
        found[name] = slice(begin, begin + width)
        begin += width
    return found


def _known(features: Features, wide: Floats, columns: Mapping[str, slice]) -> Known:
    known = features.known(wide)
    for name, place in columns.items():
        known.put(name, wide[:, place])
    return known
