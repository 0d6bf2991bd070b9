"""Laws of traces: what holds for every trace, whatever its numbers."""

from __future__ import annotations

import math
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.errors import TraceError
from headway.trace import Trace, envelope, peak_rate_per_s, windows

GRID = 1024.0  # arrivals on a binary grid: sums and differences are exact, so laws can be stated with ==


@st.composite
def traces(draw: st.DrawFn, min_size: int = 1, max_size: int = 40) -> Trace:
    ticks = sorted(draw(st.lists(st.integers(0, 60 * int(GRID)), min_size=min_size, max_size=max_size)))
    arrival = np.array(ticks, dtype=float) / GRID
    last = float(arrival[-1]) if len(arrival) else 0.0
    duration = last + draw(st.integers(1, 10_000)) / GRID
    return Trace.from_arrivals(arrival, {"id": np.arange(len(ticks))}, duration, name="random")


def same(a: Trace, b: Trace) -> bool:
    return a.hash == b.hash


@given(traces(min_size=0), st.floats(0.01, 0.99))
def test_slices_partition_a_trace(trace: Trace, at: float) -> None:
    middle = math.floor(at * trace.duration_s * GRID) / GRID
    if not 0.0 < middle < trace.duration_s:
        return
    left, right = trace.slice(0.0, middle), trace.slice(middle)
    assert left.requests + right.requests == trace.requests
    assert left.duration_s + right.duration_s == trace.duration_s
    rejoined = np.concatenate([left.arrival_s, right.arrival_s + middle])
    assert rejoined.tolist() == trace.arrival_s.tolist()
    assert np.concatenate([left.columns["id"], right.columns["id"]]).tolist() == trace.columns["id"].tolist()


@given(traces())
def test_the_whole_slice_is_the_trace_even_when_the_window_ends_at_the_last_arrival(trace: Trace) -> None:
    assert same(trace.slice(0.0, trace.duration_s), trace)
    if trace.arrival_s[-1] > 0.0:
        tight = Trace.from_arrivals(trace.arrival_s)
        assert same(tight.slice(0.0), tight)


@given(traces(), st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_scaling_time_keeps_every_request_and_scales_the_rate(trace: Trace, factor: float) -> None:
    scaled = trace.scale_time(factor)
    assert scaled.rate_per_s == trace.rate_per_s / factor
    assert same(scaled.scale_time(1.0 / factor), trace)


@given(traces(), st.integers(0, 2**32), st.floats(0.05, 1.0), st.floats(0.05, 1.0))
def test_thinning_more_keeps_a_subset(trace: Trace, seed: int, one: float, other: float) -> None:
    few, many = sorted((one, other))
    assert set(trace.thin(few, seed).columns["id"]) <= set(trace.thin(many, seed).columns["id"])
    assert same(trace.thin(1.0, seed), trace)


@given(traces(), st.floats(0.1, 20.0))
def test_masking_the_gaps_loses_no_request_and_leaves_no_long_gap(trace: Trace, min_s: float) -> None:
    gaps = trace.gaps(min_s)
    if sum(end - start for start, end in gaps) >= trace.duration_s:
        return
    closed = trace.mask(gaps)
    assert closed.columns["id"].tolist() == trace.columns["id"].tolist()
    assert closed.duration_s == pytest.approx(trace.duration_s - sum(end - start for start, end in gaps))
    assert not closed.gaps(min_s)


@given(traces(), st.lists(st.tuples(st.integers(0, 70), st.integers(1, 30)), max_size=4))
def test_a_mask_removes_exactly_what_lies_in_its_spans(trace: Trace, spans: list[tuple[int, int]]) -> None:
    cuts = [(float(start), float(start + length)) for start, length in spans]
    inside = np.zeros(trace.requests, dtype=bool)
    for start, end in cuts:
        inside |= (trace.arrival_s >= start) & (trace.arrival_s < end)
    seconds = np.arange(0.0, trace.duration_s, 1.0 / GRID)
    removed = np.zeros(len(seconds), dtype=bool)
    for start, end in cuts:
        removed |= (seconds >= start) & (seconds < end)
    if removed.all():
        with pytest.raises(TraceError):
            trace.mask(cuts)
        return
    masked = trace.mask(cuts)
    assert masked.columns["id"].tolist() == trace.columns["id"][~inside].tolist()
    assert masked.duration_s == pytest.approx(trace.duration_s - removed.sum() / GRID)


@given(traces(min_size=0), traces(min_size=0))
def test_merging_keeps_every_request_and_does_not_depend_on_order(a: Trace, b: Trace) -> None:
    merged = Trace.merge(a, b)
    assert merged.arrival_s.tolist() == sorted([*a.arrival_s, *b.arrival_s])
    assert merged.arrival_s.tolist() == Trace.merge(b, a).arrival_s.tolist()
    assert sorted(merged.columns["id"]) == sorted([*a.columns["id"], *b.columns["id"]])
    assert same(Trace.merge(a), a)


@given(traces(), st.floats(0.05, 100.0), st.integers(0, 2**32))
def test_resampling_keeps_the_window_and_the_pairing_of_columns(trace: Trace, block_s: float, seed: int) -> None:
    drawn = trace.resample(block_s, seed)
    assert drawn.duration_s == trace.duration_s
    assert same(drawn, trace.resample(block_s, seed))
    if drawn.requests == 0:
        return
    # Within one block the distance between neighbours is the distance that they had, around the circle.
    block = min(block_s, trace.duration_s)
    origin = trace.arrival_s[drawn.columns["id"].astype(int)]
    number = np.floor(drawn.arrival_s / block)
    inner = (number[1:] == number[:-1]) & (
        np.abs(drawn.arrival_s[1:] / block - np.round(drawn.arrival_s[1:] / block)) > 1e-9
    )
    now, before = np.diff(drawn.arrival_s), np.mod(np.diff(origin), trace.duration_s)
    around = np.minimum(np.abs(now - before), np.abs(np.abs(now - before) - trace.duration_s))
    assert (around[inner] < 1e-6).all()


@given(traces(), st.integers(0, 2**32))
def test_one_block_as_long_as_the_trace_is_a_rotation(trace: Trace, seed: int) -> None:
    drawn = trace.resample(trace.duration_s, seed)
    assert sorted(drawn.columns["id"]) == sorted(trace.columns["id"])


def test_resampling_is_unbiased() -> None:
    trace = Trace.gamma(20.0, 3.0, 100.0, seed=1)
    counts = [trace.resample(5.0, seed).requests for seed in range(300)]
    assert np.mean(counts) == pytest.approx(trace.requests, abs=4.0 * np.std(counts) / math.sqrt(300))


@given(traces(min_size=0, max_size=80), st.integers(1, 4096))
def test_envelopes_grow_with_the_window_and_are_sub_additive(trace: Trace, ticks: int) -> None:
    lengths = ticks / GRID * 2.0 ** np.arange(8)
    counts = envelope(trace.arrival_s, lengths)
    assert (np.diff(counts) >= 0).all()
    assert (counts[1:] <= 2 * counts[:-1]).all()
    assert (np.diff(counts / lengths) <= 0.0).all()


@given(traces(max_size=25), st.integers(1, 20_000))
def test_an_envelope_is_the_fullest_window_of_all(trace: Trace, ticks: int) -> None:
    length = ticks / GRID
    at = trace.arrival_s
    brute = max(sum(start <= other < start + length for other in at) for start in at)
    assert envelope(at, [length]).tolist() == [brute]
    assert peak_rate_per_s(at, length) == brute / length


@given(st.floats(1e-4, 200.0), st.floats(0.5, 500.0))
def test_windows_double_from_the_service_time_to_exactly_the_longest(service_s: float, longest_s: float) -> None:
    lengths = windows(service_s, longest_s)
    assert lengths[-1] == longest_s
    assert (np.diff(lengths) > 0.0).all()
    if service_s < longest_s:
        assert lengths[0] == service_s
        assert (lengths[1:-1] == 2.0 * lengths[:-2]).all()
        assert lengths[-1] <= 2.0 * lengths[-2]


GENERATORS = {
    "poisson": lambda seed: Trace.poisson(40.0, 50.0, seed),
    "gamma": lambda seed: Trace.gamma(40.0, 2.0, 50.0, seed),
    "mmpp2": lambda seed: Trace.mmpp2((20.0, 80.0), (2.0, 1.0), 50.0, seed),
    "diurnal": lambda seed: Trace.diurnal(40.0, 1.9, 50.0, 25.0, seed),
    "ramp": lambda seed: Trace.ramp(10.0, 70.0, 50.0, seed),
    "spike": lambda seed: Trace.spike(30.0, 3.0, 20.0, 5.0, 50.0, seed),
    "from_counts": lambda seed: Trace.from_counts([40] * 50, seed),
}
EXPECTED = {"mmpp2": 40.0 * 50, "spike": 30.0 * 45 + 90.0 * 5}


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_are_deterministic_and_stay_in_their_window(name: str) -> None:
    make = GENERATORS[name]
    assert same(make(3), make(3))
    assert not same(make(3), make(4))
    assert make(3).duration_s == 50.0


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_give_the_expected_number_of_requests(name: str) -> None:
    counts = [GENERATORS[name](seed).requests for seed in range(200)]
    error = 4.0 * float(np.std(counts)) / math.sqrt(len(counts))
    assert np.mean(counts) == pytest.approx(EXPECTED.get(name, 2000.0), abs=max(error, 1e-9))


def test_generators_of_one_seed_are_unrelated() -> None:
    gaps = [np.diff(GENERATORS[name](1).arrival_s)[:500] for name in ("poisson", "gamma", "ramp")]
    assert np.abs(np.corrcoef(gaps) - np.eye(3)).max() < 0.2


@settings(max_examples=40)
@given(
    st.lists(st.floats(0.0, 9e8, allow_subnormal=True), max_size=20),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=20, max_size=20),
    st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=8).filter(
        lambda name: name != "arrival_s"
    ),
    st.sampled_from(["t.csv", "t.csv.gz", "t.csv.bz2"]),
)
def test_a_written_trace_is_read_back_to_the_last_bit(
    arrival: list[float], values: list[float], column: str, file: str
) -> None:
    arrival.sort()
    columns = {column: np.array(values[: len(arrival)])}
    trace = Trace(np.array(arrival), columns, (arrival[-1] if arrival else 0.0) + 0.1, "2026-01-31T09:00:00Z")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        trace.write(path)
        once = path.read_bytes()
        back = Trace.read(path)
        back.write(path)
        assert path.read_bytes() == once
    assert same(back, trace)
    assert same(pickle.loads(pickle.dumps(trace)), trace)
