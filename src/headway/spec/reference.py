"""The tables of every field in `docs/spec.md`, written from the models so that they cannot drift.

`python -m headway.spec.reference docs/spec.md` rewrites them in place.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from headway.files import write_atomic
from headway.spec.model import Edge, Hardware, MeasuredAccuracy, Pool, Slo, Spec, Variant
from headway.spec.units import duration_text
from headway.spec.wording import inline

_MARKED = re.compile(r"(<!-- fields: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def models() -> dict[str, type[BaseModel]]:
    """Return the models whose fields the reference lists, by the word that marks their table."""
    from headway.domains.pipeline.declare import ConfigText, ModelStage

    listed: list[type[BaseModel]] = [Spec, Slo, Hardware, Pool, ModelStage, Edge, Variant, MeasuredAccuracy, ConfigText]
    return {model.__name__: model for model in listed}


def field_table(model: type[BaseModel]) -> str:
    """Return a Markdown table of a model's fields as a user writes them.

    >>> field_table(Pool).splitlines()[2]
    '| `cores` | required | `4` | How many cores the pool has. |'
    """
    lines = ["| field | default | example | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        examples = ", ".join(f"`{inline(example)}`" for example in field.examples or [])
        cells = (f"`{field.alias or name}`", _default(name, field), examples, field.description or "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _default(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value in ({}, []):
        return ""
    number = isinstance(value, float)
    return f"`{duration_text(value) if number and name.endswith('_s') else f'{value:g}' if number else inline(value)}`"


def filled(text: str) -> str:
    """Return a page with every table between `<!-- fields: MODEL -->` and `<!-- end -->` written anew.

    >>> filled("<!-- fields: Pool -->\\n<!-- end -->").count("cores")
    2
    """
    known = models()
    return _MARKED.sub(lambda match: match[1] + field_table(known[match[2]]) + match[3], text)


if __name__ == "__main__":
    page = Path(sys.argv[1])
    write_atomic(page, filled(page.read_text(encoding="utf-8")))
