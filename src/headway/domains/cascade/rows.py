"""What a gear makes of every model of its plan: who is asked first, with which threshold, and who follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headway.domains.cascade.gears import Gear
from headway.policy.cascading import ALWAYS


@dataclass(frozen=True, slots=True)
class GearRow:
    """One gear, with models as numbers; what depends on the model has an entry for each.

    An item starts at one of the models `steps`, as `policy.cascading.first_step` says by `skip`; one that model m is
    not certain enough of (`threshold[m]`) goes on to `following[m]`, unless that is -1. Models are asked for batches in
    the order `asked`, the last first.
    """

    up_to_per_s: float
    steps: tuple[int, ...]
    skip: tuple[float, ...]
    threshold: tuple[float, ...]
    following: tuple[int, ...]
    asked: tuple[int, ...]
    min_queue: tuple[int, ...]
    max_wait_s: float


def gear_row(gear: Gear, models: Sequence[str], numbered: Sequence[str] = ()) -> GearRow:
    """Return what a gear makes of the models of its plan, which have the numbers of their places in `numbered`.

    Without `numbered` those are their places among `models`. A model outside its cascade answers what it still gets,
    in batches of whatever waits, and is asked first: its items have waited since another gear.

    >>> from headway.cascade import Cascade, Step
    >>> row = gear_row(Gear(Cascade((Step("a", threshold=0.8), Step("c"))), 100.0, (1, 1)), ("a", "b", "c"))
    >>> row.following, row.asked
    ((2, -1, -1), (0, 2, 1))
    """
    numbered = numbered or models
    count = len(numbered)
    place = {name: at for at, name in enumerate(numbered)}
    steps = tuple(place[name] for name in gear.cascade.models)
    threshold, following, min_queue = [ALWAYS] * count, [-1] * count, [1] * count
    for at, step in enumerate(steps):
        threshold[step] = gear.cascade.thresholds[at]
        min_queue[step] = gear.min_queue[at]
        following[step] = steps[at + 1] if at + 1 < len(steps) else -1
    others = [place[name] for name in models if place[name] not in steps]
    return GearRow(
        gear.up_to_per_s, steps, gear.skip, tuple(threshold), tuple(following), (*steps, *others), tuple(min_queue),
        gear.max_wait_s,
    )  # fmt: skip
