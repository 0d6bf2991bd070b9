"""The load generator and the cases of the serving benchmark, against a server in a thread."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from headway.bench import BenchOptions, serving
from headway.bench.load import closed_loop, open_loop, post
from headway.bench.rivals import PACKAGES, Server
from headway.bench.served import CASES, Echo, case_of, payload_of, plan_of, response_of, work
from headway.domains.pipeline.declare import ReplicaConfig
from headway.errors import HeadwayError
from headway.plan.plan import Plan
from headway.serve.run import LiveServer, running_in_thread
from headway.testing.live import fake_stations


@pytest.fixture
def server() -> Iterator[LiveServer]:
    plan = plan_of(case_of("hop"))
    with running_in_thread(plan, stations=fake_stations(plan)) as found:
        yield found


BODY = case_of("hop").body()
INFER = "/v2/models/hop/infer"


def test_a_closed_loop_counts_what_is_answered_and_keeps_that_many_under_way(server: LiveServer) -> None:
    load = closed_loop(server.url, post(INFER, BODY), connections=4, seconds=0.5, warmup_s=0.05)
    assert len(load.latency_s) == pytest.approx(load.rate_per_s * load.span_s)
    assert len(load.latency_s) > 4
    assert load.failed == 0
    assert load.p_ms(50) <= load.p_ms(99)
    assert load.cpu_ms is None


def test_the_time_that_a_server_takes_is_counted_over_the_window_alone(server: LiveServer) -> None:
    read_s = iter([4.0, 6.5])
    load = closed_loop(
        server.url, post(INFER, BODY), connections=2, seconds=0.1, warmup_s=0.05, meter=lambda: next(read_s)
    )
    assert load.cpu_s == 2.5
    assert load.cpu_ms == pytest.approx(2500.0 / len(load.latency_s))


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="the system does not tell")
def test_the_time_of_a_server_is_that_of_its_session() -> None:
    used = os.times()
    found_s = Server("", "", os.getsid(0)).cpu_s()
    assert found_s is not None
    assert found_s >= used.user + used.system - 0.02
    assert Server("", "", -1).cpu_s() == 0.0


def test_an_open_loop_sends_every_request_once(server: LiveServer) -> None:
    load = open_loop(server.url, post(INFER, BODY), rate_per_s=400.0, seconds=0.2, seed=1, connections=2)
    assert (len(load.latency_s), load.failed) == (80, 0)
    assert server.engine.counts.offered == 80


def test_answers_that_are_not_good_are_counted_apart_and_connections_that_end_are_made_anew(server: LiveServer) -> None:
    for frame in (post(INFER, b"{}"), post(INFER, BODY).replace(b"host:", b"connection: close\r\nhost:")):
        load = open_loop(server.url, frame, rate_per_s=200.0, seconds=0.1, seed=1, connections=2)
        assert len(load.latency_s) + load.failed == 20
        assert (load.failed == 20) == (b"{}" in frame)


def test_a_server_that_cannot_be_reached_is_an_error() -> None:
    with pytest.raises(HeadwayError, match="cannot connect"):
        closed_loop("http://127.0.0.1:9", b"", connections=1, seconds=0.1)


@pytest.mark.parametrize("name", ["echo", "echo-single", "hop"])
def test_every_server_is_asked_the_same_and_answers_the_same(name: str) -> None:
    case = case_of(name)
    asked = payload_of(msgspec.json.decode(case.body()))
    assert asked == case.payload()
    assert response_of(work([Echo()], [asked])[0])["outputs"][0]["data"] == [asked]


def test_a_case_becomes_a_chain_of_stages_with_its_batch_size() -> None:
    plan = plan_of(CASES["pipeline"])
    assert isinstance(plan, Plan)
    assert list(plan.spec.graph.order) == ["detect", "orient", "recognise"]
    configs = [c for c in plan.stages.values() if isinstance(c, ReplicaConfig)]
    assert {(c.replicas, c.max_batch_size) for c in configs} == {(2, 2)}
    assert plan.spec.pools["host"].cores == 2
    assert not plan_of(CASES["onnx"]).spec.pools
    with pytest.raises(HeadwayError, match=r"no case is called 'ech'.*echo"):
        case_of("ech")


def test_what_is_measured_is_compared_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"headway": 8000.0, "ray-serve": 500.0, "ray-serve-tuned": 4000.0, "litserve": 4000.0}

    def measured(server: str, *_: object) -> serving.Measured:
        return serving.Measured(rates[server], 1e4 / rates[server], 1e3 / rates[server])

    monkeypatch.setattr(serving, "_measure", measured)
    rows = {row.name: row for row in serving.serving_echo(BenchOptions())}
    assert rows["serving-echo/rate/ray-serve"].ratio == 16.0
    assert rows["serving-echo/rate/ray-serve"].met
    assert rows["serving-echo/rate/litserve"].met is False
    assert rows["serving-echo/p99/litserve"].met
    assert rows["serving-echo/cpu/litserve"].ratio == 0.5
    assert rows["serving-echo-single/rate/litserve"].bar is None


def test_a_rival_that_is_not_there_costs_its_own_rows_alone_and_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = serving._measure

    def measured(server: str, *more: Any) -> serving.Measured:
        return measure(server, *more) if server == "litserve" else serving.Measured(1.0, 1.0)

    monkeypatch.setattr(serving, "_measure", measured)
    monkeypatch.setitem(PACKAGES, "headway.bench.rival_litserve", "no_such_litserve")
    rows: list[str] = []
    with pytest.raises(HeadwayError) as stop:
        rows.extend(row.name for row in serving.serving_echo(BenchOptions()))
    assert str(stop.value) == "no_such_litserve is not installed; `make bench` installs it (extra bench)"
    assert {name.rpartition("/")[2] for name in rows} == {"ray-serve", "ray-serve-tuned"}
    assert any(name.startswith("serving-echo-single/") for name in rows)
