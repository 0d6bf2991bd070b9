"""The model that LLM engines serve, as it is declared: by a known name, or by the figures that decide its speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from headway.errors import nearest
from headway.fleet import datasheets
from headway.spec.base import Strict
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
