"""Labels of samples: the right answers, from a CSV file beside them."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

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
    found = read_known_labels(path, names)
    missing = [name for name, label in zip(names, found, strict=True) if label is None]
    if missing:
        raise ProfileError(
            f"{Path(path)}: no label for {len(missing)} of {len(names)} samples: {_few(missing)}; add them, or leave "
            "these samples out"
        )
    return [label for label in found if label is not None]


def read_known_labels(path: str | os.PathLike[str], names: Sequence[str]) -> list[str | None]:
    """Return the same with None for samples that the file does not name. Raises ProfileError for all else."""
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


def typed(labels: Sequence[str]) -> list[int | str]:
    """Return labels as whole numbers where all of them are, else as text.

    >>> typed(["03", "7"]), typed(["3", "cat"])
    ([3, 7], ['3', 'cat'])
    """
    return [int(label) for label in labels] if all(map(is_whole, labels)) else list(labels)


def class_named(answer: Any) -> int | str | None:
    """Return the class that an answer names, text or a whole number; None for what is no class.

    >>> class_named(True), class_named(3.0), class_named("cat"), class_named(0.5)
    (1, 3, 'cat', None)
    """
    if isinstance(answer, bool) or (isinstance(answer, float) and answer.is_integer()):
        return int(answer)
    return answer if isinstance(answer, int | str) else None


def class_at(place: int, scores: int, labels: Sequence[int | str]) -> int | str | None:
    """Return the class whose score stands at a place of so many: the place itself where labels are places, else the
    labels in order, as scikit-learn has them; None where there are others than one score per class.

    >>> class_at(1, 2, ["dog", "cat"]), class_at(1, 3, [0, 2]), class_at(1, 3, ["dog", "cat"])
    ('dog', 1, None)
    """
    classes = sorted(set(labels), key=lambda label: (isinstance(label, str), label))
    if len(classes) == scores:
        return classes[place]
    return place if all(isinstance(label, int) and 0 <= label < scores for label in classes) else None


def is_whole(text: str) -> bool:
    """Return whether a text is a whole number.

    >>> is_whole("-3"), is_whole("3.0")
    (True, False)
    """
    return text.removeprefix("-").isdecimal() and len(text) <= 18


def _by_name(target: Path, rows: Sequence[tuple[int, str, str]], names: Sequence[str]) -> list[str | None]:
    known, found = set(names), dict[str, str]()
    for line, name, label in rows:
        if name not in known:
            raise ProfileError(
                f"{target}:{line}: there is no sample {name!r}{nearest(name, names)}; they are {_few(names)}"
            )
        if name in found:
            raise ProfileError(f"{target}:{line}: sample {name!r} has a label already; keep one")
        found[name] = label
    return [found.get(name) for name in names]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
