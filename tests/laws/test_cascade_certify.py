"""The guarantee holds: what is certified loses more than was allowed no more often than the confidence says."""

from __future__ import annotations

import numpy as np
from scipy import stats

from headway.cascade.guarantee import CORRECTIONS, by_safety, certify, samples_needed
from headway.cascade.model import Cascade
from headway.cascade.paired import loss_bound
from headway.cascade.search import judge, search
from headway.cascade.table import ValidationTable
from headway.errors import CascadeError

RIGHT = 0.8
TOLERANCE = 0.04
COST_S = {"small": 0.001, "full": 0.01}


def population(samples: int, seed: int) -> ValidationTable:
    """The full model is right 8 times in 10; the small one more often the more certain it is, from 0.6 to 0.85."""
    rng = np.random.default_rng(seed)
    sure = rng.random(samples)
    labels = rng.integers(0, 2, samples)
    full = np.where(rng.random(samples) < RIGHT, labels, 1 - labels)
    small = np.where(rng.random(samples) < 0.6 + 0.25 * sure, labels, 1 - labels)
    return ValidationTable(labels, {"small": small, "full": full}, {"small": sure, "full": np.ones(samples)})


def true_loss(cascade: Cascade) -> float:
    """The loss over the whole population: what the small model lacks where it answers."""
    if cascade.models == ("full",):
        return 0.0
    threshold = 0.0 if len(cascade) == 1 else cascade.thresholds[0]
    return (RIGHT - 0.6) * (1.0 - threshold) - 0.125 * (1.0 - threshold**2)


def certified(seed: int) -> dict[str, tuple[Cascade, ...]]:
    """What either correction certifies to lose at most `TOLERANCE`, of candidates chosen on other samples."""
    chosen_on, certified_on = population(400, 2 * seed), population(1000, 2 * seed + 1)
    found = search(chosen_on, COST_S, levels=8)
    candidates = by_safety(chosen_on, map(found.cascade, found.pareto()), COST_S, "full")
    out: dict[str, tuple[Cascade, ...]] = {}
    for correction in CORRECTIONS:
        try:
            given = certify(certified_on, candidates, "full", tolerance=TOLERANCE, correction=correction)
        except CascadeError:
            given = ()
        assert all(one.loss_bound <= TOLERANCE for one in given)
        out[correction] = tuple(one.cascade for one in given)
    return out


def test_over_200_data_sets_no_more_certificates_are_wrong_than_allowed() -> None:
    allowed = stats.binom.ppf(0.95, 200, 0.05)
    sets = [certified(seed) for seed in range(200)]
    for correction in CORRECTIONS:
        wrong = [any(true_loss(cascade) > TOLERANCE for cascade in given[correction]) for given in sets]
        assert sum(wrong) <= allowed
        saving = [any(len(cascade) > 1 for cascade in given[correction]) for given in sets]
        assert sum(saving) > 60, "a guarantee that certifies nothing holds as well"


def test_a_point_estimate_is_wrong_much_more_often() -> None:
    """The same data without the bound: what the law above would catch."""
    wrong = 0
    for seed in range(60):
        table = population(1000, 2 * seed + 1)
        found = search(table, COST_S, levels=24)
        losses = table.accuracy("full") - found.accuracy
        allowed = [row for row in found.pareto() if losses[row] <= TOLERANCE]
        wrong += true_loss(found.cascade(min(allowed, key=lambda row: found.cost_s[row]))) > TOLERANCE
    assert wrong > 15


def test_the_number_of_samples_needed_is_enough_and_not_far_more() -> None:
    for tolerance, share, loss, candidates in ((0.01, 0.05, 0.0, 1), (0.02, 0.1, 0.005, 4), (0.01, 0.0, 0.0, 1)):
        needed = samples_needed(tolerance, share, loss, candidates=candidates)

        def bounded(samples: int, share: float = share, loss: float = loss, candidates: int = candidates) -> float:
            counts = (round(samples * (share + loss) / 2), round(samples * (share - loss) / 2))
            return loss_bound(*counts, samples, 1.0 - 0.05 / candidates)

        assert bounded(needed) <= tolerance * 1.001
        assert bounded(int(0.9 * needed)) > tolerance


def test_the_testing_order_ends_with_the_cheapest_and_never_gets_dearer() -> None:
    table = population(800, 7)
    found = search(table, COST_S, levels=24)
    order = by_safety(table, map(found.cascade, found.pareto()), COST_S, "full")
    costs = judge(table, order, COST_S).cost_s
    assert np.all(np.diff(costs) < 0)
    assert costs[-1] == found.cost_s.min()
