"""Compute the evaluation and write its page: `python -m headway.bench.inferline --docs docs/reproductions`.

Results are kept in `inferline.csv` beside the page; what it holds is not computed again, so that a run that was ended
goes on where it stopped. Delete the file to compute everything anew, after a change of a planner or tuner for example.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from datetime import UTC, datetime
from pathlib import Path

from headway.bench.inferline.evaluate import evaluate
from headway.bench.inferline.grid import Sizes
from headway.bench.inferline.page import write
from headway.bench.inferline.rows import Book
from headway.bench.inferline.workloads import real_traces
from headway.errors import HeadwayError


def main() -> int:
    """Run as a command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m headway.bench.inferline", description=__doc__)
    parser.add_argument("--docs", type=Path, required=True, help="folder of inferline.md and inferline.csv")
    parser.add_argument(
        "--trace", type=Path, help="a real trace or a folder of them; without, those rows stay as they are"
    )
    parser.add_argument("--seeds", type=int, default=len(Sizes().seeds), help="how many seeds")
    parser.add_argument("--only-page", action="store_true", help="write the page from the results that there are")
    given = parser.parse_args()
    try:
        book = Book(given.docs / "inferline.csv")
        if not given.only_page:
            if given.trace is None:
                print("no --trace: real arrivals are left out", file=sys.stderr)
            seeds = tuple(range(1, given.seeds + 1))
            sizes = dataclasses.replace(Sizes(), seeds=seeds, few_seeds=seeds[: len(Sizes().few_seeds)])
            today = datetime.now(UTC).date().isoformat()
            evaluate(sizes, real_traces(given.trace), book, today, lambda text: print(text, file=sys.stderr))
        write(given.docs, book.results)
    except HeadwayError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
