"""Balancing by tokens: what each policy prefers, deltas since the last report, staleness, and dead engines."""

from __future__ import annotations

import numpy as np
import pytest

from headway.policy.routing import HOLD, NOBODY, Servers, note_report, note_sent
from headway.policy.token_routing import TOKEN_ROUTERS, Tokens, believed, place, token_router

U = [0.0, 0.99, 0.5]


def engines(count: int = 2) -> tuple[Servers, Tokens]:
    """Return idle engines that have just reported."""
    servers = Servers.of([1.0] * count)
    for at in range(count):
        note_report(servers, at, 0.0, 0.0, 0.0)
    return servers, Tokens.of([512.0] * count, [0.03] * count, [1e-6] * count, [10_000.0] * count)


def placed(name: str, servers: Servers, tokens: Tokens, prompt: float = 100.0, **knobs: float) -> int:
    """Return where a policy sends a prompt of which nothing is cached."""
    return place(token_router(name, **knobs), servers, tokens, prompt, np.zeros(len(servers.alive)), U, 0, 0.0)


@pytest.mark.parametrize("name", ["least-prefill", "lmetric", "sal", "first-token"])
def test_queued_prompt_tokens_decide_and_what_was_sent_counts(name: str) -> None:
    servers, tokens = engines()
    tokens.prefill[0] = 4000.0
    assert placed(name, servers, tokens) == 1
    tokens.sent[1] = 6000.0
    assert placed(name, servers, tokens) == 0


def test_few_tokens_of_many_requests_are_told_apart_from_many_tokens_of_few() -> None:
    servers, tokens = engines()
    note_report(servers, 0, 9.0, 0.0, 0.0)
    tokens.prefill[0], tokens.prefill[1] = 100.0, 900.0
    assert placed("least-prefill", servers, tokens) == 0
    assert placed("lmetric", servers, tokens) == 1


@pytest.mark.parametrize("name", ["sal", "first-token"])
def test_an_engine_without_memory_is_avoided_even_with_nothing_to_compute(name: str) -> None:
    servers, tokens = engines()
    tokens.free[0], tokens.used[0], tokens.release[0] = 10.0, 9990.0, 5.0
    tokens.prefill[1] = 2000.0
    assert placed(name, servers, tokens) == 1
    tokens.release[0] = 5000.0
    assert placed(name, servers, tokens) == 0


def test_context_slows_prompts_down() -> None:
    servers, tokens = engines()
    tokens.used[0] = 9000.0
    assert placed("first-token", servers, tokens) == 1
    assert placed("least-memory", servers, tokens) == 1


def test_a_slow_engine_is_given_less() -> None:
    servers, tokens = engines()
    tokens.full_s[0] = 0.12
    tokens.prefill[1] = 250.0
    assert placed("least-prefill", servers, tokens) == 1
    assert placed("sal", servers, tokens) == 1


def test_equals_are_told_apart_by_requests_and_then_by_chance() -> None:
    servers, tokens = engines(3)
    note_report(servers, 0, 1.0, 0.0, 0.0)
    chosen = {
        place(token_router("sal"), servers, tokens, 100.0, np.zeros(3), [u, 0.0, 0.0], 0, 0.0) for u in (0.0, 0.5, 0.9)
    }
    assert chosen == {1, 2}


def test_the_longest_prefix_until_loads_are_uneven() -> None:
    servers, tokens = engines()
    cached = np.array([0.0, 90.0])
    route = token_router("prefix-aware")
    tokens.prefill[1] = 3000.0
    assert place(route, servers, tokens, 100.0, cached, U, 0, 0.0) == 1
    assert place(route, servers, tokens, 1000.0, cached, U, 0, 0.0) == 0
    for _ in range(65):
        note_sent(servers, 1, 0.0)
    assert place(route, servers, tokens, 100.0, cached, U, 0, 0.0) == 0


@pytest.mark.parametrize("name", list(TOKEN_ROUTERS))
def test_stale_reports_are_not_compared(name: str) -> None:
    servers, tokens = engines()
    tokens.prefill[1] = 9000.0
    note_sent(servers, 0, 1.0)
    route = token_router(name, stale_s=1.0)
    assert place(route, servers, tokens, 100.0, np.zeros(2), U, 0, now_s=5.0) == 1


@pytest.mark.parametrize("name", list(TOKEN_ROUTERS))
def test_only_the_living_are_chosen(name: str) -> None:
    servers, tokens = engines(3)
    servers.alive[0] = servers.alive[2] = False
    tokens.prefill[1] = 9000.0
    assert placed(name, servers, tokens) == 1
    servers.alive[1] = False
    assert placed(name, servers, tokens) == NOBODY


def test_policies_that_count_are_asked_by_the_same_name() -> None:
    servers, tokens = engines()
    for at in (0, 1):
        note_sent(servers, at, 1.0)
    assert placed("central", servers, tokens) == HOLD


def test_a_block_is_forgotten_when_a_cache_full_of_others_was_sent() -> None:
    assert believed(10.0, 10.0, 4.0)
    assert not believed(14.0, 10.0, 4.0)


def test_lists_and_arrays_decide_alike() -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        servers, tokens = engines(4)
        for column in (tokens.prefill, tokens.waiting, tokens.used, tokens.free, tokens.release, tokens.sent):
            np.asarray(column)[:] = rng.integers(0, 9000, 4)
        for at in range(4):
            note_report(servers, at, float(rng.integers(0, 9)), 0.0, 0.0)
        lists = Tokens(*(np.asarray(column).tolist() for column in tokens))
        for name in TOKEN_ROUTERS:
            route = token_router(name)
            one = place(route, servers, tokens, 300.0, np.zeros(4), U, 0, 0.0)
            assert place(route, servers.lists(), lists, 300.0, [0.0] * 4, U, 0, 0.0) == one


@pytest.mark.parametrize(
    ("name", "knobs", "says"),
    [
        ("saal", {}, "router is 'saal'; valid: random"),
        ("sal", {"depth": 2.0}, "no parameter is called 'depth'"),
        ("sal", {"stale_s": 0.0}, "stale_s above 0"),
    ],
)
def test_invalid_policies_are_refused(name: str, knobs: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        token_router(name, **knobs)
