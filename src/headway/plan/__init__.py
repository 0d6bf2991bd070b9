"""Which configuration: the plan, the planners that find it, and what they have to say about it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headway.plan.difference import current_plan as current_plan
    from headway.plan.difference import diff as diff
    from headway.plan.infeasible import Infeasible as Infeasible
    from headway.plan.make import baselines as baselines
    from headway.plan.plan import Plan as Plan
    from headway.plan.plan import Reason as Reason

_HOME = {
    "Infeasible": "infeasible",
    "Plan": "plan",
    "Reason": "plan",
    "current_plan": "difference",
    "diff": "difference",
}
__all__ = ["Infeasible", "Plan", "Reason", "baselines", "current_plan", "diff"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOME[name]}")
    value = getattr(module, name)
    globals()[name] = value
    return value
