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

    The row is found by computing again, about as often as the number of rows has binary digits.
    """
    at = first_refused(lambda index: compute(*[take(each, index) for each in inputs]), len(known))
    place, rows = known.origin(at)
    many = count(rows)
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


def reason(error: Exception) -> str:
    """Return an exception's type and the first line of its text.

    >>> reason(ValueError("Input X contains NaN.\\nSee the manual."))
    'ValueError: Input X contains NaN'
    """
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0].rstrip('.')}" if text else type(error).__name__


def _shown(row: Any) -> str:
    return " ".join(reprlib.repr(row).split())
