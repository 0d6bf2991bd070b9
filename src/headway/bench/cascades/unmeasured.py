"""Bars are on what happened: where nothing was cascaded, or no filter ranked, there is nothing that could meet them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from headway.bench import Row
from headway.errors import HeadwayError


def where(happened: bool, rows: Iterable[Row]) -> Iterator[Row]:
    """Yield rows as they are where happened what their bars are on; else those with a bar cannot be measured.

    >>> [(row.value, row.met) for row in where(False, [Row("loss", 0.0, "points", bar="<= 1"), Row("draws", 4, "")])]
    [(nan, False), (4, None)]
    """
    for row in rows:
        lacking = not happened and row.bar is not None
        yield replace(row, value=math.nan, baseline=None, ratio=None, met=None) if lacking else row


def check(happened: Mapping[str, bool], why: str) -> None:
    """Raise HeadwayError that names of what nothing could be measured, and says why; the rows come before."""
    lacking = [name for name, did in happened.items() if not did]
    if lacking:
        raise HeadwayError(f"bench {', '.join(lacking)}: {why}, so that the rows with bars cannot be measured")
