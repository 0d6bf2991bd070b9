"""What terminal views are made of: plain tables, facts by name, headings and warnings, without styles in the words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text


def warnings(doubts: Iterable[str]) -> list[RenderableType]:
    """A line for each reason to doubt what is shown."""
    return [line(f"! low confidence: {doubt}", "yellow") for doubt in doubts]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], text_columns: Sequence[str] = ("stage", "plan")) -> Table:
    """A table whose columns are figures, aligned to the right, but the first and those named."""
    from rich import box
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", expand=False)
    for index, name in enumerate(head):
        words_column = index == 0 or name in text_columns
        grid.add_column(
            text(name), justify="left" if words_column else "right", no_wrap=not words_column, overflow="fold"
        )
    for row in rows:
        grid.add_row(*map(text, row))
    return grid


def pairs(facts: Iterable[tuple[str, str]]) -> Table:
    """Facts by name, the names in one column."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True, max_width=24, overflow="ellipsis")
    grid.add_column(overflow="fold")
    for name, fact in facts:
        grid.add_row(text(name), text(fact))
    return grid


def heading(content: str) -> Text:
    """A title above what follows."""
    return text(content, "bold")


def line(content: str, style: str = "") -> Text:
    """A line of words."""
    return text(content, style)


def text(content: str, style: str = "") -> Text:
    """Text as it stands: square brackets in a user's words are not styles."""
    from rich.text import Text

    return Text(content, style=style)
