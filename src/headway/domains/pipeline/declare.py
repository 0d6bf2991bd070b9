"""What a stage of this domain declares, and the configuration that a plan gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError, model_validator

from headway.errors import PlanError
from headway.profile.profile import MAX_BATCH_SIZE
from headway.spec.base import Name, Names, Options, Strict, model_field, options_field
from headway.spec.model import MaybeEmptyVariant, Stage, Variant
from headway.spec.units import Duration, Share
from headway.spec.wording import describe

DEFAULT_VARIANT = "default"
MAX_REPLICAS = 100_000


class ModelStage(Stage):
    """A stage done by a model: `file.py:Class`, `package.module:Class`, `file.onnx`, or nothing (profile-only).

    >>> ModelStage(after="detect", probability=0.6).edges["detect"].probability
    0.6
    """

    hardware: Names | None = Field(
        default=None,
        examples=["cpu", ["cpu", "gpu-a"]],
        description="The hardware it may run on, one name or a list; without it any that it has been profiled on.",
    )
    max_batch_size: int | None = Field(
        default=None,
        ge=1,
        le=MAX_BATCH_SIZE,
        examples=[8],
        description="The largest batch to consider; without it the largest that has been profiled.",
    )
    model: str | None = model_field(
        "models.py:Detector",
        "detect.onnx",
        without="the stage can be planned and simulated from a profile, and rehearsed, but not measured",
    )
    options: Options = options_field({"width": 736})
    accuracy: Share | None = Field(
        default=None, gt=0, examples=[0.95], description="The share of items that the stage gets right."
    )
    variants: dict[Name, MaybeEmptyVariant] = Field(
        default_factory=dict,
        examples=[{"small": {"model": "small.onnx", "accuracy": 0.91}}],
        description="Models to choose from, by name; without any there is one, named `default`.",
    )

    @property
    def variant_names(self) -> tuple[str, ...]:
        """Names of the models to choose from; a stage without variants has the one named `default`."""
        return tuple(self.variants) or (DEFAULT_VARIANT,)

    @property
    def hardware_names(self) -> tuple[str, ...] | None:
        """Hardware this stage may run on; None means any that it has been profiled on."""
        if self.hardware is None:
            return None
        return (self.hardware,) if isinstance(self.hardware, str) else tuple(self.hardware)

    def variant(self, name: str) -> Variant:
        """Return the named variant with what it inherits from the stage (model, options, accuracy) filled in."""
        own = self.variants.get(name, Variant())
        return Variant(
            accuracy=own.accuracy if own.accuracy is not None else self.accuracy,
            model=own.model or self.model,
            options={**self.options, **own.options},
        )

    @model_validator(mode="after")
    def _accuracy_for_all_or_none(self) -> ModelStage:
        known = [name for name in self.variant_names if self.variant(name).accuracy is not None]
        if known and len(known) < len(self.variant_names):
            missing = next(name for name in self.variant_names if name not in known)
            raise ValueError(
                f"variant {missing!r} has no accuracy while others have; give one to every variant or to none"
            )
        return self


class ConfigText(Strict):
    """A stage's configuration as a person writes it under `current:`."""

    hardware: Name = Field(examples=["cpu"], description="The hardware that its replicas run on.")
    replicas: int = Field(default=1, ge=1, le=MAX_REPLICAS, examples=[6], description="How many replicas run.")
    max_batch_size: int = Field(
        default=1, ge=1, le=MAX_BATCH_SIZE, examples=[4], description="The most items that a replica takes at once."
    )
    max_wait_s: Duration = Field(
        default=0.0,
        alias="max_wait",
        examples=["5ms"],
        description="How long an idle replica waits for a batch to fill, from the oldest item's arrival.",
    )
    variant: Name = Field(default=DEFAULT_VARIANT, examples=["small"], description="The chosen model.")

    @classmethod
    def read(cls, value: Mapping[str, Any], where: str) -> ReplicaConfig:
        """Return the configuration that a mapping declares. Raises PlanError, one line `where.field: text` per problem.

        >>> ConfigText.read({"hardware": "cpu", "max_wait": "5ms"}, "current.detect").max_wait_s
        0.005
        """
        try:
            text = cls.model_validate(value)
        except ValidationError as error:
            raise PlanError("\n".join(describe(error, value, where))) from None
        return ReplicaConfig(text.hardware, text.replicas, text.max_batch_size, text.variant, text.max_wait_s)


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """One stage of a plan: which model on which hardware, how many replicas, how they batch.

    >>> ReplicaConfig(hardware="cpu", replicas=2).max_batch_size
    1
    """

    hardware: str
    replicas: int = 1
    max_batch_size: int = 1
    variant: str = DEFAULT_VARIANT
    max_wait_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as it stands in a plan's JSON."""
        return {
            "variant": self.variant,
            "hardware": self.hardware,
            "replicas": self.replicas,
            "max_batch_size": self.max_batch_size,
            "max_wait_s": self.max_wait_s,
        }
