"""What a key is charged for an answer, however that ended: what its client got, once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.e2e.streams import needs_splice, spliced
from tests.e2e.upstreams import Asked, Scripted, Stage, gateway, play

from headway.gateway.declare import ApiKey
from headway.gateway.line import Line
from headway.gateway.replica import Replica

EVENTS = 30
ENDS = ("client", "dies", "stalls", "deadline", "drain", "whole")


def told(number: int) -> str:
    return f'{{"usage": {{"prompt_tokens": 9, "completion_tokens": {number}}}}}'


def part(end: str, text: Callable[[int], str]) -> Callable[[Asked], Awaitable[None]]:
    """Stream some events, then end as told."""

    async def behave(asked: Asked) -> None:
        await asked.head()
        for number in range(EVENTS):
            await asked.event(text(number + 1))
            await asyncio.sleep(0.001)
        if end == "dies":
            asked.die()
        elif end == "whole":
            await asked.event("[DONE]")
            await asked.end()
        else:
            await asked.gone()

    return behave


async def end_of(at: Stage, end: str) -> None:
    """Ask for a stream that ends so, and wait until it has."""
    extra = "x-request-timeout: 2s\r\n" if end == "deadline" else ""
    client = await at.client()
    await client.ask(extra=extra)
    found = await client.head()
    if end in ("client", "drain"):
        for _ in range(EVENTS):
            await client.chunk()
        if end == "client":
            client.close()
        else:
            at.gateway.give_up()
    else:
        await client.answer_after(found)
    await at.until(lambda: not at.gateway.active)


@pytest.mark.parametrize("end", ENDS)
def test_what_a_client_got_is_charged_however_its_answer_ends(end: str) -> None:
    async def scene() -> None:
        for text, expected in ((told, (9.0, float(EVENTS))), (str, (None, float(EVENTS)))):
            stall_s = 1.0 if end == "stalls" else 20.0
            async with gateway(Scripted(part(end, text)), stall_s=stall_s) as at:
                await end_of(at, end)
                account = at.gateway.accounts.of({})
                prompt = expected[0] or len(at.upstreams[0].asked[0].body) / 4
                assert (account.prompt_tokens, account.completion_tokens) == (prompt, expected[1])
                assert account.served == prompt + 2.0 * EVENTS

    play(scene)


@needs_splice
@pytest.mark.parametrize("end", ENDS)
def test_a_spliced_stream_is_charged_as_any_other(end: str) -> None:
    async def scene() -> None:
        for text in (told, str):
            stall_s = 1.0 if end == "stalls" else 20.0
            async with gateway(Scripted(part(end, text)), stall_s=stall_s) as at:
                await spliced(at)
                await end_of(at, end)
                account = at.gateway.accounts.of({})
                assert account.completion_tokens == EVENTS

    play(scene)


def test_events_are_counted_and_not_how_they_were_read() -> None:
    async def behave(asked: Asked) -> None:
        await asked.head()
        event = b'data: {"text": "data: of"}\n\n'
        await asked.send(400 * (b"%x\r\n%b\r\n" % (len(event), event)), b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    async def scene() -> None:
        async with gateway(Scripted(behave)) as at:
            assert (await at.ask()).whole
            assert at.gateway.accounts.of({}).completion_tokens == 400.0

    play(scene)


def test_what_fails_before_a_token_is_not_charged() -> None:
    async def behave(asked: Asked) -> None:
        asked.die()

    async def scene() -> None:
        async with gateway(Scripted(behave), failures=100) as at:
            assert (await at.ask()).status == 502
            account = at.gateway.accounts.of({})
            assert (account.prompt_tokens, account.completion_tokens, account.served) == (0.0, 0.0, 0.0)

    play(scene)


@pytest.mark.parametrize("by_deadline", [False, True])
def test_who_gives_up_a_request_that_is_worked_on_is_charged_its_prompt(by_deadline: bool) -> None:
    async def behave(asked: Asked) -> None:
        await asked.gone()

    async def scene() -> None:
        async with gateway(Scripted(behave), first_token_s=30.0) as at:
            client = await at.client()
            await client.ask(extra="x-request-timeout: 0.2s\r\n" if by_deadline else "")
            await at.until(lambda: len(at.upstreams[0].asked) == 1)
            if not by_deadline:
                client.close()
            await at.until(lambda: not at.gateway.active)
            account = at.gateway.accounts.of({})
            prompt = len(at.upstreams[0].asked[0].body) / 4
            assert (account.prompt_tokens, account.completion_tokens, account.served) == (prompt, 0.0, prompt)

    play(scene)


def test_who_gives_up_a_request_while_it_is_connected_pays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(replica: Replica) -> Line:
        await asyncio.sleep(60.0)
        raise AssertionError

    async def scene() -> None:
        async with gateway(Scripted()) as at:
            monkeypatch.setattr(Replica, "connect", never)
            for extra in ("", "x-request-timeout: 0.2s\r\n"):
                client = await at.client()
                await client.ask(extra=extra)
                await at.until(lambda: len(at.gateway.active) == 1)
                if not extra:
                    client.close()
                await at.until(lambda: not at.gateway.active)
            account = at.gateway.accounts.of({})
            assert (account.prompt_tokens, account.completion_tokens) == (0.0, 0.0)

    play(scene)


def test_who_gives_up_a_request_that_waits_pays_nothing() -> None:
    async def scene() -> None:
        body = b'{"model": "small"}'
        size = len(body) / 4
        key = ApiKey("one", "secret", tokens_per_s=1e-6, token_burst=2.0 * size)
        async with gateway(Scripted(part("drain", str)), declared={"max_in_flight": 1}, keys=(key,)) as at:
            first, second, third = [await at.client() for _ in range(3)]
            account = at.gateway.accounts.all[0]
            for client in (first, second):
                await client.ask(body=body, extra="authorization: Bearer secret\r\n")
                await at.until(lambda: account.active > 0)
            await at.until(lambda: at.gateway.queue.size == 1)
            second.close()
            await at.until(lambda: at.gateway.queue.size == 0)
            assert (account.prompt_tokens, account.served) == (0.0, size)
            # What was taken for the one that left is there for the next.
            await third.ask(body=body, extra="authorization: Bearer secret\r\n")
            await at.until(lambda: at.gateway.queue.size == 1)
            assert account.limited == 0

    play(scene)


@pytest.mark.parametrize(
    ("chunked", "crowd"), [(False, False), (True, False), pytest.param(True, True, marks=needs_splice)]
)
def test_what_follows_in_an_answer_does_not_hide_what_was_used(chunked: bool, crowd: bool) -> None:
    """As the tokens of a prompt do, which vLLM gives at the end to those who ask."""

    async def behave(asked: Asked) -> None:
        more = ", ".join('{"decoded_token": "usage", "rank": 1}' for _ in range(3000))
        begin = b'{"choices": [], "usage": {"prompt_tokens": 9, "total_tokens": 12, "completion_to'
        parts = [
            begin,
            b'kens": 3}, "prompt_logprobs": [',
            *(more[at : at + 9999].encode() for at in range(0, 10**5, 9999)),
        ]
        if chunked:
            await asked.head()
        else:
            size = sum(map(len, parts)) + 2
            await asked.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % size)
        for part in [*parts, b"]}"]:
            if part:
                await asked.send(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
                await asyncio.sleep(0.002)
        if chunked:
            await asked.end()

    async def scene() -> None:
        async with gateway(Scripted(behave)) as at:
            if crowd:
                await spliced(at)
            assert (await at.ask()).whole
            account = at.gateway.accounts.of({})
            assert (account.prompt_tokens, account.completion_tokens) == (9.0, 3.0)

    play(scene)


@pytest.mark.parametrize("crowd", [False, pytest.param(True, marks=needs_splice)])
def test_an_answer_that_does_not_tell_what_was_used_is_charged_by_its_size(crowd: bool) -> None:
    async def behave(asked: Asked) -> None:
        await asked.head()
        for _ in range(20):
            await asked.send(b"7d0\r\n%b\r\n" % (b"x" * 2000))
            await asyncio.sleep(0.002)
        await asked.end()

    async def scene() -> None:
        async with gateway(Scripted(behave)) as at:
            if crowd:
                await spliced(at)
            assert (await at.ask()).whole
            assert at.gateway.accounts.of({}).completion_tokens == pytest.approx(10_000, rel=0.01)

    play(scene)


@pytest.mark.parametrize("crowd", [False, pytest.param(True, marks=needs_splice)])
@pytest.mark.parametrize("cut", [20, 45, 60, 61])
def test_what_was_told_before_an_event_that_is_cut_off_is_charged(crowd: bool, cut: int) -> None:
    async def behave(asked: Asked) -> None:
        await asked.head()
        for number in range(EVENTS):
            await asked.event(told(number + 1))
            await asyncio.sleep(0.001)
        last = f"data: {told(EVENTS + 70)}\n\n".encode()
        await asked.send(b"%x\r\n%b" % (len(last), last[:cut]))
        await asyncio.sleep(0.05)
        asked.die()

    async def scene() -> None:
        async with gateway(Scripted(behave)) as at:
            if crowd:
                await spliced(at)
            await end_of(at, "dies")
            account = at.gateway.accounts.of({})
            assert (account.prompt_tokens, account.completion_tokens) == (9.0, EVENTS)

    play(scene)
