"""Pages whose tables are written from results: what both reproductions of fleets need.

A page holds marked places, `<!-- results: NAME -->` to `<!-- end -->`, whose text is replaced; all else is prose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

_MARKED = re.compile(r"(<!-- results: ([a-z0-9-]+) -->).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, writers: Mapping[str, Callable[[], str]]) -> str:
    """Return a page with every marked place written anew. Raises KeyError for a name that is not known.

    >>> filled("<!-- results: load --><!-- end -->", {"load": lambda: "much"}).split()[4]
    'much'
    """
    return _MARKED.sub(lambda found: f"{found[1]}\n\n{writers[found[2]]()}\n\n{found[3]}", page)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """Return a Markdown table whose first `texts` columns are texts and the others figures.

    >>> print(table(["a", "b"], [["x", "1"]]))
    | a | b |
    | --- | ---: |
    | x | 1 |
    """
    rule = ["---"] * texts + ["---:"] * (len(head) - texts)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))
