"""What all reproductions share: books of results, estimates, and pages that are written from results alone."""

from __future__ import annotations

import argparse
import math
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.bench.book import Book, Stamp
from headway.bench.cascadeserve import page as cascadeserve
from headway.bench.cascadeserve import rows as cascadeserve_rows
from headway.bench.fleets import llm_cells, llm_page, rack_page, racksched
from headway.bench.inferline import page as inferline
from headway.bench.inferline import rows as inferline_rows
from headway.bench.page import NOT_COMPUTED, draw, filled, rewrite, table, when_and_where
from headway.bench.reproduce import options, reproduce
from headway.bench.willump import page as willump
from headway.errors import HeadwayError
from headway.sim.estimate import Estimate

DOCS = Path(__file__).parent.parent.parent / "docs" / "reproductions"
STAMP = Stamp("2026-01-31", "a machine")


class Reproduction(NamedTuple):
    """What a reproduction keeps, how its page is written, and what says what stands at a place."""

    kind: type[Any]
    write: Callable[[Path, Sequence[Any]], None]
    body: Callable[[Sequence[Any]], Callable[[str], str]]


REPRODUCTIONS = {
    "cascadeserve": Reproduction(cascadeserve_rows.Result, cascadeserve.write, cascadeserve.body),
    "inferline": Reproduction(inferline_rows.Result, inferline.write, inferline.body),
    "llm_scheduling": Reproduction(llm_cells.Result, llm_page.write, llm_page.body),
    "racksched": Reproduction(racksched.Result, rack_page.write, rack_page.body),
    "willump": Reproduction(willump.Result, willump.write, willump.body),
}
every = pytest.mark.parametrize("name", REPRODUCTIONS)


# The reproductions in the documentation


@every
def test_the_committed_page_and_its_figures_are_what_the_committed_results_say(name: str, tmp_path: Path) -> None:
    made = REPRODUCTIONS[name]
    shutil.copy(DOCS / f"{name}.md", tmp_path)
    made.write(tmp_path, Book(made.kind, DOCS / f"{name}.csv").results)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_bytes() for path in DOCS.glob(f"{name}*") if path.suffix != ".csv"}
    assert written == committed, f"write {name}.md and its figures again, with the option --only-page"


@every
def test_the_committed_results_survive_their_file(name: str, tmp_path: Path) -> None:
    book = Book(REPRODUCTIONS[name].kind, tmp_path / "book.csv")
    book.add(Book(REPRODUCTIONS[name].kind, DOCS / f"{name}.csv").results)
    assert (tmp_path / "book.csv").read_bytes() == (DOCS / f"{name}.csv").read_bytes()


@every
def test_a_place_without_results_says_so_and_one_that_is_unknown_is_an_error(name: str) -> None:
    places = re.findall(r"<!-- results: (\S+) -->", (DOCS / f"{name}.md").read_text(encoding="utf-8"))
    body = REPRODUCTIONS[name].body([])
    assert places
    assert {body(place) for place in places} == {NOT_COMPUTED}
    with pytest.raises(KeyError):
        body("nothing")


# Books


@dataclass(frozen=True)
class Result:
    name: str
    seed: int
    value: float | None = None
    inputs: str = ""
    date: str = ""
    machine: str = ""

    @property
    def key(self) -> tuple[str, int]:
        return self.name, self.seed


def test_a_book_knows_stale_results_and_forgets_what_it_is_told_to(tmp_path: Path) -> None:
    none, other = Result("a", 1, None, "here"), STAMP.on(Result("b", 2, 100.5))
    book = Book(Result, tmp_path / "book.csv")
    book.add([other, none])
    again = Book(Result, tmp_path / "book.csv")
    assert again.results == [none, other]
    assert again.find(replace(none, value=3.0)) == none
    assert again.find(replace(none, inputs="there")) is None
    assert again.find(replace(none, seed=2)) is None
    again.remove(lambda result: result.name == "a")
    assert Book(Result, tmp_path / "book.csv").results == [other]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("something,else\n1,2\n", "not results of this benchmark; its header is to be name,seed,value"),
        ("name,seed,value,inputs,date,machine\na,1,much,,,\n", "line 2: could not convert"),
    ],
)
def test_what_is_no_book_is_an_error(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "book.csv").write_text(text)
    with pytest.raises(HeadwayError, match=said):
        Book(Result, tmp_path / "book.csv")


# Estimates

values = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=12)


@given(values, st.floats(0.01, 100.0))
def test_an_estimate_holds_its_mean_and_scales_with_its_values(some: list[float], factor: float) -> None:
    for of in (Estimate.of, Estimate.of_ratios):
        one, scaled = of(some), of([factor * value for value in some])
        assert one.low <= one.mean * (1 + 1e-9)
        assert one.mean <= one.high * (1 + 1e-9)
        assert scaled.mean == pytest.approx(factor * one.mean, rel=1e-6)
        assert scaled.high == pytest.approx(factor * one.high, rel=1e-6)


@given(values)
def test_the_ratio_the_other_way_round_is_the_inverse(some: list[float]) -> None:
    one, inverse = Estimate.of_ratios(some), Estimate.of_ratios([1 / value for value in some])
    assert inverse.mean == pytest.approx(1 / one.mean, rel=1e-6)
    assert inverse.low == pytest.approx(1 / one.high, rel=1e-6)


def test_one_seed_has_no_interval_and_none_is_made_up() -> None:
    one = Estimate.of([0.5])
    assert math.isnan(one.low)
    assert one.text() == one.within(0.0, 1.0).text() == "0.5"
    assert Estimate.of([1.0, 3.0]).within(0.0).text() == "2 (0 to 14.7)"
    assert Estimate.of_ratios([math.inf, 2.0]).text() == "∞"
    with pytest.raises(ValueError, match="at least one"):
        Estimate.of([])


# Pages

prose = st.text("ab!-> \n\\1")


@given(prose, prose, prose)
def test_prose_is_kept_and_filling_again_changes_nothing(before: str, between: str, after: str) -> None:
    once = filled(f"{before}<!-- results: one -->{between}<!-- end -->{after}", {"one": "a\\1 table"}.__getitem__)
    assert once == f"{before}<!-- results: one -->\n\na\\1 table\n\n<!-- end -->{after}"
    assert filled(once, {"one": "a\\1 table"}.__getitem__) == once


def test_a_table_without_rows_is_one_that_was_not_computed() -> None:
    assert table(["a", "b"], []) == NOT_COMPUTED
    assert table(["a", "b", "c"], [["x", "y", "1"]], texts=2).splitlines()[1] == "| --- | --- | ---: |"


def test_days_and_machines_are_told_once_each() -> None:
    assert when_and_where([STAMP.on(Result("a", 1))] * 2) == "2026-01-31 on a machine"
    later = Stamp("2026-02-01", "another").on(Result("a", 1))
    assert when_and_where([later, STAMP.on(Result("a", 1))]) == "2026-01-31 to 2026-02-01 on a machine; another"


def test_a_drawing_stands_alone(tmp_path: Path) -> None:
    draw(tmp_path / "a.svg", '<svg width="1"><svg height="1"></svg></svg>')
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert text == '<svg xmlns="http://www.w3.org/2000/svg" width="1"><svg height="1"></svg></svg>\n'


def test_results_are_computed_unless_only_the_page_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def compute(book: Book[Result]) -> None:
        book.add([STAMP.on(Result("a", len(book.results), 1 / 3))])

    def write(folder: Path, results: Sequence[Result]) -> None:
        rewrite(folder / "a.md", lambda _: f"{results[-1].seed}: {results[-1].value}")

    def run(*more: str) -> int:
        given = options("headway.bench.a", "a", "About a.").parse_args(["--docs", str(tmp_path), *more])
        assert isinstance(given, argparse.Namespace)
        return reproduce(given, "a", Result, compute, write)

    assert run() == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'a.md'}: cannot read the page: No such file or directory\n"
    (tmp_path / "a.md").write_text("<!-- results: all --><!-- end -->")
    assert run() == 0
    assert "\n1: 0.333333\n" in (tmp_path / "a.md").read_text()
    assert run("--only-page") == 0
    assert "\n1: 0.333333\n" in (tmp_path / "a.md").read_text()
