"""Measure and write the page: `python -m headway.bench.willump --docs docs/reproductions`.

Rows are kept in `willump.csv` beside the page; a benchmark that has rows there is not run again, so that a run that was
ended goes on where it stopped. `--only NAME` runs one benchmark, and anew; without the file all are run.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from headway.bench import BenchOptions, run
from headway.bench.book import Book
from headway.bench.willump.page import BENCHES, Result, write
from headway.errors import HeadwayError


def main() -> int:
    """Run as a command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m headway.bench.willump", description=__doc__)
    parser.add_argument("--docs", type=Path, required=True, help="folder of willump.md and willump.csv")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only-page", action="store_true", help="write the page from the rows that there are")
    parser.add_argument("--only", action="append", default=[], choices=BENCHES, help="run just this, and anew")
    given = parser.parse_args()
    try:
        book = _book(given.docs / "willump.csv", given.only)
        known = {result.bench for result in book.results}
        today = datetime.now(UTC).date().isoformat()
        due = [] if given.only_page else given.only or [name for name in BENCHES if name not in known]
        for name in due:
            print(name, file=sys.stderr)
            for place, row in enumerate(run(name, BenchOptions(given.seed), today)):
                print(f"  {row.name}: {row.value:.4g} {row.unit}", file=sys.stderr)
                book.add([Result.of(name, place, row)])
        write(given.docs, book.results)
    except HeadwayError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _book(path: Path, without: list[str]) -> Book[Result]:
    """The rows that there are, those of some benchmarks left out."""
    book = Book(Result, path)
    kept = [result for result in book.results if result.bench not in without]
    if len(kept) < len(book.results):
        path.unlink()
        book = Book(Result, path)
        book.add(kept)
    return book


if __name__ == "__main__":
    sys.exit(main())
