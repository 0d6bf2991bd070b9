"""What must hold of the rise that a tuner carries on: found as it is, and none where nothing rises any more."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headway.policy.envelopes import Floats
from headway.policy.scaling_rise import Rise, _fits, _knots, rise_under_way
from headway.trace import Trace

SPAN_S = 60.0


def even(rate_per_s: float, height: float, began_s: float, ended_s: float) -> Floats:
    """Requests up to 60 s whose number follows a rise without any chance; it began and ended so many seconds ago."""
    at_s = np.linspace(0.0, SPAN_S, 60_001)
    share = np.clip((at_s - SPAN_S + began_s) / max(began_s - ended_s, 1e-3), 0.0, 1.0)
    number = np.append(0.0, np.cumsum((rate_per_s + height * (share[1:] + share[:-1]) / 2) * np.diff(at_s)))
    return np.interp(np.arange(0.5, number[-1]), number, at_s)


def poisson(level_at_s: Floats, at_s: Floats, rate_per_s: float, seed: int) -> Floats:
    """A Poisson process with a rate that is straight between the given levels."""
    most, draws = float(np.max(level_at_s)), np.random.default_rng(seed)
    dense = Trace.poisson(rate_per_s * most, float(at_s[-1]), seed=seed).arrival_s
    return np.asarray(dense[draws.random(dense.size) * most < np.interp(dense, at_s, level_at_s)])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), rate=st.floats(5.0, 200.0), span=st.floats(2.0, 60.0))
def test_the_closed_form_is_that_of_least_squares(seed: int, rate: float, span: float) -> None:
    arrival_s = Trace.poisson(rate, SPAN_S, seed=seed).arrival_s
    ages, bins = _knots(span), 5_000
    before, height, explained = _fits(arrival_s, SPAN_S, ages, 1.0)
    width_s = span / bins
    edges = SPAN_S - span + width_s * np.arange(bins + 1)
    rates = np.diff(np.searchsorted(arrival_s, edges, side="right")) / width_s
    old_s = SPAN_S - (edges[1:] + edges[:-1]) / 2
    for i, j in ((-1, 0), (-2, 0), (-2, -4), (-3, -3)):
        began, ended = float(ages[i]), float(ages[j])
        shape = np.clip((began - old_s) / (began - ended), 0.0, 1.0) if began > ended else (old_s < began) * 1.0
        wanted, *_ = np.linalg.lstsq(np.column_stack([np.ones(bins), shape]), rates, rcond=None)
        scale = rates.mean() + abs(wanted[1])
        assert [before[i, j], height[i, j]] == pytest.approx(wanted.tolist(), abs=0.02 * scale)
        assert (explained[i, j] > 0.0) == (height[i, j] > 0.0)


@settings(max_examples=60, deadline=None)
@example(rate=240.0, height=3.0, lasted=6.0)
@given(rate=st.floats(100.0, 500.0), height=st.floats(1.0, 3.0), lasted=st.floats(4.0, 20.0))
def test_a_rise_without_chance_is_found_as_it_is(rate: float, height: float, lasted: float) -> None:
    rise = rise_under_way(even(rate, rate * height, lasted, 0.0), SPAN_S, SPAN_S, 1.0)
    assert rise is not None
    assert rise.lasted_s == pytest.approx(lasted, rel=0.05)
    assert rise.rate_per_s == pytest.approx(rate * (1 + height), rel=0.03)
    assert rise.rate_in(0.0) == rise.rate_per_s
    assert rise.rate_in(1e9) == pytest.approx(rise.rate_per_s + rise.slope_per_s2 * rise.lasted_s)


@settings(max_examples=30, deadline=None)
@given(height=st.floats(1.0, 4.0), began=st.floats(2.0, 55.0), share=st.floats(0.0, 0.5))
def test_what_has_ended_is_not_carried_on(height: float, began: float, share: float) -> None:
    """Of rises that are strong enough, and over for long enough, for the end to be beyond chance."""
    ended = began - share * began
    assert rise_under_way(even(300.0, 300.0 * height, began, ended), SPAN_S, SPAN_S, 1.0) is None


def test_steady_traffic_and_falling_traffic_do_not_rise() -> None:
    for seed in range(20):
        steady = Trace.poisson(200.0, SPAN_S, seed=seed).arrival_s
        falling = Trace.ramp(300.0, 100.0, SPAN_S, seed=seed).arrival_s
        for span_s in (0.1, 3.0, 30.0, SPAN_S):
            assert rise_under_way(steady, SPAN_S, span_s, 1.0) is None
            assert rise_under_way(falling, SPAN_S, span_s, 1.0) is None
    assert rise_under_way(np.empty(0), SPAN_S, SPAN_S, 1.0) is None


def test_chance_seldom_takes_a_step_for_a_rise_or_a_rise_for_a_step() -> None:
    def found(*knots: tuple[float, float]) -> list[Rise | None]:
        at_s, level = np.array(knots).T
        return [rise_under_way(poisson(level, at_s, 300.0, seed), SPAN_S, SPAN_S, 1.0) for seed in range(60)]

    rises, steps = found((0, 1), (50, 1), (60, 1.5)), found((0, 1), (57, 1), (57, 1.5), (60, 1.5))
    assert sum(rise is None for rise in rises) <= 10
    assert sum(step is not None for step in steps) <= 6
    carried = [rise.rate_in(5.0) for rise in rises if rise is not None]
    assert float(np.mean(carried)) == pytest.approx(525.0, rel=0.06)
