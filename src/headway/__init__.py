"""Headway plans, serves and tunes inference and data pipelines.

`import headway as hw` costs next to nothing: every public name is imported when it is first used.

>>> import headway as hw
>>> hw.Trace.poisson(rate=10.0, seconds=60.0, seed=1).duration_s
60.0
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headway.api import calibrate as calibrate
    from headway.api import compare as compare
    from headway.api import diff as diff
    from headway.api import load as load
    from headway.api import plan as plan
    from headway.api import profile as profile
    from headway.api import replay as replay
    from headway.api import serve as serve
    from headway.api import simulate as simulate
    from headway.errors import HeadwayError as HeadwayError
    from headway.plan.infeasible import Infeasible as Infeasible
    from headway.plan.plan import Plan as Plan
    from headway.profile import Profile as Profile
    from headway.sim.outcome import Outcome as Outcome
    from headway.spec.model import Slo as Slo
    from headway.spec.model import Spec as Spec
    from headway.spec.model import Stage as Stage
    from headway.trace import Trace as Trace

    __version__: str

_HOME = {
    **dict.fromkeys(("calibrate", "compare", "diff", "load", "replay", "simulate"), "headway.api"),
    "HeadwayError": "headway.errors",
    "Infeasible": "headway.plan.infeasible",
    "Outcome": "headway.sim.outcome",
    "Plan": "headway.plan.plan",
    "Profile": "headway.profile",
    "Slo": "headway.spec.model",
    "Spec": "headway.spec.model",
    "Stage": "headway.spec.model",
    "Trace": "headway.trace",
}
_VERB_PACKAGES = frozenset({"plan", "profile", "serve"})

__all__ = [
    "HeadwayError",
    "Infeasible",
    "Outcome",
    "Plan",
    "Profile",
    "Slo",
    "Spec",
    "Stage",
    "Trace",
    "calibrate",
    "compare",
    "diff",
    "load",
    "plan",
    "profile",
    "replay",
    "serve",
    "simulate",
]


class _VerbPackage(ModuleType):
    """A package that can be called as the verb it is named after: `headway.plan(...)`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        verb = getattr(importlib.import_module("headway.api"), self.__name__.rpartition(".")[2])
        return verb(*args, **kwargs)


class _Front(ModuleType):
    """This package's own type. Importing a subpackage sets it as an attribute here; three of them are verbs as well."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _VERB_PACKAGES and type(value) is ModuleType:
            value.__class__ = _VerbPackage
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Front


def __getattr__(name: str) -> Any:
    if name in _VERB_PACKAGES:
        return importlib.import_module(f"headway.{name}")
    if name == "__version__":
        value: Any = importlib.import_module("importlib.metadata").version("headway")
    elif name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'headway' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
