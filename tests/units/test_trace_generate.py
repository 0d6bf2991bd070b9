"""Traces and generators: shapes of the load, and arguments that are refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from headway.errors import TraceError
from headway.trace import Trace, envelope, windows


def rate_between(trace: Trace, start_s: float, end_s: float) -> float:
    return float(((trace.arrival_s >= start_s) & (trace.arrival_s < end_s)).sum() / (end_s - start_s))


@pytest.mark.parametrize("cv", [0.5, 1.0, 4.0])
def test_gamma_gaps_have_the_mean_and_variation_asked_for(cv: float) -> None:
    gaps = np.diff(Trace.gamma(50.0, cv, requests=200_000, seed=1).arrival_s)
    assert gaps.mean() == pytest.approx(0.02, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.03)


def test_the_first_bursty_gap_does_not_bias_the_rate() -> None:
    counts = [Trace.gamma(10.0, 4.0, 5.0, seed).requests for seed in range(2000)]
    assert np.mean(counts) == pytest.approx(50.0, abs=4.0 * np.std(counts) / np.sqrt(2000))


def test_poisson_counts_have_dispersion_one() -> None:
    counts = np.histogram(Trace.poisson(20.0, 5000.0, seed=2).arrival_s, 5000)[0]
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=4.0 * np.sqrt(2.0 / 5000))


def test_two_rates_are_burstier_than_one_and_stay_between_them() -> None:
    counts = np.histogram(Trace.mmpp2((10.0, 100.0), (20.0, 5.0), 4000.0, seed=3).arrival_s, 4000)[0]
    assert counts.var() / counts.mean() > 20.0
    assert counts.mean() == pytest.approx((10.0 * 20.0 + 100.0 * 5.0) / 25.0, rel=0.2)
    assert Trace.mmpp2((0.0, 0.0), (1.0, 1.0), 10.0).requests == 0


def test_two_rates_begin_in_either_state_as_often_as_they_are_held() -> None:
    busy = [Trace.mmpp2((0.0, 100.0), (30.0, 10.0), 0.2, seed).requests > 0 for seed in range(800)]
    assert np.mean(busy) == pytest.approx(0.25, abs=0.06)


def test_diurnal_peaks_half_a_period_in() -> None:
    trace = Trace.diurnal(100.0, 1.8, 1000.0, 500.0, seed=4)
    assert rate_between(trace, 225.0, 275.0) == pytest.approx(180.0, rel=0.05)
    assert rate_between(trace, 475.0, 525.0) == pytest.approx(20.0, rel=0.15)


def test_ramps_go_up_and_down() -> None:
    for first, last in ((0.0, 200.0), (200.0, 0.0), (100.0, 100.0)):
        trace = Trace.ramp(first, last, 500.0, seed=5)
        assert rate_between(trace, 0.0, 50.0) == pytest.approx(first + 0.05 * (last - first), rel=0.12)
        assert rate_between(trace, 450.0, 500.0) == pytest.approx(first + 0.95 * (last - first), rel=0.12)
    assert Trace.ramp(0.0, 0.0, 10.0).requests == 0


def test_spike_is_where_it_was_asked_for() -> None:
    trace = Trace.spike(50.0, 10.0, 100.0, 20.0, 300.0, seed=6)
    assert rate_between(trace, 100.0, 120.0) == pytest.approx(500.0, rel=0.05)
    assert rate_between(trace, 0.0, 100.0) == pytest.approx(50.0, rel=0.1)
    assert rate_between(trace, 120.0, 300.0) == pytest.approx(50.0, rel=0.1)
    assert rate_between(Trace.spike(50.0, 0.0, 100.0, 20.0, 300.0), 100.0, 120.0) == 0.0


def test_counts_are_kept_per_bucket() -> None:
    counts = [0, 7, 0, 3, 11]
    trace = Trace.from_counts(counts, seed=7, bucket_s=30.0)
    assert np.histogram(trace.arrival_s, np.arange(6) * 30.0)[0].tolist() == counts
    assert trace.duration_s == 150.0


def test_requests_instead_of_seconds() -> None:
    trace = Trace.poisson(10.0, requests=500, seed=1)
    assert trace.requests == 500
    assert trace.duration_s == trace.arrival_s[-1]


REFUSED: dict[str, Callable[[], object]] = {
    "rate is 0": lambda: Trace.poisson(0.0, 10.0),
    "rate is nan": lambda: Trace.poisson(float("nan"), 10.0),
    "seconds is -1": lambda: Trace.poisson(1.0, -1.0),
    "either seconds or requests": lambda: Trace.gamma(1.0, 1.0),
    "exactly one of the two": lambda: Trace.gamma(1.0, 1.0, 5.0, requests=5),
    "requests is 0": lambda: Trace.gamma(1.0, 1.0, requests=0),
    "cv is inf": lambda: Trace.gamma(1.0, float("inf"), 1.0),
    "cv is 1000": lambda: Trace.gamma(1.0, 1000.0, 1.0),
    "check the units": lambda: Trace.poisson(1e9, 1e9),
    "seed is -1": lambda: Trace.poisson(1.0, 1.0, -1),
    "seed is 0.5": lambda: Trace.poisson(1.0, 1.0, 0.5),  # type: ignore[arg-type]
    "two rates": lambda: Trace.mmpp2((1.0,), (1.0, 2.0), 5.0),
    "rate_1 is -2": lambda: Trace.mmpp2((1.0, -2.0), (1.0, 2.0), 5.0),
    "mean_sojourn_0_s is 0": lambda: Trace.mmpp2((1.0, 2.0), (0.0, 2.0), 5.0),
    "peak_ratio is 3": lambda: Trace.diurnal(1.0, 3.0, 5.0, 5.0),
    "end_rate is -1": lambda: Trace.ramp(1.0, -1.0, 5.0),
    "after the trace": lambda: Trace.spike(1.0, 2.0, 4.0, 2.0, 5.0),
    "at least one bucket": lambda: Trace.from_counts([]),
    r"counts\[1\] is -1": lambda: Trace.from_counts([1, -1]),
    r"counts\[0\] is 0.5": lambda: Trace.from_counts([0.5]),
    r"arrival_s\[1\] = 1.0 comes before": lambda: Trace.from_arrivals([2.0, 1.0]),
    r"arrival_s\[1\] is nan": lambda: Trace.from_arrivals([2.0, float("nan")]),
    r"arrival_s\[0\] is -1.0": lambda: Trace.from_arrivals([-1.0]),
    r"arrival_s\[1\] is inf": lambda: Trace.from_arrivals([1.0, float("inf")]),
    "no requests and no duration_s": lambda: Trace.from_arrivals([]),
    "duration_s is 1.0": lambda: Trace.from_arrivals([2.0], duration_s=1.0),
    "duration_s is nan": lambda: Trace.from_arrivals([2.0], duration_s=float("nan")),
    "'x' has 1 values for 2 requests": lambda: Trace.from_arrivals([1.0, 2.0], {"x": [1.0]}),
    "'x' holds a value that is not finite": lambda: Trace.from_arrivals([1.0], {"x": [float("nan")]}),
    "'x': not all values are numbers": lambda: Trace.from_arrivals([1.0], {"x": ["a"]}),
    "'arrival_s': has 2 dimensions": lambda: Trace.from_arrivals([[1.0]]),
    "' x' is not a valid column name": lambda: Trace.from_arrivals([1.0], {" x": [1.0]}),
    "its window of 0 s with 1 request has no rate; say for how long": lambda: Trace.from_arrivals([0.0]).rate_per_s,
    "1e-310 s with 2 requests has no rate": lambda: Trace.from_arrivals([1e-320, 1e-310]).rate_per_s,
    "factor is 0": lambda: Trace.from_arrivals([1.0]).scale_time(0.0),
    "keep_ratio is 1.5": lambda: Trace.from_arrivals([1.0]).thin(1.5),
    "not a span of the trace": lambda: Trace.from_arrivals([1.0]).slice(1.0, 2.0),
    r"\(3, 2\) is not a span": lambda: Trace.from_arrivals([1.0]).mask([(3, 2)]),
    "nothing would be left": lambda: Trace.from_arrivals([1.0]).mask([(0.0, 5.0)]),
    "min_s is 0": lambda: Trace.from_arrivals([1.0]).gaps(0.0),
    "give at least one": lambda: Trace.merge(),
    "columns differ": lambda: Trace.merge(Trace.from_arrivals([1.0]), Trace.from_arrivals([1.0], {"x": [1.0]})),
    "nothing to draw from": lambda: Trace.from_arrivals([], duration_s=5.0).resample(1.0, 1),
    "with 1 request cannot be resampled": lambda: Trace.from_arrivals([0.0]).resample(1.0, 1),
    "with 2 requests cannot be resampled": lambda: Trace.from_arrivals([1e-320, 1e-310]).resample(1.0, 1),
    "block_s is 0": lambda: Trace.from_arrivals([1.0]).resample(0.0, 1),
    "service_time_s is 0": lambda: windows(0.0),
    "longest_s is nan": lambda: windows(1.0, float("nan")),
    "window lengths are positive": lambda: envelope([1.0], [0.0]),
    "must be finite and sorted": lambda: envelope([2.0, 1.0], [1.0]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message: str) -> None:
    with pytest.raises(TraceError, match=message):
        REFUSED[message]()


def test_a_trace_cannot_be_changed_from_outside() -> None:
    mine = np.array([1.0, 2.0])
    trace = Trace.from_arrivals(mine, {"x": mine})
    mine[0] = 9.0
    assert trace.arrival_s.tolist() == trace.columns["x"].tolist() == [1.0, 2.0]
    view = np.array([1.0, 2.0])
    locked = view[:]
    locked.flags.writeable = False
    aliased = Trace.from_arrivals(locked)
    view[0] = 9.0
    assert aliased.arrival_s.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        trace.arrival_s[0] = 5.0
    with pytest.raises(TypeError):
        trace.columns["y"] = mine  # type: ignore[index]


def test_the_clock_moves_with_a_slice() -> None:
    trace = Trace(np.array([1.0, 5.0]), {}, 10.0, "2026-01-31T10:00:00+01:00")
    assert trace.start == "2026-01-31T09:00:00Z"
    assert trace.slice(2.5).start == "2026-01-31T09:00:02.500000Z"
    assert Trace.merge(trace, trace).start == trace.start
    assert Trace.merge(trace, trace.slice(1.0)).start is None


def test_the_hash_sees_content_and_not_the_name() -> None:
    base = Trace.from_arrivals([1.0, 2.0], {"a": [1, 2], "b": [3, 4]}, 5.0, name="one")
    assert base.hash == Trace.from_arrivals([1.0, 2.0], {"b": [3, 4], "a": [1, 2]}, 5.0, name="two").hash
    others = [
        Trace.from_arrivals([1.0, 2.0], {"a": [1, 2], "b": [3, 4]}, 6.0),
        Trace.from_arrivals([1.0, 2.5], {"a": [1, 2], "b": [3, 4]}, 5.0),
        Trace.from_arrivals([1.0, 2.0], {"a": [3, 4], "b": [1, 2]}, 5.0),
        Trace.from_arrivals([1.0, 2.0], {"a": [1, 2]}, 5.0),
    ]
    assert len({base.hash, *(trace.hash for trace in others)}) == 5


def test_windows_of_the_paper() -> None:
    assert windows(0.15).tolist() == [0.15 * 2**step for step in range(9)] + [60.0]
    assert windows(90.0).tolist() == [60.0]
    assert envelope([], [1.0]).tolist() == [0]


def test_windows_are_half_open() -> None:
    assert envelope([0.0, 1.0, 2.0], [1.0, np.nextafter(1.0, 2.0), 2.0]).tolist() == [1, 2, 2]
