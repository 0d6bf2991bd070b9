"""What a stage of this domain declares: a family of models for one task, and what is known of their answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from headway.spec.base import Name, Names, Options, Strict, model_field, nothing_is_empty, options_field
from headway.spec.model import Stage
from headway.spec.units import Rate, Share, Size

if TYPE_CHECKING:
    from headway.serve.model_ref import ModelRef


SIZE = "size"
"""The hardness that needs no function: the bytes of an input."""


class FamilyModel(Strict):
    """One model of a family."""

    model: str | None = model_field(
        "models.py:Small", "small.onnx", without="the family can be planned and simulated from a profile"
    )
    options: Options = options_field({"width": 64})
    memory_mb: Size | None = Field(
        default=None,
        alias="memory",
        gt=0,
        examples=["400MB"],
        description="What the model takes of a device's memory; without it what the profile says.",
    )


class CascadeStage(Stage):
    """A stage done by a family of models: cheap ones answer what they are certain of, dear ones the rest.

    >>> stage = CascadeStage(models={"small": {}, "large": {}}, table="validation.csv", max_rate="200/s")
    >>> stage.max_rate_per_s
    200.0
    """

    kind: str = Field(default="cascade", examples=["cascade"], description="The domain: `cascade`.")
    models: dict[Name, Annotated[FamilyModel, BeforeValidator(nothing_is_empty)]] = Field(
        min_length=1,
        examples=[{"small": {"model": "small.onnx"}, "large": {"model": "large.onnx"}}],
        description="The models, by the names that the profile (as variants) and the validation table have for them.",
    )
    table: str = Field(
        min_length=1,
        examples=["validation.csv"],
        description="The validation table: a CSV file with what every model said of the same labeled samples, and how "
        "certain it was.",
    )
    certainty: str = Field(
        default="margin",
        min_length=1,
        examples=["margin", "models.py:sure"],
        description="How sure a model is of what it returns, when it serves: `margin`, `highest` or `entropy` of its "
        "scores, or a function of a list of results, `file.py:function`; not asked of models that return (answer, "
        "certainty).",
    )
    hardness: str | None = Field(
        default=None,
        min_length=1,
        examples=["size", "models.py:words"],
        description="How hard an input is seen to be before any model is asked, so that clearly hard ones skip cheap "
        "models where that saves work: `size` (its bytes), or a function of a list of inputs, `file.py:function`; the "
        "validation table then says it of each sample, in the column `hardness`.",
    )
    max_rate_per_s: Rate = Field(
        alias="max_rate",
        gt=0,
        examples=["200/s"],
        description="The highest rate that gears are planned for; beyond it the cheapest gear serves.",
    )
    hardware: Names | None = Field(
        default=None,
        examples=["gpu-a", ["cpu", "gpu-a"]],
        description="The hardware of its devices, one name or a list; without it any that all models are profiled on.",
    )
    device_memory_mb: Size | None = Field(
        default=None,
        alias="device_memory",
        gt=0,
        examples=["16GB"],
        description="The memory of one device; without it every device holds every model.",
    )
    tolerance: Share | None = Field(
        default=None,
        gt=0,
        lt=1,
        examples=["1%"],
        description="The most accuracy that any gear may lose against the most accurate model, certified on half of "
        "the validation table against every model, as which is the most accurate is not known; without it gears may be "
        "as inaccurate as the load demands.",
    )
    confidence: Share = Field(
        default=0.95, gt=0.5, lt=1, examples=["95%"], description="How sure `tolerance` must be to hold."
    )

    @property
    def hardware_names(self) -> tuple[str, ...] | None:
        """Hardware that its devices may be of; None means any that all models are profiled on."""
        if self.hardware is None:
            return None
        return (self.hardware,) if isinstance(self.hardware, str) else tuple(self.hardware)

    @property
    def named_models(self) -> dict[str, str]:
        """What does the work, by the names of the models that say it; a family without can be planned and rehearsed."""
        return {name: model.model for name, model in self.models.items() if model.model is not None}

    def worker(self, name: str, folder: str, where: str, *, rendered: bool) -> tuple[ModelRef, Mapping[str, Any]]:
        """Return what a worker loads for a model, as it is served: with how certain the model is. Raises SpecError."""
        from headway.domains.cascade.wrapped import wrapped

        return wrapped(self, name, folder, where, rendered=rendered)

    @property
    def branches(self) -> tuple[str, str]:
        """The branches of its workers' results: what is known about an answer, and the answer."""
        from headway.domains.cascade.live_answers import ABOUT, ANSWER

        return ABOUT, ANSWER

    @model_validator(mode="after")
    def _every_model_fits(self) -> CascadeStage:
        if self.device_memory_mb is not None:
            for name, model in self.models.items():
                if model.memory_mb is not None and model.memory_mb > self.device_memory_mb:
                    raise ValueError(
                        f"model {name!r} takes {model.memory_mb:g} MB where a device has {self.device_memory_mb:g} MB; "
                        "leave it out, or give larger devices"
                    )
        return self
