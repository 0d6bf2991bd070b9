"""A server under faults: workers killed while it serves, and three times the load that it can carry."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from headway.bench import BenchOptions, Row
from headway.bench.load import closed_loop, post
from headway.domains.pipeline.declare import ReplicaConfig
from headway.errors import HeadwayError
from headway.plan.plan import Plan
from headway.profile import Profile
from headway.profile import Row as ProfileRow
from headway.serve.http1 import Client, Reply
from headway.serve.payloads import encode
from headway.serve.replay import replay
from headway.serve.run import running
from headway.serve.system import precise_loop
from headway.sim.outcome import Outcome, percentile
from headway.spec.model import Spec
from headway.trace import Trace

INFER = "/v2/models/faults/infer"
KILL_REQUESTS, QUICK_KILL_REQUESTS = 50_000, 3_000
KILL_RATE_PER_S = 500.0
KILL_EVERY_S = 2.0
KILL_REPLICAS, KILL_BATCH = 2, 4
BACK_S = 5.0
RATE_S, QUICK_RATE_S = 5.0, 1.0
OVERLOAD_S, QUICK_OVERLOAD_S = 60.0, 10.0
CALM_S = 10.0
WINDOW_S = 5.0
SLEEP_S = 0.02
OVERLOAD_REPLICAS = 8
PROMISE_S = 0.2


def sleeping(stages: dict[str, dict[str, str]], *, slo: str, mean_s: float, replicas: int, batch: int) -> Plan:
    """Return a plan of stages whose models sleep `mean_s` for a batch of any size, and return what they are given."""
    document = {"name": "faults", "slo": {"latency": slo}, "supply": {"cpu": {"price": "$0.05/h"}}, "stages": stages}
    rows = [ProfileRow(name, "cpu", size, mean_s) for name in stages for size in {1, batch}]
    configs = {name: ReplicaConfig("cpu", replicas, batch) for name in stages}
    return Plan(Spec.from_dict(document), Profile.from_rows(rows), configs)


@dataclass
class _Killed:
    """What came of requests that carry their number, while workers were killed."""

    echoes: Counter[str] = field(default_factory=Counter)
    others: Counter[int] = field(default_factory=Counter)
    latency_s: list[float] = field(default_factory=list)
    kills: int = 0


def kill(options: BenchOptions) -> list[Row]:
    """Requests at a steady rate through two stages, while every other second some worker is killed.

    Every request carries its number, which its answer echoes: counted are the numbers, not the answers.
    """
    requests = QUICK_KILL_REQUESTS if options.quick else KILL_REQUESTS
    plan = sleeping({"first": {}, "second": {"after": "first"}}, slo="10s", mean_s=0.005, replicas=KILL_REPLICAS,
                    batch=KILL_BATCH)  # fmt: skip
    # Twice as many as are worked on at a time, so that whoever is missing is missed.
    outstanding = 2 * len(plan.stages) * KILL_REPLICAS * KILL_BATCH
    with running(plan) as server:
        before_per_s = _rate_per_s(server.url, outstanding, options)
        with asyncio.Runner(loop_factory=precise_loop) as runner:
            found = runner.run(_kill_while_asking(server.url, requests, options.seed))
        after_per_s = _rate_per_s(server.url, outstanding, options)
    lost = sum(found.echoes[str(number)] == 0 for number in range(requests))
    twice = sum(count > 1 for count in found.echoes.values())
    # The last one may fall together with the end.
    due = requests / KILL_RATE_PER_S // KILL_EVERY_S - 1
    return [
        Row("faults-kill/lost", lost, "requests", baseline=requests, bar="<= 0", met=lost == 0),
        Row("faults-kill/twice", twice, "requests", baseline=requests, bar="<= 0", met=twice == 0),
        Row("faults-kill/refused", sum(found.others.values()), "requests", baseline=requests),
        Row("faults-kill/kills", found.kills, "workers", baseline=due, ratio=found.kills / due, bar=">= 0.9"),
        Row("faults-kill/p50", percentile(np.array(found.latency_s), 50) * 1e3, "ms"),
        Row("faults-kill/p99", percentile(np.array(found.latency_s), 99) * 1e3, "ms"),
        _back("faults-kill", before_per_s, after_per_s),
    ]


async def _kill_while_asking(url: str, requests: int, seed: int) -> _Killed:
    loop = asyncio.get_running_loop()
    client, found, done = Client(url), _Killed(), asyncio.Event()
    start_s = loop.time()
    left = requests

    def receive(number: int, reply: Reply) -> None:
        nonlocal left
        if reply.status == 200:
            found.echoes.update(json.loads(reply.body)["outputs"][0]["data"])
            found.latency_s.append(loop.time() - start_s - number / KILL_RATE_PER_S)
        else:
            found.others[reply.status] += 1
        left -= 1
        if not left:
            done.set()

    killer = asyncio.create_task(_kill_now_and_then(client, found, seed, done))
    for number in range(requests):
        await asyncio.sleep(max(0.0, start_s + number / KILL_RATE_PER_S - loop.time()))
        frame = client.frame("POST", INFER, encode(str(number)).data)
        client.send(frame, lambda reply, number=number: receive(number, reply), 60.0)  # type: ignore[misc]
    await killer
    await _until_ready(client)
    await client.close()
    return found


async def _kill_now_and_then(client: Client, found: _Killed, seed: int, done: asyncio.Event) -> None:
    rng = np.random.default_rng(seed)
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), KILL_EVERY_S)
            return
        stats = json.loads((await client.request("GET", "/stats")).body)
        alive = [pid for stage in stats["stages"].values() for pid in stage["pids"]]
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(rng.choice(alive)), signal.SIGKILL)
            found.kills += 1


async def _until_ready(client: Client) -> None:
    """Wait until all replicas are ready, for `BACK_S` at most: that they are not shows in what is answered then."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + BACK_S
    while loop.time() < end_s:
        stages = json.loads((await client.request("GET", "/stats?timings=false")).body)["stages"].values()
        if all(stage["replicas"]["ready"] == KILL_REPLICAS for stage in stages):
            return
        await asyncio.sleep(0.05)


def _rate_per_s(url: str, outstanding: int, options: BenchOptions) -> float:
    """How many requests are answered per second when so many are outstanding at all times."""
    seconds = QUICK_RATE_S if options.quick else RATE_S
    return closed_loop(url, post(INFER, encode("").data), connections=outstanding, seconds=seconds).rate_per_s


def _back(name: str, before_per_s: float, after_per_s: float) -> Row:
    """The rate after the faults beside that before them. Raises HeadwayError when nothing was answered before."""
    if not before_per_s:
        raise HeadwayError(f"bench {name}: the server answered nothing before the faults; see what it logs")
    return Row(f"{name}/throughput-after", after_per_s, "requests/s", baseline=before_per_s,
               ratio=after_per_s / before_per_s, bar=">= 0.9")  # fmt: skip


def overload(options: BenchOptions) -> list[Row]:
    """Half the capacity, then three times the capacity, then half of it again; goodput is what is answered in time."""
    plan = sleeping({"model": {}}, slo=f"{PROMISE_S * 1e3:g}ms", mean_s=SLEEP_S, replicas=OVERLOAD_REPLICAS, batch=1)
    capacity_per_s = OVERLOAD_REPLICAS / SLEEP_S
    crowded_s = QUICK_OVERLOAD_S if options.quick else OVERLOAD_S
    trace = _phases([(0.5 * capacity_per_s, CALM_S), (3.0 * capacity_per_s, crowded_s), (0.5 * capacity_per_s, CALM_S)],
                    options.seed)  # fmt: skip
    with running(plan) as server:
        before_per_s = _rate_per_s(server.url, 2 * OVERLOAD_REPLICAS, options)
        outcome = replay(server.url, trace, seed=options.seed)
        after_per_s = _rate_per_s(server.url, 2 * OVERLOAD_REPLICAS, options)
    goodput = _goodput_per_s(outcome, CALM_S, CALM_S + crowded_s)
    missed_s = trace.arrival_s[outcome.latency_s > PROMISE_S]
    after_s = float(missed_s.max(initial=0.0)) - CALM_S - crowded_s
    counts = outcome.counts()
    return [
        Row("faults-overload/goodput-worst", float(goodput.min()), "requests/s", baseline=capacity_per_s,
            ratio=float(goodput.min()) / capacity_per_s, bar=">= 0.9"),
        Row("faults-overload/goodput-mean", float(goodput.mean()), "requests/s", baseline=capacity_per_s,
            ratio=float(goodput.mean()) / capacity_per_s),
        Row("faults-overload/back-to-normal", max(0.0, after_s), "s", bar="<= 5"),
        Row("faults-overload/missed-before", _missed(outcome, 0.0, CALM_S), "share"),
        Row("faults-overload/missed-after", _missed(outcome, CALM_S + crowded_s + WINDOW_S, np.inf), "share"),
        Row("faults-overload/late", counts["late"], "requests", baseline=counts["offered"]),
        Row("faults-overload/failed", counts["failed"] + counts["in_flight"], "requests", baseline=counts["offered"]),
        _back("faults-overload", before_per_s, after_per_s),
    ]  # fmt: skip


def _phases(phases: list[tuple[float, float]], seed: int) -> Trace:
    """A Poisson trace whose rate changes: pairs of requests per second and seconds."""
    parts, begin_s = [], 0.0
    for number, (rate_per_s, seconds) in enumerate(phases):
        parts.append(begin_s + Trace.poisson(rate=rate_per_s, seconds=seconds, seed=seed + number).arrival_s)
        begin_s += seconds
    return Trace.from_arrivals(np.concatenate(parts), duration_s=begin_s)


def _goodput_per_s(outcome: Outcome, from_s: float, until_s: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Answers within the promise per second, in each window of `WINDOW_S`, by the time at which they came."""
    good = outcome.latency_s <= PROMISE_S
    done_s = outcome.arrival_s[good] + outcome.latency_s[good]
    counts, _ = np.histogram(done_s, bins=np.arange(from_s, until_s + WINDOW_S / 2, WINDOW_S))
    return counts / WINDOW_S


def _missed(outcome: Outcome, from_s: float, until_s: float) -> float:
    """The share of the requests offered in a span that were not answered within the promise."""
    offered = (outcome.arrival_s >= from_s) & (outcome.arrival_s < until_s)
    return float((outcome.latency_s[offered] > PROMISE_S).mean())
