"""`headway serve`, `replay` and `report`: run a plan, load it, and look at what came of it."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headway.cli.deployed import DeployedArgument, read_deployed
from headway.cli.frame import (
    Json,
    NoSeed,
    Output,
    PlanArgument,
    Seed,
    TraceFile,
    Verb,
    duration,
    emit,
    read_trace,
    say,
    target,
)
from headway.cli.gateway import (
    Attempts,
    DecisionLog,
    FirstToken,
    KeysFile,
    Priority,
    default_timeout_s,
    gateway_options,
)
from headway.cli.progress import Progress
from headway.cli.tuner import OWN, GearsFile, JournalFile, PlannedOn, WhichTuner, check_tuner

if TYPE_CHECKING:
    from headway.plan.plan import Plan

Token = Annotated[
    str | None, typer.Option("--token", envvar="HEADWAY_TOKEN", help="Bearer token that every request has to bring.")
]


class EngineName(StrEnum):
    """What runs replicas."""

    EMBEDDED = "embedded"
    RAY = "ray"


def serve(
    plan: DeployedArgument,
    host: Annotated[
        str, typer.Option("--host", envvar="HEADWAY_HOST", help="Address; loopback unless told otherwise.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", envvar="HEADWAY_PORT", min=0, max=65535, help="Port; 0 takes a free one.")
    ] = 8000,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Of the model files; else the working folder, else the plan's."),
    ] = None,
    token: Token = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            parser=duration,
            metavar="TIME",
            help="Deadline of requests that bring none themselves (30s; of a fleet 10m).",
        ),
    ] = None,
    queue_limit: Annotated[
        int, typer.Option("--queue-limit", min=1, help="Items that may wait at a stage; beyond, requests get 429.")
    ] = 1024,
    keep_promise: Annotated[
        bool,
        typer.Option(
            "--refuse-late/--answer-late", help="Refuse requests that would be answered later than promised, or not."
        ),
    ] = True,
    max_body: Annotated[int, typer.Option("--max-body", min=1, metavar="MIB", help="Largest request body.")] = 32,
    grace: Annotated[
        float, typer.Option("--grace", parser=duration, metavar="TIME", help="How long a drain may take.")
    ] = "30s",  # type: ignore[assignment]
    engine: Annotated[
        EngineName, typer.Option("--engine", help="What runs the replicas: processes of the server, or Ray Serve.")
    ] = EngineName.EMBEDDED,
    ray_cpus: Annotated[
        float, typer.Option("--ray-cpus", min=0.0, help="CPUs that Ray books for each thread of a replica.")
    ] = 0.001,
    tune: Annotated[
        bool,
        typer.Option("--tune", help="Let a tuner watch the server as `headway tune --url` does; it advises on stderr."),
    ] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="With --tune: carry its decisions out, as changes of the live plan.")
    ] = False,
    tuner: WhichTuner = OWN,
    planned_on: PlannedOn = None,
    gears: GearsFile = None,
    journal: JournalFile = None,
    keys: KeysFile = None,
    decision_log: DecisionLog = None,
    priority: Priority = False,
    attempts: Attempts = None,
    first_token: FirstToken = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Run a plan on real engines behind HTTP, until interrupted.

    Speaks the Open Inference Protocol v2 (REST); metrics for Prometheus at /metrics, the plan at /plan. A stage without
    a model sleeps for its profiled time, which is good for rehearsals. With --tune a tuner watches the server, as
    `headway tune --url` does, and ends with it.

    A plan whose only stage is a fleet of LLM engines runs a gateway in front of those that it names as upstreams, which
    speaks the OpenAI protocol and routes, orders and limits as the plan says.
    """
    from functools import partial

    from headway.errors import HeadwayError
    from headway.serve.app import HttpLimits
    from headway.serve.engine import Limits
    from headway.serve.run import own_server, serve
    from headway.tune.beside import tuner_beside

    def announce(url: str) -> None:
        emit({"url": url}, json, lambda: url)
        sys.stdout.flush()

    other = tuner if tuner != OWN else None
    given = {
        "--tuner": other,
        "--apply": apply or None,
        "--planned-on": planned_on,
        "--gears": gears,
        "--journal": journal,
    }
    wanted = {option: value for option, value in given.items() if value is not None}
    if wanted and not tune:
        raise HeadwayError(f"serve: {next(iter(wanted))} is for a tuner; give --tune as well")
    read = read_deployed(plan)
    more = gateway_options(keys, decision_log, priority, attempts, first_token)
    alone = own_server(read) is not None
    if alone and tune:
        raise HeadwayError("serve: --tune changes the plan of a pipeline; a gateway has none that could be changed")
    if more and not alone:
        option = next(iter(more)).removesuffix("_s").replace("_", "-")
        raise HeadwayError(f"serve: --{option} is for a plan whose only stage is a fleet of LLM engines")
    if tune:
        check_tuner(plan, tuner, planned_on, gears, journal, seed)
    if timeout is None:
        timeout = default_timeout_s() if alone else Limits().timeout_s
    arguments = [str(plan), "--seed", str(seed)]
    for option, value in wanted.items():
        arguments += [option] if value is True else [option, str(value)]
    # What came on standard input is gone when a tuner is started again.
    again = str(planned_on) != "-"
    beside = partial(tuner_beside, arguments=arguments, token=token, folder=Path.cwd(), warn=say, again=again)
    os.chdir(folder or model_folder(read, plan.parent))
    serve(
        read,
        host=host,
        port=port,
        token=token,
        seed=seed,
        limits=Limits(queue_limit=queue_limit, timeout_s=timeout, keep_promise=keep_promise),
        http=HttpLimits(max_body_bytes=max_body * 2**20),
        grace_s=grace,
        engine=engine.value,
        ray_cpus=ray_cpus,
        **({"beside": beside} if tune else {}),
        more=more,
        announce=announce,
        warn=say,
    )


def replay(
    url: Annotated[str, typer.Option("--url", envvar="HEADWAY_URL", help="Where the plan is served.")],
    trace: TraceFile,
    payloads: Annotated[
        Path | None,
        typer.Option(
            "--payloads",
            help="What to send: a folder of files, a JSONL file, or one file; the trace's payload column chooses.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="The payloads' right answers: a CSV file with `label` for each in order, or `sample,label` (a file's "
            "name, or a line's number) for those that are known; answers are held against them.",
        ),
    ] = None,
    max_connections: Annotated[
        int, typer.Option("--max-connections", min=1, help="Requests under way at a time; others are sent late.")
    ] = 4096,
    token: Token = None,
    seed: Seed = 0,
    output: Output = None,
    json: Json = False,
) -> None:
    """Send a trace's requests to a server, and say how it did.

    Every request is sent at its scheduled time, whatever the server does. Latency counts from then on, so that a server
    that stalls cannot hide it. With labels the accuracy is that of the answers whose label is known.
    """
    from headway.files import canonical_json, write_atomic
    from headway.report.terminal import outcome_view
    from headway.serve.replay import replay

    written_to = target(output, "the outcome")
    with Progress("replay") as progress:
        outcome = replay(
            url, read_trace(trace, seed), payloads=payloads, labels=labels, token=token, seed=seed,
            max_connections=max_connections, progress=progress.step,
        )  # fmt: skip
    if written_to is not None:
        write_atomic(written_to, canonical_json(outcome.to_dict()))
    emit(outcome.to_dict(), json, lambda: outcome_view(outcome))


def report(
    plan: PlanArgument,
    outcomes: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[OUTCOME]...", help="JSON of `headway simulate`, of `headway replay`, or both."),
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Else the spec's name.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file.")] = Path("report.html"),
    seed: NoSeed = 0,
    json: Json = False,
) -> None:
    """Write a plan's whole story into one HTML file.

    The file needs nothing else to be looked at: no network, no other files.
    """
    from headway.report.html import write
    from headway.report.story import story_from_files

    write(story_from_files(plan, outcomes or (), title), output)
    emit({"report": str(output)}, json, lambda: str(output))


def model_folder(plan: Plan, beside: Path) -> Path:
    """Return where the plan's model files are: the working folder, or the plan's own when none of them is here."""
    files = []
    for name, stage in plan.spec.stages.items():
        variant = getattr(stage, "variant", None)
        model = variant(plan.variants[name]).model if variant is not None else None
        file = (model or "").partition(":")[0]
        if file.endswith((".py", ".onnx")):
            files.append(file)
    here = Path()
    return here if not files or any((here / file).exists() for file in files) else beside


VERBS = (
    Verb(
        serve,
        (
            "headway serve plan.json",
            "headway serve plan.json --port 9000 --token secret",
            "headway serve plan.json --engine ray",
            "headway serve fleet.yaml --port 8080 --keys keys.yaml",
            "headway serve plan.json --tune --apply --planned-on requests.csv --journal decisions.jsonl",
        ),
    ),
    Verb(
        replay,
        (
            "headway replay --url http://127.0.0.1:8000 --trace requests.csv --payloads pages/ --json > measured.json",
            "headway replay --url http://127.0.0.1:8000 --trace requests.csv --payloads images/ --labels labels.csv",
        ),
    ),
    Verb(report, ("headway report plan.json predicted.json measured.json -o report.html",)),
)
