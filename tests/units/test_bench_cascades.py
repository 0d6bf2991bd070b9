"""What the benchmarks of cascades rest on: a store that answers over a socket, and tables by key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from headway.bench import Row
from headway.bench.cascades import joins, unmeasured
from headway.bench.cascades.auc import auc, loss_error
from headway.bench.cascades.flights import BASE, Flights, base, by_key
from headway.bench.cascades.store import serving
from headway.bench.cascades.text import Measured, rows_of
from headway.bench.cascades.timed import DataClock, Variant, use_rows
from headway.bench.cascades.topk import Pools
from headway.cascade.cache import Cache
from headway.cascade.lookup import Lookup
from headway.cascade.run import Counters
from headway.errors import HeadwayError


def test_a_store_answers_look_ups_over_a_socket() -> None:
    tables = {"plane": {"N1": [1.0, 2.0], "N2": [3.0, 4.0]}, "weather": {("JFK", "05"): [9.0], ("LGA", "05"): [7.0]}}
    with serving(tables) as client:
        planes, weather = Lookup(client.table("plane"), default=[0.0, 0.0]), Lookup(client.table("weather"))
        assert planes(["N2", "N9", "N1", "N2"]).tolist() == [[3.0, 4.0], [0.0, 0.0], [1.0, 2.0], [3.0, 4.0]]
        assert weather([("LGA", "05"), ("JFK", "05")]).tolist() == [[7.0], [9.0]]
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda key: planes([key]).tolist(), ["N1", "N2"] * 50))
        assert found == [[[1.0, 2.0]], [[3.0, 4.0]]] * 50
    with pytest.raises(OSError, match=r"."):
        client.table("plane")(["N1"])


def test_questions_to_a_store_can_be_begun_and_left() -> None:
    tables = {"plane": {"N1": [1.0], "N2": [2.0]}, "route": {"A": [7.0]}}
    with serving(tables, late_s=0.001) as client:
        plane, route = client.table("plane"), client.table("route")
        first, other = plane.begin(["N1"]), route.begin(["A"])
        assert [row.tolist() for row in (*other(), *first()) if row is not None] == [[7.0], [1.0]]
        plane.begin(["N1"])
        (row,) = plane(["N2"])
        assert row is not None
        assert row.tolist() == [2.0]


def test_tables_are_read_by_one_key_or_several() -> None:
    table = pd.DataFrame({"origin": ["JFK", "LGA"], "hour": [5, 6], "temp": [1.5, 2.5], "wind": [3, 4]})
    rows = by_key(table, ("origin", "hour"))
    assert {key: row.tolist() for key, row in rows.items()} == {("JFK", 5): [1.5, 3.0], ("LGA", 6): [2.5, 4.0]}
    assert by_key(table.drop(columns="hour"), ("origin",))["LGA"].tolist() == [2.5, 4.0]


def test_what_a_request_says_is_a_row_of_numbers() -> None:
    row = dict(zip(BASE, range(len(BASE)), strict=True))
    assert np.array_equal(base([row, row]), np.array([range(len(BASE))] * 2, dtype=float))


def test_areas_are_those_of_scikit_learn_and_the_error_of_a_loss_is_that_of_rows_drawn_again() -> None:
    draws = np.random.default_rng(4)
    late = (draws.random(800) < 0.3).astype(np.int64)
    full = late + draws.normal(size=800)
    other = np.round(full + 0.5 * draws.normal(size=800), 1)
    for score in (full, other):
        assert auc(late, score) == pytest.approx(roc_auc_score(late, score))

    def loss(rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
        return auc(late[rows], full[rows]) - auc(late[rows], other[rows])

    again = [loss(draws.integers(800, size=800)) for _ in range(300)]
    assert loss_error(late, full, other) == pytest.approx(np.std(again), rel=0.15)


def test_what_is_timed_comes_from_all_of_the_test_part_and_warming_is_not_counted() -> None:
    asked: list[int] = []
    table = Lookup(lambda keys: [[1.0] for _ in keys], cache=Cache(9_999))

    def query(flight: Mapping[str, Any]) -> float:
        asked.append(flight["flight"])
        # Every flight has a partner in its span's warm-up, whose row is cached.
        return float(table([flight["flight"] % joins.WARM]).sum())

    many = 50 * joins.WARM
    frame = pd.DataFrame({"month": 11, "day": 1, "departure_min": 1, "flight": range(many)})
    variant, sparse = Variant(query, lookups={"plane": table}), Variant(lambda flight: 0.0, every=10)
    joins._replay(Flights({"test": frame}, {}, {}), {"one": variant, "other": sparse}, DataClock(), joins.WARM, spans=5)
    assert (asked[0], asked[-1]) == (0, many - 1)
    assert len(np.unique(np.array(asked) * 5 // many)) == 5
    assert len(variant.latency_s) == 10 * len(sparse.latency_s) == 5 * joins.WARM
    assert (variant.hits["plane"], variant.looked_up["plane"]) == (5 * joins.WARM, 5 * joins.WARM)
    assert table.count.lookups == 2 * 5 * joins.WARM
    assert [(row.name, row.value) for row in use_rows("head", replace(variant, counters=[COUNTED, COUNTED]))] == [
        ("head/answered-by-small", 0.75),
        ("head/hit-rate/plane", 1.0),
    ]


COUNTED = Counters(("small", "full"), [3, 1], rows=4)


def test_a_bar_on_what_did_not_happen_cannot_be_met() -> None:
    rows = list(unmeasured.where(False, joins_rows()))
    assert [(row.name, row.met) for row in rows] == [("all/auc", None), ("all/auc-loss", False)]
    assert rows[0].value == 0.6
    assert (math.isnan(rows[1].value), rows[1].to_dict()["value"], rows[1].bar) == (True, None, "<= 0.01")
    assert list(unmeasured.where(True, joins_rows())) == joins_rows()
    unmeasured.check({"features-all": True}, "nothing was cascaded")
    with pytest.raises(HeadwayError, match=r"^bench b: nothing was cascaded, so that the rows with bars cannot be"):
        unmeasured.check({"a": True, "b": False}, "nothing was cascaded")


def joins_rows() -> list[Row]:
    return [Row("all/auc", 0.6, "AUC", baseline=0.6), Row("all/auc-loss", 0.0, "AUC", bar="<= 0.01")]


def test_flights_that_no_certainty_answers_are_no_loss_that_could_meet_a_bar() -> None:
    draws = np.random.default_rng(5)
    many = {part: pd.DataFrame({"a": draws.normal(size=80)}) for part in ("calibration", "test")}
    late = {part: (frame["a"] + draws.normal(size=80) > 0).to_numpy(np.int64) for part, frame in many.items()}

    class Alone(Flights):
        def joined(self, flights: pd.DataFrame) -> pd.DataFrame:
            return flights

    class Slope:
        def predict_proba(self, block: Any) -> Any:
            late = 1 / (1 + np.exp(-block[:, 0]))
            return np.column_stack([1 - late, late])

    def rows(threshold: float) -> dict[str, Row]:
        learned = joins.Learned(Slope(), Slope(), ("base",), threshold, {"base": slice(0, 1)})
        return {row.name.split("/")[1]: row for row in joins._auc_rows(Alone(many, late, {}), learned, seed=1)}

    assert [rows(0.2)[name].met for name in ("auc-loss", "auc-loss-bound")] == [True, True]
    assert [rows(2.0)[name].met for name in ("auc-loss", "auc-loss-bound")] == [False, False]
    assert math.isnan(rows(2.0)["auc-loss"].value)


def test_the_loss_is_that_of_folds_in_which_something_was_cascaded() -> None:
    def fold(answered: float, lost: int) -> Measured:
        return Measured(1.0, 4.0, 1.0, 1.0, 1.0, answered, answered, 0.8, np.arange(4), np.full(4, lost))

    rows = {row.name: row for row in rows_of("texts", 4, [fold(0.0, 0), fold(0.5, 1)])}
    assert rows["texts/loss"].value == 100.0
    assert rows["texts/draws"].value == 2
    assert {row.value for row in rows_of("texts", 4, [fold(0.0, 0)]) if row.name == "texts/loss"} == {0.0}


def test_a_quick_run_has_fewer_rows_in_the_same_proportions() -> None:
    labels = np.arange(4000) % 2
    data = Pools("texts", list(range(4000)), labels, 600, 600, 200, 3000, list)
    few = data.shrunk(seed=1)
    assert (few.pool, few.train, few.selection, len(few.rows)) == (300, 300, 100, 2000)
    assert few.labels.tolist() == [row % 2 for row in few.rows]
    assert few.labeled == sum(row < 3000 for row in few.rows)
    assert [part.size for part in few.parts(1)] == [300, 100, few.labels.size - few.labeled - 100]
