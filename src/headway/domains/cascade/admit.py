"""What an item asks of a cascade's devices when it comes, and from whichever model it waits at.

Who is let in rests on it. Under more load than a gear is made for the gears change to the cheapest, so that a request
comes too late for certain only if even that one would answer it late: work is counted as it does it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headway.cascade import Cascade, ValidationTable
from headway.domains.cascade.gears import GearPlan
from headway.domains.cascade.place import peak_utilization
from headway.policy.cascading import answers
from headway.profile import Profile

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Work:
    """Device-seconds in the cheapest gear; what depends on the model has an entry for each, by its number.

    `batch_s[n - 1]`: of n items that come together, with all that follows from them; `item_s`: of one among as many as
    fit a batch. Of an item's whole work, `rest`
    is the share before one that waits at a model, `after` that when its batch there is done. `own_s[model][n - 1]`: a
    batch of the model by itself.
    """

    batch_s: tuple[float, ...]
    item_s: float
    rest: tuple[float, ...]
    after: tuple[float, ...]
    own_s: tuple[tuple[float, ...], ...]

    @classmethod
    def of(
        cls, plan: GearPlan, table: ValidationTable, mean_s: Mapping[str, Floats], numbered: Sequence[str] = ()
    ) -> Work:
        """Return the work in a plan's cheapest gear; `mean_s[model][n]` is what a batch of n takes on average.

        Models have the numbers of their places in `numbered`, without it among the plan's.
        """
        cascade, sizes = plan.gears[-1].cascade, dict(plan.max_batch_size)
        share = reaching(table, cascade)
        cost_s = {name: float(mean_s[name][size]) / size for name, size in sizes.items()}
        work_s = np.array([share.get(name, 0.0) * cost_s[name] for name in sizes])
        item_s = float(work_s.sum())
        # Where the models are spread unevenly, the busiest devices say how fast work is done.
        crowding = float(peak_utilization(plan.placement, tuple(sizes), work_s)) * plan.devices / item_s
        batch_s = [
            crowding * sum(_batches_s(mean_s[name], share[name], n, sizes[name]) for name in cascade.models)
            for n in range(1, sizes[cascade.models[0]] + 1)
        ]
        rest_s = {**cost_s, **_rest_s(cascade, share, cost_s)}
        names = numbered or plan.models
        return cls(
            tuple(batch_s),
            batch_s[-1] / len(batch_s),
            tuple(rest_s.get(name, 0.0) / item_s for name in names),
            tuple((rest_s[name] - cost_s[name]) / item_s if name in sizes else 0.0 for name in names),
            tuple(tuple(mean_s[name][1:].tolist()) if name in sizes else () for name in names),
        )


def work_of(plan: GearPlan, table: ValidationTable, profile: Profile, stage: str, numbered: Sequence[str] = ()) -> Work:
    """Return the work in a plan's cheapest gear by the mean times of a profile. Raises ProfileError."""
    mean_s = {
        name: profile.service(stage, name, plan.hardware).table(size, sampled=False).mean(axis=1)
        for name, size in plan.max_batch_size
    }
    return Work.of(plan, table, mean_s, numbered)


def reaching(table: ValidationTable, cascade: Cascade) -> dict[str, float]:
    """Return the share of the samples that each model of a cascade is asked about.

    >>> from headway.cascade import Step
    >>> table = ValidationTable([0, 1], {"a": [0, 0], "b": [0, 1]}, {"a": [0.9, 0.6], "b": [1.0, 1.0]})
    >>> reaching(table, Cascade((Step("a", threshold=0.8), Step("b"))))
    {'a': 1.0, 'b': 0.5}
    """
    here = np.ones(table.samples, np.bool_)
    out = {}
    for name, threshold in zip(cascade.models, cascade.thresholds, strict=True):
        out[name] = float(here.mean())
        here = here & ~answers(table.certainty[name], threshold)
    return out


def _batches_s(mean_s: Floats, share: float, n: int, size: int) -> float:
    """The time of a model for those of n items that reach it: whatever of a batch goes on is a batch of its own."""
    batches = max(1.0 - (1.0 - share) ** n, share * n / size)
    together = min(size, max(1, round(share * n / batches))) if batches > 0 else 1
    return batches * float(mean_s[together])


def _rest_s(cascade: Cascade, share: Mapping[str, float], cost_s: Mapping[str, float]) -> dict[str, float]:
    """The work before an item that waits at each model of a cascade."""
    out: dict[str, float] = {}
    onward_s, onward = 0.0, 0.0
    for name in reversed(cascade.models):
        further = onward / share[name] if share[name] > 0 else 0.0
        out[name] = cost_s[name] + further * onward_s
        onward_s, onward = out[name], share[name]
    return out
