"""The JSON Schema says what the models say, in words that editors understand."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from headway.spec import json_schema
from headway.spec.reference import models
from headway.spec.units import duration_s, price_usd_per_hour, share

SCHEMA = json_schema()
DEFINITIONS = SCHEMA["$defs"]
STAGE = DEFINITIONS["Stage-pipeline"]


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(part)


def test_it_is_json_and_the_same_every_time() -> None:
    assert json.dumps(json_schema()) == json.dumps(SCHEMA)
    assert SCHEMA["$schema"].endswith("2020-12/schema")


def test_every_reference_leads_somewhere() -> None:
    references = {node["$ref"] for node in nodes(SCHEMA) if isinstance(node.get("$ref"), str)}
    assert references
    assert {reference.rpartition("/")[2] for reference in references} <= set(DEFINITIONS)


def test_every_field_is_there_under_the_name_that_a_user_writes() -> None:
    homes = {"Spec": SCHEMA, "ModelStage": STAGE, "ConfigText": None}
    for name, model in models().items():
        schema = homes.get(name, DEFINITIONS.get(name))
        if schema is not None:
            assert set(schema["properties"]) == {f.alias or n for n, f in model.model_fields.items()}
            assert all(part.get("description") for part in schema["properties"].values())


def test_unknown_fields_and_bad_names_are_refused() -> None:
    assert all(DEFINITIONS[name]["additionalProperties"] is False for name in ("Slo", "Hardware", "Stage-pipeline"))
    assert SCHEMA["then"]["additionalProperties"] is False
    for name in ("supply", "pools", "stages"):
        part = SCHEMA["properties"][name]
        assert part["additionalProperties"] is False
        (pattern,) = part["patternProperties"]
        assert re.search(pattern, "gpu-a")
        assert not re.search(pattern, "8-bit")


def test_kind_chooses_the_declaration_and_an_empty_stage_is_one() -> None:
    stage = DEFINITIONS["Stage"]
    assert stage["else"] == {"type": "null"}
    (branch,) = [b for b in stage["then"]["allOf"] if b["then"]["$ref"].endswith("Stage-pipeline")]
    assert "required" not in branch["if"]
    assert "pipeline" in stage["then"]["properties"]["kind"]["enum"]


@pytest.mark.parametrize(
    ("schema", "read", "good", "bad"),
    [
        (DEFINITIONS["Slo"]["properties"]["latency"], duration_s, ["300ms", "1.5h", ".5 s"], ["300", "-1s", "1y"]),
        (DEFINITIONS["Hardware"]["properties"]["price"], price_usd_per_hour, ["$0.20/h", "$1 / s"], ["0.2", "$1"]),
        (STAGE["properties"]["probability"]["anyOf"][1], share, ["60%", "0.5 %"], ["60", "x%", "-1%"]),
    ],
)
def test_patterns_take_what_the_units_take(schema: Any, read: Any, good: list[str], bad: list[str]) -> None:
    assert schema["type"] == "string"
    assert not {"minimum", "exclusiveMinimum"} & set(schema)
    for text in good:
        assert re.search(schema["pattern"], text)
        assert read(text) >= 0
    for text in bad:
        assert not re.search(schema["pattern"], text)
        with pytest.raises(ValueError, match="; write"):
            read(text)
