"""Laws of what the report draws: curves hold all requests, stages stand apart, and edges run forward."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.units.well_formed import checked

from headway.domains.pipeline.declare import ReplicaConfig
from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.report import curves
from headway.report.graph_view import CLOSE, NARROW, TALL, WIDE, Look, pipeline_drawing
from headway.sim.outcome import percentile
from headway.spec.model import Spec
from headway.trace import Trace


@given(st.lists(st.floats(min_value=1e-4, max_value=1e3), min_size=1, max_size=400), st.integers(0, 20))
def test_tail_is_the_share_of_slower_requests(finite: list[float], unanswered: int) -> None:
    latency: NDArray[np.float64] = np.sort(np.array([*finite, *[np.inf] * unanswered]))
    curve = curves.tail(latency, points=50)
    assert all(share == pytest.approx(np.mean(latency > value)) for value, share in curve)
    assert curve == sorted(curve, key=lambda point: (point[0], -point[1]))
    assert len(curve) <= 52
    assert curve[-1] == pytest.approx((max(finite), unanswered / latency.size))
    # The nearest-rank percentile is the first value that few enough requests exceed, on the curve as in the outcome.
    within = [value for value, share in curves.tail(latency, points=10_000) if share <= 0.05 + 1e-12]
    assert (within[0] if within else np.inf) == percentile(latency, 95)


@given(st.lists(st.floats(0, 5000), min_size=1, max_size=200), st.floats(0.001, 1e6))
def test_rates_add_up_to_the_requests(arrivals: list[float], longer_s: float) -> None:
    trace = Trace.from_arrivals(sorted(arrivals), duration_s=max(arrivals) + longer_s)
    bin_s, curve = curves.rate_over_time(trace)
    lengths = [min(bin_s, trace.duration_s - start) for start, _ in curve]
    assert sum(rate * length for (_, rate), length in zip(curve, lengths, strict=True)) == pytest.approx(len(arrivals))
    assert len(curve) <= 120


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans of random graphs, named with up to the longest names."""
    count = draw(st.integers(1, 9))
    names = [f"{'s' * draw(st.sampled_from([1, 8, 60]))}{index}" for index in range(count)]
    stages: dict[str, Any] = {}
    for index, name in enumerate(names):
        parents = draw(st.lists(st.sampled_from(names[:index]), unique=True, max_size=3)) if index else []
        stages[name] = {"after": parents} if parents else {}
        if len(parents) == 1:
            stages[name] |= {
                "probability": draw(st.sampled_from([1.0, 0.3])),
                "fan_out": draw(st.sampled_from([1, 2.5])),
            }
    spec = Spec.from_dict({"slo": {"latency": "1s"}, "supply": {"cpu": {"price": "$1/h"}}, "stages": stages})
    profile = Profile.from_rows(Row(name, "cpu", 1, 0.01) for name in names)
    used = {name: {"utilization": draw(st.floats(0, 1.5))} for name in names}
    return Plan(spec, profile, {name: ReplicaConfig("cpu") for name in names}, stage_predictions=used)


@settings(max_examples=60, deadline=None)
@given(plans(), st.sampled_from([WIDE, CLOSE, TALL, NARROW]))
def test_stages_do_not_overlap_and_edges_run_forward(plan: Plan, look: Look) -> None:
    svg = pipeline_drawing(plan, look)
    checked(svg)
    width, height = (float(size) for size in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0])
    boxes = [
        tuple(map(float, box))
        for box in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)" class="node"', svg)
    ]
    assert len(boxes) == len(plan.stages)
    for index, (x, y, w, h) in enumerate(boxes):
        assert x >= 0
        assert x + w <= width
        assert y >= 0
        assert y + h <= height
        for x2, y2, w2, h2 in boxes[:index]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y
    edges = sum(len(edges) for edges in plan.spec.graph.parents.values())
    paths = re.findall(r'd="M([\d.]+) ([\d.]+)C.*?([\d.]+) ([\d.]+)" class="edge"', svg)
    assert len(paths) == edges
    start, end = (1, 3) if look.down else (0, 2)
    assert all(float(path[start]) < float(path[end]) for path in paths)
