"""What a cascade did in a run: counted alike simulated and served, between two looks at a server, and read back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.laws.cascade_systems import random_station

from headway.domains.cascade.record import CHANGES_TOLD, CascadeRecord, told, told_between
from headway.sim.station import Arrivals

MODELS = ("small", "large")
COUNTS = st.fixed_dictionaries({name: st.integers(0, 1000) for name in MODELS})
GEARS = [(False, 0), (False, 1), (True, 0)]


@st.composite
def records(draw: st.DrawFn, labeled: bool = True) -> CascadeRecord:
    held = {gear: draw(st.integers(0, 100)) / 4 for gear in GEARS}
    exits = draw(COUNTS)
    credit = float(draw(st.integers(0, sum(exits.values())))) if labeled else None
    return CascadeRecord(held, draw(st.integers(0, 9)), exits, draw(COUNTS), draw(st.integers(0, 9)), credit)


def plus(a: CascadeRecord, b: CascadeRecord) -> CascadeRecord:
    return CascadeRecord(
        {gear: a.held_s[gear] + b.held_s[gear] for gear in GEARS}, a.switches + b.switches,
        {name: a.exits[name] + b.exits[name] for name in MODELS},
        {name: a.escalations[name] + b.escalations[name] for name in MODELS},
        a.skipped + b.skipped, None if a.credit is None or b.credit is None else a.credit + b.credit,
    )  # fmt: skip


@given(records(), records())
def test_what_came_since_is_what_was_added(before: CascadeRecord, more: CascadeRecord) -> None:
    assert plus(before, more).since(before) == more


@given(st.booleans().flatmap(records))
def test_it_is_read_back_as_it_was_written(record: CascadeRecord) -> None:
    assert CascadeRecord.of(json.loads(json.dumps(record.to_dict()))) == record


@given(records())
def test_accuracy_is_of_the_answers(record: CascadeRecord) -> None:
    accuracy = record.accuracy
    assert (accuracy is None) == (record.answered == 0)
    assert accuracy is None or 0.0 <= accuracy <= 1.0


def test_without_labels_nothing_is_said_of_accuracy() -> None:
    record = CascadeRecord({}, 0, {"small": 3}, {"small": 0}, 0, credit=None)
    assert record.to_dict()["accuracy"] is None
    assert record.since(record).credit is None


@given(records(), records(), st.integers(0, 30))
def test_a_run_is_told_by_what_changed_during_it(before: CascadeRecord, more: CascadeRecord, kept: int) -> None:
    """The server keeps changes from before the run, and no more than so many."""
    after = plus(before, more)
    changes = [[100.0 + at, False, at % 2] for at in range(after.switches)][-kept:] if kept else []
    first: dict[str, Any] = {"cascade": {**before.to_dict(), "gear": 1, "less_one": False}}
    last: dict[str, Any] = {"cascade": {**after.to_dict(), "gear": 0, "less_one": False}, "gear_changes": changes}
    found, accuracy = told_between(first, last, zero_s=100.0)
    assert found["cascade"] == more.to_dict()
    assert accuracy == more.accuracy
    begin, *others = found["gear_history"]
    assert begin == {"from_s": 0.0, "gear": 1, "less_one": False}
    assert [row["from_s"] for row in others] == [at_s - 100.0 for at_s, *_ in changes][-more.switches or len(changes) :]


def test_only_so_many_changes_are_told_and_all_are_counted() -> None:
    record = CascadeRecord({(False, 0): 1.0}, 5000, {"small": 1}, {"small": 0}, 0, 1.0)
    found = told(record, ((float(at), False, at % 2) for at in range(5001)))
    assert len(found["gear_history"]) == 1 + CHANGES_TOLD
    assert found["cascade"]["switches"] == 5000


@given(st.integers(0, 2**32 - 1))
def test_the_simulator_counts_every_item_once_and_every_second_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    station = random_station(rng, devices=int(rng.integers(1, 4)), gears=int(rng.integers(1, 4)))
    n = int(rng.integers(1, 120))
    arrival_s, items = np.sort(rng.random(n)) * rng.choice([0.5, 5.0]), np.arange(n, dtype=np.int32)
    served = station.serve(Arrivals(arrival_s, items, items), seed=seed % 7, record=True)
    left, record = served.departures, CascadeRecord.of(served.departures.told["cascade"])
    assert record.answered == left.done_s.size == n
    assert record.accuracy == left.accuracy
    assert sum(record.held_s.values()) >= left.done_s[-1] - arrival_s[0] - 1e-9
    # Whoever is asked answers or hands on, and what is handed on is asked again.
    asked_again = sum(record.escalations.values())
    assert record.escalations[station.plan.models[-1]] == 0 <= asked_again <= n * (len(station.plan.models) - 1)
    history = left.told["gear_history"]
    assert len(history) == 1 + record.switches == 1 + len(served.switches)
    assert history[0] == {
        "from_s": round(float(arrival_s[0]), 6),
        "gear": len(station.plan.gears) - 1,
        "less_one": False,
    }
    assert not station.serve(Arrivals(arrival_s, items, items), seed=seed % 7, record=False).departures.told
