"""What LLM engines serve, as it is declared: a model by name or by its figures, and what an iteration takes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from headway.errors import nearest
from headway.fleet import datasheets
from headway.fleet.step_time import StepTime
from headway.spec.base import Strict
from headway.spec.units import Duration, Share
from headway.spec.wording import listed, shown


class ModelFigures(Strict):
    """What of a model decides its speed and its memory, where it is not known by name."""

    parameters: float = Field(ge=1e6, examples=[8030000000], description="The number of its weights.")
    layers: int = Field(ge=1, examples=[32], description="Its layers.")
    heads: int = Field(ge=1, examples=[32], description="Attention heads of a layer.")
    kv_heads: int = Field(ge=1, examples=[8], description="Of these, heads with keys and values of their own.")
    head_dim: int = Field(ge=1, examples=[128], description="The dimension of a head.")

    @model_validator(mode="after")
    def _shares_heads(self) -> ModelFigures:
        if self.heads % self.kv_heads:
            raise ValueError(
                f"kv_heads is {self.kv_heads} of {self.heads} heads; as many heads share each, so it divides heads"
            )
        return self


class StepFigures(Strict):
    """What an iteration of an engine takes, as `fit` returns it of measured ones.

    >>> StepFigures(floor="10ms", token="60us").step.seconds(tokens=512)
    0.03072
    """

    floor_s: Duration = Field(default=0.0, alias="floor", examples=["10ms"], description="The least, for few tokens.")
    token_s: Duration = Field(alias="token", examples=["60us"], description="For each token, where that is longer.")
    kv_token_s: Duration = Field(
        default=0.0, alias="kv_token", examples=["0.3us"], description="More for each token of context that decodes."
    )
    pair_s: Duration = Field(
        default=0.0,
        alias="pair",
        examples=["0.002us"],
        description="More for each pair of a prompt's token and one that it attends to.",
    )
    overhead_s: Duration = Field(
        default=0.0, alias="overhead", examples=["2ms"], description="More for each iteration, as on processors."
    )
    error_ratio: Share | None = Field(
        default=None,
        alias="error",
        examples=["5%"],
        description="How far off it is on average; without it nobody knows, and plans say so.",
    )

    @property
    def step(self) -> StepTime:
        """What an iteration takes."""
        return StepTime(self.floor_s, self.token_s, self.kv_token_s, self.pair_s, self.overhead_s)

    @model_validator(mode="after")
    def _takes_time(self) -> StepFigures:
        if self.floor_s + self.overhead_s <= 0.0:
            raise ValueError("an iteration with few tokens takes no time; give floor, or overhead, as fit returned it")
        return self


def _known_model(name: str) -> str:
    known = datasheets.models()
    if name not in known:
        raise ValueError(
            f"{shown(name)} is not a model known here; valid: {listed(known)}{nearest(name, known)}; or give its "
            "figures, such as {parameters: 8030000000, layers: 32, heads: 32, kv_heads: 8, head_dim: 128}"
        )
    return name


def _form_of_model(value: Any) -> str | None:
    if isinstance(value, str):
        return "(text)"
    return "(mapping)" if isinstance(value, Mapping | ModelFigures) else None


ServedModel = Annotated[
    Annotated[str, AfterValidator(_known_model), Tag("(text)")] | Annotated[ModelFigures, Tag("(mapping)")],
    Discriminator(
        _form_of_model,
        custom_error_type="headway",
        custom_error_message="needs a model's name, or its figures: parameters, layers, heads, kv_heads, head_dim",
    ),
]


def figures(model: str | ModelFigures) -> datasheets.Model:
    """Return what of a declared model decides its speed and its memory.

    >>> figures("llama-2-7b").heads
    32
    """
    return datasheets.models()[model] if isinstance(model, str) else datasheets.Model(**model.model_dump())
