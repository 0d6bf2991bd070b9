"""The benchmark of tuners: what it compares with whom, and how sure its ratios are."""

from __future__ import annotations

import numpy as np
import pytest

from headway.bench import Row
from headway.bench import tuner as bench
from headway.policy.scaling_baselines import AutoScale
from headway.policy.scaling_headway import Headway
from headway.testing.scaling import example_terms


def runs(misses: list[float], cost: list[float]) -> list[bench.Run]:
    return [{"misses": m, "miss-rate": 0.0, "cost": c, "actions": 1.0} for m, c in zip(misses, cost, strict=True)]


def rows_of(rivals_misses: list[float]) -> dict[str, Row]:
    results = {
        "headway": runs([30.0, 20.0], [1.0, 1.2]),
        "autoscale": runs(rivals_misses, [1.0, 1.1]),
        "oracle": runs([10.0, 10.0], [3.0, 3.0]),
    }
    rows = bench.compared("tuner/step", results, "autoscale", judged=True)
    rows += bench.compared("tuner/step/plain", results, "autoscale", judged=False)
    return {row.name: row for row in rows}


def test_misses_are_compared_above_the_oracles_and_every_ratio_has_a_standard_error() -> None:
    rows = rows_of([110.0, 110.0])
    missed, cost = rows["tuner/step/misses-above-oracle"], rows["tuner/step/cost"]
    assert (missed.value, missed.baseline, missed.ratio, missed.met) == (15.0, 100.0, 0.15, True)
    assert cost.ratio == pytest.approx(1.1 / 1.05)
    assert cost.met is False
    # Leaving one of two runs out gives 0.1 and 0.2, and 1.2 / 1.1 and 1.
    assert rows["tuner/step/misses-above-oracle-standard-error"].value == pytest.approx(0.05)
    assert rows["tuner/step/cost-standard-error"].value == pytest.approx((1.2 / 1.1 - 1) / 2)
    assert {row.bar for name, row in rows.items() if "/plain/" in name} == {None}
    assert rows["tuner/step/plain/misses-above-oracle"].ratio == 0.15


def test_a_rival_that_misses_no_more_than_the_oracle_leaves_no_ratio_and_an_unmet_bar() -> None:
    rows = rows_of([10.0, 10.0])
    missed = rows["tuner/step/misses-above-oracle"]
    assert missed.ratio is None
    assert missed.met is False
    assert "tuner/step/misses-above-oracle-standard-error" not in rows
    assert rows["tuner/step/plain/misses-above-oracle"].met is None


def test_the_standard_error_of_a_ratio_is_that_of_resampled_runs() -> None:
    rng = np.random.default_rng(5)
    below = rng.normal(100.0, 10.0, 40)
    above = 0.2 * below + rng.normal(0.0, 3.0, 40)
    picks = rng.integers(0, 40, (4000, 40))
    resampled = np.std(above[picks].mean(axis=1) / below[picks].mean(axis=1))
    assert bench.ratio_error(list(above), list(below)) == pytest.approx(resampled, rel=0.1)


def test_every_row_names_a_tuner_that_differs_from_the_others() -> None:
    known = example_terms()
    made = bench.competitors(known, lambda _: 1.0)
    assert {*bench.NAMES, *bench.IN_LULL} == set(made)
    assert set(bench.JUDGED) <= set(bench.NAMES)
    assert len({repr(one) for one in made.values()}) == len(made)
    assert made["autoscale"] == AutoScale(known)
    assert made["autoscale-plain"] == AutoScale(known, unit_ratio=1.0)
    assert made["headway"] == Headway(known)


def test_the_lull_is_thinner_than_planned_and_ends_at_the_planned_rate() -> None:
    assert [bench.LULL.level(at_s) for at_s in (0.0, 150.0, 300.0)] == [1.0, 1 / 3, 1.0]
    assert all(scenario.level(150.0) > 1.0 for scenario in bench.SCENARIOS)
