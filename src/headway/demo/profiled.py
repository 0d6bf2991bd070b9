"""The profile that a demo rests on: its stages measured, with the progress shown."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from headway.errors import HeadwayError
from headway.profile.measure import Progress, measure

if TYPE_CHECKING:
    from headway.demo.show import Step
    from headway.profile import Profile
    from headway.serve.wire import Payload
    from headway.spec.model import Spec


def profiled(
    step: Step,
    spec: Spec,
    samples: Sequence[Payload],
    *,
    budget_s: float,
    date: str,
    seed: int,
    batch_sizes: Sequence[int] | None = None,
) -> Profile:
    """Return the measured profile of a spec's stages. Raises HeadwayError when one of them fails.

    What models print is left out: it would stand across the progress.
    """
    profile = measure(
        spec, samples, batch_sizes=batch_sizes, budget_s=budget_s, date=date, seed=seed,
        progress=partial(shown, step), log=lambda line: None,
    )  # fmt: skip
    problems = [p for p in profile.stamp.get("problems", ()) if p["status"] == "failed"]
    if problems:
        raise HeadwayError(f"demo: a stage could not be measured: {problems[0]['text']}")
    return profile


def shown(step: Step, state: Progress) -> None:
    """Show in a step how far a measurement is."""
    step.show(state.done, state.total, state.text)
