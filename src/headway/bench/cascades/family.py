"""The family of models that gear plans are compared on, and the traffic: five models of handwritten digits, measured.

Its devices are taken to be `SLOWER` times slower, so that a trace of half a minute keeps 8 to 32 of them busy with
tens of thousands of requests instead of millions; no ratio depends on that. Every sample of the validation table was
answered by models that were not trained on it. Plans are made from one part of the table, of which one half chooses
cascades and the other says how right they are; the rest, `tested`, is for the final word.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from headway.domains.cascade.family import Family
from headway.domains.cascade.halves import Rows
from headway.errors import TraceError
from headway.plan.config import StageContext
from headway.profile import Profile
from headway.spec.model import Spec
from headway.trace import Trace

DIGITS = Path(__file__).parent / "digits"
STAGE = "digits"
SLOWER = 500.0
PLANNED = 0.7
"""The share of the validation table that plans are made from."""
BURSTS = (0.5, 3.0), (6.0, 1.5)
"""A Markov-modulated trace: multiples of the mean rate, and the seconds that each holds on average."""


@lru_cache(maxsize=1)
def profile() -> Profile:
    """Return the measured profile on the slower devices."""
    measured = Profile.read(DIGITS / "profile.csv")
    return Profile.from_rows(dataclasses.replace(row, mean_s=SLOWER * row.mean_s) for row in measured.rows)


def spec(rate_per_s: float, latency_s: float, accuracy: float | None = None) -> Spec:
    """Return the family as one stage, under both promises."""
    names = dict.fromkeys(row.variant for row in profile().rows)
    slo: dict[str, Any] = {"latency": f"{latency_s!r}s", "percentile": 95}
    return Spec.from_dict(
        {
            "slo": slo if accuracy is None else {**slo, "accuracy": accuracy},
            "supply": {"device": {"price": "$1/h"}},
            "stages": {
                STAGE: {
                    "kind": "cascade",
                    "models": {name: {} for name in names},
                    "table": str(DIGITS / "validation.csv"),
                    "max_rate": f"{rate_per_s!r}/s",
                }
            },
        }
    )


def whole(rate_per_s: float, latency_s: float) -> Family:
    """Return the family with all of its samples, for rates up to so many requests per second."""
    declared = spec(rate_per_s, latency_s)
    return Family.of(StageContext(STAGE, declared.stages[STAGE], declared, profile()), "device")


def planned(family: Family) -> Family:
    """Return the family with the samples that plans are made from."""
    return dataclasses.replace(family, table=_table(family)[0])


def tested(family: Family) -> Rows:
    """Return the samples of the whole family that no plan was made from."""
    return _table(family)[1]


@lru_cache(maxsize=2)
def _halved(table: Any) -> tuple[Any, Rows]:
    plans, rest = table.parts((PLANNED, 1 - PLANNED), seed=0)
    return table.take(plans), rest


def _table(family: Family) -> tuple[Any, Rows]:
    return _halved(family.table)


def bursty(rate_per_s: float, seconds: float, seed: int) -> Trace:
    """Return requests at a mean rate, which for short times come six times as fast as otherwise."""
    (low, high), (low_s, high_s) = BURSTS
    mean = (low * low_s + high * high_s) / (low_s + high_s)
    rates = rate_per_s * low / mean, rate_per_s * high / mean
    return Trace.mmpp2(rates, (low_s, high_s), seconds, seed=seed)


def played(trace: Trace, rate_per_s: float, seconds: float, seed: int) -> Trace:
    """Return requests that come as those of a trace do, in `seconds` and at a mean rate.

    Each comes at a random moment of the trace as its arrivals are spread over it: more requests than it has keep its
    rises and falls, of whatever length, and between two of its arrivals they are as good as Poisson. Raises
    TraceError.

    >>> played(Trace.from_arrivals([0.0, 1.0, 9.0, 10.0], duration_s=10.0), 100.0, 5.0, seed=1).requests
    500
    """
    if trace.requests < 2 or trace.arrival_s[-1] <= trace.arrival_s[0]:
        raise TraceError(f"trace {trace.name!r} has too few arrivals to be played at another rate")
    count = round(rate_per_s * seconds)
    at = np.sort(np.random.default_rng(seed).random(count)) * (trace.requests - 1)
    moment_s = np.interp(at, np.arange(trace.requests), trace.arrival_s) - trace.arrival_s[0]
    arrival_s = moment_s * (seconds / (trace.arrival_s[-1] - trace.arrival_s[0]))
    return Trace.from_arrivals(arrival_s, duration_s=seconds, name=trace.name)
