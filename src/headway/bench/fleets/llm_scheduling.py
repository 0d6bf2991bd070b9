"""LLM scheduling in simulation: `python -m headway.bench.fleets.llm_scheduling --docs docs/reproductions`.

Results are kept in `llm_scheduling.csv` beside the page; what it holds is not computed again, so that a run that was
ended goes on where it stopped. Delete the file to compute everything anew, after a change of a policy for example.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from headway.bench import machine
from headway.bench.book import Book
from headway.bench.fleets.llm_cells import Result, compute, real_files
from headway.bench.fleets.llm_page import write
from headway.errors import HeadwayError


def main() -> int:
    """Run as a command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m headway.bench.fleets.llm_scheduling", description=__doc__)
    parser.add_argument("--docs", type=Path, required=True, help="folder of llm_scheduling.md and llm_scheduling.csv")
    parser.add_argument(
        "--trace", type=Path, help="the folder of the conversation and Mooncake traces; without, those rows stay"
    )
    parser.add_argument("--only-page", action="store_true", help="write the page from the results that there are")
    given = parser.parse_args()
    try:
        path = given.docs / "llm_scheduling.csv"
        if not given.only_page:
            stamp = datetime.now(UTC).date().isoformat(), machine()
            book = Book(Result, path)
            compute(real_files(given.trace), book, stamp, lambda text: print(text, file=sys.stderr))
        # Read again: the page says what the file says, digit for digit.
        write(given.docs, Book(Result, path).results)
    except HeadwayError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
