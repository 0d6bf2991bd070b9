"""A server that starts its own tuner: in one command, started again where it dies, its options seen to beforehand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.sleepers import make_plan, planned_on, settled

from headway.cli.app import main
from headway.serve.replay import replay
from headway.trace import Trace
from headway.tune.journal import read


def test_a_server_brings_its_tuner_in_one_command_and_both_end_together(tmp_path: Path) -> None:
    plan, last_s = make_plan(supply={"max": 6}), time.monotonic() + 60.0
    plan.write(tmp_path / "plan.json")
    planned_on().write(tmp_path / "planned.csv")
    journal = tmp_path / "decisions.jsonl"
    tuned = ("--tune", "--apply", "--planned-on", "planned.csv", "--journal", journal.name)
    command = [sys.executable, "-m", "headway", "serve", "plan.json", "--port", "0", *tuned]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            while settled(url)["plan_hash"] == plan.hash and time.monotonic() < last_s:
                replay(url, Trace.poisson(rate=180.0, seconds=2.0, seed=2))
        finally:
            server.terminate()
            said, told = server.communicate(timeout=60.0)
    assert (server.returncode, said) == (0, "")
    assert "first 2 → 3, second 2 → 3: requests come " in told
    assert "missed the promise" in told
    assert "error" not in told
    lines = read(journal)
    assert [line["kind"] for line in lines[:3]] == ["started", "decided", "applied"]
    decided, happened = ({line["number"] for line in lines if line["kind"] == kind} for kind in ("decided", "happened"))
    assert decided == happened


def test_a_tuner_that_is_killed_beside_its_server_is_started_again(tmp_path: Path) -> None:
    make_plan().write(tmp_path / "plan.json")
    planned_on().write(tmp_path / "planned.csv")
    journal = tmp_path / "decisions.jsonl"
    tuned = ("--tune", "--planned-on", "planned.csv", "--journal", journal.name)
    command = [sys.executable, "-m", "headway", "serve", "plan.json", "--port", "0", *tuned]

    def runs(url: str, started: int) -> int:
        """The number of the tuner's process, once its journal has begun so many times."""
        last_s = time.monotonic() + 60.0
        while not journal.exists() or [line["kind"] for line in read(journal)].count("started") < started:
            assert time.monotonic() < last_s
            time.sleep(0.1)
        told: dict[str, Any] = httpx.get(f"{url}/stats", timeout=60.0).json()["tuner"]
        assert (told["state"], told["restarts"]) == ("running", started - 1)
        return int(told["pid"])

    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            os.kill(runs(url, 1), signal.SIGKILL)
            runs(url, 2)
        finally:
            server.terminate()
            _, told = server.communicate(timeout=60.0)
    assert server.returncode == 0
    assert "the tuner has ended by SIGKILL; the plan is served on, and the tuner started again in 1 s" in told
    assert [line["kind"] for line in read(journal)] == ["started", "started", "ended"]


def test_what_is_for_a_tuner_needs_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given: tuple[list[str], ...] = (["--apply"], ["--journal", "j.jsonl"], ["--tuner", "inferline"])
    for arguments in given:
        with pytest.raises(SystemExit) as caught:
            main(["serve", str(tmp_path / "plan.json"), *arguments])
        assert caught.value.code == 1
        assert f"serve: {arguments[0]} is for a tuner; give --tune as well" in capsys.readouterr().err


def test_wrong_options_of_a_tuner_are_refused_before_serving(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headway.serve.run.serve", lambda *_, **__: pytest.fail("it served"))
    monkeypatch.chdir(tmp_path)
    make_plan().write("plan.json")
    planned_on().write("planned.csv")
    Path("other.txt").write_text("hello\n")
    planned = ("--planned-on", "planned.csv")
    for options, says in (
        ((*planned, "--journal", "other.txt"), "other.txt: not a journal of decisions"),
        ((*planned, "--journal", "none/journal.jsonl"), "cannot open the journal"),
        (("--planned-on", "other.csv"), "other.csv"),
        (("--gears", "other.txt"), "other.txt: not a file of gears"),
        (("--gears", "gears.json"), "there is no such file of gears"),
        ((), "give the trace it was planned on"),
        (("--gears", "gears.json", "--tuner", "ds2"), "serve: the tuner 'ds2' has no use for gears"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["serve", "plan.json", "--port", "0", "--tune", "--apply", *options])
        assert caught.value.code == 1
        assert says in capsys.readouterr().err
    assert Path("other.txt").read_text() == "hello\n"
