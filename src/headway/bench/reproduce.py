"""What commands that compute a reproduction share: results in a CSV, and the page beside it, written from them.

What the CSV holds is not computed again, so that a run that was ended goes on where it stopped.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from headway.bench.book import Book, R
from headway.errors import HeadwayError


def options(module: str, name: str, about: str | None) -> ArgumentParser:
    """Return the options of `python -m MODULE`, which computes `NAME.csv` and writes `NAME.md` from it.

    >>> options("headway.bench.inferline", "inferline", None).parse_args(["--docs", "docs"]).only_page
    False
    """
    parser = ArgumentParser(prog=f"python -m {module}", description=about)
    parser.add_argument("--docs", type=Path, required=True, help=f"folder of {name}.md and {name}.csv")
    parser.add_argument("--only-page", action="store_true", help="write the page from the results that there are")
    return parser


def reproduce(
    given: Namespace,
    name: str,
    kind: type[R],
    compute: Callable[[Book[R]], None],
    write: Callable[[Path, Sequence[R]], None],
) -> int:
    """Compute what the book lacks unless only the page is wanted, and write the page; return the exit code.

    `given` is what `options` made of the command line; `kind` are the results.
    """
    path = given.docs / f"{name}.csv"
    try:
        if not given.only_page:
            compute(Book(kind, path))
        # Read again: the page says what the file says, digit for digit.
        write(given.docs, Book(kind, path).results)
    except HeadwayError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def tell(text: str) -> None:
    """Say on stderr what is being computed."""
    print(text, file=sys.stderr)
