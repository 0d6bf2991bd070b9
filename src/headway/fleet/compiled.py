"""Policies for kernels: compiled together, so that those that call each other do so compiled too."""

from __future__ import annotations

import sys
from functools import cache
from types import FunctionType, ModuleType, SimpleNamespace

from headway.sim.jit import borrowing, enabled


@cache
def policies(module: ModuleType) -> SimpleNamespace:
    """Return the functions of a policy module by name, compiled; what they call of other policy modules is too.

    numba cannot call a plain function: here each sees the compiled ones in the place of its module's names. The plain
    functions stay as they are, for the server and for tests.

    >>> from headway.policy import batching
    >>> int(policies(batching).take(3, 1.0, 1.0, 8, 0.0)[0])
    3
    """
    scope = dict(vars(module))
    found = SimpleNamespace()
    for name, value in vars(module).items():
        if not isinstance(value, FunctionType) or not value.__module__.startswith("headway.policy."):
            continue
        if not enabled():
            compiled = value
        elif value.__module__ == module.__name__:
            compiled = borrowing(FunctionType(value.__code__, scope, name, value.__defaults__, value.__closure__))
        else:
            compiled = getattr(policies(sys.modules[value.__module__]), name)
        scope[name] = compiled
        setattr(found, name, compiled)
    return found
