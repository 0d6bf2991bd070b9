"""The reference says what the models say, and its examples work."""

import re
from pathlib import Path

import pytest

from headway.spec import loads
from headway.spec.reference import filled, models

PAGE = Path(__file__).parent.parent.parent / "docs" / "spec.md"
TEXT = PAGE.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_tables_are_those_of_the_models() -> None:
    assert filled(TEXT) == TEXT, "run `python -m headway.spec.reference docs/spec.md`"
    assert set(re.findall(r"<!-- fields: (\w+) -->", TEXT)) == set(models())


@pytest.mark.parametrize("model", models().values(), ids=models())
def test_every_field_is_described_with_an_example(model: type) -> None:
    for name, field in model.model_fields.items():  # type: ignore[attr-defined]
        assert field.description, name
        assert field.description.endswith("."), name
        assert field.examples or name == "kind", name


def test_examples_are_valid_specs() -> None:
    whole, least, *rest = [loads(block) for block in blocks("yaml")]
    assert whole.graph.order == ("detect", "orient", "photo", "recognize", "assemble")
    assert list(least.stages) == ["detect"]
    assert rest


def test_the_complete_example_shows_every_field() -> None:
    shown = set(re.findall(r"[\w-]+(?=:)", blocks("yaml")[0]))
    fields = {field.alias or name for model in models().values() for name, field in model.model_fields.items()}
    # `kind` has only one value in a file of this domain.
    assert fields - shown == {"kind"}


def test_python_examples_run() -> None:
    for block in blocks("python"):
        exec(compile(block, str(PAGE), "exec"), {})
