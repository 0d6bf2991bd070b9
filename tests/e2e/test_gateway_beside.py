"""What goes wrong with one request, or in the gateway itself, does not hold up the others."""

from __future__ import annotations

import asyncio
import socket

import pytest
from tests.e2e.upstreams import ANSWER, CHAT, Asked, Scripted, gateway, play

from headway.policy.scheduling import ORDERS
from headway.serve.app import HttpLimits


async def stall(asked: Asked) -> None:
    await asked.gone(30.0)


def test_a_queue_that_is_full_for_one_model_does_not_hold_up_another_model() -> None:
    async def scene() -> None:
        slow, fast = Scripted(stall, models=("a",)), Scripted(models=("b",))
        async with gateway(slow, fast, declared={"max_in_flight": 1}, queue_limit=2) as stage:
            held = [await stage.client() for _ in range(3)]
            for client in held:
                await client.ask(body={"model": "a"})
            await stage.until(lambda: stage.gateway.queue.size == 2)
            assert (await stage.ask({"model": "a"})).status == 429
            assert (await stage.ask({"model": "b"})).status == 200
            for client in held:
                client.close()

    play(scene)


@pytest.mark.parametrize("back", ["health", "drain"])
def test_who_waits_is_served_as_soon_as_an_upstream_is_back(back: str) -> None:
    async def scene() -> None:
        upstream, busy = Scripted(kind="vllm"), Scripted(stall)
        options = {"queue_limit": 3, "health_every_s": 0.05, "slow_start_s": 0.0}
        async with gateway(upstream, busy, declared={"max_in_flight": 1}, **options) as stage:
            replica = stage.gateway.replicas[0]
            upstream.health = 500 if back == "health" else 200
            if back == "drain":
                stage.gateway.drain(replica.name)
            await stage.until(lambda: not replica.up)
            clients = [await stage.client() for _ in range(4)]
            for client in clients:
                await client.ask()
                await stage.until(lambda: busy.asked != [])
            await stage.until(lambda: stage.gateway.queue.size == 3)
            # So that nobody else looks after those that wait.
            stage.gateway.sweep = lambda now_s: None  # type: ignore[method-assign]
            upstream.health = 200
            if back == "drain":
                stage.gateway.drain(replica.name, draining=False)
            assert [(await client.answer()).status for client in clients[1:]] == [200] * 3

    play(scene)


@pytest.mark.parametrize("order", sorted(ORDERS))
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_no_number_of_tokens_that_a_request_names_holds_up_others(order: str, field: str) -> None:
    async def scene() -> None:
        gate = asyncio.Event()

        async def behave(asked: Asked) -> None:
            await gate.wait()
            await asked.reply(ANSWER)

        async with gateway(Scripted(behave), declared={"max_in_flight": 1}, order=order) as stage:
            held = [await stage.client() for _ in range(5)]
            for client, most in zip(held, ("10", "1" + 400 * "0", "-1" + 400 * "0", "0", "10"), strict=True):
                await client.ask(body=f'{{"model": "small", "{field}": {most}}}'.encode())
            await stage.until(lambda: stage.gateway.queue.size == 4)
            gate.set()
            assert [(await client.answer()).status for client in held] == [200] * 5

    play(scene)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_fault_of_its_own_is_answered_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    async def scene() -> None:
        async with gateway(Scripted()) as stage:
            broken = stage.gateway.replicas[0] if method == "GET" else stage.gateway.models
            name = "to_dict" if method == "GET" else "barred"
            with monkeypatch.context() as patched:
                patched.setattr(type(broken), name, lambda *_: 1 // 0)
                client = await stage.client()
                await client.ask(CHAT if method == "POST" else "/upstreams", method=method)
                found = await client.answer()
            assert (found.status, found.error) == (500, "the gateway failed; its log says why")
            assert (await stage.ask()).status == 200

    play(scene)
    assert "ZeroDivisionError" in caplog.text


def test_a_fault_of_its_own_does_not_end_what_looks_after_requests(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with gateway(Scripted(stall), declared={"max_in_flight": 1}) as stage:
            sweep, failed = stage.gateway.sweep, False

            def once(now_s: float) -> None:
                nonlocal failed
                if not failed:
                    failed = True
                    raise RuntimeError("not foreseen")
                sweep(now_s)

            monkeypatch.setattr(stage.gateway, "sweep", once)
            found = await stage.ask(extra="x-request-timeout: 0.2\r\n")
            assert (found.status, failed) == (504, True)

    play(scene)
    assert "not foreseen" in caplog.text


def test_who_reads_slowly_gets_all_and_who_does_not_read_is_let_go() -> None:
    piece, pieces = bytes(2**16), 160

    async def behave(asked: Asked) -> None:
        await asked.head()
        for _ in range(pieces):
            await asked.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await asked.end()

    async def scene() -> None:
        async with gateway(Scripted(behave), http=HttpLimits(body_timeout_s=0.2)) as stage:
            slow, deaf = await stage.client(), await stage.client()
            for client in (slow, deaf):
                client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
                await client.ask()
            deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
            assert (await slow.head()).status == 200
            got = 0
            while part := await slow.chunk():
                got += len(part)
                await asyncio.sleep(0.03)
            assert got == len(piece) * pieces
            await stage.until(lambda: not stage.gateway.active)
            assert stage.gateway.counts.to_dict()["answered"] == 1

    play(scene)
