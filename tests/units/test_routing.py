"""Routing by example: unequal servers, idle ones, hot ones, the balancer's books, and errors that help."""

from __future__ import annotations

import math
from typing import Any

import pytest

from headway.policy import routing
from headway.policy.routing import HOLD, NOBODY, ROUTERS, Servers, load, note_alive, note_report, note_sent, route
from headway.policy.routing_state import LASTING, NEWEST


def told(speeds: list[float], loads: list[float], at_s: float = 0.0) -> Servers:
    servers = Servers.of(speeds)
    for server, value in enumerate(loads):
        note_report(servers, server, value, 0.0, at_s)
    return servers


def chosen(name: str, servers: Servers, *u: float, now_s: float = 0.0, **parameters: float) -> int:
    made = routing.router(name, **parameters)
    return route(made, servers, [*u, *[0.0] * (routing.draws(made) - len(u))], 0, now_s)


def test_a_load_counts_per_unit_of_speed() -> None:
    servers = told([1.0, 4.0], [2.0, 5.0])
    assert chosen("least-loaded", servers) == 1
    assert chosen("power-of-d", servers, 0.0, 0.9) == 1
    note_sent(servers, 1, 4.0)
    assert chosen("least-loaded", servers) == 0, "nine for four workers is more than two for one"


def test_what_was_sent_since_the_report_counts_until_the_next_one_contains_it() -> None:
    servers = told([1.0, 1.0], [0.0, 1.0])
    for _ in range(2):
        note_sent(servers, 0, 1.0)
    assert chosen("least-loaded", servers) == 1
    note_report(servers, 0, reported=0.0, unseen=0.0, at_s=1.0)
    assert chosen("least-loaded", servers) == 0


def test_ties_of_a_sample_go_to_the_first_drawn_and_of_a_scan_to_where_it_begins() -> None:
    servers = told([1.0] * 4, [1.0] * 4)
    assert chosen("power-of-d", servers, 0.8, 0.1) == 3
    assert chosen("least-loaded", servers, 0.6) == 2
    assert chosen("least-outstanding", servers, 0.6) == 2


def test_one_stale_report_turns_a_scan_into_power_of_two() -> None:
    servers = told([1.0] * 3, [0.0, 5.0, 9.0], at_s=10.0)
    assert chosen("least-loaded", servers, 0.4, 0.9, now_s=10.5, stale_s=1.0) == 0
    servers.reported_at_s[2] = 0.0
    note_sent(servers, 1, 1.0)
    assert chosen("least-loaded", servers, 0.4, 0.9, now_s=10.5, stale_s=1.0) == 2, "by what is unanswered there"
    assert chosen("least-loaded", servers, 0.0, 0.4, now_s=10.5, stale_s=1.0) == 0, "by reports, both are fresh"


def test_a_missing_report_is_not_an_idle_server() -> None:
    servers = told([1.0] * 2, [3.0])
    assert chosen("jiq", servers, 0.6, 0.0) == 0, "nobody is known to be idle, so any"
    assert not routing.fresh(servers, 1, 0.0, math.inf)
    note_report(servers, 1, 0.0, 0.0, 0.0)
    assert chosen("jiq", servers, 0.0, 0.0) == 1


def test_an_idle_worker_is_enough_for_a_server_to_count_as_idle() -> None:
    servers = told([4.0, 4.0], [4.0, 3.0])
    assert chosen("jiq", servers, 0.0) == 1
    note_sent(servers, 1, 1.0)
    assert chosen("jiq", servers, 0.0, 0.9) == 1, "none is idle: the second of two equally fast ones is drawn"


def test_who_has_nothing_goes_before_who_has_an_idle_place_whatever_their_speeds() -> None:
    servers = told([4.0, 1.0, 1.0], [3.0, 1.0, 0.0])
    servers.places[:] = [3.0, 4.0, 4.0]
    assert chosen("jiq", servers, 0.0) == 2
    note_sent(servers, 2, 1.0)
    assert [chosen("jiq", servers, 0.0, u) for u in (0.0, 0.49, 0.51, 0.99)] == [1, 1, 2, 2], "0 is fast, and full"
    note_sent(servers, 1, 3.0)
    note_sent(servers, 2, 3.0)
    assert [chosen("jiq", servers, 0.0, u) for u in (0.0, 0.6, 0.7, 0.9)] == [0, 0, 1, 2], "none is idle"


def test_a_held_request_goes_when_one_is_answered() -> None:
    servers = told([1.0, 2.0], [0.0, 0.0])
    sent = []
    while (to := chosen("jbsq", servers, depth=2)) != HOLD:
        note_sent(servers, to, 1.0)
        sent.append(to)
    assert (sent.count(0), sent.count(1)) == (2, 4)
    routing.note_answered(servers, 0)
    assert chosen("jbsq", servers, depth=2) == 0
    assert chosen("central", servers) == HOLD


def test_prequal_prefers_the_quickest_cold_server_and_the_least_loaded_of_hot_ones() -> None:
    servers = told([1.0] * 5, [0.0, 1.0, 2.0, 3.0, 9.0])
    servers.latency_s[:] = [5.0, 4.0, 1.0, 3.0, 0.1]
    servers.heard[:] = 1.0
    every = [0.0, 0.2, 0.4, 0.6, 0.8]
    assert chosen("prequal", servers, *every, choices=5, hot=0.6) == 2, "4 is hot and 3 is, so the quickest of the rest"
    assert chosen("prequal", servers, 0.6, 0.8, choices=2, hot=0.6) == 3, "both drawn are hot"
    assert chosen("prequal", servers, 0.8, 0.8, choices=2, hot=0.6) == 4, "one report is not enough to compare"


@pytest.mark.parametrize("size", range(2, 7))
def test_prequal_never_takes_the_one_busy_server_of_a_few_however_quick_it_was(size: int) -> None:
    busy = size // 2
    servers = told([1.0] * size, [500.0 * (at == busy) for at in range(size)])
    servers.latency_s[:] = [2.0 - 1.9 * (at == busy) for at in range(size)]
    servers.heard[:] = 1.0
    draws = [(at + 0.5) / size for at in range(size)]
    assert chosen("prequal", servers, *draws, choices=size) != busy


def test_prequal_weighs_what_a_request_takes_by_what_is_there() -> None:
    servers = told([1.0] * 4, [0.0, 1.0, 3.0, 9.0])
    servers.latency_s[:], servers.heard[:] = [5.0, 2.0, 2.0, 1.0], 1.0
    every = [0.0, 0.3, 0.6, 0.9]
    assert chosen("prequal", servers, *every, choices=4) == 1, "twice two is less than five and than four times two"
    servers.places[2] = 4.0
    assert chosen("prequal", servers, *every, choices=4) == 2, "four share four places"


def test_prequal_gives_a_server_another_try_when_it_got_nothing_for_long() -> None:
    servers = told([1.0] * 4, [0.0] * 4)
    for at in range(4):
        routing.note_latency(servers, at, 100.0 if at == 3 else 1.0, 1.0, at)
    every, number = [0.0, 0.3, 0.6, 0.9], 4
    asked = []
    while not asked or asked[-1] != 3:
        asked.append(chosen("prequal", servers, *every, choices=4))
        routing.note_latency(servers, asked[-1], 1.0, 1.0, number)
        # Others have something to do, so that loads do not tie.
        servers.sent[:] = [1.0, 1.0, 1.0, 0.0]
        number += 1
    assert 4 * (LASTING - 1) < len(asked) <= 4 * (LASTING + 1)
    assert servers.latency_s[3] == 1.0, "what was is forgotten"


def test_a_latency_is_kept_as_it_would_be_on_an_empty_server() -> None:
    servers = told([1.0, 1.0], [3.0, math.nan])
    servers.places[0] = 2.0
    assert routing.stretch(servers, 0) == 2.5
    servers.outstanding[1] = 4.0
    assert routing.stretch(servers, 1) == 5.0, "without a report by what is unanswered"
    for number, took_s in enumerate((10.0, 20.0)):
        routing.note_latency(servers, 0, took_s, 2.5, number)
    assert servers.latency_s.tolist() == [pytest.approx(4.0 + NEWEST * 4.0), 0.0]
    routing.note_latency(servers, 0, 1.0, 1.0, 3 + LASTING * 2)
    assert servers.latency_s[0] == 1.0


def test_a_key_stays_where_it_is() -> None:
    servers = told([1.0] * 4, [0.0] * 4)
    made = ROUTERS["consistent-hash"]
    homes = [{route(made, servers, [u, u, u], key, 0.0) for u in (0.0, 0.5, 0.9)} for key in range(20)]
    assert all(len(home) == 1 for home in homes)
    assert len(set.union(*homes)) == 4


def test_all_dead_is_said_by_every_policy() -> None:
    servers = told([1.0, 1.0], [0.0, 0.0])
    servers.alive[:] = False
    assert {chosen(name, servers) for name in ROUTERS} == {NOBODY}


def test_who_comes_back_is_not_flooded_by_the_turns_it_missed() -> None:
    servers = told([1.0, 2.0], [0.0, 0.0])
    servers.alive[1] = False
    for _ in range(50):
        note_sent(servers, chosen("weighted-round-robin", servers), 1.0)
    note_alive(servers, 1, by_speed=True)
    turns = []
    for _ in range(6):
        turns.append(chosen("weighted-round-robin", servers))
        note_sent(servers, turns[-1], 1.0)
    assert turns.count(1) == 4


def test_an_older_report_is_not_news_and_answers_never_exceed_what_was_sent() -> None:
    servers = told([1.0], [3.0], at_s=5.0)
    note_report(servers, 0, reported=0.0, unseen=0.0, at_s=4.0)
    assert load(servers, 0) == 3.0
    routing.note_answered(servers, 0)
    assert servers.outstanding[0] == 0.0


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("least", {}, "router is 'least'; valid: random,"),
        ("jbsq", {"deep": 3}, "no parameter is called 'deep'; choices, depth"),
        ("jbsq", {"code": 3}, "no parameter is called 'code'"),
        ("power-of-d", {"choices": 0}, "choices from 1"),
        ("prequal", {"hot": "x"}, "hot is 'x'; a number"),
        ("power-of-d", {"choices": 2.5}, "choices is 2.5; a whole number"),
        ("random", {"explore": 1.5}, "explore and hot from 0 to 1"),
        ("consistent-hash", {"bound": 0.5}, "bound from 1"),
        ("random", {"stale_s": 0.0}, "stale_s above 0"),
    ],
)
def test_what_is_not_known_is_named(name: str, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        routing.router(name, **parameters)


@pytest.mark.parametrize("speeds", [[], [1.0, 0.0], [math.nan], [math.inf]])
def test_speeds_are_above_zero(speeds: list[float]) -> None:
    with pytest.raises(ValueError, match="finite ones above 0"):
        Servers.of(speeds)
