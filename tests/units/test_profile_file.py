"""A profile's two files: what belongs together, and what was written by another version."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from headway.errors import ProfileError
from headway.profile import Profile, Row
from headway.testing.examples import tiny_profile


def test_what_a_former_profile_left_beside_itself_is_not_read_with_the_next(tmp_path: Path) -> None:
    path = tmp_path / "profile.csv"
    rows = tiny_profile().rows
    Profile.from_rows(rows, stamp={"machine": "another"}).write(path)
    assert Profile.read(path).stamp == {"machine": "another"}
    tiny_profile().write(path)
    assert Profile.read(path) == tiny_profile()


@pytest.mark.parametrize(("name", "why"), [("plan.csv", "is no profile's"), ("plan.json", "is a CSV file")])
def test_a_profile_replaces_nothing_that_is_no_profiles(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "plan.json").write_text('{"schema": "headway.plan/1"}')
    with pytest.raises(ProfileError, match=why):
        dataclasses.replace(tiny_profile(), stamp={"date": "2026-01-01"}).write(tmp_path / name)
    assert os.listdir(tmp_path) == ["plan.json"]
    assert (tmp_path / "plan.json").read_text() == '{"schema": "headway.plan/1"}'


@pytest.mark.parametrize("name", ["p.tsv", "p"])
def test_a_profile_leaves_what_stands_beside_another_one_alone(tmp_path: Path, name: str) -> None:
    first = dataclasses.replace(tiny_profile(), stamp={"date": "2026-01-01"})
    first.write(tmp_path / "p.csv")
    (tmp_path / "p.yaml").write_text("name: p\n")
    with pytest.raises(ProfileError, match=r"is that of p\.csv"):
        dataclasses.replace(tiny_profile(), stamp={"date": "2026-01-02"}).write(tmp_path / name)
    assert Profile.read(tmp_path / "p.csv") == first
    assert not (tmp_path / name).exists()
    (tmp_path / "p.csv").unlink()
    first.write(tmp_path / name)
    assert Profile.read(tmp_path / name) == first


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


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("0.5,0.02,0.03,0.05", "one batch in a hundred would have to take"),
        ("0.001,0.02,0.03,0.05", "it is at least 0.0107"),
    ],
)
def test_a_mean_that_its_quantiles_rule_out_is_refused(tmp_path: Path, cell: str, said: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(f"stage,hardware,batch_size,mean_s,p50_s,p95_s,p99_s\na,cpu,1,{cell}\n")
    with pytest.raises(ProfileError, match=said) as refusal:
        Profile.read(path)
    assert f"{path}:2:" in str(refusal.value)


def test_what_was_measured_may_have_wild_outliers() -> None:
    """One of a hundred batches that were measured may have met a stall of the machine."""
    values_s = np.array([0.00002] * 99 + [0.05])
    row = Row("a", "cpu", 1, float(values_s.mean()), p50_s=0.00002, p99_s=0.00002, samples=100)
    assert Profile.from_rows([dataclasses.replace(row, evidence="measured")]).rows
    with pytest.raises(ProfileError, match="check the units"):
        Profile.from_rows([row])
