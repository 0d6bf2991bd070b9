"""The demo of LLM engines from the command line: with engines that are scripted, and with a real one."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.upstreams import Asked, Scripted

from headway.demo.llm import ask, engines
from headway.demo.llm.prompts import Prompts
from headway.fleet.step_time import read_timings
from headway.serve.http1 import Client
from headway.trace import Trace

TOKEN_S = 0.001


async def complete(asked: Asked) -> None:
    """Answer as an engine does that reads a word in the time in which it writes one."""
    wanted, prompt = asked.json["max_tokens"], len(asked.json["prompt"].split())
    assert asked.path == ask.PATH
    await asked.head()
    await asyncio.sleep(TOKEN_S * prompt)
    for number in range(wanted):
        await asked.event(json.dumps({"choices": [{"text": f" {number}"}]}))
        await asyncio.sleep(TOKEN_S)
    usage = {"prompt_tokens": prompt, "completion_tokens": wanted}
    await asked.event(json.dumps({"choices": [], "usage": usage}))
    await asked.event("[DONE]")
    await asked.end()


def demo(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "headway", "demo", "llm", "--quick", "--json", *arguments]


def test_endpoints_that_are_there_are_measured_simulated_and_sent_a_trace(tmp_path: Path) -> None:
    columns = {"input_tokens": [100.0, 300.0] * 40, "output_tokens": [20.0, 60.0] * 40}
    Trace.from_arrivals([0.5 * number for number in range(80)], columns).write(tmp_path / "real.csv")

    async def scene() -> tuple[int, bytes, bytes]:
        upstreams = [Scripted(complete), Scripted(complete)]
        for upstream in upstreams:
            await upstream.start()
        given = [f"--endpoint=http://127.0.0.1:{one.port},kind=hosted,name=e{one.port}" for one in upstreams]
        process = await asyncio.create_subprocess_exec(
            *demo(*given, "--trace", str(tmp_path / "real.csv"), "-o", str(tmp_path / "out")),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, "HEADWAY_JIT": "0"},
        )  # fmt: skip
        try:
            out, err = await asyncio.wait_for(process.communicate(), 120.0)
        finally:
            for upstream in upstreams:
                await upstream.stop()
        return process.returncode or 0, out, err

    code, out, err = asyncio.run(scene())
    assert code == 0, err.decode()
    told = json.loads(out)
    folder = tmp_path / "out"
    assert told["schema"] == "headway.demo.llm/1"
    assert told["model"] == "small"
    assert told["requests"]["offered"] == told["requests"]["answered"] > 1
    assert sum(each["measured"] for each in told["routed"].values()) == told["requests"]["answered"]
    assert sum(each["simulated"] for each in told["routed"].values()) == told["requests"]["answered"]
    assert told["sample"].startswith("0 1 2")
    assert json.loads((folder / "demo.json").read_text(encoding="utf-8")) == told
    # Long and short requests alternate in the trace, and so they did when they were sent.
    sent = Trace.read(folder / "trace.csv").columns["output_tokens"]
    assert sent.tolist() == [10.0, 29.0] * (sent.size // 2) + [10.0] * (sent.size % 2)
    lines = list(csv.DictReader((folder / "requests.csv").read_text(encoding="utf-8").splitlines()))
    assert len(lines) == len((folder / "decisions.jsonl").read_text(encoding="utf-8").splitlines()) == sent.size
    assert all(float(line["ttft_measured_s"]) < float(line["e2e_measured_s"]) for line in lines)
    assert len(read_timings(next(folder.glob("timings-*.csv")))) >= 5


def test_an_endpoint_that_is_not_there_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        demo("--endpoint=http://127.0.0.1:9", "-o", str(tmp_path)), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "cannot reach 127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[engines.Endpoint]:
    pytest.importorskip("xllamacpp")
    folder = tmp_path_factory.mktemp("llama")
    with engines.running(engines.model_file(), folder, engines.Llama(slots=2), count=1) as (endpoint,):
        yield endpoint


def test_a_real_engine_writes_as_many_tokens_as_it_is_asked_for(llama: engines.Endpoint) -> None:
    async def scene() -> list[ask.Answer]:
        client = Client(llama.upstream.url)
        try:
            assert await ask.model_of(client, "")
            texts = [Prompts(seed=1).text(number, 16) for number in range(3)]
            return await ask.together(client, ask.PATH, [ask.body(text, 4) for text in texts])
        finally:
            await client.close()

    answers = asyncio.run(scene())
    assert [answer.output_tokens for answer in answers] == [4, 4, 4]
    assert all(answer.text.strip() for answer in answers)
    assert all(0.0 < answer.ttft_s < answer.e2e_s for answer in answers)
    # Two slots: the third begins when one of the others has ended.
    first_s, done_s = sorted(a.ttft_s for a in answers), sorted(a.e2e_s for a in answers)
    assert first_s[2] > done_s[0]


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes by their command lines")
def test_a_server_ends_with_its_parent(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    given = json.dumps({"slots": 1, "batch_tokens": 64, "context_tokens": 256, "core": None,
                        "model": str(engines.model_file())})  # fmt: skip
    code = (
        "import subprocess, sys\n"
        "command = [sys.executable, '-m', 'headway.demo.llm.child', sys.argv[1]]\n"
        "child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, given], capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path
    )
    pid, end_s = int(done.stdout), time.monotonic() + 20.0
    while _runs(pid) and time.monotonic() < end_s:
        time.sleep(0.1)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    # Of one that has ended and that nobody has asked after only its name is left.
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes() != b""
    except FileNotFoundError:
        return False
