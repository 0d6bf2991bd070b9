"""Human units, parsed once: durations to seconds, prices to dollars per hour, shares to fractions, rates to 1/s."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer

_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = r"(?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)"
_DURATION = re.compile(rf"^\s*{_NUMBER}\s*(?P<unit>us|µs|ms|s|min|m|h|d)\s*$")
_PRICE = re.compile(rf"^\s*\$\s*{_NUMBER}\s*/\s*(?P<unit>s|min|m|h|d)\s*$")
_SHARE = re.compile(rf"^\s*{_NUMBER}\s*%\s*$")
_RATE = re.compile(rf"^\s*{_NUMBER}\s*/\s*(?P<unit>ms|s|min|m|h|d)\s*$")


def duration_s(text: str) -> float:
    """Return the seconds that a duration such as `"300ms"`, `"5s"`, `"2m"` or `"1.5h"` stands for.

    Raises ValueError for anything else, a bare number included.

    >>> duration_s("300ms")
    0.3
    """
    match = _DURATION.match(text)
    if not match:
        raise ValueError(f"{text!r} is not a duration; write a number with us, ms, s, m, h or d, such as '300ms'")
    number = float(match["number"])
    unit = match["unit"]
    # Division keeps decimal figures exact where a factor would not: 300 / 1000 is 0.3, 300 * 1e-3 need not be.
    return number / 1e3 if unit == "ms" else number / 1e6 if unit in ("us", "µs") else number * _SECONDS[unit]


def price_usd_per_hour(text: str) -> float:
    """Return dollars per hour for a price such as `"$0.20/h"` or `"$0.01/s"`. Raises ValueError for anything else.

    >>> price_usd_per_hour("$0.20/h")
    0.2
    """
    match = _PRICE.match(text)
    if not match:
        raise ValueError(f"{text!r} is not a price; write dollars per time, such as '$0.20/h'")
    return float(match["number"]) * (3600.0 / _SECONDS[match["unit"]])


def rate_per_s(text: str) -> float:
    """Return requests per second for a rate such as `"200/s"` or `"90/m"`. Raises ValueError for anything else.

    >>> rate_per_s("90/m")
    1.5
    """
    match = _RATE.match(text)
    if not match:
        raise ValueError(f"{text!r} is not a rate; write requests per time, such as '200/s'")
    return float(match["number"]) / _SECONDS[match["unit"]]


def share(text: str) -> float:
    """Return the fraction that a percentage such as `"99.9%"` stands for. Raises ValueError for anything else.

    >>> share("50%")
    0.5
    """
    match = _SHARE.match(text)
    if not match:
        raise ValueError(f"{text!r} is not a share; write a percentage such as '99.9%', or a fraction such as 0.999")
    return float(match["number"]) / 100.0


def _from_text(parse: Any, needs_unit: str) -> Any:
    def convert(value: Any) -> Any:
        if isinstance(value, str):
            return parse(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{value!r} is not text such as {needs_unit!r}")
        raise ValueError(f"{value!r} has no unit; write it like {needs_unit!r}")

    return convert


def _share_or_number(value: Any) -> Any:
    return share(value) if isinstance(value, str) else value


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return value


def duration_text(value_s: float) -> str:
    """Return a duration as text that `duration_s` reads back to the last bit.

    >>> duration_text(0.3)
    '300ms'
    """
    for factor, unit in ((1e3, "ms"), (1.0, "s")):
        number = value_s * factor
        text = f"{number:g}{unit}"
        if number < 1000 and duration_s(text) == value_s:
            return text
    return f"{value_s!r}s"


def price_text(value_usd_per_hour: float) -> str:
    """Return a price as text that `price_usd_per_hour` reads back to the last bit.

    >>> price_text(0.2)
    '$0.2/h'
    """
    return f"${value_usd_per_hour!r}/h"


Duration = Annotated[
    float, BeforeValidator(_from_text(duration_s, "300ms")), PlainSerializer(duration_text), Field(ge=0)
]
Price = Annotated[
    float, BeforeValidator(_from_text(price_usd_per_hour, "$0.20/h")), PlainSerializer(price_text), Field(ge=0)
]
Share = Annotated[float, BeforeValidator(_finite), BeforeValidator(_share_or_number), Field(ge=0, le=1)]
