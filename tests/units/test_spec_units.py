"""Units are read exactly, written so that they are read back exactly, and nothing half right is taken."""

import contextlib
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.spec.units import duration_s, duration_text, price_text, price_usd_per_hour, rate_per_s, share, size_mb

finite = st.floats(min_value=0, max_value=1e290, allow_nan=False)
decimals = st.decimals(min_value=0, max_value=10**6, places=6)
SECONDS = {"us": Fraction(1, 10**6), "ms": Fraction(1, 1000), "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


@given(finite)
def test_duration_survives_text_to_the_last_bit(value_s: float) -> None:
    text = duration_text(value_s)
    assert duration_s(text) == value_s
    assert duration_text(duration_s(text)) == text


@given(finite)
def test_price_survives_text_to_the_last_bit(value: float) -> None:
    text = price_text(value)
    assert price_usd_per_hour(text) == value
    assert price_text(price_usd_per_hour(text)) == text


@given(decimals, st.sampled_from(sorted(SECONDS)))
def test_duration_is_the_float_nearest_to_the_decimal(number: object, unit: str) -> None:
    assert duration_s(f"{number}{unit}") == float(Fraction(str(number)) * SECONDS[unit])


@given(decimals)
def test_share_is_the_float_nearest_to_the_decimal(number: object) -> None:
    assert share(f"{number}%") == float(Fraction(str(number)) / 100)


@pytest.mark.parametrize(
    ("text", "value_s"),
    [("300ms", 0.3), ("5s", 5.0), (" 2 m ", 120.0), ("2min", 120.0), ("1.5h", 5400.0), (".5s", 0.5), ("7µs", 7e-6)],
)
def test_durations(text: str, value_s: float) -> None:
    assert duration_s(text) == value_s


def test_other_units() -> None:
    assert price_usd_per_hour("$0.01/s") == 36.0
    assert price_usd_per_hour("$24/d") == 1.0
    assert rate_per_s("3/ms") == 3000.0
    assert share("99.9%") == 0.999
    assert size_mb("1.5GB") == 1500.0


@pytest.mark.parametrize(
    "text",
    ["", "300", "ms", "-1s", "+1s", "1,5s", "1 s s", "1S", "NaNs", "infs", "1e400s", "1e9999s", "0x1s", "٣s", "1s\n2s",
     "1_000s", "9" * 1000 + "s", "1..2s", "1e s", "five s"],
)  # fmt: skip
def test_odd_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration; write a number with|is too large"):
        duration_s(text)


@pytest.mark.parametrize("text", ["", "0.2", "$0.2", "0.2/h", "$-1/h", "$1/y", "$1/ms", "€1/h", "$1e400/h", "$/h"])
def test_odd_prices_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a price; write dollars|is too large"):
        price_usd_per_hour(text)


@pytest.mark.parametrize(
    ("read", "text"), [(rate_per_s, "200"), (rate_per_s, "-2/s"), (share, "50"), (share, "-5%"), (size_mb, "4Gb")]
)
def test_other_odd_texts_are_refused(read: object, text: str) -> None:
    with pytest.raises(ValueError, match="; write"):
        read(text)  # type: ignore[operator]


@given(st.text(max_size=20))
def test_any_text_is_read_as_a_finite_number_or_refused(text: str) -> None:
    for read in (duration_s, price_usd_per_hour, rate_per_s, share, size_mb):
        value = None
        with contextlib.suppress(ValueError):
            value = read(text)
        assert value is None or 0 <= value < math.inf
