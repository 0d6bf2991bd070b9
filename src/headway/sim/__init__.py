"""What would happen: the feed-forward recursion, the event kernel, and the outcome computed from either."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headway.sim.outcome import Outcome as Outcome
    from headway.sim.simulation import compare as compare
    from headway.sim.simulation import interval as interval
    from headway.sim.simulation import simulate as simulate

_HOME = {"Outcome": "outcome", "compare": "simulation", "interval": "simulation", "simulate": "simulation"}
__all__ = ["Outcome", "compare", "interval", "simulate"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
