"""Compute the evaluation and write its page: `python -m headway.bench.cascadeserve --docs docs/reproductions`.

Results are kept in `cascadeserve.csv` beside the page; what it holds is not computed again, so that a run that was
ended goes on where it stopped. Delete the file to compute everything anew, after a change of the planner for example.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from datetime import UTC, datetime
from pathlib import Path

from headway.bench import machine
from headway.bench.book import Book
from headway.bench.cascadeserve.evaluate import Sizes, evaluate
from headway.bench.cascadeserve.page import write
from headway.bench.cascadeserve.rows import Result
from headway.bench.inferline.workloads import real_traces
from headway.errors import HeadwayError


def main() -> int:
    """Run as a command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m headway.bench.cascadeserve", description=__doc__)
    parser.add_argument("--docs", type=Path, required=True, help="folder of cascadeserve.md and cascadeserve.csv")
    parser.add_argument(
        "--trace", type=Path, help="a real trace or a folder of them; without, those rows stay as they are"
    )
    parser.add_argument("--seeds", type=int, default=len(Sizes().seeds), help="how many seeds")
    parser.add_argument("--only", nargs="*", default=["cells", "ablation", "spikes", "planners"], help="experiments")
    parser.add_argument("--only-page", action="store_true", help="write the page from the results that there are")
    given = parser.parse_args()
    try:
        book = Book(Result, given.docs / "cascadeserve.csv")
        if not given.only_page:
            if given.trace is None:
                print("no --trace: real arrivals are left out", file=sys.stderr)
            sizes = dataclasses.replace(Sizes(), seeds=tuple(range(1, given.seeds + 1)))
            stamp = datetime.now(UTC).date().isoformat(), machine()
            traces = real_traces(given.trace)
            evaluate(sizes, traces, book, stamp, lambda text: print(text, file=sys.stderr), given.only)
        # Read again: the page says what the file says, digit for digit.
        write(given.docs, Book(Result, given.docs / "cascadeserve.csv").results)
    except HeadwayError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
