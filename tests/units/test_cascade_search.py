"""Searching cascades: costs that are shared between steps, and what cannot be searched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headway.cascade.model import Cascade, Step
from headway.cascade.search import judge, search, step_costs_s
from headway.cascade.table import ValidationTable
from headway.errors import CascadeError

COST_S = {"a": 0.001, "b": 0.01}


def table(samples: int = 8) -> ValidationTable:
    labels = np.arange(samples) % 2
    return ValidationTable(
        labels, {"a": np.zeros(samples, int), "b": labels}, {"a": np.linspace(0, 1, samples), "b": np.ones(samples)}
    )


def test_steps_may_share_work() -> None:
    """What the first step has computed costs the second nothing again."""

    def cost_s(models: tuple[str, ...]) -> list[float]:
        return [COST_S[name] - (0.001 if at else 0.0) for at, name in enumerate(models)]

    cascade = Cascade((Step("a", threshold=0.5), Step("b")))
    apart, shared = judge(table(), [cascade], COST_S), judge(table(), [cascade], cost_s)
    assert apart.cost_s[0] == pytest.approx(0.001 + 0.5 * 0.010)
    assert shared.cost_s[0] == pytest.approx(0.001 + 0.5 * 0.009)
    assert step_costs_s(cost_s, ("a", "b")) == pytest.approx([0.001, 0.009])


def test_features_of_the_models_go_into_the_cascades_found() -> None:
    found = search(table(), COST_S, features={"a": ("words",), "b": ("words", "chars")})
    assert found.cascade(found.pareto()[0]) == Cascade((Step("a", ("words",)),))
    assert found.cascade(found.pareto()[-1]).steps[-1].features == ("words", "chars")
    cascade = Cascade((Step("a", ("words",), 0.5), Step("b")))
    assert judge(table(), [cascade], COST_S).cascade(0) == cascade
    with pytest.raises(CascadeError, match="needs two names"):
        judge(table(), [cascade, Cascade((Step("a"),))], COST_S)


@pytest.mark.parametrize(
    ("cost_s", "said"),
    [
        ({"a": 0.1}, "nothing says what model 'b' costs"),
        ({"a": 0.1, "b": -1.0}, "at least 0"),
        ({"a": 0.1, "b": float("nan")}, "finite"),
        (lambda models: [0.1], "one finite number of seconds"),
    ],
)
def test_a_missing_cost_is_an_error(cost_s: Any, said: str) -> None:
    with pytest.raises(CascadeError, match=said):
        search(table(), cost_s)


def test_an_unknown_model_and_no_cascade_are_errors() -> None:
    with pytest.raises(CascadeError, match="no model 'c'"):
        judge(table(), [Cascade((Step("c"),))], COST_S)
    with pytest.raises(CascadeError, match="there is none to judge"):
        judge(table(), [], COST_S)


@pytest.mark.parametrize("limits", [{"max_steps": 0}, {"levels": 0}, {"budget": 1}])
def test_limits_that_leave_nothing_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(CascadeError, match="at least one step"):
        search(table(), COST_S, **limits)  # type: ignore[arg-type]


def test_a_threshold_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(CascadeError, match="a threshold of model 'a' is not a number"):
        search(table(), COST_S, thresholds={"a": [float("nan")]})


def test_spaces_that_cannot_be_drawn_from_are_refused() -> None:
    names = [f"m{at}" for at in range(12)]
    wide = ValidationTable([0, 1], {name: [0, 1] for name in names}, {name: [0.1, 0.9] for name in names})
    grids = {name: np.linspace(0, 1, 999).tolist() for name in names}
    with pytest.raises(CascadeError, match="too many to draw from"):
        search(wide, dict.fromkeys(names, 1.0), max_steps=8, thresholds=grids)
    with pytest.raises(CascadeError, match="12 models in up to 12 steps have more orders than the budget of 500"):
        search(wide, dict.fromkeys(names, 1.0), max_steps=12, budget=500)
