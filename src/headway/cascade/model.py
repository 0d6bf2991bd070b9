"""What a cascade is: an ordered list of steps, each a model, the features that it needs, and a threshold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from headway.errors import CascadeError, nearest
from headway.policy.cascading import ALWAYS


@dataclass(frozen=True, slots=True)
class Step:
    """One step: `model` sees `features` and answers when its certainty reaches `threshold`.

    Steps may differ by model (CascadeServe) or by features (Willump). `threshold` None: it always answers, as the last
    step does; infinite: it never does. Raises CascadeError for a threshold that is not a number, or no model.

    >>> print(Step("small", threshold=0.8))
    small >= 0.8
    """

    model: str
    features: tuple[str, ...] = ()
    threshold: float | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        if not isinstance(self.model, str) or not self.model:
            raise CascadeError(f"cascade: a step's model is {self.model!r}; it must be the name of a model")
        put(self, "features", _names(self.model, self.features))
        if self.threshold is None:
            return
        if isinstance(self.threshold, bool) or not _is_number(self.threshold):
            raise CascadeError(
                f"cascade: step {self.model!r}: threshold is {self.threshold!r}; it must be a number, or None for the "
                "last step"
            )
        put(self, "threshold", float(self.threshold))

    def __str__(self) -> str:
        return self.model if self.threshold is None else f"{self.model} >= {self.threshold:.4g}"

    def to_dict(self) -> dict[str, Any]:
        """Return the step as JSON values, without what is not said; an infinite threshold is the text "inf"."""
        out: dict[str, Any] = {"model": self.model}
        if self.features:
            out["features"] = list(self.features)
        if self.threshold is not None:
            out["threshold"] = self.threshold if math.isfinite(self.threshold) else str(self.threshold)
        return out


@dataclass(frozen=True)
class Cascade:
    """Steps that are asked in turn until one is certain enough; the last one always answers.

    Raises CascadeError when there is no step, a model comes twice, a step before the last has no threshold, or the
    last has one.

    >>> print(Cascade((Step("small", threshold=0.8), Step("large"))))
    small >= 0.8 -> large
    """

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        if not self.steps:
            raise CascadeError("cascade: it has no step; at least one is needed")
        if len(set(self.models)) < len(self.steps):
            twice = next(name for name in self.models if self.models.count(name) > 1)
            raise CascadeError(f"cascade: model {twice!r} stands in two steps; a model is asked once")
        for step in self.steps[:-1]:
            if step.threshold is None:
                raise CascadeError(
                    f"cascade: step {step.model!r} has no threshold, so the steps after it are never asked; only the "
                    "last one goes without"
                )
        last = self.steps[-1]
        if last.threshold is not None:
            raise CascadeError(
                f"cascade: the last step, {last.model!r}, has the threshold {last.threshold:g}; it always answers, "
                "so it has none"
            )

    def __str__(self) -> str:
        return " -> ".join(map(str, self.steps))

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def models(self) -> tuple[str, ...]:
        """The models in the order in which they are asked."""
        return tuple(step.model for step in self.steps)

    @property
    def thresholds(self) -> tuple[float, ...]:
        """One threshold per step, as `policy.cascading.answers` takes it: `ALWAYS` for the last."""
        return tuple(ALWAYS if step.threshold is None else step.threshold for step in self.steps)

    @property
    def answering(self) -> tuple[str, ...]:
        """The models that can answer at all: those whose threshold is not infinite.

        >>> Cascade((Step("small", threshold=float("inf")), Step("large"))).answering
        ('large',)
        """
        return tuple(step.model for step in self.steps if step.threshold != math.inf)

    def to_dict(self) -> dict[str, Any]:
        """Return the cascade as JSON values."""
        return {"steps": [step.to_dict() for step in self.steps]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Cascade:
        """Return the cascade that JSON values describe. Raises CascadeError that names step and field.

        >>> str(Cascade.from_dict({"steps": [{"model": "small", "threshold": 0.8}, {"model": "large"}]}))
        'small >= 0.8 -> large'
        """
        listed = value.get("steps") if isinstance(value, Mapping) else None
        if not isinstance(listed, list) or not all(isinstance(step, Mapping) for step in listed):
            raise CascadeError("cascade: `steps` must be a list of objects such as {model: small, threshold: 0.8}")
        return cls(tuple(_step(at, step) for at, step in enumerate(listed)))


_FIELDS = ("model", "features", "threshold")


def _step(at: int, value: Mapping[str, Any]) -> Step:
    for name in value:
        if name not in _FIELDS:
            raise CascadeError(f"cascade: steps[{at}]: unknown field {name!r}{nearest(str(name), _FIELDS)}")
    if "model" not in value:
        raise CascadeError(f"cascade: steps[{at}]: model is missing; it must be the name of a model")
    threshold = value.get("threshold")
    return Step(value["model"], value.get("features", ()), math.inf if threshold == "inf" else threshold)


def _names(model: str, features: Iterable[str]) -> tuple[str, ...]:
    if isinstance(features, str) or not all(isinstance(name, str) for name in features):
        raise CascadeError(f"cascade: step {model!r}: features are {features!r}; they must be a list of names")
    return tuple(features)


def _is_number(value: object) -> bool:
    try:
        return not math.isnan(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def digits(confidence: float) -> int:
    """Return with how many digits a confidence is written: at least four, and as many as tell it from 1.

    >>> digits(0.95), digits(0.9833333), digits(0.999999)
    (4, 4, 7)
    """
    return max(4, 1 + math.ceil(-math.log10(1.0 - confidence)))
