"""The terminal picture of a trace and its figures."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from headway.report.trace_view import PICTURE_ROWS, rate_picture, trace_summary, trace_table
from headway.trace import Trace

STEADY = Trace.from_arrivals(np.arange(1200) / 10.0, duration_s=120.0, name="steady")


def printed(trace: Trace, width: int, encoding: str) -> str:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding) as file:
        Console(file=file, width=width).print(trace_table(trace))
        file.flush()
        return raw.getvalue().decode(encoding)


def test_summary_of_an_even_load() -> None:
    summary = trace_summary(STEADY)
    assert summary["requests"] == 1200
    assert summary["rate_per_s"] == 10.0
    assert summary["peak_rate_per_s"]["60s"] == pytest.approx(10.0, rel=0.01)
    assert summary["interarrival_cv"] == pytest.approx(0.0, abs=1e-9)
    assert summary["index_of_dispersion"] == 0.0
    assert summary["longest_gap_s"] == pytest.approx(0.1)
    assert [row["window_s"] for row in summary["envelope"]][-1] == 60.0


def test_summary_of_random_loads_tells_them_apart() -> None:
    poisson = trace_summary(Trace.poisson(50.0, 600.0, seed=1))
    bursty = trace_summary(Trace.gamma(50.0, 4.0, 600.0, seed=1))
    assert poisson["interarrival_cv"] == pytest.approx(1.0, rel=0.05)
    assert poisson["index_of_dispersion"] == pytest.approx(1.0, rel=0.25)
    assert bursty["interarrival_cv"] == pytest.approx(4.0, rel=0.1)
    assert bursty["index_of_dispersion"] == pytest.approx(16.0, rel=0.35)
    assert bursty["peak_rate_per_s"]["1s"] > poisson["peak_rate_per_s"]["1s"]


def test_longest_gap_counts_both_ends() -> None:
    summary = trace_summary(Trace.from_arrivals([1.0, 2.0, 4.0], {"size": [1, 2, 30]}, duration_s=20.0))
    assert (summary["longest_gap_s"], summary["longest_gap_at_s"]) == (16.0, 4.0)
    assert summary["columns"]["size"] == {"min": 1.0, "mean": 11.0, "p50": 2.0, "p99": 30.0, "max": 30.0}


@pytest.mark.parametrize(
    "trace",
    [
        STEADY,
        Trace.from_arrivals([0.0]),
        Trace.from_arrivals([0.0, 0.0, 0.0], {"x": [1, 2, 3]}, duration_s=1e-9),
        Trace.from_arrivals([1e-320, 1e-310]),
        Trace.from_counts([0, 0, 0]),
        Trace.from_arrivals([], {"x": []}, duration_s=5.0),
    ],
)
@pytest.mark.filterwarnings("error")
def test_every_trace_has_a_json_summary_and_a_picture(trace: Trace) -> None:
    json.dumps(trace_summary(trace), allow_nan=False)
    for encoding in ("utf-8", "ascii"):
        for width in (40, 80, 200):
            text = printed(trace, width, encoding)
            assert f"{trace.requests:,} request" in " ".join(text.split())
            assert max(len(line) for line in text.splitlines()) <= width


def test_blocks_only_where_they_can_be_printed() -> None:
    assert "█" in printed(STEADY, 80, "utf-8")
    assert "#" in printed(STEADY, 80, "ascii")


def test_the_picture_has_the_shape_of_the_load() -> None:
    lines = rate_picture(Trace.spike(20.0, 8.0, 50.0, 10.0, 100.0, seed=1), 111)
    assert len(lines) == PICTURE_ROWS + 1
    assert all(len(line) <= 111 for line in lines)
    highest = lines[1][10:]
    assert highest[51:59].strip()
    assert not (highest[:49] + highest[61:]).strip()
    assert all(cell == "█" for cell in lines[PICTURE_ROWS - 1][62:68])


def test_left_out_rows_are_told() -> None:
    trace = Trace(np.array([1.0]), {}, 2.0, skipped=3)
    assert "3 malformed rows left out" in printed(trace, 80, "utf-8")
