"""Compute the evaluation and write its page: `python -m headway.bench.inferline --docs docs/reproductions`.

Results are kept in `inferline.csv` beside the page; what it holds is not computed again, so that a run that was ended
goes on where it stopped. Delete the file to compute everything anew, after a change of a planner or tuner for example.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from headway.bench.book import Book, Stamp
from headway.bench.inferline.evaluate import evaluate
from headway.bench.inferline.grid import Sizes
from headway.bench.inferline.page import write
from headway.bench.inferline.rows import Result
from headway.bench.inferline.workloads import real_traces
from headway.bench.reproduce import options, reproduce, tell


def main() -> int:
    """Run as a command; returns the exit code."""
    parser = options("headway.bench.inferline", "inferline", __doc__)
    parser.add_argument(
        "--trace", type=Path, help="a real trace or a folder of them; without, those rows stay as they are"
    )
    parser.add_argument("--seeds", type=int, default=len(Sizes().seeds), help="how many seeds")
    given = parser.parse_args()

    def compute(book: Book[Result]) -> None:
        if given.trace is None:
            tell("no --trace: real arrivals are left out")
        seeds = tuple(range(1, given.seeds + 1))
        sizes = dataclasses.replace(Sizes(), seeds=seeds, few_seeds=seeds[: len(Sizes().few_seeds)])
        evaluate(sizes, real_traces(given.trace), book, Stamp.here(), tell)

    return reproduce(given, "inferline", Result, compute, write)


if __name__ == "__main__":
    sys.exit(main())
