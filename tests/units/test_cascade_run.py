"""Running a cascade: what it counts, what it says of itself, and what it refuses."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from headway.cascade.adapt import Scorer, scorer
from headway.cascade.certainty import margin
from headway.cascade.features import Feature, Features
from headway.cascade.model import Cascade, Step
from headway.cascade.run import FittedCascade
from headway.errors import CascadeError

TWO = [0, 1]


def first(block: Any) -> Any:
    return np.hstack([1 - block[:, :1], block[:, :1]])


def features() -> Features:
    return Features(
        {"x": Feature(lambda rows: np.asarray(rows, float)), "y": Feature(lambda rows: np.asarray(rows) / 2)}
    )


def runner(threshold: float = 0.5, **models: Scorer) -> FittedCascade:
    made = {"small": scorer(first, TWO), "full": scorer(first, TWO)} | models
    steps = (Step("small", ("x",), threshold), Step("full", ("y",)))
    ticks = iter(range(1000))
    return FittedCascade(Cascade(steps), features(), made, {"small": margin}, clock=lambda: float(next(ticks)))


def test_it_counts_rows_exits_and_seconds() -> None:
    made = runner()
    assert made.predict([0.1, 0.4, 0.9, 1.0]).tolist() == [0, 0, 1, 1]
    made.predict([0.5])
    counters = made.counters
    assert (counters.calls, counters.rows, counters.exits) == (2, 5, [3, 2])
    assert counters.shares == {"small": 0.6, "full": 0.4}
    assert counters.spent.rows == {"x": 5, "y": 2}
    assert counters.spent.seconds == {"x": 2.0, "y": 2.0}
    assert counters.model_s == {"small": 2.0, "full": 2.0}
    made.reset()
    assert made.counters.rows == 0
    assert made.counters.shares == {}


def test_its_steps_asked_one_by_one_are_a_family_that_answers_as_it_does() -> None:
    made = runner(0.7)
    made.certainty = dict.fromkeys(made.models, margin)
    rows = np.random.default_rng(1).random(200).tolist()
    small, full = made.member(0).predict(rows), made.member(-1).predict(rows)
    said = [cheap if sure >= 0.7 else dear for (cheap, sure), (dear, _) in zip(small, full, strict=True)]
    assert said == made.predict(rows).tolist()
    assert {type(answer) for answer, _ in small} == {int}
    assert made.counters.rows == 200


def test_a_member_is_a_step_whose_certainty_is_known() -> None:
    with pytest.raises(CascadeError, match="no step 2; its 2 steps count from 0"):
        runner().member(2)
    wrong: list[Any] = ["a", 1.0, None]
    for place in wrong:
        with pytest.raises(CascadeError, match=f"it has no step {place!r}; its 2 steps count from 0"):
            runner().member(place)
    with pytest.raises(CascadeError, match="nothing says how certain 'full' is"):
        runner().member(1)


def test_no_rows_are_answered_by_nobody() -> None:
    made = runner()
    assert made.predict([]).tolist() == []
    assert made.counters.exits == [0, 0]


def test_rows_whose_certainty_is_not_a_number_go_on() -> None:
    blind = scorer(lambda block: np.full((len(block), 2), np.nan), TWO)
    assert runner(0.0, small=blind).answer([0.1, 0.9]).step.tolist() == [1, 1]


def test_a_last_step_without_numbers_is_an_error() -> None:
    blind = scorer(lambda block: np.where(block > 0.2, np.nan, first(block)), TWO)
    with pytest.raises(CascadeError, match=r"last step, 'full', gave scores that are not numbers for 1 of 2 rows"):
        runner(2.0, full=blind).predict([0.1, 0.9])


def test_threads_count_together() -> None:
    made = FittedCascade(Cascade((Step("full", ("x",)),)), features(), {"full": scorer(first, TWO)}, {})
    threads = [threading.Thread(target=lambda: [made.predict([0.3, 0.7]) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (made.counters.calls, made.counters.rows, made.counters.exits) == (200, 400, [400])


@pytest.mark.parametrize(
    ("steps", "models", "certainty", "message"),
    [
        (
            (Step("small", ("x",), 0.5), Step("full", ("y",))),
            {"full": scorer(first, TWO)},
            {},
            "no model is called 'small'",
        ),
        ((Step("full", ("z",)),), {"full": scorer(first, TWO)}, {}, "features: none is called 'z'"),
        (
            (Step("small", ("x",), 0.5), Step("full", ("y",))),
            {"small": scorer(first, TWO), "full": scorer(first, TWO)},
            {},
            "step 'small' has a threshold but no certainty",
        ),
        (
            (Step("full", ("y",)),),
            {"small": scorer(first, ["no", "yes"]), "full": scorer(first, TWO)},
            {},
            "'small' and 'full' differ in their classes: no, yes and 0, 1",
        ),
    ],
)
def test_what_cannot_run_is_refused(steps: Any, models: Any, certainty: Any, message: str) -> None:
    with pytest.raises(CascadeError, match=message):
        FittedCascade(Cascade(steps), features(), models, certainty)


def test_put_together_by_hand_it_knows_no_costs() -> None:
    with pytest.raises(CascadeError, match="put together by hand"):
        runner().explain()
