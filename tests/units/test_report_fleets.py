"""Reports of fleets: figures over all and by class, and the page on engines that were measured."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.units.fleet_specs import llm_spec

from headway.domains.fleet.config import LlmConfig
from headway.plan.plan import Plan
from headway.profile import Profile
from headway.report.fleets import Compared, fleets, measured_page
from headway.report.html import document, render
from headway.report.story import Story

TOLD: dict[str, Any] = {
    "model": "tiny <1B>", "policy": "first-token", "within": True, "duration_s": 30.0, "sample": "Once & never",
    "requests": {"offered": 3, "answered": 3}, "tokens": {"input": 300, "output": 60},
    "routed": {"one": {"simulated": 2, "measured": 1}, "two": {"simulated": 1, "measured": 2}},
    "why": {"its engine had nothing to do": 3}, "classes": {"short": {"simulated": 1.0, "measured": 0.5}},
    "engines": {name: {"floor_s": 0.0, "overhead_s": 0.01, "token_s": 0.02, "kv_token_s": 0.0, "error_ratio": 0.1}
                for name in ("one", "two")},
    "policies": {"first-token": {"ttft_mean_s": 1.0, "ttft_p95_s": 2.0, "e2e_mean_s": 3.0, "e2e_p95_s": 4.0}},
}  # fmt: skip


def story(figures: dict[str, float | None]) -> Story:
    plan = Plan(llm_spec(), Profile.from_rows(()), {"answer": LlmConfig("a100-80gb", 2)})
    return Story("A fleet", plan, predicted={"stages": {"answer": {"figures": figures}}})


def test_a_fleet_tells_what_one_latency_hides() -> None:
    figures: dict[str, float | None] = {
        "ttft_p99_s": 0.5, "e2e_p99_s": None, "goodput_per_s": 3.25, "wasted_ratio": 0.125, "slowdown_p99": 4.5,
        "chat.ttft_p99_s": 0.25, "chat.kept_ratio": 0.75,
    }  # fmt: skip
    text = str(fleets(story(figures)))
    for said in ("500\u00a0ms", "3.25/s", "12.5%", "4.5×", "first token 2\u00a0s", "75%", "250\u00a0ms"):
        assert said in text
    assert "batch" not in text
    assert "Fleet" in render(story(figures))


def test_a_plan_without_fleets_has_no_such_section() -> None:
    assert fleets(story({})) is None


def test_how_far_off_a_simulation_is_has_an_interval_over_requests() -> None:
    off = Compared("x", np.array([1.0, 2.0, 3.0]), np.array([1.2, 2.2, 3.2])).off
    assert off.mean == pytest.approx(0.1)
    assert off.low == pytest.approx(0.1)
    assert math.isnan(Compared("x", np.array([1.0]), np.array([2.0])).off.low)


def test_the_page_shows_everything_and_escapes_what_is_from_outside() -> None:
    times = [Compared(name, np.array([0.5, 1.0, 2.0]), np.array([0.6, 1.0, 2.5])) for name in ("first", "last")]
    page = document("Demo", *measured_page(TOLD, times, [("one", 200.0, 100.0), ("two", 100.0, 200.0)]))
    assert "tiny &lt;1B&gt;" in page
    assert "Once &amp; never" in page
    assert page.count("<svg") == 2 * (len(times) + 1)
    for said in ("Promises", "its engine had nothing to do", "first-token (sent)", "Predicted within 15 %"):
        assert said in page
    worse = document("Demo", *measured_page(json.loads(json.dumps({**TOLD, "within": False})), times, []))
    assert "Predicted worse than within 15 %" in worse


def test_phrases_break_over_lines_so_that_figures_stay_in_sight_and_rejections_are_explained() -> None:
    told = {"requests": 1, "first": 4, "input_tokens": 90_000, "context_tokens": 94_096, "kv_tokens": 80_000}
    figures: dict[str, float | None] = {"e2e_mean_s": 2.0, "e2e_p99_s": None, "chat.kept_ratio": 0.99}
    made = story(figures)
    predicted = {"stages": {"answer": {"figures": figures, "rejected": told}}}
    page = render(replace(made, predicted=predicted))
    assert '<th class="note" scope="col">set up</th>' in page
    assert '<th class="note" scope="col">promised</th>' in page
    assert "may need 94,096 tokens, 90,000 in its prompt; an engine holds 80,000." in page
