"""Items per item of the parent: what calibration finds of the spec's edges, and when it says nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from headway.profile import RecordedVisits
from headway.profile.passing import findings, passed_on
from headway.report.calibration import calibration_view
from headway.serve.calibrate import fit
from headway.spec.graph import Graph, GraphEdge
from headway.spec.model import Spec
from headway.testing.examples import tiny_plan
from headway.testing.observed import simulated_observation
from headway.trace import Trace


def graph(probability: float = 0.5, fan_out: float = 1.0) -> Graph:
    return Graph.build({"a": {}, "b": {"a": GraphEdge("a", "b", probability, fan_out)}, "c": {"b": ONCE}})


ONCE = GraphEdge("b", "c", 1.0, 1.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 1.0))
def test_the_interval_of_a_drawn_edge_holds_its_probability(seed: int, probability: float) -> None:
    drawn = np.random.default_rng(seed).random(20_000) < probability
    found = passed_on(np.ones(drawn.size, np.int64), drawn.astype(np.int64))
    assert found is not None
    # The interval holds 95 %; two and a half times as wide it misses once in a million.
    assert abs(found.value - probability) <= 2.5 * found.half


@pytest.mark.parametrize(
    ("declared", "fan_out", "per_item", "field", "value"),
    [
        (0.5, 1.0, 0.2, "probability", 0.2),
        (0.5, 1.0, 2.0, "fan_out", 4.0),
        (0.5, 3.0, 2.0, "fan_out", 4.0),
        (0.5, 1.0, 0.5, None, None),
        (0.5, 4.0, 2.0, None, None),
    ],
)
def test_the_field_to_change_gets_the_value_that_was_observed(
    declared: float, fan_out: float, per_item: float, field: str | None, value: float | None
) -> None:
    number = np.arange(3000)
    below = np.repeat(number[::5], 1) if per_item == 0.2 else np.repeat(number, 2) if per_item == 2.0 else number[::2]
    found = findings(graph(declared, fan_out), {"a": number, "b": below, "c": below})
    # What comes after follows its parent: no second finding for one cause.
    assert [(each.stage, each.field, each.value) for each in found] == ([("b", field, value)] if field else [])


def test_visits_recorded_with_samples_are_what_is_compared() -> None:
    number = np.arange(3000)
    seen = {"a": number, "b": number[::5], "c": number[::5]}
    alike = RecordedVisits({"a": (1,) * 5, "b": (1, 0, 0, 0, 0), "c": (1, 0, 0, 0, 0)})
    assert findings(graph(), seen, alike) == ()
    (found,) = findings(graph(), seen, RecordedVisits({"a": (1, 1), "b": (1, 0), "c": (1, 0)}))
    assert (found.predicted, found.value) == (0.5, None)
    assert "profile again, with samples like what is sent" in found.text
    # A stage that no sample reached goes by the spec.
    (found,) = findings(graph(), seen, RecordedVisits({"a": (1, 1), "b": (0, 0), "c": (0, 0)}))
    assert (found.field, found.value) == ("probability", 0.2)


def test_few_items_and_none_at_all_are_told_for_what_they_are() -> None:
    few = np.arange(20)
    assert findings(graph(), {"a": few, "b": few[:0], "c": few[:0]}) == ()
    number = np.arange(3000)
    (found,) = findings(graph(), {"a": number, "b": number[:0], "c": number[:0]})
    assert (found.value, "look whether what was sent" in found.text) == (None, True)


def test_a_calibration_says_what_to_put_into_the_spec() -> None:
    plan = tiny_plan()
    document = plan.spec.to_dict()
    document["stages"]["second"]["probability"] = 0.9
    told = replace(plan, spec=Spec.from_dict(document))
    seen = simulated_observation(plan, Trace.poisson(rate=20, seconds=60, seed=2))
    found = fit(told, seen).to_dict()
    (finding,) = found["findings"]
    assert (finding["stage"], finding["field"], finding["declared"]) == ("second", "probability", 0.9)
    assert finding["value"] == pytest.approx(0.5, abs=0.06)
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(calibration_view(found))
    assert f"put stages.second.probability: {finding['value']} into the spec, which says 0.9" in capture.get()
    assert fit(plan, seen).findings == ()
