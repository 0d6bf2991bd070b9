"""What every model said of the same labeled samples: all that judging and certifying cascades needs."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headway.cascade.columns import (
    Floats,
    certainty_columns,
    frozen,
    hardness_column,
    label_column,
    prediction_columns,
    score_columns,
)
from headway.errors import CascadeError, nearest
from headway.files import write_atomic
from headway.profile.labels import is_missing, is_whole, whole

_COLUMNS = ("sample", "model", "label", "predicted", "certainty", "score", "hardness")


@dataclass(frozen=True, eq=False, repr=False)
class ValidationTable:
    """Labels, and per model what it predicted for each sample and how certain it was; read-only columns.

    `labels`: shape (n,), numbers or text, of at least two classes. `predicted` and `certainty`: per model, shape (n,).
    `score`: where an answer is not simply right or wrong (ranking, regression), its credit per model and sample, from 0
    to 1; labels and predictions may then be None. `credit` is that, or 1 where the prediction is the label, else 0.
    `hardness`: shape (n,), how hard each sample is seen to be before any model is asked; None where not known.
    Models stand in the order of `certainty`. Raises CascadeError naming the model and what is missing.

    >>> table = ValidationTable([0, 1], {"small": [0, 0]}, {"small": [0.9, 0.6]})
    >>> table.accuracy("small"), table.correct["small"]
    (0.5, array([ True, False]))
    """

    labels: NDArray[Any] | None
    predicted: Mapping[str, NDArray[Any]] | None
    certainty: Mapping[str, Floats]
    score: Mapping[str, Floats] | None = None
    hardness: Floats | None = None
    credit: Mapping[str, Floats] = field(init=False)

    def __init__(
        self,
        labels: ArrayLike | None,
        predicted: Mapping[str, ArrayLike] | None,
        certainty: Mapping[str, ArrayLike],
        score: Mapping[str, ArrayLike] | None = None,
        hardness: ArrayLike | None = None,
    ) -> None:
        sure = certainty_columns(certainty)
        samples = len(next(iter(sure.values())))
        known = None if labels is None else label_column(labels, samples)
        said = None if predicted is None else prediction_columns(predicted, sure, known)
        given = None if score is None else score_columns(score, sure)
        if given is None and (known is None or said is None):
            raise CascadeError(
                "validation table: without labels and predictions nothing says which answers are right; give both, or "
                "a score per model and sample"
            )
        hard = None if hardness is None else hardness_column(hardness, samples)
        self._put(known, said, sure, given, hard)

    def _put(
        self,
        labels: NDArray[Any] | None,
        predicted: Mapping[str, NDArray[Any]] | None,
        certainty: Mapping[str, Floats],
        score: Mapping[str, Floats] | None,
        hardness: Floats | None,
    ) -> None:
        """Set columns that are known to belong together."""
        credit = score
        if credit is None:
            assert labels is not None
            assert predicted is not None
            credit = {name: (predicted[name] == labels).astype(np.float64) for name in certainty}
        put = object.__setattr__
        put(self, "labels", None if labels is None else frozen(labels))
        put(self, "hardness", None if hardness is None else frozen(hardness))
        groups = {"predicted": predicted, "certainty": certainty, "score": score, "credit": credit}
        for name, columns in groups.items():
            ordered = None if columns is None else {model: frozen(columns[model]) for model in certainty}
            put(self, name, None if ordered is None else MappingProxyType(ordered))

    def __repr__(self) -> str:
        return f"ValidationTable({self.samples} samples, models {', '.join(self.models)})"

    def __len__(self) -> int:
        return self.samples

    def __reduce__(self) -> tuple[Any, ...]:
        columns = (self.predicted, self.certainty, self.score)
        groups = (None if column is None else dict(column) for column in columns)
        return ValidationTable, (self.labels, *groups, self.hardness)

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models."""
        return tuple(self.certainty)

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(next(iter(self.certainty.values())))

    @property
    def graded(self) -> bool:
        """Whether some answer is neither right nor wrong: its credit lies between."""
        return any(bool(np.any((credit != 0.0) & (credit != 1.0))) for credit in self.credit.values())

    @property
    def correct(self) -> dict[str, NDArray[np.bool_]]:
        """Per model, which samples it answers rightly. Raises CascadeError when the table is graded."""
        if self.graded:
            raise CascadeError("validation table: its scores are graded, so no answer is simply right; use `credit`")
        return {name: credit == 1.0 for name, credit in self.credit.items()}

    def accuracy(self, model: str) -> float:
        """Return a model's mean credit: the share of right answers. Raises CascadeError for an unknown model."""
        return float(self.credit[self.known(model)].mean())

    def known(self, model: str) -> str:
        """Return the name, or raise CascadeError when the table has no such model."""
        if model not in self.certainty:
            raise CascadeError(
                f"validation table: no model {model!r}{nearest(model, self.models)}; it has {', '.join(self.models)}"
            )
        return model

    def take(self, rows: ArrayLike) -> ValidationTable:
        """Return the table of these rows (positions or a mask), in their order. Raises CascadeError for none.

        >>> len(ValidationTable([0, 1], {"a": [0, 0]}, {"a": [0.9, 0.6]}).take([0, 0, 1]))
        3
        """
        chosen = np.asarray(rows)
        chosen = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen.astype(np.int64)
        if chosen.size == 0:
            raise CascadeError("validation table: no rows are taken; at least one sample is needed")
        part = object.__new__(ValidationTable)
        columns = (self.predicted, self.certainty, self.score)
        predicted, certainty, score = (
            None if group is None else {name: column[chosen] for name, column in group.items()} for group in columns
        )
        labels, hardness = (None if column is None else column[chosen] for column in (self.labels, self.hardness))
        part._put(labels, predicted, certainty or {}, score, hardness)
        return part

    def split(self, shares: Sequence[float], seed: int) -> tuple[ValidationTable, ...]:
        """Return the tables of disjoint `parts` of about these shares. Raises CascadeError."""
        return tuple(self.take(rows) for rows in self.parts(shares, seed))

    def parts(self, shares: Sequence[float], seed: int) -> tuple[NDArray[np.int64], ...]:
        """Return the rows of disjoint parts of about these shares, each class in each part by its share (stratified).

        What the shares leave of 1 is left out. Within a class rows fall to the parts at random. Raises CascadeError for
        shares that are not positive or exceed 1 together, and for a part that no sample falls to.
        """
        bounds = np.cumsum(np.asarray(shares, np.float64))
        if bounds.size == 0 or min(shares) <= 0.0 or bounds[-1] > 1.0 + 1e-9:
            raise CascadeError(
                f"validation table: cannot split by {tuple(shares)}; shares must be above 0 and 1 together at most"
            )
        bounds[bounds > 1.0 - 1e-9] = 1.0
        rng = np.random.default_rng(seed)
        part = np.full(self.samples, bounds.size)
        groups = [np.arange(self.samples)]
        if self.labels is not None:
            classes, member = np.unique(self.labels, return_inverse=True)
            groups = [np.flatnonzero(member == at) for at in range(len(classes))]
        for rows in groups:
            # Where a part begins is drawn, so that a class of a single sample does not always fall to the largest part.
            place = (np.arange(len(rows)) + rng.random()) / len(rows)
            part[rng.permutation(rows)] = np.searchsorted(bounds, place, side="right")
        empty = [share for at, share in enumerate(shares) if not np.any(part == at)]
        if empty:
            raise CascadeError(
                f"validation table: no sample of {self.samples} falls to the part of share {empty[0]:g}; more samples "
                "or fewer parts are needed"
            )
        return tuple(np.flatnonzero(part == at) for at in range(bounds.size))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ValidationTable:
        """Read a table in CSV: a row per sample and model, as `write` writes it.

        Columns: `sample`, `model`, `certainty`, and `label` and `predicted`, or `score`, or all; also `hardness`.
        Where all labels and predictions are whole numbers, written as 3 or 3.0, or True and False, they become numbers,
        else they stay text. Raises CascadeError naming file and line, and for a model none of whose predictions is any
        of the labels.
        """
        target = Path(path)
        try:
            with target.open(newline="", encoding="utf-8-sig") as handle:
                return _parse(csv.reader(handle, strict=True))
        except OSError as error:
            raise CascadeError(f"{target}: cannot read the table: {error.strerror or error}") from None
        except (UnicodeDecodeError, csv.Error) as error:
            raise CascadeError(f"{target}: cannot read the table: {error}; a CSV file in UTF-8 is needed") from None
        except CascadeError as error:
            raise CascadeError(f"{target}: {error}") from None

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the table as CSV, a row per sample and model. Raises HeadwayError when that is not possible."""
        names = ["sample", "model"]
        names += [] if self.labels is None or self.predicted is None else ["label", "predicted"]
        names += ["certainty"] if self.score is None else ["certainty", "score"]
        names += [] if self.hardness is None else ["hardness"]
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(names)
        for model in self.models:
            columns: list[Sequence[Any]] = [range(self.samples), [model] * self.samples]
            if self.labels is not None and self.predicted is not None:
                columns += [self.labels.tolist(), self.predicted[model].tolist()]
            columns += [group[model].tolist() for group in (self.certainty, self.score) if group is not None]
            columns += [] if self.hardness is None else [self.hardness.tolist()]
            writer.writerows(zip(*columns, strict=True))
        write_atomic(path, buffer.getvalue())


def _parse(rows: Any) -> ValidationTable:
    """The table in CSV rows, header first; CascadeError names the line."""
    header: list[str] = next(rows, [])
    for name in header:
        if name not in _COLUMNS:
            raise CascadeError(
                f"line 1: unknown column {name!r}{nearest(name, _COLUMNS)}; known: {', '.join(_COLUMNS)}"
            )
    for name in ("sample", "model", "certainty"):
        if name not in header:
            raise CascadeError(f"line 1: no column {name!r}; every table needs it")
    cells: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows:
        if len(row) != len(header):
            raise CascadeError(f"line {rows.line_num}: {len(row)} values where the header names {len(header)} columns")
        values = dict(zip(header, row, strict=True))
        _known(values, rows.line_num)
        samples = cells.setdefault(values["model"], {})
        if values["sample"] in samples:
            raise CascadeError(
                f"line {rows.line_num}: sample {values['sample']!r} of model {values['model']!r} stands there twice; "
                "keep one row"
            )
        samples[values["sample"]] = values
    if not cells:
        raise CascadeError("validation table: it has no model; a row per sample and model must follow the header")
    order = list(next(iter(cells.values())))
    for model, samples in cells.items():
        for sample in (*order, *samples):
            if sample not in samples or sample not in cells[next(iter(cells))]:
                lacking = model if sample not in samples else next(iter(cells))
                raise CascadeError(f"model {lacking!r} has no row for sample {sample!r}; every model needs all samples")

    def column(model: str, name: str) -> list[str]:
        return [cells[model][sample][name] for sample in order]

    def group(name: str, made: Callable[[list[str]], Any]) -> dict[str, Any] | None:
        return {model: made(column(model, name)) for model in cells} if name in header else None

    labels = _agreed(cells, order, "label") if "label" in header else None
    said = group("predicted", list) or {}
    texts = [*(labels or []), *(text for texts in said.values() for text in texts)]
    typed: Callable[[list[str]], Any] = _whole if all(map(is_whole, texts)) else list
    if labels is not None:
        for model, answers in said.items():
            if not set(typed(answers)) & set(typed(labels)):
                raise CascadeError(
                    f"model {model!r} predicts {few(answers)} where labels are {few(labels)}; both must spell the same "
                    "classes alike"
                )
    return ValidationTable(
        None if labels is None else typed(labels),
        group("predicted", typed),
        group("certainty", list) or {},
        group("score", list),
        _agreed(cells, order, "hardness") if "hardness" in header else None,
    )


def _agreed(cells: Mapping[str, Mapping[str, Mapping[str, str]]], order: Sequence[str], what: str) -> list[str]:
    """The label of each sample, or its hardness; the rows of all models must state the same."""
    first, *others = cells
    stated = [cells[first][sample][what] for sample in order]
    for model in others:
        for sample, value in zip(order, stated, strict=True):
            if cells[model][sample][what] != value:
                raise CascadeError(
                    f"sample {sample!r} has the {what} {value!r} in the rows of {first!r} and "
                    f"{cells[model][sample][what]!r} in those of {model!r}; a sample has one {what}"
                )
    return stated


def _known(values: Mapping[str, str], line: int) -> None:
    """Refuse what stands for a value that is not known: a class that is not a number, a certainty without end."""
    for name in ("label", "predicted"):
        if values.get(name) and is_missing(values[name]):
            raise CascadeError(f"line {line}: the {name} is {values[name]!r}; leave the sample out, or name its class")
    if values["certainty"].strip().lower().lstrip("+-") in ("nan", "inf", "infinity"):
        raise CascadeError(f"line {line}: the certainty is {values['certainty']!r}; a finite number is needed")


def few(classes: Sequence[Any]) -> str:
    """Return the first few of some classes, for an error.

    >>> few(["b", "a", "b"])
    "'a', 'b'"
    """
    listed = sorted(set(classes))
    return ", ".join(repr(value) for value in listed[:3]) + (", ..." if len(listed) > 3 else "")


def _whole(texts: list[str]) -> NDArray[np.int64]:
    return np.array([whole(text) for text in texts], np.int64)
