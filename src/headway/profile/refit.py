"""Fitting a profile to what was observed: overheads, rows and scale factors, from samples, without any I/O.

Means are of the middle 96 % of the samples, with the interval of a trimmed mean (Tukey and McLaughlin 1963, Sankhya A
25), so that a stall of the machine decides nothing. Too few samples give None, and what was not observed stays as it
was: nothing is extrapolated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.profile.overheads import Overheads
from headway.profile.profile import Profile, RecordedVisits, Row
from headway.profile.service import ServiceTime

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MIN_SAMPLES = 30
"""Fewer batches of a size, or fewer requests, say nothing."""
TRIMMED = 0.02
"""Share of the samples left out at either end."""
TOLERANCE = 0.03
"""How far a cell may lie from its row plus the overhead, beyond its interval, before the row no longer holds."""
LARGEST_OVERHEAD_S = 0.002
LARGEST_SHARE = 0.1
"""More than this, in seconds and of a batch of one, is no overhead: then the work itself takes longer."""
STALL_RATIO = 10.0
"""A batch that takes so many times the median was held up by something else than its work."""
VISITS_KEPT = 1000
"""Requests of which observed visits are kept; more would only make files larger."""

NORMAL_95 = 1.96


@dataclass(frozen=True, slots=True)
class Estimate:
    """A fitted figure, half the width of its 95 % interval in the same unit, and from how many samples."""

    value: float
    half: float
    samples: int

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON values."""
        return {"value": self.value, "half": self.half, "samples": self.samples}


@dataclass(frozen=True, slots=True)
class StageFit:
    """What the batches of one stage say: its overhead (None: too few), and rows that replace those of their size."""

    overhead: Estimate | None
    rows: tuple[Row, ...] = ()


def middle(values: Floats) -> Estimate:
    """Return the mean of the middle 96 % of the values.

    >>> middle(np.array([1.0, *[2.0] * 98, 1000.0])).value
    2.0
    """
    ordered = np.sort(values)
    cut = int(TRIMMED * ordered.size)
    kept = ordered[cut : ordered.size - cut]
    if ordered.size < 2:
        return Estimate(float(kept.mean()) if kept.size else math.nan, math.inf, int(ordered.size))
    ordered[:cut], ordered[ordered.size - cut :] = kept[0], kept[-1]
    error = float(ordered.std(ddof=1)) * math.sqrt(ordered.size) / kept.size
    return Estimate(float(kept.mean()), NORMAL_95 * error, int(ordered.size))


def batch_overhead(service: ServiceTime, batch_size: Ints, service_s: Floats) -> Estimate | None:
    """Return what every batch took beyond what its rows say (`service` without overhead), never below 0.

    One entry per batch. Sizes are weighted by how well they are known. None with fewer than `MIN_SAMPLES` batches of
    every size.
    """
    cells = _beyond(service, batch_size, service_s)
    if not cells:
        return None
    weight = np.array([1.0 / max(cell.half, 1e-9) ** 2 for cell in cells.values()])
    value = float(np.average([cell.value for cell in cells.values()], weights=weight))
    half = 1.0 / math.sqrt(float(weight.sum()))
    return Estimate(max(0.0, value), half, sum(cell.samples for cell in cells.values()))


def fit_stage(
    profile: Profile, stage: str, variant: str, hardware: str, batch_size: Ints, service_s: Floats
) -> StageFit:
    """Return how a stage's service times differ from its profile: by a constant per batch, or else in their rows.

    One entry per batch, of replicas of one variant on one hardware. Where a constant explains what was observed, it is
    the overhead and the rows stay. Where it does not, or is too large to be one, rows of the sizes that were observed
    often enough are replaced, and what serving adds is in them. Raises ProfileError for what was not profiled.
    """
    service = profile.service(stage, variant, hardware, overhead=False)
    overhead = batch_overhead(service, batch_size, service_s)
    if overhead is None:
        return StageFit(None)
    most_s = max(LARGEST_OVERHEAD_S, LARGEST_SHARE * service.mean_at(1))
    holds = overhead.value <= most_s and all(
        abs(cell.value - overhead.value) <= cell.half + TOLERANCE * service.mean_at(size)
        for size, cell in _beyond(service, batch_size, service_s).items()
    )
    rows = [r for r in profile.rows if (r.stage, r.variant, r.hardware) == (stage, variant, hardware)]
    replaced = () if holds else observed_rows(rows, batch_size, service_s)
    return StageFit(Estimate(0.0, overhead.half, overhead.samples) if replaced else overhead, replaced)


def observed_rows(rows: Sequence[Row], batch_size: Ints, service_s: Floats) -> tuple[Row, ...]:
    """Return those of the rows whose batch size was observed often enough, with what was observed in them.

    Sizes between the rows' are left out: the planner considers the sizes that have a row, and shall consider no others.
    """
    out = []
    for row in rows:
        times_s = service_s[batch_size == row.batch_size]
        if times_s.size < MIN_SAMPLES:
            continue
        times_s = np.sort(times_s[times_s <= STALL_RATIO * float(np.median(times_s))])
        ranks = [max(0, math.ceil(percent / 100 * times_s.size) - 1) for percent in (50, 95, 99)]
        p50_s, p95_s, p99_s = (_rounded(float(times_s[rank])) for rank in ranks)
        mean_s = _rounded(float(times_s.mean()))
        out.append(
            replace(
                row, mean_s=mean_s, p50_s=p50_s, p95_s=p95_s, p99_s=p99_s, samples=times_s.size, evidence="observed"
            )
        )
    return tuple(out)


def startable_s(arrival_s: Floats, start_s: Floats, done_s: Floats) -> Floats:
    """Return when each batch could have started: its oldest item there, and a replica free; entries as `start_delay`.

    >>> startable_s(np.array([0.0, 0.5]), np.array([0.1, 1.2]), np.array([1.0, 2.0])).tolist()
    [0.0, 1.0]
    """
    # Had no replica been free before, the last batch to end freed one; had one been, the arrival came later.
    ended_s = np.concatenate([[-np.inf], np.sort(done_s)])
    freed_s = ended_s[np.searchsorted(ended_s, start_s, side="right") - 1]
    return np.asarray(np.maximum(arrival_s, freed_s), np.float64)


def start_delay(arrival_s: Floats, start_s: Floats, done_s: Floats) -> Estimate | None:
    """Return how long after it could have started a batch was started: its oldest item there, and a replica free.

    One entry per batch: when its oldest item arrived, when it started and when it was done. For stages that wait
    neither for a batch to fill nor for cores. None with fewer than `MIN_SAMPLES` batches.
    """
    if start_s.size < MIN_SAMPLES:
        return None
    return middle(start_s - startable_s(arrival_s, start_s, done_s))


def request_overhead(latency_s: Floats, at_stages_s: Floats) -> Estimate | None:
    """Return what requests took beyond their time at the stages, never below 0; one entry per answered request."""
    if latency_s.size < MIN_SAMPLES:
        return None
    found = middle(latency_s - at_stages_s)
    return replace(found, value=max(0.0, found.value))


def time_at_stages(request: Ints, arrival_s: Floats, done_s: Floats) -> tuple[Ints, Floats]:
    """Return the numbers of the requests, and for how long each had an item at some stage, queued or in service.

    One entry per item, of all stages together.

    >>> numbers, seconds = time_at_stages(np.array([7, 7, 7]), np.array([0.0, 2.0, 2.5]), np.array([1.0, 3.0, 4.0]))
    >>> numbers.tolist(), seconds.tolist()
    ([7], [3.0])
    """
    order = np.lexsort((arrival_s, request))
    numbers, place = np.unique(request[order], return_inverse=True)
    first = np.searchsorted(place, np.arange(numbers.size))
    since_s = arrival_s[order][first][place] if order.size else arrival_s
    begun_s, ended_s = arrival_s[order] - since_s, done_s[order] - since_s
    # Requests are laid end to end, so that one running maximum serves all of them.
    span_s = float(ended_s.max(initial=0.0)) + 1.0
    reached_s = np.maximum.accumulate(ended_s + place * span_s) - place * span_s
    before_s = np.concatenate([[0.0], reached_s[:-1]]) if order.size else reached_s
    before_s[first] = 0.0
    covered_s = np.maximum(0.0, ended_s - np.maximum(begun_s, before_s))
    return numbers, np.bincount(place, covered_s, numbers.size).astype(np.float64)


def scale_factors(requests: Mapping[str, Ints]) -> dict[str, Estimate]:
    """Return the items per request of each stage, from the request number of every item that it served.

    Requests that no stage served are not known; without any request there are no factors.

    >>> scale_factors({"a": np.array([1, 2]), "b": np.array([2])})["b"].value
    0.5
    """
    counts = visits(requests)
    size = next((c.size for c in counts.values()), 0)
    if not size:
        return {}
    error = {name: float(c.std(ddof=1)) / math.sqrt(size) if size > 1 else math.inf for name, c in counts.items()}
    return {name: Estimate(float(c.mean()), NORMAL_95 * error[name], size) for name, c in counts.items()}


def observed_visits(requests: Mapping[str, Ints], variants: Mapping[str, str]) -> RecordedVisits | None:
    """Return visits as served, of requests spread evenly over those observed; None with fewer than `MIN_SAMPLES`."""
    counts = visits(requests)
    size = next((c.size for c in counts.values()), 0)
    if size < MIN_SAMPLES:
        return None
    kept = np.unique(np.linspace(0, size - 1, min(size, VISITS_KEPT)).astype(int))
    return RecordedVisits({name: tuple(int(n) for n in c[kept]) for name, c in counts.items()}, dict(variants))


def refitted(
    profile: Profile,
    fits: Mapping[str, StageFit],
    request_s: float,
    utilization: Mapping[str, float],
    stamp: Mapping[str, Any],
    low_confidence: Sequence[str] = (),
) -> Profile:
    """Return the profile with fitted rows and overheads in place of its own.

    `utilization` of each stage is the load under which they were observed; `stamp` says what they come from, and
    `low_confidence` why that is to be doubted.
    """
    new = {(r.stage, r.variant, r.hardware, r.batch_size): r for fit in fits.values() for r in fit.rows}
    rows = [new.get((r.stage, r.variant, r.hardware, r.batch_size), r) for r in profile.rows]
    batch_s = {name: _rounded(fit.overhead.value) for name, fit in fits.items() if fit.overhead is not None}
    load = {name: _rounded(utilization[name]) for name in batch_s}
    overheads = Overheads(_rounded(request_s), batch_s, load, tuple(low_confidence))
    return Profile.from_rows(rows, profile.visits, {**profile.stamp, "calibration": dict(stamp)}, overheads)


def _beyond(service: ServiceTime, batch_size: Ints, service_s: Floats) -> dict[int, Estimate]:
    """How much longer batches took than profiled, by size; the profile's quantiles are trimmed as the samples are."""
    out = {}
    for size in np.unique(batch_size).tolist():
        times_s = service_s[batch_size == size]
        if times_s.size < MIN_SAMPLES or not 1 <= size <= service.batch_sizes[-1]:
            continue
        profiled_s = service.table(size, sampled=True)[size]
        seen = middle(times_s)
        out[size] = replace(seen, value=seen.value - middle(profiled_s).value)
    return out


def visits(requests: Mapping[str, Ints]) -> dict[str, Ints]:
    """How many items of each request entered each stage; requests in order of their numbers."""
    known = np.unique(np.concatenate([*requests.values(), np.empty(0, np.int64)])).astype(np.int64)
    return {
        name: np.bincount(np.searchsorted(known, numbers), minlength=known.size) for name, numbers in requests.items()
    }


def _rounded(seconds: float) -> float:
    # As the rows of a profile are: beyond four significant digits there is only noise.
    return float(f"{seconds:.4g}")
