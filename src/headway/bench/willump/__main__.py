"""Measure and write the page: `python -m headway.bench.willump --docs docs/reproductions`.

Rows are kept in `willump.csv` beside the page; a benchmark that has rows there is not run again, so that a run that was
ended goes on where it stopped. `--only NAME` runs one benchmark, and anew; without the file all are run.
"""

from __future__ import annotations

import sys

from headway.bench import BenchOptions, run
from headway.bench.book import Book, Stamp
from headway.bench.reproduce import options, reproduce, tell
from headway.bench.willump.page import BENCHES, Result, write


def main() -> int:
    """Run as a command; returns the exit code."""
    parser = options("headway.bench.willump", "willump", __doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", default=[], choices=BENCHES, help="run just this, and anew")
    given = parser.parse_args()

    def compute(book: Book[Result]) -> None:
        known = {result.bench for result in book.results}
        for name in given.only or [name for name in BENCHES if name not in known]:
            measure(name, given.seed, book)

    return reproduce(given, "willump", Result, compute, write)


def measure(name: str, seed: int, book: Book[Result]) -> None:
    """Run a benchmark and keep its rows in place of those that the book has of it."""
    tell(name)
    book.remove(lambda result: result.bench == name)
    for place, row in enumerate(run(name, BenchOptions(seed), Stamp.here().date)):
        tell(f"  {row.name}: {row.value:.4g} {row.unit}")
        book.add([Result.of(name, place, row)])


if __name__ == "__main__":
    sys.exit(main())
