"""`headway check` and `headway profile`: what is declared, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headway.cli.frame import (
    Json,
    NoSeed,
    Output,
    Seed,
    SpecArgument,
    Verb,
    duration,
    emit,
    read_profile,
    read_spec,
    say,
    target,
)
from headway.cli.progress import Progress
from headway.errors import HeadwayError

if TYPE_CHECKING:
    from rich.table import Table

    from headway.profile import Profile
    from headway.serve.wire import Payload
    from headway.spec.model import Spec


def check(
    spec: Annotated[Path | None, typer.Argument(metavar="SPEC", help="What is declared: a YAML or TOML file.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of specs, for editors.")] = False,
    profile: Annotated[
        Path | None, typer.Option("--profile", help="Say which of its rows the spec has no use for.")
    ] = None,
    seed: NoSeed = 0,
    json: Json = False,
) -> None:
    """Read a spec, or say which line of it is wrong.

    Prints the stages in their order, the promise and the prices, as they were understood.
    """
    if schema:
        from headway.spec.schema import json_schema

        emit(json_schema(), True, str)
        return
    if spec is None:
        raise typer.BadParameter("a spec file is needed, or --schema", param_hint="'SPEC'")
    from headway.plan.contract import TellsProblems
    from headway.spec.kinds import load_domain

    read = read_spec(spec)
    for problem in _missing_models(read, spec.parent):
        say(f"warning: {problem}")
    for name, stage in read.stages.items():
        domain = load_domain(stage.kind)
        for problem in domain.problems(read, name) if isinstance(domain, TellsProblems) else ():
            say(f"warning: {problem}")
    if profile is not None:
        read_profile(profile, read)
    emit(_summary(read), json, lambda: _text(read))


def _missing_models(spec: Spec, folder: Path) -> list[str]:
    """Say which model files are not there: the spec may be right all the same, for another machine."""
    from headway.errors import SpecError
    from headway.profile.target import field_of, models_named
    from headway.serve.model_ref import resolve

    found = []
    for name, stage in spec.stages.items():
        where = {model: field_of(stage, name, variant) for variant, model in reversed(models_named(stage).items())}
        for model in dict.fromkeys(models_named(stage).values()):
            try:
                resolve(model, folder, where[model])
            except SpecError as error:
                found.append(str(error))
    return found


def _summary(spec: Spec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "valid": True,
        "stages": list(spec.graph.order),
        "hardware": list(spec.supply),
        "slo_s": spec.slo.latency_s,
        "slo_percentile": spec.slo.percentile,
        "spec": spec.to_dict(),
    }


def _text(spec: Spec) -> str:
    slo = spec.slo
    lines = [f"{spec.name}: {slo.percentile:g} % of requests within {slo.latency_s * 1e3:g} ms"]
    for name in spec.graph.order:
        stage = spec.stages[name]
        edges = [
            parent
            + (f" x{edge.fan_out:g}" if edge.fan_out != 1.0 else "")
            + (f" p={edge.probability:g}" if edge.probability != 1.0 else "")
            for parent, edge in stage.edges.items()
        ]
        lines.append(f"  {name}" + (f" after {', '.join(edges)}" if edges else "") + (", gathers" * stage.gather))
    lines.append("hardware: " + ", ".join(f"{n} at ${h.price_usd_per_hour:g}/h" for n, h in spec.supply.items()))
    return "\n".join(lines)


def profile(
    spec: SpecArgument,
    samples: Annotated[
        Path | None,
        typer.Option(
            "--samples",
            help="Inputs to measure with: a folder, a JSONL file, or one file; else `samples` or `samples.jsonl` "
            "beside the spec, else one empty text.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="The right answers, for stages of kind cascade: a CSV file with `label` for each sample in order, or "
            "`sample,label` (a file's name, or a line's number); else `labels.csv` beside the spec.",
        ),
    ] = None,
    batch_sizes: Annotated[
        list[int] | None,
        typer.Option("--batch-size", min=1, help="A batch size to measure, 1 among them; may be given several times."),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option("--budget", parser=duration, metavar="TIME", help="Time to share out, such as 90s."),
    ] = None,
    seed: Seed = 0,
    output: Output = None,
    json: Json = False,
) -> None:
    """Measure what work costs on this machine.

    Every stage that names a model is run in its own worker process with pinned threads; of a cascade every model of
    the family. With `-o FILE.csv` finished cells are kept in `FILE.cells.json` until all are: the same command goes on
    where an earlier one was interrupted. With labels every model of a cascade is asked about every sample, and the
    validation table is written that the spec names. Exit code 1 when a stage that names a model has no row at all, a
    model of a cascade has none, or its table is not there; what was measured is written all the same.
    """
    from datetime import UTC, datetime

    from headway.profile.beside import place_beside
    from headway.profile.labeled import validate
    from headway.profile.measure import measure
    from headway.report.words import profile_problems

    declared = read_spec(spec)
    cells = None if output is None else output.with_suffix(".cells.json")
    if output is not None:
        target(output, "the profile")
        place_beside(output)
    with Progress("profile") as progress:
        inputs = _samples(spec, samples, progress)
        right = _labels(spec, labels, list(inputs), declared)
        measured = measure(
            declared,
            list(inputs.values()),
            folder=spec.parent,
            batch_sizes=batch_sizes,
            budget_s=budget,
            resume=cells,
            progress=lambda state: progress.step(state.done, state.total, state.text),
            date=datetime.now(UTC).date().isoformat(),
            seed=seed,
        )
        problems = measured.stamp.get("problems", [])
        for sentence in profile_problems(measured.stamp):
            progress.note(sentence)
        if output is not None:
            measured.write(output)
            if cells is not None and not any("batch_size" in problem for problem in problems):
                cells.unlink(missing_ok=True)
        if right is not None:
            told = validate(
                declared, list(inputs.values()), right, folder=spec.parent,
                progress=lambda state: progress.step(state.done, state.total, state.text),
            )  # fmt: skip
            for line in told.values():
                progress.note(line)
    emit(measured.to_dict(), json, lambda: _rows(measured))
    missing = _not_measured(declared, measured)
    if missing:
        raise HeadwayError(
            f"profile: nothing was measured of {', '.join(missing)}; the reasons are above, and the other rows are kept"
        )
    _check_tables(declared)


def _check_tables(spec: Spec) -> None:
    """Raise HeadwayError for a stage whose file of labeled samples is not there: no plan can be made without."""
    from headway.profile.labeled import lacking

    for name, path in lacking(spec).items():
        raise HeadwayError(
            f"profile: stages.{name}: there is no {path}, and no labels to make it from; give the samples' right "
            "answers as --labels FILE.csv, or as labels.csv beside the spec"
        )


def _not_measured(spec: Spec, profile: Profile) -> list[str]:
    """Return the stages that name a model, and a cascade's models, that have no row: no plan can be made of it."""
    from headway.profile.target import HasFamily, models_named

    measured = {(row.stage, row.variant) for row in profile.rows}
    stages = {stage for stage, _ in measured}
    missing = [name for name, stage in spec.stages.items() if models_named(stage) and name not in stages]
    for name, stage in spec.stages.items():
        if name in stages and isinstance(stage, HasFamily):
            missing += [f"{name}/{model}" for model in stage.named_models if (name, model) not in measured]
    return missing


def _samples(spec: Path, given: Path | None, progress: Progress) -> dict[str, Payload]:
    from headway.profile.samples import named_samples
    from headway.serve.wire import Payload

    beside = (spec.parent / "samples", spec.parent / "samples.jsonl")
    found = given or next((path for path in beside if path.exists()), None)
    if found is not None:
        return named_samples(found)
    progress.note("no samples are given; every stage without a parent is measured with an empty text")
    return {"1": Payload("text", b"")}


def _labels(spec: Path, given: Path | None, names: list[str], declared: Spec) -> list[str] | None:
    """The labels that are given, or lie beside a spec that has a use for them."""
    from headway.profile.labeled import wanted
    from headway.profile.labels import read_labels

    beside = spec.parent / "labels.csv"
    found = given or (beside if beside.exists() and wanted(declared) else None)
    return None if found is None else read_labels(found, names)


def _rows(profile: Profile) -> Table:
    from rich.table import Table

    from headway.report import format as fmt

    out = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("stage", "variant", "hardware"):
        out.add_column(heading)
    for heading in ("batch", "mean", "P50", "P99", "samples", "start-up"):
        out.add_column(heading, justify="right")
    for row in profile.rows:
        times = [fmt.duration(value) for value in (row.mean_s, row.p50_s, row.p99_s)]
        last = [fmt.count(row.samples), fmt.duration(row.startup_s)]
        out.add_row(row.stage, row.variant, row.hardware, str(row.batch_size), *times, *last)
    return out


VERBS = (
    Verb(check, ("headway check headway.yaml", "headway check --schema > headway.schema.json")),
    Verb(
        profile,
        (
            "headway profile headway.yaml -o profile.csv",
            "headway profile headway.yaml --samples pages/ --budget 90s -o profile.csv",
            "headway profile digits.yaml --samples images/ --labels labels.csv -o profile.csv",
        ),
    ),
)
