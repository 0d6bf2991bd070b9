"""Service time of one (stage, variant, hardware) by batch size: means, and a table of quantiles to draw from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headway.errors import ProfileError

if TYPE_CHECKING:
    from headway.profile.profile import Row

QUANTILES = 256
"""Equally likely points that a drawn service time is taken from."""


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """Batch latency measured at some batch sizes, interpolated between them.

    Beyond the largest that was measured an item is taken to cost what it costs there, so that no throughput is promised
    that was not seen; predictions that rest on it say so (`headway.sim.confidence`).

    `mean_s[i]` belongs to `batch_sizes[i]`; `quantile_s[i]` holds its equally likely values (one column when only means
    are known). Both are made non-decreasing in the batch size (InferLine section 4.1 profiles powers of two; what lies
    between is interpolated linearly). `where` names the stage in errors.
    """

    batch_sizes: tuple[int, ...]
    mean_s: NDArray[np.float64]
    quantile_s: NDArray[np.float64]
    where: str = field(default="", compare=False)
    _tables: dict[tuple[int, bool], NDArray[np.float64]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_rows(cls, rows: Sequence[Row], overhead_s: float = 0.0) -> ServiceTime:
        """Return the service time that the rows of one (stage, variant, hardware) describe; batch size 1 is needed.

        `overhead_s` is added to every batch, whatever its size.
        """
        rows = sorted(rows, key=lambda row: row.batch_size)
        where = f"stage {rows[0].stage!r} on {rows[0].hardware!r}" if rows else "a stage"
        if not rows or rows[0].batch_size != 1:
            raise ProfileError(f"profile: {where} has no row with batch_size 1; measure or add one")
        mean_s = np.maximum.accumulate(np.array([row.mean_s for row in rows]))
        drawn = all(row.p50_s is not None for row in rows)
        columns = [quantiles(row) if drawn else np.array([row.mean_s]) for row in rows]
        quantile_s = np.maximum.accumulate(np.stack(columns), axis=0)
        return cls(tuple(row.batch_size for row in rows), mean_s + overhead_s, quantile_s + overhead_s, where)

    @property
    def varies(self) -> bool:
        """Whether more than means are known, so that drawn times differ."""
        return bool(self.quantile_s.shape[1] > 1)

    def mean_at(self, batch_size: int) -> float:
        """Return the mean latency of a batch of this size in seconds."""
        beyond = max(1.0, batch_size / self.batch_sizes[-1])
        return float(np.interp(batch_size, self.batch_sizes, self.mean_s)) * beyond

    def table(self, max_batch_size: int, sampled: bool) -> NDArray[np.float64]:
        """Return latencies `[batch size, quantile]` for sizes 0 (unused) to `max_batch_size`.

        One column of means unless `sampled`; the number of columns is a power of two.
        """
        known_table = self._tables.get((max_batch_size, sampled))
        if known_table is None:
            known_table = self._tables[max_batch_size, sampled] = self._table(max_batch_size, sampled)
        return known_table

    def _table(self, max_batch_size: int, sampled: bool) -> NDArray[np.float64]:
        source = self.quantile_s if sampled else self.mean_s[:, None]
        known = np.array(self.batch_sizes)
        sizes = np.maximum(np.arange(max_batch_size + 1), 1)
        below = np.searchsorted(known, sizes, side="right") - 1
        above = np.minimum(below + 1, known.size - 1)
        share = ((sizes - known[below]) / np.maximum(known[above] - known[below], 1))[:, None]
        beyond = np.maximum(sizes / known[-1], 1.0)[:, None]
        times_s: NDArray[np.float64] = (source[below] + share * (source[above] - source[below])) * beyond
        return times_s

    def throughput_per_s(self, max_batch_size: int) -> float:
        """Return requests per second of one replica whose batches are all full (mu of InferLine section 4)."""
        return max_batch_size / self.mean_at(max_batch_size)


def quantiles(row: Row) -> NDArray[np.float64]:
    """Return `QUANTILES` equally likely latencies whose mean is the row's mean and whose p50, p95, p99 are the row's.

    Between the known quantiles the law is linear. What the mean holds beyond that goes above p99, where the outliers
    are that a mean sees and a p99 does not; a mean below it scales the whole.
    """
    p50 = row.mean_s if row.p50_s is None else row.p50_s
    p95 = p50 if row.p95_s is None else max(p50, row.p95_s)
    p99 = p95 if row.p99_s is None else max(p95, row.p99_s)
    lowest = max(0.5 * p50, p50 - (p95 - p50))
    position = (np.arange(QUANTILES) + 0.5) / QUANTILES
    value = np.interp(position, [0.0, 0.5, 0.95, 0.99, 1.0], [lowest, p50, p95, p99, p99 + (p99 - p95) / 2])
    excess = row.mean_s - float(value.mean())
    tail = position > 0.99
    if excess > 0:
        value[tail] += excess * QUANTILES / int(tail.sum())
    else:
        value *= row.mean_s / float(value.mean())
    return value
