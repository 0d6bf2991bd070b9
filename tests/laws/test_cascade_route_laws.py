"""Items whose hardness a worker is asked about: each goes on exactly once, whatever becomes of the worker."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.cascade_lives import Family, pair, scenario, with_gears

from headway.cascade import Cascade, Step, ValidationTable
from headway.domains.cascade.gears import Gear
from headway.domains.cascade.live_drift import Drift
from headway.domains.cascade.live_flow import Ask
from headway.domains.cascade.live_route import Router
from headway.domains.cascade.live_station import CascadeLive
from headway.serve.engine import Answer, Engine
from headway.serve.wire import Failure, Input, Payload, Result, Told
from headway.testing.live import FakeWorker, fake_starter

BOTH = Gear(Cascade((Step("small", threshold=0.5), Step("large"))), 1000.0, (1, 1), skip=(0.5,))


def hardness(inputs: Sequence[Input]) -> list[Result]:
    """The number that an input is, or a failure."""
    found = []
    for item in inputs:
        assert isinstance(item, Payload)
        text = item.data.decode()
        bad = Result(error=Failure("ValueError", "could not convert"))
        found.append(bad if text == "odd" else Result(value=Payload("raw", struct.pack("<d", float(text)))))
    return found


def routed(workers: list[FakeWorker]) -> Router[Ask]:
    return Router("s", fake_starter(lambda n: 0.002, hardness, workers), lambda ask: ask.work.payload)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cascade")


def model_of(answer: Answer) -> str:
    ((_, value),) = answer.results
    assert isinstance(value, Told)
    return str(value.about["model"])


def test_hard_items_begin_at_a_later_step_and_those_of_unknown_hardness_at_the_first(folder: Path) -> None:
    family, workers = Family(pair()), list[FakeWorker]()

    async def play(engine: Engine, ours: CascadeLive) -> None:
        texts = ["0.9", "0.1", "0.5", "nan", "odd"] * 20
        answers = await asyncio.gather(*(engine.infer(Payload("text", text.encode())) for text in texts))
        models = [(text, model_of(answer)) for text, answer in zip(texts, answers, strict=True)]
        assert {model for text, model in models if text in ("0.9", "0.5")} == {"large"}
        # Three of four samples are answered by the small model where it is asked.
        assert {model for text, model in models if text not in ("0.9", "0.5")} == {"small", "large"}
        assert ours.skipped == 40
        assert max(workers[0].batches) > 1, "what waits is looked at together"

    scenario(family, folder, play, plan=with_gears(family.station.plan, BOTH), router=routed(workers))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 8))
def test_every_item_goes_on_exactly_once_whatever_dies(folder: Path, seed: int, deaths: int) -> None:
    rng = np.random.default_rng(seed)
    family, workers = Family(pair(), start_s=0.05), list[FakeWorker]()
    items = 50

    async def play(engine: Engine, ours: CascadeLive) -> None:
        loop = asyncio.get_running_loop()
        for at_s in rng.uniform(0.0, 1.5, deaths):
            loop.call_later(at_s, lambda: workers[-1].die())
        found: list[list[Answer]] = [[] for _ in range(items)]
        for ends in found:
            engine.submit(Payload("text", f"{rng.random():.3f}".encode()), ends.append, 1e6)
            await asyncio.sleep(float(rng.exponential(0.02)))
        await engine.drain(1e6)
        assert [[answer.status for answer in ends] for ends in found] == [["answered"]] * items
        assert sum(ours.exits) == items
        assert ours.queued == 0

    scenario(family, folder, play, plan=with_gears(family.station.plan, BOTH), router=routed(workers))


@pytest.mark.parametrize("harder", [False, True])
def test_items_that_are_harder_than_those_of_the_table_are_noticed(harder: bool) -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(1_000) % 2
    table = ValidationTable(labels, {"small": labels}, {"small": np.full(1_000, 0.9)}, hardness=rng.random(1_000))
    drift = Drift(table, ("small",), "s")
    for _ in range(3_000):
        drift.hard(float(rng.random() ** (0.5 if harder else 1.0)))
    assert list(drift.warnings) == (["hardness"] if harder else [])
