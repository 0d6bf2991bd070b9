"""`docs/extending.md` lists every door: optional protocols of a domain, of what it declares, of its live station."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import headway

SOURCE = Path(headway.__file__).parent
PAGE = SOURCE.parent.parent / "docs" / "extending.md"
NO_DOORS = {"Config"}
"""What every domain has."""


def doors() -> dict[str, list[str]]:
    """The members of all protocols that are asked for with `isinstance`, by name."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        for name in re.findall(r"^@runtime_checkable\nclass (\w+)\(", path.read_text(encoding="utf-8"), re.M):
            module = ".".join(("headway", *path.relative_to(SOURCE).with_suffix("").parts))
            protocol = getattr(importlib.import_module(module), name)
            found[name] = [member for member in vars(protocol) if not member.startswith("_")]
    return {name: members for name, members in found.items() if name not in NO_DOORS}


def test_the_tables_and_the_modules_name_the_same_doors_and_members() -> None:
    rows = re.findall(r"^\| `([A-Z]\w+)` \| (`.*?`) \|", PAGE.read_text(encoding="utf-8"), re.M)
    told = {name: re.findall(r"`(\w+)`", members) for name, members in rows}
    assert told == doors()
    assert len(rows) == len(told)
