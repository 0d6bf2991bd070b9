"""A server that serves for half an hour: its memory, and that of its workers, should not grow."""

from __future__ import annotations

import asyncio
import json

import numpy as np

from headway.bench import BenchOptions, Row
from headway.bench.faults import sleeping
from headway.errors import HeadwayError
from headway.serve.http1 import Client, Reply
from headway.serve.payloads import encode
from headway.serve.run import ServerHandle, running
from headway.serve.system import precise_loop, resident_bytes

SECONDS, QUICK_SECONDS = 1800.0, 60.0
SETTLED_S, QUICK_SETTLED_S = 120.0, 20.0
RATE_PER_S = 150.0
SAMPLE_S = 2.0
LAST_SAMPLES = 15
BODY_BYTES = (10, 1_000, 50_000, 400_000)
"""Sizes of the texts that are sent in turn: most small, some above what the buffers begin with."""


def soak(options: BenchOptions) -> list[Row]:
    """Moderate load with bodies of many sizes on a pipeline of sleeping models; resident memory, sampled."""
    seconds, settled_s = (QUICK_SECONDS, QUICK_SETTLED_S) if options.quick else (SECONDS, SETTLED_S)
    stages = {"first": {}, "second": {"after": "first"}, "third": {"after": "second"}}
    plan = sleeping(stages, slo="1s", mean_s=0.01, replicas=2, batch=4)
    with running(plan) as server, asyncio.Runner(loop_factory=precise_loop) as runner:
        answered, samples = runner.run(_serve(server, seconds, options.seed))
    offered = int(seconds * RATE_PER_S)
    rows = [Row("soak/answered", answered, "requests", baseline=offered, ratio=answered / offered, bar=">= 0.99")]
    for column, name in ((1, "server"), (2, "workers")):
        before = _level(samples, column, settled_s)
        after = float(np.median(samples[-LAST_SAMPLES:, column]))
        rows.append(Row(f"soak/{name}", after, "MiB", baseline=before, ratio=after / before - 1.0, bar="<= 2%"))
    return rows


def _level(samples: np.ndarray[tuple[int, int], np.dtype[np.float64]], column: int, settled_s: float) -> float:
    """The memory at the time when it should have settled: the middle of a few samples around it."""
    at = int(np.searchsorted(samples[:, 0], settled_s))
    return float(np.median(samples[max(0, at - LAST_SAMPLES // 2) : at + LAST_SAMPLES // 2 + 1, column]))


async def _serve(
    server: ServerHandle, seconds: float, seed: int
) -> tuple[int, np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    """Send requests for a while; return how many were answered, and times with the memory of server and workers."""
    loop = asyncio.get_running_loop()
    rng = np.random.default_rng(seed)
    client = Client(server.url, keep_body=False)
    frames = [client.frame("POST", "/v2/models/faults/infer", encode("x" * size).data) for size in BODY_BYTES]
    watch = Client(server.url)
    stats = json.loads((await watch.request("GET", "/stats")).body)
    workers = [pid for stage in stats["stages"].values() for pid in stage["pids"]]
    samples: list[tuple[float, float, float]] = []
    answered = 0

    def receive(reply: Reply) -> None:
        nonlocal answered
        answered += reply.status == 200

    start_s = loop.time()
    for number in range(int(seconds * RATE_PER_S)):
        due_s = number / RATE_PER_S
        await asyncio.sleep(max(0.0, start_s + due_s - loop.time()))
        client.send(frames[int(rng.choice(len(frames), p=(0.6, 0.3, 0.09, 0.01)))], receive, 30.0)
        if due_s >= len(samples) * SAMPLE_S:
            samples.append((due_s, resident_mb([server.process.pid]), resident_mb(workers)))
            # Operators look at a server too.
            watch.send(watch.frame("GET", "/metrics"), lambda reply: None, 30.0)
    await asyncio.sleep(1.0)
    await client.close()
    await watch.close()
    return answered, np.array(samples)


def resident_mb(pids: list[int]) -> float:
    """Return the resident memory of processes together, in MiB. Raises HeadwayError where the system does not tell."""
    total = 0
    for pid in pids:
        held = resident_bytes(pid)
        if held is None:
            raise HeadwayError(f"bench soak: the memory of process {pid} cannot be read; it needs Linux")
        total += held
    return total / 2**20
