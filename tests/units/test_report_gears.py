"""A cascade over time: what windows hold, the section of the report, and the table for the terminal."""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tests.units.test_report_html import PLAN
from tests.units.well_formed import checked

from headway.report.gears import gears, mix_words, timeline_view
from headway.report.html import render
from headway.report.story import Story
from headway.report.timeline import MOST_WINDOWS, UNKNOWN, Timeline, Window, windows

MODELS = ("small", "large")
GEARS = ("large", "small ≥ 0.9 → large", "small")


def made(requests: int = 300, seconds: float = 20.0, seed: int = 1) -> tuple[Window, ...]:
    """Windows of requests of which the late third is answered by the small model alone."""
    rng = np.random.default_rng(seed)
    arrival = np.sort(rng.random(requests)) * seconds
    model = np.where(arrival > seconds * 2 / 3, 0, rng.integers(0, 2, requests))
    held = [(at, (min(at, 10.0), 0.0, max(0.0, at - 10.0))) for at in np.arange(-1.0, seconds + 1, 0.3)]
    return windows(
        arrival, rng.exponential(0.05, requests), model, rng.random(requests) < 0.9, held, duration_s=seconds,
        models=2, percent=95.0, predicted_s=np.full(requests, 0.1),
    )  # fmt: skip


def timeline(seen: tuple[Window, ...], floor: float | None = 0.9) -> Timeline:
    return Timeline(GEARS, MODELS, seen, 0.1, 95.0, switches=4, accuracy=0.92, floor=floor)


@settings(max_examples=40, deadline=None)
@given(requests=st.integers(1, 200), seconds=st.floats(0.5, 500.0), seed=st.integers(0, 99))
def test_every_request_is_in_one_window_and_shares_are_whole(requests: int, seconds: float, seed: int) -> None:
    seen = made(requests, seconds, seed)
    assert 1 <= len(seen) <= MOST_WINDOWS
    assert sum(window.requests for window in seen) == sum(window.answered for window in seen) == requests
    assert (seen[0].start_s, seen[-1].end_s) == (0.0, seconds)
    assert all(before.end_s == after.start_s for before, after in itertools.pairwise(seen))
    for window in seen:
        assert sum(window.held) == pytest.approx(1.0)
        assert (window.accuracy is None) == (window.latency_s is None) == (window.requests == 0)


def test_gears_and_answers_stand_in_their_windows() -> None:
    seen = made()
    early, late = seen[0], seen[-1]
    assert early.held == pytest.approx((1.0, 0.0, 0.0))
    assert late.held == pytest.approx((0.0, 0.0, 1.0))
    assert late.exits[1] == 0 < late.exits[0]
    whole = timeline(seen)
    assert whole.held() == pytest.approx((0.5, 0.0, 0.5), abs=0.02)
    assert sum(whole.exits()) == 300


def test_what_was_not_answered_is_told_apart() -> None:
    latency = np.array([0.1, math.inf, math.inf])
    model, right = np.array([0, UNKNOWN, UNKNOWN]), np.array([True, False, False])
    (window,) = windows(np.array([0.0, 0.01, 0.02]), latency, model, right, [(0.0, [0.0]), (0.1, [0.1])],
                        duration_s=0.05, models=1, percent=95.0)[:1]  # fmt: skip
    assert (window.requests, window.answered, window.accuracy) == (3, 1, 1.0)
    assert window.latency_s == math.inf
    assert window.to_dict()["latency_s"] is None


@pytest.mark.parametrize("floor", [0.9, None])
def test_the_section_is_whole_and_says_what_happened(floor: float | None) -> None:
    unanswered = Window(20.0, 22.0, 5, (0.0, 0.0, 0.0), (0, 0), None, math.inf, None)
    story = Story("Digits", PLAN, timeline=timeline((*made(), unanswered), floor))
    said = " ".join(checked(render(story)).words)
    for words in ("Gears over time", "4 changes of gear", "92% of all answers were right", *GEARS, *MODELS):
        assert words in said
    assert ("at least 90% promised" in said) == (floor is not None)
    assert gears(Story("Digits", PLAN)) is None


def test_the_table_has_a_line_for_each_window() -> None:
    seen = made()
    assert "small and large" in mix_words(timeline(seen))
    console = Console(width=110, record=True, file=io.StringIO(), highlight=False)
    console.print(timeline_view(timeline(seen)))
    lines = [line.split() for line in console.export_text().splitlines() if "/s" in line]
    assert len(lines) == len(seen)
    first, last = lines[0], lines[-1]
    # In the dearest gear first, and at the end in the cheapest, where the small model answers everything.
    assert [first[1 + first[1:].index("1")], last[1 + last[1:].index("3")]] == ["1", "3"]
    assert "█" in last[last.index("3") + 1]
