"""Markup that is safe by construction: text is escaped unless it was built here."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from html import escape

_FIGURE_AND_UNIT = re.compile(r"(?<=\d) (?=(?:µs|ms|s|min|h)\b)")
_VOID = frozenset({"meta", "br", "hr", "link"})


class Markup(str):
    """Text that is already HTML or SVG; everything else is escaped where it is put in."""

    __slots__ = ()


def safe(child: str) -> str:
    """Return a child as markup: as it is when it was built here, else escaped. A figure never parts from its unit.

    >>> safe("<b>"), safe(Markup("<b>"))
    ('&lt;b&gt;', '<b>')
    """
    return str(child) if isinstance(child, Markup) else _FIGURE_AND_UNIT.sub("\u00a0", escape(str(child)))


def join(children: Iterable[str], between: str = "") -> Markup:
    """Return the children one after another, each escaped unless it is markup."""
    return Markup(between.join(safe(child) for child in children))


def tag(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """Return an element. An attribute's trailing underscore is dropped (`class_`), inner ones become dashes.

    Attributes that are None are left out; floats are rounded to a tenth, which is enough for a pixel.

    >>> tag("p", "1 < 2", class_="note")
    '<p class="note">1 &lt; 2</p>'
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            label = key.rstrip("_").replace("_", "-")
            text = coordinate(value) if isinstance(value, int | float) else escape(value)
            words.append(f'{label}="{text}"')
    head = " ".join(words)
    return Markup(f"<{head}>" if name in _VOID else f"<{head}>{join(children)}</{name}>")


def coordinate(value: float) -> str:
    """Return a length with at most one decimal.

    >>> coordinate(3.0), coordinate(2.25)
    ('3', '2.2')
    """
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def table(
    head: list[str],
    rows: Iterable[list[str]],
    *,
    numeric: int = 1,
    last_is_text: bool = False,
    phrases: Collection[str] = (),
) -> Markup:
    """Return a table; columns from index `numeric` on hold figures, all but the last where that is text.

    Columns named in `phrases` hold many words, which break over lines rather than push figures out of sight.
    """
    kind = ["note" if name in phrases else "num" if index >= numeric else None for index, name in enumerate(head)]
    if last_is_text:
        kind[-1] = "note"
    top = tag("tr", *(tag("th", cell, class_=c, scope="col") for cell, c in zip(head, kind, strict=True)))
    body = [
        tag("tr", *(_cell(index, cell, c) for index, (cell, c) in enumerate(zip(row, kind, strict=True))))
        for row in rows
    ]
    whole = tag("table", tag("thead", top), tag("tbody", *body))
    return tag("div", whole, class_="scroll", tabindex="0", role="group", aria_label=f"Table by {head[0] or 'figure'}")


def _cell(index: int, cell: str, kind: str | None) -> Markup:
    return tag("th", cell, scope="row") if index == 0 else tag("td", cell, class_=kind)
