"""Where a prediction's error comes from: the service times that it rests on, or the queueing that it adds to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from headway.plan.plan import Plan
from headway.profile import Profile, Row
from headway.sim.outcome import Outcome
from headway.sim.simulation import simulate
from headway.trace import Trace

RUNS = 11


def typical(plan: Plan, trace: Trace, seed: int) -> Outcome:
    """Return the middle one, by its P95, of several simulations with service times drawn anew.

    With few requests a single one may lie at the edge of what is to be expected.
    """
    runs = [simulate(plan, trace, seed=seed + run) for run in range(RUNS)]
    return sorted(runs, key=lambda outcome: outcome.p(95))[RUNS // 2]


def slowdowns(predicted: Outcome, measured: Outcome) -> dict[str, float]:
    """Return by stage how much longer a batch took than the profile said, as a ratio; stages without a batch are 1.

    >>> from headway.testing.examples import tiny_plan
    >>> from headway.sim import simulate
    >>> from headway.trace import Trace
    >>> outcome = simulate(tiny_plan(), Trace.poisson(rate=5, seconds=20, seed=1))
    >>> set(slowdowns(outcome, outcome).values())
    {1.0}
    """
    found = {}
    for name, stage in predicted.stages.items():
        seen = measured.stages.get(name)
        known = seen is not None and seen.batches and stage.batches and stage.service_s
        found[name] = (seen.service_s / seen.batches) / (stage.service_s / stage.batches) if known and seen else 1.0
    return found


def with_slowdowns(plan: Plan, ratio: dict[str, float]) -> Plan:
    """Return the plan on a profile whose service times are longer by a ratio per stage."""
    profile = plan.profile
    rows = [_longer(row, ratio.get(row.stage, 1.0)) for row in profile.rows]
    return replace(plan, profile=Profile.from_rows(rows, profile.visits, profile.stamp, profile.overheads))


def _longer(row: Row, ratio: float) -> Row:
    changes: dict[str, Any] = {
        name: value * ratio
        for name in ("mean_s", "p50_s", "p95_s", "p99_s")
        if (value := getattr(row, name)) is not None
    }
    return replace(row, **changes)
