"""`headway demo` and `headway bench`: the main job on real input, and every figure that is claimed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headway.cli.frame import ERROR, Json, Seed, Verb, emit, say
from headway.cli.progress import Progress


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the report and all files.")] = Path("out"),
    seed: Seed = 1,
    json: Json = False,
) -> None:
    """Do the main job on real models, on this machine.

    A pipeline of ONNX models that reads pages is profiled, planned, served and replayed; a report tells the story.
    Needs the extra `demo`: pip install 'headway[demo]'.
    """
    from headway.demo.run import main

    main(output, seed=seed, as_json=json)


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

    Each stands beside the bar that it has to reach; exit code 1 when one misses it.
    """
    from datetime import UTC, datetime

    from headway.bench import BenchOptions, run, table
    from headway.files import canonical_json, write_atomic

    rows = []
    with Progress("bench") as progress:
        for row in run(names or [], BenchOptions(seed, trace, quick), datetime.now(UTC).date().isoformat()):
            rows.append(row)
            progress.report(f"{row.name} {row.value:g} {row.unit}")
    values = [row.to_dict() for row in rows]
    if output is not None:
        write_atomic(output, canonical_json(values))
    emit(values, json, lambda: table(rows))
    missed = [row.name for row in rows if row.met is False]
    if missed and not quick:
        say(f"bars missed: {', '.join(missed)}")
        raise typer.Exit(ERROR)


VERBS = (
    Verb(demo, ("headway demo", "headway demo -o /tmp/headway-demo --seed 2")),
    Verb(bench, ("headway bench", "headway bench startup sim-tandem --json", "headway bench --trace requests.csv")),
)
