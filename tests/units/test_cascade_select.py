"""What features cost, how much a model relies on them, and which a cheap step may use."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

import headway.cascade.select as choosing
from headway.cascade.costs import Cost, Costs, measure
from headway.cascade.features import Feature, Features
from headway.cascade.importance import block_importance
from headway.cascade.select import subsets
from headway.errors import CascadeError


class Clock:
    """Seconds that pass only when work is done."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def work(self, fixed_s: float, per_row_s: float) -> Any:
        def compute(rows: Any) -> Any:
            self.now_s += fixed_s + per_row_s * len(rows)
            return np.zeros((len(rows), 1))

        return compute


def test_costs_are_measured_as_a_line_and_alone() -> None:
    clock = Clock()
    features = Features(
        {
            "base": Feature(clock.work(0.01, 0.001)),
            "dear": Feature(clock.work(0.0, 0.1), needs=("base",)),
            "unused": Feature(clock.work(9.0, 9.0)),
        }
    )
    models = {"small": (["dear"], clock.work(0.002, 0.0))}
    found = measure(features, models, list(range(50)), clock=clock)
    assert set(found.features) == {"base", "dear"}
    assert found.features["base"].fixed_s == pytest.approx(0.01)
    assert found.features["base"].per_row_s == pytest.approx(0.001)
    assert found.features["dear"].of(10) == pytest.approx(1.0)
    assert found.models["small"] == Cost(pytest.approx(0.002), pytest.approx(0.0, abs=1e-12))  # type: ignore[arg-type]


def test_costs_need_rows() -> None:
    with pytest.raises(CascadeError, match="there are no rows to measure with"):
        measure(Features({"a": Feature(len)}), {}, [])


def test_expected_costs_pay_shared_features_once_and_fixed_costs_only_when_reached() -> None:
    costs = Costs(
        {"base": Cost(1.0, 0.0), "dear": Cost(10.0, 0.0)},
        {"small": Cost(0.0, 0.0), "full": Cost(0.0, 0.0)},
        {"small": ("base",), "full": ("base", "dear")},
    )
    assert costs.expected_s(("small", "full"), [1.0, 0.5], 1) == pytest.approx(1.0 + 0.5 * 10)
    assert costs.expected_s(("small", "full"), [1.0, 0.5], 2) == pytest.approx(1.0 + 0.75 * 10)
    assert costs.expected_s(("small", "full"), [1.0, 0.0], 1000) == 1.0


def test_importance_finds_what_the_answer_depends_on() -> None:
    draws = np.random.default_rng(1)
    rows = draws.normal(size=(2000, 3))
    truth = rows[:, 0] + 0.3 * rows[:, 1] > 0
    features = Features({name: Feature(lambda rows, at=at: rows[:, [at]]) for at, name in enumerate("abc")})

    def accuracy(block: Any) -> float:
        return float(np.mean((block[:, 0] + 0.3 * block[:, 1] > 0) == truth))

    found = block_importance(accuracy, features.known(rows), "abc", seed=3)
    assert found["a"].mean > 4 * found["b"].mean > 0
    assert found["c"].mean == found["c"].error == 0.0
    assert found == block_importance(accuracy, features.known(rows), "abc", seed=3)


def graph(draws: np.random.Generator, many: int) -> tuple[Features, dict[str, float], dict[str, float], list[str]]:
    names = [f"f{place}" for place in range(many)]
    prefixes = [f"p{place}" for place in range(3)]
    made = {name: Feature(len) for name in prefixes}
    for name in names:
        made[name] = Feature(len, needs=tuple(p for p in prefixes if draws.random() < 0.4))
    cost = {name: float(draws.integers(1, 20)) for name in made}
    worth = {name: float(draws.normal(0.3, 0.4)) for name in names}
    return Features(made), worth, cost, names


def best_by_hand(features: Features, worth: Any, cost: Any, names: list[str], share: float) -> tuple[float, float]:
    """The most importance within the budget, and the least cost of it, by trying all subsets."""
    budget = share * sum(cost[node] for node in features.closure(names))
    tried = [
        (-sum(max(worth[n], 0.0) for n in chosen), sum(cost[node] for node in features.closure(chosen)))
        for size in range(1, len(names))
        for chosen in combinations(names, size)
    ]
    gain, least = min((entry for entry in tried if entry[1] <= budget), default=(0.0, 0.0))
    return -gain, least


@pytest.mark.parametrize("exact", [True, False], ids=["all", "program"])
@pytest.mark.parametrize("seed", range(6))
def test_subsets_are_the_best_of_their_budget(seed: int, exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "EXACT", 12 if exact else 0)
    features, worth, cost, names = graph(np.random.default_rng(seed), 7)
    for share in (0.2, 0.5):
        gain, least = best_by_hand(features, worth, cost, names, share)
        found = subsets(features, names, worth, cost, shares=[share])
        reached = [
            (sum(max(worth[n], 0.0) for n in chosen), sum(cost[node] for node in features.closure(chosen)))
            for chosen in found
        ]
        assert gain == 0.0 or (pytest.approx(gain), pytest.approx(least)) in reached


def test_subsets_are_distinct_cheapest_first_and_leave_something_out() -> None:
    features, worth, cost, names = graph(np.random.default_rng(9), 8)
    found = subsets(features, names, worth, cost)
    spent = [sum(cost[node] for node in features.closure(chosen)) for chosen in found]
    assert len(set(found)) == len(found) > 2
    assert spent == sorted(spent)
    assert all(0 < len(chosen) < len(names) for chosen in found)


def test_one_feature_leaves_no_subset() -> None:
    assert subsets(Features({"a": Feature(len)}), ["a"], {"a": 1.0}, {"a": 1.0}) == []
