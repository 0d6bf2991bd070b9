"""Human units, parsed once: durations to seconds, prices to dollars per hour, shares to fractions, rates to 1/s, sizes
to megabytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

_NUMBER = r"([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?|\.[0-9]+)"
DURATION_PATTERN = rf"^\s*{_NUMBER}\s*(us|µs|ms|s|min|m|h|d)\s*$"
PRICE_PATTERN = rf"^\s*\$\s*{_NUMBER}\s*/\s*(s|min|m|h|d)\s*$"
SHARE_PATTERN = rf"^\s*{_NUMBER}\s*%\s*$"
RATE_PATTERN = rf"^\s*{_NUMBER}\s*/\s*(ms|s|min|m|h|d)\s*$"
SIZE_PATTERN = rf"^\s*{_NUMBER}\s*(MB|GB|TB)\s*$"

_SECONDS = {
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "m": Decimal(60),
    "min": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
_MEGABYTES = {"MB": Decimal(1), "GB": Decimal("1e3"), "TB": Decimal("1e6")}
_LONGEST_TEXT = 100


def _read(text: str, pattern: str, complaint: str) -> tuple[Decimal, str]:
    """The number and the unit (or an empty string) of `text`."""
    match = re.match(pattern, text) if len(text) <= _LONGEST_TEXT else None
    if not match:
        raise ValueError(f"{text[:_LONGEST_TEXT]!r} is not {complaint}")
    number, *unit = match.groups()
    return Decimal(number), unit[0] if unit else ""


def _finite(value: Decimal, text: str) -> float:
    """The float nearest to a decimal figure: 99.9% is 0.999, which 99.9 / 100 in floats is not."""
    result = float(value)
    if not math.isfinite(result):
        raise ValueError(f"{text!r} is too large; write a number below 1e300")
    return result


def duration_s(text: str) -> float:
    """Return the seconds that a duration such as `"300ms"`, `"5s"`, `"2m"` or `"1.5h"` stands for.

    Raises ValueError for anything else, a bare number included.

    >>> duration_s("300ms")
    0.3
    """
    number, unit = _read(
        text, DURATION_PATTERN, "a duration; write a number with us, ms, s, m, h or d, such as '300ms'"
    )
    return _finite(number * _SECONDS[unit], text)


def price_usd_per_hour(text: str) -> float:
    """Return dollars per hour for a price such as `"$0.20/h"` or `"$0.01/s"`. Raises ValueError for anything else.

    >>> price_usd_per_hour("$0.20/h")
    0.2
    """
    number, unit = _read(text, PRICE_PATTERN, "a price; write dollars per s, m, h or d, such as '$0.20/h'")
    return _finite(number * _SECONDS["h"] / _SECONDS[unit], text)


def rate_per_s(text: str) -> float:
    """Return requests per second for a rate such as `"200/s"` or `"90/m"`. Raises ValueError for anything else.

    >>> rate_per_s("90/m")
    1.5
    """
    number, unit = _read(text, RATE_PATTERN, "a rate; write requests per ms, s, m, h or d, such as '200/s'")
    return _finite(number / _SECONDS[unit], text)


def size_mb(text: str) -> float:
    """Return the megabytes that a size such as `"400MB"` or `"16GB"` stands for. Raises ValueError for anything else.

    >>> size_mb("16GB")
    16000.0
    """
    number, unit = _read(text, SIZE_PATTERN, "a size; write a number with MB, GB or TB, such as '400MB'")
    return _finite(number * _MEGABYTES[unit], text)


def share(text: str) -> float:
    """Return the fraction that a percentage such as `"99.9%"` stands for. Raises ValueError for anything else.

    >>> share("99.9%")
    0.999
    """
    number, _ = _read(text, SHARE_PATTERN, "a share; write a percentage such as '99.9%', or a fraction such as 0.999")
    return _finite(number.scaleb(-2), text)


def _from_text(parse: Callable[[str], float], example: str) -> Callable[[Any], float]:
    def convert(value: Any) -> float:
        if isinstance(value, str):
            return parse(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise ValueError(f"{value!r} has no unit; write it as text like {example!r}")
        raise ValueError(f"needs text with a unit; write it like {example!r}")

    return convert


def _share_or_number(value: Any) -> Any:
    number = share(value) if isinstance(value, str) else value
    # Written so that not-a-number is refused too.
    if isinstance(number, int | float) and not isinstance(number, bool) and not 0 <= number <= 1:
        raise ValueError(f"{value!r} is impossible; a share lies between 0 and 1, or 0% and 100%")
    return number


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


def _text_schema(pattern: str, *examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": list(examples)})


Duration = Annotated[
    float,
    BeforeValidator(_from_text(duration_s, "300ms")),
    PlainSerializer(duration_text, return_type=str),
    Field(ge=0),
    _text_schema(DURATION_PATTERN, "300ms", "5s", "2m"),
]
"""Seconds; a text with a unit on the way in and out."""

Price = Annotated[
    float,
    BeforeValidator(_from_text(price_usd_per_hour, "$0.20/h")),
    PlainSerializer(price_text, return_type=str),
    Field(ge=0),
    _text_schema(PRICE_PATTERN, "$0.20/h"),
]
"""Dollars per hour; a text with a unit on the way in and out."""

Rate = Annotated[
    float,
    BeforeValidator(_from_text(rate_per_s, "200/s")),
    PlainSerializer(lambda value: f"{value!r}/s", return_type=str),
    Field(ge=0),
    _text_schema(RATE_PATTERN, "200/s"),
]
"""Requests per second; a text with a unit on the way in and out."""

Size = Annotated[
    float,
    BeforeValidator(_from_text(size_mb, "400MB")),
    PlainSerializer(lambda value: f"{value!r}MB", return_type=str),
    Field(ge=0),
    _text_schema(SIZE_PATTERN, "400MB", "16GB"),
]
"""Megabytes; a text with a unit on the way in and out."""

Share = Annotated[
    float,
    BeforeValidator(_share_or_number),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 1},
                {"type": "string", "pattern": SHARE_PATTERN},
            ],
            "examples": [0.6, "99.9%"],
        }
    ),
]
"""A fraction between 0 and 1; a number or a percentage on the way in, a number on the way out."""
