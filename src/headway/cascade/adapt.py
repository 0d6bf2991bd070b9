"""Take pipelines apart into generators and a model: scikit-learn's, or parts that are given by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.cascade.features import Feature, Features
from headway.cascade.onnx import OnnxFile
from headway.cascade.rows import Block, Columns, Rows, as_block, column_names, count, stack
from headway.errors import CascadeError

PASSED = (None, "passthrough")
"""What scikit-learn writes for a step that changes nothing."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A pipeline in parts: its generators, those whose blocks the model takes in this order, and the model.

    The model has `fit` and `predict_proba` (or `decision_function`), as scikit-learn's; one that is fitted already is
    a callable from a block to scores, or the path of an `.onnx` file; the columns of its scores are `classes`, or the
    sorted labels.
    Raises CascadeError for an input that is no generator.

    >>> Parts(Features({"length": Feature(len)}), ("length",), lambda block: block).inputs
    ('length',)
    """

    features: Features
    inputs: tuple[str, ...]
    model: Any
    classes: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        self.features.closure(self.inputs)
        if not self.inputs:
            raise CascadeError("pipeline: its model takes no features; name at least one of them in inputs")


@dataclass(frozen=True, slots=True)
class Scorer:
    """A fitted model as cascades use it: from a block to one score per class, the highest being its answer."""

    scores: Callable[[Block], NDArray[np.float64]]
    classes: NDArray[Any]
    model: Any = None
    """What computes the scores, where that is an object with methods."""


def adapt(pipeline: Any, rows: Rows) -> Parts:
    """Return the parts of a scikit-learn pipeline, unfitted; parts are returned as they are.

    One transformer of a FeatureUnion or ColumnTransformer is one generator; what comes before is shared by all of them,
    what comes after goes to the model. Branches that start with the very same transformer object share it. `rows` are
    only asked for their columns. Raises CascadeError for anything else than such a pipeline.
    """
    if isinstance(pipeline, Parts):
        return pipeline
    steps = getattr(pipeline, "steps", None)
    if not steps or not hasattr(steps[-1][1], "fit"):
        raise CascadeError(
            f"pipeline: a {type(pipeline).__name__} cannot be taken apart; give a scikit-learn Pipeline that ends with"
            " a model, or Parts(features, inputs, model)"
        )
    transformers, (name, model) = list(steps[:-1]), steps[-1]
    branching = [place for place, (_, step) in enumerate(transformers) if _branches(step)]
    after = transformers[branching[-1] + 1 :] if branching else []
    growing = _Growing(rows)
    inputs = growing.chain(transformers[: len(transformers) - len(after)], _Source(), "")
    if after:
        from sklearn.pipeline import Pipeline

        model = Pipeline([*after, (name, model)])
    return Parts(Features(growing.features), tuple(inputs), model)


def scorer(model: Any, classes: Iterable[Any] | None = None) -> Scorer:
    """Return a fitted model as cascades use it.

    Takes scikit-learn's models, callables from a block to scores (with `classes`), and the path of an `.onnx` file
    (with `classes`) whose last output is one probability per class. Raises CascadeError for what gives no scores, and
    when asked for those of rows, for other than one per class.

    >>> model = scorer(lambda block: np.hstack([1 - block, block]), classes=["no", "yes"])
    >>> model.scores(np.array([[0.9]])).tolist(), model.classes.tolist()
    ([[0.09999999999999998, 0.9]], ['no', 'yes'])
    """
    if isinstance(model, str | Path):
        model = OnnxFile(Path(model))
    for method in ("predict_proba", "decision_function"):
        if hasattr(model, method):
            known = np.asarray(model.classes_)
            return Scorer(partial(_scores, getattr(model, method), known), known, model)
    if not callable(model):
        raise CascadeError(
            f"model: a {type(model).__name__} gives no scores; it needs predict_proba, decision_function or a call"
        )
    if classes is None:
        raise CascadeError("model: a callable does not say what its scores are of; give classes, in their order")
    known = np.asarray(list(classes))
    return Scorer(partial(_scores, model, known), known)


@dataclass(frozen=True, slots=True)
class _Source:
    """What a transformer takes: columns of the rows, one generator's value, or the rows themselves."""

    needs: tuple[str, ...] = ()
    of: Columns | None = None


@dataclass(slots=True)
class _Growing:
    """Generators while a pipeline is walked."""

    rows: Rows
    features: dict[str, Feature] = field(default_factory=dict)
    made: dict[tuple[int, _Source], str] = field(default_factory=dict)

    def chain(self, steps: Sequence[tuple[str, Any]], source: _Source, prefix: str) -> list[str]:
        """Add steps one after the other; return the generators that the last one ends in."""
        ends: list[str] = []
        for place, (name, step) in enumerate(steps):
            if place:
                source = _Source(needs=(self._joined(ends, prefix),))
            ends = self.grow(step, source, f"{prefix}{name}")
        return ends or [self._add(_same, source, prefix.rstrip(".") or "rows")]

    def grow(self, step: Any, source: _Source, name: str) -> list[str]:
        """Add one step of whatever kind; return the generators it ends in."""
        if isinstance(step, str) and step == "drop":
            return []
        if step is None or isinstance(step, str):
            return [self._add(_same, source, name)]
        if hasattr(step, "steps"):
            return self._branch(step, source, name)
        if hasattr(step, "transformer_list"):
            children = [(child, source, made) for child, made in step.transformer_list]
        elif hasattr(step, "transformers"):
            children = [(child, self._part(source, of), made) for child, made, of in self._columns(step, source)]
        else:
            return [self._add(step, source, name)]
        weights = step.transformer_weights or {}
        ends = []
        for child, part, made in children:
            for end in self.grow(made, part, child if child not in self.features else f"{name}.{child}"):
                weight = weights.get(child)
                ends.append(
                    end if weight is None else self._add(partial(_times, weight), _Source((end,)), f"{end}.weighted")
                )
        return ends

    def _branch(self, pipeline: Any, source: _Source, name: str) -> list[str]:
        """Add a pipeline inside a union; its last transformer bears the branch's name."""
        *before, (last_name, last) = [(n, step) for n, step in pipeline.steps if step not in PASSED] or [("same", None)]
        for step_name, step in before:
            source = _Source((self._joined(self.grow(step, source, f"{name}.{step_name}"), name),))
        return self.grow(last, source, f"{name}.{last_name}" if _branches(last) else name)

    def _columns(self, step: Any, source: _Source) -> list[tuple[str, Any, Columns]]:
        """The parts of a ColumnTransformer with their columns resolved, and the remainder where it is kept."""
        if source.needs:
            raise CascadeError(
                "pipeline: a ColumnTransformer after another transformer is not taken apart; put it into its branches"
            )
        names = column_names(self.rows)
        parts = [(name, made, _resolve(of, names, self.rows)) for name, made, of in step.transformers]
        if not (isinstance(step.remainder, str) and step.remainder == "drop"):
            used = {_label(c, names) for *_, of in parts for c in (of if isinstance(of, tuple) else (of,))}
            rest = tuple(column for column in names if column not in used)
            if rest:
                parts.append(("remainder", step.remainder, rest))
        return parts

    def _part(self, source: _Source, of: Columns) -> _Source:
        return _Source(source.needs, of)

    def _joined(self, ends: Sequence[str], name: str) -> str:
        """The one generator that a following step takes: several ends are put side by side."""
        if len(ends) == 1:
            return ends[0]
        return self._add(_side_by_side, _Source(tuple(ends)), f"{name}.joined" if name else "joined")

    def _add(self, compute: Any, source: _Source, name: str) -> str:
        known = self.made.get((id(compute), source))
        if known is not None:
            return known
        unique, again = name, 2
        while unique in self.features:
            unique, again = f"{name}-{again}", again + 1
        self.features[unique] = Feature(compute, source.needs, source.of)
        self.made[id(compute), source] = unique
        return unique


def _branches(step: Any) -> bool:
    if hasattr(step, "steps"):
        return bool(step.steps) and _branches(step.steps[-1][1])
    return hasattr(step, "transformer_list") or hasattr(step, "transformers")


def _resolve(of: Any, names: Sequence[str | int], rows: Rows) -> Columns:
    """Columns as a ColumnTransformer writes them: name or place, several, slice, mask, or a function of the rows."""
    if callable(of):
        of = of(rows)
    if isinstance(of, str | int):
        return of
    if isinstance(of, slice):
        places = list(range(len(names)))
        start, stop = (names.index(edge) if isinstance(edge, str) else edge for edge in (of.start, of.stop))
        last = stop + 1 if isinstance(of.stop, str) else stop
        return tuple(names[place] for place in places[start : last : of.step])
    chosen = list(of)
    if chosen and isinstance(chosen[0], bool | np.bool_):
        return tuple(name for name, wanted in zip(names, chosen, strict=True) if wanted)
    return tuple(column if isinstance(column, str) else int(column) for column in chosen)


def _label(column: str | int, names: Sequence[str | int]) -> str | int:
    return column if isinstance(column, str) else names[column]


def _same(value: Any) -> Any:
    return value


def _times(weight: float, value: Any) -> Any:
    return value * weight


def _side_by_side(*values: Any) -> Block:
    return stack([as_block(value, "joined") for value in values])


def _scores(method: Callable[[Block], Any], classes: NDArray[Any], block: Block) -> NDArray[np.float64]:
    """Scores as two dimensions, one column per class: one signed distance is two classes."""
    said = method(block)
    try:
        scores = np.asarray(said, dtype=np.float64)
    except (TypeError, ValueError):
        raise CascadeError(
            f"model: it gave a {type(said).__name__} that is no table of numbers; one score per class "
            f"({some(classes)}) is needed"
        ) from None
    if scores.ndim == 1 and len(classes) == 2:
        scores = np.column_stack([-scores, scores])
    if scores.shape != (count(block), len(classes)):
        raise CascadeError(
            f"model: its scores have the shape {scores.shape} for {count(block):,} rows and {len(classes)} classes "
            f"({some(classes)}); one score per class is needed, in this order"
        )
    return scores


def some(classes: NDArray[Any]) -> str:
    """Return the first few classes in their order, for an error.

    >>> some(np.arange(9))
    '0, 1, 2, 3, 4, ...'
    """
    shown = ", ".join(map(str, classes[:5].tolist()))
    return f"{shown}, ..." if len(classes) > 5 else shown
