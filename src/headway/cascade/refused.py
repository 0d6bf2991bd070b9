"""Rows that a feature or a model cannot take: which is the first one, and why, in one sentence."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.cascade.rows import Index, count, take
from headway.errors import CascadeError

if TYPE_CHECKING:
    from headway.cascade.features import Known

VALUE_ERRORS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What code raises for a value that it cannot take; anything else, such as a source that does not answer, is its own
affair."""


def refused(
    what: str, known: Known, compute: Callable[..., object], inputs: list[Any], error: Exception
) -> CascadeError:
    """Return what to raise where `compute(*inputs)` raised `error` for the rows that are known, one line of each input
    being a row: a sentence that names the first row at fault. `what` begins it, such as "feature 'word'".

    The row is found by computing again, about as often as the number of rows has binary digits. Where it is taken when
    it comes alone none is blamed: what failed has passed, or lies in rows together.
    """

    def again(index: Index) -> object:
        return compute(*[take(each, index) for each in inputs])

    at = first_refused(again, len(known))
    place, rows = known.origin(at)
    many = count(rows)
    if _taken(again, at):
        return CascadeError(
            f"{what}: failed for {len(known):,} rows with {reason(error)}, and no row can be blamed, since row {place} "
            f"of {many:,}, counted from 0, is taken alone; what it asks must answer alike each time, and rows must be "
            "like those that it was fitted on"
        )
    where = f"row {place} of {many:,}, counted from 0," if many > 1 else "the row"
    shown = "" if hasattr(rows, "columns") else f" {_shown(rows[place])}"
    return CascadeError(
        f"{what}: cannot take {where}{shown}: {reason(error)}; rows must be like those that it was fitted on"
    )


def first_refused(compute: Callable[[Index], object], many: int) -> int:
    """Return the first row with which rows cannot be taken any more, where all `many` together cannot.

    >>> first_refused(lambda index: [1 / (row - 2) for row in index.tolist()], 5)
    2
    """
    taken, fails = 0, many
    while fails - taken > 1:
        middle = (taken + fails) // 2
        try:
            compute(np.arange(middle))
        except VALUE_ERRORS:
            fails = middle
        else:
            taken = middle
    return fails - 1


def unlearned(what: str, rows: int, error: Exception) -> CascadeError:
    """Return what to raise where something could not be fitted on learning rows.

    >>> print(unlearned("model 'full'", 9, ValueError("X has NaN.")))
    model 'full': cannot be fitted on 9 rows: ValueError: X has NaN; give rows and labels that it can learn from
    """
    return CascadeError(
        f"{what}: cannot be fitted on {rows:,} rows: {reason(error)}; give rows and labels that it can learn from"
    )


def reason(error: Exception) -> str:
    """Return an exception's type and the first line of its text.

    >>> reason(ValueError("Input X contains NaN.\\nSee the manual."))
    'ValueError: Input X contains NaN'
    """
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0].rstrip('.')}" if text else type(error).__name__


def _taken(compute: Callable[[Index], object], at: int) -> bool:
    try:
        compute(np.arange(at, at + 1))
    except VALUE_ERRORS:
        return False
    return True


def _shown(row: Any) -> str:
    return " ".join(reprlib.repr(row).split())
