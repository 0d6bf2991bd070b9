"""Look-ups: rows in order, unknown keys never zero by accident, and a cache that is neither stale nor too large."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.cascade.cache import Cache, Key
from headway.cascade.features import Feature, Features
from headway.cascade.lookup import Lookup, as_keys, each, fetch_together
from headway.errors import CascadeError


class Source:
    """A table that remembers what it was asked for."""

    def __init__(self, rows: Mapping[Key, Any]) -> None:
        self.rows = rows
        self.asked: list[list[Key]] = []

    def __call__(self, keys: list[Key]) -> dict[Key, Any]:
        self.asked.append(keys)
        return {key: self.rows[key] for key in keys if key in self.rows}


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


SQUARES = {key: [float(key), float(key) ** 2] for key in range(10)}


@given(st.lists(st.integers(0, 9), max_size=30), st.sampled_from([None, 1, 3, 100]))
def test_rows_come_in_the_order_of_their_keys(keys: list[int], entries: int | None) -> None:
    lookup = Lookup(Source(SQUARES), cache=None if entries is None else Cache(entries))
    for _ in range(2):
        block = lookup(keys)
        assert block.shape[0] == len(keys)
        assert block.tolist() == [SQUARES[key] for key in keys]


def test_a_batch_asks_once_for_each_distinct_key() -> None:
    source = Source(SQUARES)
    Lookup(source)([3, 1, 3, 3, 1])
    assert source.asked == [[3, 1]]


def test_what_is_cached_is_not_asked_for_again() -> None:
    source = Source(SQUARES)
    lookup = Lookup(source, cache=Cache(10))
    lookup([1, 2])
    lookup([2, 3, 1])
    assert source.asked == [[1, 2], [3]]
    assert (lookup.count.hits, lookup.count.misses, lookup.count.entries, lookup.calls) == (2, 3, 3, 2)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.floats(0.0, 3.0)), max_size=40),
    st.integers(1, 4),
    st.sampled_from([None, 1.0, 5.0]),
)
def test_a_cache_agrees_with_a_plain_model_of_one(
    steps: list[tuple[int, float]], max_entries: int, ttl_s: float | None
) -> None:
    clock = Clock()
    cache = Cache(max_entries, ttl_s, clock)
    model: OrderedDict[int, float] = OrderedDict()
    hits = 0
    for key, pause_s in steps:
        clock.now_s += pause_s
        if key in model and ttl_s is not None and clock.now_s - model[key] >= ttl_s:
            del model[key]
        found = cache.get([key])
        assert (key in found) == (key in model)
        if key in model:
            model.move_to_end(key)
            hits += 1
        else:
            cache.put({key: [0.0]}, clock.now_s)
            model[key] = clock.now_s
            while len(model) > max_entries:
                model.popitem(last=False)
        assert cache.count.entries <= max_entries
    assert (cache.count.hits, cache.count.lookups) == (hits, len(steps))


def test_age_counts_from_when_the_source_was_asked() -> None:
    clock = Clock()

    def slow(keys: list[Key]) -> list[list[float]]:
        answered = [[clock.now_s] for _ in keys]
        clock.now_s += 4.0
        return answered

    lookup = Lookup(slow, cache=Cache(10, ttl_s=5.0, clock=clock))
    assert lookup(["a"]).tolist() == [[0.0]]
    clock.now_s = 4.9
    assert lookup(["a"]).tolist() == [[0.0]]
    clock.now_s = 5.0
    assert lookup(["a"]).tolist() == [[5.0]]


def test_every_distinct_key_is_a_hit_or_a_miss() -> None:
    cached, plain = Lookup(Source(SQUARES), cache=Cache(2)), Lookup(Source(SQUARES))
    batches = [[1, 1, 2], [2, 3], [1], [4, 5, 6, 4]]
    for keys in batches:
        assert cached(keys).tolist() == plain(keys).tolist()
    distinct = sum(len(set(keys)) for keys in batches)
    assert cached.count.lookups == plain.count.lookups == distinct
    assert plain.count.hits == 0


def test_an_unknown_key_is_an_error_that_names_it_or_the_declared_default() -> None:
    with pytest.raises(CascadeError, match=r"nothing under the key 77; declare a default"):
        Lookup(Source(SQUARES))([1, 77])
    assert Lookup(Source(SQUARES), default=[-1.0, -2.0])([77, 2]).tolist() == [[-1.0, -2.0], [2.0, 4.0]]


def test_unknown_keys_are_kept_as_unknown() -> None:
    source = Source(SQUARES)
    lookup = Lookup(source, default=[0.0, 0.0], cache=Cache(10))
    lookup([77])
    lookup([77])
    assert source.asked == [[77]]


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan])
def test_a_row_without_key_is_not_asked_for(missing: Any) -> None:
    source = Source(SQUARES)
    with pytest.raises(CascadeError, match="a row has no key"):
        Lookup(source)([1, missing])
    assert Lookup(source, default=[5.0, 5.0])([missing]).tolist() == [[5.0, 5.0]]
    assert missing not in [key for keys in source.asked for key in keys]


def test_a_row_without_key_takes_no_place_in_a_cache() -> None:
    lookup = Lookup(lambda keys: [[1.0]] * len(keys), cache=Cache(max_entries=2), default=[0.0])
    for keys in (["a", "b"], [None], ["a", None, "b"]):
        lookup(keys)
    assert lookup.calls == 1
    assert (lookup.count.hits, lookup.count.misses) == (2, 2)


def test_a_source_that_fails_names_its_keys() -> None:
    def broken(keys: list[Key]) -> list[Any]:
        raise OSError("connection refused")

    with pytest.raises(
        CascadeError, match=r"fetching 'a', 'b', 'c' and 1 more failed: OSError\('connection refused'\)"
    ):
        Lookup(broken)(["a", "b", "c", "d"])


def test_one_key_at_a_time_keeps_the_order_and_names_the_key_that_failed() -> None:
    running, most, lock, meet = 0, 0, threading.Lock(), threading.Barrier(2)

    def one(key: int) -> list[float]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if key < 2:
            meet.wait(30)
        with lock:
            running -= 1
        if key == 7:
            raise ValueError("no such thing")
        return [float(key)]

    fetch = each(one, workers=3)
    assert Lookup(fetch)([1, 0, 5, 3]).ravel().tolist() == [1.0, 0.0, 5.0, 3.0]
    assert 2 <= most <= 4
    with pytest.raises(CascadeError, match=r"fetching the key 7 failed: ValueError\('no such thing'\)"):
        Lookup(fetch)([5, 7])


def test_a_source_must_give_one_row_per_key_of_equal_length() -> None:
    with pytest.raises(CascadeError, match="gave 1 rows for the 2 keys"):
        Lookup(lambda keys: [[1.0]])([1, 2])
    with pytest.raises(CascadeError, match=r"the row of 2 has 2 values, others have 1"):
        Lookup(lambda keys: {1: [1.0], 2: [1.0, 2.0]})([1, 2])
    with pytest.raises(CascadeError, match="the row of 1 is no sequence of numbers"):
        Lookup(lambda keys: {1: ["red"]})([1])


def test_cached_rows_cannot_be_written_to() -> None:
    lookup = Lookup(Source(SQUARES), cache=Cache(10))
    with pytest.raises(ValueError, match="read-only"):
        lookup([3])[0, 0] = 99.0
    assert lookup([3]).tolist() == [SQUARES[3]]


def test_look_ups_of_several_sources_run_at_the_same_time() -> None:
    meet = threading.Barrier(3)

    def waits(keys: list[Key]) -> list[list[float]]:
        meet.wait(30)
        return [[float(len(str(key)))] for key in keys]

    features = Features({name: Feature(Lookup(waits), of=name) for name in ("a", "b", "c")})
    known = features.known([{"a": "x", "b": "xx", "c": "xxx"}])
    fetch_together(known, features)
    assert known.stacked(features).tolist() == [[1.0, 2.0, 3.0]]
    assert known.spent.rows == {"a": 1, "b": 1, "c": 1}


def test_features_fetch_their_look_ups_together_by_themselves() -> None:
    meet = threading.Barrier(2)

    def waits(keys: list[Key]) -> list[list[float]]:
        meet.wait(30)
        return [[1.0]] * len(keys)

    features = Features({name: Feature(Lookup(waits), of=name) for name in ("a", "b")})
    assert features.known([{"a": 1, "b": 2}]).stacked(["a", "b"]).tolist() == [[1.0, 1.0]]


class Ahead:
    """A source that can be asked before it is heard, and says what happened when."""

    def __init__(self, name: str, said: list[str]) -> None:
        self.name, self.said = name, said

    def __call__(self, keys: list[Key]) -> list[Any]:
        return self.begin(keys)()

    def begin(self, keys: list[Key]) -> Any:
        self.said.append(f"ask {self.name}")

        def rows() -> list[Any]:
            self.said.append(f"hear {self.name}")
            if keys == [13]:
                raise OSError("gone")
            return [[float(key)] for key in keys]  # type: ignore[arg-type]

        return rows


def test_sources_that_can_be_asked_ahead_are_all_asked_before_one_is_waited_for() -> None:
    said: list[str] = []
    lookups = {name: Lookup(Ahead(name, said), cache=Cache(10)) for name in ("a", "b", "c")}
    features = Features({name: Feature(lookup, of=name) for name, lookup in lookups.items()})
    row = {"a": 1, "b": 2, "c": 3}
    assert features.known([row]).stacked(features).tolist() == [[1.0, 2.0, 3.0]]
    assert said == ["ask a", "ask b", "ask c", "hear a", "hear b", "hear c"]
    assert features.known([row]).stacked(features).tolist() == [[1.0, 2.0, 3.0]]
    assert len(said) == 6
    assert [(one.calls, one.count.hits, one.count.misses) for one in lookups.values()] == [(1, 1, 1)] * 3


def test_sources_are_not_asked_ahead_where_one_alone_is_missing_or_none_is_remote() -> None:
    said: list[str] = []
    cached, other = (Lookup(Ahead(name, said), cache=Cache(10)) for name in ("a", "b"))
    cached([1])
    said.clear()
    features = Features({"a": Feature(cached, of="a"), "b": Feature(other, of="b")})
    assert features.known([{"a": 1, "b": 2}]).stacked(["a", "b"]).tolist() == [[1.0, 2.0]]
    assert said == ["ask b", "hear b"]
    said.clear()
    near = Features({name: Feature(Lookup(Ahead(name, said), remote=False), of=name) for name in ("a", "b")})
    near.known([{"a": 1, "b": 2}]).stacked(["a", "b"])
    assert said == ["ask a", "hear a", "ask b", "hear b"]


def test_sources_of_both_kinds_are_fetched_together() -> None:
    said: list[str] = []

    def plain(keys: list[Key]) -> list[Any]:
        said.append("plain")
        return [[9.0]] * len(keys)

    features = Features({"a": Feature(Lookup(plain), of="a"), "b": Feature(Lookup(Ahead("b", said)), of="b")})
    assert features.known([{"a": 1, "b": 2}]).stacked(["a", "b"]).tolist() == [[9.0, 2.0]]
    assert said == ["ask b", "plain", "hear b"]


def test_a_source_asked_ahead_that_fails_names_its_keys_and_missing_keys_are_not_asked_for() -> None:
    said: list[str] = []
    features = Features({name: Feature(Lookup(Ahead(name, said), default=[-1.0]), of=name) for name in ("a", "b")})
    assert features.known([{"a": None, "b": None}]).stacked(["a", "b"]).tolist() == [[-1.0, -1.0]]
    assert said == []
    with pytest.raises(CascadeError, match=r"feature 'b': look-up: fetching 13 failed: OSError\('gone'\)"):
        features.known([{"a": 1, "b": 13}]).stacked(["a", "b"])


def test_an_error_in_one_of_several_sources_is_raised() -> None:
    def broken(keys: list[Key]) -> list[Any]:
        raise OSError("gone")

    features = Features({"a": Feature(Lookup(Source(SQUARES)), of="a"), "b": Feature(Lookup(broken), of="b")})
    with pytest.raises(CascadeError, match=r"feature 'b': look-up: fetching 5 failed: OSError\('gone'\)"):
        fetch_together(features.known([{"a": 1, "b": 5}]), features)


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(pd.DataFrame({"origin": ["JFK", "LGA"], "hour": [5, 6]}), id="pandas"),
        pytest.param(pl.DataFrame({"origin": ["JFK", "LGA"], "hour": [5, 6]}), id="polars"),
        pytest.param([["JFK", 5], ["LGA", 6]], id="list"),
    ],
)
def test_keys_of_several_columns_are_tuples(keys: Any) -> None:
    assert as_keys(keys) == [("JFK", 5), ("LGA", 6)]


@pytest.mark.parametrize("column", [pd.Series(["a", "b"]), pl.Series(["a", "b"]), np.array(["a", "b"]), ["a", "b"]])
def test_keys_of_one_column_are_its_values(column: Any) -> None:
    assert as_keys(column) == ["a", "b"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Cache(0), "max_entries is 0; at least 1"),
        (lambda: Cache(1, ttl_s=0.0), "ttl_s is 0.0; it must be above 0"),
        (lambda: Lookup(Source({}), workers=0), "workers is 0; at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Any, says: str) -> None:
    with pytest.raises(CascadeError, match=says):
        make()
