"""Batches that join eight tables: pandas as people write it, look-ups, joins by dictionary or polars, and cascades."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headway.bench import BenchOptions, Row
from headway.bench.cascades.flights import BASE, KEYS, Flights
from headway.cascade.features import Feature, Features
from headway.cascade.join import Join, aggregated, as_polars
from headway.cascade.lookup import Lookup
from headway.cascade.model import Cascade
from headway.cascade.rows import select
from headway.cascade.run import FittedCascade

if TYPE_CHECKING:
    from headway.bench.cascades.joins import Learned

Floats = NDArray[np.float64]
SIZES, QUICK_SIZES = (1_000, 10_000, 50_000), (500,)
ROUNDS = 5


def rows(data: Flights, learned: Learned, options: BenchOptions) -> list[Row]:
    """Joins alone at several sizes, what aggregates take, and whole batches of the smallest size, end to end."""
    asked = data.parts["test"]
    tables = {name: data.tables[name] for name in KEYS}
    by_join = {name: Join(table, KEYS[name], default=_unknown(data, name)) for name, table in tables.items()}
    by_key = {name: _mapped(data, name) for name in KEYS}
    found: list[Row] = []
    for size in QUICK_SIZES if options.quick else SIZES:
        frame = asked.head(size)
        columns = as_polars(frame)
        records = frame.to_dict("records")
        ways: dict[str, Callable[[], Any]] = {
            "pandas": partial(_written, data, frame),
            "look-ups": partial(_each, by_key, records),
            "dictionary": partial(_each, {n: partial(_by, one.looked_up, one) for n, one in by_join.items()}, frame),
            "polars": partial(_each, {n: partial(_by, one.joined, one) for n, one in by_join.items()}, columns),
            "polars-from-pandas": partial(
                _each, {n: partial(_by, one.joined, one) for n, one in by_join.items()}, frame
            ),
        }
        found += _rows(f"features-all/joins-{size}", ways, "pandas")
    size = (QUICK_SIZES if options.quick else SIZES)[0]
    return [*found, *_aggregates(data), *_whole(data, learned, by_join, asked.head(size))]


def _rows(head: str, ways: Mapping[str, Callable[[], Any]], written: str) -> list[Row]:
    """Milliseconds of each way, medians of rounds in turn, and how many times as fast as the way it is written."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            began = perf_counter()
            way()
            taken[name].append(1e3 * (perf_counter() - began))
    base = median(taken[written])
    return [
        Row(f"{head}/{name}", median(ms), "ms", *((base, base / median(ms)) if name != written else ()))
        for name, ms in taken.items()
    ]


def _aggregates(data: Flights) -> list[Row]:
    """How often flights of the same plane, route and so on were late, over four months of flights."""
    history = data.parts["history"].assign(late=data.late["history"])
    columns = as_polars(history)
    names = [name for name in KEYS if name.startswith("by_")]
    made = {"late_mean": ("late", "mean"), "flights": ("late", "count")}
    ways = {
        "pandas": lambda: [history.groupby(list(KEYS[n]))["late"].agg(["mean", "count"]).reset_index() for n in names],
        "polars": lambda: [aggregated(columns, KEYS[name], made) for name in names],
        "polars-from-pandas": lambda: [aggregated(history, KEYS[name], made) for name in names],
    }
    return _rows("features-all/aggregates", ways, "pandas")


def _whole(data: Flights, learned: Learned, by_join: Mapping[str, Join], frame: Any) -> list[Row]:
    """The pipeline as people write it, and with joins, compiled models and the cascade added one after the other."""
    from headway.bench.cascades.joins import margin, models_of

    features = Features(
        {
            "base": Feature(lambda frame: frame[list(BASE)].to_numpy(np.float64)),
            **{name: Feature(one, of=_of_feature(name)) for name, one in by_join.items()},
        }
    )
    sample = data.joined(data.parts["selection"].head(2_000)).to_numpy(np.float64)
    runners = {}
    for name, compiled, cascade in (("joins", None, False), ("compiled", sample, False), ("whole", sample, True)):
        models, steps = models_of(learned, compiled, cascade)
        runners[name] = FittedCascade(Cascade(steps), features, models, {"small": margin})
    ways: dict[str, Callable[[], Any]] = {
        "pandas": lambda: learned.full.predict_proba(_written(data, frame)),
        **{name: partial(runner.predict_proba, frame) for name, runner in runners.items()},
    }
    found = _rows(f"features-all/batch-{len(frame)}", ways, "pandas")
    counters = runners["whole"].counters
    parts = {**counters.spent.seconds, **counters.model_s}
    head = f"features-all/batch-{len(frame)}/time"
    return [*found, *(Row(f"{head}/{name}", 1e3 * s / counters.calls, "ms per batch") for name, s in parts.items())]


def _written(data: Flights, frame: Any) -> Floats:
    """The joins as people write them."""
    wide: Floats = data.joined(frame).to_numpy(np.float64)
    return wide


def _by(find: Callable[[Any], Any], join: Join, keys: Any) -> Floats:
    """A join in one of its ways, whatever the number of keys."""
    return join.rows(find(keys))


def _each(ways: Mapping[str, Callable[[Any], Any]], rows: Any) -> list[Any]:
    """Give every way the keys of its table."""
    return [way(select(rows, _of_feature(name))) for name, way in ways.items()]


def _mapped(data: Flights, name: str) -> Lookup:
    table = data.rows(name)
    return Lookup(lambda keys: {key: table[key] for key in keys if key in table}, default=_unknown(data, name))


def _unknown(data: Flights, name: str) -> list[float]:
    return [float("nan")] * len(data.columns(name))


def _of_feature(name: str) -> Any:
    keys = KEYS[name]
    return keys if len(keys) > 1 else keys[0]
