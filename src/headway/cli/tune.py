"""`headway tune`: what a tuner would do with a plan as traffic shifts, and what would come of it."""

from __future__ import annotations

from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headway.cli.frame import (
    Format,
    Json,
    PlanArgument,
    Seed,
    SkipBad,
    Verb,
    emit,
    read_plan,
    read_trace,
    say,
)
from headway.cli.live import Token
from headway.cli.progress import Progress

if TYPE_CHECKING:
    from headway.plan.plan import Plan
    from headway.trace import Trace


class TunerName(StrEnum):
    """Who decides."""

    HEADWAY = "headway"
    INFERLINE = "inferline"
    AUTOSCALE = "autoscale"
    DS2 = "ds2"
    THRESHOLD = "threshold"
    NONE = "none"


def tune(
    plan: PlanArgument,
    trace: Annotated[
        Path | None, typer.Option("--trace", envvar="HEADWAY_TRACE", help="The traffic to tune for; - is stdin.")
    ] = None,
    planned_on: Annotated[
        Path | None,
        typer.Option("--planned-on", help="The trace that the plan was made from: then noise is told by it."),
    ] = None,
    tuner: Annotated[
        TunerName, typer.Option("--tuner", envvar="HEADWAY_TUNER", help="headway, or a published one to compare with.")
    ] = TunerName.HEADWAY,
    gears: Annotated[
        bool, typer.Option("--gears", help="Prepare plans for more traffic to change to; needs --planned-on.")
    ] = False,
    journal: Annotated[
        Path | None, typer.Option("--journal", help="Append every decision to this file: what, why, what came of it.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", help="A server that runs the plan: watch it instead of simulating; interrupt to end."),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="With --url: carry decisions out, as changes of the live plan.")
    ] = False,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.0, help="With --url: how long; else until interrupted.")
    ] = None,
    token: Token = None,
    format: Format = None,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Say what a tuner would do with a plan as traffic shifts, or do it.

    With --trace the plan runs in the simulator, and the tuner adds and gives up replicas with real start-up delays.
    Every decision comes with its reason; the outcome stands beside that of the plan left alone. With --url the tuner
    watches a server instead; it only advises unless told to --apply.
    """
    from headway.errors import HeadwayError

    read = read_plan(plan)
    if trace is None and url is None:
        raise HeadwayError("tune: no traffic to tune for; give --trace to simulate, or --url to watch a server")
    if url is None and (apply or seconds is not None):
        raise HeadwayError("tune: --apply and --seconds are for a server; give its --url")
    if gears and planned_on is None:
        raise HeadwayError("tune: gears are planned on the plan's own trace; give --planned-on as well")
    planning = None if planned_on is None else read_trace(planned_on, seed, format, skip_bad)
    if url is not None:
        _watch(read, url, planning, tuner.value, gears, token, apply, seconds, journal, json)
        return
    assert trace is not None
    requests = read_trace(trace, seed, format, skip_bad)
    from headway.report.tuning import tuning_view
    from headway.tune.advise import advise
    from headway.tune.journal import Journal

    with Progress("tune") as progress, nullcontext() if journal is None else Journal(journal) as written:
        advice = advise(
            read,
            requests,
            planned_on=planning,
            name=tuner.value,
            gears=gears,
            seed=seed,
            journal=written,
            progress=progress.report,
        )
    emit(advice, json, lambda: tuning_view(advice))


def _watch(
    plan: Plan,
    url: str,
    planned_on: Trace | None,
    tuner: str,
    gears: bool,
    token: str | None,
    act: bool,
    seconds: float | None,
    journal: Path | None,
    json: bool,
) -> None:
    """Let a tuner watch a server until the time is over or a signal comes; decisions are told on stderr."""
    import signal
    import threading

    from headway.report.tuning import changed, watched_view
    from headway.tune.journal import Journal
    from headway.tune.live import tune_live
    from headway.tune.loop import Entry

    stop = threading.Event()
    former = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}

    def tell(entry: Entry) -> None:
        say(f"{changed(entry.to_dict())}: {entry.decision.text}")
        if "error" in entry.applied:
            say(f"not done: {entry.applied['error']}")

    try:
        with nullcontext() if journal is None else Journal(journal) as written:
            found = tune_live(
                plan, url, planned_on=planned_on, name=tuner, gears=gears, token=token, act=act, seconds=seconds,
                stop=stop, journal=written, tell=tell,
            )  # fmt: skip
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    emit(found, json, lambda: watched_view(found))


VERBS = (
    Verb(
        tune,
        (
            "headway tune plan.json --trace today.csv",
            "headway tune plan.json --trace today.csv --tuner inferline --journal decisions.jsonl --json",
            "headway tune plan.json --url http://127.0.0.1:8000 --apply --journal decisions.jsonl",
        ),
    ),
)
