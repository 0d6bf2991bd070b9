"""What `headway tune` and `headway serve --tune` share: which tuner runs, what it knows, and where it writes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from headway.cli.frame import read_plan, read_trace, target
from headway.errors import HeadwayError


class TunerName(StrEnum):
    """Who decides."""

    HEADWAY = "headway"
    INFERLINE = "inferline"
    AUTOSCALE = "autoscale"
    DS2 = "ds2"
    THRESHOLD = "threshold"
    NONE = "none"


WhichTuner = Annotated[
    TunerName, typer.Option("--tuner", envvar="HEADWAY_TUNER", help="headway, or a published one to compare with.")
]
PlannedOn = Annotated[
    Path | None,
    typer.Option("--planned-on", help="The trace that the plan was made from: then noise is told by it."),
]
GearsFile = Annotated[
    Path | None,
    typer.Option(
        "--gears",
        metavar="FILE",
        help="Plans for more traffic to change to, batch sizes included; made from --planned-on when the file is new.",
    ),
]
JournalFile = Annotated[
    Path | None, typer.Option("--journal", help="Append every decision to this file: what, why, what came of it.")
]


def refuse_useless_gears(verb: str, tuner: TunerName, gears: Path | None) -> None:
    """Refuse gears for a tuner that would never change to one. Raises HeadwayError."""
    if gears is not None and tuner is not TunerName.HEADWAY:
        raise HeadwayError(f"{verb}: the tuner {tuner.value!r} has no use for gears; leave --gears or --tuner away")


def check_tuner(
    plan: Path, tuner: TunerName, planned_on: Path | None, gears: Path | None, journal: Path | None, seed: int
) -> None:
    """Refuse what a tuner that runs beside a server would end with an error for. Raises HeadwayError.

    A trace on standard input is left to the tuner, which can read it only once.
    """
    from headway.tune.gears import prepared, refuse_gears
    from headway.tune.journal import Journal
    from headway.tune.terms import terms

    refuse_useless_gears("serve", tuner, gears)
    read, on_stdin = read_plan(plan), str(planned_on) == "-"
    trace = None if planned_on is None or on_stdin else read_trace(planned_on, seed)
    if gears is not None:
        if gears.exists() or planned_on is None:
            prepared(gears, read, trace)
        refuse_gears(read)
        target(gears, "the gears")
    if not on_stdin:
        terms(read, trace)
    if journal is not None:
        with Journal(journal):
            pass
