"""The gateway end to end: what clients get, whatever upstreams do."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.e2e.upstreams import ANSWER, CHAT, Asked, Scripted, gateway, play, tokens

from headway.errors import ServeError
from headway.gateway import ApiKey


async def stall(asked: Asked) -> None:
    await asked.gone(30.0)


def test_an_answer_passes_as_it_came_with_the_reason_for_its_way() -> None:
    async def scene() -> None:
        async with gateway(Scripted(), policy="least-outstanding") as stage:
            found = await stage.ask()
            assert (found.status, found.body, found.whole) == (200, ANSWER, True)
            name = stage.gateway.replicas[0].name
            assert found.headers["x-headway-route"].startswith(f"{name}; least-outstanding; in_flight=0; attempt=1;")
            asked = stage.upstreams[0].asked[0]
            assert asked.json == {"model": "small", "messages": []}
            assert asked.headers["host"] == name
            assert stage.gateway.accounts.all[0].prompt_tokens == 9
            assert stage.gateway.accounts.all[0].completion_tokens == 3

    play(scene)


def test_what_is_for_the_gateway_alone_does_not_reach_an_upstream() -> None:
    async def scene() -> None:
        extra = (
            "authorization: Bearer mine\r\nx-request-timeout: 5s\r\nconnection: keep-alive, x-hop\r\nx-hop: 1\r\n"
            "x-headway-route: mine\r\n"
            "x-request-id: abc\r\nte: trailers\r\n"
        )
        async with gateway(Scripted(), declared={"token": "theirs"}) as stage:
            assert (await stage.ask(extra=extra)).status == 200
            seen = stage.upstreams[0].asked[0].headers
            assert seen["authorization"] == "Bearer theirs"
            assert seen["x-request-id"] == "abc"
            assert not {"x-request-timeout", "x-headway-route", "connection", "x-hop", "te"} & set(seen)

    play(scene)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_a_stream_passes_event_by_event(line_end: str) -> None:
    async def scene() -> None:
        more = asyncio.Event()

        async def behave(asked: Asked) -> None:
            await asked.head()
            await asked.event(json.dumps({"token": 0}), line_end)
            await more.wait()
            await asked.event(json.dumps({"token": 1}), line_end)
            await asked.end()

        async with gateway(Scripted(behave)) as stage:
            client = await stage.client()
            await client.ask(body={"model": "small", "stream": True})
            head = await client.head()
            assert head.headers["content-type"] == "text/event-stream"
            assert tokens(await client.chunk()) == [0]
            more.set()
            assert tokens(await client.chunk()) == [1]
            assert await client.chunk() == b""
            client.close()

    play(scene)


@pytest.mark.parametrize(("policy", "most"), [("least-outstanding", 2), ("central", 2), ("jbsq", 4)])
def test_an_upstream_never_holds_more_than_its_share_and_the_rest_waits_in_order(policy: str, most: int) -> None:
    """A bounded queue lets as many wait in an upstream as it works on, as in the simulator."""

    async def scene() -> None:
        gate = asyncio.Event()

        async def behave(asked: Asked) -> None:
            await gate.wait()
            await asyncio.sleep(0.01)
            await asked.reply(ANSWER)

        async with gateway(Scripted(behave), declared={"max_in_flight": 2}, policy=policy) as stage:
            clients = [await stage.client() for _ in range(9)]
            for number, client in enumerate(clients):
                await client.ask(body={"model": "small", "number": number})
                await stage.until(lambda number=number: stage.gateway.counts.offered == number + 1)  # type: ignore[misc]
            await stage.until(lambda: len(stage.upstreams[0].asked) == most)
            assert stage.gateway.queue.size == 9 - most
            gate.set()
            found = [await client.answer() for client in clients]
            assert {one.status for one in found} == {200}
            assert stage.upstreams[0].most == most
            assert sorted(asked.json["number"] for asked in stage.upstreams[0].asked[:most]) == list(range(most))
            assert [asked.json["number"] for asked in stage.upstreams[0].asked[most:]] == list(range(most, 9))

    play(scene)


def test_more_than_may_wait_is_refused_with_a_time_to_come_back() -> None:
    async def scene() -> None:
        async with gateway(Scripted(stall), declared={"max_in_flight": 1}, queue_limit=1) as stage:
            held = [await stage.client() for _ in range(2)]
            for client in held:
                await client.ask()
            await stage.until(lambda: stage.gateway.queue.size == 1)
            found = await stage.ask()
            assert found.status == 429
            assert int(found.headers["retry-after"]) >= 1
            for client in held:
                client.close()
            [told] = stage.gateway.journal.last(1)
            assert (told["answered"], told["status"], told["why"]) == ("rejected", 429, found.error)
            counts = stage.gateway.counts
            await stage.until(lambda: counts.in_flight == 0)
            assert counts.to_dict() == {
                "offered": 3, "answered": 0, "rejected": 1, "dropped": 2, "failed": 0, "late": 0, "in_flight": 0,
            }  # fmt: skip

    play(scene)


def test_a_request_that_is_tried_again_keeps_its_place_and_counts_towards_the_limit_for_others() -> None:
    async def scene() -> None:
        crash = asyncio.Event()

        async def dies(asked: Asked) -> None:
            await crash.wait()
            await asked.head()
            asked.die()

        async def serves(asked: Asked) -> None:
            await served.wait()
            await asked.reply(ANSWER)

        served = asyncio.Event()
        ill, well = Scripted(dies), Scripted(serves)
        async with gateway(
            ill, well, declared={"max_in_flight": 3}, policy="round-robin", queue_limit=2, failures=1, open_s=60.0
        ) as stage:
            clients = [await stage.client() for _ in range(6)]
            for client in clients:
                await client.ask()
            await stage.until(lambda: len(ill.asked) == len(well.asked) == 3)
            crash.set()
            await stage.until(lambda: stage.gateway.queue.size == 3)
            assert (await stage.ask()).status == 429
            served.set()
            assert [(await client.answer()).status for client in clients] == [200] * 6
            assert (await stage.ask()).status == 200
            assert stage.gateway.counts.by_status["rejected"] == 1

    play(scene)


def test_a_model_is_asked_of_those_that_serve_it() -> None:
    async def scene() -> None:
        async with gateway(Scripted(models=("small",)), Scripted(models=("small", "large"))) as stage:
            names = [replica.name for replica in stage.gateway.replicas]
            for _ in range(4):
                assert (await stage.ask({"model": "large"})).upstream == names[1]
            unknown = await stage.ask({"model": "lage"})
            assert unknown.status == 404
            assert "did you mean 'large'" in unknown.error
            listed = json.loads((await stage.get("/v1/models")).body)
            assert [model["id"] for model in listed["data"]] == ["large", "small"]

    play(scene)


def test_a_full_upstream_of_one_model_does_not_hold_up_another_model() -> None:
    async def scene() -> None:
        slow, fast = Scripted(stall, models=("a",)), Scripted(models=("b",))
        async with gateway(slow, fast, declared={"max_in_flight": 1}) as stage:
            held = [await stage.client() for _ in range(2)]
            for client in held:
                await client.ask(body={"model": "a"})
            await stage.until(lambda: stage.gateway.queue.size == 1)
            assert (await stage.ask({"model": "b"})).status == 200
            for client in held:
                client.close()

    play(scene)


def test_keys_are_asked_for_and_have_limits_of_their_own() -> None:
    async def scene() -> None:
        keys = (ApiKey("calm", "s1"), ApiKey("hasty", "s2", requests_per_s=0.5, request_burst=2.0))
        async with gateway(Scripted(), keys=keys) as stage:
            assert (await stage.ask()).status == 401
            assert (await stage.ask(extra="authorization: Bearer s3\r\n")).status == 401
            assert (await stage.get("/healthz")).status == 200
            assert (await stage.get("/metrics")).status == 401
            hasty = [await stage.ask(extra="authorization: Bearer s2\r\n") for _ in range(3)]
            assert [found.status for found in hasty] == [200, 200, 429]
            assert hasty[2].headers["retry-after"] == "2"
            assert (await stage.ask(extra="authorization: Bearer s1\r\n")).status == 200

    play(scene)


def test_those_who_were_served_least_go_first() -> None:
    async def scene() -> None:
        order: list[str] = []
        gate = asyncio.Event()

        async def behave(asked: Asked) -> None:
            order.append(asked.json["who"])
            await gate.wait()
            await asked.reply(ANSWER)

        keys = (ApiKey("greedy", "g"), ApiKey("modest", "m"))
        async with gateway(Scripted(behave), declared={"max_in_flight": 1}, keys=keys, order="vtc") as stage:
            clients = []
            for who in "gggggm":
                client = await stage.client()
                await client.ask(body={"model": "small", "who": who}, extra=f"authorization: Bearer {who}\r\n")
                clients.append(client)
                await asyncio.sleep(0.005)
            await stage.until(lambda: stage.gateway.queue.size == 5)
            gate.set()
            for client in clients:
                assert (await client.answer()).status == 200
            assert "".join(order) == "gmgggg"

    play(scene)


def test_vllm_is_told_how_urgent_a_request_is() -> None:
    async def scene() -> None:
        async with gateway(Scripted(kind="vllm"), Scripted(), policy="round-robin", priority=True) as stage:
            for text in ("short", "long" * 20_000):
                for _ in range(2):
                    found = await stage.ask({"model": "small", "prompt": text, "priority": -99})
                    assert found.status == 200
            told, untold = (one.asked for one in stage.upstreams)
            values = [asked.json["priority"] for asked in told]
            assert values[0] < values[1]
            assert values[0] >= 0
            assert [asked.json["priority"] for asked in untold] == [-99, -99]

    play(scene)


def test_a_drain_answers_what_was_let_in_and_nothing_else() -> None:
    async def scene() -> None:
        gate = asyncio.Event()

        async def behave(asked: Asked) -> None:
            await asked.head()
            await asked.event(json.dumps({"token": 0}))
            await gate.wait()
            await asked.event(json.dumps({"token": 1}))
            await asked.end()

        async with gateway(Scripted(behave), grace_s=20.0) as stage:
            client = await stage.client()
            await client.ask()
            head = await client.head()
            stage.server.stop()
            await stage.until(lambda: stage.gateway.draining)
            assert (await stage.get("/ready")).status == 503
            assert (await stage.ask()).status == 503
            gate.set()
            assert head.status == 200
            assert tokens(await client.chunk() + await client.chunk()) == [0, 1]
            assert await client.chunk() == b""
            client.close()

    play(scene)


def test_a_drain_that_takes_too_long_cuts_streams_off_and_tells_those_that_wait() -> None:
    async def scene() -> None:
        async def behave(asked: Asked) -> None:
            await asked.head()
            await asked.event("{}")
            await asked.gone()

        async with gateway(Scripted(behave), declared={"max_in_flight": 1}, grace_s=0.1) as stage:
            streaming, waiting = await stage.client(), await stage.client()
            for client in (streaming, waiting):
                await client.ask()
            head = await streaming.head()
            await stage.until(lambda: stage.gateway.queue.size == 1)
            stage.server.stop()
            assert not (await streaming.answer_after(head)).whole
            assert (await waiting.answer()).status == 503
            ended = [(one["answered"], one["why"]) for one in stage.gateway.journal.last(9)]
            assert ended == [("dropped", "the gateway is shutting down")] * 2
            assert stage.gateway.counts.to_dict()["dropped"] == 2

    play(scene)


@pytest.mark.parametrize(
    ("body", "path", "method", "status", "says"),
    [
        (b"not json", CHAT, "POST", 400, "not a request of the OpenAI protocol"),
        (b"[1, 2]", CHAT, "POST", 400, "not a request of the OpenAI protocol"),
        (b'{"model": 7}', CHAT, "POST", 400, "not a request of the OpenAI protocol"),
        (b'{"model": "small", "stream": "yes"}', CHAT, "POST", 400, "not a request of the OpenAI protocol"),
        (b"[" * 100_000, CHAT, "POST", 400, "not a request of the OpenAI protocol"),
        (b"{}", "/v1/embeddings", "POST", 404, "nothing at /v1/embeddings"),
        (b"", CHAT, "GET", 405, "POST is"),
        (b"{}", "/v1/models", "POST", 405, "GET is"),
        (b"{}", "/v1/models/small", "DELETE", 405, "GET is"),
        (b"", "/v1/models/smal", "GET", 404, "serves the model 'smal'; did you mean 'small'?; valid: small"),
        (b"x" * 300_000, CHAT, "POST", 413, "larger than"),
        (b"", "/decisions?last=x", "GET", 400, "last is"),
        (b"", "/decisions?last=%C2%B2", "GET", 400, "last is"),
        (b"{}", f"{CHAT}?api-version=1", "POST", 400, "leave out the query"),
        (b'{"model": "%b"}' % (b"m" * 9_000), CHAT, "POST", 404, f"serves the model '{'m' * 256}'; valid: small"),
    ],
)
def test_what_cannot_be_answered_says_why(body: bytes, path: str, method: str, status: int, says: str) -> None:
    from headway.serve.app import HttpLimits

    async def scene() -> None:
        async with gateway(Scripted(), http=HttpLimits(max_body_bytes=200_000)) as stage:
            client = await stage.client()
            await client.ask(path, body, method=method)
            found = await client.answer()
            assert found.status == status
            assert says in found.error
            assert (await stage.ask()).status == 200
            client.close()

    play(scene)


def test_an_upstream_that_is_drained_finishes_and_gets_no_more() -> None:
    async def scene() -> None:
        gate = asyncio.Event()

        async def behave(asked: Asked) -> None:
            await gate.wait()
            await asked.reply(ANSWER)

        async with gateway(Scripted(behave), Scripted(), policy="round-robin") as stage:
            one, other = stage.gateway.replicas
            client = await stage.client()
            await client.ask()
            await stage.until(lambda: one.in_flight == 1)
            stage.gateway.drain(one.name)
            assert {(await stage.ask()).upstream for _ in range(4)} == {other.name}
            gate.set()
            assert (await client.answer()).upstream == one.name
            stage.gateway.drain(one.name, draining=False)
            assert {(await stage.ask()).upstream for _ in range(4)} == {one.name, other.name}
            with pytest.raises(ServeError, match="did you mean"):
                stage.gateway.drain(one.name[:-1])

    play(scene)


def test_no_more_clients_than_may_be_are_let_in() -> None:
    async def scene() -> None:
        async with gateway(Scripted(), max_connections=3) as stage:
            first = [await stage.client() for _ in range(3)]
            for client in first:
                await client.ask()
                assert (await client.answer()).status == 200
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await stage.ask()
            first[0].close()
            await stage.until(lambda: len(stage.gateway.active) == 0)
            await asyncio.sleep(0.05)
            assert (await stage.ask()).status == 200

    play(scene)
