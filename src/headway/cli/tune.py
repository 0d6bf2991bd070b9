"""`headway tune`: what a tuner would do with a plan as traffic shifts, and what would come of it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from headway.cli.tuner import OWN, GearsFile, JournalFile, PlannedOn, WhichTuner, refuse_useless_gears
from headway.errors import HeadwayError

if TYPE_CHECKING:
    from headway.plan.plan import Plan

_NEARER = ("COMMANDLINE", "ENVIRONMENT", "DEFAULT_MAP")
"""Where the value of an option can come from: what is named first beats what follows."""


def tune(
    context: typer.Context,
    plan: PlanArgument,
    trace: Annotated[
        Path | None, typer.Option("--trace", envvar="HEADWAY_TRACE", help="The traffic to tune for; - is stdin.")
    ] = None,
    planned_on: PlannedOn = None,
    tuner: WhichTuner = OWN,
    gears: GearsFile = None,
    journal: JournalFile = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            envvar="HEADWAY_URL",
            help="A server that runs the plan: watch it instead of simulating; interrupt to end.",
        ),
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
    from headway.report.tuning import tuning_view
    from headway.tune.advise import advise
    from headway.tune.gears import prepared
    from headway.tune.journal import Journal

    read = read_plan(plan)
    trace, url = _traffic(context, trace, url)
    refuse_useless_gears("tune", tuner, gears)
    if url is None and (apply or seconds is not None):
        raise HeadwayError("tune: --apply and --seconds are for a server; give its --url")
    known: dict[str, Any] = {"name": tuner, "planned_on": None}
    if planned_on is not None:
        known["planned_on"] = read_trace(planned_on, seed, format, skip_bad)
        made_from = read.provenance.get("trace_hash")
        if made_from is not None and made_from != known["planned_on"].hash:
            say(f"tune: {planned_on} is not what the plan was made from; the tuner takes it for what was planned for")
    with Progress("tune") as progress:
        if gears is not None:
            known["gears"] = prepared(gears, read, known["planned_on"], progress=progress.report)
    if url is not None:
        _watch(read, url, known, token, apply, seconds, journal, json)
        return
    assert trace is not None
    requests = read_trace(trace, seed, format, skip_bad)
    with Progress("tune") as progress, nullcontext() if journal is None else Journal(journal) as written:
        advice = advise(read, requests, **known, seed=seed, journal=written, progress=progress.report)
    emit(advice, json, lambda: tuning_view(advice))


def _traffic(context: typer.Context, trace: Path | None, url: str | None) -> tuple[Path | None, str | None]:
    """Return the trace to simulate or the server to watch; of both, that which was named nearer to the command."""
    if trace is None and url is None:
        raise HeadwayError("tune: no traffic to tune for; give --trace to simulate, or --url to watch a server")
    if trace is None or url is None:
        return trace, url
    sources = [context.get_parameter_source(name) for name in ("trace", "url")]
    of_trace, of_url = (len(_NEARER) if s is None or s.name not in _NEARER else _NEARER.index(s.name) for s in sources)
    if of_trace == of_url:
        raise HeadwayError("tune: --trace is simulated and --url is watched; give one of them")
    return (trace, None) if of_trace < of_url else (None, url)


def _watch(
    plan: Plan,
    url: str,
    known: dict[str, Any],
    token: str | None,
    act: bool,
    seconds: float | None,
    journal: Path | None,
    json: bool,
) -> None:
    """Let a tuner watch a server until the time is over or a signal comes; decisions are told on stderr."""
    import signal
    import threading

    from headway.report.tuning import decision_lines, watched_view
    from headway.tune.journal import Journal
    from headway.tune.live import tune_live
    from headway.tune.loop import Entry

    stop = threading.Event()
    former = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}

    def tell(entry: Entry) -> None:
        for line in decision_lines(entry.to_dict()):
            say(line)
        if "waits" in entry.applied:
            say(f"waits: {entry.applied['waits']}")
        if "error" in entry.applied:
            say(f"not done: {entry.applied['error']}")

    try:
        with nullcontext() if journal is None else Journal(journal) as written:
            found = tune_live(
                plan,
                url,
                **known,
                token=token,
                act=act,
                seconds=seconds,
                stop=stop,
                journal=written,
                tell=tell,
                say=say,
            )
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
            "headway tune plan.json --trace today.csv --tuner autoscale,unit_ratio=1,wait_s=60",
            "headway tune plan.json --url http://127.0.0.1:8000 --apply --journal decisions.jsonl",
            "headway tune plan.json --url http://127.0.0.1:8000 --apply --planned-on requests.csv --gears gears.json",
        ),
    ),
)
