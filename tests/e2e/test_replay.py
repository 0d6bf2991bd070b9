"""Open-loop replay against real servers: what is measured, what is refused, what is lost."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headway.domains.pipeline.declare import ReplicaConfig
from headway.errors import ServeError
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.serve.engine import Limits
from headway.serve.http1 import Reply
from headway.serve.replay import replay
from headway.serve.run import LiveServer, ServeOptions, running, running_in_thread
from headway.serve.system import descriptors, precise_loop
from headway.sim.simulation import simulate
from headway.spec.model import Spec
from headway.trace import Trace
from headway.trace.payload import payload_index

SERVICE_S = 0.02


def sleeping_plan(startup: str = "0s", **config: Any) -> Plan:
    document = {
        "name": "nap",
        "slo": {"latency": "300ms"},
        "supply": {"cpu": {"price": "$3.6/h", "startup": startup}},
        "stages": {"a": {}, "b": {"after": "a"}},
    }
    rows = [Row(stage, "cpu", 1, SERVICE_S) for stage in "ab"]
    return Plan(
        Spec.from_dict(document), Profile.from_rows(rows), {stage: ReplicaConfig("cpu", **config) for stage in "ab"}
    )


@pytest.fixture(scope="module")
def nap() -> Iterator[LiveServer]:
    # On a busy machine a sleep takes longer than planned; here nobody is turned away for it.
    with running_in_thread(sleeping_plan(), ServeOptions(limits=Limits(keep_promise=False))) as server:
        yield server


def test_a_replay_measures_every_request_from_its_scheduled_arrival(nap: LiveServer) -> None:
    trace = Trace.from_arrivals(np.arange(20) * 0.06)
    seen: list[int] = []
    outcome = replay(nap.url, trace, seed=1, progress=lambda done, of: seen.append(done))
    assert outcome.kind == "measured"
    assert outcome.counts()["answered"] == 20
    assert outcome.latency_s.min() >= 2 * SERVICE_S
    np.testing.assert_array_equal(outcome.arrival_s, trace.arrival_s)
    assert (outcome.slo_s, outcome.slo_percentile) == (0.3, 99.0)
    assert [outcome.stages[name].items for name in "ab"] == [20, 20]
    assert outcome.stages["a"].queue_wait_s.shape == (20,)
    # Two replicas at $3.6/h cost $0.002 a second, from the first scheduled arrival to the last completion.
    span_s = float((trace.arrival_s + outcome.latency_s).max())
    assert outcome.cost_usd == pytest.approx(0.002 * span_s, rel=0.01)
    # One span holds for cost and capacity alike: each stage has one replica.
    for stage in outcome.stages.values():
        assert stage.capacity_s == pytest.approx(span_s, rel=1e-6)
        assert stage.cost_usd == pytest.approx(0.001 * stage.capacity_s, rel=1e-6)
        assert stage.utilization == pytest.approx(stage.service_s / span_s, rel=1e-6)
    assert outcome.provenance["client"]["lateness_p99_s"] >= 0
    assert seen[-1] == 20
    json.dumps(outcome.to_dict(), allow_nan=False)


def test_what_starting_costs_is_told_as_in_a_simulated_outcome() -> None:
    plan = sleeping_plan(startup="2s")
    trace = Trace.from_arrivals([0.0, 0.1])
    with running_in_thread(plan) as server:
        outcome = replay(server.url, trace)
    # Two replicas at $0.001 a second for two seconds.
    assert outcome.startup_cost_usd == simulate(plan, trace).startup_cost_usd == pytest.approx(0.004)


def test_a_backlog_counts_against_the_server_that_let_it_grow(nap: LiveServer) -> None:
    # Ten at once through one replica: the last one waits for the nine before it, which a closed loop would hide.
    outcome = replay(nap.url, Trace.from_arrivals(np.zeros(10), duration_s=1.0))
    assert np.sort(outcome.latency_s)[-1] >= 10 * SERVICE_S


def test_payloads_are_those_that_the_shared_rule_chooses(nap: LiveServer, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}.txt").write_text(name)
    ordered = ["one", "three", "two"]
    trace = Trace.from_arrivals(np.arange(12) * 0.01)
    got: dict[int, str] = {}

    def keep(i: int, reply: Reply) -> None:
        got[i] = json.loads(reply.body)["outputs"][0]["data"][0]

    replay(nap.url, trace, payloads=tmp_path, seed=5, on_reply=keep)
    assert [got[i] for i in range(12)] == [ordered[k] for k in payload_index(trace, 3, 5)]


def test_rejected_and_dropped_requests_never_have_a_latency() -> None:
    options = ServeOptions(limits=Limits(queue_limit=4, timeout_s=0.05, keep_promise=False))
    with running_in_thread(sleeping_plan(), options) as server:
        outcome = replay(server.url, Trace.from_arrivals(np.zeros(30), duration_s=1.0))
    counts = outcome.counts()
    assert counts["rejected"] > 0
    assert counts["dropped"] > 0
    assert counts["answered"] + counts["rejected"] + counts["dropped"] == counts["offered"] == 30
    assert np.isinf(outcome.latency_s).sum() == 30 - counts["answered"]


GATED = """
import os, time

class Gated:
    def __init__(self, gate):
        self.gate = gate

    def predict(self, batch):
        while not os.path.exists(self.gate):
            time.sleep(0.01)
        return batch
"""


def gated_plan(folder: Path, **config: Any) -> Plan:
    """One stage whose batches end when a file `gate` appears."""
    (folder / "gated.py").write_text(GATED)
    stage = {"model": f"{folder / 'gated.py'}:Gated", "options": {"gate": str(folder / "gate")}}
    document = {"slo": {"latency": "1s"}, "supply": {"cpu": {"price": "$1/h"}}, "stages": {"a": stage}}
    rows = [Row("a", "cpu", size, 0.01) for size in (1, 1024)]
    return Plan(Spec.from_dict(document), Profile.from_rows(rows), {"a": ReplicaConfig("cpu", **config)})


def test_requests_beyond_what_the_server_can_queue_are_offered_and_refused(tmp_path: Path) -> None:
    refused = 0

    def open_the_gate(_: int, reply: Reply) -> None:
        nonlocal refused
        refused += reply.status == 429
        if refused == 400:
            (tmp_path / "gate").touch()

    trace = Trace.from_arrivals(np.zeros(1500), duration_s=1.0)
    with running(gated_plan(tmp_path, max_batch_size=1024)) as server:
        outcome = replay(server.url, trace, timeout_s=60.0, on_reply=open_the_gate)
    counts = outcome.counts()
    # One batch is being worked on and 1,024 requests wait: with the gate shut the others have nowhere to go.
    assert counts["rejected"] >= 400
    assert counts["answered"] == 1500 - counts["rejected"] >= 1024
    assert not any("connections" in doubt for doubt in outcome.low_confidence)
    assert outcome.provenance["client"]["connections"] > 512


def test_what_the_client_could_not_send_is_not_held_against_the_server(tmp_path: Path) -> None:
    with running_in_thread(gated_plan(tmp_path)) as server:
        outcome = replay(server.url, Trace.from_arrivals(np.zeros(5), duration_s=1.0), timeout_s=1.5, max_connections=2)
        (tmp_path / "gate").touch()
    counts = outcome.counts()
    # The two that went out time out on the server; those that waited for their connections are the client's own.
    assert (counts["failed"], counts["in_flight"]) == (2, 3)
    assert outcome.provenance["client"]["errors"]["never sent: all 2 connections of the client were in use"] >= 1
    (doubt,) = (doubt for doubt in outcome.low_confidence if "connections" in doubt)
    assert doubt.startswith("client: 3 requests")
    assert "3 of them stayed unanswered" in doubt


def test_open_files_are_raised_as_far_as_needed_and_given_back() -> None:
    resource = pytest.importorskip("resource")
    _, hard = before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with descriptors(600) as found:
            assert found <= 600
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(600, hard)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (256, hard)
        with descriptors(10**9) as found:
            assert found < hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_loop_of_many_connections_still_wakes_to_the_microsecond() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        late_s = math.inf
        for _ in range(500):
            due_s = loop.time() + 0.0003
            woken = asyncio.Event()
            loop.call_at(due_s, woken.set)
            await woken.wait()
            late_s = min(late_s, loop.time() - due_s)
            if late_s < 0.0005:
                break
        return late_s

    with asyncio.Runner(loop_factory=precise_loop) as runner:
        # Waits rounded up to milliseconds would all end 0.7 ms late, even on an idle machine.
        assert runner.run(main()) < 0.0005


def test_a_token_is_shown_and_its_absence_explained() -> None:
    with running_in_thread(sleeping_plan(), ServeOptions(token="s3cret")) as server:
        with pytest.raises(ServeError, match="pass its token"):
            replay(server.url, Trace.from_arrivals([0.0]))
        assert replay(server.url, Trace.from_arrivals([0.0]), token="s3cret").counts()["answered"] == 1


def test_an_empty_trace_sends_nothing(nap: LiveServer) -> None:
    assert replay(nap.url, Trace.from_arrivals([], duration_s=1.0)).requests == 0


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("127.0.0.1:1", "not an address"),
        ("ftp://127.0.0.1", "not an address"),
        ("http://127.0.0.1:1", "cannot reach 127.0.0.1:1"),
    ],
)
def test_a_server_that_is_not_there_is_an_error(url: str, says: str) -> None:
    with pytest.raises(ServeError, match=says):
        replay(url, Trace.from_arrivals([0.0]))
