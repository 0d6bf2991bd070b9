"""The gateway end to end, before upstreams that die, stall, stream slowly, talk nonsense or grow silent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from tests.e2e.upstreams import ANSWER, CHAT, Asked, Scripted, answer, engine, gateway, play, stream, tokens


async def die_before(asked: Asked) -> None:
    asked.die()


async def die_after_head(asked: Asked) -> None:
    await asked.head()
    asked.die()


async def die_after_tokens(asked: Asked) -> None:
    await asked.head()
    for number in range(3):
        await asked.event(json.dumps({"token": number}))
    await asyncio.sleep(0.05)
    asked.die()


async def stall(asked: Asked) -> None:
    await asked.gone(30.0)


async def stall_in_stream(asked: Asked) -> None:
    await asked.head()
    await asked.event(json.dumps({"token": 0}))
    await asked.gone(30.0)


def says(data: bytes) -> Callable[[Asked], Awaitable[None]]:
    async def behave(asked: Asked) -> None:
        await asked.send(data)
        await asyncio.sleep(0.05)

    return behave


def busy(status: int) -> Callable[[Asked], Awaitable[None]]:
    async def behave(asked: Asked) -> None:
        await asked.reply(b'{"error": {"message": "busy"}}', status)

    return behave


@pytest.mark.parametrize(
    "first",
    [
        die_before,
        die_after_head,
        stall,
        says(b"HELLO\r\n\r\n"),
        says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\n"),
        says(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000),
        says(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
        busy(503),
        busy(429),
    ],
    ids=["dies", "dies-after-head", "stalls", "garbage", "too-much", "endless-head", "switches", "503", "429"],
)
def test_before_the_first_token_another_upstream_is_tried(first: Callable[[Asked], Awaitable[None]]) -> None:
    async def scene() -> None:
        async with gateway(Scripted(first), Scripted(), policy="round-robin", first_token_s=0.2) as stage:
            found = await stage.ask()
            assert (found.status, found.body) == (200, ANSWER)
            assert "attempt=2" in found.headers["x-headway-route"]
            [made] = stage.gateway.journal.last(10)
            assert made["attempt"] == 2
            assert stage.gateway.replicas[0].name in made["failed"][0]
            assert stage.gateway.counts.to_dict()["answered"] == 1

    play(scene)


def test_after_the_first_token_an_answer_is_cut_off_and_never_begun_again() -> None:
    async def scene() -> None:
        async with gateway(Scripted(die_after_tokens), Scripted(), policy="round-robin") as stage:
            found = await stage.ask()
            assert found.status == 200
            assert tokens(found.body) == [0, 1, 2]
            assert not found.whole
            assert not stage.upstreams[1].asked
            assert stage.gateway.counts.to_dict()["failed"] == 1

    play(scene)


def test_a_stream_that_stalls_is_cut_off() -> None:
    async def scene() -> None:
        async with gateway(Scripted(stall_in_stream), stall_s=0.2) as stage:
            found = await stage.ask()
            assert (tokens(found.body), found.whole) == ([0], False)

    play(scene)


def test_a_slow_stream_is_no_stalled_one() -> None:
    async def scene() -> None:
        async with gateway(Scripted(stream(4, gap_s=0.15)), stall_s=0.5) as stage:
            found = await stage.ask()
            assert (tokens(found.body), found.whole) == ([0, 1, 2, 3], True)

    play(scene)


def test_when_no_upstream_answers_the_client_hears_why() -> None:
    async def scene() -> None:
        async with gateway(Scripted(die_before), Scripted(die_before), failures=5) as stage:
            found = await stage.ask()
            assert found.status == 502
            assert "gave no answer: it closed the connection" in found.error
            assert [len(one.asked) for one in stage.upstreams] == [1, 1]

    play(scene)


def test_the_last_refusal_of_an_upstream_passes_on() -> None:
    async def scene() -> None:
        async with gateway(Scripted(busy(429)), attempts=1) as stage:
            found = await stage.ask()
            assert (found.status, found.error) == (429, "busy")

    play(scene)


def test_whoever_goes_away_ends_the_work_of_the_upstream() -> None:
    async def scene() -> None:
        ended = asyncio.Event()

        async def behave(asked: Asked) -> None:
            await asked.head()
            await asked.event(json.dumps({"token": 0}))
            assert await asked.gone()
            ended.set()

        async with gateway(Scripted(behave)) as stage:
            for how in ("close", "half"):
                ended.clear()
                client = await stage.client()
                await client.ask()
                await client.head()
                if how == "close":
                    client.close()
                else:
                    client.writer.write_eof()
                await asyncio.wait_for(ended.wait(), 10.0)
                client.close()
            assert stage.gateway.stats.cancelled == 2
            assert stage.gateway.counts.in_flight == 0
            assert stage.gateway.replicas[0].in_flight == 0

    play(scene)


def test_whoever_goes_away_while_waiting_is_never_sent() -> None:
    async def scene() -> None:
        async with gateway(Scripted(stall), declared={"max_in_flight": 1}) as stage:
            first, second = await stage.client(), await stage.client()
            await first.ask()
            await stage.until(lambda: len(stage.upstreams[0].asked) == 1)
            await second.ask()
            await stage.until(lambda: stage.gateway.queue.size == 1)
            second.close()
            await stage.until(lambda: stage.gateway.queue.size == 0)
            first.close()
            await stage.until(lambda: stage.gateway.counts.in_flight == 0)
            assert len(stage.upstreams[0].asked) == 1

    play(scene)


def test_a_deadline_ends_a_request_wherever_it_is() -> None:
    async def scene() -> None:
        async with gateway(Scripted(stall), declared={"max_in_flight": 1}) as stage:
            client = await stage.client()
            await client.ask(extra="x-request-timeout: 400ms\r\n")
            await stage.until(lambda: len(stage.upstreams[0].asked) == 1)
            waiting = await stage.ask(extra="x-request-timeout: 0.1\r\n")
            sent = await client.answer()
            assert (waiting.status, waiting.error) == (504, "no answer within 0.1 s")
            assert (sent.status, sent.error) == (504, "no answer within 0.4 s")
            bad = await stage.ask(extra="x-request-timeout: soon\r\n")
            assert bad.status == 400
            client.close()

    play(scene)


def test_a_broken_upstream_is_left_alone_tried_once_and_trusted_again() -> None:
    async def scene() -> None:
        shaky = Scripted(die_before)
        async with gateway(shaky, Scripted(), policy="round-robin", failures=2, open_s=0.3, slow_start_s=0.2) as stage:
            replica = stage.gateway.replicas[0]
            while replica.state != "open":
                assert (await stage.ask()).status == 200
            seen = len(shaky.asked)
            assert seen == 2
            for _ in range(4):
                assert (await stage.ask()).upstream == stage.gateway.replicas[1].name
            assert len(shaky.asked) == seen
            shaky.behave = answer
            await stage.until(lambda: replica.state == "trial")
            assert replica.limit == 1
            while replica.state != "up":
                assert (await stage.ask()).status == 200
            assert replica.limit < replica.upstream.max_in_flight
            await stage.until(lambda: replica.limit == replica.upstream.max_in_flight)

    play(scene)


def test_health_checks_take_an_upstream_out_and_back() -> None:
    async def scene() -> None:
        sick = Scripted(kind="vllm")
        async with gateway(sick, Scripted(kind="vllm"), policy="round-robin", health_every_s=0.03) as stage:
            replica = stage.gateway.replicas[0]
            sick.health = 500
            await stage.until(lambda: replica.state == "sick")
            for _ in range(3):
                assert (await stage.ask()).upstream != replica.name
            sick.health = 404
            await stage.until(lambda: replica.state == "up")
            assert (await stage.get("/ready")).status == 200

    play(scene)


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llama.cpp"])
def test_the_load_that_engines_report_decides(kind: str) -> None:
    async def scene() -> None:
        loaded, idle = Scripted(kind=kind), Scripted(kind=kind)
        loaded.metrics = engine(kind, running=30, waiting=4, kv_usage=0.9)
        idle.metrics = engine(kind, running=1, waiting=0, kv_usage=0.1)
        async with gateway(loaded, idle, policy="least-loaded", scrape_every_s=0.05) as stage:
            replicas = stage.gateway.replicas
            await stage.until(lambda: all(replica.report is not None for replica in replicas))
            for _ in range(5):
                assert (await stage.ask()).upstream == replicas[1].name

    play(scene)


@pytest.mark.parametrize("page", [None, "", "nothing of use\n", "vllm:num_requests_running NaN\n"])
def test_an_engine_that_does_not_tell_its_load_is_not_taken_for_idle(page: str | None) -> None:
    async def scene() -> None:
        silent, working = Scripted(kind="vllm"), Scripted(kind="vllm")
        silent.metrics = page
        working.metrics = engine("vllm", running=3, waiting=0)
        async with gateway(silent, working, policy="least-loaded", scrape_every_s=0.05) as stage:
            replicas = stage.gateway.replicas
            await stage.until(lambda: replicas[1].report is not None)
            chosen = {(await stage.ask()).upstream for _ in range(20)}
            # Nothing is known of one of them, so two are compared by what was sent there: both get some.
            assert chosen == {replica.name for replica in replicas}

    play(scene)


def test_a_report_that_grows_old_counts_no_more() -> None:
    async def scene() -> None:
        one, other = Scripted(kind="vllm"), Scripted(kind="vllm")
        one.metrics, other.metrics = (engine("vllm", running=n, waiting=0) for n in (30, 1))
        async with gateway(one, other, policy="least-loaded", scrape_every_s=0.05, stale_s=0.3) as stage:
            replicas = stage.gateway.replicas
            await stage.until(lambda: all(replica.report is not None for replica in replicas))
            assert {(await stage.ask()).upstream for _ in range(5)} == {replicas[1].name}
            one.metrics = other.metrics = None
            await asyncio.sleep(0.5)
            assert {(await stage.ask()).upstream for _ in range(20)} == {replica.name for replica in replicas}

    play(scene)


def test_a_client_that_reads_slowly_slows_its_upstream_only() -> None:
    async def scene() -> None:
        sent = 0
        size = 1 << 16

        async def behave(asked: Asked) -> None:
            nonlocal sent
            await asked.head()
            for _ in range(400):
                await asked.send(b"%x\r\n%b\r\n" % (size, b"x" * size))
                sent += 1
            await asked.end()

        async with gateway(Scripted(behave), Scripted(), policy="round-robin") as stage:
            client = await stage.client()
            await client.ask()
            head = await client.head()
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.1)
            assert sent < 400
            assert (await stage.ask()).status == 200
            found = await client.answer_after(head)
            assert (len(found.body), found.whole) == (400 * size, True)
            # The connection to the upstream is read again, and kept.
            assert stage.gateway.replicas[0].in_flight == 0
            client.close()

    play(scene)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("how", ["chunks", "length", "until-the-end", "after-100", "from-1.0"])
def test_every_way_to_send_an_answer_reaches_every_client(how: str, version: str) -> None:
    raw = {
        "chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: keep-alive\r\n\r\n"
        b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        "length": b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\ncontent-length: 5\r\n\r\nhello",
        "until-the-end": b"HTTP/1.1 200 OK\r\n\r\nhello",
        "after-100": b"HTTP/1.1 100 Continue\r\nx: y\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        "from-1.0": b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    }[how]

    async def behave(asked: Asked) -> None:
        for at in range(0, len(raw), 7):
            await asked.send(raw[at : at + 7])
            await asyncio.sleep(0.001)
        if how in ("until-the-end", "from-1.0"):
            asked.writer.close()

    async def scene() -> None:
        async with gateway(Scripted(behave)) as stage:
            client = await stage.client()
            body = b'{"model": "small"}'
            client.writer.write(
                b"POST %b HTTP/%b\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b"
                % (CHAT.encode(), version.encode(), len(body), body)
            )
            found = await client.answer()
            assert (found.status, found.body, found.whole) == (200, b"hello", True)
            assert "keep-alive" not in found.headers
            assert "x" not in found.headers
            client.close()

    play(scene)


def test_a_kept_connection_that_was_closed_meanwhile_is_no_failure() -> None:
    async def scene() -> None:
        async def behave(asked: Asked) -> None:
            await asked.reply(ANSWER)
            asked.writer.close()

        async with gateway(Scripted(behave), failures=1) as stage:
            client = await stage.client()
            for _ in range(20):
                await client.ask()
                assert (await client.answer()).status == 200
            client.close()
            assert stage.gateway.replicas[0].state == "up"

    play(scene)


def test_an_upstream_that_is_not_there_is_no_matter_while_another_is() -> None:
    async def scene() -> None:
        absent = Scripted()
        async with gateway(absent, Scripted(), policy="round-robin", failures=1) as stage:
            await absent.stop()
            stage.gateway.replicas[0].close()
            assert [(await stage.ask()).status for _ in range(4)] == [200] * 4
            assert stage.gateway.replicas[0].state == "open"

    play(scene)
