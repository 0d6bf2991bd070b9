"""What a report tells: a plan, what it was weighed against, and what became of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.errors import HeadwayError
from headway.plan.plan import Plan
from headway.profile import Profile
from headway.report.timeline import Timeline
from headway.sim.outcome import SCHEMA, Outcome
from headway.trace.trace import Trace

Told = Outcome | Mapping[str, Any]


@dataclass(frozen=True)
class Story:
    """Everything a report shows. Only the title and the plan are needed; what is missing is left out of the report.

    `plan` is the plan that was simulated and measured; `production_plan` is the same pipeline planned for a larger
    load, and then leads the report. `baselines` are (name, {cost_usd_per_hour, miss_rate, p99_s, feasible, note}),
    what the leading plan is compared with. `predicted` and `measured` are outcomes of `plan` on `trace`, whole or as
    their JSON; `interval` is the simulator's own interval of a percentile: `{"p50_s": (low, high), ...}` in seconds.
    `timeline` is how a cascade went as it was measured.

    >>> from headway.testing.examples import tiny_plan
    >>> Story("One plan", tiny_plan()).leading.spec.name
    'tiny'
    """

    title: str
    plan: Plan
    production_plan: Plan | None = None
    baselines: Sequence[tuple[str, Mapping[str, Any]]] = ()
    predicted: Told | None = None
    measured: Told | None = None
    interval: Mapping[str, Any] | None = None
    trace: Trace | None = None
    profile: Profile | None = None
    timeline: Timeline | None = None
    notes: Sequence[str] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def leading(self) -> Plan:
        """The plan that the headline is about."""
        return self.production_plan or self.plan


def latencies(outcome: Told | None) -> NDArray[np.float64] | None:
    """Return all latencies in seconds, sorted, or None when only a summary is at hand.

    >>> latencies({"p50_s": 0.1}) is None
    True
    """
    return np.sort(outcome.latency_s) if isinstance(outcome, Outcome) and outcome.requests else None


def story_from_files(
    plan_path: str | os.PathLike[str], outcomes: Sequence[str | os.PathLike[str]] = (), title: str | None = None
) -> Story:
    """Return the story of a plan's JSON and of outcome JSONs, at most one simulated and one measured.

    Raises HeadwayError when a file cannot be read, is something else, or a second one of its kind.
    """
    plan = Plan.read(plan_path)
    found: dict[str, Mapping[str, Any]] = {}
    for path in outcomes:
        value = read_outcome(Path(path))
        part = "predicted" if value.get("kind", "simulated") == "simulated" else "measured"
        if part in found:
            raise HeadwayError(f"{path}: a second {part} outcome; give at most one simulated and one measured outcome")
        found[part] = value
    return Story(
        title=title or plan.spec.name,
        plan=plan,
        predicted=found.get("predicted"),
        measured=found.get("measured"),
        profile=plan.profile,
    )


def read_outcome(path: Path) -> Mapping[str, Any]:
    """Return an outcome's JSON values. Raises HeadwayError when the file cannot be read or is something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HeadwayError(f"{path}: cannot read the outcome: {error.strerror}") from None
    except UnicodeDecodeError:
        raise HeadwayError(f"{path}: not an outcome's JSON: it is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise HeadwayError(f"{path}:{error.lineno}: not an outcome's JSON: {error.msg}") from None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        found = value.get("schema") if isinstance(value, dict) else type(value).__name__
        raise HeadwayError(f"{path}: schema is {found!r}; this version reads {SCHEMA!r}")
    return value
