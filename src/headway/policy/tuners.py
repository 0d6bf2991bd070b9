"""All tuners by name, and by a name with parameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from headway.policy.scaling import Terms, Tuner
from headway.policy.scaling_baselines import AutoScale, Ds2, Nothing, Threshold
from headway.policy.scaling_headway import Headway
from headway.policy.scaling_inferline import InferLine

TUNERS: dict[str, Callable[..., Tuner]] = {
    "headway": Headway,
    "inferline": InferLine,
    "autoscale": AutoScale,
    "ds2": Ds2,
    "threshold": Threshold,
    "none": Nothing,
}
"""From a name to what makes the tuner of that name from `Terms` and its own parameters."""


def tuner(name: str, terms: Terms, **parameters: Any) -> Tuner:
    """Return a tuner by name. Raises ValueError for a name that is not known, TypeError for a parameter that is not.

    >>> from headway.testing.scaling import example_terms
    >>> tuner("autoscale", example_terms(), wait_s=60.0).name
    'autoscale'
    """
    if name not in TUNERS:
        raise ValueError(f"tuner is {name!r}; valid: {', '.join(TUNERS)}")
    return TUNERS[name](terms, **parameters)


def parameters(name: str) -> Mapping[str, str]:
    """Return what a tuner can be told beside `Terms`, with the type of each: `float`, `float | None` or `bool`.

    >>> sorted(parameters("ds2"))
    ['interval_s', 'pause_s']
    """
    fields = dataclasses.fields(TUNERS[name])  # type: ignore[arg-type]
    return {field.name: str(field.type) for field in fields if field.name != "terms"}


def written(text: str) -> tuple[str, dict[str, float | bool]]:
    """Return the name and the parameters in `NAME[,WHAT=VALUE...]`. Raises ValueError for any that is not known.

    >>> written("autoscale,unit_ratio=1.2,by_items=yes")
    ('autoscale', {'unit_ratio': 1.2, 'by_items': True})
    """
    name, *pairs = (part.strip() for part in text.split(","))
    if name not in TUNERS:
        raise ValueError(f"tuner is {name!r}; valid: {', '.join(TUNERS)}")
    known, given = parameters(name), dict[str, float | bool]()
    for pair in pairs:
        what, equals, value = pair.partition("=")
        if not equals or what not in known:
            valid = f"it can be told {', '.join(known)}" if known else "it has no parameters"
            raise ValueError(f"tuner {name!r} is told {pair!r}, not WHAT=VALUE of its own; {valid}")
        given[what] = _switch(what, value) if known[what] == "bool" else _number(what, value)
    return name, given


def _switch(what: str, text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError(f"{what} is {text!r}; it is yes or no")
    return text == "yes"


def _number(what: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"{what} is {text!r}; it is a number, 0 or more")
    return value
