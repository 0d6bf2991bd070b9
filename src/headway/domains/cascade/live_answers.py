"""How sure a model was of an answer, from the worker that has the model to the server that decides who is asked next.

In the worker, `StepModel` stands around the model and adds its certainty to each result. The server reads the few bytes
that say so, and never the answer itself. A family without models says what its validation table has.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from headway.cascade.certainty import certainty
from headway.errors import CascadeError, ServeError
from headway.serve.model_ref import HardwareView, ModelRef
from headway.serve.values import render
from headway.serve.wire import CODECS, Payload, Result, Told

if TYPE_CHECKING:
    from headway.cascade import ValidationTable

ABOUT, ANSWER = ":about", ":answer"
"""Branches of a worker's result, under names that no stage can have."""

_HEAD = struct.Struct("<dQb")


@dataclass(frozen=True, slots=True)
class Said:
    """What a model said of an item: the result as it goes on, how certain the model was, and a hash of the answer."""

    result: Result
    certainty: float
    answer: int


class StepModel:
    """A model that says how certain it is.

    The model's `predict` returns per input `(answer, certainty)`, or what the certainty is computed from: scores of
    classes (an array, or a mapping with one array of them) where `certainty` is a name, anything where it is a function
    of a list of results. `model`, and such a function, are references as plain values. With `rendered` answers take a
    form that leaves the server.
    """

    def __init__(self, model: Any, options: Mapping[str, Any], certainty: Any, rendered: bool) -> None:
        self._ref = msgspec.convert(model, ModelRef)
        self._options, self._how, self._rendered = options, certainty, rendered

    def setup(self, hardware: HardwareView) -> None:
        """Load the model. Raises ServeError or CascadeError, and whatever its own code raises."""
        from headway.serve.child import load

        self._model = load(self._ref, hardware, self._options)
        self._named = isinstance(self._how, str)
        self._certainty = certainty(
            self._how if self._named else named_function(msgspec.convert(self._how, ModelRef), "certainty")
        )

    def predict(self, batch: list[Any]) -> Any:
        """Return per input the answer with what is known about it, or the exception that it caused."""
        outputs = self._model.predict(batch)
        if not isinstance(outputs, list | tuple) or len(outputs) != len(batch):
            return outputs  # whoever asked says what is wrong with it
        return [self._told(output) for output in outputs]

    def _told(self, output: Any) -> Any:
        if isinstance(output, BaseException):
            return output
        try:
            answer, label, sure = self._read(output)
            form = render(answer) if self._rendered else None
            head = _HEAD.pack(sure, digest(label), -1 if form is None else CODECS.index(form.codec))
            return {ABOUT: [head], ANSWER: [answer if form is None else form.data]}
        except (ServeError, CascadeError) as error:
            return error

    def _read(self, output: Any) -> tuple[Any, Any, float]:
        """Return the answer, what counts as the same answer, and the certainty."""
        if isinstance(output, tuple):
            if len(output) != 2 or not _is_number(output[1]):
                raise ServeError("a model of a cascade that returns a tuple must return (answer, certainty)")
            return output[0], output[0], float(output[1])
        if not self._named:
            return output, output, float(self._certainty([output])[0])
        scores = scores_of(output)
        return output, int(np.argmax(scores)), float(self._certainty(scores[None])[0])


def scores_of(output: Any) -> Any:
    """One row of at least two scores, or a single probability as two."""
    if isinstance(output, Mapping):
        rows = [value for value in output.values() if np.asarray(value).dtype.kind == "f"]
        if len(rows) != 1:
            raise ServeError(f"a model of a cascade returned {len(rows)} arrays of scores; exactly one is needed")
        output = rows[0]
    try:
        row = np.asarray(output, np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise ServeError(
            f"a model of a cascade returned {type(output).__name__}; scores of classes or (answer, certainty) are "
            "needed, or declare a function as certainty"
        ) from None
    return np.array([1.0 - row[0], row[0]]) if row.size == 1 else row


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float | np.integer | np.floating)


def digest(answer: Any) -> int:
    """Return a hash of an answer: equal for answers that are written alike.

    >>> digest("great") == digest("great"), digest(1) == digest(2)
    (True, False)
    """
    return int.from_bytes(hashlib.blake2b(render(answer).data, digest_size=8).digest(), "little")


def named_function(ref: ModelRef, what: str) -> Any:
    """Return the function that a reference names, for what it is for. Raises ServeError when there is none."""
    from headway.serve.child import module_of_file

    module = module_of_file(ref.path) if ref.path else importlib.import_module(ref.module)
    found = getattr(module, ref.class_name, None)
    if not callable(found):
        raise ServeError(f"{what}: {ref.text}: there is no such function")
    return found


def read_said(result: Result, model: str) -> Said | None:
    """Return what a worker's result says, with the model's name and certainty beside the answer; None for a failure.

    Raises ServeError for a result that is not of a `StepModel`.
    """
    if result.error is not None:
        return None
    branches = result.branches or {}
    try:
        (about,), (answer,) = branches[ABOUT], branches[ANSWER]
        sure, hashed, codec = _HEAD.unpack(about.data)
    except (KeyError, ValueError, struct.error):
        raise ServeError(f"a worker of model {model!r} does not say how certain it is") from None
    return Said(_result(answer.codec if codec < 0 else CODECS[codec], answer.data, model, sure), sure, hashed)


def _result(codec: str, data: bytes, model: str, sure: float) -> Result:
    about: dict[str, Any] = {"model": model}
    if math.isfinite(sure):
        about["certainty"] = sure
    return Result(value=Told(codec, data, about))


class Rehearsal:
    """What models that only sleep say: every item that comes is the next validation sample in the simulator's order."""

    def __init__(self, table: ValidationTable, models: Sequence[str], stage: str, seed: int) -> None:
        # Where a model is loaded nothing is rehearsed, and none of this is needed.
        from headway.domains.cascade.halves import judged_on
        from headway.domains.cascade.station import sample_rounds

        rounds = sample_rounds(seed, stage, judged_on(table))
        self._samples: Iterator[int] = itertools.chain.from_iterable(each.tolist() for each in rounds)
        self._models = models
        self._certainty = [table.certainty[name].tolist() for name in models]
        self._credit = [table.credit[name].tolist() for name in models]
        self._hardness = [math.nan] * table.samples if table.hardness is None else table.hardness.tolist()
        said = table.predicted
        self._answers: list[list[tuple[Payload, int]]] | None = None
        if said is not None:
            self._answers = [[(render(a), digest(a)) for a in said[name].tolist()] for name in models]

    def sample(self) -> int:
        """Return which sample the next item is."""
        return next(self._samples)

    def said(self, model: int, sample: int, given: Result) -> Said:
        """Return what a model says of a sample; where the table has no answers, what the sleeping worker returned."""
        sure, name = self._certainty[model][sample], self._models[model]
        payload, hashed = given.value or Payload("raw", b""), 0
        if self._answers is not None:
            payload, hashed = self._answers[model][sample]
        return Said(_result(payload.codec, payload.data, name, sure), sure, hashed)

    def hardness(self, sample: int) -> float:
        """Return how hard a sample is; no number where the table does not say."""
        hardness: float = self._hardness[sample]
        return hardness

    def credit(self, model: int, sample: int) -> float:
        """Return what a model's answer is worth."""
        credit: float = self._credit[model][sample]
        return credit
