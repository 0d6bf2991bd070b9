"""Defaults from a file: `headway.toml` in the working folder, or the file that HEADWAY_CONFIG names.

One table per verb, with the names of its long options: `[plan]`, then `planner = "greedy"`. What stands there loses
against flags and environment, and wins against built-in defaults.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headway.errors import HeadwayError, nearest

FILE = "headway.toml"


def read(environment: Mapping[str, str] = os.environ) -> dict[str, Any] | None:
    """Return the tables of the settings file, or None when there is none. Raises HeadwayError naming the file."""
    named = environment.get("HEADWAY_CONFIG")
    path = Path(named or FILE)
    if not named and not path.is_file():
        return None
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HeadwayError(f"{path}: cannot read the settings: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise HeadwayError(f"{path}: not a TOML file: {error}") from None


def defaults(tables: Mapping[str, Any], options: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return the tables by parameter name.

    `options` says what is valid: a verb's name leads to another such mapping, an option's long name (without dashes) to
    its parameter's name. Raises HeadwayError for anything else.

    >>> defaults({"plan": {"max-cost": 2}}, {"plan": {"max-cost": "max_cost_usd"}})
    {'plan': {'max_cost_usd': 2}}
    """
    out: dict[str, Any] = {}
    for name, value in tables.items():
        place = f"{where}.{name}" if where else name
        if name not in options:
            raise HeadwayError(f"settings: {place} is unknown{nearest(name, options)}; valid: {', '.join(options)}")
        if isinstance(options[name], Mapping):
            if not isinstance(value, Mapping):
                raise HeadwayError(f"settings: {place} is a verb; write its options in a table [{place}]")
            out[name] = defaults(value, options[name], place)
        else:
            out[options[name]] = value
    return out
