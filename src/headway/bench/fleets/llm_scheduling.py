"""LLM scheduling in simulation: `python -m headway.bench.fleets.llm_scheduling --docs docs/reproductions`.

Results are kept in `llm_scheduling.csv` beside the page; what it holds is not computed again, so that a run that was
ended goes on where it stopped. Delete the file to compute everything anew, after a change of a policy for example.
"""

from __future__ import annotations

import sys
from pathlib import Path

from headway.bench.book import Stamp
from headway.bench.fleets.llm_cells import Result, compute, real_files
from headway.bench.fleets.llm_page import write
from headway.bench.reproduce import options, reproduce, tell


def main() -> int:
    """Run as a command; returns the exit code."""
    parser = options("headway.bench.fleets.llm_scheduling", "llm_scheduling", __doc__)
    parser.add_argument(
        "--trace", type=Path, help="the folder of the conversation and Mooncake traces; without, those rows stay"
    )
    given = parser.parse_args()
    return reproduce(
        given, "llm_scheduling", Result,
        lambda book: compute(real_files(given.trace), book, Stamp.here(), tell), write,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
