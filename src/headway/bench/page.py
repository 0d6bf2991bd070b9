"""Pages whose tables, figures and sentences with figures are written from results, never by hand.

A page holds marked places, `<!-- results: NAME -->` to `<!-- end -->`, whose text is replaced; all else is prose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from headway.bench.book import Entry
from headway.errors import HeadwayError
from headway.files import write_atomic

NOT_COMPUTED = "These results have not been computed."
"""What stands where a page has no results for a place."""

_MARKED = re.compile(r"(<!-- results: ([a-z0-9-]+) -->).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, body: Callable[[str], str]) -> str:
    """Return a page with every marked place written anew: `body` says what stands at the place of a name.

    >>> filled("<!-- results: load --><!-- end -->", {"load": "much"}.__getitem__).split()[4]
    'much'
    """
    return _MARKED.sub(lambda found: f"{found[1]}\n\n{body(found[2])}\n\n{found[3]}", page)


def rewrite(path: Path, body: Callable[[str], str]) -> None:
    """Fill the page of a file. Raises HeadwayError when it cannot be read or written."""
    try:
        page = path.read_text(encoding="utf-8")
    except OSError as error:
        raise HeadwayError(f"{path}: cannot read the page: {error.strerror or error}") from None
    write_atomic(path, filled(page, body))


def draw(path: Path, svg: str) -> None:
    """Write a drawing into a file of its own. Raises HeadwayError when it cannot be written."""
    write_atomic(path, svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """Return a Markdown table whose first `texts` columns are texts and the others figures; `NOT_COMPUTED` for no rows.

    >>> print(table(["a", "b"], [["x", "1"]]))
    | a | b |
    | --- | ---: |
    | x | 1 |
    """
    body = list(rows)
    if not body:
        return NOT_COMPUTED
    rule = ["---"] * texts + ["---:"] * (len(head) - texts)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *body))


def when_and_where(results: Sequence[Entry]) -> str:
    """Return the days on which results were computed, and the machines. Raises IndexError where there are none."""
    dates, machines = sorted({each.date for each in results}), sorted({each.machine for each in results})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{when} on {'; '.join(machines)}"
