"""What the gateway tells of its requests and upstreams: metrics, decisions, and the log of them."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.e2e.upstreams import ANSWER, Asked, Scripted, engine, gateway, play, stream

from headway.gateway import ApiKey


def test_what_happened_is_told_to_operators(tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"

    async def scene() -> None:
        engine_like = Scripted(stream(3), kind="vllm")
        engine_like.metrics = engine("vllm", running=2, waiting=1, kv_usage=0.25)
        async with gateway(engine_like, decision_log=log, scrape_every_s=0.05) as stage:
            await stage.until(lambda: stage.gateway.replicas[0].report is not None)
            assert (await stage.ask({"model": "small", "stream": True})).status == 200
            page = (await stage.get("/metrics")).body.decode()
            name = stage.gateway.replicas[0].name
            for line in (
                'headway_requests_total{status="answered"} 1.0',
                "headway_requests_in_flight 0.0",
                f'headway_upstream_requests_total{{result="answered",upstream="{name}"}} 1.0',
                f'headway_upstream_kv_usage{{upstream="{name}"}} 0.25',
                'headway_key_tokens_total{key="anyone",kind="completion"} 3.0',
                "headway_first_token_seconds_count 1.0",
            ):
                assert line in page, f"{line} is not in\n{page}"
            [told] = json.loads((await stage.get("/decisions?last=5")).body)
            assert (told["upstream"], told["answered"], told["status"]) == (name, "answered", 200)
            assert told["load"] == 3.0
            [state] = json.loads((await stage.get("/upstreams")).body)
            assert (state["state"], state["running"], state["sent"]) == ("up", 2.0, 1)

    play(scene)
    [line] = log.read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["answered"] == "answered"


def test_a_key_sees_its_own_decisions_and_the_operator_sees_all() -> None:
    async def scene() -> None:
        keys = tuple(ApiKey(name, f"of-{name}") for name in ("alice", "bob"))
        async with gateway(Scripted(), keys=keys, token="operator") as stage:
            for secret in ("of-alice", "of-alice", "of-bob"):
                assert (await stage.ask(extra=f"authorization: Bearer {secret}\r\n")).status == 200

            async def seen(secret: str) -> list[str]:
                page = await stage.get("/decisions", f"authorization: Bearer {secret}\r\n")
                return [decision["key"] for decision in json.loads(page.body)]

            assert await seen("of-alice") == ["alice", "alice"]
            assert await seen("of-bob") == ["bob"]
            assert await seen("operator") == ["alice", "alice", "bob"]

    play(scene)


def test_a_decision_log_that_cannot_be_written_any_more_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with gateway(Scripted(), decision_log=Path("/dev/full")) as stage:
            for _ in range(3):
                assert (await stage.ask()).status == 200
                await stage.until(lambda: "cannot be written any more" in caplog.text)
            assert len(stage.gateway.journal.last(10)) == 3

    if not Path("/dev/full").exists():
        pytest.skip("this system has no device that is always full")
    play(scene)
    assert caplog.text.count("cannot be written any more") == 1


def test_a_model_is_told_of_by_its_name_while_an_upstream_that_serves_it_is_up() -> None:
    async def scene() -> None:
        plain, tuned = Scripted(models=("small",)), Scripted(models=("meta/large ü",))
        async with gateway(plain, tuned) as stage:
            listed = json.loads((await stage.get("/v1/models")).body)["data"]
            for one in listed:
                found = await stage.get(f"/v1/models/{quote(one['id'], safe='')}?x=1")
                assert (found.status, json.loads(found.body)) == (200, one)
            assert listed[0] == {"id": "meta/large ü", "object": "model", "created": 0, "owned_by": "headway"}
            assert (await stage.get("/v1/models/meta/large%20%C3%BC")).status == 200, "slashes need no quotes"
            stage.gateway.drain(stage.gateway.replicas[1].name)
            missing = await stage.get("/v1/models/meta/large%20%C3%BC")
            assert (missing.status, json.loads(missing.body)["error"]["code"]) == (404, "model_not_found")
            assert "valid: small" in missing.error
        async with gateway(Scripted(), keys=(ApiKey("alice", "secret"),)) as stage:
            assert (await stage.get("/v1/models/small")).status == 401

    play(scene)


def test_a_key_is_charged_what_engines_tell_and_every_request_of_it_is_counted() -> None:
    async def scene() -> None:
        async def behave(asked: Asked) -> None:
            await asked.reply(
                ANSWER if "fine" in asked.json else b'{"error": {}}', 200 if "fine" in asked.json else 400
            )

        async with gateway(Scripted(behave), keys=(ApiKey("alice", "a"), ApiKey("bob", "b"))) as stage:
            asked = [("a", {"fine": 1}, 200), ("a", {}, 400), ("b", {"model": "none"}, 404), ("b", {"fine": 1}, 200)]
            for secret, body, status in asked:
                sent = {"model": "small", **body}
                assert (await stage.ask(sent, extra=f"authorization: Bearer {secret}\r\n")).status == status
            page = (await stage.get("/metrics", "authorization: Bearer a\r\n")).body.decode()
            for name, kind, tokens in (("alice", "prompt", 9), ("alice", "completion", 3), ("bob", "completion", 3)):
                assert f'headway_key_tokens_total{{key="{name}",kind="{kind}"}} {tokens}.0' in page
            for name in ("alice", "bob"):
                assert f'headway_key_requests_total{{key="{name}"}} 2.0' in page
            assert "headway_requests_offered_total 4.0" in page

    play(scene)
