"""Laws of changing a live plan, in virtual time and under load: nothing is lost, doubled, reordered or half-done."""

from __future__ import annotations

import asyncio

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.units.swapping import Fakes, assert_whole, but, make_plan, play

from headway.plan.plan import Plan
from headway.serve.engine import Answer, Engine
from headway.serve.swap import SwapRefused
from headway.serve.watch import Seen, Watch, worse
from headway.serve.wire import Payload

STAGES: dict[str, dict[str, object]] = {
    "a": {},
    "b": {"after": "a", "probability": 0.7},
    "c": {"after": "a", "fan_out": 2},
    "d": {"after": "b"},
}
REQUESTS = 120

changes = st.fixed_dictionaries(
    {},
    optional={
        **{f"{name}__replicas": st.integers(1, 3) for name in STAGES},
        **{f"{name}__max_batch_size": st.sampled_from([1, 8]) for name in STAGES},
        **{f"{name}__max_wait_s": st.sampled_from([0.0, 0.003]) for name in STAGES},
        "a__hardware": st.sampled_from(["cpu", "gpu"]),
        "d__hardware": st.sampled_from(["cpu", "gpu"]),
    },
)
swaps = st.tuples(
    changes,
    st.floats(0.0, 0.3),  # when, after the one before
    st.floats(0.0, 0.2),  # how long starts take
    st.sampled_from([0.0, 0.05, 0.5]),  # how long it is watched
    st.booleans(),  # whether it supersedes
    st.sampled_from(["", "", "a", "c"]),  # a stage whose workers cannot be started
)


async def offer_all(engine: Engine, rate_per_s: float, rng: np.random.Generator) -> list[list[Answer]]:
    """Offer requests one after the other; conservation is checked at each of them."""
    answers: list[list[Answer]] = [[] for _ in range(REQUESTS)]
    for number, found in enumerate(answers):
        engine.submit(Payload("text", str(number).encode()), found.append, 1e6)
        counts = engine.counts
        assert counts.offered == number + 1 == sum(counts.by_status.values()) + counts.in_flight
        assert_whole(engine)
        await asyncio.sleep(float(rng.exponential(1.0 / rate_per_s)))
    return answers


async def change_all(engine: Engine, fakes: Fakes, asked: list[tuple[object, ...]]) -> None:
    waited_for = []
    for fields, pause_s, start_s, window_s, supersede, broken in asked:
        await asyncio.sleep(float(pause_s))  # type: ignore[arg-type]
        fakes.start_s = lambda stage, start_s=start_s: float(start_s)  # type: ignore[misc]
        fakes.fails = lambda stage, broken=broken: stage == broken  # type: ignore[misc]
        new = but(engine.plan, **fields)  # type: ignore[arg-type]
        asking = asyncio.ensure_future(
            engine.swap(new, Watch(float(window_s), miss_tolerance=0.02), supersede=bool(supersede))  # type: ignore[arg-type]
        )
        await asyncio.sleep(float(pause_s))  # type: ignore[arg-type]
        assert_whole(engine)
        waited_for.append((asking, new.hash))
    for asking, wanted in waited_for:
        (answer,) = await asyncio.gather(asking, return_exceptions=True)
        assert answer.status in (409, 422) if isinstance(answer, SwapRefused) else answer["to"] == wanted
        assert_whole(engine)
    fakes.fails = lambda stage: False


@settings(max_examples=20)
@given(st.lists(swaps, min_size=1, max_size=6), st.sampled_from([30.0, 90.0]), st.integers(0, 10**6))
def test_no_sequence_of_changes_loses_doubles_or_reorders_anything(
    asked: list[tuple[object, ...]], rate_per_s: float, seed: int
) -> None:
    async def scenario(engine: Engine, fakes: Fakes) -> None:
        rng = np.random.default_rng(seed)
        answers, _ = await asyncio.gather(offer_all(engine, rate_per_s, rng), change_all(engine, fakes, asked))
        await engine.drain(1e6)
        assert [len(found) for found in answers] == [1] * REQUESTS
        for number, (answer,) in enumerate(answers):
            assert answer.status == "answered"
            assert {payload.data for _, payload in answer.results} == {str(number).encode()}
        for name, record in engine.records.items():
            rows = record.ring.rows()
            rows = rows[np.lexsort((rows[:, 2], rows[:, 1]))]
            assert (np.diff(rows[:, 2]) >= 0).all(), f"stage {name}: an item overtook another in its queue"
        assert engine.pool("host").free == 3

    play(make_plan(STAGES, pool=3), scenario, queue_limit=0, keep_promise=False)


@settings(max_examples=20)
@given(st.lists(swaps, min_size=1, max_size=4))
def test_every_replica_that_was_ever_started_serves_or_has_been_stopped_in_the_end(
    asked: list[tuple[object, ...]],
) -> None:
    plan = make_plan(STAGES, pool=4)

    async def scenario(engine: Engine, fakes: Fakes) -> Plan:
        await change_all(engine, fakes, asked)
        await asyncio.sleep(30.0)
        assert engine.swaps.to_dict()["state"] == "idle"
        alive = sum(not worker._dead.is_set() for worker in fakes.workers)
        assert alive == sum(config.to_dict()["replicas"] for config in engine.plan.stages.values())
        states = [stage["replicas"] for stage in engine.stats()["stages"].values()]
        assert all(state["starting"] == state["draining"] == 0 for state in states)
        return engine.plan

    play(plan, scenario)


@settings(max_examples=100)
@given(st.integers(1, 500), st.integers(0, 500), st.integers(1, 500), st.integers(0, 500), st.floats(0.0, 0.5))
def test_a_verdict_needs_more_misses_at_no_more_load(
    before: int, missed_before: int, after: int, missed_after: int, tolerance: float
) -> None:
    old = Seen(10.0, before, before, min(missed_before, before))
    new = Seen(10.0, after, after, min(missed_after, after))
    if worse(old, new, Watch(miss_tolerance=tolerance)) is not None:
        assert new.share > old.share + tolerance
        assert after <= 1.1 * before + 3 * (1.1 * before) ** 0.5
