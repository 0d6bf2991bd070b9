"""`headway serve` of a fleet: a gateway that decides as the plan says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from tests.e2e.test_fleet_live import fleet_plan
from tests.e2e.upstreams import ANSWER, Client, Scripted, play

from headway.cli.app import main

SPEC = """\
name: chat
kind: fleet
slo: {latency: 10s}
supply: {a100-80gb: {price: $2/h}}
model: llama-2-7b
routing: sal
order: aged
max_wait: 20s
most_running: 7
report: 250ms
"""


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["serve", *arguments])
    assert stop.value.code == 1
    return capsys.readouterr().err


def test_a_spec_of_engines_that_are_there_is_served_as_it_says(tmp_path: Path) -> None:
    async def scene() -> None:
        upstream = Scripted()
        await upstream.start()
        (tmp_path / "keys.yaml").write_text("alice: {secret-env: ALICE_KEY}\n")
        (tmp_path / "fleet.yaml").write_text(
            f"{SPEC}upstreams: ['http://127.0.0.1:{upstream.port},kind=hosted,name=one']\n"
        )
        options = ["--port", "0", "--keys", "keys.yaml", "--decision-log", "decisions.jsonl", "--seed", "3"]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADWAY_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "headway", "serve", "fleet.yaml", *options, cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**clean, "ALICE_KEY": "secret"},
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        client = await Client.open(int((await process.stdout.readline()).decode().rpartition(":")[2]))
        await client.ask()
        assert (await client.answer()).status == 401
        await client.ask(extra="authorization: Bearer secret\r\n")
        found = await client.answer()
        assert (found.status, found.body) == (200, ANSWER)
        assert found.headers["x-headway-route"].startswith("one; sal; in_flight=0; attempt=1;")
        await client.ask("/upstreams", b"", "authorization: Bearer secret\r\n", method="GET")
        assert json.loads((await client.answer()).body)[0]["limit"] == 7
        client.close()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert await process.stderr.read() == b""
        [decided] = [json.loads(line) for line in (tmp_path / "decisions.jsonl").read_text().splitlines()]
        assert (decided["policy"], decided["key"], decided["answered"]) == ("sal", "alice", "answered")
        await upstream.stop()

    play(scene)


def test_what_is_not_for_this_plan_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from headway.testing.examples import tiny_plan

    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.yaml").write_text(SPEC)
    assert "give it current:, or a fleet of engines upstreams:" in refused(capsys, "fleet.yaml")
    plan = tmp_path / "plan.json"
    fleet_plan([]).write(plan)
    assert "there is no engine to send requests to" in refused(capsys, str(plan))
    (tmp_path / "fleet.yaml").write_text(f"{SPEC}upstreams: [http://a, http://b/v1]\n")
    assert "leave out /v1" in refused(capsys, "fleet.yaml")
    fleet_plan(["http://a"]).write(plan)
    assert "--tune changes the plan of a pipeline" in refused(capsys, str(plan), "--tune")
    assert "'ray' starts replicas" in refused(capsys, str(plan), "--engine", "ray")
    tiny_plan().write(plan)
    said = refused(capsys, str(plan), "--first-token", "2s")
    assert "--first-token is for a plan whose only stage is a fleet" in said


def test_fewer_engines_than_planned_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import headway.gateway

    asked: dict[str, object] = {}
    monkeypatch.setattr(headway.gateway, "run", lambda upstreams, **options: asked.update(options, upstreams=upstreams))
    plan = fleet_plan(["http://a", "http://b,in-flight=5"], order="sjf", most_running=32, max_wait_s=9.0, replicas=3)
    plan.write(tmp_path / "plan.json")
    with pytest.raises(SystemExit) as stop:
        main(["serve", str(tmp_path / "plan.json"), "--queue-limit", "9", "--attempts", "2"])
    assert stop.value.code == 0
    assert "the plan counts on 3 engines, and 2 are named" in capsys.readouterr().err
    assert (asked["policy"], asked["order"], asked["max_wait_s"]) == ("least-prefill", "sjf", 9.0)
    assert (asked["queue_limit"], asked["attempts"], asked["timeout_s"]) == (9, 2, 600.0)
    limits = [upstream.max_in_flight for upstream in asked["upstreams"]]  # type: ignore[attr-defined]
    assert limits == [32, 5]
