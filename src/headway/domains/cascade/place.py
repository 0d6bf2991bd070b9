"""Where models go and how much load that carries: the utilization that the best split of work reaches, and the split.

Devices that hold the same models are one group. The busiest device is least busy at `peak_utilization`, which is a
maximum over sets of models (Hall's condition for this transport problem); `balance` solves the linear program of
CascadeServe (arXiv 2406.14424, section 3.3) and gives the split too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from headway.domains.cascade.gears import Group
from headway.errors import PlanError

Floats = NDArray[np.float64]

MOST_MODELS = 12
"""Sets of models are listed up to this many."""
MOST_PLACEMENTS = 3_000


def peak_utilization(placement: Sequence[Group], models: Sequence[str], work_s: Floats) -> Floats:
    """Return the utilization of the busiest device when work is split as well as can be.

    `work_s[..., model]`: device-seconds per second asked of each model. Infinite where a model with work is nowhere.

    >>> peak_utilization((Group(("a", "b"), 1), Group(("b",), 1)), ("a", "b"), np.array([0.4, 1.2])).item()
    0.8
    """
    if len(models) > MOST_MODELS:
        raise PlanError(f"a family of {len(models)} models is not planned; at most {MOST_MODELS} are")
    member = np.array(list(itertools.product((0, 1), repeat=len(models))), np.float64)[1:]
    held = np.array([[name in group.models for name in models] for group in placement], np.float64)
    count = np.array([group.devices for group in placement], np.float64)
    devices = (member @ held.T > 0) @ count
    asked = work_s @ member.T
    with np.errstate(divide="ignore", invalid="ignore"):
        busy = np.where(asked > 0, asked / devices, 0.0)
    return np.asarray(busy.max(axis=-1))


def balance(
    placement: Sequence[Group], rates_per_s: Mapping[str, float], time_s: Mapping[str, float]
) -> tuple[float, dict[str, tuple[float, ...]]]:
    """Return the least utilization of the busiest device, and per model the share of its items that each group serves.

    `rates_per_s`: items per second that reach each model, `time_s`: device-seconds per item. One linear program: the
    least u; as every item is served once, the sum of rates that the paper adds to it is a constant. Raises PlanError
    when a model is nowhere, or SciPy is missing.

    >>> u, split = balance((Group(("a",), 1), Group(("a",), 3)), {"a": 10.0}, {"a": 0.2})
    >>> round(u, 6), [round(share, 6) for share in split["a"]]
    (0.5, [0.25, 0.75])
    """
    try:
        from scipy.optimize import linprog
    except ImportError:
        raise PlanError("the split of load over devices needs SciPy; pip install 'headway[learn]'") from None
    names = [name for name, rate in rates_per_s.items() if rate > 0]
    served = [(name, at) for name in names for at, group in enumerate(placement) if name in group.models]
    for name in names:
        if not any(model == name for model, _ in served):
            raise PlanError(f"no device holds model {name!r}, so its load cannot be served")
    once = np.zeros((len(names), len(served) + 1))
    busy = np.zeros((len(placement), len(served) + 1))
    for column, (name, at) in enumerate(served):
        once[names.index(name), column] = 1.0
        busy[at, column] = rates_per_s[name] * time_s[name]
    busy[:, -1] = [-group.devices for group in placement]
    found = linprog(
        [*[0.0] * len(served), 1.0], A_ub=busy, b_ub=np.zeros(len(placement)), A_eq=once, b_eq=np.ones(len(names)),
        method="highs",
    )  # fmt: skip
    if not found.success:
        raise PlanError(f"the split of load over devices was not found: {found.message}")
    split = {name: [0.0] * len(placement) for name in names}
    for (name, at), share in zip(served, found.x[:-1], strict=True):
        split[name][at] = float(share)
    return float(found.x[-1]), {name: tuple(shares) for name, shares in split.items()}


def model_sets(memory_mb: Mapping[str, float], device_mb: float) -> list[tuple[str, ...]]:
    """Return the sets of models that fit on a device together and to which no other can be added.

    >>> model_sets({"a": 1.0, "b": 2.0, "c": 3.0}, 4.0)
    [('a', 'b'), ('a', 'c')]
    """
    names = list(memory_mb)
    fitting = [
        frozenset(chosen)
        for size in range(1, len(names) + 1)
        for chosen in itertools.combinations(names, size)
        if sum(memory_mb[name] for name in chosen) <= device_mb * (1 + 1e-12)
    ]
    largest = [chosen for chosen in fitting if not any(chosen < other for other in fitting)]
    return sorted(tuple(name for name in names if name in chosen) for chosen in largest)


def placements(sets: Sequence[tuple[str, ...]], devices: int) -> Iterator[tuple[Group, ...]]:
    """Yield the ways of giving each device one of the sets; of too many only those in even steps.

    >>> [[group.devices for group in each] for each in placements([("a",), ("b",)], 2)]
    [[2], [1, 1], [2]]
    """
    step = 1
    while math.comb(devices // step + len(sets) - 1, len(sets) - 1) > MOST_PLACEMENTS:
        step += 1
    for counts in _compositions(devices // step, len(sets)):
        scaled = [step * count for count in counts]
        scaled[int(np.argmax(scaled))] += devices - sum(scaled)
        yield tuple(Group(chosen, count) for chosen, count in zip(sets, scaled, strict=True) if count)


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (total,)
        return
    for first in range(total, -1, -1):
        for rest in _compositions(total - first, parts - 1):
            yield first, *rest
