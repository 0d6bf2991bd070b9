"""The request router for Ray Serve, without a cluster: what it decides is what the policy decides of the same books."""

from __future__ import annotations

import asyncio
import importlib.util
import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.policy.routing import ROUTERS, Servers, draws, route, router
from headway.policy.routing_state import NEWEST

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the `ray` extra"),
    # Ray's own warnings are Ray's to mend.
    pytest.mark.filterwarnings(r"ignore::Warning:ray\..*"),
]


class Replica:
    """A replica as Ray shows it to a router."""

    def __init__(self, name: str, queued: int = 0, most: int = 100, **stats: Any) -> None:
        from ray.serve._private.common import DeploymentID, ReplicaID

        self.replica_id = ReplicaID(name, DeploymentID("d", "app"))
        self.queued, self.max_ongoing_requests, self.routing_stats = queued, most, stats

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return self.queued


def make(policy: str, **named: Any) -> Any:
    from ray.serve._private.common import DeploymentHandleSource, DeploymentID

    from headway.dropins.ray_serve import PolicyRouter

    made = PolicyRouter(
        DeploymentID("d", "app"), DeploymentHandleSource.UNKNOWN, use_replica_queue_len_cache=True, self_node_id="n",
    )  # fmt: skip
    made.initialize_state(policy=policy, **named)
    return made


def asked(session: str = "", number: int = 0) -> Any:
    metadata = SimpleNamespace(session_id=session, multiplexed_model_id="", internal_request_id=f"r{number}")
    future: Any = asyncio.get_running_loop().create_future()
    return SimpleNamespace(metadata=metadata, routing_context=SimpleNamespace(should_backoff=False), future=future)


async def choose(balancer: Any, request: Any) -> list[list[Any]]:
    found: list[list[Any]] = await balancer.choose_replicas(list(balancer.curr_replicas.values()), request)
    return found


async def seat(balancer: Any, *replicas: Replica) -> None:
    """Let replicas be there, and their queues be known."""
    balancer.update_replicas(list(replicas))
    async with asyncio.timeout(10.0):
        while any(balancer.replica_queue_len_cache.get(one.replica_id) != one.queued for one in replicas):
            await asyncio.sleep(0)


@settings(max_examples=25)
@given(
    st.sampled_from(sorted(ROUTERS)),
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0.5, 1.0, 2.0])), min_size=1, max_size=6),
    st.lists(st.tuples(st.booleans(), st.sampled_from("xyz")), max_size=30),
)
def test_it_decides_as_the_policy_does_of_the_same_books(policy: str, queues: Any, steps: Any) -> None:
    async def scene() -> None:
        balancer = make(policy, seed=1)
        replicas = [Replica(f"r{at}", queued, speed=speed) for at, (queued, speed) in enumerate(queues)]
        await seat(balancer, *replicas)
        by_seat = {balancer._seats[replica.replica_id]: replica for replica in replicas}
        u: list[float] = []
        draw = balancer._draw
        balancer._draw = lambda: u.append(draw()) or u[-1]
        sent: list[Replica] = []
        for number, (answered, session) in enumerate(steps):
            if answered and sent:
                balancer.on_request_completed(sent.pop(0).replica_id, "")
                continue
            u.clear()
            request = asked(session, number)
            chosen = await choose(balancer, request)
            assert request.routing_context.should_backoff
            books = Servers(*map(list, balancer._servers))
            for [replica] in chosen:
                books.outstanding[balancer._seats[replica.replica_id]] -= 1.0
                books.assigned[balancer._seats[replica.replica_id]] -= 1.0
            assert len(u) == draws(router(policy))
            from headway.dropins.ray_serve import _key

            expected = route(router(policy), books, u, _key(request), 0.0)
            assert chosen == ([[by_seat[expected]]] if expected >= 0 else [])
            for [replica] in chosen:
                balancer.on_send_request(replica.replica_id)
                sent.append(replica)

    asyncio.run(scene())


def test_books_hold_what_ray_knows_and_what_was_sent() -> None:
    async def scene() -> None:
        balancer = make("least-outstanding")
        one, other = Replica("a", queued=3), Replica("b", queued=4, speed=2.0)
        await seat(balancer, one, other)
        balancer.on_send_request(one.replica_id)
        balancer.replica_queue_len_cache.invalidate_key(other.replica_id)
        [[chosen]] = await choose(balancer, asked())
        assert chosen is other
        at, beside = (balancer._seats[replica.replica_id] for replica in (one, other))
        servers = balancer._servers
        assert (servers.reported[at], servers.outstanding[at], servers.assigned[at]) == (4.0, 1.0, 1.0)
        assert math.isnan(servers.reported[beside])
        assert servers.speed[beside] == 2.0
        balancer.on_request_completed(one.replica_id, "r0")
        assert servers.outstanding[at] == 0.0

    asyncio.run(scene())


def test_who_is_full_is_left_out_and_where_all_are_ray_asks_each() -> None:
    async def scene() -> None:
        balancer = make("round-robin")
        full, free = Replica("a", queued=2, most=2), Replica("b", queued=1, most=2)
        await seat(balancer, full, free)
        for _ in range(3):
            assert await choose(balancer, asked()) == [[free]]
        balancer.on_send_request(free.replica_id)
        assert await choose(balancer, asked()) == [[full, free]]

    asyncio.run(scene())


def test_who_may_have_no_more_lets_requests_wait() -> None:
    async def scene() -> None:
        balancer = make("central")
        only = Replica("a")
        await seat(balancer, only)
        assert await choose(balancer, asked()) == [[only]]
        balancer.on_send_request(only.replica_id)
        assert await choose(balancer, asked()) == []

    asyncio.run(scene())


def test_a_choice_counts_before_its_request_is_sent_unless_it_is_given_up() -> None:
    async def scene() -> None:
        balancer = make("central")
        only = Replica("a")
        await seat(balancer, only)
        first, second = asked(number=1), asked(number=2)
        assert await choose(balancer, first) == [[only]]
        assert await choose(balancer, first) == [[only]], "asked again for the same request"
        assert await choose(balancer, second) == []
        first.future.cancel()
        assert await choose(balancer, second) == [[only]]
        balancer.on_send_request(only.replica_id)
        assert balancer._servers.outstanding == [1.0]
        assert not balancer._chosen

    asyncio.run(scene())


def test_sessions_stay_where_they_are_when_replicas_come_and_go() -> None:
    async def scene() -> None:
        balancer = make("consistent-hash", bound=100.0)
        replicas = [Replica(f"r{at}") for at in range(4)]
        await seat(balancer, *replicas)
        sessions = [f"s{at}" for at in range(200)]
        before = {session: (await choose(balancer, asked(session)))[0][0] for session in sessions}
        assert set(before.values()) == set(replicas)
        gone = replicas.pop(1)
        await seat(balancer, *replicas)
        after = {session: (await choose(balancer, asked(session)))[0][0] for session in sessions}
        assert all(after[session] is before[session] for session in sessions if before[session] is not gone)
        newcomer = Replica("new")
        await seat(balancer, *replicas, newcomer)
        assert balancer._seats[newcomer.replica_id] == 1
        again = {session: (await choose(balancer, asked(session)))[0][0] for session in sessions}
        assert all(again[session] in (after[session], newcomer) for session in sessions)

    asyncio.run(scene())


def test_a_newcomer_is_not_given_all_the_turns_that_it_missed() -> None:
    async def scene() -> None:
        balancer = make("round-robin")
        old = [Replica("a"), Replica("b")]
        await seat(balancer, *old)
        for _ in range(10):
            [[chosen]] = await choose(balancer, asked())
            balancer.on_send_request(chosen.replica_id)
        for replica in old:
            replica.queued = balancer.replica_queue_len_cache.get(replica.replica_id)
        await seat(balancer, *old, Replica("c"))
        chosen_names = []
        for _ in range(6):
            [[chosen]] = await choose(balancer, asked())
            balancer.on_send_request(chosen.replica_id)
            chosen_names.append(chosen.replica_id.unique_id)
        assert sorted(chosen_names) == ["a", "a", "b", "b", "c", "c"]

    asyncio.run(scene())


def test_latency_is_a_moving_average_as_on_an_empty_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    from headway.dropins import ray_serve

    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(ray_serve, "time", SimpleNamespace(monotonic=lambda: now.s))

    async def scene() -> None:
        balancer = make("prequal")
        only = Replica("a", queued=1)
        await seat(balancer, only)
        # Until Ray asks again each that was sent counts: one is there already at first, then two.
        for number, took_s in enumerate((2.0, 6.0)):
            await choose(balancer, asked(number=number))
            balancer.on_send_request(only.replica_id)
            balancer.on_request_routed(asked(number=number), only.replica_id, None)
            now.s += took_s
            balancer.on_request_completed(only.replica_id, f"r{number}")
        assert balancer._servers.latency_s == [pytest.approx(1.0 + NEWEST)]
        assert balancer._servers.heard == [2.0]
        assert not balancer._began

    asyncio.run(scene())


def test_what_is_not_valid_is_said() -> None:
    with pytest.raises(ValueError, match="router is 'two'; valid: random"):
        make("two")
    with pytest.raises(ValueError, match="no parameter is called 'choice'"):
        make("power-of-d", choice=3)
