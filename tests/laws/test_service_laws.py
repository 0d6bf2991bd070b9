"""Service times by batch size: as measured where it was measured, and never a throughput that was not seen."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.profile import Profile, Row
from headway.profile.service import ServiceTime


@st.composite
def measured(draw: st.DrawFn) -> ServiceTime:
    sizes = [1, *sorted(draw(st.sets(st.integers(2, 24), max_size=4)))]
    spread = draw(st.booleans())
    rows = []
    for size in sizes:
        mean_s = draw(st.floats(1e-4, 1.0))
        known = {"p50_s": 0.9 * mean_s, "p95_s": 1.2 * mean_s, "p99_s": 1.5 * mean_s} if spread else {}
        rows.append(Row("a", "cpu", size, mean_s, **known))
    return Profile.from_rows(rows).service("a", "default", "cpu")


@given(measured(), st.integers(1, 100), st.booleans())
def test_times_are_as_measured_grow_with_the_batch_and_lie_between_their_neighbours(
    service: ServiceTime, most: int, sampled: bool
) -> None:
    table = service.table(most, sampled)
    source = service.quantile_s if sampled else service.mean_s[:, None]
    for at, size in enumerate(service.batch_sizes):
        if size <= most:
            np.testing.assert_array_equal(table[size], source[at])
    assert (np.diff(table, axis=0) >= -1e-15).all()
    for low, high in itertools.pairwise(size for size in service.batch_sizes if size <= most):
        for size in range(low, high + 1):
            share = (size - low) / (high - low)
            np.testing.assert_allclose(table[size], (1 - share) * table[low] + share * table[high], rtol=1e-12)


@given(measured(), st.integers(1, 100))
def test_no_throughput_is_promised_that_was_not_seen(service: ServiceTime, beyond: int) -> None:
    largest = service.batch_sizes[-1]
    seen_per_s = service.throughput_per_s(largest)
    assert service.throughput_per_s(largest + beyond) == pytest.approx(seen_per_s)
    means_s = service.table(largest + beyond, sampled=False)[1:, 0]
    assert means_s.tolist() == pytest.approx([service.mean_at(size) for size in range(1, largest + beyond + 1)])
