"""Orders of waiting requests: what each prefers, and that the maximum wait is above them all."""

from __future__ import annotations

import math

import pytest

from headway.policy.scheduling import ORDERS, Backlog, Waiting, first, order, overdue, rank, returning

CALM = Backlog(tokens=0.0, budget=512.0, memory=0.2, token_s=1e-4, step_s=0.01)
TIGHT = CALM._replace(memory=1.5, tokens=20_000.0)
EARLY_LONG = Waiting(arrived_s=0.0, work_tokens=4000.0, memory_tokens=4000.0, predicted_tokens=10.0, served=90.0)
LATE_SHORT = Waiting(arrived_s=1.0, work_tokens=100.0, memory_tokens=100.0, predicted_tokens=500.0, served=10.0)
BOTH = [EARLY_LONG, LATE_SHORT]


@pytest.mark.parametrize(
    ("name", "engine", "goes_first"),
    [
        ("fcfs", CALM, EARLY_LONG),
        ("sjf", CALM, LATE_SHORT),
        ("hrrn", CALM, LATE_SHORT),
        ("aged", CALM, LATE_SHORT),
        ("srpt", CALM, EARLY_LONG),
        ("mlfq", CALM, LATE_SHORT),
        ("vtc", CALM, LATE_SHORT),
        ("larry", CALM, EARLY_LONG),
        ("larry", TIGHT, LATE_SHORT),
        ("larry-backlog", CALM, LATE_SHORT),
        ("larry-backlog", TIGHT._replace(tokens=1e6), EARLY_LONG),
    ],
)
def test_who_goes_first(name: str, engine: Backlog, goes_first: Waiting) -> None:
    chosen = first(order(name, max_wait_s=100.0, reach_tokens=8000.0), BOTH, engine, now_s=2.0)
    assert BOTH[chosen] is goes_first


@pytest.mark.parametrize("name", list(ORDERS))
def test_what_has_waited_too_long_goes_first_by_arrival(name: str) -> None:
    chosen = order(name, max_wait_s=5.0)
    assert first(chosen, BOTH, CALM, now_s=5.5) == 0
    assert first(chosen, BOTH[::-1], TIGHT, now_s=7.0) == 1
    assert overdue(chosen, 0.0, 5.0)
    assert not overdue(chosen, 0.0, 4.999)


@pytest.mark.parametrize("name", list(ORDERS))
def test_of_equals_the_earliest_goes_first(name: str) -> None:
    twins = [LATE_SHORT._replace(arrived_s=at) for at in (3.0, 1.0, 2.0)]
    assert first(order(name, max_wait_s=50.0), twins, CALM, now_s=4.0) == 1


def test_aging_overtakes_any_newcomer_within_the_maximum_wait() -> None:
    aged = order("aged", max_wait_s=10.0, reach_tokens=4000.0)
    newcomer = LATE_SHORT._replace(arrived_s=10.0, work_tokens=1.0)
    assert rank(aged, EARLY_LONG, CALM, 10.0) < rank(aged, newcomer, CALM, 10.0)
    assert rank(aged, EARLY_LONG, CALM, 5.0) > rank(aged, newcomer._replace(arrived_s=5.0), CALM, 5.0)


def test_under_pressure_a_prompt_steps_back_by_its_memory() -> None:
    larry = order("larry", max_wait_s=10.0, reach_tokens=4000.0)
    assert rank(larry, EARLY_LONG, TIGHT, 0.0) == pytest.approx(10.0)
    assert rank(larry, LATE_SHORT, TIGHT, 0.0) == pytest.approx(1.25)


def test_nothing_waits_nobody_goes() -> None:
    assert first(order("fcfs"), [], CALM, 0.0) == -1


def test_a_tenant_that_returns_does_not_collect_what_it_did_not_ask_for() -> None:
    assert returning(500.0, 20.0) == 500.0
    assert returning(500.0, 900.0) == 900.0


@pytest.mark.parametrize(
    ("name", "knobs", "says"),
    [
        ("short", {}, "order is 'short'; valid: fcfs"),
        ("sjf", {"max_wait_s": 0.0}, "above 0"),
        ("sjf", {"reach_tokens": math.inf}, "above 0"),
        ("sjf", {"bypass": -1}, "whole one from 0"),
    ],
)
def test_invalid_orders_are_refused(name: str, knobs: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        order(name, **knobs)  # type: ignore[arg-type]
