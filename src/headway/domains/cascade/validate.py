"""The validation table of a family: every model is asked about the same labeled samples, in a worker process.

Answer and certainty are taken as they are when it serves. An answer is a class: text, a whole number, or the place of
the best score.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

from headway.cascade import ValidationTable
from headway.cascade.table import few
from headway.domains.cascade.declare import SIZE, CascadeStage
from headway.domains.cascade.live_answers import StepModel, scores_of
from headway.domains.cascade.live_route import hardness_of, hardness_worker, size_bytes
from headway.domains.cascade.wrapped import wrapped
from headway.errors import CascadeError, HeadwayError, ProfileError
from headway.profile.labels import class_at, class_named, classes_of, is_missing, typed, unplaced
from headway.profile.measure import complete
from headway.profile.record import Recorder, ancestors
from headway.profile.target import Model, Target, models, started, targets
from headway.serve.model_ref import resolve
from headway.serve.wire import Input, Payload
from headway.spec.model import Spec

BATCH = 16
"""Samples that a model is given at once."""
TIMEOUT_S = 120.0

Tell = Callable[[int, int, str], None]


class TellingModel(StepModel):
    """A model that says the class of its answer and how certain it is: plain values, or the exception it met."""

    def _told(self, output: Any) -> Any:
        if isinstance(output, BaseException):
            return output
        try:
            _, label, sure = self._read(output)
        except HeadwayError as error:
            return error
        scored = self._named and not isinstance(output, tuple)
        return {"label": label, "scores": int(scores_of(output).size) if scored else 0, "certainty": sure}


TELLING_MODEL = f"{TellingModel.__module__}:{TellingModel.__name__}"


class Told(msgspec.Struct):
    """What a model said of a sample; `scores` is how many it gave, 0 where it gave an answer."""

    label: Any
    scores: int
    certainty: float | None


async def validation_table(
    spec: Spec,
    name: str,
    samples: Sequence[Payload],
    labels: Sequence[str],
    *,
    folder: str | os.PathLike[str] = ".",
    progress: Tell = lambda done, total, text: None,
    log: Callable[[str], None] | None = None,
) -> ValidationTable:
    """Return what every model of a stage says of the samples, with their labels.

    `progress(done, total, text)` is told after every batch, `log` takes the lines that models print. Raises
    CascadeError for models whose answers cannot be held against the labels, or that do not say how certain they are,
    ProfileError where they cannot run here.
    """
    stage, where = spec.stages[name], f"stages.{name}"
    assert isinstance(stage, CascadeStage)
    if len(labels) != len(samples):
        raise CascadeError(f"{where}: {len(labels)} labels for {len(samples)} samples; every sample needs its own")
    lacking = [number for number, label in enumerate(labels, 1) if is_missing(label)]
    if lacking:
        raise CascadeError(f"{where}: sample {lacking[0]} has no label; write its right answer, or leave it out")
    for given in stage.models:
        if given not in stage.named_models:
            raise CascadeError(f"{where}.models.{given}: names no model, so it cannot be asked; give it one")
    known = models(spec, folder)
    every = targets(spec, known, [1])
    inputs = await _inputs(spec, name, samples, known, every)
    said: dict[str, list[Told]] = {}
    for at, target in enumerate(_here(every, name)):
        ref, options = wrapped(stage, target.model.variant, folder, where, rendered=True, wrapper=TELLING_MODEL)
        model = replace(target.model, ref=ref, options=options, children=())

        def tell(done: int, at: int = at, model: Model = model) -> None:
            progress(at * len(inputs) + done, len(stage.models) * len(inputs), f"{model.label}, labeled samples")

        said[model.variant] = await _Asked(replace(target, model=model), f"{where}.models.{model.variant}", log).say(
            inputs, tell
        )
    return table_of(said, labels, where, await _hardness(stage, inputs, every, name, folder, log))


async def _hardness(
    stage: CascadeStage,
    inputs: Sequence[Input],
    every: Sequence[Target],
    name: str,
    folder: str | os.PathLike[str],
    log: Callable[[str], None] | None,
) -> list[float] | None:
    """How hard each input is, as it is found out when they are served; None where the spec does not say how."""
    if stage.hardness is None:
        return None
    if stage.hardness == SIZE:
        return [size_bytes(item) for item in inputs]
    where = f"stages.{name}.hardness"
    ref, options = hardness_worker(resolve(stage.hardness, folder, where))
    target = _here(every, name)[0]
    model = replace(target.model, ref=ref, options=options, children=())
    worker = await started(model, target.hardware, name=where, timeout_s=TIMEOUT_S, log=log)
    found: list[float] = []
    try:
        for begin in range(0, len(inputs), BATCH):
            for result in await worker.predict(inputs[begin : begin + BATCH], timeout_s=TIMEOUT_S):
                found.append(hardness_of(result))
                if math.isnan(found[-1]):
                    why = "no number" if result.error is None else f"{result.error.type}: {result.error.message}"
                    raise CascadeError(f"{where}: sample {len(found)}: {why}")
    finally:
        await worker.stop()
    return found


def write_table(
    spec: Spec,
    name: str,
    samples: Sequence[Payload],
    labels: Sequence[str],
    *,
    folder: str | os.PathLike[str],
    progress: Tell,
    log: Callable[[str], None] | None,
) -> str:
    """Make the validation table of a stage and write it where the spec says; return what it shows in a line."""
    stage = spec.stages[name]
    assert isinstance(stage, CascadeStage)
    table = complete(validation_table(spec, name, samples, labels, folder=folder, progress=progress, log=log))
    table.write(stage.table)
    right = ", ".join(f"{model} {table.accuracy(model):.1%}" for model in table.models)
    return f"{stage.table}: of {table.samples} samples right: {right}"


def table_of(
    said: Mapping[str, Sequence[Told]], labels: Sequence[str], where: str, hardness: Sequence[float] | None = None
) -> ValidationTable:
    """Return the table of what models said; labels that all are whole numbers are such.

    The place of a best score stands for a class as `headway.profile.labels.class_at` says. Raises CascadeError,
    beginning with `where`, for classes that do not fit.

    >>> told = [Told(0, 2, 0.5), Told(1, 2, 0.9)]
    >>> table_of({"small": told}, ["cat", "dog"], "stages.only").accuracy("small")
    1.0
    """
    given = typed(labels)
    classes = classes_of(given)
    predicted: dict[str, list[Any]] = {}
    for model, told in said.items():
        at = f"{where}.models.{model}"
        predicted[model] = [_class_of(each, classes, f"{at}: sample {n + 1}") for n, each in enumerate(told)]
    # As a table that is read back has them: numbers where all are, else text.
    numbered = all(isinstance(each, int) for column in (given, *predicted.values()) for each in column)
    truth = [label if numbered else str(label) for label in given]
    values = {m: [answer if numbered else str(answer) for answer in answers] for m, answers in predicted.items()}
    for model, answers in values.items():
        if not set(answers) & set(truth):
            raise CascadeError(
                f"{where}.models.{model}: answers {few(answers)} where labels are {few(truth)}; both must name the "
                "same classes"
            )
    for model, told in said.items():
        for number, each in enumerate(told):
            if each.certainty is not None and math.isinf(each.certainty):
                raise CascadeError(
                    f"{where}.models.{model}: sample {number + 1}: the certainty is {each.certainty}; a finite number "
                    "is needed"
                )
    certainty = {
        model: [math.nan if each.certainty is None else each.certainty for each in told] for model, told in said.items()
    }
    try:
        said_by = {model: np.array(answers) for model, answers in values.items()}
        return ValidationTable(np.array(truth), said_by, certainty, hardness=hardness)
    except CascadeError as error:
        raise CascadeError(f"{where}: {error}") from None


def _class_of(told: Told, labels: Sequence[Any], where: str) -> Any:
    """The class that an answer names, as text or a whole number."""
    if told.scores:
        found = class_at(told.label, told.scores, labels)
        if found is None:
            raise CascadeError(f"{where}: {unplaced(told.scores, labels)}")
        return found
    found = class_named(told.label, labels)
    if found is None:
        raise CascadeError(
            f"{where}: the answer is {type(told.label).__name__}, which is no class; return (class, certainty), the "
            "class being text or a whole number, or scores of classes"
        )
    return found


@dataclass(frozen=True)
class _Asked:
    """A model that is asked about samples; `where` begins errors."""

    target: Target
    where: str
    log: Callable[[str], None] | None

    async def say(self, inputs: Sequence[Input], tell: Callable[[int], None]) -> list[Told]:
        """Return what it says of each, in order."""
        label = f"{self.target.label}, labeled samples"
        worker = await started(self.target.model, self.target.hardware, name=label, timeout_s=TIMEOUT_S, log=self.log)
        said: list[Told] = []
        try:
            for begin in range(0, len(inputs), BATCH):
                results = await worker.predict(inputs[begin : begin + BATCH], render=True, timeout_s=TIMEOUT_S)
                for result in results:
                    if result.error is not None or result.value is None:
                        why = "no answer" if result.error is None else f"{result.error.type}: {result.error.message}"
                        raise CascadeError(f"{self.where}: sample {len(said) + 1}: {why}")
                    said.append(msgspec.json.decode(result.value.data, type=Told))
                tell(len(said))
        finally:
            await worker.stop()
        return said


def _here(every: Sequence[Target], name: str) -> list[Target]:
    """For each model of the stage the first hardware that this machine has; on any it says the same."""
    found: dict[str, Target] = {}
    own = [target for target in every if target.model.stage == name]
    for target in own:
        if target.absent is None:
            found.setdefault(target.model.variant, target)
    for target in own:
        if target.model.variant not in found:
            raise ProfileError(f"stages.{name}.models.{target.model.variant}: cannot be asked here: {target.absent}")
    return list(found.values())


async def _inputs(
    spec: Spec,
    name: str,
    samples: Sequence[Payload],
    known: Mapping[str, Mapping[str, Model]],
    every: Sequence[Target],
) -> Sequence[Input]:
    """What each sample is when it reaches the stage. Raises CascadeError where it is not one item there."""
    above = ancestors(spec.graph, name)
    if not above:
        return samples
    first = {stage: dict([next(iter(known[stage].items()))]) for stage in above if stage in known}
    hardware = {t.model.stage: t.hardware for t in reversed(every) if t.absent is None}
    found = await Recorder(spec.graph, first, hardware, seed=0, timeout_s=TIMEOUT_S).inputs_of(name, samples)
    for number, items in enumerate(found):
        if len(items) != 1:
            raise CascadeError(
                f"stages.{name}: sample {number + 1} becomes {len(items)} items there where a label is of one; ask the "
                "family alone, in a spec of its own"
            )
    return [items[0] for items in found]
