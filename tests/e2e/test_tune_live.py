"""A tuner beside a running server: it watches over HTTP, advises, or changes the live plan as the rate doubles."""

from __future__ import annotations

import functools
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.sleepers import doubling, gears_file, make_plan, planned_on, settled

from headway.cli.app import main
from headway.errors import PlanError, ServeError
from headway.plan.plan import Plan
from headway.policy.scaling import Decision, Observation, StageTerms, Terms, Tuner
from headway.policy.scaling_headway import Headway
from headway.policy.tuners import TUNERS
from headway.serve.replay import replay
from headway.serve.run import running, running_in_thread
from headway.trace import Trace
from headway.tune.gears import prepared
from headway.tune.journal import Journal, read
from headway.tune.live import tune_live


def test_the_rate_doubles_and_the_tuner_adds_replicas(tmp_path: Path) -> None:
    plan, journal = make_plan(), tmp_path / "decisions.jsonl"
    with running(plan) as server, ThreadPoolExecutor(1) as beside:

        def watch() -> dict[str, Any]:
            with Journal(journal) as written:
                return tune_live(plan, server.url, planned_on=planned_on(), act=True, seconds=13.0, journal=written)

        watching = beside.submit(watch)
        outcome = replay(server.url, doubling(4.0, 7.0))
        found = watching.result()
        stats = settled(server.url)
        live = Plan.from_dict(httpx.get(f"{server.url}/plan", timeout=60.0).json())
    held = {name: stage["replicas"]["ready"] for name, stage in stats["stages"].items()}
    assert min(held.values()) > 2, found
    assert {name: config.to_dict()["replicas"] for name, config in live.stages.items()} == held
    counts = stats["requests"]
    assert counts["offered"] == outcome.requests == counts["answered"] + counts["rejected"]
    # What was added is paid for as long as it was held; a replica costs a dollar an hour.
    assert outcome.cost_usd == pytest.approx(sum(stage.capacity_s for stage in outcome.stages.values()) / 3600)
    lines = read(journal)
    assert lines[0]["kind"] == "started"
    decided = [line for line in lines if line["kind"] == "decided"]
    assert [line["number"] for line in decided] == list(range(len(found["decisions"])))
    assert decided[0]["code"] == "scale_up"
    applied = {line["number"]: line["applied"] for line in lines if line["kind"] == "applied"}
    assert list(applied) == [line["number"] for line in decided]
    assert all(line["why"] and line["asked"]["plan_hash"] for line in decided)
    assert all(each["plan_hash"] and "error" not in each for each in applied.values()), applied
    assert {line["number"] for line in lines if line["kind"] == "happened"} == {line["number"] for line in decided}
    assert all(line["requests"] >= 0 and "misses" in line for line in lines if line["kind"] == "happened")
    assert all(list(line["expected"]) == list(line["happened"]) for line in lines if line["kind"] == "happened")
    swaps = {line["number"]: line["swap"]["id"] for line in lines if "swap" in line}
    assert swaps == {number: each["change"] for number, each in applied.items() if "change" in each}


SPEED = 10.0


@dataclass(frozen=True)
class Hurried:
    """A tuner for which ten seconds pass in one: what it waits for before it scales down is too long for a test."""

    terms: Terms

    @property
    def name(self) -> str:
        return self._tuner.name

    def decide(self, observation: Observation, memory: Any) -> tuple[Decision, Any]:
        slowly = replace(
            observation,
            now_s=SPEED * observation.now_s,
            since_s=SPEED * observation.since_s,
            arrival_s=SPEED * observation.arrival_s,
            stages={name: replace(seen, busy_s=SPEED * seen.busy_s) for name, seen in observation.stages.items()},
        )
        return self._tuner.decide(slowly, memory)

    @functools.cached_property
    def _tuner(self) -> Tuner:
        def slow(stages: Mapping[str, StageTerms]) -> dict[str, StageTerms]:
            return {
                name: replace(
                    stage, service_s=tuple(SPEED * s for s in stage.service_s), startup_s=SPEED * stage.startup_s
                )
                for name, stage in stages.items()
            }

        about = self.terms
        slowly = replace(
            about,
            rate_per_s=about.rate_per_s / SPEED,
            slo_s=SPEED * about.slo_s,
            band=replace(about.band, windows_s=SPEED * about.band.windows_s),
            stages=slow(about.stages),
            gears=tuple(replace(gear, stages=slow(gear.stages)) for gear in about.gears),
        )
        return Headway(slowly)


def test_when_replicas_end_a_gear_is_changed_to_over_http_and_left_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A promise that is kept on a busy machine as well: broken after the change, it would be taken back.
    plan = make_plan(supply={"max": 4}, latency="5s")
    gears = prepared(gears_file(tmp_path / "gears.json", plan), plan)
    monkeypatch.setitem(TUNERS, "headway", Hurried)
    stop, offered, last_s = threading.Event(), list[int](), time.monotonic() + 240.0
    with running(plan) as server, Journal(tmp_path / "decisions.jsonl") as journal:

        def sizes() -> set[int]:
            live = Plan.from_dict(httpx.get(f"{server.url}/plan", timeout=60.0).json())
            return {config.to_dict()["max_batch_size"] for config in live.stages.values()}

        def send(trace: Trace) -> None:
            offered.append(replay(server.url, trace).requests)

        def load() -> None:
            try:
                send(doubling(1.5, 2.5, then=150.0))
                while sizes() == {1} and time.monotonic() < last_s:
                    send(Trace.poisson(rate=150.0, seconds=2.0, seed=4))
                while sizes() == {4} and time.monotonic() < last_s:
                    send(Trace.poisson(rate=60.0, seconds=1.5, seed=5))
            finally:
                stop.set()

        loading = threading.Thread(target=load)
        loading.start()
        tune_live(plan, server.url, planned_on=planned_on(), gears=gears, act=True, stop=stop, journal=journal)
        loading.join()
        stats = settled(server.url)
        assert sizes() == {1}
    counts = stats["requests"]
    assert counts["offered"] == sum(offered) == counts["answered"] + counts["rejected"]
    lines = read(tmp_path / "decisions.jsonl")
    applied = {line["number"]: line["applied"] for line in lines if line["kind"] == "applied"}
    up, *_, down = [line for line in lines if "gear" in line]
    assert (up["gear"], down["gear"]) == ("2.5x", "plan")
    assert "times as often as planned" in up["why"]
    for line, before, after in ((up, 1, 4), (down, 4, 1)):
        changes = [change for change in applied[line["number"]]["changes"] if change["field"] == "max_batch_size"]
        found = [(change["stage"], change["from"], change["to"]) for change in changes]
        assert found == [(stage, before, after) for stage in plan.stages]


def test_a_tuner_that_only_advises_changes_nothing_and_says_it_once() -> None:
    plan = make_plan()
    with running_in_thread(plan) as server:
        load = threading.Thread(target=replay, args=(server.url, Trace.poisson(rate=150.0, seconds=3.0, seed=2)))
        load.start()
        advice = tune_live(plan, server.url, planned_on=planned_on(), seconds=3.0)
        load.join()
        stats = httpx.get(f"{server.url}/stats").json()
    asked = [decision["to"] for decision in advice["decisions"]]
    assert asked
    assert all(before != after for before, after in itertools.pairwise(asked))
    assert all(decision["applied"] == {"advised": True} for decision in advice["decisions"])
    assert stats["plan_hash"] == plan.hash
    assert stats["swap"]["last"] is None


def test_a_server_of_another_plan_or_none_is_named() -> None:
    with running_in_thread(make_plan()) as server:
        with pytest.raises(PlanError, match="stage 'first' has another max_wait_s there"):
            tune_live(make_plan(max_wait_s=0.1), server.url, planned_on=planned_on())
        with pytest.raises(PlanError, match=r"keeps another promise: slo\.latency is "):
            tune_live(make_plan(latency="300ms"), server.url, planned_on=planned_on())
        stop = threading.Event()
        stop.set()
        assert tune_live(make_plan(), server.url, planned_on=planned_on(), stop=stop)["decisions"] == []
    with pytest.raises(ServeError, match="cannot be reached"):
        tune_live(make_plan(), server.url, planned_on=planned_on())


def test_the_verb_watches_a_server_and_journals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, planning, journal = (str(tmp_path / name) for name in ("plan.json", "planned.csv", "decisions.jsonl"))
    gears = str(gears_file(tmp_path / "gears.json", make_plan()))
    make_plan().write(plan)
    planned_on().write(planning)

    def tune(*arguments: str) -> int | str | None:
        with pytest.raises(SystemExit) as caught:
            main(["tune", plan, *arguments])
        return caught.value.code

    with running_in_thread(make_plan()) as server:
        watch = (
            "--url",
            server.url,
            "--planned-on",
            planning,
            "--seconds",
            "0.6",
            "--journal",
            journal,
            "--gears",
            gears,
        )
        assert tune(*watch, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["acts"], found["decisions"], found["happened"]["requests"]) == (False, [], 0)
    assert [line["kind"] for line in read(journal)] == ["started", "ended"]
    for arguments, says in (
        ((), "give --trace to simulate, or --url to watch a server"),
        (("--trace", planning, "--apply"), "--apply and --seconds are for a server"),
        (("--url", server.url, "--planned-on", planning), "cannot be reached"),
        (("--url", server.url, "--gears", planning), "not a file of gears"),
    ):
        assert tune(*arguments) == 1
        assert says in capsys.readouterr().err


def test_a_stall_of_the_server_is_outlived_and_its_end_closes_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headway.tune.server.TIMEOUT_S", 0.5)
    monkeypatch.setattr("headway.tune.patience.FIRST_PAUSE_S", 0.1)
    plan, journal, said = make_plan(), tmp_path / "decisions.jsonl", list[str]()
    plan.write(tmp_path / "plan.json")
    command = [sys.executable, "-m", "headway", "serve", "plan.json", "--port", "0"]

    def until(told: Callable[[], bool]) -> None:
        last_s = time.monotonic() + 60.0
        while not told():
            assert time.monotonic() < last_s, said
            time.sleep(0.05)

    with (
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server,
        ThreadPoolExecutor(1) as beside,
        Journal(journal) as written,
    ):
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            watching = beside.submit(
                tune_live, plan, url, planned_on=planned_on(), journal=written,
                tell=lambda entry: said.append("decided"), say=said.append,
            )  # fmt: skip
            while "decided" not in said:
                replay(url, Trace.poisson(rate=180.0, seconds=2.0, seed=2))
            server.send_signal(signal.SIGSTOP)
            until(lambda: any("timed out; asked again for up to" in text for text in said))
            server.send_signal(signal.SIGCONT)
            until(lambda: any("the server answers again" in text for text in said))
        finally:
            server.kill()
        with pytest.raises(ServeError, match="cannot be reached"):
            watching.result(timeout=60.0)
    lines = read(journal)
    decided, happened = ({line["number"] for line in lines if line["kind"] == kind} for kind in ("decided", "happened"))
    assert decided == happened != set()
    kinds = [line["kind"] for line in lines if line["kind"] not in ("decided", "happened")]
    assert kinds[:3] == ["started", "silent", "back"]
    assert kinds[-1] == "ended"
    assert "cannot be reached" in lines[-1]["why"]
