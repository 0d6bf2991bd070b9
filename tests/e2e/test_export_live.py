"""Exported configuration in the proxies that it is for: they take it, and route as it says."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest
from tests.e2e.proxies import check, program, proxy
from tests.e2e.upstreams import ANSWER, Answer, Asked, Client, Scripted, play, tokens

from headway.export import export
from headway.export.rules import ROOTS
from headway.gateway.declare import GatewayOptions, Upstream
from headway.policy.routing import ROUTERS
from headway.policy.token_routing import TOKEN_ROUTERS

PROXIES = [
    pytest.param(name, marks=pytest.mark.skipif(program(name) is None, reason=f"needs {name}, which is not installed"))
    for name in ("haproxy", "nginx")
]
each = pytest.mark.parametrize("name", PROXIES)


async def ask(port: int, extra: str = "", body: object = None) -> Answer:
    client = await Client.open(port)
    try:
        await client.ask(body=body, extra=extra)
        return await client.answer()
    finally:
        client.close()


async def stall(asked: Asked) -> None:
    await asked.gone(30.0)


async def until(condition: object, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


@each
def test_it_takes_every_policy_without_a_warning(name: str, tmp_path: Path) -> None:
    fleet = (Upstream("http://127.0.0.1:1"), Upstream("http://127.0.0.1:2", kind="hosted", speed=2.5))

    texts = {
        export(name, fleet, GatewayOptions(port=18_000, policy=policy, attempts=attempts)).text.split("\n\n", 1)[1]
        for policy in (*ROUTERS, *TOKEN_ROUTERS)
        for attempts in (1, 3)
    }
    odd = GatewayOptions(
        port=18_000, open_s=0.5, connect_s=0.25, stall_s=1.5, first_token_s=0.1, timeout_s=0.3, slow_start_s=0.0
    )
    texts.add(export(name, fleet, odd).text)
    if Path(ROOTS).exists():
        tls = (Upstream("https://127.0.0.1:3", kind="hosted"),)
        texts.add(export(name, tls, GatewayOptions(host="::1", port=18_000)).text)

    async def scene() -> None:
        for text in texts:
            await check(name, text, tmp_path)

    play(scene)


@each
def test_requests_are_balanced_by_speed_and_answers_say_where_from(name: str, tmp_path: Path) -> None:
    async def scene() -> None:
        slow, fast = Scripted(), Scripted()
        speeds = [{}, {"speed": 3.0}]
        async with proxy(name, [slow, fast], tmp_path, speeds, policy="weighted-round-robin") as port:
            found = Counter([(await ask(port)).upstream for _ in range(40)])
            assert found == {f"127.0.0.1:{slow.port}": 10, f"127.0.0.1:{fast.port}": 30}
            assert len(slow.asked) == 10
            assert {asked.json["model"] for asked in fast.asked} == {"small"}

    play(scene)


@each
def test_who_has_less_to_do_gets_the_next_request(name: str, tmp_path: Path) -> None:
    async def scene() -> None:
        busy: list[Asked] = []

        async def first_stalls(asked: Asked) -> None:
            if asked.json.get("stall"):
                busy.append(asked)
                await stall(asked)
            await asked.reply(ANSWER)

        upstreams = [Scripted(first_stalls), Scripted(first_stalls)]
        async with proxy(name, upstreams, tmp_path, policy="least-outstanding") as port:
            client = await Client.open(port)
            await client.ask(body={"stall": True})
            await until(lambda: busy)
            free = next(one for one in upstreams if not one.now)
            assert {(await ask(port)).upstream for _ in range(6)} == {f"127.0.0.1:{free.port}"}
            client.close()
            # Who has gone does not keep an upstream busy.
            await until(lambda: not any(one.now for one in upstreams))

    play(scene)


@each
def test_a_dead_upstream_is_left_out(name: str, tmp_path: Path) -> None:
    async def scene() -> None:
        upstreams = [Scripted() for _ in range(3)]
        async with proxy(name, upstreams, tmp_path, policy="round-robin") as port:
            dead = upstreams[0]
            await dead.stop()
            found = [await ask(port) for _ in range(30)]
            assert {one.status for one in found} == {200}
            assert f"127.0.0.1:{dead.port}" not in {one.upstream.split(", ")[-1] for one in found}
            dead.asked.clear()
            await dead.start()
            await until_answers(port, dead)

    play(scene)


async def until_answers(port: int, upstream: Scripted) -> None:
    """Ask until an upstream has answered: one that is back gets requests again."""
    async with asyncio.timeout(30.0):
        while not upstream.asked:
            assert (await ask(port)).status == 200
            await asyncio.sleep(0.05)


@each
def test_what_one_upstream_cannot_do_another_one_does(name: str, tmp_path: Path) -> None:
    async def scene() -> None:
        async def unable(asked: Asked) -> None:
            await asked.reply(b"", 503)

        async with proxy(name, [Scripted(unable), Scripted()], tmp_path, policy="round-robin") as port:
            assert {(await ask(port)).status for _ in range(10)} == {200}

    play(scene)


@each
def test_requests_that_break_an_engine_do_not_take_it_from_others(name: str, tmp_path: Path) -> None:
    async def scene() -> None:
        async def behave(asked: Asked) -> None:
            await asked.reply(ANSWER, 500 if asked.json.get("poison") else 200)

        upstreams = [Scripted(behave, kind="vllm") for _ in range(2)]
        async with proxy(name, upstreams, tmp_path, failures=2, policy="round-robin", health_every_s=60.0) as port:
            assert {(await ask(port, body={"poison": True})).status for _ in range(12)} == {500}
            found = [await ask(port) for _ in range(6)]
            assert {one.status for one in found} == {200}
            assert len({one.upstream for one in found}) == 2

    play(scene)


@each
def test_engines_are_asked_for_nothing_but_completions_and_models_and_see_no_secret_of_clients(
    name: str, tmp_path: Path
) -> None:
    async def scene() -> None:
        upstream = Scripted()
        async with proxy(name, [upstream], tmp_path) as port:

            async def status(path: str) -> int:
                client = await Client.open(port)
                await client.ask(path, extra="authorization: Bearer geheim\r\n")
                found = (await client.head()).status
                client.close()
                return found

            for path in (
                "/v1/chat/completions",
                "/v1/completions?x=1",
                "/v1/models",
                "/v1/models/org/small",
                "/v1/models/org%2FS-3.1",
            ):
                assert await status(path) == 200
            for path in (
                "/sleep",
                "/v1/load_lora_adapter",
                "/",
                "/metrics",
                "/v1/chat/completions/more",
                "/v1/models/../../sleep",
                "/v1/models/%2e%2e/sleep",
                "/v1/models/..%2f..%2fsleep",
                "/v1/models/a/../../../sleep",
            ):
                assert await status(path) in (400, 404), path
            assert len(upstream.asked) == 4
            assert not any("authorization" in asked.headers for asked in upstream.asked)

    play(scene)


@each
def test_a_stream_passes_event_by_event(name: str, tmp_path: Path) -> None:
    async def scene() -> None:
        more = asyncio.Event()

        async def behave(asked: Asked) -> None:
            await asked.head()
            await asked.event(json.dumps({"token": 0}))
            await more.wait()
            await asked.event(json.dumps({"token": 1}))
            await asked.end()

        async with proxy(name, [Scripted(behave)], tmp_path) as port:
            client = await Client.open(port)
            await client.ask(body={"stream": True})
            assert (await client.head()).headers["content-type"] == "text/event-stream"
            assert tokens(await client.chunk()) == [0]
            more.set()
            assert tokens(await client.chunk()) == [1]
            client.close()

    play(scene)


@each
def test_requests_that_belong_together_go_together(name: str, tmp_path: Path) -> None:
    async def scene() -> None:
        upstreams = [Scripted() for _ in range(3)]
        async with proxy(name, upstreams, tmp_path, policy="consistent-hash") as port:
            homes, strayed = set(), 0
            for session in range(12):
                header = f"x-session-id: s{session}\r\n"
                [(home, most)] = Counter([(await ask(port, header)).upstream for _ in range(5)]).most_common(1)
                homes.add(home)
                strayed += 5 - most
            assert len(homes) > 1
            # A proxy that has not seen yet that a request has ended takes its server to be above its bound.
            assert strayed <= 12
            assert len({(await ask(port)).upstream for _ in range(20)}) > 1

    play(scene)


@each
def test_no_upstream_has_more_in_flight_than_it_may(name: str, tmp_path: Path) -> None:
    """HAProxy lets the rest wait, up to a limit; NGINX refuses it, as its configuration says."""

    async def scene() -> None:
        gate = asyncio.Event()

        async def behave(asked: Asked) -> None:
            await gate.wait()
            await asked.reply(ANSWER)

        upstream = Scripted(behave)
        async with proxy(name, [upstream], tmp_path, [{"max_in_flight": 2}], queue_limit=3) as port:
            holding = [await Client.open(port) for _ in range(5 if name == "haproxy" else 2)]
            for client in holding:
                await client.ask()
                await asyncio.sleep(0.05)
            refused = await ask(port)
            assert (refused.status, refused.headers["retry-after"]) == (429, "1")
            gate.set()
            assert {(await client.answer()).status for client in holding} == {200}
            assert upstream.most == 2
            for client in holding:
                client.close()

    play(scene)


@pytest.mark.parametrize("name", PROXIES[:1])
def test_who_is_not_well_is_sent_nothing(name: str, tmp_path: Path) -> None:
    async def scene() -> None:
        ill, well = Scripted(kind="vllm"), Scripted(kind="vllm")
        ill.health = 500
        async with proxy(name, [ill, well], tmp_path, health_every_s=0.2, failures=2, policy="round-robin") as port:
            async with asyncio.timeout(20.0):
                while len({(await ask(port)).upstream for _ in range(6)}) > 1:
                    await asyncio.sleep(0.05)
            assert (await ask(port)).upstream == f"127.0.0.1:{well.port}"
            ill.health, before = 200, len(ill.asked)
            async with asyncio.timeout(20.0):
                while len(ill.asked) == before:
                    assert (await ask(port)).status == 200

    play(scene)


@pytest.mark.parametrize("name", PROXIES[:1])
def test_each_upstream_is_asked_under_its_own_name(name: str, tmp_path: Path) -> None:
    async def scene() -> None:
        upstreams = [Scripted() for _ in range(2)]
        async with proxy(name, upstreams, tmp_path, policy="round-robin") as port:
            for _ in range(4):
                await ask(port)
            for one in upstreams:
                assert {asked.headers["host"] for asked in one.asked} == {f"127.0.0.1:{one.port}"}

    play(scene)
