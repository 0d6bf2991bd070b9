"""Rows in whatever form they come: lists, NumPy arrays, SciPy's sparse matrices, frames of pandas or polars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.errors import CascadeError, nearest

Rows = Any
"""A list, a 2-D array (dense or sparse) or a frame, with one line per row."""
Block = Any
"""What a feature generator makes of rows: a 2-D NumPy array or a sparse matrix by rows, one line per row."""
Columns = str | int | tuple[str | int, ...]
"""One column, given as a vector, or several, given as a table: by name, or by place counted from 0."""
Index = NDArray[np.int64]


def count(rows: Rows) -> int:
    """Return how many rows there are. Raises CascadeError for what has no length, such as a generator, and for a text
    or a mapping, which is one row.

    >>> count(["a", "b"])
    2
    """
    shape = getattr(rows, "shape", None)
    if shape:
        return int(shape[0])
    if isinstance(rows, str | bytes | Mapping):
        raise CascadeError(f"rows: a {type(rows).__name__} is one row; give a list of rows, such as [row]")
    try:
        return len(rows)
    except TypeError:
        raise CascadeError(f"rows: a {type(rows).__name__} has no length; give a list, an array or a frame") from None


def take(rows: Rows, index: Index) -> Rows:
    """Return the rows at these places, in this order, in the form in which the rows come.

    >>> take(["a", "b", "c"], np.array([2, 0]))
    ['c', 'a']
    """
    if hasattr(rows, "iloc"):
        return rows.iloc[index]
    if hasattr(rows, "shape"):
        return rows[index]
    return [rows[place] for place in index.tolist()]


def select(rows: Rows, columns: Columns) -> Any:
    """Return one column as a vector, or several as a table. Lists may hold mappings, one per row.

    Raises CascadeError for a column that the rows do not have.

    >>> select([{"text": "a", "stars": 5}, {"text": "b", "stars": 1}], "text")
    ['a', 'b']
    """
    if type(rows) is list and rows and type(rows[0]) is dict:
        found = _of_mappings(rows, columns)
        if found is not None:
            return found
    names = column_names(rows)
    for column in columns if isinstance(columns, tuple) else (columns,):
        if column not in names and not (isinstance(column, int) and -len(names) <= column < len(names)):
            valid = [str(name) for name in names]
            raise CascadeError(f"rows: no column {column!r}{nearest(str(column), valid)}; they have {_listed(valid)}")
    several = list(columns) if isinstance(columns, tuple) else columns
    if hasattr(rows, "columns"):
        return rows[_labels(names, several)]
    if hasattr(rows, "shape"):
        return rows[:, several]
    for at, row in enumerate(rows):
        _check_mapping(at, row, columns if isinstance(columns, tuple) else (columns,))
    if isinstance(several, list):
        return [[row[column] for column in several] for row in rows]
    return [row[several] for row in rows]


def column_names(rows: Rows) -> Sequence[str | int]:
    """Return the names of the columns, or their places where they have no names; none when a row is one value.

    >>> column_names(np.zeros((4, 2)))
    [0, 1]
    """
    if hasattr(rows, "columns"):
        return list(rows.columns)
    shape = getattr(rows, "shape", None)
    if shape is not None:
        return list(range(shape[1])) if len(shape) == 2 else []
    first = next(iter(rows), None)
    return list(first) if isinstance(first, Mapping) else []


def as_block(value: Any, name: str) -> Block:
    """Return what feature `name` gave as a block: a vector becomes one column.

    Raises CascadeError for what a model cannot take: more than two dimensions, or lists of unequal length.

    >>> as_block([1.0, 2.0], "size").shape
    (2, 1)
    """
    if type(value) is np.ndarray and value.ndim == 2:
        return value
    if hasattr(value, "tocsr"):
        return value.tocsr()
    try:
        block = np.asarray(value)
    except ValueError as error:
        raise CascadeError(f"feature {name!r}: its rows have different lengths; return a 2-D array") from error
    if block.ndim == 1:
        return block[:, None]
    if block.ndim != 2:
        raise CascadeError(f"feature {name!r}: gave {block.ndim} dimensions; a model takes 2, rows and columns")
    return block


def stack(blocks: Sequence[Block]) -> Block:
    """Return blocks side by side: sparse when one of them is, else dense.

    >>> stack([np.ones((2, 1)), np.zeros((2, 2))]).shape
    (2, 3)
    """
    if len(blocks) == 1:
        return blocks[0]
    if any(hasattr(block, "tocsr") for block in blocks):
        from scipy import sparse

        return sparse.hstack(blocks, format="csr")
    return np.concatenate(blocks, axis=1)


def _of_mappings(rows: list[dict[Any, Any]], columns: Columns) -> list[Any] | None:
    """Columns of mappings without looking at their names first; None where one lacks a column."""
    try:
        if isinstance(columns, tuple):
            return [[row[column] for column in columns] for row in rows]
        return [row[columns] for row in rows]
    except (KeyError, TypeError):
        return None


def _check_mapping(at: int, row: Any, columns: tuple[str | int, ...]) -> None:
    lacking = [column for column in columns if not isinstance(row, Mapping) or column not in row]
    if lacking:
        given = f"it has {_listed(map(str, row))}" if isinstance(row, Mapping) else f"it is a {type(row).__name__}"
        raise CascadeError(f"rows: row {at}, counted from 0, has no column {lacking[0]!r}; {given}")


def _labels(names: Sequence[str | int], columns: Any) -> Any:
    def label(column: str | int) -> Any:
        return column if isinstance(column, str) or column in names else names[column]

    return [label(column) for column in columns] if isinstance(columns, list) else label(columns)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "no columns: a row is one value"
