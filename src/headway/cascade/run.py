"""Run a cascade over rows: each step answers what it is certain of, the rest goes on with what is known of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headway.cascade.adapt import Scorer, some
from headway.cascade.certainty import Certainty
from headway.cascade.features import Clock, Features, Known, Spent
from headway.cascade.model import Cascade, Step
from headway.cascade.refused import VALUE_ERRORS, refused
from headway.cascade.rows import Rows
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

    @property
    def time_shares(self) -> dict[str, float]:
        """The share of the counted seconds that each generator and each "model NAME" took, the largest first."""
        parts_s = {**self.spent.seconds, **{f"model {name}": spent_s for name, spent_s in self.model_s.items()}}
        whole_s = sum(parts_s.values())
        return {name: s / whole_s for name, s in sorted(parts_s.items(), key=lambda part: -part[1]) if whole_s}


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
    def slower(self) -> bool:
        """Whether it should take longer than the full pipeline, by measured costs and shares."""
        models = self.certificate.cascade.models
        full_s = self.costs.expected_s((self.certificate.reference,), (1.0,), self.at_once)
        return self.costs.expected_s(models, self.reached, self.at_once) > full_s

    @property
    def projected_speedup(self) -> float:
        """How many times as fast as the full pipeline it should be, by measured costs and shares."""
        models = self.certificate.cascade.models
        full_s = self.costs.expected_s((self.certificate.reference,), (1.0,), self.at_once)
        return full_s / self.costs.expected_s(models, self.reached, self.at_once)


class FittedCascade:
    """A cascade with all that it takes to run it: fitted generators, models, and each step's certainty.

    It may be called from several threads, copied and pickled; `pickle` asks of functions of one's own that they stand
    in a module. Raises CascadeError when a step's model is missing, a step that is not the
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
        self.clock = clock
        self._lock = threading.Lock()
        self.counters = Counters(cascade.models, [0] * len(cascade))

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            return {**self.__dict__, "_lock": None, "counters": deepcopy(self.counters)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

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
        spent, seconds = Spent(), dict[str, float]()
        known = self.features.known(rows, spent=spent, clock=self.clock)
        if len(known) == 1:
            return self._answer_one(known, spent, seconds)
        scores = np.empty((len(known), len(self.classes)))
        decided = np.zeros(len(known), np.int64)
        ahead = np.arange(len(known))
        for place, step in enumerate(self.cascade.steps):
            if not len(ahead):
                break
            said = self._scores(step.model, step.features, known, seconds)
            going = np.flatnonzero(~self._done(step.model, step.threshold, said))
            # Those that go on are written too, and again by the step that answers them.
            scores[ahead], decided[ahead] = said, place
            if len(going) < len(ahead):
                known, ahead = known.only(going), ahead[going]
        self._count(np.bincount(decided, minlength=len(self.cascade)).tolist(), spent, seconds)
        return Answered(scores, decided)

    def _answer_one(self, known: Known, spent: Spent, seconds: dict[str, float]) -> Answered:
        """Answer a single row: there is nothing to tell apart, so that most of the work for many is left out."""
        exits, place, done = [0] * len(self.cascade), -1, False
        while not done:
            place += 1
            step = self.cascade.steps[place]
            said = self._scores(step.model, step.features, known, seconds)
            done = bool(self._done(step.model, step.threshold, said)[0])
        exits[place] = 1
        self._count(exits, spent, seconds)
        return Answered(said, np.array([place]))

    def reference(self) -> FittedCascade:
        """Return the full pipeline alone, of the same fitted parts: what the cascade is compared with.

        Raises CascadeError when the cascade comes without evidence, which names its reference.
        """
        evidence = self._known()
        alone = Cascade((Step(evidence.certificate.reference, evidence.inputs),))
        return FittedCascade(alone, self.features, self.models, {}, clock=self.clock)

    def member(self, place: int) -> Member:
        """Return the step at a place, 0 the cheapest and -1 the last, as a model of a family in gears.

        Raises CascadeError when there is no such step, or no certainty is known of its model.
        """
        if not isinstance(place, int | np.integer) or not -len(self.cascade) <= place < len(self.cascade):
            raise CascadeError(f"cascade: it has no step {place!r}; its {len(self.cascade)} steps count from 0")
        step = self.cascade.steps[place]
        if step.model not in self.certainty:
            raise CascadeError(
                f"cascade: nothing says how certain {step.model!r} is; give its certainty, or leave it out"
            )
        alone = Cascade((Step(step.model, step.features),))
        return Member(FittedCascade(alone, self.features, self.models, self.certainty, clock=self.clock))

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
        if self.cascade.models == (certificate.reference,):
            lines.append(f"no cascade is cheaper than {certificate.reference}: it answers alone")
        if self.counters.time_shares:
            shares = (f"{name} {share:.0%}" for name, share in self.counters.time_shares.items())
            lines.append(f"where the time went: {', '.join(shares)}")
        lines.append(str(certificate))
        return "\n".join(lines)

    def compiled(self, rows: Rows) -> FittedCascade:
        """Return the same cascade with models and generators in a faster form, each where it was measured to be faster
        on rows like these and to give the same within 1e-5; costs are measured anew (`headway.cascade.compiled`).

        Raises CascadeError when there are no rows.
        """
        from headway.cascade.compiled import compiled_cascade

        return compiled_cascade(self, rows)

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
        began = self.clock()
        block, score = known.stacked(features), self.models[model].scores
        try:
            said = score(block)
        except VALUE_ERRORS as error:
            raise refused(f"model {model!r}", known, score, [block], error) from error
        seconds[model] = self.clock() - began
        return said

    def _count(self, exits: list[int], spent: Spent, seconds: Mapping[str, float]) -> None:
        with self._lock:
            counters = self.counters
            counters.calls += 1
            counters.rows += sum(exits)
            counters.exits = [before + made for before, made in zip(counters.exits, exits, strict=True)]
            for name, taken in spent.seconds.items():
                counters.spent.add(name, taken, spent.rows[name])
            for name, taken in seconds.items():
                counters.model_s[name] = counters.model_s.get(name, 0.0) + taken


@dataclass(frozen=True, slots=True)
class Member:
    """One step of a cascade by itself, as a stage of kind `cascade` asks models: an answer and a certainty per input.

    What steps share is computed by each of them.
    """

    step: FittedCascade

    def predict(self, batch: list[Any]) -> list[tuple[Any, float]]:
        """Return each input's class, as a value of JSON where labels are, and how certain it is."""
        scores = self.step.predict_proba(batch)
        (model,) = self.step.cascade.models
        labels = self.step.classes[scores.argmax(axis=1)].tolist()
        return list(zip(labels, self.step.certainty[model](scores).tolist(), strict=True))


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
                f"cascade: models {first[0]!r} and {name!r} differ in their classes: {some(first[1].classes)} and "
                f"{some(model.classes)}; fit them on the same labels"
            )
    return first[1].classes
