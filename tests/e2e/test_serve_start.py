"""How a server starts, refuses to start, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.serve_models import MODELS
from tests.e2e.serving import INFER, body, gated, make_plan, outputs, wait_until

from headway.errors import ServeError
from headway.serve.http1 import Client
from headway.serve.run import LiveServer, ServeOptions, bind, running, running_in_thread


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    path = tmp_path_factory.mktemp("models") / "models.py"
    path.write_text(MODELS)
    return lambda name: f"{path}:{name}"


def test_a_terminated_server_answers_what_it_has_taken_and_exits_cleanly(
    models: Callable[[str], str], tmp_path: Path
) -> None:
    plan, gate = gated(models, tmp_path)
    with running(plan) as server, httpx.Client(base_url=server.url, timeout=60.0) as client:
        with ThreadPoolExecutor(2) as threads:
            asked = [threads.submit(client.post, INFER, json=body(str(i))) for i in range(2)]
            try:
                assert wait_until(lambda: client.get("/stats").json()["requests"]["in_flight"] == 2)
                server.process.terminate()
                assert wait_until(lambda: client.get("/stats").json()["state"] == "draining")
                refused = client.post(INFER, json=body("late"))
            finally:
                gate.touch()
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert [outputs(task.result())["gated"] for task in asked] == [["0"], ["1"]]
        assert server.process.wait(60.0) == 0


def test_a_model_that_cannot_be_set_up_stops_the_server_with_the_reason(models: Callable[[str], str]) -> None:
    plan = make_plan({"echo": {"model": models("Echo")}, "broken": {"after": "echo", "model": models("Broken")}})
    with pytest.raises(ServeError, match="no such weights"), running_in_thread(plan):
        pass


def test_a_port_in_use_is_an_error_that_names_it() -> None:
    with contextlib.closing(bind("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"port {port} on 127.0.0.1 is in use"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "token", "warned"),
    [("127.0.0.1", None, False), ("::1", None, False), ("0.0.0.0", None, True), ("0.0.0.0", "t", False)],
)
def test_an_open_address_without_a_token_is_warned_about(host: str, token: str | None, warned: bool) -> None:
    assert (ServeOptions(host=host, token=token).warning is not None) == warned


def test_a_server_process_that_cannot_start_says_so(models: Callable[[str], str], capfd: Any) -> None:
    plan = make_plan({"broken": {"model": models("Broken")}})
    with pytest.raises(ServeError, match="did not start"), running(plan):
        pass
    assert "no such weights" in capfd.readouterr().err


def test_a_server_that_is_still_starting_says_so(models: Callable[[str], str], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    plan = make_plan({"late": {"model": models("Late"), "options": {"gate": str(gate)}}})
    sent = json.dumps(body("x")).encode()

    async def main() -> tuple[list[int], int]:
        server = LiveServer(plan)
        serving = asyncio.create_task(server.run())
        try:
            while not server.url:
                await asyncio.sleep(0.01)
            client = Client(server.url)
            paths = (("GET", "/v2/health/live", b""), ("GET", "/v2/health/ready", b""), ("POST", INFER, sent))
            early = [(await client.request(*asked)).status for asked in paths]
            gate.touch()
            while (await client.request("GET", "/v2/health/ready")).status != 200:
                await asyncio.sleep(0.02)
            served = (await client.request("POST", INFER, sent)).status
            await client.close()
        finally:
            gate.touch()
            server.stop()
            await serving
        return early, served

    assert asyncio.run(asyncio.wait_for(main(), 60.0)) == ([200, 503, 503], 200)
