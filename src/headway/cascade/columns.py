"""What the columns of a validation table must be: complete, of one length, and of one kind with the labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headway.errors import CascadeError

Floats = NDArray[np.float64]


def frozen(column: NDArray[Any]) -> NDArray[Any]:
    """Return a view that cannot be written to."""
    view = column.view()
    view.flags.writeable = False
    return view


def _vector(what: str, column: ArrayLike) -> NDArray[Any]:
    out = np.asarray(column)
    if out.ndim != 1:
        raise CascadeError(f"validation table: {what} has the shape {out.shape}; one value per sample is needed")
    if out.dtype.kind == "O":
        out = np.array(["" if value is None else value for value in out.tolist()])
    return out


def _numbers(what: str, column: ArrayLike) -> Floats:
    try:
        out = _vector(what, column).astype(np.float64)
    except (TypeError, ValueError):
        raise CascadeError(f"validation table: {what} is not made of numbers") from None
    _complete(what, np.isnan(out))
    return out


def _complete(what: str, missing: NDArray[np.bool_]) -> None:
    if np.any(missing):
        raise CascadeError(
            f"validation table: {what} is missing for {int(missing.sum())} of {missing.size} samples, first for sample "
            f"{int(np.argmax(missing))}; leave these samples out, or complete them"
        )


def _missing(column: NDArray[Any]) -> NDArray[np.bool_]:
    if column.dtype.kind == "f":
        unknown: NDArray[np.bool_] = np.isnan(column)
        return unknown
    if column.dtype.kind not in "US":
        return np.zeros(column.shape, np.bool_)
    return np.array(column == "", np.bool_)


def _check_samples(what: str, columns: Mapping[str, NDArray[Any]], certainty: Mapping[str, NDArray[Any]]) -> None:
    if not certainty:
        raise CascadeError("validation table: it has no model; at least one is needed")
    samples = len(next(iter(certainty.values())))
    if samples == 0:
        raise CascadeError("validation table: it has no samples; at least one is needed")
    for name in (*certainty, *columns):
        if name not in columns or name not in certainty:
            lacking = what if name not in columns else "certainty"
            raise CascadeError(f"validation table: model {name!r} has no {lacking}; every model needs its own")
        if len(columns[name]) != samples:
            raise CascadeError(
                f"validation table: {what} of model {name!r} has {len(columns[name])} samples where others have "
                f"{samples}; all need the same samples in the same order"
            )


def certainty_columns(certainty: Mapping[str, ArrayLike]) -> dict[str, Floats]:
    """Return per model how certain it was of every sample. Raises CascadeError when one lacks, and for no samples.

    >>> certainty_columns({"small": [0.5, 1]})
    {'small': array([0.5, 1. ])}
    """
    out = {name: _numbers(f"certainty of model {name!r}", column) for name, column in certainty.items()}
    _check_samples("certainty", out, out)
    return out


def label_column(labels: ArrayLike, samples: int) -> NDArray[Any]:
    """Return the label of every sample. Raises CascadeError when one lacks, or all are the same."""
    out = _vector("the labels", labels)
    if len(out) != samples:
        raise CascadeError(f"validation table: {len(out)} labels for {samples} samples; every sample needs its own")
    _complete("the label", _missing(out))
    if np.all(out == out[0]):
        raise CascadeError(
            f"validation table: all {samples} samples have the label {out[0].item()!r}; accuracy on one class says "
            "nothing of the others: add samples of another class"
        )
    return out


def hardness_column(hardness: ArrayLike, samples: int) -> Floats:
    """Return how hard every sample is. Raises CascadeError when one lacks."""
    out = _numbers("the hardness", hardness)
    if len(out) != samples:
        raise CascadeError(f"validation table: {len(out)} hardnesses for {samples} samples; every sample needs its own")
    return out


def prediction_columns(
    predicted: Mapping[str, ArrayLike], certainty: Mapping[str, Floats], labels: NDArray[Any] | None
) -> dict[str, NDArray[Any]]:
    """Return per model what it predicted. Raises CascadeError when one lacks, or cannot be compared with labels."""
    out = {name: _vector(f"predictions of model {name!r}", column) for name, column in predicted.items()}
    _check_samples("predictions", out, certainty)
    for name, column in out.items():
        _complete(f"the prediction of model {name!r}", _missing(column))
        if labels is not None and (column.dtype.kind in "US") != (labels.dtype.kind in "US"):
            raise CascadeError(
                f"validation table: model {name!r} predicts {column[0].item()!r} where labels are like "
                f"{labels[0].item()!r}; both must be text, or both numbers"
            )
    return out


def score_columns(score: Mapping[str, ArrayLike], certainty: Mapping[str, Floats]) -> dict[str, Floats]:
    """Return per model its credit for every sample. Raises CascadeError when one lacks, or is not from 0 to 1."""
    out = {name: _numbers(f"score of model {name!r}", column) for name, column in score.items()}
    _check_samples("score", out, certainty)
    for name, column in out.items():
        if column.min() < 0.0 or column.max() > 1.0:
            raise CascadeError(
                f"validation table: scores of model {name!r} go from {column.min():g} to {column.max():g}; a score is "
                "a credit from 0 to 1"
            )
    return out
