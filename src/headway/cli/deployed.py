"""What runs: a plan, or a spec that says it without one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headway.cli.frame import read_plan, read_profile, read_spec
from headway.cli.plans import SPECS

if TYPE_CHECKING:
    from headway.plan.plan import Plan

DeployedArgument = Annotated[
    Path,
    typer.Argument(metavar="PLAN", help="A plan: JSON that `headway plan` wrote; or a spec that says what runs."),
]


def read_deployed(path: Path, profile: Path | None = None) -> Plan:
    """Read a plan, or a spec that says what runs: under `current:`, or by the engines that a lone fleet names."""
    if path.suffix not in SPECS:
        return read_plan(path)
    from headway.domains.fleet.deployed import deployed

    spec = read_spec(path)
    return deployed(spec, None if profile is None else read_profile(profile, spec))
