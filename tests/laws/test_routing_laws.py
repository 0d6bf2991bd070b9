"""What every routing policy keeps to, whatever it knows of its servers; and what each is likely to do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.fleet.compiled import policies
from headway.policy import routing
from headway.policy.routing import HOLD, NOBODY, ROUTERS, Router, Servers, draws, load, note_alive, own, route
from headway.policy.routing_state import LASTING

SEEDS = st.integers(0, 2**32 - 1)
NAMES = st.sampled_from(sorted(ROUTERS))
COMPARE_ALL = ("least-loaded", "jiq", "prequal", "power-of-d")


def random_servers(rng: np.random.Generator, size: int, dead: float = 0.3, unknown: float = 0.2) -> Servers:
    """Return servers with whole numbers as loads, so that there are ties, some of them dead or without a report."""
    servers = Servers.of(rng.integers(1, 5, size).astype(np.float64), rng.integers(1, 5, size))
    servers.reported[:] = np.where(rng.random(size) < unknown, math.nan, rng.integers(0, 6, size))
    servers.reported_at_s[:] = np.where(np.isnan(servers.reported), -math.inf, rng.integers(0, 10, size))
    for column in (servers.sent, servers.outstanding, servers.assigned, servers.latency_s):
        column[:] = rng.integers(0, 6, size)
    servers.heard[:] = np.where(rng.random(size) < unknown, 0, rng.integers(0, 3 * LASTING * size, size))
    servers.alive[:] = rng.random(size) >= dead
    return servers


def asked(router: Router, servers: Servers, rng: np.random.Generator, now_s: float = 10.0, key: int = 1) -> int:
    return route(router, servers, rng.random(draws(router)), key, now_s)


@given(SEEDS, NAMES, st.integers(1, 9), st.sampled_from([0.0, 0.25, 1.0]), st.sampled_from([math.inf, 5.0]))
def test_only_a_living_server_is_chosen_and_no_book_is_touched(
    seed: int, name: str, size: int, explore: float, stale_s: float
) -> None:
    rng = np.random.default_rng(seed)
    servers = random_servers(rng, size)
    before = [np.array(column) for column in servers]
    router = routing.router(name, explore=explore, stale_s=stale_s)
    chosen = asked(router, servers, rng)
    if not np.any(servers.alive):
        assert chosen == NOBODY
    elif chosen == HOLD:
        assert name in ("jbsq", "central")
    else:
        assert servers.alive[chosen]
    for column, old in zip(servers, before, strict=True):
        assert np.array_equal(column, old, equal_nan=column.dtype.kind == "f")


@given(SEEDS, NAMES, st.integers(1, 9), st.sampled_from([0.0, 0.25]), st.integers(0, 2**31))
def test_plain_lists_plain_arrays_and_compiled_code_choose_alike(
    seed: int, name: str, size: int, explore: float, key: int
) -> None:
    rng = np.random.default_rng(seed)
    servers = random_servers(rng, size)
    router = routing.router(name, explore=explore, stale_s=6.0)
    u = rng.random(draws(router))
    chosen = route(router, servers, u, key, 10.0)
    assert route(router, servers.lists(), u.tolist(), key, 10.0) == chosen
    assert policies(routing).route(router, servers, u, key, 10.0) == chosen


@given(SEEDS, st.integers(2, 9))
def test_what_a_dead_server_knew_changes_nothing(seed: int, size: int) -> None:
    """Its columns may hold anything: a scan never compares with it, a sum never counts it."""
    rng = np.random.default_rng(seed)
    servers = random_servers(rng, size, dead=0.5)
    twin = Servers(*(np.array(column) for column in servers))
    gone = ~np.asarray(servers.alive)
    for column in (twin.reported, twin.sent, twin.outstanding, twin.assigned, twin.latency_s, twin.heard):
        np.asarray(column)[gone] = -1.0
    for name, router in ROUTERS.items():
        u = rng.random(draws(router))
        assert route(router, servers, u, 3, 10.0) == route(router, twin, u, 3, 10.0), name


@given(SEEDS, st.integers(1, 9))
def test_full_scans_take_a_least(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    servers = random_servers(rng, size, unknown=0.0)
    living = np.flatnonzero(servers.alive)
    if not living.size:
        return
    chosen = asked(ROUTERS["least-loaded"], servers, rng)
    assert load(servers, chosen) == min(load(servers, at) for at in living)
    chosen = asked(ROUTERS["least-outstanding"], servers, rng)
    assert own(servers, chosen) == min(own(servers, at) for at in living)


@given(SEEDS, st.integers(1, 9), st.integers(1, 4))
def test_a_bounded_queue_holds_exactly_when_nobody_has_room(seed: int, size: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    servers = random_servers(rng, size)
    chosen = asked(routing.router("jbsq", depth=depth), servers, rng)
    room = [at for at in np.flatnonzero(servers.alive) if servers.outstanding[at] < depth * servers.places[at]]
    if not np.any(servers.alive):
        assert chosen == NOBODY
    elif not room:
        assert chosen == HOLD
    else:
        assert own(servers, chosen) == min(own(servers, at) for at in room)


@given(SEEDS, st.integers(1, 9))
def test_nobody_joins_a_queue_while_another_is_idle(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    servers = random_servers(rng, size, unknown=0.0)
    servers.sent[:] *= rng.random(size) < 0.5
    has, living = servers.reported + servers.sent, servers.alive
    chosen = asked(routing.router("jiq"), servers, rng)
    if np.any(living & (has == 0.0)):
        assert has[chosen] == 0.0
    elif np.any(living & (has < servers.places)):
        assert has[chosen] < servers.places[chosen]
    else:
        assert chosen == NOBODY if not np.any(living) else living[chosen]


@given(SEEDS, st.integers(1, 9), st.integers(2, 16))
def test_nobody_joins_a_hot_server_while_a_cold_one_is_drawn(seed: int, size: int, choices: int) -> None:
    """Hot: above the 0.84 quantile of the loads of those that are alive, so of few servers the one busiest."""
    rng = np.random.default_rng(seed)
    servers = random_servers(rng, size, unknown=0.0)
    router = routing.router("prequal", choices=choices)
    u = rng.random(draws(router))
    chosen = route(router, servers, u, 0, 10.0)
    drawn = {routing.at_random(servers.alive, one) for one in u[:choices]}
    if len(drawn) < 2:
        return
    assert chosen in drawn
    loads = {at: load(servers, at) for at in np.flatnonzero(servers.alive)}
    rank = {at: sum(other < this for other in loads.values()) for at, this in loads.items()}
    cold = [at for at in drawn if rank[at] <= 0.84 * (len(loads) - 1)]
    if cold:
        assert chosen in cold
    else:
        assert loads[chosen] == min(loads[at] for at in drawn)
    most = sorted(loads.values())
    if len(loads) <= 6 and most[-1] > most[-2]:
        assert loads[chosen] < most[-1]


@given(SEEDS, st.integers(2, 9))
def test_old_and_missing_reports_are_never_compared(seed: int, size: int) -> None:
    """With all reports too old, or none at all, choices rest on what the balancer knows itself."""
    rng = np.random.default_rng(seed)
    servers = random_servers(rng, size, dead=0.0, unknown=0.0)
    servers.reported_at_s[:] = 0.0
    none = Servers(*(np.array(column) for column in servers))
    none.reported[:] = math.nan
    other = Servers(*(np.array(column) for column in servers))
    other.reported[:] = rng.integers(0, 6, size)
    for name in COMPARE_ALL:
        router = routing.router(name, stale_s=1.0)
        u = rng.random(draws(router))
        old = route(router, servers, u, 0, 10.0)
        assert old == route(router, other, u, 0, 10.0) == route(router, none, u, 0, 10.0), name
        if name in ("least-loaded", "power-of-d"):
            pair = {int(drawn * size) for drawn in u[:2]}
            assert own(servers, old) == min(own(servers, at) for at in pair)


def shares(router: Router, servers: Servers, requests: int, seed: int = 1) -> np.ndarray:
    """Return how often each server is chosen when nothing is told to the books but what was assigned."""
    rng = np.random.default_rng(seed)
    counts = np.zeros(len(servers.alive))
    for _ in range(requests):
        chosen = asked(router, servers, rng)
        counts[chosen] += 1
        servers.assigned[chosen] += 1
    return counts / requests


def test_random_choices_are_uniform_or_as_the_speeds_also_with_dead_servers() -> None:
    servers = Servers.of([1.0, 2.0, 4.0, 1.0, 2.0])
    servers.alive[1] = servers.alive[3] = False
    limits = {"abs": 4 * math.sqrt(0.25 / 20_000)}
    assert shares(ROUTERS["random"], servers, 20_000) == pytest.approx([1 / 3, 0, 1 / 3, 0, 1 / 3], **limits)
    assert shares(ROUTERS["weighted-random"], servers, 20_000) == pytest.approx([1 / 7, 0, 4 / 7, 0, 2 / 7], **limits)


@given(
    st.sampled_from(["round-robin", "weighted-round-robin"]),
    st.lists(st.integers(1, 5), min_size=2, max_size=5),
    st.integers(0, 200),
)
def test_who_comes_back_makes_no_turns_up(name: str, speeds: list[int], missed: int) -> None:
    servers = Servers.of(np.array(speeds, np.float64))
    servers.alive[0] = False
    shares(ROUTERS[name], servers, max(1, missed))
    weighted = name == "weighted-round-robin"
    note_alive(servers, 0, weighted)
    before, rounds = servers.assigned[0], 20
    share = speeds[0] / sum(speeds) if weighted else 1 / len(speeds)
    requests = rounds * (sum(speeds) if weighted else len(speeds))
    shares(ROUTERS[name], servers, requests)
    assert abs(servers.assigned[0] - before - share * requests) <= max(speeds) + 1


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 200))
def test_turns_are_in_proportion_to_the_speeds_at_any_time(speeds: list[int], requests: int) -> None:
    servers = Servers.of(np.array(speeds, np.float64))
    shares(ROUTERS["weighted-round-robin"], servers, max(1, requests))
    quota = max(1, requests) * np.array(speeds) / sum(speeds)
    assert np.all(servers.assigned >= np.floor(quota)), "the highest averages never give less than the quota"


def test_round_robin_goes_round() -> None:
    servers, turns = Servers.of(np.ones(3)), []
    for _ in range(7):
        chosen = asked(ROUTERS["round-robin"], servers, np.random.default_rng(0))
        routing.note_sent(servers, chosen, 1.0)
        turns.append(chosen)
    assert turns == [0, 1, 2, 0, 1, 2, 0]


def test_two_of_eight_drawn_with_replacement_meet_the_closed_form() -> None:
    """The server of rank r from the top is chosen when no better one is drawn: ((S-r)^d - (S-r-1)^d) / S^d."""
    servers = Servers.of(np.ones(8))
    servers.reported[:] = np.arange(8.0)
    servers.reported_at_s[:] = 0.0
    found = shares(ROUTERS["power-of-d"], servers, 40_000)
    expected = [((8 - r) ** 2 - (7 - r) ** 2) / 64 for r in range(8)]
    assert found == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 40_000))


def test_exploring_sends_its_share_anywhere() -> None:
    servers = Servers.of(np.ones(4))
    servers.reported[:] = [0.0, 9.0, 9.0, 9.0]
    servers.reported_at_s[:] = 0.0
    found = shares(routing.router("least-loaded", explore=0.25), servers, 20_000)
    assert found[1:] == pytest.approx([0.0625] * 3, abs=4 * math.sqrt(0.06 / 20_000))


@given(SEEDS, st.integers(2, 8), st.data())
def test_a_server_that_goes_moves_only_its_own_keys(seed: int, size: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    servers = Servers.of(rng.integers(1, 4, size).astype(np.float64))
    plain = routing.router("consistent-hash", bound=math.inf)
    keys = rng.integers(0, 2**31, 50).tolist()
    before = [route(plain, servers, [0.0] * 3, key, 0.0) for key in keys]
    gone = data.draw(st.integers(0, size - 1))
    servers.alive[gone] = False
    after = [route(plain, servers, [0.0] * 3, key, 0.0) for key in keys]
    assert all(new == old for old, new in zip(before, after, strict=True) if old != gone)
    assert gone not in after


def test_keys_are_spread_as_the_speeds_and_nobody_gets_much_more_than_its_share() -> None:
    servers = Servers.of([1.0, 3.0, 4.0])
    plain = routing.router("consistent-hash", bound=math.inf)
    owners = [route(plain, servers, [0.0] * 3, key, 0.0) for key in range(20_000)]
    found = np.bincount(owners, minlength=3) / 20_000
    assert found == pytest.approx([1 / 8, 3 / 8, 4 / 8], abs=4 * math.sqrt(0.25 / 20_000))
    for request in range(800):
        chosen = route(ROUTERS["consistent-hash"], servers, [0.0] * 3, 7, 0.0)
        routing.note_sent(servers, chosen, 1.0)
        limit = math.ceil(1.25 * (request + 1) * servers.speed[chosen] / 8.0)
        assert servers.outstanding[chosen] <= limit, "one hot key does not drown its server"
