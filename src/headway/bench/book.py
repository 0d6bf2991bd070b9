"""Results as rows of a CSV that a person can read: what is in the file is not computed again."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from headway.bench import machine
from headway.errors import HeadwayError
from headway.files import write_atomic


class Entry(Protocol):
    """A result as a book keeps it: a dataclass of texts and numbers."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells this row from all others."""
        ...

    @property
    def inputs(self) -> str:
        """A hash by which stale rows are known."""
        ...

    @property
    def date(self) -> str:
        """The day on which it was computed, ISO-8601."""
        ...

    @property
    def machine(self) -> str:
        """The machine on which it was computed, as `headway.bench.machine` names it."""
        ...


R = TypeVar("R", bound=Entry)


class Stamp(NamedTuple):
    """When and where results are computed."""

    date: str
    machine: str

    @classmethod
    def here(cls) -> Stamp:
        """Return today on this machine."""
        return cls(datetime.now(UTC).date().isoformat(), machine())

    def on(self, result: R) -> R:
        """Return a result with this stamp."""
        return dataclasses.replace(result, date=self.date, machine=self.machine)


class Book(Generic[R]):
    """The results known so far, in memory or in a file that every addition rewrites.

    `kind` is their dataclass: its fields are the columns, typed `str`, `int`, `float` or `float | None`. Raises
    HeadwayError when the file is no such book.
    """

    def __init__(self, kind: type[R], path: Path | None = None) -> None:
        self.kind, self.path = kind, path
        self._fields = {field.name: str(field.type) for field in dataclasses.fields(kind)}
        self._known: dict[tuple[Any, ...], R] = {}
        if path is not None and path.exists():
            self._known = {result.key: result for result in self._read(path)}

    @property
    def results(self) -> list[R]:
        """All results, in a fixed order."""
        return sorted(self._known.values(), key=lambda result: result.key)

    def find(self, wanted: R) -> R | None:
        """Return the result of the same key and the same inputs, if it is known."""
        known = self._known.get(wanted.key)
        return known if known is not None and known.inputs == wanted.inputs else None

    def add(self, results: Iterable[R]) -> None:
        """Keep results; older ones of the same key are replaced."""
        self._known.update((result.key, result) for result in results)
        self._keep()

    def remove(self, unwanted: Callable[[R], bool]) -> None:
        """Forget the results of which that is true."""
        kept = {key: result for key, result in self._known.items() if not unwanted(result)}
        if len(kept) < len(self._known):
            self._known = kept
            self._keep()

    def _keep(self) -> None:
        if self.path is not None:
            write_atomic(self.path, self._text())

    def _text(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self._fields)
        for result in self.results:
            writer.writerow(_cell(getattr(result, name)) for name in self._fields)
        return text.getvalue()

    def _read(self, path: Path) -> Iterable[R]:
        with path.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            if reader.fieldnames != list(self._fields):
                names = ",".join(self._fields)
                raise HeadwayError(f"{path}: not results of this benchmark; its header is to be {names}")
            for row in reader:
                try:
                    yield self.kind(**{name: _value(kind, row[name]) for name, kind in self._fields.items()})
                except (TypeError, ValueError) as error:
                    raise HeadwayError(f"{path}: line {reader.line_num}: {error}") from None


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _value(kind: str, text: str) -> Any:
    if kind == "str":
        return text
    if kind == "int":
        return int(text)
    return float(text) if text else None
