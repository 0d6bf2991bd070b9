"""Labels of samples: the right answers, from a CSV file beside them."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from headway.errors import ProfileError, nearest

COLUMNS: Final = ("sample", "label")
MAX_LABEL_CHARS: Final = 10_000
_TRUTHS: Final = {"True": 1, "true": 1, "False": 0, "false": 0}


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
        if is_missing(label) or len(label) > MAX_LABEL_CHARS:
            lacking = "a label that is too long"
            if is_missing(label):
                lacking = f"no label, but {label!r}" if label else "no label"
            raise ProfileError(
                f"{target}:{reader.line_num}: {lacking}; write the right answer in at most {MAX_LABEL_CHARS} "
                "characters, or leave the sample out"
            )
        rows.append((reader.line_num, row))
    return header, rows


def typed(labels: Sequence[str]) -> list[int | str]:
    """Return labels as whole numbers where all of them are, else as text.

    >>> typed(["03", "7.0", "True"]), typed(["3", "cat"])
    ([3, 7, 1], ['3', 'cat'])
    """
    return [whole(label) for label in labels] if all(map(is_whole, labels)) else list(labels)


def is_whole(text: str) -> bool:
    """Return whether a text is a whole number, written as 3 or 3.0, or True or False, which are 1 and 0.

    >>> is_whole("-3"), is_whole("3.0"), is_whole("True"), is_whole("3.5")
    (True, True, True, False)
    """
    digits, _, zeros = text.removeprefix("-").partition(".")
    return text in _TRUTHS or (digits.isdecimal() and len(digits) <= 17 and not zeros.strip("0"))


def whole(text: str) -> int:
    """Return the number that a text is (`is_whole`).

    >>> whole("3.0"), whole("True")
    (3, 1)
    """
    return _TRUTHS[text] if text in _TRUTHS else int(text.partition(".")[0])


def is_missing(text: str) -> bool:
    """Return whether a text stands for a label that is not known: it is empty, or no number.

    >>> is_missing(""), is_missing("NaN"), is_missing("none")
    (True, True, False)
    """
    return text.strip().lower() in ("", "nan")


def classes_of(labels: Iterable[int | str]) -> list[int | str]:
    """Return the distinct classes in order, as scikit-learn has them.

    >>> classes_of([2, 1, 2])
    [1, 2]
    """
    return sorted(set(labels), key=lambda label: (isinstance(label, str), label))


def class_named(answer: Any, labels: Sequence[int | str]) -> int | str | None:
    """Return the class that an answer names, text or a whole number, as labels are; None for what is no class.

    >>> class_named(True, [0, 1]), class_named("3.0", [3, 4]), class_named(3, ["3", "cat"]), class_named(0.5, [0, 1])
    (1, 3, '3', None)
    """
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if not isinstance(answer, int | str):
        return None
    text = str(answer)
    return whole(text) if is_whole(text) and not any(isinstance(label, str) for label in labels) else text


def class_at(place: int, scores: int, labels: Sequence[int | str]) -> int | str | None:
    """Return the class whose score stands at a place of so many; None where nothing says which it is (`unplaced`).

    With a score for each of the labels it is that of the labels in order, as scikit-learn has them. With other scores
    it is the place itself where labels are places: whole numbers, 0 among them, and none beyond the scores. Without 0
    they may as well be numbers from 1 of which the last is absent.

    >>> class_at(1, 2, ["dog", "cat"]), class_at(1, 3, [0, 2]), class_at(1, 3, [1, 2]), class_at(1, 3, ["dog", "cat"])
    ('dog', 1, None, None)
    """
    classes = classes_of(labels)
    if len(classes) == scores:
        return classes[place]
    return place if 0 in classes and all(isinstance(c, int) and 0 <= c < scores for c in classes) else None


def unplaced(scores: int, labels: Iterable[int | str]) -> str:
    """Return why nobody knows of which classes so many scores are, and what would be valid.

    >>> unplaced(3, ["dog", "cat"]).partition(";")[0]
    "3 scores where labels have 2 classes ('cat', 'dog'), so that nobody knows of which class each is"
    """
    classes = classes_of(labels)
    shown = _few([repr(label) for label in classes])
    return (
        f"{scores} scores where labels have {_plural(len(classes))} ({shown}), so that nobody knows of which class "
        f"each is; label samples of every class (then scores are those of the sorted labels), use the labels 0 to "
        f"{scores - 1} with 0 among them, or have the model answer with the class"
    )


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


def _plural(classes: int) -> str:
    return "1 class" if classes == 1 else f"{classes} classes"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
