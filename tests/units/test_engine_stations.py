"""Stations of another kind in the live engine, and the small values that it is made of."""

from __future__ import annotations

import asyncio
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.domains.pipeline.declare import ReplicaConfig
from headway.domains.pipeline.live import pool_cores
from headway.errors import ServeError
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.serve.engine import Answer, Engine, Limits
from headway.serve.gate import Rejected
from headway.serve.record import Histogram, Ring
from headway.serve.replica import LONGEST_BACKOFF_S, backoff_s
from headway.serve.station import NEVER_S, LiveStation, StationHost, StationStats, Work
from headway.serve.wire import Payload, Result
from headway.spec.model import Spec
from headway.testing.live import fake_stations, run_virtual


class Ticker:
    """A station that releases everything it holds at the next whole second: no replicas, no batches, no workers."""

    def __init__(self) -> None:
        self._held: deque[Work] = deque()

    @property
    def queued(self) -> int:
        return len(self._held)

    @property
    def live(self) -> bool:
        return True

    async def start(self, host: StationHost) -> None:
        self._host = host

    def submit(self, work: Work) -> None:
        work.arrival_s = self._host.clock()
        self._held.append(work)
        self._host.wake()

    def ask(self, now_s: float) -> float:
        while self._held and self._held[0].arrival_s < np.floor(now_s):
            work = self._held.popleft()
            work.start_s = now_s
            assert isinstance(work.payload, Payload)
            self._host.finished(work, Result(value=Payload("text", work.payload.data + b"!")), now_s)
        return float(np.floor(now_s)) + 1.0 if self._held else NEVER_S

    async def render(self, work: Work, result: Result) -> Result:
        return result

    def set_replicas(self, count: int) -> None:
        raise ServeError("a ticker has no replicas")

    def stats(self, now_s: float) -> StationStats:
        return StationStats(queued=len(self._held))

    async def stop(self, grace_s: float = 5.0) -> None:
        self._held.clear()


def tandem() -> Plan:
    document = {
        "slo": {"latency": "1s"},
        "supply": {"cpu": {"price": "$1/h"}},
        "stages": {"a": {}, "b": {"after": "a"}},
    }
    rows = [Row(stage, "cpu", 1, 0.25) for stage in "ab"]
    return Plan(Spec.from_dict(document), Profile.from_rows(rows), {stage: ReplicaConfig("cpu") for stage in "ab"})


@pytest.mark.parametrize("place", ["a", "b"])
def test_one_pipeline_mixes_two_kinds_of_station(place: str) -> None:
    async def main() -> tuple[list[Answer], float]:
        plan = tandem()
        stations: dict[str, LiveStation] = {**fake_stations(plan), place: Ticker()}
        loop = asyncio.get_running_loop()
        engine = Engine(plan, stations=stations, clock=loop.time)
        await engine.start()
        await asyncio.sleep(0.1)
        answers = await asyncio.gather(*(engine.infer(Payload("text", b"x")) for _ in range(2)))
        done_s = loop.time()
        await engine.stop()
        return answers, done_s

    answers, done_s = run_virtual(main)
    assert [answer.results for answer in answers] == [(("b", Payload("text", b"x!")),)] * 2
    # Before the tick: two services of 0.25 s and the wait for it; after it: both services follow.
    assert done_s == pytest.approx(1.0 if place == "b" else 1.5)


class Counter(Ticker):
    """A ticker that sums up the items of requests that were refused."""

    refused_items = 0.0

    def refused(self, items: float) -> None:
        self.refused_items += items


def test_a_station_is_told_of_the_items_that_refused_requests_would_have_brought() -> None:
    document = {
        "slo": {"latency": "1s"},
        "supply": {"cpu": {"price": "$1/h"}},
        "stages": {"a": {}, "b": {"after": "a", "fan_out": 3}},
    }
    rows = [Row(stage, "cpu", 1, 0.25) for stage in "ab"]
    plan = Plan(Spec.from_dict(document), Profile.from_rows(rows), {stage: ReplicaConfig("cpu") for stage in "ab"})

    async def main() -> tuple[float, float]:
        counters = Counter(), Counter()
        stations: dict[str, LiveStation] = dict(zip("ab", counters, strict=True))
        limits = Limits(queue_limit=2)
        engine = Engine(plan, stations=stations, clock=asyncio.get_running_loop().time, limits=limits)
        with pytest.raises(Rejected, match="new"):
            engine.submit(Payload("text", b"x"), lambda answer: None)
        await engine.start()
        for _ in range(2):
            engine.submit(Payload("text", b"x"), lambda answer: None)
        for _ in range(4):
            with pytest.raises(Rejected, match="full"):
                engine.submit(Payload("text", b"x"), lambda answer: None)
        await engine.stop()
        return counters[0].refused_items, counters[1].refused_items

    assert run_virtual(main) == (4.0, 12.0), "and none before it was ready"


@given(st.lists(st.floats(-1e6, 1e6), max_size=30), st.integers(1, 8))
def test_a_ring_holds_the_last_rows_in_order(values: list[float], capacity: int) -> None:
    ring = Ring(capacity, 2)
    for value in values:
        ring.add(value, -value)
    kept = values[-capacity:] if values else []
    np.testing.assert_array_equal(ring.rows(), np.array([[v, -v] for v in kept]).reshape(-1, 2))


@given(st.lists(st.floats(0, 10), max_size=50))
def test_a_histogram_counts_every_value_once_at_or_below_its_bound(values: list[float]) -> None:
    histogram = Histogram((1.0, 2.0, 5.0))
    for value in values:
        histogram.observe(value)
    expected = [(str(bound), sum(value <= bound for value in values)) for bound in (1.0, 2.0, 5.0)]
    assert histogram.cumulative() == [*expected, ("+Inf", len(values))]
    assert histogram.total == pytest.approx(sum(values))


def test_restarts_wait_longer_and_longer_up_to_a_limit() -> None:
    waits_s = [backoff_s(failures) for failures in range(50)]
    assert waits_s == sorted(waits_s)
    assert (waits_s[0], waits_s[-1]) == (0.0, LONGEST_BACKOFF_S)


def test_pools_that_do_not_all_fit_are_not_pinned() -> None:
    document = {
        "slo": {"latency": "1s"},
        "supply": {"cpu": {"price": "$1/h", "pool": "a"}},
        "pools": {"a": {"cores": 2}, "b": {"cores": 1}},
        "stages": {"only": {}},
    }
    spec = Spec.from_dict(document)
    assert pool_cores(spec, (0, 1)) == {}
    assert pool_cores(spec, (4, 5, 6)) == {"a": (4, 5), "b": (6,)}
