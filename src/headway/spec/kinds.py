"""Which declaration a stage's `kind` stands for. Built-in domains come through the same door as third parties'."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from functools import cache
from typing import Any

from headway.errors import SpecError, nearest
from headway.spec.wording import line_error, shown, validation_error

GROUP = "headway.domains"


def domain_names() -> tuple[str, ...]:
    """Return the names of all installed domains, sorted.

    >>> "pipeline" in domain_names()
    True
    """
    return tuple(sorted({"pipeline", *(entry.name for entry in importlib.metadata.entry_points(group=GROUP))}))


@cache
def load_domain(kind: str) -> Any:
    """Return the domain object registered under `kind` in the entry-point group `headway.domains`.

    Looked for once: that reads what every installed package registers, and what is loaded stays so, as modules do.
    Raises SpecError when no installed package offers it, or the package that does cannot be imported.

    >>> load_domain("pipeline").kind
    'pipeline'
    """
    if kind == "pipeline":
        from headway.domains.pipeline import DOMAIN

        return DOMAIN
    for entry in importlib.metadata.entry_points(group=GROUP, name=kind):
        try:
            return entry.load()
        except (ImportError, AttributeError) as error:
            raise SpecError(f"kind {kind!r} cannot be loaded from {entry.value}: {error}; mend its package") from error
    known = domain_names()
    raise SpecError(f"{kind!r} is not an installed domain; installed: {', '.join(known)}{nearest(kind, known)}")


def parse_stage(value: Any) -> Any:
    """Return the stage that `value` declares, read by the model that its `kind` brings.

    Raises pydantic.ValidationError whose places are relative to `value`.
    """
    if value is None:
        value = {}
    kind = value.get("kind", "pipeline") if isinstance(value, Mapping) else "pipeline"
    if not isinstance(kind, str):
        raise validation_error("Stage", [line_error(["kind"], f"{shown(kind)} is not a domain's name", kind)])
    try:
        declaration = load_domain(kind).declaration
    except SpecError as error:
        raise validation_error("Stage", [line_error(["kind"], str(error), kind)]) from None
    return declaration.model_validate(value)
