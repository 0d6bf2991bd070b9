"""Which stage makes requests miss the promise: of each the one that kept it longest beyond what is usual there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headway.profile.refit import Floats, Ints, time_at_stages


@dataclass(frozen=True, slots=True)
class Stays:
    """How long requests were at each stage, queued or in service, and which of them missed the promise.

    `missed` has an entry per request offered. `request` and `stay_s`, by stage: the numbers of the requests that were
    there, counted from 0 in the order of `missed`, and for how long each had an item there.
    """

    missed: NDArray[np.bool_]
    request: Mapping[str, Ints]
    stay_s: Mapping[str, Floats]

    @classmethod
    def of(cls, missed: NDArray[np.bool_], items: Mapping[str, tuple[Ints, Floats, Floats]]) -> Stays:
        """Return the stays that items make: by stage their requests, when each arrived there and when it was done."""
        found = {name: time_at_stages(*each) for name, each in items.items()}
        return cls(missed, {n: request for n, (request, _) in found.items()}, {n: s for n, (_, s) in found.items()})


def usual_s(runs: Sequence[Stays]) -> dict[str, float]:
    """Return the median stay at each stage, over several runs; 0 at one that no request came to."""
    stays = {name: [run.stay_s[name] for run in runs if run.stay_s[name].size] for name in runs[0].stay_s}
    medians = {name: [float(np.median(each)) for each in found] for name, found in stays.items()}
    return {name: float(np.median(found)) if found else 0.0 for name, found in medians.items()}


def miss_rates(stays: Stays, usual_s: Mapping[str, float]) -> dict[str, float]:
    """Return by stage the share of all requests that missed the promise and lost most time there.

    Lost is what a request stayed beyond the usual. The shares add up to the miss rate, but for misses of requests that
    no stage has served.

    >>> missed, one = np.array([True, True, False, False]), np.arange(4)
    >>> stays = Stays(missed, {"a": one, "b": one}, {"a": np.array([5.0, 3, 1, 1]), "b": np.array([2.0, 9, 2, 2])})
    >>> miss_rates(stays, {"a": 1.0, "b": 2.0})
    {'a': 0.25, 'b': 0.25}
    """
    lost_s = np.full((len(stays.stay_s), stays.missed.size), -np.inf)
    for row, name in enumerate(stays.stay_s):
        lost_s[row, stays.request[name]] = stays.stay_s[name] - usual_s[name]
    most = np.where(stays.missed & np.isfinite(lost_s).any(axis=0), lost_s.argmax(axis=0), -1)
    return {name: float(np.mean(most == row)) for row, name in enumerate(stays.stay_s)}
