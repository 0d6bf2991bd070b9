"""Cascades: cheap steps answer what they are certain of, dear ones the rest, and the loss in accuracy is bounded.

Importing this imports nothing but itself; each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headway.cascade.adapt import Parts as Parts
    from headway.cascade.cache import Cache as Cache
    from headway.cascade.calibrate import calibrated as calibrated
    from headway.cascade.features import Feature as Feature
    from headway.cascade.features import Features as Features
    from headway.cascade.fit import fit_cascade as fit_cascade
    from headway.cascade.guarantee import Certificate as Certificate
    from headway.cascade.guarantee import certify as certify
    from headway.cascade.guarantee import samples_needed as samples_needed
    from headway.cascade.join import Join as Join
    from headway.cascade.join import aggregated as aggregated
    from headway.cascade.lookup import Lookup as Lookup
    from headway.cascade.model import Cascade as Cascade
    from headway.cascade.model import Step as Step
    from headway.cascade.paired import loss_bound as loss_bound
    from headway.cascade.run import FittedCascade as FittedCascade
    from headway.cascade.search import Judged as Judged
    from headway.cascade.search import judge as judge
    from headway.cascade.table import ValidationTable as ValidationTable
    from headway.cascade.topk import fit_top_k as fit_top_k

_HOME = {
    "Cache": "cache",
    "Cascade": "model",
    "Certificate": "guarantee",
    "Feature": "features",
    "Features": "features",
    "FittedCascade": "run",
    "Join": "join",
    "Judged": "search",
    "Lookup": "lookup",
    "Parts": "adapt",
    "Step": "model",
    "ValidationTable": "table",
    "aggregated": "join",
    "calibrated": "calibrate",
    "certify": "guarantee",
    "fit_cascade": "fit",
    "fit_top_k": "topk",
    "judge": "search",
    "loss_bound": "paired",
    "samples_needed": "guarantee",
}
__all__ = ["Cascade", "Certificate", "Judged", "Step", "ValidationTable", "certify", "judge", "loss_bound"]
__all__ += [
    "Cache",
    "Feature",
    "Features",
    "FittedCascade",
    "Join",
    "Lookup",
    "Parts",
    "aggregated",
    "calibrated",
    "fit_cascade",
    "fit_top_k",
    "samples_needed",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
