"""Bench rows and their bars, and `headway bench` as a user runs it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from headway import bench
from headway.bench import BENCHES, Bench, BenchOptions, Row
from headway.cli.app import main
from headway.cli.frame import emit
from headway.errors import HeadwayError


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row("a", 20.0, "ns", 3000.0, 150.0, ">= 130"), True),
        (Row("a", 20.0, "ns", 3000.0, 129.9, ">= 130"), False),
        (Row("a", 0.45, "s", 1.0, 0.45, "<= 45 %"), True),
        (Row("a", 0.46, "s", 1.0, 0.46, "<= 45%"), False),
        (Row("a", 250.0, "ms", bar="<= 250"), True),
        (Row("a", 251.0, "ms", baseline=1.0, bar="<= 250"), False),
        (Row("a", 1.0, "ms"), None),
        (Row("a", 1.0, "plans", bar="as the paper says", met=True), True),
    ],
)
def test_a_bar_judges_the_ratio_where_there_is_one_else_the_value(row: Row, met: bool | None) -> None:
    assert row.met is met


def test_a_bar_that_is_no_comparison_needs_a_verdict() -> None:
    with pytest.raises(HeadwayError, match="'about 3' is not like '>= 130'"):
        Row("a", 1.0, "s", bar="about 3")


def test_every_benchmark_is_named_after_what_it_is_registered_as() -> None:
    assert [entry.name for entry in BENCHES.values() if isinstance(entry, Bench)] == list(BENCHES)


def test_what_is_not_installed_is_named() -> None:
    with pytest.raises(HeadwayError, match="bench x: no_such_package is not installed"):
        Bench("x", "no_such_package:run")(BenchOptions())


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(options: BenchOptions) -> list[Row]:
        raise HeadwayError("bench broken: no trace")

    def stopped(options: BenchOptions) -> Iterator[Row]:
        yield Row("stopped/first", 1.0, "s")
        raise HeadwayError("bench stopped: the server is gone")

    made = {
        "good": lambda options: [Row("good/speed", 2.0, "s", 8.0, 4.0, ">= 3")],
        "bad": lambda options: [Row("bad", float(options.seed), "s", bar="<= 0.5")],
        "broken": broken,
        "stopped": stopped,
    }
    monkeypatch.setattr(bench, "BENCHES", made)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["bench", *arguments])
    assert isinstance(stop.value.code, int)
    return (stop.value.code, *capsys.readouterr())


@pytest.mark.usefixtures("fakes")
def test_rows_say_where_and_with_what_they_were_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, "good", "--seed", "7", "--json", "-o", str(tmp_path / "rows.json"))
    assert (code, err) == (0, "")
    assert (tmp_path / "rows.json").read_text() == out
    (row,) = json.loads(out)
    assert (row["name"], row["seed"], row["met"], row["machine"]) == ("good/speed", 7, True, bench.machine())
    assert len(row["date"]) == len("2026-01-31")


@pytest.mark.usefixtures("fakes")
def test_a_missed_bar_is_exit_1_unless_it_was_only_a_rehearsal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "bad")[0] == 1
    assert run(capsys, "bad", "--quick")[0] == 0


@pytest.mark.usefixtures("fakes")
def test_a_benchmark_that_fails_does_not_lose_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "broken", "stopped", "good")
    assert code == 1
    assert "good/speed" in out
    assert "stopped/first" in out
    assert err.splitlines()[:2] == ["bench: broken: no trace", "bench: stopped: the server is gone"]


def test_what_cannot_be_measured_is_shown_so_and_meets_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("a", math.nan, "s", bar="<= 1")
    assert (row.met, row.to_dict()["value"]) == (False, None)
    assert Row("a", math.nan, "s").met is None
    emit([], False, lambda: bench.table([row]))
    assert "cannot be measured" in capsys.readouterr().out


def test_no_figure_of_a_wide_table_is_cut_short_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("n" * 90, 1234.5, "requests per second and stage", baseline=0.0009633, ratio=0.12345, bar=">= 0.1")]
    emit([], False, lambda: bench.table(rows))
    said = capsys.readouterr().out
    assert "…" not in said
    assert all(figure in said for figure in ("0.0009633", "0.1235", ">= 0.1", "yes"))
