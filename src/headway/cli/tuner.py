"""What `headway tune` and `headway serve --tune` share: which tuner runs, what it knows, and where it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headway.cli.frame import read_plan, read_trace, target
from headway.errors import HeadwayError

OWN = "headway"
"""Who decides unless told otherwise."""


def _named(text: str) -> str:
    """Return a tuner as it is written, once it is known to be one."""
    from headway.policy.tuners import written

    try:
        written(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return text


WhichTuner = Annotated[
    str,
    typer.Option(
        "--tuner",
        envvar="HEADWAY_TUNER",
        parser=_named,
        metavar="NAME[,WHAT=VALUE]...",
        help="headway, or a published one to compare with: inferline, autoscale, ds2, threshold, none.",
    ),
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


def refuse_useless_gears(verb: str, tuner: str, gears: Path | None) -> None:
    """Refuse gears for a tuner that would never change to one. Raises HeadwayError."""
    name = tuner.partition(",")[0]
    if gears is not None and name != OWN:
        raise HeadwayError(f"{verb}: the tuner {name!r} has no use for gears; leave --gears or --tuner away")


def check_tuner(
    plan: Path, tuner: str, planned_on: Path | None, gears: Path | None, journal: Path | None, seed: int
) -> None:
    """Refuse what a tuner that runs beside a server would end with an error for. Raises HeadwayError.

    A trace on standard input is left to the tuner, which can read it only once.
    """
    from headway.tune.advise import named
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
        named(tuner, terms(read, trace))
    if journal is not None:
        with Journal(journal):
            pass
