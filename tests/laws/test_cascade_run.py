"""What holds of every cascade that runs, whatever its thresholds: it is its steps, row by row, and computes no more."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler

from headway.cascade.adapt import Scorer, adapt, scorer
from headway.cascade.candidates import Candidate, Trained
from headway.cascade.certainty import margin
from headway.cascade.features import Feature, Features
from headway.cascade.model import Cascade, Step
from headway.cascade.run import FittedCascade

NEVER = float("inf")
STEPS = {"linear": ("coarse",), "small": ("coarse", "rows"), "full": ("coarse", "rows", "pixels")}
thresholds = st.one_of(st.floats(0.0, 1.0), st.just(NEVER), st.just(0.0))


def coarse(pixels: Any) -> Any:
    return pixels.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16)


def by_row(pixels: Any) -> Any:
    return pixels.reshape(-1, 8, 8).sum(axis=2)


def pipeline() -> Pipeline:
    union = [(name, FunctionTransformer(f)) for name, f in (("coarse", coarse), ("rows", by_row), ("pixels", None))]
    return Pipeline(
        [
            ("scale", MaxAbsScaler()),
            ("union", FeatureUnion(union)),
            ("model", LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")),
        ]
    )


@cache
def digits() -> tuple[Trained, dict[str, Scorer], NDArray[np.float64], NDArray[np.int64]]:
    """Three models of ten classes, the last being the whole pipeline, and rows that they have not seen."""
    data = load_digits()
    parts = adapt(pipeline(), data.data)
    trained = Trained.fit(parts, data.data[:900], data.target[:900])
    kinds = {
        "linear": LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
        "small": GaussianNB(),
        "full": parts.model,
    }
    models = {name: trained.model(Candidate(STEPS[name], model)) for name, model in kinds.items()}
    return trained, models, data.data[900:1100], data.target[900:1100]


def cascade(linear: float, small: float) -> FittedCascade:
    trained, models, *_ = digits()
    steps = [Step("linear", STEPS["linear"], linear), Step("small", STEPS["small"], small), Step("full", STEPS["full"])]
    return FittedCascade(Cascade(tuple(steps)), trained.features, models, {"linear": margin, "small": margin})


@cache
def whole() -> Pipeline:
    data = load_digits()
    return pipeline().fit(data.data[:900], data.target[:900])


def test_thresholds_above_every_certainty_are_the_full_pipeline_bit_for_bit() -> None:
    rows = digits()[2]
    assert np.array_equal(cascade(NEVER, NEVER).predict_proba(rows), whole().predict_proba(rows))
    assert np.array_equal(cascade(NEVER, NEVER).predict(rows), whole().predict(rows))


@settings(max_examples=25, deadline=None)
@given(thresholds, thresholds)
def test_each_row_has_the_answer_of_the_first_step_that_is_certain(linear: float, small: float) -> None:
    trained, models, rows, _ = digits()
    answered = cascade(linear, small).answer(rows)
    known = trained.features.known(rows)
    said = {name: models[name].scores(known.stacked(STEPS[name])) for name in models}
    expected = np.where(margin(said["linear"]) >= linear, 0, np.where(margin(said["small"]) >= small, 1, 2))
    assert np.array_equal(answered.step, expected)
    for place, name in enumerate(said):
        assert np.allclose(answered.scores[expected == place], said[name][expected == place], atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(thresholds, thresholds, st.integers(0, 2**32 - 1))
def test_the_order_of_rows_does_not_matter(linear: float, small: float, seed: int) -> None:
    rows, runner = digits()[2], cascade(linear, small)
    order = np.random.default_rng(seed).permutation(len(rows))
    assert np.array_equal(runner.predict(rows)[order], runner.predict(rows[order]))


@settings(max_examples=8, deadline=None)
@given(thresholds, thresholds)
def test_a_batch_is_its_rows_one_by_one(linear: float, small: float) -> None:
    rows, runner = digits()[2][:25], cascade(linear, small)
    alone = [runner.predict(rows[at : at + 1])[0] for at in range(len(rows))]
    assert runner.predict(rows).tolist() == alone
    assert runner.counters.calls == 26
    assert sum(runner.counters.exits) == runner.counters.rows == 50


def counted(many: dict[str, int], name: str, compute: Callable[..., Any]) -> Callable[..., Any]:
    def computing(*inputs: Any) -> Any:
        many[name] = many.get(name, 0) + len(inputs[0])
        return compute(*inputs)

    return computing


@settings(max_examples=25, deadline=None)
@given(thresholds, st.integers(1, 60))
def test_no_generator_is_computed_for_rows_that_are_answered_and_shared_ones_once(threshold: float, rows: int) -> None:
    many: dict[str, int] = {}
    features = Features(
        {
            "prefix": Feature(counted(many, "prefix", lambda x: x)),
            "cheap": Feature(counted(many, "cheap", lambda x: x), ("prefix",)),
            "dear": Feature(counted(many, "dear", lambda x: x * x), ("prefix",)),
        }
    )
    two = [0, 1]
    models = {
        name: scorer(lambda block: np.hstack([1 - block[:, :1], block[:, :1]]), two) for name in ("small", "full")
    }
    steps = (Step("small", ("cheap",), threshold), Step("full", ("cheap", "dear")))
    runner = FittedCascade(Cascade(steps), features, models, {"small": margin})
    answered = runner.answer(np.random.default_rng(rows).random((rows, 1)))
    ahead = int((answered.step == 1).sum())
    assert many == {"prefix": rows, "cheap": rows} | ({"dear": ahead} if ahead else {})
    assert runner.counters.spent.rows == many
    assert runner.counters.exits == [rows - ahead, ahead]
