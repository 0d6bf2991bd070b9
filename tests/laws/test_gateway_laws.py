"""Laws of the gateway: it decides as the simulator does, counts everything once, and survives whatever it is sent."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.e2e.upstreams import ANSWER, CHAT, Asked, Scripted, Stage, engine, gateway, stream

from headway.gateway.ask import Ask
from headway.gateway.choose import Chooser, Seen
from headway.gateway.declare import ApiKey, GatewayOptions, Upstream
from headway.gateway.keys import Account
from headway.gateway.relay import Relay
from headway.gateway.waiting import Queue
from headway.policy.routing import ROUTERS, Servers, note_answered, note_latency, note_report, note_sent
from headway.policy.scheduling import ORDERS, Backlog, first, order
from headway.policy.token_routing import TOKEN_ROUTERS, Tokens, place
from headway.serve.app import HttpLimits

POLICIES = [*ROUTERS, *TOKEN_ROUTERS]
UPSTREAMS = tuple(Upstream(f"http://127.0.0.1:{port}", speed=float(port)) for port in (1, 2, 4))


@dataclass
class _Message:
    body: bytes
    named: dict[bytes, bytes]
    http_version: str = "1.1"


def relay(number: int, arrival_s: float, size: int, account: Account | None = None, session: int = 0) -> Relay:
    """A request that was let in, without a connection."""
    found = account or Account(ApiKey("a", "s"), 0.0)
    message = _Message(b"%d" % session * size, {b"x-session-id": b"%d" % session})
    head = SimpleNamespace(account=found)
    return Relay(cast(Any, None), cast(Any, None), cast(Any, message), cast(Any, head), Ask(), number, arrival_s, 1e9)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=5)
@given(st.data())
def test_the_gateway_decides_as_the_simulators_policy_does(policy: str, data: st.DataObject) -> None:
    """The recorded states, as arrays and given to the policy directly, lead to the same decisions."""
    chooser = Chooser(GatewayOptions(policy=policy, seed=7, stale_s=2.0), UPSTREAMS)
    seen: list[Seen] = []
    chooser.watch = seen.append
    now_s, held = 0.0, []
    for number in range(data.draw(st.integers(5, 20))):
        now_s += data.draw(st.floats(0.0, 1.5))
        which = data.draw(st.integers(0, 2))
        events = ["report", "answered", "sent", "sent", "first token", "up or down", "another limit"]
        event = data.draw(st.sampled_from(events))
        if event == "report":
            note_report(chooser.servers, which, data.draw(st.floats(0.0, 9.0)), 0.0, now_s)
        elif event == "first token":
            note_latency(chooser.servers, which, data.draw(st.floats(0.0, 9.0)), 1.5, number)
        elif event == "another limit":
            chooser.servers.places[which] = float(data.draw(st.integers(1, 4)))
        elif event == "up or down":
            chooser.servers.alive[which] = not chooser.servers.alive[which]
        elif event == "answered" and held:
            note_answered(chooser.servers, held.pop())
        else:
            asked = relay(number, now_s, data.draw(st.integers(1, 4000)), session=data.draw(st.integers(0, 3)))
            asked.barred = data.draw(st.sampled_from([(), (0,), (1, 2)]))
            chosen = chooser(asked, now_s)
            if chosen >= 0:
                assert chosen not in asked.barred
                note_sent(chooser.servers, chosen, 1.0)
                chooser.sent(asked, chosen)
                held.append(chosen)
    for one in seen:
        servers = Servers(*(np.array(column) for column in one.servers))
        tokens = Tokens(*(np.array(column) for column in one.tokens))
        cached, u = np.array(one.cached), np.array(one.u)
        assert place(chooser.router, servers, tokens, one.prompt, cached, u, one.key, one.now_s) == one.chosen


@pytest.mark.parametrize("name", list(ORDERS))
@settings(max_examples=8)
@given(st.lists(st.tuples(st.floats(0.0, 50.0), st.integers(1, 40_000), st.integers(0, 2)), min_size=1, max_size=12))
def test_the_queue_is_served_in_the_order_of_the_simulator(name: str, asked: list[tuple[float, int, int]]) -> None:
    queue = Queue(GatewayOptions(order=name, max_wait_s=20.0), UPSTREAMS)
    accounts = [Account(ApiKey(str(n), str(n)), 0.0) for n in range(3)]
    for account, served in zip(accounts, (30.0, 10.0, 20.0), strict=True):
        account.served = served
    relays = [
        relay(number, arrival_s, size, accounts[who]) for number, (arrival_s, size, who) in enumerate(sorted(asked))
    ]
    for one in relays:
        queue.add(one)
    now_s = 50.0
    while relays:
        waiting = [queue.seen(one) for one in relays]
        backlog = Backlog(sum(one.tokens for one in relays), 3 * 2048.0, 0.0, 0.1 / (3 * 2048.0), 0.1)
        expected = relays[first(order(name, max_wait_s=20.0), waiting, backlog, now_s)]
        found = queue.next(now_s)
        assert found is expected
        queue.discard(found)
        relays.remove(found)
    assert queue.size == 0
    assert queue.next(now_s) is None


@pytest.mark.parametrize("policy", ["least-loaded", "prequal"])
def test_a_live_gateway_decides_as_the_simulators_policy_does(policy: str) -> None:
    """With real connections, reports and failures: every recorded decision is that of the policy."""

    async def scene() -> None:
        chance = random.Random(3)

        async def behave(asked: Asked) -> None:
            await asyncio.sleep(chance.random() * 0.02)
            if chance.random() < 0.1:
                asked.die()
            else:
                await asked.reply(ANSWER)

        fleet = [Scripted(behave, kind="vllm") for _ in range(3)]
        for number, one in enumerate(fleet):
            one.metrics = engine("vllm", running=number, waiting=0, kv_usage=0.1)
        async with gateway(*fleet, policy=policy, scrape_every_s=0.02, open_s=0.05) as stage:
            seen: list[Seen] = []
            stage.gateway.chooser.watch = seen.append
            await asyncio.gather(*(stage.ask() for _ in range(80)))
            assert len(seen) >= 80
            assert all(heard > 0.0 for heard in stage.gateway.chooser.servers.heard)
            router = stage.gateway.chooser.router
            for one in seen:
                servers = Servers(*(np.array(column) for column in one.servers))
                tokens = Tokens(*(np.array(column) for column in one.tokens))
                found = place(
                    router, servers, tokens, one.prompt, np.array(one.cached), np.array(one.u), one.key, one.now_s
                )
                assert found == one.chosen

    asyncio.run(scene())


@pytest.mark.parametrize("seed", range(3))
def test_every_request_is_counted_once_and_nothing_is_left_behind(seed: int) -> None:
    async def scene() -> None:
        chance = random.Random(seed)

        async def behave(asked: Asked) -> None:
            what = chance.random()
            if what < 0.15:
                asked.die()
            elif what < 0.3:
                await asked.head()
                await asked.event("{}")
                asked.die()
            elif what < 0.4:
                await asked.gone(20.0)
            elif what < 0.5:
                await asked.reply(b"{}", chance.choice([400, 429, 500, 503]))
            elif what < 0.55:
                await asked.send(b"nonsense\r\n\r\n")
            else:
                await stream(3, gap_s=0.003)(asked)

        async def one(stage: Stage) -> None:
            client = await stage.client()
            try:
                await client.ask(extra="x-request-timeout: 0.4\r\n" if chance.random() < 0.2 else "")
                if chance.random() < 0.2:
                    await asyncio.sleep(chance.random() * 0.05)
                else:
                    await client.answer()
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                client.close()

        fleet = [Scripted(behave) for _ in range(3)]
        options: dict[str, Any] = {"queue_limit": 20, "first_token_s": 0.3, "open_s": 0.02, "timeout_s": 5.0}
        async with gateway(*fleet, declared={"max_in_flight": 4}, policy="power-of-d", **options) as stage:
            for _ in range(3):
                await asyncio.gather(*(one(stage) for _ in range(40)))
            its = stage.gateway
            await stage.until(lambda: its.counts.in_flight == 0)
            assert sum(its.counts.by_status.values()) == its.counts.offered == 120
            assert all(its.counts.by_status.values()), its.counts.to_dict()
            assert not its.active
            assert its.queue.size == 0
            assert [replica.in_flight for replica in its.replicas] == [0, 0, 0]
            assert its.chooser.servers.outstanding == [0.0] * 3
            assert np.allclose(its.chooser.tokens.sent, 0.0)
            assert all(account.active == 0 for account in its.accounts.all)

    asyncio.run(scene())


GOOD = b'{"model": "small"}'
REQUEST = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (CHAT.encode(), len(GOOD), GOOD)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=80) | st.sampled_from([REQUEST, REQUEST[:40], b"\r\n\r\n"]), min_size=1, max_size=5))
def test_a_gateway_survives_whatever_clients_send(pieces: list[bytes]) -> None:
    async def scene() -> None:
        async with gateway(Scripted(), wait=False) as stage:
            client = await stage.client()
            for piece in pieces:
                client.writer.write(piece)
                await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            client.close()
            assert (await stage.ask()).status == 200

    asyncio.run(scene())


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([CHUNKED, SIZED]),
    st.lists(st.tuples(st.integers(0, 80), st.binary(max_size=4)), max_size=2),
    st.integers(1, 30),
)
def test_a_gateway_survives_whatever_upstreams_answer(
    base: bytes, changes: list[tuple[int, bytes]], piece: int
) -> None:
    raw = base
    for at, put in changes:
        raw = raw[:at] + put + raw[at + len(put) :]

    async def behave(asked: Asked) -> None:
        for at in range(0, len(raw), piece):
            await asked.send(raw[at : at + piece])
            await asyncio.sleep(0)
        asked.writer.close()

    async def scene() -> None:
        async with gateway(Scripted(behave), wait=False, failures=100) as stage:
            found = await asyncio.wait_for(stage.ask(), 20.0)
            if not changes:
                assert (found.status, found.body, found.whole) == (200, b"hello", True)
            if found.status == 502:
                assert json.loads(found.body)["error"]["type"] == "server_error"
            counts = stage.gateway.counts
            await stage.until(lambda: counts.in_flight == 0)
            assert stage.gateway.replicas[0].in_flight == 0
            stage.upstreams[0].behave = stream(2)
            again = await stage.ask()
            assert (again.status, again.whole) == (200, True)

    asyncio.run(scene())


NAMES = st.sampled_from([b"accept", b"X-Request-Id", b"traceparent", b"te", b"Keep-Alive", b"user-agent", b"x-hop"])
VALUES = st.from_regex(rb"[!-~]([ -~]{0,20}[!-~])?", fullmatch=True)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=4), st.lists(st.integers(0, 3000), min_size=2, max_size=5))
def test_a_head_that_was_seen_before_means_what_it_meant(headers: list[tuple[bytes, bytes]], sizes: list[int]) -> None:
    """Requests and answers that are not parsed again pass just as those that are parsed."""
    bodies = [b'{"model": "small", "pad": "%b"}' % (b"x" * size) for size in sizes]
    lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)

    async def echo(asked: Asked) -> None:
        await asked.reply(asked.body, extra=b"x-echo: 1\r\nkeep-alive: timeout=5\r\n")

    async def scene() -> None:
        async with gateway(Scripted(echo), wait=False) as stage:
            client = await stage.client()
            for body in bodies:
                client.writer.write(
                    b"POST %b HTTP/1.1\r\nhost: x\r\n%bContent-Length: %d\r\n\r\n%b"
                    % (CHAT.encode(), lines, len(body), body)
                )
                found = await client.answer()
                assert (found.status, found.body) == (200, body)
                assert found.headers["x-echo"] == "1"
                assert "keep-alive" not in found.headers
                assert int(found.headers["content-length"]) == len(body)
            first, *rest = stage.upstreams[0].asked
            for asked, body in zip(rest, bodies[1:], strict=True):
                assert {**asked.headers, "content-length": ""} == {**first.headers, "content-length": ""}
                assert asked.body == body

    asyncio.run(scene())


def test_a_key_that_is_wrong_is_never_taken_for_one_that_is_right() -> None:
    async def scene() -> None:
        async with gateway(Scripted(), keys=(ApiKey("one", "s1"), ApiKey("two", "s2"))) as stage:
            client = await stage.client()
            for secret, status in (("s1", 200), ("s3", 401), ("s2", 200), ("s1", 200), ("s3", 401), ("s2", 200)):
                await client.ask(extra=f"authorization: Bearer {secret}\r\n")
                assert (await client.answer()).status == status
            assert [account.offered for account in stage.gateway.accounts.all] == [2, 2]

    asyncio.run(scene())


@pytest.mark.parametrize(("places", "weights"), [(2, (1.0, 1.0)), (3, (1.0, 4.0)), (4, (2.0, 1.0))])
def test_keys_that_always_have_something_waiting_are_served_alike(places: int, weights: tuple[float, float]) -> None:
    """Tokens per weight differ by no more than what places hold, however long requests are (VTC, OSDI 2024)."""
    long = {"brief": 2, "long": 60}

    async def scene() -> None:
        gate, served = asyncio.Event(), []

        async def behave(asked: Asked) -> None:
            await gate.wait()
            served.append(asked.json["who"])
            used = {"prompt_tokens": 10, "completion_tokens": long[asked.json["who"]]}
            await asyncio.sleep(used["completion_tokens"] / 4000)
            await asked.reply(json.dumps({"usage": used}).encode())

        keys = [ApiKey(name, name, weight=weight) for name, weight in zip(long, weights, strict=True)]
        async with gateway(
            Scripted(behave), declared={"max_in_flight": places}, keys=tuple(keys), order="vtc", max_wait_s=1e9
        ) as stage:
            clients = [await stage.client() for _ in range(160)]
            for number, client in enumerate(clients):
                who = ("brief", "long")[number % 4 == 0]
                await client.ask(body={"model": "small", "who": who}, extra=f"authorization: Bearer {who}\r\n")
            await stage.until(lambda: stage.gateway.queue.size == 160 - places)
            gate.set()
            await asyncio.gather(*(client.answer() for client in clients))
        sums, left = dict.fromkeys(long, 0.0), {name: served.count(name) for name in long}
        for who in served:
            left[who] -= 1
            if not all(left.values()):
                break
            sums[who] += (10 + 2 * long[who]) / weights[who == "long"]
            # Who is served next is chosen by what it had before: one request for each place, and one more, may be off.
            most = (places + 1) * max(
                (10 + 2 * long[name]) / weight for name, weight in zip(long, weights, strict=True)
            )
            assert abs(sums["brief"] - sums["long"]) <= most
        assert min(sums.values()) > 500

    asyncio.run(scene())


def test_a_body_larger_than_allowed_is_refused_even_behind_a_head_that_is_known() -> None:
    async def scene() -> None:
        async with gateway(Scripted(), http=HttpLimits(max_body_bytes=500)) as stage:
            client = await stage.client()
            for size, status in ((300, 200), (300, 200), (900, 413)):
                await client.ask(body=b'{"pad": "%b"}' % (b"x" * size))
                assert (await client.answer()).status == status

    asyncio.run(scene())


def test_answers_that_come_at_once_and_in_pieces_are_never_taken_for_each_other() -> None:
    async def scene() -> None:
        chance = random.Random(11)

        async def behave(asked: Asked) -> None:
            status = asked.json["status"]
            body = b"%d" % status * chance.randint(1, 5)
            head = b"HTTP/1.1 %d X\r\nx-status: %d\r\nconnection: keep-alive\r\ncontent-length: %d\r\n\r\n"
            raw = head % (status, status, len(body)) + body
            at = chance.choice([0, 0, len(raw) - 1, 20])
            await asked.send(raw[:at])
            await asyncio.sleep(0.002)
            await asked.send(raw[at:])

        async def one(stage: Stage) -> None:
            client = await stage.client()
            for _ in range(15):
                status = chance.choice([200, 201, 400, 404, 500, 429])
                await client.ask(body={"model": "small", "status": status})
                found = await client.answer()
                assert found.status == status
                assert found.headers["x-status"] == str(status)
                assert set(found.body.split(b"%d" % status)) == {b""}

        async with gateway(Scripted(behave), wait=False) as stage:
            await asyncio.gather(*(one(stage) for _ in range(8)))

    asyncio.run(scene())
