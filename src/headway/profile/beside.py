"""The JSON file beside a profile's CSV: where it stands, and whether what stands there is one."""

from __future__ import annotations

import glob
import json
from pathlib import Path
from typing import Any

from headway.errors import ProfileError

SCHEMA = "headway.profile/1"
MOST_CHARS = 4096
"""Of the first line of a file that may be a profile."""


def place_beside(path: Path) -> Path:
    """Return where the JSON beside a profile stands. Raises ProfileError when something else has its name.

    >>> place_beside(Path("/tmp/headway-example-profile.csv")).name
    'headway-example-profile.json'
    """
    beside = path.with_suffix(".json")
    if beside == path:
        raise ProfileError(
            f"{path}: a profile is a CSV file with a JSON file beside it; give it another ending, as .csv"
        )
    if not beside.exists():
        return beside
    if not is_ours(beside):
        raise ProfileError(f"{path}: {beside.name} beside it would be replaced, and is no profile's; give another name")
    others = sorted(other for other in path.parent.glob(f"{glob.escape(path.stem)}*") if _shares(other, beside))
    if others and not path.exists():
        raise ProfileError(
            f"{path}: {beside.name} beside it would be replaced, and is that of {others[0].name}; give another name"
        )
    return beside


def _shares(other: Path, beside: Path) -> bool:
    """Whether a file is a profile's rows, with the same JSON beside it."""
    if other == beside or other.with_suffix(".json") != beside:
        return False
    try:
        with open(other, encoding="utf-8") as file:
            columns = file.readline(MOST_CHARS).strip().split(",")
    except (OSError, ValueError):
        return False
    return {"stage", "hardware", "batch_size"} <= set(columns)


def belonging(extra: Any, path: Path) -> dict[str, Any]:
    """Return what stands beside a profile. It may be something else; only what says that it belongs is used.

    Raises ProfileError when it is of another version.
    """
    if not _belongs(extra):
        return {}
    if extra["schema"] != SCHEMA:
        raise ProfileError(f"{path}: its schema is {extra['schema']!r}; this version reads {SCHEMA!r}")
    return dict(extra)


def _belongs(extra: Any) -> bool:
    """Whether a JSON value is that of a profile, of whatever version."""
    return isinstance(extra, dict) and str(extra.get("schema")).startswith(SCHEMA.partition("/")[0] + "/")


def is_ours(path: Path) -> bool:
    """Return whether a file is what a former profile of this name left beside itself."""
    try:
        return _belongs(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False
