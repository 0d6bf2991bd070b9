"""The tuner beside a server: one that dies is told, started again, and seen from outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headway.serve.run import LiveServer
from headway.testing.examples import tiny_plan
from headway.tune import beside


@pytest.fixture
def tuner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let a shell script stand for the tuner; `again SECONDS` waits as a tuner would, `once NAME` is true once."""
    monkeypatch.setattr(beside, "FIRST_PAUSE_S", 0.02)
    script = tmp_path / "tuner"

    def write(body: str) -> None:
        script.write_text(f"#!/bin/sh\nonce() {{ [ ! -e $1 ] && touch $1; }}\n{body}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)

    write("exit 0")
    monkeypatch.setattr(beside, "sys", SimpleNamespace(executable=str(script)))
    return write


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30.0):
        while not true():
            await asyncio.sleep(0.01)


def watched(folder: Path, then: Callable[[Callable[[], Any]], Any], **how: Any) -> list[str]:
    """What was said of a tuner while `then`, given how it fares, went on."""
    said: list[str] = []

    async def main() -> None:
        async with beside.tuner_beside("http://127.0.0.1:1", [], folder=folder, warn=said.append, **how) as fares:
            await then(fares)

    asyncio.run(main())
    return said


def test_a_tuner_that_dies_is_told_and_started_again_after_pauses_that_grow(
    tuner: Callable[[str], None], tmp_path: Path
) -> None:
    tuner("once a && exit 3; once b && kill -9 $$; exec sleep 60")

    async def then(fares: Callable[[], Any]) -> None:
        await until(lambda: fares()["restarts"] == 2 and fares()["state"] == "running")
        os.kill(fares()["pid"], 0)

    said = watched(tmp_path, then)
    served = "the plan is served on, and the tuner started again in"
    assert said == [
        f"the tuner has ended with exit code 3; {served} 0.02 s",
        f"the tuner has ended by SIGKILL; {served} 0.04 s",
    ]


def test_a_tuner_that_ends_in_order_or_cannot_read_its_trace_again_stays_ended(
    tuner: Callable[[str], None], tmp_path: Path
) -> None:
    async def then(fares: Callable[[], Any]) -> None:
        await until(lambda: fares()["state"] == "ended")
        assert (fares()["pid"], fares()["restarts"]) == (None, 0)

    assert watched(tmp_path, then) == ["the tuner has ended with exit code 0; the plan is served on without it"]
    tuner("exit 1")
    (told,) = watched(tmp_path, then, again=False)
    assert told.endswith("without it; its trace came on standard input, so it cannot be started again")


def test_a_tuner_that_cannot_be_started_is_tried_again(tuner: Callable[[str], None], tmp_path: Path) -> None:
    (tmp_path / "tuner").chmod(0o600)

    async def then(fares: Callable[[], Any]) -> None:
        await until(lambda: fares()["restarts"] == 1)
        assert fares()["why"] == "the tuner cannot be started: Permission denied"
        tuner("exec sleep 60")
        await until(lambda: fares()["state"] == "running")

    assert watched(tmp_path, then)


def test_no_tuner_is_left_when_the_block_ends_whether_it_runs_or_waits(
    tuner: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[int] = []
    tuner("exec sleep 60")

    async def runs(fares: Callable[[], Any]) -> None:
        await until(lambda: fares()["state"] == "running")
        pids.append(fares()["pid"])

    assert watched(tmp_path, runs) == []
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    tuner("exit 1")
    monkeypatch.setattr(beside, "FIRST_PAUSE_S", 60.0)

    async def waits(fares: Callable[[], Any]) -> None:
        await until(lambda: bool(fares()["why"]))

    assert len(watched(tmp_path, waits)) == 1


def test_statistics_and_metrics_of_a_server_tell_of_its_tuner() -> None:
    state = {"state": "running", "pid": 7, "restarts": 2, "why": "the tuner has ended by SIGKILL"}

    @contextlib.asynccontextmanager
    async def with_tuner(url: str) -> AsyncIterator[Callable[[], Any]]:
        yield lambda: state

    async def main() -> None:
        from headway.serve.metrics import exposition

        server = LiveServer(tiny_plan())
        serving = asyncio.create_task(server.run(beside=with_tuner))
        await until(lambda: server.engine.tuner is not None)
        assert server.engine.stats()["tuner"] == state
        assert b'headway_tuner_running{pipeline="tiny"} 1.0' in exposition(server.engine)
        state["state"] = "waiting"
        assert b'headway_tuner_running{pipeline="tiny"} 0.0' in exposition(server.engine)
        server.stop()
        await serving

    asyncio.run(main())


def test_the_name_of_a_signal_that_has_none_is_its_number() -> None:
    assert beside._how(-signal.SIGRTMAX - 9) == f"by signal {signal.SIGRTMAX + 9}"
