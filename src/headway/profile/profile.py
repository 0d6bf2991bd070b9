"""The profile: rows of measured work, recorded visits, and where both come from."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headway.errors import ProfileError, nearest
from headway.files import PathLike, content_hash, write_together
from headway.profile.beside import SCHEMA, belonging, is_ours, place_beside
from headway.profile.overheads import Overheads
from headway.profile.service import ServiceTime

EVIDENCE = ("measured", "observed", "imported", "prior")
MAX_BATCH_SIZE = 4096
"""Largest batch of a row: tables of service times have an entry per size, so a slip would fill the memory."""

MOST_MEAN = 5.0
"""How many times its 99th percentile the mean of an imported row may be."""

_REQUIRED = ("stage", "hardware", "batch_size", "mean_s")


@dataclass(frozen=True, slots=True)
class Row:
    """One measured cell: how long a batch of `batch_size` takes at a stage's variant on some hardware."""

    stage: str
    hardware: str
    batch_size: int
    mean_s: float
    variant: str = "default"
    p50_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None
    samples: int | None = None
    accuracy: float | None = None
    startup_s: float | None = None
    memory_mb: float | None = None
    evidence: str = "imported"

    def to_dict(self) -> dict[str, Any]:
        """Return the row without what is unknown."""
        return {k: v for k, v in ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self)) if v is not None}


@dataclass(frozen=True, slots=True)
class RecordedVisits:
    """How many items of each sample request entered each stage, recorded under one choice of variants.

    `counts[stage][sample]`; all stages have the same number of samples, so correlation between stages is kept.
    `left_out` is how many more samples there were that no time was left for.
    """

    counts: Mapping[str, tuple[int, ...]]
    variants: Mapping[str, str] = field(default_factory=dict)
    left_out: int = 0

    @property
    def samples(self) -> int:
        """How many samples have been counted."""
        return len(next(iter(self.counts.values()), ()))

    @property
    def unvisited(self) -> tuple[str, ...]:
        """The stages that no sample reached: nothing says how much load they see, and that is not none."""
        return tuple(stage for stage, counts in self.counts.items() if not any(counts))

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        out: dict[str, Any] = {"variants": dict(self.variants)}
        out["counts"] = {stage: list(counts) for stage, counts in self.counts.items()}
        return {**out, "left_out": self.left_out} if self.left_out else out

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> RecordedVisits:
        """Return the record that JSON values describe; raises ProfileError when they are not one."""
        try:
            counts = {str(stage): tuple(int(n) for n in c) for stage, c in value["counts"].items()}
            variants = {str(k): str(v) for k, v in value.get("variants", {}).items()}
            left_out = int(value.get("left_out", 0))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProfileError(
                f"recorded visits: {error!r}; valid: {{variants: {{}}, counts: {{stage: [..]}}}}"
            ) from None
        if len({len(c) for c in counts.values()}) > 1 or any(n < 0 for c in counts.values() for n in c):
            raise ProfileError(
                "recorded visits: every stage needs one non-negative count per sample, as many as the others"
            )
        if left_out < 0:
            raise ProfileError(f"recorded visits: left_out is {left_out}; it must be at least 0")
        return cls(counts, variants, left_out)


@dataclass(frozen=True)
class Profile:
    """What work costs, as rows that a person can read, diff and commit.

    `overheads` are what serving adds to the rows; None means that this was never observed, not that it is nothing.
    `source` names the profile in errors: its file, where it was read from one.

    >>> Profile.from_rows([Row("detect", "cpu", 1, 0.05)]).service("detect", "default", "cpu").mean_at(1)
    0.05
    """

    rows: tuple[Row, ...]
    visits: tuple[RecordedVisits, ...] = ()
    stamp: Mapping[str, Any] = field(default_factory=dict)
    overheads: Overheads | None = None
    source: str = field(default="profile", repr=False, compare=False)
    _services: dict[tuple[str, str, str, bool], ServiceTime] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[Row],
        visits: Sequence[RecordedVisits] = (),
        stamp: Mapping[str, Any] | None = None,
        overheads: Overheads | None = None,
    ) -> Profile:
        """Return a profile after checking every row. Raises ProfileError that names the row, or the overhead."""
        checked: dict[tuple[str, str, str, int], Row] = {}
        for row in rows:
            _check_row(row)
            key = (row.stage, row.variant, row.hardware, row.batch_size)
            if key in checked:
                raise ProfileError(
                    f"profile: {row.stage}, variant {row.variant}, {row.hardware}, batch size {row.batch_size} "
                    "stands there twice; keep one row"
                )
            checked[key] = row
        stages = tuple(dict.fromkeys(row.stage for row in checked.values()))
        for stage in (*overheads.batch_s, *overheads.utilization) if overheads is not None else ():
            if stage not in stages:
                raise ProfileError(f"profile: overheads: no rows for stage {stage!r}{nearest(stage, stages)}")
        return cls(tuple(checked.values()), tuple(visits), dict(stamp or {}), overheads)

    def hardware(self, stage: str, variant: str) -> tuple[str, ...]:
        """Return the hardware that a stage's variant has been profiled on, in the order of the rows."""
        return tuple(dict.fromkeys(r.hardware for r in self.rows if r.stage == stage and r.variant == variant))

    @property
    def request_overhead_s(self) -> float:
        """What serving adds to every request's latency; 0 when it was never observed."""
        return 0.0 if self.overheads is None else self.overheads.request_s

    def service(self, stage: str, variant: str, hardware: str, *, overhead: bool = True) -> ServiceTime:
        """Return the service time of a stage's variant on some hardware, with what serving adds to each batch.

        Without `overhead` it is what the rows say. Raises ProfileError when it was not profiled.
        """
        key = (stage, variant, hardware, overhead)
        if key not in self._services:
            rows = [r for r in self.rows if (r.stage, r.variant, r.hardware) == key[:3]]
            if not rows:
                raise ProfileError(self._missing(stage, variant, hardware))
            added = self.overheads.batch_s if overhead and self.overheads is not None else {}
            self._services[key] = ServiceTime.from_rows(rows, added.get(stage, 0.0))
        return self._services[key]

    def visits_for(self, variants: Mapping[str, str]) -> RecordedVisits | None:
        """Return the visits recorded under this choice of variants, or those recorded under no choice, or None."""
        best = None
        for record in self.visits:
            if all(variants.get(stage) == name for stage, name in record.variants.items()) and (
                best is None or len(record.variants) > len(best.variants)
            ):
                best = record
        return best

    def subset(self, keep: Iterable[tuple[str, str, str]]) -> Profile:
        """Return only the rows of the named (stage, variant, hardware), for a plan that embeds what it uses."""
        wanted = set(keep)
        rows = tuple(r for r in self.rows if (r.stage, r.variant, r.hardware) in wanted)
        kept = None if self.overheads is None else self.overheads.only(frozenset(row.stage for row in rows))
        return dataclasses.replace(self, rows=rows, overheads=kept)

    @property
    def hash(self) -> str:
        """A short stable hash of everything in the profile but its stamp."""
        return content_hash({key: value for key, value in self.to_dict().items() if key != "stamp"})

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as JSON values."""
        out: dict[str, Any] = {"rows": [row.to_dict() for row in self.rows]}
        if self.visits:
            out["visits"] = [record.to_dict() for record in self.visits]
        if self.stamp:
            out["stamp"] = dict(self.stamp)
        if self.overheads is not None:
            out["overheads"] = self.overheads.to_dict()
        return out

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Profile:
        """Return the profile that JSON values describe. Raises ProfileError."""
        return cls._with(_rows(value), value)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Profile:
        """Read a profile CSV, and the visits, stamp and overheads beside it in `NAME.json` when there are any.

        Raises ProfileError naming file, line and field.
        """
        target = Path(path)
        try:
            with target.open(newline="", encoding="utf-8-sig") as handle:
                rows = list(_parse(target, handle))
            beside = target.with_suffix(".json")
            extra = json.loads(beside.read_text()) if beside.exists() and beside != target else {}
        except OSError as error:
            raise ProfileError(f"{target}: cannot read the profile: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise ProfileError(
                f"{target}: cannot read the profile: it is not UTF-8 text; a CSV file is needed"
            ) from None
        except json.JSONDecodeError as error:
            raise ProfileError(f"{target.with_suffix('.json')}:{error.lineno}: {error.msg}") from None
        extra = belonging(extra, beside)
        try:
            return dataclasses.replace(cls._with(rows, extra), source=str(target))
        except ProfileError as error:
            raise ProfileError(f"{target}: {error}") from None

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the rows as CSV, and visits, stamp and overheads as JSON beside it, together.

        The JSON of a former profile does not outlive it. Raises HeadwayError when the files cannot be written, and
        ProfileError as `place_beside` does.
        """
        target = Path(path)
        names = [f.name for f in dataclasses.fields(Row)]
        names = [n for n in names if n in _REQUIRED or any(getattr(row, n) is not None for row in self.rows)]
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(names)
        for row in self.rows:
            writer.writerow(["" if (value := getattr(row, n)) is None else value for n in names])
        files: dict[PathLike, str | bytes] = {target: buffer.getvalue()}
        beside = target.with_suffix(".json")
        if self.visits or self.stamp or self.overheads is not None or is_ours(beside):
            place_beside(target)
            extra = {"schema": SCHEMA, **self.to_dict()}
            del extra["rows"]
            files[beside] = json.dumps(extra, ensure_ascii=False, sort_keys=True) + "\n"
        write_together(files)

    @classmethod
    def _with(cls, rows: Iterable[Row], beside: Mapping[str, Any]) -> Profile:
        """Return the profile of rows and of the JSON values that stand beside them."""
        visits = [RecordedVisits.from_dict(record) for record in beside.get("visits", [])]
        overheads = Overheads.from_dict(beside["overheads"]) if "overheads" in beside else None
        return cls.from_rows(rows, visits, beside.get("stamp"), overheads)

    def _missing(self, stage: str, variant: str, hardware: str) -> str:
        name, stages = self.source, tuple(dict.fromkeys(r.stage for r in self.rows))
        if stage not in stages:
            hint = nearest(stage, stages)
            return f"{name}: no rows for stage {stage!r}{hint}; profiled: {', '.join(stages) or 'none'}"
        variants = tuple(dict.fromkeys(r.variant for r in self.rows if r.stage == stage))
        if variant not in variants:
            return f"{name}: stage {stage!r} has no rows for variant {variant!r}; profiled: {', '.join(variants)}"
        known = ", ".join(self.hardware(stage, variant))
        return f"{name}: stage {stage!r} (variant {variant!r}) was not profiled on {hardware!r}; profiled on: {known}"


def _rows(value: Any) -> list[Row]:
    listed = value.get("rows") if isinstance(value, Mapping) else None
    if not isinstance(listed, list) or not all(isinstance(row, Mapping) for row in listed):
        raise ProfileError("profile: `rows` must be a list of objects with the columns of the CSV")
    valid = [f.name for f in dataclasses.fields(Row)]
    for index, row in enumerate(listed):
        for name in row:
            if name not in valid:
                raise ProfileError(f"profile: rows[{index}]: unknown field {name!r}{nearest(str(name), valid)}")
        for name in _REQUIRED:
            if name not in row:
                raise ProfileError(f"profile: rows[{index}]: {name} is missing; needed: {', '.join(_REQUIRED)}")
        for name, item in row.items():
            text = name in ("stage", "hardware", "variant", "evidence")
            if not isinstance(item, str if text else int | float) or isinstance(item, bool):
                raise ProfileError(f"profile: rows[{index}]: {name} must be {'text' if text else 'a number'}")
    return [Row(**row) for row in listed]


def _check_row(row: Row) -> None:
    where = f"profile: stage {row.stage!r} on {row.hardware!r}, batch size {row.batch_size}"
    if not isinstance(row.batch_size, int) or not 1 <= row.batch_size <= MAX_BATCH_SIZE:
        raise ProfileError(f"{where}: batch_size must be a whole number from 1 to {MAX_BATCH_SIZE}")
    if not (math.isfinite(row.mean_s) and row.mean_s > 0):
        raise ProfileError(f"{where}: mean_s is {row.mean_s}; it must be a positive number of seconds")
    known = [q for q in (row.p50_s, row.p95_s, row.p99_s) if q is not None]
    if any(not math.isfinite(q) or q <= 0 for q in known) or known != sorted(known):
        raise ProfileError(f"{where}: p50_s, p95_s, p99_s must be positive and in this order")
    _check_mean(row, where)
    if row.accuracy is not None and not 0 < row.accuracy <= 1:
        raise ProfileError(f"{where}: accuracy is {row.accuracy}; it must lie in (0, 1]")
    if row.evidence not in EVIDENCE:
        raise ProfileError(f"{where}: evidence is {row.evidence!r}; valid: {', '.join(EVIDENCE)}")


def _check_mean(row: Row, where: str) -> None:
    """Refuse a mean that the quantiles rule out, or all but rule out: a slip in a unit, as a rule.

    What was measured here agrees by itself, however wild its outliers are.
    """
    if row.evidence in ("measured", "observed"):
        return
    p50, p95, p99 = (q or 0.0 for q in (row.p50_s, row.p95_s, row.p99_s))
    least_s = 0.45 * p50 + 0.04 * max(p50, p95) + 0.01 * max(p50, p95, p99)
    if row.mean_s < least_s * (1 - 1e-9):
        raise ProfileError(f"{where}: mean_s is {row.mean_s:g}; with these quantiles it is at least {least_s:.4g}")
    if p99 and row.mean_s > MOST_MEAN * p99:
        rest_s = (row.mean_s - 0.99 * p99) / 0.01
        raise ProfileError(
            f"{where}: mean_s is {row.mean_s:g} and p99_s {p99:g}; then one batch in a hundred would have to take "
            f"{rest_s:.3g} s or more, so check the units"
        )


def _parse(path: Path, lines: Iterable[str]) -> Iterable[Row]:
    reader = csv.DictReader(line for line in lines if not line.startswith("#"))
    header = [name.strip() for name in reader.fieldnames or []]
    valid = [f.name for f in dataclasses.fields(Row)]
    for name in header:
        if name not in valid:
            raise ProfileError(f"{path}:1: unknown column {name!r}{nearest(name, valid)}; valid: {', '.join(valid)}")
    for name in _REQUIRED:
        if name not in header:
            raise ProfileError(f"{path}:1: column {name!r} is missing; needed: {', '.join(_REQUIRED)}")
    for record in reader:
        values: dict[str, Any] = {}
        for name, text in record.items():
            if name is None or text is None:
                raise ProfileError(f"{path}:{reader.line_num}: {len(header)} values are needed, as many as columns")
            if text.strip():
                values[name.strip()] = _convert(path, reader.line_num, name.strip(), text.strip())
        for name in _REQUIRED:
            if name not in values:
                raise ProfileError(f"{path}:{reader.line_num}: {name} is empty; every row needs it")
        row = Row(**values)
        try:
            _check_row(row)
        except ProfileError as error:
            raise ProfileError(f"{path}:{reader.line_num}: {error}") from None
        yield row


def _convert(path: Path, line: int, name: str, text: str) -> Any:
    if name in ("stage", "hardware", "variant", "evidence"):
        return text
    kind: type[int] | type[float] = int if name in ("batch_size", "samples") else float
    try:
        return kind(text)
    except ValueError:
        word = "a whole number" if kind is int else "a number"
        raise ProfileError(f"{path}:{line}: {name} is {text!r}; it must be {word}") from None
