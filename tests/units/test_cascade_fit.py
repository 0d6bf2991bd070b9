"""Learning cascades: what is chosen, what is certified, and when that is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import FunctionTransformer

from headway.cascade.adapt import Parts
from headway.cascade.features import Feature, Features
from headway.cascade.fit import fit_cascade
from headway.cascade.run import Evidence, FittedCascade
from headway.errors import CascadeError

Array = NDArray[np.float64]


def linear() -> LogisticRegression:
    return LogisticRegression(solver="liblinear")


class Work:
    """A clock that goes on when generators work: `per_row_s` for each row."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.rows = 0

    def __call__(self) -> float:
        return self.now_s

    def of(self, per_row_s: float, compute: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def computing(rows: Any) -> Any:
            self.now_s += per_row_s * len(rows)
            return compute(rows)

        return computing


class Slow(LogisticRegression):  # type: ignore[misc]
    """A model whose answers take a hundredth of a millisecond of a clock each."""

    def __init__(self, work: Work | None = None) -> None:
        super().__init__(solver="liblinear")
        self.work = work

    def predict_proba(self, block: Any) -> Any:
        assert self.work is not None
        self.work.now_s += 1e-5 * len(block)
        return super().predict_proba(block)


def population(many: int, seed: int = 1, noise: float = 0.5) -> tuple[Array, NDArray[np.int64]]:
    """A truth, a dear feature that shows it well, and a cheap one that shows it less well."""
    draws = np.random.default_rng(seed)
    truth = draws.normal(size=many)
    rows = np.column_stack([truth + noise * draws.normal(size=many), truth + 0.3 * draws.normal(size=many)])
    return rows, (truth > 0).astype(np.int64)


def parts(clock: Work, model: Any = None, cheap: int = 0, dear: int = 1) -> Parts:
    made = {
        "cheap": Feature(clock.of(1e-6, lambda rows: rows[:, [cheap]])),
        "dear": Feature(clock.of(100e-6, lambda rows: rows[:, [dear]])),
    }
    return Parts(Features(made), tuple(made), model or linear())


def fitted(many: int = 6000, noise: float = 0.5, **given: Any) -> FittedCascade:
    clock = Work()
    return fit_cascade(parts(clock), *population(many, noise=noise), clock=clock, **given)


def test_the_cheap_feature_answers_what_it_is_certain_of_and_the_loss_is_bounded() -> None:
    made = fitted()
    assert made.cascade.models == ("cheap", "full")
    assert made.evidence is not None
    certificate = made.evidence.certificate
    assert certificate.samples == 2400
    assert certificate.loss <= certificate.loss_bound <= certificate.tolerance == 0.01
    assert made.evidence.projected_speedup > 1.5
    rows, truth = population(20_000, seed=2)
    loss = float((made.reference().predict(rows) == truth).mean() - (made.predict(rows) == truth).mean())
    assert loss <= certificate.loss_bound
    answered = made.counters.shares["cheap"]
    assert answered == pytest.approx(1 - made.evidence.reached[1], abs=0.04)


def test_the_same_rows_seed_and_clock_give_the_same_cascade() -> None:
    first, again, other = fitted(), fitted(), fitted(seed=7)
    assert first.cascade == again.cascade
    assert first.evidence == again.evidence
    assert first.evidence != other.evidence


def test_the_reference_is_the_pipeline_fitted_on_the_rows_to_learn_from() -> None:
    rows, truth = population(3000)
    union = FeatureUnion([(name, FunctionTransformer(take_column, kw_args={"at": at})) for at, name in enumerate("ab")])
    pipeline = Pipeline([("union", union), ("model", linear())])
    held = population(2000, seed=5)
    made = fit_cascade(pipeline, rows, truth, calibration=held, tolerance=0.05, clock=Work())
    assert made.evidence is not None
    assert made.evidence.certificate.samples == 2000
    fresh = population(500, seed=6)[0]
    assert np.array_equal(made.reference().predict_proba(fresh), pipeline.fit(rows, truth).predict_proba(fresh))


def take_column(rows: Any, at: int) -> Any:
    return rows[:, [at]]


def test_a_smaller_tolerance_answers_less_at_once() -> None:
    strict, loose = fitted(expected_loss=0.0), fitted(tolerance=0.03, expected_loss=0.02)
    assert strict.evidence is not None
    assert loose.evidence is not None
    assert strict.evidence.reached[1] > loose.evidence.reached[1]


def by_first_column(block: Any) -> Any:
    yes = 1 / (1 + np.exp(-4 * np.asarray(block)[:, 0]))
    return np.column_stack([1 - yes, yes])


@pytest.mark.parametrize("kind", ["function", "file"])
@pytest.mark.parametrize("names", [(0, 1), ("early", "late")])
def test_a_model_that_names_no_classes_scores_the_sorted_labels(
    kind: str, names: tuple[Any, Any], tmp_path: Path
) -> None:
    rows, truth = population(3000)
    given: Any = by_first_column
    if kind == "file":
        from skl2onnx import to_onnx

        given = tmp_path / "given.onnx"
        model = linear().fit(rows[:500].astype(np.float32), truth[:500])
        graph = to_onnx(model, rows[:1].astype(np.float32), options={"zipmap": False})
        given.write_bytes(graph.SerializeToString())
    clock = Work()
    dear = Feature(clock.of(1e-6, lambda rows: rows))
    made = fit_cascade(
        Parts(Features({"all": dear}), ("all",), Slow(clock)),
        rows,
        np.array(names)[truth],
        models={"given": given},
        tolerance=0.05,
        folds=2,
        clock=clock,
    )
    assert made.cascade.models[0] == "given"
    assert made.classes.tolist() == list(names)
    fresh, right = population(1000, seed=3)
    assert np.mean(made.predict(fresh) == np.array(names)[right]) > 0.8
    assert made.counters.shares["given"] > 0.5


def test_a_model_that_scores_other_than_the_labels_is_refused() -> None:
    rows, truth = population(3000)
    with pytest.raises(CascadeError, match=r"shape \(\d+, 3\) for [\d,]+ rows and 2 classes \(0, 1\)"):
        fit_cascade(parts(Work()), rows, truth, models={"three": lambda block: np.zeros((len(block), 3))}, folds=2)


def test_explaining_names_steps_costs_and_certificate() -> None:
    made = fitted()
    made.predict(population(100, seed=3)[0])
    told = made.explain().splitlines()
    assert told[0] == str(made.cascade)
    assert told[1].startswith("cheap: reached by 100.0%, 1 us a row, sees cheap; answered")
    assert told[2].startswith("full: reached by")
    assert ", 100 us a row, sees cheap, dear; answered" in told[2]
    assert "times as fast as full for 1,000 rows at once" in told[3]
    assert told[4].startswith("where the time went: dear ")
    assert told[5].startswith(f"{made.cascade} loses at most")


def test_compiling_keeps_answers_and_certificate_and_measures_costs_anew() -> None:
    made = fitted()
    rows = population(400, seed=4)[0]
    fast = made.compiled(rows)
    assert np.array_equal(fast.predict(rows), made.predict(rows))
    assert np.array_equal(fast.reference().predict(rows), made.reference().predict(rows))
    assert made.evidence is not None
    assert fast.evidence is not None
    assert fast.evidence.certificate is made.evidence.certificate
    assert fast.evidence.costs.features["dear"].of(1000) == pytest.approx(0.1)
    assert fast.evidence.projected_speedup == pytest.approx(made.evidence.projected_speedup, rel=0.01)


def test_single_rows_pay_fixed_costs_each_time() -> None:
    clock = Work()

    def fixed(rows: Any) -> Any:
        clock.now_s += 1e-3
        return rows[:, [0]]

    made = {"cheap": Feature(fixed), "dear": Feature(clock.of(0.9e-3, lambda rows: rows[:, [1]]))}
    pipeline = Parts(Features(made), tuple(made), linear())
    batch = fit_cascade(pipeline, *population(6000), clock=clock)
    point = fit_cascade(pipeline, *population(6000), clock=clock, mode="point")
    assert batch.cascade.models[0] == "cheap"
    assert point.cascade.models[0] == "dear"


def test_a_cheap_feature_that_knows_it_all_answers_alone() -> None:
    clock = Work()
    made = fit_cascade(parts(clock, cheap=1, dear=0), *population(4000, noise=50.0), clock=clock)
    assert made.cascade.models == ("cheap",)
    assert made.evidence is not None
    assert made.evidence.certificate.accuracy >= made.evidence.certificate.reference_accuracy - 0.01


def words(many: int, seed: int) -> tuple[list[str], NDArray[np.int64]]:
    draws = np.random.default_rng(seed)
    vocabulary = np.array(["good", "fine", "great", "bad", "poor", "awful", "tea", "cup", "dog", "food", "shop", "day"])
    chosen = draws.integers(len(vocabulary), size=(many, 8))
    mood = (chosen < 3).sum(axis=1) - ((chosen >= 3) & (chosen < 6)).sum(axis=1)
    return [" ".join(row) for row in vocabulary[chosen]], (mood + draws.normal(size=many) > 0).astype(np.int64)


def test_a_step_that_sees_the_dear_feature_alone_is_not_chosen() -> None:
    clock = Work()
    char = TfidfVectorizer(analyzer="char", ngram_range=(2, 4))
    word = TfidfVectorizer()
    rows, labels = words(1800, seed=1)
    union = FeatureUnion([("word", Timed(word, clock, 3e-6)), ("char", Timed(char, clock, 97e-6))])
    pipeline = Pipeline([("union", union), ("model", linear())])
    made = fit_cascade(pipeline, rows, labels, clock=clock, tolerance=0.03, folds=3)
    assert made.cascade.models[0] == "word"
    assert "char" not in made.cascade.models
    assert made.evidence is not None
    assert made.evidence.projected_speedup > 3
    dear = made.evidence.costs.expected_s(("full",), (1.0,), 1000)
    costs = {**made.evidence.costs.uses, "char": ("char",)}
    assert sum(made.evidence.costs.features[name].of(1000) for name in costs["char"]) > 0.9 * dear


class Timed:
    """A transformer whose work takes time on a clock."""

    def __init__(self, inner: Any, clock: Work, per_row_s: float) -> None:
        self.inner, self.clock, self.per_row_s = inner, clock, per_row_s

    def __deepcopy__(self, memo: Any) -> Timed:
        from sklearn.base import clone

        return Timed(clone(self.inner), self.clock, self.per_row_s)

    def fit(self, rows: Any, labels: Any = None) -> Timed:
        self.inner.fit(rows, labels)
        return self

    def transform(self, rows: Any) -> Any:
        self.clock.now_s += self.per_row_s * len(rows)
        return self.inner.transform(rows)


def coarse(pixels: Any) -> Any:
    return np.asarray(pixels).reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16) / 16


def test_steps_may_differ_by_model_for_ten_classes() -> None:
    clock = Work()
    data = load_digits()
    made = {
        "coarse": Feature(clock.of(1e-6, coarse)),
        "pixels": Feature(clock.of(50e-6, lambda rows: rows / 16)),
    }
    pipeline = Parts(Features(made), tuple(made), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"))
    cascade = fit_cascade(
        pipeline, data.data, data.target, models={"bayes": GaussianNB()}, clock=clock, tolerance=0.03, folds=3
    )
    assert len(cascade.classes) == 10
    assert cascade.cascade.models[-1] == "full"
    assert cascade.cascade.models[0] in ("coarse", "bayes:coarse")
    assert (cascade.predict(data.data) == data.target).mean() > 0.9


def test_models_that_are_fitted_elsewhere_are_left_as_they_are() -> None:
    rows, truth = population(3000)
    cheap, dear = (linear().fit(rows[:, [at]], truth) for at in (0, 1))
    made = Features({"rows": Feature(lambda rows: rows)})
    clock = Work()
    full = clock.of(100e-6, lambda block: dear.predict_proba(block[:, [1]]))
    small = clock.of(1e-6, lambda block: cheap.predict_proba(block[:, [0]]))
    pipeline = Parts(made, ("rows",), full, classes=(0, 1))
    cascade = fit_cascade(pipeline, *population(5000, seed=4), models={"small": small}, clock=clock)
    assert cascade.cascade.models == ("small", "full")


def test_where_nothing_is_cheaper_the_pipeline_answers_alone() -> None:
    rows, truth = population(3000)
    first, second = (linear().fit(rows[:, [at]], truth) for at in (0, 1))
    clock = Work()
    full = clock.of(1e-6, lambda block: second.predict_proba(block[:, [1]]))
    slow = clock.of(100e-6, lambda block: first.predict_proba(block[:, [0]]))
    pipeline = Parts(Features({"rows": Feature(lambda rows: rows)}), ("rows",), full, classes=(0, 1))
    held = population(5000, seed=4)
    made = fit_cascade(pipeline, *held, models={"slow": slow}, clock=clock)
    assert made.cascade.models == ("full",)
    assert made.evidence is not None
    assert (made.evidence.projected_speedup, made.evidence.certificate.loss_bound) == (1.0, 0.0)
    assert "no cascade is cheaper than full: it answers alone" in made.explain()
    assert np.array_equal(made.predict(held[0]), second.predict(held[0][:, [1]]))


def test_a_cascade_that_calibration_shows_to_be_slower_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cheaper on the rows that choose need not be on those that certify."""
    monkeypatch.setattr(Evidence, "slower", property(lambda evidence: len(evidence.reached) > 1))
    assert fitted().cascade.models == ("full",)


def test_a_class_that_was_not_learned_cannot_be_calibrated_on() -> None:
    rows, truth = population(400, seed=2)
    with pytest.raises(CascadeError, match=r"calibration: the label 2 is none of those learned from \(0, 1\)"):
        fitted(400, calibration=(rows, truth + 1))


def test_a_model_file_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(CascadeError, match=r"no\.onnx: there is no such file"):
        fitted(400, models={"other": str(tmp_path / "no.onnx")})
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(CascadeError, match=r"bad\.onnx: is no model that ONNX Runtime can load"):
        fitted(400, models={"other": str(tmp_path / "bad.onnx")})


def test_too_few_rows_to_certify_is_an_error_that_names_how_many_are_needed() -> None:
    with pytest.raises(CascadeError, match=r"about [\d,]+ samples like these are needed"):
        fitted(300, tolerance=0.01)


def test_nothing_that_agrees_with_the_pipeline_is_an_error() -> None:
    with pytest.raises(CascadeError, match="every cheaper one is seen to lose more than"):
        fitted(2000, noise=50.0, expected_loss=-0.5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(100), "all 100 rows have the same one"),
        (None, "none are given for 100 rows; one label per row"),
        (np.append(np.tile([0.0, 1.0], 49), [np.nan, 1.0]), "1 of 100 are missing"),
        ([None, *["a", "b"] * 49, "a"], "1 of 100 are missing"),
        (np.zeros((100, 2)), r"\(100, 2\) for 100 rows; one label per row"),
        (np.append(np.zeros(99), 1.0), "cannot be split by 0.4 with each class in both parts"),
        (np.tile([0.5, 1.5], 50), "labels: 0.5 is no class; text, whole numbers, or True and False are needed"),
        (np.append(np.zeros(97), [1.0] * 3), "fewer rows to learn from than the 5 folds"),
    ],
)
def test_labels_that_cannot_be_learned_from_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(CascadeError, match=message):
        fit_cascade(parts(Work()), population(100)[0], labels)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tolerance": 0.0}, "tolerance is 0.0; it must lie between 0 and 1"),
        ({"confidence": 95.0}, "confidence is 95.0"),
        ({"mode": "points"}, "unknown mode 'points'; did you mean 'point'"),
        ({"folds": 1}, "folds is 1; at least 2"),
        ({"batch_size": 0}, "batch_size is 0; at least 1"),
        ({"max_steps": 0}, "max_steps is 0; at least 1"),
        ({"how_certain": "margn"}, "unknown name 'margn'; did you mean 'margin'"),
        ({"models": {"full": linear()}}, "'full' is the name of the pipeline's own"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(given: Any, message: str) -> None:
    with pytest.raises(CascadeError, match=message):
        fitted(400, **given)


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    monkeypatch.delattr("sklearn.model_selection")
    with pytest.raises(CascadeError, match=r"scikit-learn is not installed; pip install 'headway\[learn\]'"):
        fitted(400)
