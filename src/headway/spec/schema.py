"""The spec's JSON Schema, with which editors complete and check a file while it is written."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from headway.spec.kinds import domain_names, load_domain
from headway.spec.model import Spec, Stage

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE = "#/$defs/{model}"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a spec, with the stages of every installed domain.

    What it accepts, `load` may still refuse: names that must exist and cycles are beyond a schema.

    >>> json_schema()["properties"]["slo"]["$ref"]
    '#/$defs/Slo'
    """
    schema = _schema_of(Spec)
    definitions: dict[str, Any] = schema.pop("$defs")
    declarations = {kind: load_domain(kind).declaration for kind in domain_names()}
    for kind, declaration in declarations.items():
        own = _schema_of(declaration)
        definitions |= own.pop("$defs", {})
        definitions[_definition(kind)] = own
    definitions["Stage"] = _stage_by_kind(tuple(declarations))
    schema["properties"]["kind"] = {**schema["properties"]["kind"], "enum": list(declarations)}
    schema["properties"]["kind"].pop("const", None)
    return {"$schema": _DIALECT, "title": "Headway spec", **_with_short_form(schema), "$defs": definitions}


def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(mode="validation", by_alias=True, ref_template=_REFERENCE)
    _tidy(schema)
    return schema


def _tidy(schema: Any) -> None:
    """Generated titles only repeat the names, and bounds on numbers say nothing of the texts that stand for them."""
    if isinstance(schema, list):
        for part in schema:
            _tidy(part)
    elif isinstance(schema, dict):
        if isinstance(schema.get("title"), str):
            del schema["title"]
        if isinstance(schema.get("description"), str):
            # Beside a model's text stand its runnable examples, which are for readers of the code.
            schema["description"] = " ".join(schema["description"].partition(">>>")[0].split())
        if "patternProperties" in schema:
            schema["additionalProperties"] = False
        if schema.get("type") == "string":
            for bound in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
                schema.pop(bound, None)
        for part in schema.values():
            _tidy(part)


def _definition(kind: str) -> str:
    return f"Stage-{kind}"


def _stage_by_kind(kinds: tuple[str, ...]) -> dict[str, Any]:
    """A stage is read by the declaration of its kind; one that says nothing is a pipeline's, and may be empty."""
    branches = [
        {
            "if": {"properties": {"kind": {"const": kind}}, **({} if kind == "pipeline" else {"required": ["kind"]})},
            "then": {"$ref": _REFERENCE.format(model=_definition(kind))},
        }
        for kind in kinds
    ]
    description = " ".join((Stage.__doc__ or "").split())
    stage = {"properties": {"kind": {"enum": list(kinds)}}, "allOf": branches}
    return {"description": description, "if": {"type": "object"}, "then": stage, "else": {"type": "null"}}


def _with_short_form(schema: dict[str, Any]) -> dict[str, Any]:
    """A top-level kind other than `pipeline` stands for one stage of that kind, whose fields are at the top."""
    closed = schema.pop("additionalProperties", False)
    required = schema.pop("required")
    names = dict.fromkeys(schema["properties"], True)
    return {
        **schema,
        "required": [name for name in required if name != "stages"],
        "if": {"properties": {"kind": {"const": "pipeline"}}},
        "then": {"properties": names, "required": ["stages"], "additionalProperties": closed},
    }
