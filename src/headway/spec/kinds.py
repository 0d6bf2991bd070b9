"""Which declaration a stage's `kind` stands for. Built-in domains come through the same door as third parties'."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from headway.errors import SpecError, nearest

GROUP = "headway.domains"


def domain_names() -> tuple[str, ...]:
    """Return the names of all installed domains, sorted."""
    return tuple(sorted({entry.name for entry in importlib.metadata.entry_points(group=GROUP)}))


def load_domain(kind: str) -> Any:
    """Return the domain object registered under `kind` in the entry-point group `headway.domains`.

    Raises SpecError when no installed package offers it.

    >>> load_domain("pipeline").kind
    'pipeline'
    """
    if kind == "pipeline":
        from headway.domains.pipeline import DOMAIN

        return DOMAIN
    for entry in importlib.metadata.entry_points(group=GROUP, name=kind):
        return entry.load()
    known = domain_names()
    raise SpecError(f"kind {kind!r} is not an installed domain{nearest(kind, known)}; installed: {', '.join(known)}")


def parse_stage(value: Any) -> Any:
    """Return the stage that `value` declares, read by the model that its `kind` brings."""
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        return value
    kind = value.get("kind", "pipeline")
    try:
        declaration = load_domain(kind).declaration
    except SpecError as error:
        raise ValueError(str(error)) from None
    return declaration.model_validate(value)
