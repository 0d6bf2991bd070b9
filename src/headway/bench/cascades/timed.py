"""Ways to answer one stream of queries, timed side by side, and the rows that tell what they took and where."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from headway.bench import Row
from headway.cascade.lookup import Lookup
from headway.cascade.run import Counters, FittedCascade

Query = Callable[[Mapping[str, Any]], float]


@dataclass
class DataClock:
    """The time at which a query is asked in the data: caches age by it, since a replay is faster than the year was."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s

    def at(self, query: Mapping[str, Any]) -> None:
        """Go to the moment of a flight's departure."""
        days = 31 * query["month"] + query["day"]
        self.now_s = 60.0 * (1_440 * days + query["departure_min"])


@dataclass
class Variant:
    """One way to answer queries, and how long it took for each that was timed; what these looked up and answered."""

    query: Query
    every: int = 1
    latency_s: list[float] = field(default_factory=list)
    lookups: Mapping[str, Lookup] = field(default_factory=dict)
    runner: FittedCascade | None = None
    counters: list[Counters] = field(default_factory=list)
    hits: Tally[str] = field(default_factory=Tally)
    looked_up: Tally[str] = field(default_factory=Tally)

    def warm(self, queries: Sequence[Mapping[str, Any]], clock: DataClock) -> None:
        """Ask these queries for the caches' sake alone."""
        for query in queries[:: self.every]:
            clock.at(query)
            self.query(query)

    def time(self, queries: Sequence[Mapping[str, Any]], clock: DataClock) -> None:
        """Ask these queries and count what they take."""
        before = {name: lookup.count for name, lookup in self.lookups.items()}
        if self.runner is not None:
            self.runner.reset()
        for query in queries[:: self.every]:
            clock.at(query)
            began = perf_counter()
            self.query(query)
            self.latency_s.append(perf_counter() - began)
        if self.runner is not None:
            self.counters.append(self.runner.counters)
            self.runner.reset()
        for name, lookup in self.lookups.items():
            count = lookup.count
            self.hits[name] += count.hits - before[name].hits
            self.looked_up[name] += count.lookups - before[name].lookups


def latency_rows(head: str, variants: Mapping[str, Variant], bars: Mapping[str, str]) -> list[Row]:
    whole = np.array(variants["whole"].latency_s) * 1e3
    rows = []
    for name, variant in variants.items():
        found = np.array(variant.latency_s) * 1e3
        for what, figure in (("median", np.median), ("mean", np.mean), ("p99", lambda ms: np.percentile(ms, 99))):
            ours, theirs = float(figure(whole)), float(figure(found))
            if name == "whole":
                rows.append(Row(f"{head}/{name}/{what}", ours, "ms"))
            else:
                # Judged by the mean: a median would not see the queries that a cache or a cheap model cannot answer.
                bar = bars.get(name) if what == "mean" else None
                rows.append(Row(f"{head}/{name}/{what}", ours, "ms", theirs, theirs / ours, bar))
    return rows


def answered(whole: Variant) -> Tally[str]:
    """Return how many of the queries that were timed each model answered."""
    found = Tally[str]()
    for one in whole.counters:
        found.update(dict(zip(one.models, one.exits, strict=True)))
    return found


def use_rows(head: str, whole: Variant) -> list[Row]:
    by_model = answered(whole)
    rows = [Row(f"{head}/answered-by-small", by_model["small"] / by_model.total(), "of queries")]
    for name in whole.lookups:
        asked = whole.looked_up[name]
        rows.append(Row(f"{head}/hit-rate/{name}", whole.hits[name] / asked if asked else 0.0, "of look-ups"))
    return rows


def time_rows(head: str, variant: Variant) -> list[Row]:
    """Where the time of a query goes, in the mean: each feature, each model, and what is left for putting together."""
    parts: dict[str, float] = {}
    for one in variant.counters:
        for name, spent_s in (*one.spent.seconds.items(), *one.model_s.items()):
            parts[name] = parts.get(name, 0.0) + spent_s
    parts["else"] = sum(variant.latency_s) - sum(parts.values())
    queries = len(variant.latency_s)
    return [Row(f"{head}/{name}", 1e6 * spent_s / queries, "us per query") for name, spent_s in parts.items()]
