"""What a served plan does when workers die or hang, and when more is asked than can be done."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tests.e2e.faults.served import (
    BATCH,
    REPLICAS,
    ask,
    assert_sound,
    assert_whole,
    frame,
    make_plan,
    order,
    outcome,
    pids,
    restarts,
    serving,
)
from tests.e2e.serving import wait_until

from headway.errors import ServeError
from headway.serve.engine import Limits
from headway.serve.http1 import Reply
from headway.serve.run import LiveServer, bind


def test_workers_killed_at_random_moments_lose_nothing_and_answer_nothing_twice(server: LiveServer) -> None:
    rng = np.random.default_rng(1)
    before = restarts(server)
    stop = threading.Event()

    def kill() -> None:
        # Large bodies take long enough to be written and read that some of these moments are in the middle of it.
        answered = -1
        while not stop.wait(rng.uniform(0.0, 0.15)):
            stats = ask(server, "GET", "/stats")
            # On a busy machine workers take longer to start than the pause is: without an answer in between none works.
            if (alive := stats["stages"]["do"]["pids"]) and stats["requests"]["answered"] > answered + 4:
                answered = stats["requests"]["answered"]
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(rng.choice(alive)), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    sizes = np.random.default_rng(2).choice([0, 1000, 500_000], 6000)
    texts: list[str] = []
    replies: list[Reply] = []
    try:
        while len(texts) < 180 or (restarts(server) < before + 5 and len(texts) < sizes.size):
            more = [f"say {i} " + "x" * int(sizes[i]) for i in range(len(texts), len(texts) + 60)]
            texts += more
            replies += order(server, more)
    finally:
        stop.set()
        killer.join()
    ends = Counter(reply.status for reply in replies)
    assert set(ends) <= {200, 500}
    for text, reply in zip(texts, replies, strict=True):
        status, said = outcome(reply)
        assert said == text.partition(" ")[2] if status == 200 else "3 times" in said
    assert ends[200] > 5 / 6 * len(texts)
    assert restarts(server) - before >= 5


def test_all_replicas_killed_at_once_come_back_and_finish_what_they_had(server: LiveServer) -> None:
    def kill() -> None:
        for pid in pids(server):
            os.kill(pid, signal.SIGKILL)

    texts = [f"sleep 0.01{i:03}" for i in range(60)]
    assert [outcome(reply) for reply in order(server, texts, kill)] == [(200, text.split()[1]) for text in texts]


@pytest.mark.parametrize("fault", ["die", "exit", "close", "garble", "hang"])
def test_a_worker_lost_in_the_middle_of_a_batch_costs_none_of_its_requests(server: LiveServer, fault: str) -> None:
    before = restarts(server)
    texts = ["say a", f"once:{fault} b", "say c", "say d"]
    assert [outcome(reply) for reply in order(server, texts)] == [(200, letter) for letter in "abcd"]
    assert wait_until(lambda: restarts(server) == before + 1)


def test_a_worker_that_the_system_has_stopped_is_replaced(server: LiveServer) -> None:
    stopped = pids(server)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    assert [outcome(reply) for reply in order(server, ["say a", "say b"])] == [(200, "a"), (200, "b")]
    assert wait_until(lambda: len(pids(server)) == REPLICAS)
    for pid in set(stopped) & set(pids(server)):
        os.kill(pid, signal.SIGCONT)


def test_an_input_that_always_kills_fails_alone(server: LiveServer) -> None:
    texts = ["say a", "die b", "say c", "say d"]
    replies = [outcome(reply) for reply in order(server, texts)]
    assert [replies[at] for at in (0, 2, 3)] == [(200, "a"), (200, "c"), (200, "d")]
    status, said = replies[1]
    assert status == 500
    assert "the worker died, hung or refused the batch 3 times" in said


def test_a_model_that_raises_fails_the_one_request_that_made_it(server: LiveServer) -> None:
    before = restarts(server)
    replies = [outcome(reply) for reply in order(server, ["say a", "raise b", "say c", "say d"])]
    assert [replies[at] for at in (0, 2, 3)] == [(200, "a"), (200, "c"), (200, "d")]
    assert replies[1][0] == 500
    assert "ValueError: b" in replies[1][1]
    assert restarts(server) == before


def test_a_model_that_prints_without_end_blocks_nobody(server: LiveServer) -> None:
    assert [outcome(reply)[0] for reply in order(server, ["print a"] * 8)] == [200] * 8


def test_a_worker_that_dies_while_it_starts_is_started_again(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, deaths_at_start=3)
    for _ in range(2):
        with pytest.raises(ServeError, match="died of signal SIGKILL before it answered"), serving(plan):
            pass
    with serving(plan) as server:
        # Two more deaths at the start, of the worker that is to replace the one that dies now.
        for number in range(2):
            (tmp_path / f"death at start {number}").unlink()
        said = [outcome(reply) for reply in order(server, ["say a", "once:die b", "say c"])]
        assert said == [(200, letter) for letter in "abc"]
        assert_sound(server)


# Load


ORDER_S = 0.02
PROMISE_S = 1.0
Said = tuple[int, Mapping[str, str], bytes]
"""Status, headers with small letters, and body of an answer."""


def test_three_times_the_load_is_answered_or_refused_at_once_and_forgotten_afterwards(tmp_path: Path) -> None:
    capacity_per_s = REPLICAS / ORDER_S
    plan = make_plan(tmp_path, mean_s=ORDER_S, slo=f"{PROMISE_S:g}s")
    with serving(plan, limits=Limits(timeout_s=30.0)) as server:
        replies = flood(server, f"sleep {ORDER_S}", requests=900, rate_per_s=3 * capacity_per_s)
        ends = Counter(status for status, _, _ in replies)
        assert set(ends) == {200, 429}
        for status, headers, said in replies:
            if status == 429:
                assert int(headers["retry-after"]) >= 1
                assert json.loads(said)["error"] == "there is too much to do to answer within 1 s; try again later"

        stats = ask(server, "GET", "/stats?samples=true")
        requests = stats["requests"]
        assert (requests["answered"], requests["rejected"]) == (ends[200], ends[429])
        # However slow the machine is: no more is let in than can be answered within the promise as profiled.
        assert most_at_once(stats["stages"]["do"]) <= capacity_per_s * PROMISE_S + REPLICAS * BATCH
        # With everything let in, five answers out of six would be late.
        assert requests["late"] < ends[200] / 2

        for _ in range(20):
            assert [outcome(reply)[0] for reply in order(server, [f"sleep {ORDER_S}"] * REPLICAS)] == [200] * REPLICAS
        assert_whole(server)


def flood(server: LiveServer, text: str, requests: int, rate_per_s: float) -> list[Said]:
    """Ask for the same so many times, each when it is due and on a connection of its own."""
    sent = frame(text, "connection: close")
    host, port = server.url.removeprefix("http://").split(":")

    async def one(due_s: float) -> Said:
        await asyncio.sleep(due_s - asyncio.get_running_loop().time())
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(sent)
        found = await reader.read()
        writer.close()
        head, _, said = found.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), said

    async def main() -> list[Said]:
        start_s = asyncio.get_running_loop().time()
        return await asyncio.gather(*(one(start_s + number / rate_per_s) for number in range(requests)))

    return asyncio.run(main())


def most_at_once(stage: Mapping[str, list[float]]) -> int:
    """How many items a stage had at a time, waiting or being worked on, by what the server says of each."""
    arrival_s, wait_s, service_s = (np.array(stage[name]) for name in ("arrival_s", "queue_wait_s", "service_s"))
    done_s = np.sort(arrival_s + wait_s + service_s)
    come = np.arange(1, arrival_s.size + 1)
    return int((come - np.searchsorted(done_s, np.sort(arrival_s), side="right")).max())


# The command line


def serve_command(*arguments: str) -> tuple[int, str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "headway", "serve", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr.strip().splitlines()


def test_a_port_in_use_is_one_sentence_and_exit_1(tmp_path: Path) -> None:
    make_plan(tmp_path).write(tmp_path / "plan.json")
    with contextlib.closing(bind("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = f"error: port {port} on 127.0.0.1 is in use; choose another, or 0 for a free one"
        assert serve_command(str(tmp_path / "plan.json"), "--port", str(port)) == (1, "", [sentence])


def test_a_plan_of_another_version_is_one_sentence_and_exit_1(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    make_plan(tmp_path).write(path)
    path.write_text(path.read_text().replace("headway.plan/1", "headway.plan/2"))
    code, printed, errors = serve_command(str(path), "--port", "0")
    assert (code, printed, len(errors)) == (1, "", 1)
    assert "headway.plan/2" in errors[0]
    assert "headway.plan/1" in errors[0]
