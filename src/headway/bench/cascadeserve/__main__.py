"""Compute the evaluation and write its page: `python -m headway.bench.cascadeserve --docs docs/reproductions`.

Results are kept in `cascadeserve.csv` beside the page; what it holds is not computed again, so that a run that was
ended goes on where it stopped. Delete the file to compute everything anew, after a change of the planner for example.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from headway.bench.book import Book, Stamp
from headway.bench.cascadeserve.evaluate import Sizes, evaluate
from headway.bench.cascadeserve.page import write
from headway.bench.cascadeserve.rows import Result
from headway.bench.inferline.workloads import real_traces
from headway.bench.reproduce import options, reproduce, tell


def main() -> int:
    """Run as a command; returns the exit code."""
    parser = options("headway.bench.cascadeserve", "cascadeserve", __doc__)
    parser.add_argument(
        "--trace", type=Path, help="a real trace or a folder of them; without, those rows stay as they are"
    )
    parser.add_argument("--seeds", type=int, default=len(Sizes().seeds), help="how many seeds")
    parser.add_argument("--only", nargs="*", default=["cells", "ablation", "spikes", "planners"], help="experiments")
    given = parser.parse_args()

    def compute(book: Book[Result]) -> None:
        if given.trace is None:
            tell("no --trace: real arrivals are left out")
        sizes = dataclasses.replace(Sizes(), seeds=tuple(range(1, given.seeds + 1)))
        evaluate(sizes, real_traces(given.trace), book, Stamp.here(), tell, given.only)

    return reproduce(given, "cascadeserve", Result, compute, write)


if __name__ == "__main__":
    sys.exit(main())
