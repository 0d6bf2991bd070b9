"""Labels of samples: the right answers, from a CSV file beside them."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from headway.errors import ProfileError, nearest

COLUMNS: Final = ("sample", "label")
MAX_LABEL_CHARS: Final = 10_000


def read_labels(path: str | os.PathLike[str], names: Sequence[str]) -> list[str]:
    """Return the label of every sample, in the order of their `names` (as `headway.profile.samples` has them).

    The file has a header, `label` with a row for each sample in their order, or `sample,label` with names. Raises
    ProfileError naming file and line, or the sample that has none.

    >>> read_labels("nowhere.csv", ["1"])
    Traceback (most recent call last):
    headway.errors.ProfileError: nowhere.csv: cannot read the labels: No such file or directory
    """
    target = Path(path)
    try:
        with target.open(newline="", encoding="utf-8-sig") as handle:
            header, rows = _rows(handle, target)
    except OSError as error:
        raise ProfileError(f"{target}: cannot read the labels: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ProfileError(f"{target}: cannot read the labels: {error}; a CSV file in UTF-8 is needed") from None
    if header == ["label"]:
        if len(rows) != len(names):
            raise ProfileError(
                f"{target}: {len(rows)} labels for {len(names)} samples; give one for each, or name them in a column "
                "'sample'"
            )
        return [label for _, (label,) in rows]
    return _by_name(
        target, [(line, row[header.index("sample")], row[header.index("label")]) for line, row in rows], names
    )


def _rows(handle: Iterator[str], target: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    reader = csv.reader(handle, strict=True)
    header = [name.strip() for name in next(reader, [])]
    if "label" not in header or sorted(header) not in (["label"], sorted(COLUMNS)):
        raise ProfileError(f"{target}:1: the columns are {', '.join(header) or 'none'}; write label, or sample,label")
    rows = []
    for row in reader:
        if not row:
            continue
        if len(row) != len(header):
            raise ProfileError(f"{target}:{reader.line_num}: {len(row)} values where the header names {len(header)}")
        label = row[header.index("label")]
        if not label or len(label) > MAX_LABEL_CHARS:
            raise ProfileError(
                f"{target}:{reader.line_num}: {'no label' if not label else 'a label that is too long'}; write the "
                f"right answer in at most {MAX_LABEL_CHARS} characters, or leave the sample out"
            )
        rows.append((reader.line_num, row))
    return header, rows


def _by_name(target: Path, rows: Sequence[tuple[int, str, str]], names: Sequence[str]) -> list[str]:
    known, found = set(names), dict[str, str]()
    for line, name, label in rows:
        if name not in known:
            raise ProfileError(
                f"{target}:{line}: there is no sample {name!r}{nearest(name, names)}; they are {_few(names)}"
            )
        if name in found:
            raise ProfileError(f"{target}:{line}: sample {name!r} has a label already; keep one")
        found[name] = label
    missing = [name for name in names if name not in found]
    if missing:
        raise ProfileError(
            f"{target}: no label for {len(missing)} of {len(names)} samples: {_few(missing)}; add them, or leave these "
            "samples out"
        )
    return [found[name] for name in names]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
