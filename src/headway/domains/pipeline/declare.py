"""What a stage of this domain declares, and the configuration that a plan gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, model_validator

from headway.spec.model import Stage, Strict, Variant
from headway.spec.units import Duration, Share

DEFAULT_VARIANT = "default"


class ModelStage(Stage):
    """A stage done by a model: `file.py:Class`, `package.module:Class`, `file.onnx`, or nothing (profile-only).

    >>> ModelStage(after="detect", probability=0.6).edges["detect"].probability
    0.6
    """

    hardware: str | list[str] | None = None
    max_batch_size: int | None = Field(default=None, ge=1, le=4096)
    model: str | None = None
    options: Mapping[str, Any] = Field(default_factory=dict)
    accuracy: Share | None = Field(default=None, gt=0)
    variants: dict[str, Variant] = Field(default_factory=dict)

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

    hardware: str
    replicas: int = Field(default=1, ge=1, le=100_000)
    max_batch_size: int = Field(default=1, ge=1, le=4096)
    max_wait_s: Duration = Field(default=0.0, alias="max_wait")
    variant: str = DEFAULT_VARIANT


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
