"""Tables in this process joined by key: a dictionary for few rows, polars for many, the same numbers either way.

What pandas does anew for every query, laying out a table by its keys, is done once here. Willump compiles joins to hash
look-ups (MLSys 2020, section 5); for a whole frame of keys polars does that in one pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.cascade.lookup import as_keys
from headway.cascade.rows import count
from headway.errors import CascadeError

Floats = NDArray[np.float64]
Places = NDArray[np.int64]

FROM_ROWS = 5_000
"""Rows from which a frame's keys are joined by polars; below, preparing it takes longer than a look at each key."""


class Join:
    """A table, as what a `Feature` computes: given keys, the numbers in its other columns.

    `table` is a frame of pandas or polars, `on` the column or columns of the key, in the order of the feature's `of`;
    every other column is made of numbers, and a key stands in one row. A key that the table lacks, or that is itself
    missing, gets the row `default` where one is declared, else it is an error that names it.
    Raises CascadeError for a table that is not like this.

    >>> import pandas as pd
    >>> seats = Join(pd.DataFrame({"tailnum": ["N1", "N2"], "seats": [149, 55]}), "tailnum", default=[float("nan")])
    >>> seats(["N2", "N9", "N1"]).ravel().tolist()
    [55.0, nan, 149.0]
    """

    def __init__(self, table: Any, on: str | Sequence[str], *, default: Sequence[float] | None = None) -> None:
        names = [on] if isinstance(on, str) else list(on)
        missing = [name for name in names if name not in list(table.columns)]
        if missing:
            raise CascadeError(f"join: the table has no column {missing[0]!r}; it has {', '.join(table.columns)}")
        self.columns = [name for name in table.columns if name not in names]
        self._keys = [table[name] for name in names]
        keys = as_keys(table[names] if len(names) > 1 else table[names[0]])
        self._place = {key: place for place, key in enumerate(keys) if key is not None}
        if len(self._place) < sum(key is not None for key in keys):
            twice = next(key for place, key in enumerate(keys) if key is not None and self._place[key] != place)
            raise CascadeError(f"join: the key {twice!r} stands in several rows; aggregate them, or keep one")
        self._rows = _numbers(table, self.columns, default)
        self._has_default = default is not None
        self._frame: Any = None

    def __call__(self, keys: Any) -> Floats:
        """Return one row per key. Raises CascadeError for an unknown key without default."""
        many = count(keys) >= FROM_ROWS and not isinstance(keys, list)
        places = self.joined(keys) if many and _polars() is not None else self.looked_up(keys)
        if not self._has_default and places.size and places.min() < 0:
            unknown = as_keys(keys)[int(np.argmin(places))]
            what = "a row has no key" if unknown is None else f"there is nothing under the key {unknown!r}"
            raise CascadeError(f"join: {what}; declare a default for unknown keys")
        return self.rows(places)

    def rows(self, places: Places) -> Floats:
        """Return the rows at places in the table, at -1 the default."""
        found: Floats = self._rows[places]
        return found

    def looked_up(self, keys: Any) -> Places:
        """Return the place of each key in the table, -1 for unknown ones, by a dictionary."""
        place = self._place
        return np.array([place.get(key, -1) for key in as_keys(keys)], dtype=np.int64)

    def joined(self, keys: Any) -> Places:
        """Return the same by polars, of keys in columns: an array, a series or a frame."""
        polars = _polars()
        if self._frame is None:
            table = _columns(self._keys)
            self._frame = table.with_columns(polars.Series("place", np.arange(table.height))).drop_nulls()
        asked = _columns([keys[name] for name in keys.columns] if hasattr(keys, "columns") else _split(keys))
        names = asked.columns
        asked = asked.cast({name: self._frame.schema[name] for name in names}, strict=False)
        found = asked.join(self._frame, on=names, how="left", maintain_order="left")["place"]
        places: Places = found.fill_null(-1).to_numpy()
        return places


def aggregated(table: Any, on: str | Sequence[str], made: Mapping[str, tuple[str, str]]) -> Any:
    """Return one row per key with aggregates of columns: `made` is {name: (column, aggregate)}, such as "mean".

    A frame of polars stays one; one of pandas goes through polars where that is installed, which is several times as
    fast. Aggregates are those that both know: mean, sum, min, max, median, std, count.
    Raises CascadeError for another aggregate.

    >>> import pandas as pd
    >>> flights = pd.DataFrame({"carrier": ["A", "B", "A"], "late": [1, 0, 0]})
    >>> aggregated(flights, "carrier", {"late_share": ("late", "mean")}).sort("carrier").rows()
    [('A', 0.5), ('B', 0.0)]
    """
    names = [on] if isinstance(on, str) else list(on)
    for _, how in made.values():
        if how not in AGGREGATES:
            raise CascadeError(f"aggregate: {how!r} is not known; known: {', '.join(AGGREGATES)}")
    polars = _polars()
    if polars is None:
        return table.groupby(names, as_index=False).agg(**made)
    needed = list(dict.fromkeys([*names, *(column for column, _ in made.values())]))
    frame = as_polars(table[needed])
    columns = [getattr(polars.col(column), how)().alias(name) for name, (column, how) in made.items()]
    return frame.group_by(names).agg(columns)


def as_polars(frame: Any) -> Any:
    """Return a frame of pandas as one of polars, which needs no pyarrow here; one of polars is returned as it is.

    >>> import pandas as pd
    >>> as_polars(pd.DataFrame({"a": [1, 2]})).shape
    (2, 1)
    """
    polars = _polars()
    return (
        frame
        if isinstance(frame, polars.DataFrame)
        else _columns([frame[name] for name in frame.columns], frame.columns)
    )


AGGREGATES = ("mean", "sum", "min", "max", "median", "std", "count")


def _numbers(table: Any, columns: Sequence[str], default: Sequence[float] | None) -> Floats:
    """The numbers of a table, and after them the row that unknown keys get: place -1."""
    last = np.full(len(columns), np.nan) if default is None else np.asarray(default, dtype=np.float64).ravel()
    if last.size != len(columns):
        raise CascadeError(f"join: the default has {last.size} values; the table has {len(columns)} beside its key")
    rows = np.empty((count(table) + 1, len(columns)))
    rows[-1] = last
    for place, name in enumerate(columns):
        try:
            rows[:-1, place] = np.asarray(table[name], dtype=np.float64)
        except (TypeError, ValueError):
            raise CascadeError(f"join: column {name!r} is not made of numbers; encode it, or leave it out") from None
    return rows


def _columns(series: Sequence[Any], names: Sequence[str] | None = None) -> Any:
    """Columns as a frame of polars, numbers that are none being null; named by place unless named otherwise."""
    polars = _polars()
    made = []
    for place, one in enumerate(series):
        column = one if isinstance(one, polars.Series) else polars.Series(_plain(one))
        column = column.fill_nan(None) if column.dtype.is_float() else column
        made.append(column.alias(str(place) if names is None else names[place]))
    return polars.DataFrame(made)


def _plain(column: Any) -> Any:
    """A column as an array of numbers, or as a list of what else it holds."""
    array = np.asarray(column)
    if array.dtype.kind in "biuf":
        return array
    return [None if value is None or value != value else value for value in array.tolist()]


def _split(keys: Any) -> list[Any]:
    array = np.asarray(keys)
    return [array] if array.ndim == 1 else [array[:, place] for place in range(array.shape[1])]


def _polars() -> Any:
    try:
        import polars
    except ModuleNotFoundError:
        return None
    return polars
