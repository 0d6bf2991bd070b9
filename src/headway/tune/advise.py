"""What a tuner would do with a plan under a trace, beside the plan left alone, as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from headway.errors import HeadwayError, nearest
from headway.plan.make import Progress
from headway.plan.plan import Plan
from headway.policy.scaling import Gear, Terms, Tuner
from headway.policy.tuners import TUNERS, written
from headway.trace import Trace
from headway.tune.gears import to_dicts
from headway.tune.journal import Journal
from headway.tune.simulated import simulate_tuner
from headway.tune.terms import terms

SCHEMA = "headway.tuning/1"


def named(text: str, about: Terms) -> Tuner:
    """Return a tuner by its name, or by `NAME[,WHAT=VALUE...]`. Raises HeadwayError, with the nearest valid name.

    >>> from headway.testing.scaling import example_terms
    >>> named("ds2,pause_s=5", example_terms()).name
    'ds2'
    """
    name = text.partition(",")[0]
    if name not in TUNERS:
        raise HeadwayError(f"tuner is {name!r}{nearest(name, TUNERS)}; valid: {', '.join(TUNERS)}")
    try:
        name, parameters = written(text)
        return TUNERS[name](about, **parameters)
    except ValueError as error:
        raise HeadwayError(str(error)) from None


def advise(
    plan: Plan,
    trace: Trace,
    *,
    planned_on: Trace | None = None,
    name: str = "headway",
    gears: Sequence[Gear] = (),
    seed: int = 0,
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the decisions that a tuner would take, and the outcomes with and without it. Raises HeadwayError.

    `planned_on` is the trace that the plan was made from; `gears` are plans for multiples of it to change to; `name` is
    a tuner's, with its parameters where it has any (`named`).
    """
    tell = progress or (lambda _: None)
    about = replace(terms(plan, planned_on), gears=tuple(gears))
    chosen = named(name, about)
    head = {"tuner": name, "plan_hash": plan.hash, "trace_hash": trace.hash, "seed": seed}
    if journal is not None:
        journal.started({**head, "simulated": True})
    tell("simulating the plan left alone")
    alone = simulate_tuner(plan, trace, TUNERS["none"](about), about, seed=seed)
    tell(f"simulating the tuner {name}")
    tuned = simulate_tuner(plan, trace, chosen, about, seed=seed, listener=journal)
    return {
        "schema": SCHEMA,
        **head,
        "gears": to_dicts(gears),
        "decisions": [entry.to_dict() for entry in tuned.entries],
        "with": tuned.outcome.to_dict(),
        "without": alone.outcome.to_dict(),
    }
