"""Models in a faster form: used only where it was measured to be faster and to give the same scores.

Much of what a small model costs for one row is checking its input, not computing. Linear models are one product; trees
are walked by a compiled loop (`forest`), or by treelite where they are more than sums of numbers; all others go through
ONNX Runtime (skl2onnx) in single precision. All of it in one thread. Of what generates features, counting runs of
characters has another form (`ngrams`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from headway.cascade.adapt import scorer
from headway.cascade.features import Clock, Feature, Features, Known
from headway.cascade.onnx import OnnxSession
from headway.cascade.rows import Block, Rows, count, take
from headway.errors import CascadeError
from headway.sim.jit import enabled

if TYPE_CHECKING:
    from headway.cascade.forest import Forest
    from headway.cascade.run import FittedCascade

Floats = NDArray[np.float64]
T = TypeVar("T")
Form = Callable[[Block], Floats]
"""Gives the scores of a block: class probabilities where the model has them, else decisions, else predictions."""

TOLERANCE = 1e-5
"""By how much scores may differ; those above 1 by this share of them."""
GAIN = 0.9
"""A faster form must take at most this share of the time, or it is not worth being another form."""
FEW = 32
"""Up to so many rows at once are served as a point query is."""
BATCH = 1000
LINEAR = ("LogisticRegression", "LinearRegression", "Ridge", "RidgeClassifier", "LinearSVC", "LinearSVR")
"""The models of scikit-learn whose scores are one product and a link, and nothing else."""
TREES = ("HistGradientBoosting", "GradientBoosting", "RandomForest", "ExtraTrees")


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of the model as it is and in its compiled form, and how far apart their scores are at most.

    >>> Measured(point_s=2e-4, compiled_point_s=1e-5, batch_s=1e-3, compiled_batch_s=2e-3, difference=0.0).point
    True
    """

    point_s: float
    compiled_point_s: float
    batch_s: float
    compiled_batch_s: float
    difference: float

    @property
    def same(self) -> bool:
        """Whether the scores are the same, within `TOLERANCE`."""
        return self.difference <= TOLERANCE

    @property
    def point(self) -> bool:
        """Whether point queries use the compiled form."""
        return self.same and self.compiled_point_s <= GAIN * self.point_s

    @property
    def batch(self) -> bool:
        """Whether batches use the compiled form."""
        return self.same and self.compiled_batch_s <= GAIN * self.batch_s


class Compiled:
    """A fitted model that computes its scores in the form that was measured to be the faster one.

    It has the methods and attributes of the model; `form` says what the other form is, `measured` when it is used.

    >>> from sklearn.linear_model import LogisticRegression
    >>> x = np.arange(10.0)[:, None]
    >>> fast = compiled(LogisticRegression().fit(x, x.ravel() > 4), x)
    >>> fast.form, fast.measured.same, fast.predict(x[:2]).tolist()
    ('linear', True, [False, False])
    """

    def __init__(self, model: Any, form: str, score: Form, measured: Measured) -> None:
        self.model, self.form, self.measured = model, form, measured
        self._interpreted, self._compiled = interpreted(model), score
        setattr(self, _method(model), self._score)

    def __getattr__(self, name: str) -> Any:
        """Return what else the model has."""
        if name.startswith("__") or name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)

    def predict(self, block: Block) -> Any:
        """Return the most probable classes, or the predictions of a model that has no probabilities."""
        if _method(self.model) == "predict_proba":
            return self.model.classes_[np.argmax(self._score(block), axis=1)]
        return self._score(block) if _method(self.model) == "predict" else self.model.predict(block)

    def _score(self, block: Block) -> Floats:
        fast = self.measured.point if count(block) <= FEW else self.measured.batch
        return (self._compiled if fast else self._interpreted)(block)


def compiled(model: Any, sample: Block, *, rounds: int = 7, clock: Clock = time.perf_counter) -> Compiled:
    """Return a fitted model of scikit-learn that uses its compiled form where that is faster on rows like the sample.

    Both forms are timed in turn, for one row and for up to 1,000, medians of `rounds`; and compared on all rows of the
    sample, which should hold what is hard to get right: missing values and the largest numbers.
    Raises CascadeError when there are no rows, and for a model that has no other form.
    """
    if count(sample) == 0:
        raise CascadeError("compiled model: the sample has no rows; give some like those that will be asked for")
    form, score = _form(model, sample)
    difference = _difference(interpreted(model)(sample), score(sample))
    forms = {"interpreted": interpreted(model), "compiled": score}
    point = _seconds(forms, take(sample, np.arange(1)), rounds, clock)
    batch = _seconds(forms, take(sample, np.arange(min(BATCH, count(sample)))), rounds, clock)
    measured = Measured(point["interpreted"], point["compiled"], batch["interpreted"], batch["compiled"], difference)
    return Compiled(model, form, score, measured)


class CompiledText:
    """A fitted vectorizer that counts runs of characters in the form that was measured to be the faster one."""

    def __init__(self, vectorizer: Any, counting: Form, measured: Measured) -> None:
        self.vectorizer, self.measured, self._counting = vectorizer, measured, counting

    def __getattr__(self, name: str) -> Any:
        """Return what else the vectorizer has."""
        if name.startswith("__") or name == "vectorizer":
            raise AttributeError(name)
        return getattr(self.vectorizer, name)

    def transform(self, texts: Any) -> Any:
        """Return the matrix of texts."""
        fast = self.measured.point if count(texts) <= FEW else self.measured.batch
        return (self._counting if fast else self.vectorizer.transform)(texts)


def compiled_text(vectorizer: Any, sample: Any, *, rounds: int = 5, clock: Clock = time.perf_counter) -> CompiledText:
    """Return a fitted vectorizer of scikit-learn that uses its compiled form where that is faster on texts like these.

    Raises CascadeError when there are no texts, and for a vectorizer that does not count runs of characters.
    """
    if count(sample) == 0:
        raise CascadeError("compiled text: the sample has no texts; give some like those that will be asked for")
    if not enabled():
        raise CascadeError("compiled text: compiling is turned off by HEADWAY_JIT=0")
    from headway.cascade.ngrams import CharCounts, can_count

    if not can_count(vectorizer):
        raise CascadeError(
            f"compiled text: a {type(vectorizer).__name__} like this has no compiled form; fitted ones with "
            'analyzer="char" have one'
        )
    forms: dict[str, Form] = {"interpreted": vectorizer.transform, "compiled": CharCounts(vectorizer).transform}
    exact, other = (form(sample) for form in forms.values())
    apart: Any = abs(exact - other)
    difference = float(apart.max()) if apart.nnz else 0.0
    point = _seconds(forms, take(sample, np.arange(1)), rounds, clock)
    batch = _seconds(forms, take(sample, np.arange(min(BATCH, count(sample)))), rounds, clock)
    measured = Measured(point["interpreted"], point["compiled"], batch["interpreted"], batch["compiled"], difference)
    return CompiledText(vectorizer, forms["compiled"], measured)


def interpreted(model: Any) -> Form:
    """Return the scores as the model itself computes them."""
    form: Form = getattr(model, _method(model))
    return form


def _form(model: Any, sample: Block) -> tuple[str, Form]:
    try:
        if hasattr(model, "coef_") and type(model).__name__ in LINEAR:
            return "linear", _linear(model)
        if type(model).__name__.startswith(TREES):
            return "trees", _trees(model)
        return "onnx", _onnx(model, sample)
    except ModuleNotFoundError as error:
        raise CascadeError(f"compiled model: {error.name} is not installed; pip install 'headway[learn]'") from None


def _method(model: Any) -> str:
    for name in ("predict_proba", "decision_function", "predict"):
        if hasattr(model, name):
            return name
    raise CascadeError(f"compiled model: a {type(model).__name__} has no predict; give a fitted model")


@dataclass(frozen=True, slots=True)
class _Linear:
    """One product: `probable` scores are probabilities, `flat` ones a vector."""

    weights: Floats
    offset: Floats
    probable: bool
    flat: bool

    def __call__(self, block: Block) -> Floats:
        values: Floats = np.asarray(block @ self.weights) + self.offset
        if self.probable:
            return _probabilities(values)
        return values.ravel() if self.flat else values


def _linear(model: Any) -> Form:
    weights = np.ascontiguousarray(np.atleast_2d(model.coef_).T)
    flat = np.ndim(model.coef_) == 1 or (weights.shape[1] == 1 and _method(model) == "decision_function")
    return _Linear(weights, np.asarray(model.intercept_), _method(model) == "predict_proba", flat)


def _probabilities(decision: Floats) -> Floats:
    if decision.shape[1] == 1:
        from scipy.special import expit

        both = np.empty((decision.shape[0], 2))
        expit(decision[:, 0], out=both[:, 1])
        np.subtract(1.0, both[:, 1], out=both[:, 0])
        return both
    powers = np.exp(decision - decision.max(axis=1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _trees(model: Any) -> Form:
    from treelite import TreeliteError, sklearn

    from headway.cascade.forest import flattened

    try:
        forest = sklearn.import_model(model)
    except TreeliteError as error:
        raise CascadeError(f"compiled model: treelite cannot take over a {type(model).__name__}: {error}") from error
    probable = _method(model) == "predict_proba"
    flat, link = flattened(forest), str(forest.get_header_accessor().get_field("postprocessor"))
    walked = flat is not None and link in (("sigmoid", "softmax") if probable else ("identity",))
    return _Walked(flat, probable) if flat is not None and walked else _Treelite(forest, probable)


@dataclass(frozen=True, slots=True)
class _Walked:
    """Trees that one compiled loop walks."""

    forest: Forest
    probable: bool

    def __call__(self, block: Block) -> Floats:
        sums = self.forest(block)
        return _probabilities(sums) if self.probable else sums.ravel()


def _treelite(forest: bytes, probable: bool) -> Form:
    from treelite import Model

    return _Treelite(Model.deserialize_bytes(forest), probable)


@dataclass(frozen=True, slots=True)
class _Treelite:
    """Trees that treelite walks."""

    forest: Any
    probable: bool

    def __reduce__(self) -> tuple[Any, ...]:
        return _treelite, (self.forest.serialize_bytes(), self.probable)

    def __call__(self, block: Block) -> Floats:
        from treelite import gtil

        values: Floats = gtil.predict(self.forest, block, nthread=1).reshape(count(block), -1)
        if not self.probable:
            return values.ravel()
        return np.column_stack((1.0 - values, values)) if values.shape[1] == 1 else values


def _onnx(model: Any, sample: Block) -> Form:
    if hasattr(sample, "tocsr"):
        raise CascadeError(
            f"compiled model: a {type(model).__name__} of sparse features has no compiled form; linear models and "
            "dense features have one"
        )
    import onnxruntime  # noqa: F401  (missing, it is said before the conversion)
    from skl2onnx import to_onnx

    first = np.asarray(sample[:1], dtype=np.float32)
    probable = _method(model) == "predict_proba"
    try:
        graph = to_onnx(model, first, options={id(model): {"zipmap": False}} if probable else None)
    except Exception as error:
        # What skl2onnx says may hold the whole model.
        said = str(error).partition("\n")[0][:200]
        raise CascadeError(f"compiled model: skl2onnx cannot convert a {type(model).__name__}: {said}") from error
    place = 1 if probable or _method(model) == "decision_function" else 0
    return _Onnx(OnnxSession(graph.SerializeToString()), place, interpreted(model)(sample[:1]).ndim == 1)


@dataclass(frozen=True, slots=True)
class _Onnx:
    """What ONNX Runtime computes: one output, `flat` as a vector."""

    session: OnnxSession
    place: int
    flat: bool

    def __call__(self, block: Block) -> Floats:
        values: Floats = self.session.output(self.place, block)
        return values.ravel() if self.flat else values


def _difference(exact: Floats, other: Floats) -> float:
    if exact.shape != other.shape:
        return float("inf")
    apart = np.abs(exact - other) / np.maximum(np.abs(exact), 1.0)
    return float("inf") if np.isnan(apart).any() else float(apart.max())


def _seconds(forms: dict[str, Form], block: Block, rounds: int, clock: Clock) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            began = clock()
            form(block)
            taken[name].append(clock() - began)
    return {name: median(times) for name, times in taken.items()}


def compiled_cascade(fitted: FittedCascade, rows: Rows) -> FittedCascade:
    """Return a cascade whose models and text generators are compiled where that is faster on rows like these.

    Raises CascadeError when there are no rows. What has no other form stays as it is.
    """
    from headway.cascade.costs import measure
    from headway.cascade.run import FittedCascade

    known, evidence = fitted.features.known(rows), fitted.evidence
    made = {}
    for name, feature in fitted.features.items():
        fast = _or_none(partial(compiled_text, feature.compute), partial(known.inputs, name))
        made[name] = feature if fast is None else Feature(fast.transform, feature.needs, feature.of)
    sees = {step.model: step.features for step in fitted.cascade.steps}
    if evidence is not None:
        sees.setdefault(evidence.certificate.reference, evidence.inputs)
    models = dict(fitted.models)
    for name, inputs in sees.items():
        one = models[name]
        faster = None if one.model is None else _or_none(partial(compiled, one.model), partial(_stacked, known, inputs))
        models[name] = one if faster is None else scorer(faster)
    features = Features(made)
    if evidence is not None:
        uses = {name: (inputs, models[name].scores) for name, inputs in sees.items()}
        sizes = sorted({1, max(1, evidence.at_once // 10), evidence.at_once})
        evidence = replace(evidence, costs=measure(features, uses, rows, sizes=sizes, clock=fitted.clock))
    return FittedCascade(fitted.cascade, features, models, fitted.certainty, evidence=evidence, clock=fitted.clock)


def _stacked(known: Known, inputs: tuple[str, ...]) -> list[Block]:
    return [known.stacked(inputs)]


def _or_none(make: Callable[[Any], T], inputs: Callable[[], list[Any]]) -> T | None:
    """What is made of the first input, or None for what has no other form."""
    try:
        return make(inputs()[0])
    except CascadeError:
        return None
