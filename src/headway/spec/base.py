"""What every declared value is built from: strict models, names, plain data."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from headway.spec.wording import reword

NAME_PATTERN = r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$"


def _check_name(name: str) -> str:
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(
            f"{name[:80]!r} is not a valid name; use a letter, then at most 63 letters, digits, dots, dashes or "
            "underscores"
        )
    return name


Name = Annotated[str, AfterValidator(_check_name), WithJsonSchema({"type": "string", "pattern": NAME_PATTERN})]
"""The name of a stage, a hardware, a pool or a variant."""


def _check_plain(value: Any, path: str = "") -> Any:
    """Options travel in plans as JSON, so they must come back from it as they were."""
    if isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{path or 'options'}: key {key!r} is not text; put it in quotes")
            _check_plain(part, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            _check_plain(part, f"{path}[{index}]")
    elif not (value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))):
        raise ValueError(f"{path}: {value!r} is not plain data; use text, finite numbers, true, false, lists, mappings")
    return value


Options = Annotated[dict[str, Any], AfterValidator(_check_plain)]
"""Plain data that is passed on as it is."""


def model_field(example: str, *more: str, without: str) -> Any:
    """Return the field in which a spec names a model; `without` says what holds where it names none."""
    forms = "`file.py:Class`, `package.module:Class` or `file.onnx`"
    text = f"What does the work: {forms}; without it {without}."
    return Field(default=None, min_length=1, examples=[example, *more], description=text)


def options_field(example: Mapping[str, Any]) -> Any:
    """Return the field of what a model is made with."""
    return Field(default_factory=dict, examples=[dict(example)], description="Keyword arguments of the model's class.")


def tag_of_names(value: Any) -> str | None:
    """Which form a list of names takes. The tags cannot be names, so that an error's place tells them apart."""
    if isinstance(value, str):
        return "(text)"
    if isinstance(value, Mapping):
        return "(mapping)"
    return "(list)" if isinstance(value, list | tuple) else None


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


NamesList = Annotated[list[str], BeforeValidator(_as_list)]
Names = Annotated[
    Annotated[str, Tag("(text)")] | Annotated[NamesList, Tag("(list)")],
    Discriminator(
        lambda value: None if isinstance(value, Mapping) else tag_of_names(value),
        custom_error_type="headway",
        custom_error_message="needs a name or a list of names",
    ),
]
"""One name or several."""


def nothing_is_empty(value: Any) -> Any:
    """In YAML, `small:` with nothing behind it stands for `small: {}`."""
    return {} if value is None else value


class Strict(BaseModel):
    """Base of every declared value: immutable, no unknown keys, no silent conversions of types."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, populate_by_name=False, allow_inf_nan=False, hide_input_in_errors=True
    )

    @model_validator(mode="wrap")
    @classmethod
    def _house_style(cls, value: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise reword(cls, error) from None
