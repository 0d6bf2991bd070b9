"""`headway calibrate`: how far predictions are from a live server, and a profile that brings them closer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from headway.cli.frame import (
    Json,
    PlanArgument,
    Seed,
    TraceFile,
    Verb,
    emit,
    read_plan,
    read_profile,
    read_trace,
    target,
)
from headway.cli.live import Token, model_folder
from headway.cli.progress import Progress


def calibrate(
    plan: PlanArgument,
    trace: TraceFile,
    url: Annotated[
        str | None, typer.Option("--url", envvar="HEADWAY_URL", help="Where the plan is served; else it is, meanwhile.")
    ] = None,
    payloads: Annotated[
        Path | None, typer.Option("--payloads", help="What to send: a folder of files, a JSONL file, or one file.")
    ] = None,
    test: Annotated[
        Path | None, typer.Option("--test", metavar="TRACE", help="Judge the fit by another trace, replayed after it.")
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            "--profile", envvar="HEADWAY_PROFILE", help="Put the fit into this profile; else into the plan's own rows."
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Of the model files; else the working folder, else the plan's.")
    ] = None,
    token: Token = None,
    seed: Seed = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the fitted profile: a CSV, and a JSON beside it.")
    ] = None,
    json: Json = False,
) -> None:
    """Replay a trace live and simulated, and fit the difference.

    Prints the errors of latency percentiles and misses, whole and by stage, before and after the fit. What serving adds
    per batch and per request goes into the profile, so that later predictions include it; rows that no longer hold are
    replaced by what was observed.
    """
    from headway.profile.beside import place_beside
    from headway.report.calibration import calibration_view
    from headway.serve.calibrate import calibrate
    from headway.serve.payloads import read_payloads

    read, requests = read_plan(plan), read_trace(trace, seed)
    others = None if test is None else read_trace(test, seed)
    rows = None if profile is None else read_profile(profile)
    sent = None if payloads is None else read_payloads(payloads)
    written_to = target(output, "the fitted profile")
    if written_to is not None:
        place_beside(written_to)
    os.chdir(folder or model_folder(read, plan.parent))
    with Progress("calibrate") as progress:
        found = calibrate(
            read, requests, url=url, payloads=sent, token=token, test=others, profile=rows, seed=seed,
            progress=progress.step,
        )  # fmt: skip
    if written_to is not None:
        found.profile.write(written_to)
    emit(found.to_dict(), json, lambda: calibration_view(found.to_dict()))


VERBS = (
    Verb(
        calibrate,
        (
            "headway calibrate plan.json --trace requests.csv --profile profile.csv -o calibrated.csv",
            "headway calibrate plan.json --trace monday.csv --test tuesday.csv --url http://127.0.0.1:8000",
        ),
    ),
)
