"""Joins in this process: by a dictionary and by polars the same rows, unknown keys as declared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from headway.cascade import join
from headway.cascade.features import Feature, Features
from headway.cascade.join import Join, aggregated, as_polars
from headway.errors import CascadeError

TABLE = pd.DataFrame(
    {"origin": ["JFK", "LGA", "EWR"], "hour": [5, 5, 7], "temp": [1.5, 2.5, np.nan], "wind": [3, 4, 5]}
)
NAN = [float("nan")] * 2


def same(one: Any, other: Any) -> bool:
    return bool(np.array_equal(one, other, equal_nan=True))


@pytest.mark.parametrize("made", [lambda frame: frame, as_polars])
def test_rows_come_in_the_order_of_their_keys(made: Any) -> None:
    joined = Join(made(TABLE), ("origin", "hour"), default=[-1.0, -2.0])
    asked = pd.DataFrame({"origin": ["EWR", "JFK", "JFK", None], "hour": [7, 5, 6, 5]})
    expected = [[np.nan, 5.0], [1.5, 3.0], [-1.0, -2.0], [-1.0, -2.0]]
    for keys in (asked, as_polars(asked), asked.to_numpy().tolist()):
        assert same(joined(keys), expected)
    assert joined.columns == ["temp", "wind"]


@pytest.mark.parametrize("kind", ["pandas", "polars"])
@pytest.mark.parametrize("on", [("plane",), ("plane", "day")])
def test_a_dictionary_and_polars_find_the_same_places(kind: str, on: tuple[str, ...]) -> None:
    draws = np.random.default_rng(3)
    table = pd.DataFrame(
        {"plane": [f"N{n}" for n in range(200)], "day": draws.integers(0, 5, 200), "seats": range(200)}
    )
    asked = pd.DataFrame(
        {"plane": [f"N{n}" for n in draws.integers(0, 260, 5_000)], "day": draws.integers(0, 5, 5_000)}
    )
    asked.loc[asked.index % 97 == 0, "plane"] = None
    keys = asked[list(on)] if len(on) > 1 else asked[on[0]]
    if kind == "polars":
        keys = as_polars(asked)[list(on) if len(on) > 1 else on[0]]
    joined = Join(table if len(on) > 1 else table.drop(columns="day"), on)
    assert np.array_equal(joined.joined(keys), joined.looked_up(keys))
    assert set(joined.looked_up(keys)[::97]) == {-1}


def test_keys_that_are_numbers_meet_whatever_their_width() -> None:
    joined = Join(pd.DataFrame({"id": [1, 2], "x": [10.0, 20.0]}), "id", default=[0.0])
    for keys in (np.array([2, 1], dtype=np.int32), np.array([2.0, 1.0]), pl.Series([2, 1], dtype=pl.Int16)):
        assert joined.joined(keys).tolist() == joined.looked_up(keys).tolist() == [1, 0]
    assert joined.joined(np.array([np.nan, 2.0])).tolist() == [-1, 1]


def test_many_keys_go_through_polars_and_few_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    joined = Join(pd.DataFrame({"id": [1, 2], "x": [10.0, 20.0]}), "id")
    asked: list[str] = []
    monkeypatch.setattr(joined, "joined", lambda keys: (asked.append("polars"), joined.looked_up(keys))[1])
    few, many = np.array([1, 2]), np.resize([1, 2], join.FROM_ROWS)
    assert joined(few).ravel().tolist() == [10.0, 20.0]
    assert asked == []
    assert joined(many).sum() == 15.0 * join.FROM_ROWS
    assert asked == ["polars"]
    monkeypatch.setattr(join, "_polars", lambda: None)
    assert joined(many).sum() == 15.0 * join.FROM_ROWS
    assert asked == ["polars"]


@pytest.mark.parametrize("rows", [3, join.FROM_ROWS])
def test_an_unknown_key_without_default_is_named(rows: int) -> None:
    joined = Join(pd.DataFrame({"id": ["a"], "x": [1.0]}), "id")
    keys = pd.Series(["a"] * rows)
    keys.iloc[1] = "b"
    with pytest.raises(CascadeError, match="nothing under the key 'b'; declare a default"):
        joined(keys)
    keys.iloc[1] = None
    with pytest.raises(CascadeError, match="a row has no key"):
        joined(keys)


@pytest.mark.parametrize(
    ("table", "on", "default", "says"),
    [
        ({"id": [1], "x": [1]}, "ix", None, "no column 'ix'"),
        ({"id": [1, 1], "x": [1, 2]}, "id", None, "key 1 stands in several rows"),
        ({"id": [1], "x": ["blue"]}, "id", None, "column 'x' is not made of numbers"),
        ({"id": [1], "x": [1]}, "id", [0.0, 0.0], "the default has 2 values; the table has 1"),
    ],
)
def test_a_table_that_cannot_be_joined_is_refused(table: Any, on: str, default: Any, says: str) -> None:
    with pytest.raises(CascadeError, match=says):
        Join(pd.DataFrame(table), on, default=default)


def test_it_is_a_feature_of_frames_and_of_mappings() -> None:
    features = Features({"weather": Feature(Join(TABLE, ("origin", "hour"), default=NAN), of=("origin", "hour"))})
    asked = pd.DataFrame({"origin": ["LGA", "LGA"], "hour": [5, 6]})
    for rows in (asked, as_polars(asked), asked.to_dict("records")):
        assert same(features.known(rows).block("weather"), [[2.5, 4.0], NAN])


@pytest.mark.parametrize("how", join.AGGREGATES)
def test_aggregates_are_those_of_pandas(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(5)
    flights = pd.DataFrame(
        {"carrier": draws.integers(0, 4, 300), "month": draws.integers(0, 2, 300), "late": draws.random(300)}
    )
    made, on = {"late_it": ("late", how)}, ["carrier", "month"]
    fast = aggregated(flights, on, made)
    again = aggregated(as_polars(flights), on, made)
    monkeypatch.setattr(join, "_polars", lambda: None)
    plain = aggregated(flights, on, made).sort_values(on)
    for frame in (fast, again):
        assert frame.sort(on)["late_it"].to_numpy() == pytest.approx(plain["late_it"].to_numpy())


def test_an_unknown_aggregate_is_named() -> None:
    with pytest.raises(CascadeError, match="'mode' is not known; known: mean, sum"):
        aggregated(TABLE, "origin", {"x": ("temp", "mode")})
