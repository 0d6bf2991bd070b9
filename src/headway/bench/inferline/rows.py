"""Results as rows of a CSV that a person can read: what is in the file is not computed again."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.errors import HeadwayError
from headway.files import write_atomic


@dataclass(frozen=True, slots=True)
class Result:
    """One system in one cell of an experiment, planned and served once.

    `cost_usd` is dollars per hour of a plan, or dollars over the run where a tuner changes it. It is None, like the
    miss rates, where the system finds no plan. `mean_miss_rate` is served with every batch taking its mean, as the
    paper's estimator has it. `inputs` is a hash of spec, profile, traces and sizes, by which stale rows are known.
    """

    experiment: str
    workload: str
    pipeline: str
    rate_per_s: float
    cv: float
    slo_ms: float
    gpu_usd_per_hour: float
    item_share: float
    system: str
    seed: int
    cost_usd: float | None
    miss_rate: float | None
    mean_miss_rate: float | None
    gap_ratio: float | None
    inputs: str
    date: str = ""
    machine: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells this row from all others."""
        return tuple(getattr(self, name) for name in _KEY)


_FIELDS = [field.name for field in dataclasses.fields(Result)]
_KEY = _FIELDS[: _FIELDS.index("cost_usd")]
_TEXT = {"experiment", "workload", "pipeline", "system", "inputs", "date", "machine"}


class Book:
    """The results known so far, in memory or in a file that every addition rewrites.

    Raises HeadwayError when the file is no such book.

    >>> Book().results
    []
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._known: dict[tuple[Any, ...], Result] = {}
        if path is not None and path.exists():
            self._known = {result.key: result for result in _read(path)}

    @property
    def results(self) -> list[Result]:
        """All results, in a fixed order."""
        return sorted(self._known.values(), key=lambda result: result.key)

    def find(self, wanted: Result) -> Result | None:
        """Return the result of the same key and the same inputs, if it is known."""
        known = self._known.get(wanted.key)
        return known if known is not None and known.inputs == wanted.inputs else None

    def add(self, results: Iterable[Result]) -> None:
        """Keep results; older ones of the same key are replaced."""
        self._known.update((result.key, result) for result in results)
        if self.path is not None:
            write_atomic(self.path, _text(self.results))


def _text(results: Iterable[Result]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_FIELDS)
    for result in results:
        writer.writerow(_cell(getattr(result, name)) for name in _FIELDS)
    return text.getvalue()


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _read(path: Path) -> Iterable[Result]:
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        if reader.fieldnames != _FIELDS:
            raise HeadwayError(f"{path}: not results of this benchmark; its header is to be {','.join(_FIELDS)}")
        for row in reader:
            try:
                yield Result(**{name: _value(name, row[name]) for name in _FIELDS})
            except (TypeError, ValueError) as error:
                raise HeadwayError(f"{path}: line {reader.line_num}: {error}") from None


def _value(name: str, text: str) -> Any:
    if name in _TEXT:
        return text
    if name == "seed":
        return int(text)
    return float(text) if text else None
