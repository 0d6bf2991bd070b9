"""How figures are written, once, for terminal, HTML and notebooks alike. Unknown is a dash, never zero."""

from __future__ import annotations

import math

DASH = "—"

_DURATION_STEPS = ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (600.0, 1.0, "s"), (7200.0, 1 / 60, "min"))


def duration(value_s: float | None) -> str:
    """Return seconds as text with three significant digits and a fitting unit; infinite (unanswered) is `∞`.

    No clock here tells less than a nanosecond, so less is 0.

    >>> duration(0.0412), duration(12.34), duration(None), duration(2.5e-12)
    ('41.2 ms', '12.3 s', '—', '0 ms')
    """
    if value_s is None or math.isnan(value_s):
        return DASH
    if math.isinf(value_s):
        return "∞"
    if abs(value_s) < 1e-9:
        return "0 ms"
    for limit_s, factor, unit in _DURATION_STEPS:
        # Rounding first keeps 0.9996 s from becoming 1000 ms.
        if round(abs(value_s) / limit_s, 3) < 1:
            return f"{_three_digits(value_s * factor)} {unit}"
    return f"{_three_digits(value_s / 3600)} h"


def clock(value_s: float) -> str:
    """Return a moment since a start, in the largest unit that it fills.

    >>> clock(0), clock(120), clock(90), clock(5400)
    ('0', '2 min', '1:30 min', '1:30 h')
    """
    if value_s < 60:
        return f"{value_s:g} s" if value_s else "0"
    major, minor = divmod(round(value_s / 60 if value_s >= 3600 else value_s), 60)
    unit = "h" if value_s >= 3600 else "min"
    return f"{major}:{minor:02d} {unit}" if minor else f"{major} {unit}"


def percent(value: float | None) -> str:
    """Return a share as a percentage; a share too small to show is said to be so, and is not 0.

    >>> percent(0.0042), percent(0.5), percent(0.00001), percent(0.0)
    ('0.42%', '50%', '0.001%', '0%')
    """
    if value is None or not math.isfinite(value):
        return DASH
    scaled = value * 100
    if 0 < abs(scaled) < 0.0995:
        return f"{scaled:.2g}%" if abs(scaled) >= 1e-4 else "<0.0001%"
    text = f"{scaled:.2f}" if abs(scaled) < 9.995 else f"{scaled:.1f}"
    return f"{text.rstrip('0').rstrip('.')}%"


def whole_percent(value: float | None) -> str:
    """Return a share rounded to whole percent, for utilizations.

    >>> whole_percent(0.634)
    '63%'
    """
    return DASH if value is None or not math.isfinite(value) else f"{value * 100:.0f}%"


def change(ratio: float | None) -> str:
    """Return a relative change with its sign; a rise to ten times and more is a multiple.

    >>> change(0.384), change(-0.051), change(0.0), change(27.886)
    ('+38.4%', '−5.1%', '±0%', '28.9×')
    """
    if ratio is None or not math.isfinite(ratio):
        return DASH
    if abs(ratio) < 5e-4:
        return "±0%"
    if ratio >= 9:
        return times(1 + ratio)
    return f"{'+' if ratio > 0 else '−'}{abs(ratio) * 100:.1f}%"


def usd(value: float | None) -> str:
    """Return dollars: cents, more digits for small amounts, fewer for large ones.

    >>> usd(4.2), usd(0.0453), usd(12345.6)
    ('$4.20', '$0.0453', '$12,346')
    """
    if value is None or not math.isfinite(value):
        return DASH
    size = abs(value)
    if size >= 1000:
        return f"${value:,.0f}"
    if size == 0 or size >= 0.1:
        return f"${value:.2f}"
    return f"${_three_digits(value)}" if size >= 1e-4 else f"${value:.1e}"


def usd_per_hour(value: float | None) -> str:
    """Return dollars per hour.

    >>> usd_per_hour(4.2)
    '$4.20/h'
    """
    text = usd(value)
    return text if text == DASH else f"{text}/h"


def count(value: float | None) -> str:
    """Return a whole number with thousands separated.

    >>> count(12345)
    '12,345'
    """
    return DASH if value is None or not math.isfinite(value) else f"{value:,.0f}"


def times(ratio: float | None) -> str:
    """Return a multiple.

    >>> times(1.351)
    '1.35×'
    """
    return DASH if ratio is None or not math.isfinite(ratio) else f"{_three_digits(ratio)}×"


def rate(value_per_s: float | None) -> str:
    """Return events per second.

    >>> rate(42.04)
    '42/s'
    """
    return DASH if value_per_s is None or not math.isfinite(value_per_s) else f"{_three_digits(value_per_s)}/s"


def plain(value: object) -> str:
    """Return any value of a configuration or a provenance as text.

    >>> plain(None), plain(3), plain(0.25), plain(["a", 1])
    ('—', '3', '0.25', 'a, 1')
    """
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or DASH
    return str(value)


def plural(number: int, word: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "replica"), plural(3, "replica")
    ('1 replica', '3 replicas')
    """
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def listing(names: list[str]) -> str:
    """Return names as they stand in a sentence.

    >>> listing(["cpu", "gpu-a", "gpu-b"])
    'cpu, gpu-a and gpu-b'
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _three_digits(value: float) -> str:
    """Three significant digits without exponent or trailing zeros."""
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value)) + 1e-12))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
