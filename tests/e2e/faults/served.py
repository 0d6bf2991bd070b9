"""A served stage whose workers do as they are told, and those who ask it for things."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.e2e.faults.models import MODEL
from tests.e2e.serving import wait_until

from headway.domains.pipeline.declare import ReplicaConfig
from headway.domains.pipeline.live import live_station
from headway.plan.config import StageContext
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.serve.app import HttpLimits
from headway.serve.http1 import Client, Reply
from headway.serve.run import LiveServer, ServeOptions, running_in_thread
from headway.spec.model import Spec

INFER = "/v2/models/orders/infer"
HANG_S = 3.0
CLIENT_S = 1.0
REPLICAS = 2
BATCH = 4


def make_plan(folder: Path, *, mean_s: float = 0.001, slo: str = "10s", **options: Any) -> Plan:
    """A stage whose workers obey, which takes `mean_s` per order.

    It makes no promise that matters, unless told to: most want no part in its admission.
    """
    (folder / "model.py").write_text(MODEL)
    stage = {"model": f"{folder / 'model.py'}:Obedient", "options": {"folder": str(folder), **options}}
    document = {
        "name": "orders",
        "slo": {"latency": slo},
        "supply": {"cpu": {"price": "$1/h"}},
        "stages": {"do": stage},
    }
    rows = [Row("do", "cpu", size, size * mean_s) for size in (1, BATCH)]
    config = ReplicaConfig("cpu", REPLICAS, max_batch_size=BATCH)
    return Plan(Spec.from_dict(document), Profile.from_rows(rows), {"do": config})


@contextlib.contextmanager
def serving(plan: Plan, hang_s: float = HANG_S, client_s: float = 30.0, **options: Any) -> Iterator[LiveServer]:
    """Serve in a thread; a batch may take `hang_s`, and a client `client_s` for the body that it sends."""
    config = plan.stages["do"]
    assert isinstance(config, ReplicaConfig)
    station = live_station(StageContext("do", plan.spec.stages["do"], plan.spec, plan.profile), config)
    station.batch_timeout_s = station.first_batch_timeout_s = hang_s
    http = HttpLimits(max_body_bytes=4 * 2**20, body_timeout_s=client_s, keep_alive_s=20.0)
    with running_in_thread(plan, ServeOptions(http=http, **options), stations={"do": station}) as server:
        yield server


def assert_sound(server: LiveServer) -> None:
    """All requests have ended, once; the capacity is whole; and of many requests each gets its own answer."""
    assert_whole(server)
    assert [outcome(reply) for reply in order(server, [f"say {i}" for i in range(40)])] == [
        (200, str(i)) for i in range(40)
    ]


def assert_whole(server: LiveServer) -> None:
    """All requests have ended, once, all replicas are ready, and all of their workers work at the same time."""

    def settled() -> bool:
        stats = ask(server, "GET", "/stats")
        requests, stage = stats["requests"], stats["stages"]["do"]
        ended = sum(requests[status] for status in ("answered", "rejected", "dropped", "failed"))
        assert requests["offered"] == ended + requests["in_flight"]
        return bool(requests["in_flight"] == 0 and stage["replicas"]["ready"] == REPLICAS and stats["ready"])

    def together() -> bool:
        workers = set(pids(server))
        replies = [outcome(reply) for reply in order(server, ["who"] * (2 * REPLICAS))]
        assert [status for status, _ in replies] == [200] * len(replies)
        spans = [tuple(map(float, said.split())) for _, said in replies]
        crews = ({int(pid) for pid, since_s, until_s in spans if since_s <= at_s < until_s} for _, at_s, _ in spans)
        return len(workers) == REPLICAS and workers in crews

    assert wait_until(settled)
    assert wait_until(together)


def body(text: str) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": [text]}]}).encode()


def frame(text: str, *headers: str) -> bytes:
    lines = [f"POST {INFER} HTTP/1.1", "host: x", f"content-length: {len(body(text))}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body(text)


def ask(server: LiveServer, method: str, path: str) -> Any:
    async def main() -> Reply:
        client = Client(server.url)
        try:
            return await client.request(method, path)
        finally:
            await client.close()

    return json.loads(asyncio.run(main()).body)


def order(
    server: LiveServer, texts: list[str], meanwhile: Callable[[], None] | None = None, timeout: str | None = None
) -> list[Reply]:
    """Ask for everything at once; `meanwhile` runs beside it in a thread of its own. Replies come in order."""

    async def main() -> list[Reply]:
        client = Client(server.url, max_connections=64)
        headers = {} if timeout is None else {"x-request-timeout": timeout}
        asked = [client.request("POST", INFER, body(text), headers) for text in texts]
        try:
            acting = asyncio.to_thread(meanwhile or (lambda: None))
            *replies, _ = await asyncio.gather(*asked, acting)
            return replies
        finally:
            await client.close()

    return asyncio.run(main())


def outcome(reply: Reply) -> tuple[int, str]:
    """The status, and what was said: the answer's text, or the error's sentence."""
    said = json.loads(reply.body)
    return reply.status, said["outputs"][0]["data"][0] if reply.status == 200 else said["error"]


def pids(server: LiveServer) -> list[int]:
    return list(ask(server, "GET", "/stats")["stages"]["do"]["pids"])


def restarts(server: LiveServer) -> int:
    return int(ask(server, "GET", "/stats")["stages"]["do"]["restarts"])
