"""A fleet as a stage of a served plan: items go through a gateway to engines that do as they are told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.upstreams import ANSWER, CHAT, Asked, Behaviour, Scripted, answer, play, stream, tokens

from headway.domains.fleet.config import CoresConfig, LlmConfig
from headway.domains.fleet.deployed import deployed
from headway.domains.fleet.live_station import FleetLive
from headway.domains.pipeline.declare import ReplicaConfig
from headway.errors import ServeError
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.serve.engine import Answer, Engine
from headway.serve.swap import live_station
from headway.serve.wire import Payload, Told
from headway.spec.model import Spec

REQUEST = b'{"model": "small", "messages": []}'
ASKING = """
import json


class Ask:
    def predict(self, batch):
        return [{"prompt": "x"} if text == "dict" else json.dumps({"model": "small", "prompt": text}) for text in batch]
"""


def fleet_plan(upstreams: list[str], asked_by: str | None = None, **config: Any) -> Plan:
    """A plan of one fleet, after a stage of its own where `asked_by` names its model."""
    stages: dict[str, Any] = {"answer": {"kind": "fleet", "model": "llama-2-7b", "upstreams": upstreams}}
    configs: dict[str, Any] = {"answer": LlmConfig("a100-80gb", **{"replicas": len(upstreams) or 1, **config})}
    if asked_by is not None:
        stages = {"ask": {"model": asked_by}, "answer": {**stages["answer"], "after": "ask"}}
        configs = {"ask": ReplicaConfig("cpu"), **configs}
    supply = {"a100-80gb": {"price": "$2/h"}, "cpu": {"price": "$1/h"}}
    spec = Spec.from_dict({"name": "chat", "slo": {"latency": "5s"}, "supply": supply, "stages": stages})
    return Plan(spec, Profile.from_rows([Row("ask", "cpu", 1, 0.01)] if asked_by else []), configs)


class Scene:
    """An engine that serves a plan whose fleet is scripted."""

    def __init__(self, engine: Engine, upstreams: list[Scripted]) -> None:
        self.engine = engine
        self.upstreams = upstreams

    @property
    def station(self) -> FleetLive:
        found = self.engine.stations["answer"]
        assert isinstance(found, FleetLive)
        return found

    async def ask(self, body: bytes = REQUEST, codec: str = "json", timeout_s: float = 20.0) -> Answer:
        return await self.engine.infer(Payload(codec, body), timeout_s)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20.0):
            while not condition():
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def serving(*behaviours: Behaviour, asked_by: str | None = None, **config: Any) -> AsyncIterator[Scene]:
    upstreams = [Scripted(behave) for behave in behaviours]
    for one in upstreams:
        await one.start()
    named = [f"http://127.0.0.1:{one.port},kind=hosted,name=engine-{at}" for at, one in enumerate(upstreams)]
    engine = Engine(fleet_plan(named, asked_by, **config))
    try:
        await engine.start()
        yield Scene(engine, upstreams)
    finally:
        await engine.stop(1.0)
        for one in upstreams:
            await one.stop()


def test_an_item_is_a_request_and_its_result_the_answer() -> None:
    async def scene() -> None:
        async with serving(answer) as at:
            found = await at.ask()
            assert found.status == "answered"
            [(stage, value)] = found.results
            assert (stage, value.codec, value.data) == ("answer", "json", ANSWER)
            assert isinstance(value, Told)
            assert value.about == {"upstream": "engine-0"}
            await at.ask(b'{"model": "small", "prompt": "once"}', codec="text")
            assert [(asked.path, asked.method) for asked in at.upstreams[0].asked] == [
                (CHAT, "POST"),
                ("/v1/completions", "POST"),
            ]
            assert at.upstreams[0].asked[0].body == REQUEST
            stats = at.station.stats(at.engine.clock())
            assert (stats.batches, stats.running, stats.queued) == (2, 0, 0)
            assert 0.0 < stats.busy_s < stats.held_s

    play(scene)


def test_a_stream_comes_back_whole() -> None:
    async def scene() -> None:
        async with serving(stream(5)) as at:
            found = await at.ask(b'{"model": "small", "messages": [], "stream": true}')
            [(_, value)] = found.results
            assert value.codec == "raw"
            assert tokens(value.data) == [0, 1, 2, 3, 4]

    play(scene)


def test_what_one_engine_fails_another_answers_and_what_all_refuse_is_told() -> None:
    async def dies(asked: Asked) -> None:
        asked.die()

    async def refuses(asked: Asked) -> None:
        await asked.reply(b'{"error": "too long"}', 400)

    async def scene() -> None:
        async with serving(dies, answer, routing="round-robin") as at:
            found = [await at.ask() for _ in range(4)]
            assert [one.status for one in found] == ["answered"] * 4
            assert at.station.stats(0.0).retries >= 1
        async with serving(refuses) as at:
            refused = await at.ask()
            assert refused.status == "failed"
            assert "stage 'answer': UpstreamError: engine-0 answered 400" in refused.error
            assert "too long" in refused.error
        async with serving(dies) as at:
            gone = await at.ask()
            assert gone.status == "failed"
            assert "stage 'answer': GatewayError: 502" in gone.error
            counts = at.engine.counts.to_dict()
            assert (counts["offered"], counts["failed"], counts["in_flight"]) == (1, 1, 0)

    play(scene)


def test_an_answer_that_is_cut_off_fails_its_request_alone() -> None:
    async def cut(asked: Asked) -> None:
        await asked.head()
        await asked.event("half")
        asked.die()

    async def scene() -> None:
        async with serving(cut) as at:
            found = await at.ask()
            assert found.status == "failed"
            assert "the answer was cut off" in found.error

    play(scene)


def test_engines_get_what_they_run_at_once_and_the_order_of_the_plan_decides_what_waits() -> None:
    async def scene() -> None:
        gate = asyncio.Event()

        async def behave(asked: Asked) -> None:
            await gate.wait()
            await asked.reply(ANSWER)

        async with serving(behave, most_running=1, order="sjf", max_wait_s=60.0) as at:
            asking = []
            for words in (1, 400, 20):
                body = json.dumps({"model": "small", "messages": [], "prompt": "word " * words}).encode()
                asking.append(asyncio.ensure_future(at.ask(body)))
                await asyncio.sleep(0)
            await at.until(lambda: at.station.queued == 2)
            assert at.station.stats(at.engine.clock()).running == 1
            gate.set()
            assert [one.status for one in await asyncio.gather(*asking)] == ["answered"] * 3
            assert at.upstreams[0].most == 1
            sizes = [len(asked.body) for asked in at.upstreams[0].asked]
            assert sizes == [sizes[0], min(sizes[1:]), max(sizes[1:])]

    play(scene)


def test_a_deadline_and_a_client_that_goes_away_end_the_work_of_the_engine() -> None:
    async def scene() -> None:
        ended: list[bool] = []

        async def behave(asked: Asked) -> None:
            ended.append(await asked.gone(20.0))

        async with serving(behave) as at:
            late = await at.ask(timeout_s=0.3)
            assert late.status == "dropped"
            await at.until(lambda: ended == [True])
            request = at.engine.submit(Payload("json", REQUEST), lambda found: None, 20.0)
            await at.until(lambda: len(at.upstreams[0].asked) == 2)
            at.engine.abandon(request)
            await at.until(lambda: ended == [True, True])
            assert at.engine.counts.to_dict()["dropped"] == 2
            assert at.station.stats(at.engine.clock()).running == 0

    play(scene)


def test_the_first_engines_are_used_when_there_are_fewer_replicas() -> None:
    async def scene() -> None:
        async with serving(answer, answer, routing="round-robin") as at:
            at.station.set_replicas(1)
            for _ in range(4):
                await at.ask()
            assert [len(one.asked) for one in at.upstreams] == [4, 0]
            at.station.set_replicas(2)
            for _ in range(4):
                await at.ask()
            assert [len(one.asked) for one in at.upstreams] == [6, 2]
            assert at.station.stats(at.engine.clock()).replicas == {"ready": 2, "starting": 0, "draining": 0}
            with pytest.raises(ServeError, match="2 engines are there"):
                at.station.set_replicas(3)

    play(scene)


def test_a_stage_before_it_makes_the_requests(tmp_path: Path) -> None:
    (tmp_path / "asking.py").write_text(ASKING)

    async def scene() -> None:
        async with serving(answer, answer, asked_by=f"{tmp_path}/asking.py:Ask") as at:
            found = await asyncio.gather(*(at.ask(f"text {n}".encode(), "text") for n in range(8)))
            assert [one.status for one in found] == ["answered"] * 8
            assert {one.results[0][1].data for one in found} == {ANSWER}
            prompts = sorted(asked.json["prompt"] for one in at.upstreams for asked in one.asked)
            assert prompts == [f"text {n}" for n in range(8)]
            wrong = await at.ask(b"dict", "text")
            assert wrong.status == "failed"
            assert "return json.dumps(request)" in wrong.error
            assert at.engine.counts.to_dict()["answered"] == 8

    play(scene)


def test_engines_that_hand_prompts_over_are_refused_by_plan_and_by_spec() -> None:
    says = "some only compute prompts hand them over among themselves, which this gateway has no part in; plan with"
    plan = fleet_plan(["http://a", "http://b"], prefill_engines=1)
    with pytest.raises(ServeError, match=rf"^stages\.answer: engines of which {says}[^.]*$"):
        live_station(plan, "answer")
    declared = {"kind": "fleet", "model": "llama-2-7b", "upstreams": ["http://a", "http://b"]}
    fields = {"slo": {"latency": "5s"}, "supply": {"a100-80gb": {"price": "$2/h"}}}
    choices: list[tuple[dict[str, list[Any]], tuple[str, int]]] = [
        ({}, ("decode-first", 0)),
        ({"prefill_engines": [1, 0]}, ("decode-first", 1)),
        ({"batching": ["prefill-first", "decode-first"]}, ("prefill-first", 0)),
    ]
    for given, firsts in choices:
        spec = Spec.from_dict({**fields, "stages": {"answer": {**declared, **given}}})
        config = deployed(spec).stages["answer"]
        assert isinstance(config, LlmConfig)
        assert (config.batching, config.prefill_engines) == firsts


def test_what_cannot_be_run_is_said_in_a_sentence() -> None:
    with pytest.raises(ServeError, match=r"stages\.answer: there is no engine to send requests to; name those"):
        live_station(fleet_plan([]), "answer")
    cores = {"kind": "fleet", "servers": "cores"}
    declared = {"name": "look", "slo": {"latency": "1s"}, "supply": {"cpu": {"price": "$1/h"}}}
    spec = Spec.from_dict({**declared, "stages": {"look": cores}})
    with pytest.raises(ServeError, match="servers of kind cores are planned and simulated, not run"):
        live_station(Plan(spec, Profile(()), {"look": CoresConfig("cpu")}), "look")
    engines = {"kind": "fleet", "model": "llama-2-7b", "upstreams": ["http://a"], "after": ["one", "two"]}
    joined = Spec.from_dict({**declared, "stages": {"one": {}, "two": {}, "answer": engines}})
    both = {name: ReplicaConfig("cpu") for name in ("one", "two")}
    with pytest.raises(ServeError, match="this stage joins several results"):
        live_station(Plan(joined, Profile(()), {**both, "answer": LlmConfig("cpu")}), "answer")
