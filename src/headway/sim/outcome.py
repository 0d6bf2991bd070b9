"""What happened to every request, simulated or live, and the figures computed from it. Percentiles live here, once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.errors import HeadwayError

SCHEMA = "headway.outcome/1"
ANSWERED, DROPPED, REJECTED, FAILED, IN_FLIGHT = range(5)
STATUS_NAMES = ("answered", "dropped", "rejected", "failed", "in_flight")
FIVE_MINUTES_S = 300.0
TOLERANCE_S = 1e-9
"""A request is late when it exceeds the promise by more than this, so that rounding decides nothing."""


def required(requests: int, percent: float) -> int:
    """Return how many of `requests` make `percent` % of them, rounded up and safe from rounding of the product.

    >>> required(1000, 99.9)
    999
    """
    return math.ceil(requests * percent / 100 - 1e-9 - 1e-15 * requests)


def percentile(values: NDArray[np.float64], percent: float) -> float:
    """Return the nearest-rank percentile: the smallest value that at least `percent` % of all values do not exceed.

    Infinite values (unanswered requests) take part. NaN for no values.

    >>> percentile(np.array([1.0, 2.0, 3.0, 4.0]), 50)
    2.0
    """
    if values.size == 0:
        return math.nan
    rank = max(1, required(values.size, percent))
    return float(np.partition(values, rank - 1)[rank - 1])


def allowed_misses(requests: int, percent: float) -> int:
    """Return how many of `requests` may miss while the `percent` percentile still keeps its promise.

    >>> allowed_misses(1000, 99)
    10
    """
    return requests - required(requests, percent)


def promise_holds(
    arrival_s: NDArray[np.float64],
    missed: NDArray[np.bool_],
    percent: float,
    window_s: float | None = None,
    objective: float | None = None,
) -> bool:
    """Return whether a promise is kept: over all requests, or in the share `objective` of windows of `window_s`."""
    if window_s is None or objective is None:
        return int(np.count_nonzero(missed)) <= allowed_misses(missed.size, percent)
    windows = by_window(arrival_s, missed, window_s)
    return windows_kept(arrival_s, missed, percent, window_s) * len(windows) >= objective * len(windows) - 1e-9


def windows_kept(arrival_s: NDArray[np.float64], missed: NDArray[np.bool_], percent: float, window_s: float) -> float:
    """Return the share of the windows with requests in which at least `percent` % of them did not miss.

    >>> windows_kept(np.array([0.0, 1.0]), np.array([True, False]), 99.0, 1.0)
    0.5
    """
    windows = by_window(arrival_s, missed, window_s)
    kept = sum(int(np.count_nonzero(w)) <= allowed_misses(w.size, percent) for w in windows)
    return kept / len(windows) if windows else 1.0


def most_misses(
    arrival_s: NDArray[np.float64], percent: float, window_s: float | None = None, objective: float | None = None
) -> int:
    """Return the largest number of misses with which the promise can still be kept, however they are spread."""
    if window_s is None or objective is None:
        return allowed_misses(arrival_s.size, percent)
    sizes = sorted((w.size for w in by_window(arrival_s, arrival_s, window_s)), reverse=True)
    lost = math.floor(len(sizes) * (1 - objective) + 1e-9)
    return sum(sizes[:lost]) + sum(allowed_misses(size, percent) for size in sizes[lost:])


def by_window(arrival_s: NDArray[np.float64], values: NDArray[Any], window_s: float) -> list[NDArray[Any]]:
    """Split per-request values into tumbling windows from the first arrival; windows without requests are left out."""
    if not arrival_s.size:
        return []
    index = ((arrival_s - arrival_s[0]) // window_s).astype(np.int64)
    return np.split(values, np.flatnonzero(np.diff(index)) + 1)


@dataclass(frozen=True, slots=True)
class StageOutcome:
    """One stage's share of an outcome. `queue_wait_s` has one value per item that was started; `accuracy` is
    that of its answers, where it is known; `figures` are what its kind of stage tells beside, and `told` more of that
    as JSON values by field."""

    items: int
    batches: int
    queue_wait_s: NDArray[np.float64]
    utilization: float
    capacity_s: float
    cost_usd: float
    service_s: float = 0.0
    peak_utilization_10s: float = 0.0
    accuracy: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the stage's summary as JSON values."""
        wait = self.queue_wait_s
        return {
            "items": self.items,
            "batches": self.batches,
            "mean_batch_size": self.items / self.batches if self.batches else 0.0,
            "utilization": self.utilization,
            "peak_utilization_10s": self.peak_utilization_10s,
            "queue_wait_p50_s": number(percentile(wait, 50)),
            "queue_wait_p99_s": number(percentile(wait, 99)),
            "replica_seconds": self.capacity_s,
            "cost_usd": self.cost_usd,
            **({} if self.accuracy is None else {"accuracy": self.accuracy}),
            **({"figures": {name: number(value) for name, value in self.figures.items()}} if self.figures else {}),
            **self.told,
        }


@dataclass(frozen=True)
class Outcome:
    """Every request's latency from its scheduled arrival (infinite when unanswered), and what it cost.

    `arrival_s`, `latency_s`, `status` have one entry per request offered, in order of arrival; `slo_s` and
    `slo_percentile` are the promise it is held against. `broken`: which requests broke a promise of their own, such as
    one to their first token, and so missed however soon they ended; empty where there are no such promises. `labeled`:
    of a replay with labels, how many answers were held against one and were right; else empty.

    >>> import numpy as np
    >>> Outcome(np.array([0.0, 1.0]), np.array([0.1, 0.5]), np.zeros(2, np.int8), 0.3, 99.0).miss_rate
    0.5
    """

    arrival_s: NDArray[np.float64]
    latency_s: NDArray[np.float64]
    status: NDArray[np.int8]
    slo_s: float
    slo_percentile: float
    stages: Mapping[str, StageOutcome] = field(default_factory=dict)
    cost_usd: float = 0.0
    startup_cost_usd: float = 0.0
    accuracy: float | None = None
    kind: str = "simulated"
    low_confidence: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    window_s: float | None = None
    objective: float | None = None
    broken: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))
    labeled: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.arrival_s.shape == self.latency_s.shape == self.status.shape:
            raise HeadwayError("outcome: arrival_s, latency_s and status must have one entry per request each")
        if self.broken.size and self.broken.shape != self.status.shape:
            raise HeadwayError("outcome: broken must have one entry per request, or none")

    def _repr_html_(self) -> str:
        from headway.report.fragments import outcome_fragment

        return outcome_fragment(self)

    @property
    def requests(self) -> int:
        """Requests offered."""
        return int(self.arrival_s.size)

    def p(self, percent: float) -> float:
        """Return a nearest-rank latency percentile in seconds over all requests offered."""
        return percentile(self.latency_s, percent)

    @property
    def missed(self) -> NDArray[np.bool_]:
        """Which requests are late, dropped, rejected, failed or unanswered, or broke a promise of their own."""
        late = ~(self.latency_s <= self.slo_s + TOLERANCE_S)
        return late | self.broken if self.broken.size else late

    @property
    def misses(self) -> int:
        """Number of requests that missed."""
        return int(np.count_nonzero(self.missed))

    @property
    def miss_rate(self) -> float:
        """Share of all requests offered that missed; nothing is removed as warm-up."""
        return self.misses / self.requests if self.requests else 0.0

    @property
    def holds(self) -> bool:
        """Whether the promise was kept: over all requests, or in the declared share of windows."""
        return promise_holds(self.arrival_s, self.missed, self.slo_percentile, self.window_s, self.objective)

    @property
    def windows_kept(self) -> float | None:
        """The share of the promise's windows in which it was kept; None where it is not judged by windows."""
        if self.window_s is None or self.objective is None:
            return None
        return windows_kept(self.arrival_s, self.missed, self.slo_percentile, self.window_s)

    @property
    def worst_5m_p99_s(self) -> float:
        """The 99th percentile of the worst five minutes (tumbling windows from the first scheduled arrival)."""
        return max(
            (percentile(w, 99) for w in by_window(self.arrival_s, self.latency_s, FIVE_MINUTES_S)), default=math.nan
        )

    def counts(self) -> dict[str, int]:
        """Return requests by what became of them; `late` ones are among the answered."""
        by_status = np.bincount(self.status, minlength=len(STATUS_NAMES))
        late = int(np.count_nonzero((self.status == ANSWERED) & self.missed))
        named = {name: int(by_status[index]) for index, name in enumerate(STATUS_NAMES)}
        return {"offered": self.requests, "answered": named.pop("answered"), "late": late, **named}

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as JSON values (schema `headway.outcome/1`); infinite figures become null."""
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "requests": self.counts(),
            "slo_s": self.slo_s,
            "slo_percentile": self.slo_percentile,
            "slo_window_s": self.window_s,
            "slo_objective": self.objective,
            "slo_holds": self.holds,
            "windows_kept": self.windows_kept,
            "p50_s": number(self.p(50)),
            "p95_s": number(self.p(95)),
            "p99_s": number(self.p(99)),
            "mean_s": number(float(self.latency_s.mean()) if self.requests else math.nan),
            "miss_rate": self.miss_rate,
            "worst_5m_p99_s": number(self.worst_5m_p99_s),
            "cost_usd": self.cost_usd,
            "startup_cost_usd": self.startup_cost_usd,
            "accuracy": self.accuracy,
            **({"labeled": dict(self.labeled)} if self.labeled else {}),
            "low_confidence": list(self.low_confidence),
            "stages": {name: stage.to_dict() for name, stage in self.stages.items()},
            "provenance": dict(self.provenance),
        }


def combined_accuracy(parts: Iterable[float | None]) -> float | None:
    """Return the product of the accuracies that are known, or None when none is: the parts err independently (IPA).

    >>> combined_accuracy([0.9, None, 0.5]), combined_accuracy([None])
    (0.45, None)
    """
    known = [accuracy for accuracy in parts if accuracy is not None]
    return math.prod(known) if known else None


def number(value: float) -> float | None:
    """Return `value`, or None for infinity and not-a-number, which JSON cannot say."""
    return value if math.isfinite(value) else None
