"""Laws of the live station of a cascade, in virtual time: it decides as the simulator does, whatever dies."""

from __future__ import annotations

import asyncio
import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.laws.cascade_lives import Family, pair, plan_of, scenario
from tests.laws.cascade_systems import random_station

from headway.cascade import Cascade, Step, ValidationTable
from headway.domains.cascade.gears import Gear
from headway.domains.cascade.live_check import Checks
from headway.domains.cascade.live_drift import Drift
from headway.domains.cascade.live_station import CascadeLive
from headway.domains.cascade.rows import gear_row
from headway.domains.cascade.station import CascadeStation, Served
from headway.errors import ServeError
from headway.serve.engine import Answer, Engine, Limits
from headway.serve.gate import Rejected
from headway.serve.wire import Payload, Told
from headway.sim.station import Arrivals
from headway.testing.live import run_virtual

SEEDS = st.integers(0, 2**32 - 1)
ODD = 0.010 * 2**0.5
"""A unit of time with which sums of service times do not meet arrivals."""
STARTUP_S = 0.3


def odd_station(rng: np.random.Generator) -> CascadeStation:
    """A random cascade in which no two things happen at one instant, with mean service times."""
    station = random_station(rng, devices=int(rng.integers(1, 4)), gears=int(rng.integers(1, 4)))
    service_s = {
        name: (1 + 0.0137 * at + np.arange(size + 1)[:, None] ** 0.5) * ODD * (at + 1)
        for at, (name, size) in enumerate(station.plan.max_batch_size)
    }
    return CascadeStation("s", station.plan, service_s, station.table)


async def play(engine: Engine, arrival_s: np.ndarray, timeout_s: float) -> tuple[np.ndarray, list[Answer | None]]:
    """Offer a request at each time; return when each was answered (else infinite), and the answers (None: refused)."""
    loop = asyncio.get_running_loop()
    done_s = np.full(arrival_s.size, np.inf)
    found: list[Answer | None] = [None] * arrival_s.size
    await engine.start()

    def offer(at: int) -> None:
        def end(answer: Answer) -> None:
            assert found[at] is None, "answered twice"
            found[at] = answer
            if answer.status == "answered":
                done_s[at] = loop.time()

        # A cascade none of whose workers lives lets nothing in.
        with contextlib.suppress(Rejected):
            engine.submit(Payload("text", str(at).encode()), end, timeout_s)

    for at, time_s in enumerate(arrival_s.tolist()):
        loop.call_at(time_s, offer, at)
    await asyncio.sleep(float(arrival_s[-1]) + 1e-6)
    await engine.drain(1e6)
    await engine.stop()
    return done_s, found


def poisson(rng: np.random.Generator, items: int) -> np.ndarray:
    """Arrivals that come fast and slowly by turns."""
    rate = np.where(np.arange(items) % 40 < 25, 90.0, 12.0)
    return np.asarray(0.1 + np.cumsum(rng.exponential(1 / rate)))


def simulated(station: CascadeStation, arrival_s: np.ndarray, seed: int, timeout_s: float = math.inf) -> Served:
    items = np.arange(arrival_s.size, dtype=np.int32)
    deadline_s = arrival_s + timeout_s if math.isfinite(timeout_s) else np.empty(0)
    return station.serve(Arrivals(arrival_s, items, items, deadline_s), seed=seed, record=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cascade")


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from([math.inf, 0.15]))
def test_the_live_station_takes_the_gears_and_answers_of_the_simulator(
    folder: Path, seed: int, timeout_s: float
) -> None:
    rng = np.random.default_rng(seed)
    station, arrival_s = odd_station(rng), poisson(rng, 100)
    expected = simulated(station, arrival_s, seed, timeout_s)

    async def main() -> tuple[CascadeLive, np.ndarray, list[Answer | None]]:
        ours = Family(station, seed).live()
        engine = Engine(
            plan_of(station, folder),
            stations={"s": ours},
            clock=asyncio.get_running_loop().time,
            limits=Limits(queue_limit=0, keep_promise=False),
        )
        done_s, found = await play(engine, arrival_s, min(timeout_s, 1e6))
        return ours, done_s, found

    ours, done_s, found = run_virtual(main)
    switched = [(time_s, gear) for time_s, _, gear in ours.gears.switches]
    assert [gear for _, gear in switched] == [gear for _, gear in expected.switches]
    np.testing.assert_allclose([t for t, _ in switched], [t for t, _ in expected.switches], rtol=0, atol=1e-7)
    left = expected.departures
    by_item = np.full(arrival_s.size, np.inf)
    by_item[left.item] = left.done_s
    np.testing.assert_allclose(done_s, by_item, rtol=0, atol=1e-7)
    names = {int(item): station.plan.models[at] for item, at in zip(left.item, expected.answered_by, strict=True)}
    assert {at: told(answer)["model"] for at, answer in enumerate(found) if told(answer)} == names
    assert sum(ours.exits) == left.item.size
    assert ours.credit == pytest.approx(float(left.credit.sum()))


def told(answer: Answer | None) -> dict[str, Any]:
    assert answer is not None
    values = [value for _, value in answer.results]
    return dict(values[0].about) if values and isinstance(values[0], Told) else {}


@settings(max_examples=20, deadline=None)
@example(50_000, 7)
@given(SEEDS, st.integers(0, 12))
def test_every_item_is_answered_exactly_once_whatever_dies(folder: Path, seed: int, deaths: int) -> None:
    rng = np.random.default_rng(seed)
    station, arrival_s = odd_station(rng), poisson(rng, 60)
    family = Family(station, seed)

    async def main() -> tuple[Engine, CascadeLive, list[Answer | None]]:
        loop = asyncio.get_running_loop()
        checks = Checks(share=0.3, seed=seed)
        ours = family.live(checks=checks)
        engine = Engine(plan_of(station, folder), stations={"s": ours}, clock=loop.time)
        for at_s in rng.uniform(0.0, float(arrival_s[-1]), deaths):
            loop.call_at(at_s, lambda: family.workers[int(rng.integers(len(family.workers)))].die())
        _, found = await play(engine, arrival_s, timeout_s=3.0)
        return engine, ours, found

    engine, ours, found = run_virtual(main)
    status = ["rejected" if answer is None else answer.status for answer in found]
    assert engine.counts.in_flight == ours.queued == 0
    assert {name: status.count(name) for name in engine.counts.by_status} == engine.counts.by_status
    assert sum(ours.exits) == status.count("answered")


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_gears_follow_what_is_offered_whoever_is_let_in(folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    station, arrival_s = pair(alpha_per_s=0.0, devices=1), poisson(rng, 120)
    expected = simulated(station, arrival_s, seed)

    async def main() -> tuple[CascadeLive, list[Answer | None]]:
        loop = asyncio.get_running_loop()
        ours = Family(station, seed).live()
        limits = Limits(queue_limit=1, keep_promise=False)
        engine = Engine(plan_of(station, folder), stations={"s": ours}, clock=loop.time, limits=limits)
        _, found = await play(engine, arrival_s, 1e6)
        return ours, found

    ours, found = run_virtual(main)
    assert None in found, "one that waits is all that is let in"
    switched = [(time_s, gear) for time_s, _, gear in ours.gears.switches]
    assert [gear for _, gear in switched] == [gear for _, gear in expected.switches]
    np.testing.assert_allclose([t for t, _ in switched], [t for t, _ in expected.switches], rtol=0, atol=1e-7)


def test_a_dear_gear_does_not_keep_itself_by_refusing_what_it_cannot_carry(folder: Path) -> None:
    async def play(engine: Engine, ours: CascadeLive) -> tuple[int, int]:
        await ask(engine, 8, 0.06)
        before = ours.gears.gear
        for _ in range(300):
            with contextlib.suppress(Rejected):
                engine.submit(Payload("text", b"0"), lambda answer: None, 1e6)
            await asyncio.sleep(1 / 150)
        return before, ours.gears.gear

    slow = pair(devices=1)
    slow.service_s["large"][:] = 0.1
    found = scenario(Family(slow), folder, play, limits=Limits(queue_limit=1, keep_promise=False))
    assert found == (0, 1), "150 requests a second come, of which a dozen are let in"


async def ask(engine: Engine, count: int, gap_s: float) -> list[dict[str, Any]]:
    """Send requests one after the other; return what their answers tell."""
    found = []
    for at in range(count):
        answer = await engine.infer(Payload("text", str(at).encode()))
        assert answer.status == "answered"
        found.append(told(answer))
        await asyncio.sleep(gap_s)
    return found


def test_a_lost_device_is_a_change_of_gear_and_so_is_its_return(folder: Path) -> None:
    async def play(engine: Engine, ours: CascadeLive) -> None:
        await ask(engine, 12, 0.05)
        assert ours.gears.key == (False, 0)
        assert (await ask(engine, 1, 0.05))[0]["model"] == "large"
        small, large = (replica.worker for replica in ours._devices.all[0].replicas.values())
        assert small is not None
        assert large is not None
        await small.stop()
        await asyncio.sleep(0.1)
        assert not ours.gears.lost, "its other worker lives"
        await large.stop()
        await asyncio.sleep(0.1)
        assert ours.gears.key[0]
        assert engine.ready
        assert (await ask(engine, 1, 0.0))[0]["model"] == "small"
        await asyncio.sleep(1.0)
        assert not ours.gears.lost, "workers that died are replaced"
        held_s = ours.gears.held_until(engine.clock())
        assert held_s[True, 0] + held_s[True, 1] > 0
        assert sum(held_s.values()) == pytest.approx(engine.clock() - STARTUP_S)

    scenario(Family(pair(), start_s=STARTUP_S), folder, play)


def test_a_model_that_can_no_longer_be_started_is_passed_over(folder: Path) -> None:
    async def play(engine: Engine, ours: CascadeLive) -> None:
        for device in ours._devices.all:
            replica = device.replicas[1]

            async def broken() -> Any:
                raise ServeError("there is no such file any more")

            replica._start = broken
            assert replica.worker is not None
            await replica.worker.stop()
        await asyncio.sleep(0.5)
        assert [told["model"] for told in await ask(engine, 8, 0.01)] == ["small"] * 8

    scenario(Family(pair(), start_s=STARTUP_S), folder, play)


def test_a_few_answers_are_looked_at_again_when_nothing_else_is_to_do(folder: Path) -> None:
    async def play(engine: Engine, ours: CascadeLive) -> dict[str, Any]:
        ours.gears.lose(True, engine.clock(), 0)
        await ask(engine, 400, 0.03)
        about: dict[str, Any] = engine.stats()["stages"]["s"]["cascade"]
        return about

    about = scenario(Family(pair(), start_s=STARTUP_S), folder, play, checks=Checks(share=0.2))
    assert about["exits"]["small"] > 250
    assert 30 < about["checks"]["small"]["agreed"] < 120
    assert "disagreed" in about["checks"]["small"]
    assert about["checks"]["small"]["disagreed"] == 0, "what small is certain of it is right about"
    assert about["drift"] == []
    assert about["accuracy"] == 1.0


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.booleans())
def test_items_of_another_kind_are_noticed_and_those_of_the_table_are_not(seed: int, other: bool) -> None:
    rng = np.random.default_rng(seed)
    sure = rng.beta(4, 2, 2_000)
    labels = rng.integers(0, 2, 2_000)
    agrees = rng.random(2_000) < sure
    table = ValidationTable(
        labels, {"small": np.where(agrees, labels, 1 - labels), "large": labels}, {"small": sure, "large": sure}
    )
    drift = Drift(table, ("small", "large"), "s")
    row = gear_row(Gear(Cascade((Step("small", threshold=0.5), Step("large"))), 9.0, (1, 1)), ("small", "large"))
    for _ in range(4_000):
        certainty = float(rng.beta(2, 2) if other else rng.beta(4, 2))
        drift.certain(0, certainty, first=True)
        if certainty >= 0.5:
            drift.check(row, 0, 1, bool(rng.random() < (0.3 if other else certainty)))
    assert set(drift.warnings) == ({"certainty of small", "agreement"} if other else set())
