"""What `headway tune` and `headway serve --tune` share: which tuner runs, what it knows, and where it writes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


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
