"""Admission to KV memory: what each rule keeps free, and the predicted peak against counting."""

from __future__ import annotations

import math

import numpy as np
import pytest

from headway.policy.kv_admission import RULES, Memory, admission, fits, headroom_after, predicted_peak, swaps

MEMORY = Memory(capacity=100.0, free=30.0, reserved=60.0, growth=2.0, peak=90.0, running=4)


@pytest.mark.parametrize(
    ("name", "need", "most", "memory", "expected"),
    [
        ("optimistic", 20.0, 80.0, MEMORY, True),
        ("optimistic", 21.0, 80.0, MEMORY, False),
        ("reserve", 20.0, 40.0, MEMORY, True),
        ("reserve", 20.0, 41.0, MEMORY, False),
        ("headroom", 10.0, 80.0, MEMORY, True),
        ("headroom", 11.0, 80.0, MEMORY, False),
        ("peak", 30.0, 80.0, MEMORY, True),
        ("peak", 30.0, 80.0, MEMORY._replace(peak=101.0), False),
    ],
)
def test_what_fits(name: str, need: float, most: float, memory: Memory, expected: bool) -> None:
    assert fits(admission(name, watermark=0.1), need, most, memory) is expected


@pytest.mark.parametrize("name", list(RULES))
def test_no_rule_gives_what_is_not_there_and_an_idle_engine_takes_all_it_can_hold(name: str) -> None:
    assert not fits(admission(name), 31.0, 31.0, MEMORY)
    idle = MEMORY._replace(free=100.0, reserved=0.0, running=0, peak=200.0)
    assert fits(admission(name, watermark=0.5), 100.0, 100.0, idle)


def test_headroom_falls_to_its_least() -> None:
    rule = admission("headroom", most_headroom=60.0, least_headroom=6.0)
    assert headroom_after(rule, 60.0, 600) == pytest.approx(6.0)
    assert headroom_after(rule, 60.0, 10_000) == 6.0
    once = headroom_after(rule, headroom_after(rule, 60.0, 100), 200)
    assert once == pytest.approx(headroom_after(rule, 60.0, 300))


def test_the_predicted_peak_equals_counting_step_by_step() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        size = int(rng.integers(1, 8))
        used, left = rng.integers(1, 50, size).astype(float), rng.integers(1, 30, size).astype(float)
        steps = range(1, int(left.max()) + 1)
        counted = max(float(np.sum((used + step)[left >= step])) for step in steps)
        assert predicted_peak(used.copy(), left.copy(), size) == pytest.approx(counted)


def test_the_cheaper_way_to_preempt() -> None:
    assert swaps(500.0, 500.0, token_s=1e-4, swap_token_s=4e-5)
    assert not swaps(500.0, 500.0, token_s=1e-4, swap_token_s=6e-5)
    assert not swaps(500.0, 500.0, token_s=1e-4, swap_token_s=math.inf)
    assert not swaps(500.0, 300.0, token_s=1e-4, swap_token_s=4e-5)


@pytest.mark.parametrize(
    ("name", "knobs", "says"),
    [
        ("greedy", {}, "admission is 'greedy'; valid: optimistic"),
        ("optimistic", {"watermark": 1.0}, "below 1"),
        ("headroom", {"most_headroom": 1.0, "least_headroom": 2.0}, "at most most_headroom"),
    ],
)
def test_invalid_rules_are_refused(name: str, knobs: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        admission(name, **knobs)
