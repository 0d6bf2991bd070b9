"""The rules of gears and batches, by themselves and against `policy.batching.take`."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from headway.policy.batching import take
from headway.policy.cascading import due, gear_at, next_gear
from headway.sim.jit import kernel
from headway.testing.policy import STATES, check_pure

RATES = ((10.0,), (10.0, 20.0), (10.0, 20.0, 40.0, 80.0))
LOADS = (0.0, 5.0, 10.0, 10.5, 20.0, 39.0, 80.0, 1e6)


@pytest.mark.parametrize("rates", RATES)
def test_a_higher_rate_never_asks_for_a_dearer_gear(rates: tuple[float, ...]) -> None:
    gears = [gear_at(load, rates) for load in LOADS]
    assert gears == sorted(gears)
    assert gears[-1] == len(rates) - 1
    for load, gear in zip(LOADS, gears, strict=True):
        assert gear == len(rates) - 1 or load <= rates[gear]
        assert gear == 0 or load > rates[gear - 1]


@pytest.mark.parametrize("rates", RATES)
def test_toward_the_cheaper_gear_at_once_and_back_only_without_a_backlog(rates: tuple[float, ...]) -> None:
    for gear, load, backlog in itertools.product(range(len(rates)), LOADS, (0, 1, 5, 100)):
        wanted, to = gear_at(load, rates), next_gear(gear, load, backlog, rates, 8.0)
        if wanted >= gear or load >= 8.0 * backlog:
            assert to == wanted
        else:
            assert to == gear
        assert next_gear(gear, load, backlog, rates, 0.0) == wanted, "alpha 0 switches hysteresis off"


def test_plain_and_compiled_gears_agree() -> None:
    compiled = kernel(next_gear)
    rates = np.array(RATES[2])
    for gear, load, backlog in itertools.product(range(4), LOADS, (0, 3, 100)):
        assert compiled(gear, load, backlog, rates, 8.0) == next_gear(gear, load, backlog, RATES[2], 8.0)


def test_waiting_for_a_full_batch_is_what_replicas_do() -> None:
    for queued, oldest_s, now_s, size, wait_s in STATES:
        assert due(queued, oldest_s, now_s, size, wait_s, size) == take(queued, oldest_s, now_s, size, wait_s)


@pytest.mark.parametrize("least", [1, 2, 7, 50])
def test_batches_are_due_as_a_batching_policy_must_have_it(least: int) -> None:
    def waiting(queued: int, oldest_s: float, now_s: float, size: int, wait_s: float) -> tuple[int, float]:
        return due(queued, oldest_s, now_s, least, wait_s, size)

    states = [state for state in STATES if state[3] >= 1]
    plain = [waiting(*state) for state in states]
    check_pure(due, [(q, o, n, least, w, s) for q, o, n, s, w in states])
    for (queued, oldest_s, now_s, size, wait_s), (taken, wake_s) in zip(states, plain, strict=True):
        assert taken == 0 or taken == min(queued, size)
        if queued >= min(least, size):
            assert taken > 0
        if taken == 0 and queued:
            assert wake_s == oldest_s + wait_s > now_s
            assert due(queued, oldest_s, wake_s, least, wait_s, size)[0] > 0, "nothing waits for longer than it must"
        if not queued:
            assert wake_s == math.inf
