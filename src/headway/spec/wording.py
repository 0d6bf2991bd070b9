"""What pydantic finds wrong, said as Headway says it: what is wrong, what would be valid, did you mean."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from headway.errors import nearest

_OURS = "headway"
_LONGEST_SHOWN = 60
_MOST_SHOWN = 20

MOST_PROBLEMS = 50
"""An error names at most so many problems; a person mends these first."""

_KINDS = {
    "int_type": "is not a whole number",
    "int_parsing": "is not a whole number",
    "int_from_float": "is not a whole number",
    "float_type": "is not a number",
    "float_parsing": "is not a number",
    "bool_type": "is neither true nor false",
    "bool_parsing": "is neither true nor false",
    "string_type": "is not text; put it in quotes",
    "list_type": "is not a list",
    "dict_type": "is not a mapping of names to values",
    "mapping_type": "is not a mapping of names to values",
    "model_type": "is not a mapping of fields",
    "model_attributes_type": "is not a mapping of fields",
    "finite_number": "is not a finite number",
    "invalid_key": "is not a field's name; names are text",
}
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
    "string_too_long": ("of length at most", "max_length"),
    "too_long": ("of length at most", "max_length"),
}


def shown(value: Any) -> str:
    """Return a value as a message names it: short, and as YAML would write it.

    >>> shown(True), shown({"a": 1}), shown("x")
    ('true', 'a mapping', "'x'")
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple | set):
        return "a list"
    text = repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def listed(names: Iterable[str]) -> str:
    """Return valid names as a message lists them, or says that there are none.

    >>> listed(["cpu", "gpu-a"])
    'cpu, gpu-a'
    """
    shown_names = list(names)
    more = len(shown_names) - _MOST_SHOWN
    return ", ".join(shown_names[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "") or "none"


def line_error(loc: Iterable[str | int], text: str, value: Any = None) -> InitErrorDetails:
    """Return one problem for `ValidationError.from_exception_data`, with its text as it stands."""
    return InitErrorDetails(type=PydanticCustomError(_OURS, "{text}", {"text": text}), loc=tuple(loc), input=value)


def validation_error(title: str, problems: Iterable[InitErrorDetails]) -> ValidationError:
    """Return the error that a validator raises to name several problems at their places."""
    return ValidationError.from_exception_data(title, list(problems))


def reword(model: type[BaseModel], error: ValidationError) -> ValidationError:
    """Return the same problems in house style: `model` knows its fields, and nested models have reworded theirs."""
    # Beyond what is shown, one more says that there are more: looking for nearest names takes time.
    details = error.errors(include_url=False)[: MOST_PROBLEMS + 1]
    meant = {_meant(model, str(d["loc"][-1])) for d in details if d["type"] == "extra_forbidden"}
    # A field that is missing only because its name is misspelled is one problem, told at the misspelled name.
    kept = [d for d in details if not (d["type"] == "missing" and d["loc"][-1] in meant)]
    return validation_error(error.title, (line_error(d["loc"], _sentence(model, d), d["input"]) for d in kept))


def message(detail: ErrorDetails) -> str:
    """Return the text of one reworded problem, or of a validator's own ValueError."""
    raised = detail.get("ctx", {}).get("error")
    return str(raised) if detail["type"] == "value_error" and raised is not None else detail["msg"]


def user_names(model: type[BaseModel]) -> dict[str, str]:
    """Return the fields' names in Python by the names that a user writes."""
    return {field.alias or name: name for name, field in model.model_fields.items()}


def _sentence(model: type[BaseModel], detail: ErrorDetails) -> str:
    kind, value, loc = detail["type"], detail["input"], detail["loc"]
    if kind in (_OURS, "value_error"):
        return message(detail)
    if kind == "extra_forbidden":
        return unknown_field(model, str(loc[-1]))
    if not loc and kind in ("model_type", "model_attributes_type"):
        found = "is empty" if value is None else f"{shown(value)} stands where fields belong"
        return f"{found}; valid: {listed(user_names(model))}"
    example = _example(model, str(loc[0])) if len(loc) == 1 else ""
    if kind == "missing":
        return f"is missing; add it{f', such as {loc[-1]}: {example}' if example else ''}"
    suffix = f"; write it like {example}" if example else ""
    if kind in ("string_too_short", "too_short"):
        return f"is empty; give at least one{suffix}" if kind == "too_short" else f"is empty{suffix}"
    if kind == "literal_error":
        return f"{shown(value)} is not known here; valid: {detail['ctx']['expected'].replace(' or ', ', ')}" + (
            nearest(str(value), re.findall(r"'([^']*)'", detail["ctx"]["expected"]))
        )
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"{shown(value)} is out of range; it must be {words} {detail['ctx'][key]:g}"
    if value is None:
        return f"is empty{suffix or '; give a value or remove it'}"
    if kind in ("float_type", "float_parsing", "int_type", "int_parsing") and (number := _number_in(value)):
        return f"{shown(value)} is read as text, not as a number; write it like {number}, without quotes"
    if kind in _KINDS:
        return f"{shown(value)} {_KINDS[kind]}{'' if kind == 'string_type' else suffix}"
    return detail["msg"].replace("Input should", "it must")


def _number_in(value: Any) -> str | None:
    """The number that a text stands for, as YAML takes it for one: with a point and a sign before an exponent."""
    if not isinstance(value, str) or not re.fullmatch(r"\s*[+-]?[0-9.]+([eE][+-]?[0-9]{1,3})?\s*", value):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    if number == int(number) and abs(number) < 1e15:
        return str(int(number))
    text = repr(number)
    return text if "." in text else text.replace("e", ".0e")


def unknown_field(model: type[BaseModel], name: str) -> str:
    """Return what is said about a field that a model does not have."""
    meant = _meant(model, name)
    hint = f"; did you mean {meant!r}?" if meant else ""
    return f"unknown field; valid: {listed(user_names(model))}{hint}"


def _meant(model: type[BaseModel], name: str) -> str | None:
    """The field's name that a user most likely meant: its name in Python counts too."""
    names = user_names(model)
    own = next((user for user, python in names.items() if python == name), None)
    return own or next((user for user in names if f"{user!r}" in nearest(name, names)), None)


def _example(model: type[BaseModel], name: str) -> str:
    """The first example that a field's declaration gives."""
    field = model.model_fields.get(user_names(model).get(name, name))
    return inline(field.examples[0]) if field is not None and field.examples else ""


def inline(value: Any) -> str:
    """A value as YAML writes it on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {inline(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def describe(error: ValidationError, value: Any, where: str = "") -> list[str]:
    """Return one line `where.field: text` per problem of a value that did not validate, in the order found."""
    lines = (
        f"{path}: {message(detail)}" if (path := path_text(place(detail, value), where)) else message(detail)
        for detail in error.errors(include_url=False)
    )
    return list(dict.fromkeys(lines))


def place(detail: ErrorDetails, value: Any) -> tuple[str | int, ...]:
    """Return where a problem stands in the value as it was given.

    pydantic's own place also holds words for the branches it took, and for what was rewritten on the way in.
    """
    path: list[str | int] = []
    last = len(detail["loc"]) - 1
    missing = message(detail).startswith("is missing")
    for index, step in enumerate(detail["loc"]):
        if (isinstance(value, Mapping) and step in value) or (
            isinstance(value, list | tuple) and isinstance(step, int) and step < len(value)
        ):
            path.append(step)
            value = value[step]  # type: ignore[index]
        elif index == last and missing:
            path.append(step)
        elif hasattr(type(value), "model_fields") and step in user_names(type(value)):
            path.append(step)
            value = getattr(value, user_names(type(value))[str(step)])
    return tuple(path)


def path_text(path: Iterable[str | int], where: str = "") -> str:
    """Return a place as a message names it.

    >>> path_text(["accuracy", 0, "variants"])
    'accuracy[0].variants'
    """
    text = where
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step[:_LONGEST_SHOWN]}" if text else step[:_LONGEST_SHOWN]
    return text
