"""A profile's two files: what belongs together, and what was written by another version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headway.errors import ProfileError
from headway.profile import Profile
from headway.testing.examples import tiny_profile


def test_what_a_former_profile_left_beside_itself_is_not_read_with_the_next(tmp_path: Path) -> None:
    path = tmp_path / "profile.csv"
    rows = tiny_profile().rows
    Profile.from_rows(rows, stamp={"machine": "another"}).write(path)
    assert Profile.read(path).stamp == {"machine": "another"}
    tiny_profile().write(path)
    assert Profile.read(path) == tiny_profile()


@pytest.mark.parametrize("content", ['{"schema": "other/1"}', "[1]", "3", "{}"])
def test_a_file_beside_it_that_is_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    path, beside = tmp_path / "profile.csv", tmp_path / "profile.json"
    beside.write_text(content)
    tiny_profile().write(path)
    assert (Profile.read(path), beside.read_text()) == (tiny_profile(), content)


def test_a_profile_of_another_version_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path, beside = tmp_path / "profile.csv", tmp_path / "profile.json"
    tiny_profile().write(path)
    beside.write_text(json.dumps({"schema": "headway.profile/2", "stamp": {}}))
    with pytest.raises(ProfileError) as caught:
        Profile.read(path)
    assert str(caught.value) == f"{beside}: its schema is 'headway.profile/2'; this version reads 'headway.profile/1'"
