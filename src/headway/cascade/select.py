"""Which features a cheap step may use: the most important that a budget pays for, shared generators paid once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from headway.cascade.features import Features
from headway.errors import CascadeError

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""Budgets as shares of the cost of all features. Willump goes from 0.1 to 0.6; the small ones find very cheap steps."""
EXACT = 12
"""Up to so many features, all subsets are looked at; more are left to a mixed-integer program."""


def subsets(
    features: Features,
    names: Sequence[str],
    importance: Mapping[str, float],
    cost_s: Mapping[str, float],
    shares: Sequence[float] = SHARES,
) -> list[tuple[str, ...]]:
    """Return the best subset of `names` for each budget, each once, cheapest first; never empty, never all of them.

    Best is the largest sum of importance (what shuffling gained counts as none), then the least cost. `cost_s` is that
    of each generator without what it needs. Where one feature is dearer than every budget, the cheapest feature alone
    is there all the same. Willump section 4.2 with exact knapsacks over a graph.

    >>> from headway.cascade.features import Feature
    >>> features = Features({"word": Feature(len), "char": Feature(len)})
    >>> subsets(features, ["word", "char"], {"word": 0.1, "char": 0.2}, {"word": 3.0, "char": 97.0})
    [('word',)]
    """
    if len(names) < 2:
        return []
    nodes = features.closure(names)
    needs = np.array([[node in set(features.closure([name])) for node in nodes] for name in names])
    costs = np.array([cost_s[node] for node in nodes])
    worth = np.maximum([importance[name] for name in names], 0.0)
    chosen = _all(needs, costs, worth, shares) if len(names) <= EXACT else _program(needs, costs, worth, shares)
    chosen.append(np.arange(len(names)) == int(np.argmin(needs @ costs)))
    distinct = {tuple(np.flatnonzero(mask).tolist()) for mask in chosen if mask.any() and not mask.all()}
    ordered = sorted(distinct, key=lambda places: (float(costs[needs[list(places)].any(axis=0)].sum()), places))
    return [tuple(names[place] for place in places) for places in ordered]


def _all(
    needs: NDArray[np.bool_], costs: NDArray[np.float64], worth: NDArray[np.float64], shares: Sequence[float]
) -> list[NDArray[np.bool_]]:
    """Look at every subset."""
    many = len(worth)
    masks = (np.arange(1, 2**many - 1)[:, None] >> np.arange(many)) & 1 == 1
    cost = ((masks @ needs.astype(np.int64)) > 0) @ costs
    gain = masks @ worth
    chosen = []
    for share in shares:
        affordable = np.flatnonzero(cost <= share * costs.sum())
        if affordable.size:
            chosen.append(masks[affordable[np.lexsort((cost[affordable], -gain[affordable]))[0]]])
    return chosen


def _program(
    needs: NDArray[np.bool_], costs: NDArray[np.float64], worth: NDArray[np.float64], shares: Sequence[float]
) -> list[NDArray[np.bool_]]:
    """A mixed-integer program per budget: feature x brings its worth, and each generator y that it needs its cost."""
    try:
        from scipy import optimize, sparse
    except ModuleNotFoundError:
        raise CascadeError(
            "features: SciPy is not installed, and chooses among many; pip install 'headway[learn]'"
        ) from None

    many, nodes = needs.shape
    of_feature, of_node = np.nonzero(needs)
    pairs = len(of_feature)
    # x - y <= 0: a feature is taken only with every generator that it needs.
    ties = sparse.coo_array(
        (np.repeat([1.0, -1.0], pairs), (np.tile(np.arange(pairs), 2), np.concatenate([of_feature, many + of_node]))),
        shape=(pairs, many + nodes),
    )
    spend = np.concatenate([np.zeros(many), costs / costs.sum()])
    # Cost breaks ties: all of it together weighs as much as a ten-thousandth of the worth.
    objective = np.concatenate([-worth / max(worth.sum(), 1e-300), 1e-4 * costs / costs.sum()])
    chosen = []
    for share in shares:
        found = optimize.milp(
            objective,
            integrality=np.ones(many + nodes),
            bounds=optimize.Bounds(0, 1),
            constraints=[
                optimize.LinearConstraint(ties.tocsr(), -np.inf, 0),
                optimize.LinearConstraint(spend[None, :], -np.inf, share),
            ],
            options={"mip_rel_gap": 0.0},
        )
        if found.x is None:
            raise CascadeError(f"features: no subset could be chosen within {share:.0%} of their cost: {found.message}")
        chosen.append(found.x[:many] > 0.5)
    return chosen
