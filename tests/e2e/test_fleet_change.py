"""Another plan takes the place of that of a served fleet, alone or as a stage: `/plan` and `/stats` of its server."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.test_fleet_live import ASKING, REQUEST, Scene, fleet_plan, serving
from tests.e2e.upstreams import ANSWER, Answer, Asked, Client, Scripted, answer, play

from headway.cli.app import main
from headway.domains.fleet.live_alone import Alone, changeable
from headway.domains.fleet.live_station import FleetLive
from headway.domains.pipeline.declare import ReplicaConfig
from headway.errors import PlanError
from headway.gateway import GatewayOptions, GatewayServer
from headway.gateway.declare import ApiKey
from headway.plan.plan import Plan
from headway.serve.run import running_in_thread
from headway.serve.station import Changeable, TellsLoad
from headway.serve.swap import SwapRefused, live_station
from headway.serve.watch import Watch
from headway.serve.wire import Payload
from headway.trace import Trace
from headway.tune.advise import advise
from headway.tune.live import tune_live
from headway.tune.server import Server
from headway.tune.terms import terms

NOT_WATCHED = Watch(0.0)


def named(*upstreams: Scripted) -> list[str]:
    return [f"http://127.0.0.1:{one.port},kind=hosted,name=engine-{at}" for at, one in enumerate(upstreams)]


class Served:
    """A gateway that serves a plan alone."""

    def __init__(self, engine: Alone, port: int) -> None:
        self.engine, self.port = engine, port

    async def ask(self, path: str = "/v1/chat/completions", body: bytes = REQUEST, **how: Any) -> Answer:
        client = await Client.open(self.port)
        try:
            await client.ask(path, body, **how)
            return await client.answer()
        finally:
            client.close()

    async def put(self, plan: Plan, query: str = "?watch=0s", extra: str = "") -> Any:
        found = await self.ask("/plan" + query, plan.to_json().encode(), method="PUT", extra=extra)
        return found.status, json.loads(found.body)


@contextlib.asynccontextmanager
async def alone(plan: Plan, **options: Any) -> AsyncIterator[Served]:
    """Serve a plan of one fleet on this event loop, as its own process does."""
    station = live_station(plan, "answer")
    assert isinstance(station, FleetLive)
    server = GatewayServer(station.fleet.upstreams, GatewayOptions(grace_s=1.0, **options))
    announced: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with changeable(plan, station, server) as engine:
        task = asyncio.ensure_future(server.run(announced.set_result))
        try:
            yield Served(engine, int((await announced).rpartition(":")[2]))
        finally:
            server.stop()
            await task


@contextlib.asynccontextmanager
async def engines(*behaviours: Any) -> AsyncIterator[list[Scripted]]:
    found = [Scripted(behave) for behave in behaviours]
    for one in found:
        await one.start()
    try:
        yield found
    finally:
        for one in found:
            await one.stop()


def test_a_plan_put_in_the_place_of_another_loses_no_request() -> None:
    async def scene() -> None:
        gate = asyncio.Event()

        async def behave(asked: Asked) -> None:
            await gate.wait()
            await asked.reply(ANSWER)

        async with engines(behave, answer) as (slow, quick):
            before = fleet_plan(named(slow), most_running=1, order="fcfs")
            async with alone(before) as at:
                assert (await at.ask("/plan", b"", method="GET")).body.decode() == before.to_json()
                asking = [asyncio.ensure_future(at.ask()) for _ in range(3)]
                while at.engine.stations["answer"].queued < 2:
                    await asyncio.sleep(0.005)
                after = fleet_plan(named(slow, quick), most_running=2, order="sjf", routing="sal", replicas=2)
                status, change = await at.put(after)
                assert (status, change["state"], change["to"]) == (200, "kept", after.hash)
                assert {"upstreams", "routing", "order"} <= {each["field"] for each in change["changes"]}
                while len(quick.asked) < 1:
                    await asyncio.sleep(0.005)
                gate.set()
                assert [one.status for one in await asyncio.gather(*asking)] == [200] * 3
                found = json.loads((await at.ask("/stats", b"", method="GET")).body)
                assert (found["plan_hash"], found["requests"]["answered"]) == (after.hash, 3)
                stage = found["stages"]["answer"]
                assert (stage["policy"], stage["order"], stage["replicas"]["ready"]) == ("sal", "sjf", 2)
                assert [one["limit"] for one in stage["upstreams"]] == [2, 1], "who is new comes in slowly"
                status, _ = await at.put(before)
                assert status == 200
                while len(at.engine.stations["answer"].stats(0.0).about["upstreams"]) > 1:
                    await asyncio.sleep(0.005)
                assert (await at.ask()).upstream == "engine-0"

    play(scene)


def test_what_cannot_change_while_it_serves_is_refused_in_a_sentence() -> None:
    async def scene() -> None:
        async with engines(answer, answer) as found:
            before = fleet_plan(named(*found))
            async with alone(before) as at:
                urls = named(*found)
                for plan, says in (
                    (fleet_plan(urls, admission="reserve"), "admission is of the engines, which are not started here"),
                    (
                        fleet_plan(urls, tensor_parallel=2, token_budget=4096),
                        "tensor_parallel, token_budget are of",
                    ),
                    (fleet_plan(urls, replicas=3), "the plan counts on 3 engines, and 2 are named"),
                    (fleet_plan([*urls, "http://127.0.0.1:9"]), "gives no answer"),
                    (
                        fleet_plan([urls[0].replace("hosted", "vllm"), urls[1]]),
                        "its kind cannot change while it is in use",
                    ),
                ):
                    status, told = await at.put(plan)
                    assert (status, says in told["error"]) == (422, True), told
                assert at.engine.plan.hash == before.hash
                assert (await at.ask("/plan", b"{", method="PUT")).status == 400
                assert (await at.ask("/plan?whatch=1s", b"{}", method="PUT")).status == 400
                assert (await at.ask()).status == 200

    play(scene)


def test_a_token_goes_to_no_address_that_was_not_named_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_TOKEN", "secret")

    async def scene() -> None:
        async with engines(answer, answer) as (one, other):
            (old, new) = named(one, other)
            async with alone(fleet_plan([f"{old},token-env=ENGINE_TOKEN"])) as at:
                plan = fleet_plan([f"{old},token-env=ENGINE_TOKEN", f"{new},token-env=ENGINE_TOKEN"])
                status, told = await at.put(plan)
                assert (status, "is sent to no address that was not named" in told["error"]) == (422, True)
                assert other.asked == []

    play(scene)


def test_the_plan_is_for_whoever_runs_the_gateway() -> None:
    async def scene() -> None:
        async with engines(answer) as found:
            plan = fleet_plan(named(*found))
            async with alone(plan, token="operators", keys=(ApiKey("alice", "secret"),)) as at:
                for extra, status in (("", 401), ("authorization: Bearer secret\r\n", 403)):
                    assert (await at.ask("/plan", b"", method="GET", extra=extra)).status == status
                    assert (await at.ask("/stats", b"", method="GET", extra=extra)).status == status
                assert (await at.put(plan, extra="authorization: Bearer operators\r\n"))[0] == 200

    play(scene)


def test_a_gateway_that_drains_takes_no_plan_on() -> None:
    async def scene() -> None:
        async with engines(answer) as found:
            plan = fleet_plan(named(*found))
            async with alone(plan) as at:
                at.engine.stations["answer"].gateway.draining = True  # type: ignore[attr-defined]
                status, told = await at.put(plan)
                assert (status, told["error"]) == (503, "the server is draining; its plan cannot be changed")
                assert json.loads((await at.ask("/stats", b"", method="GET")).body)["state"] == "draining"

    play(scene)


def test_a_change_after_which_requests_fail_is_taken_back() -> None:
    async def dies(asked: Asked) -> None:
        asked.die()

    async def scene() -> None:
        async with engines(answer, dies) as (good, bad):
            before = fleet_plan(named(good))
            async with alone(before, attempts=1) as at:
                for _ in range(30):
                    await at.ask()
                after = fleet_plan([named(good, bad)[1]])
                assert (await at.put(after, "?watch=2s"))[0] == 200
                while at.engine.swaps.to_dict()["state"] != "idle":
                    await at.ask()
                last = at.engine.swaps.to_dict()["last"]
                assert last["state"] == "rolled_back", last
                assert at.engine.plan.hash == before.hash
                assert (await at.ask()).upstream == "engine-0"

    play(scene)


def test_a_fleet_changes_as_a_stage_too(tmp_path: Path) -> None:
    (tmp_path / "asking.py").write_text(ASKING)
    asked_by = f"{tmp_path}/asking.py:Ask"

    async def scene() -> None:
        async with serving(answer, answer, asked_by=asked_by) as at:
            assert isinstance(at.station, Changeable)
            urls = [f"http://127.0.0.1:{one.port},kind=hosted,name=engine-{n}" for n, one in enumerate(at.upstreams)]
            asking = [asyncio.ensure_future(at.ask(b"text", "text")) for _ in range(20)]
            plan = fleet_plan(urls[:1], asked_by, routing="round-robin", replicas=1)
            await at.engine.swap(plan, NOT_WATCHED)
            assert [one.status for one in await asyncio.gather(*asking)] == ["answered"] * 20
            seen = len(at.upstreams[1].asked)
            for _ in range(4):
                assert (await at.ask(b"text", "text")).status == "answered"
            assert len(at.upstreams[1].asked) == seen
            found = at.engine.stats()["stages"]["answer"]
            assert (found["policy"], found["replicas"]["ready"]) == ("round-robin", 1)
            with pytest.raises(SwapRefused, match="admission is of the engines"):
                await at.engine.swap(fleet_plan(urls[:1], asked_by, admission="reserve", replicas=1), NOT_WATCHED)

    play(scene)


def test_a_stage_tells_its_load_and_what_comes_too_late_is_refused() -> None:
    async def scene() -> None:
        gate = asyncio.Event()

        async def behave(asked: Asked) -> None:
            await gate.wait()
            await asked.reply(ANSWER)

        async with serving(behave, most_running=2) as at:
            assert isinstance(at.station, TellsLoad)
            assert at.station.load()[:5] == (0, 0, 0, 0.0, 2)
            asking = [asyncio.ensure_future(at.ask()) for _ in range(3)]
            await at.until(lambda: at.station.load().queued == 1)
            load = at.station.load()
            assert (load.busy, load.replicas, load.pace) == (2, 2, 1.0)
            assert load.began_s <= 2 * at.engine.clock()
            # As if each of them had taken four of the five seconds that are promised.
            at.station.gateway.stats.mean_s = 4.0
            found = await _refused(at)
            assert "too much to do to answer within 5 s" in found
            gate.set()
            assert [one.status for one in await asyncio.gather(*asking)] == ["answered"] * 3

    play(scene)


async def _refused(at: Scene) -> str:
    from headway.serve.gate import Rejected

    with pytest.raises(Rejected) as refused:
        at.engine.submit(Payload("json", REQUEST), lambda found: None, 20.0)
    return str(refused.value)


def test_a_tuner_says_what_can_be_done_about_a_fleet() -> None:
    plan = fleet_plan(["http://a", "http://b"])
    with pytest.raises(PlanError, match=r"nothing to tune; stage 'answer' sends each request by the loads of engines"):
        terms(plan)


def test_headway_tune_refuses_a_lone_fleet_in_that_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fleet_plan(["http://127.0.0.1:9,kind=hosted"]).write("plan.json")
    Trace.poisson(rate=5, seconds=10, seed=1).write("trace.csv")
    for source in (["--trace", "trace.csv"], ["--url", "http://127.0.0.1:9", "--apply"]):
        with pytest.raises(SystemExit) as stop:
            main(["tune", "plan.json", "--planned-on", "trace.csv", *source])
        assert stop.value.code == 1
        assert "which nobody here starts or stops; another plan (PUT /plan) changes" in capsys.readouterr().err


def test_a_tuner_changes_the_other_stages_beside_a_fleet(tmp_path: Path) -> None:
    (tmp_path / "asking.py").write_text(ASKING)
    plan = fleet_plan(["http://127.0.0.1:9,kind=hosted"], f"{tmp_path}/asking.py:Ask")
    planned_on = Trace.poisson(rate=5, seconds=60, seed=1)
    with pytest.raises(PlanError, match=r"stages\.answer: kind 'fleet' cannot be simulated with replicas that"):
        advise(plan, planned_on, planned_on=planned_on)
    with running_in_thread(plan) as server:
        found = tune_live(plan, server.url, planned_on=planned_on, seconds=1.0)
        assert found["acts"] is False
        with Server(server.url) as tuned:
            more = replace(plan, stages={**plan.stages, "ask": ReplicaConfig("cpu", replicas=2)})
            change = tuned.change(more)
            assert "error" not in change
            assert tuned.stats(0)["stages"]["answer"]["policy"] == "least-prefill"
