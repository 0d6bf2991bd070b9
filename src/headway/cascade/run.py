"""Run a cascade over rows: each step answers what it is certain of, the rest goes on with what is known of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headway.cascade.adapt import Scorer
from headway.cascade.certainty import Certainty
from headway.cascade.features import Clock, Features, Known, Spent
from headway.cascade.model import Cascade, Step
from headway.cascade.rows import Rows, count
from headway.errors import CascadeError
from headway.policy.cascading import answers

if TYPE_CHECKING:
    from headway.cascade.costs import Costs
    from headway.cascade.guarantee import Certificate


@dataclass(frozen=True, slots=True)
class Answered:
    """What a cascade says of rows: the deciding step's scores, one column per class, and which step that was."""

    scores: NDArray[np.float64]
    step: NDArray[np.int64]


@dataclass(slots=True)
class Counters:
    """What a cascade has done so far: calls, rows, rows that each step answered, and where the seconds went.

    `spent` counts each generator, `model_s` each step's model with putting its blocks side by side.

    >>> Counters(("small", "full"), [3, 1], rows=4).shares
    {'small': 0.75, 'full': 0.25}
    """

    models: tuple[str, ...]
    exits: list[int]
    calls: int = 0
    rows: int = 0
    spent: Spent = field(default_factory=Spent)
    model_s: dict[str, float] = field(default_factory=dict)

    @property
    def shares(self) -> dict[str, float]:
        """The share of rows that each step answered; none before the first row."""
        return {model: made / self.rows for model, made in zip(self.models, self.exits, strict=True) if self.rows}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a cascade rests on: its certificate, measured costs, the share of calibration rows that reached each step.

    It was chosen for `at_once` rows at once. `inputs` are the features of the reference.
    """

    certificate: Certificate
    costs: Costs
    reached: tuple[float, ...]
    at_once: int
    inputs: tuple[str, ...]

    @property
    def projected_speedup(self) -> float:
        """How many times as fast as the full pipeline it should be, by measured costs and shares."""
        models = self.certificate.cascade.models
        full_s = self.costs.expected_s((self.certificate.reference,), (1.0,), self.at_once)
        return full_s / self.costs.expected_s(models, self.reached, self.at_once)


class FittedCascade:
    """A cascade with all that it takes to run it: fitted generators, models, and each step's certainty.

    It may be called from several threads. Raises CascadeError when a step's model is missing, a step that is not the
    last has no certainty, or models differ in their classes.
    """

    def __init__(
        self,
        cascade: Cascade,
        features: Features,
        models: Mapping[str, Scorer],
        certainty: Mapping[str, Certainty],
        *,
        evidence: Evidence | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        for step in cascade.steps:
            if step.model not in models:
                raise CascadeError(f"cascade: no model is called {step.model!r}; {', '.join(models)}")
            if step.threshold is not None and step.model not in certainty:
                raise CascadeError(f"cascade: step {step.model!r} has a threshold but no certainty to hold against it")
            features.closure(step.features)
        self.cascade, self.features, self.models, self.certainty = cascade, features, models, certainty
        self.evidence = evidence
        self.classes = same_classes(models)
        self._clock = clock
        self._lock = threading.Lock()
        self.counters = Counters(cascade.models, [0] * len(cascade))

    def predict(self, rows: Rows) -> NDArray[Any]:
        """Return the class of each row: that with the highest score at the step that answered.

        Rows may come one at a time or many together; each row's answer is the same.
        """
        labels: NDArray[Any] = self.classes[self.answer(rows).scores.argmax(axis=1)]
        return labels

    def predict_proba(self, rows: Rows) -> NDArray[np.float64]:
        """Return the scores of the step that answered: probabilities when the models give probabilities."""
        return self.answer(rows).scores

    def answer(self, rows: Rows) -> Answered:
        """Return each row's scores and the step that gave them, and count what was done."""
        many, spent = count(rows), Spent()
        seconds: dict[str, float] = {}
        scores = np.empty((many, len(self.classes)))
        decided = np.zeros(many, np.int64)
        known, ahead = self.features.known(rows, spent=spent, clock=self._clock), np.arange(many)
        for place, step in enumerate(self.cascade.steps):
            if not len(ahead):
                break
            said = self._scores(step.model, step.features, known, seconds)
            going = np.flatnonzero(~self._done(step.model, step.threshold, said))
            # Those that go on are written too, and again by the step that answers them.
            scores[ahead], decided[ahead] = said, place
            if len(going) < len(ahead):
                known, ahead = known.only(going), ahead[going]
        self._count(decided, spent, seconds)
        return Answered(scores, decided)

    def reference(self) -> FittedCascade:
        """Return the full pipeline alone, of the same fitted parts: what the cascade is compared with.

        Raises CascadeError when the cascade comes without evidence, which names its reference.
        """
        evidence = self._known()
        alone = Cascade((Step(evidence.certificate.reference, evidence.inputs),))
        return FittedCascade(alone, self.features, self.models, {}, clock=self._clock)

    def explain(self) -> str:
        """Return what the cascade does, what it was seen to cost, and what is certain of its accuracy, line by line."""
        evidence = self._known()
        certificate, answered = evidence.certificate, self.counters.shares
        steps_s = evidence.costs.steps_s(self.cascade.models, evidence.at_once)
        lines = [str(self.cascade)]
        for step, reached, step_s in zip(self.cascade.steps, evidence.reached, steps_s, strict=True):
            line = (
                f"{step.model}: reached by {reached:.1%}, {1e6 * step_s:,.0f} us a row, sees {', '.join(step.features)}"
            )
            done = f"; answered {answered[step.model]:.1%} of {self.counters.rows:,}" if answered else ""
            lines.append(line + done)
        lines.append(
            f"about {evidence.projected_speedup:.2f} times as fast as {certificate.reference} for {evidence.at_once:,} "
            "rows at once"
        )
        lines.append(str(certificate))
        return "\n".join(lines)

    def reset(self) -> None:
        """Start counting anew."""
        with self._lock:
            self.counters = Counters(self.cascade.models, [0] * len(self.cascade))

    def _known(self) -> Evidence:
        if self.evidence is None:
            raise CascadeError(
                "cascade: it was put together by hand, so nothing is known of its costs and its accuracy"
            )
        return self.evidence

    def _done(self, model: str, threshold: float | None, said: NDArray[np.float64]) -> NDArray[np.bool_]:
        if threshold is None:
            _check_scores(model, said)
            return np.ones(len(said), bool)
        return answers(self.certainty[model](said), threshold)

    def _scores(
        self, model: str, features: tuple[str, ...], known: Known, seconds: dict[str, float]
    ) -> NDArray[np.float64]:
        known.compute(features)
        began = self._clock()
        said = self.models[model].scores(known.stacked(features))
        seconds[model] = self._clock() - began
        return said

    def _count(self, decided: NDArray[np.int64], spent: Spent, seconds: Mapping[str, float]) -> None:
        exits = np.bincount(decided, minlength=len(self.cascade))
        with self._lock:
            counters = self.counters
            counters.calls += 1
            counters.rows += len(decided)
            counters.exits = [before + int(made) for before, made in zip(counters.exits, exits, strict=True)]
            for name, taken in spent.seconds.items():
                counters.spent.add(name, taken, spent.rows[name])
            for name, taken in seconds.items():
                counters.model_s[name] = counters.model_s.get(name, 0.0) + taken


def _check_scores(model: str, said: NDArray[np.float64]) -> None:
    wrong = int(np.isnan(said).any(axis=1).sum())
    if wrong:
        raise CascadeError(
            f"cascade: the last step, {model!r}, gave scores that are not numbers for {wrong:,} of {len(said):,} rows, "
            "and no step is left to ask; see what its features are for them"
        )


def same_classes(models: Mapping[str, Scorer]) -> NDArray[Any]:
    """Return the classes that all models know, in the one order. Raises CascadeError when they differ.

    >>> same_classes({"a": Scorer(lambda block: block, np.array(["no", "yes"]))}).tolist()
    ['no', 'yes']
    """
    first, *others = models.items()
    for name, model in others:
        if not np.array_equal(model.classes, first[1].classes):
            raise CascadeError(
                f"cascade: models {first[0]!r} and {name!r} differ in their classes: {_some(first[1].classes)} and "
                f"{_some(model.classes)}; fit them on the same labels"
            )
    return first[1].classes


def _some(classes: NDArray[Any]) -> str:
    shown = ", ".join(map(str, classes[:5].tolist()))
    return f"{shown}, ..." if len(classes) > 5 else shown
