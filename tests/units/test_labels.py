"""Labels from a CSV file: in the order of the samples or by their names, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from headway.errors import ProfileError
from headway.profile.labels import read_labels
from headway.profile.samples import named_samples, read_samples

NAMES = ["a.txt", "b.txt", "c.txt"]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_labels_come_in_the_order_of_the_samples(tmp_path: Path) -> None:
    assert read_labels(written(tmp_path, "label\n7\n\n1\n7\n"), NAMES) == ["7", "1", "7"]
    by_name = "label,sample\nthree,c.txt\none,a.txt\ntwo,b.txt\n"
    assert read_labels(written(tmp_path, by_name), NAMES) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "labels.csv:1: the columns are none; write label, or sample,label"),
        ("sample,class\n", "the columns are sample, class"),
        ("label\n1\n2\n", "2 labels for 3 samples"),
        ("sample,label\na.txt,1\nd.txt,2\n", r":3: there is no sample 'd.txt'; did you mean"),
        ("sample,label\na.txt,1\na.txt,2\n", ":3: sample 'a.txt' has a label already"),
        ("sample,label\nb.txt,1\n", "no label for 2 of 3 samples: a.txt, c.txt; add them"),
        ("sample,label\na.txt,\n", ":2: no label; write the right answer"),
        ("label\n1\nnan\n2\n", ":3: no label, but 'nan'; write the right answer"),
        ("sample,label\na.txt\n", ":2: 1 values where the header names 2"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ProfileError, match=said):
        read_labels(written(tmp_path, text), NAMES)


def test_samples_are_named_by_their_file_or_line(tmp_path: Path) -> None:
    lines = tmp_path / "s.jsonl"
    lines.write_text('"a"\n\n{"b": 1}\n')
    assert list(named_samples(lines)) == ["1", "3"]
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_text(name)
    (folder / ".hidden").write_text("")
    assert list(named_samples(folder)) == NAMES
    assert read_samples(folder) == list(named_samples(folder).values())
