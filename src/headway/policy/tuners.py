"""All tuners by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headway.policy.scaling import Terms, Tuner
from headway.policy.scaling_baselines import AutoScale, Ds2, Nothing, Threshold
from headway.policy.scaling_headway import Headway
from headway.policy.scaling_inferline import InferLine

TUNERS: dict[str, Callable[..., Tuner]] = {
    "headway": Headway,
    "inferline": InferLine,
    "autoscale": AutoScale,
    "ds2": Ds2,
    "threshold": Threshold,
    "none": Nothing,
}
"""From a name to what makes the tuner of that name from `Terms` and its own parameters."""


def tuner(name: str, terms: Terms, **parameters: Any) -> Tuner:
    """Return a tuner by name. Raises ValueError for a name that is not known, TypeError for a parameter that is not.

    >>> from headway.testing.scaling import example_terms
    >>> tuner("autoscale", example_terms(), wait_s=60.0).name
    'autoscale'
    """
    if name not in TUNERS:
        raise ValueError(f"tuner is {name!r}; valid: {', '.join(TUNERS)}")
    return TUNERS[name](terms, **parameters)
