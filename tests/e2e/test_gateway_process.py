"""The gateway as users start it: a process that prints its URL, and ends when it is told to."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.processes import descendants
from tests.e2e.serving import wait_until
from tests.e2e.test_fleet_live import fleet_plan
from tests.e2e.upstreams import ANSWER, Asked, Client, Scripted, gateway, play, stream, tokens

from headway.gateway.__main__ import main


async def start(*arguments: str) -> tuple[asyncio.subprocess.Process, int]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "headway.gateway", "--port", "0", "--end-with-stdin", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("HEADWAY_")},
    )  # fmt: skip
    assert process.stdout is not None
    return process, int((await process.stdout.readline()).decode().rpartition(":")[2])


def test_it_serves_until_it_is_told_to_stop_and_finishes_what_it_has() -> None:
    async def scene() -> None:
        gate = asyncio.Event()

        async def behave(asked: Asked) -> None:
            await gate.wait()
            await asked.reply(ANSWER)

        upstream = Scripted(behave)
        await upstream.start()
        process, port = await start("--upstream", f"http://127.0.0.1:{upstream.port},kind=hosted,name=one")
        client, later = await Client.open(port), await Client.open(port)
        await client.ask()
        while not upstream.asked:
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        status = 200
        while status != 503:
            await later.ask("/ready", b"", method="GET")
            status = (await later.answer()).status
        gate.set()
        found = await client.answer()
        assert (found.status, found.body, found.upstream) == (200, ANSWER, "one")
        assert await process.wait() == 0
        client.close()
        later.close()
        await upstream.stop()

    play(scene)


DEMO = """
import sys, time
from pathlib import Path
from headway.demo.llm.engines import Endpoint, gateway
from headway.fleet.step_time import StepTime
with gateway([Endpoint.of("http://127.0.0.1:9,kind=hosted")], [StepTime(0.1, 0.01)], "random", Path(sys.argv[1])):
    print("serving", flush=True)
    time.sleep(600)
"""
SERVE = """
import sys, time
from headway.plan.plan import Plan
from headway.serve.run import running
with running(Plan.read(sys.argv[1] + "/plan.json")):
    print("serving", flush=True)
    time.sleep(600)
"""
BENCH = """
import contextlib, sys, time
from headway.bench.fleets.gateway_rivals import HAPROXY, HEADWAY, NGINX, installed, proxy, upstreams
with contextlib.ExitStack() as started:
    ports = started.enter_context(upstreams(None))
    for name in filter(installed, (HEADWAY, NGINX, HAPROXY)):
        started.enter_context(proxy(name, ports, None))
    print("serving", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes as Linux shows them")
@pytest.mark.parametrize("script", [DEMO, SERVE, BENCH])
def test_a_gateway_ends_with_who_started_it(script: str, tmp_path: Path) -> None:
    fleet_plan(["http://127.0.0.1:9,kind=hosted"]).write(tmp_path / "plan.json")
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "serving\n"
            started = descendants(parent.pid)
            assert started
        finally:
            parent.kill()
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--upstream", "http://a/v1"], "leave out /v1"),
        (["--upstream", "http://a", "--policy", "lest-loaded"], "router is 'lest-loaded'"),
        (["--upstream", "http://a", "--order", "sfj"], "order is 'sfj'"),
        (["--upstream", "http://a", "--max-wait", "30"], "--max-wait: '30' is not a duration"),
        (["--upstream", "http://a", "--keys", "absent.yaml"], "absent.yaml: cannot read the keys"),
        (["--upstream", "http://a", "--decision-log", "/no/such/log"], "cannot write the decision log"),
        (["--upstream", "http://a", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADWAY_TOKEN", raising=False)
    assert main([*arguments, "--port", "0"]) == 1
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said


def test_the_help_shows_examples_that_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    from headway.gateway.__main__ import parser

    with pytest.raises(SystemExit):
        parser().parse_args(["--help"])
    text = capsys.readouterr().out
    for line in text.splitlines():
        if line.strip().startswith("python -m headway.gateway"):
            assert parser().parse_args(line.split()[3:]).upstream
    assert "power-of-d" in text


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
@pytest.mark.parametrize("trusted", [True, False])
def test_an_upstream_behind_tls_must_be_who_it_says(
    trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=here"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    async def scene() -> None:
        async with gateway(Scripted(stream(3), tls=context), wait=trusted) as stage:
            found = await stage.ask()
            assert found.status == (200 if trusted else 502)
            if trusted:
                assert tokens(found.body) == [0, 1, 2]
            else:
                assert "certificate" in found.error.lower()

    play(scene)
