"""Cascades of models: devices that hold several, one queue for each model, and a gear for every range of load.

Importing this imports nothing but itself, so that the worker of a model does not bring what declares and plans it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headway.domains.cascade.domain import DOMAIN as DOMAIN
    from headway.domains.cascade.domain import CascadeDomain as CascadeDomain

__all__ = ["DOMAIN", "CascadeDomain"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.domain"), name)
    globals()[name] = value
    return value
