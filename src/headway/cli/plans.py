"""`headway simulate`, `headway plan` and `headway diff`: what would happen, which configuration, and what changes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headway.cli.frame import (
    INFEASIBLE,
    Format,
    Json,
    Output,
    PlanArgument,
    Seed,
    SkipBad,
    SpecArgument,
    TraceFile,
    Verb,
    duration,
    emit,
    read_plan,
    read_profile,
    read_spec,
    read_trace,
    say,
)
from headway.cli.progress import Progress

if TYPE_CHECKING:
    from headway.plan.plan import Plan


SPECS = (".yaml", ".yml", ".toml")


class Mode(StrEnum):
    """How service times are taken from the profile."""

    SAMPLED = "sampled"
    MEAN = "mean"


class Planner(StrEnum):
    """Who looks for the plan."""

    EXACT = "exact"
    GREEDY = "greedy"
    CG_MEAN = "cg-mean"
    CG_PEAK = "cg-peak"


class Feasibility(StrEnum):
    """When a plan is said to keep the promise."""

    ROBUST = "robust"
    TRACE = "trace"


def simulate(
    plan: PlanArgument,
    trace: TraceFile,
    profile: Annotated[
        Path | None, typer.Option("--profile", help="Replaces the profile rows that the plan carries.")
    ] = None,
    mode: Annotated[
        Mode, typer.Option("--mode", help="Service times drawn from the profile's quantiles, or their means.")
    ] = Mode.SAMPLED,
    drop_after: Annotated[
        float | None,
        typer.Option(
            "--drop-after",
            parser=duration,
            metavar="TIME",
            help="Give requests up this long after arrival. Engines of a fleet finish them: nobody tells them.",
        ),
    ] = None,
    format: Format = None,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    output: Output = None,
    json: Json = False,
) -> None:
    """Say what a plan would do under a trace.

    Latency percentiles, misses, waits of every stage, and cost.
    """
    from headway.api import simulate
    from headway.files import canonical_json, write_atomic
    from headway.report.terminal import outcome_view

    read = read_plan(plan)
    rows = None if profile is None else read_profile(profile)
    requests = read_trace(trace, seed, format, skip_bad)
    outcome = simulate(read, rows, requests, seed=seed, mode=mode.value, drop_after_s=drop_after)
    if output is not None:
        write_atomic(output, canonical_json(outcome.to_dict()))
    emit(outcome.to_dict(), json, lambda: outcome_view(outcome))


def plan(
    spec: SpecArgument,
    trace: TraceFile,
    profile: Annotated[
        Path | None,
        typer.Option(
            "--profile", envvar="HEADWAY_PROFILE", help="What work costs: a CSV file; fleets know it without."
        ),
    ] = None,
    planner: Annotated[
        Planner, typer.Option("--planner", envvar="HEADWAY_PLANNER", help="exact proves how far the optimum can be.")
    ] = Planner.EXACT,
    feasibility: Annotated[
        Feasibility,
        typer.Option(
            "--feasibility",
            envvar="HEADWAY_FEASIBILITY",
            help="robust: drawn service times on resampled traces; trace: mean service times on the given one.",
        ),
    ] = Feasibility.ROBUST,
    budget: Annotated[
        int | None, typer.Option("--budget", min=1, help="Stop after this many simulations with the best so far.")
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option("--devices", min=1, help="Of a cascade alone: the most accurate plan of so many devices instead."),
    ] = None,
    budget_usd_per_hour: Annotated[
        float | None,
        typer.Option(
            "--budget-usd-per-hour",
            min=0.0,
            metavar="USD",
            help="The most accurate plan for at most so much.",
        ),
    ] = None,
    format: Format = None,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    output: Output = None,
    json: Json = False,
) -> None:
    """Find the cheapest deployment that keeps the promise.

    The plan says why it is this one, how far from the optimum it can be, and how much more traffic it bears.
    Exit code 3 when there is none: the result then names the stage that is too slow, and the smallest promise that
    can be kept.

    With --devices or --budget-usd-per-hour, of a cascade alone: not the cheapest but the most accurate for so much
    that keeps the promised latency.
    """
    from headway.plan.infeasible import Infeasible
    from headway.plan.make import declare_instead, make, needing_profile
    from headway.report.terminal import plan_view

    declared = read_spec(spec)
    limited = devices is not None or budget_usd_per_hour is not None
    if limited and (planner is not Planner.EXACT or budget is not None):
        raise typer.BadParameter("leave --planner and --budget out", param_hint="'--devices'/'--budget-usd-per-hour'")
    if profile is None and (needing := needing_profile(declared)):
        raise typer.BadParameter(
            f"stages without one: {', '.join(needing)}{declare_instead(declared, needing)}", param_hint="'--profile'"
        )
    measured = None if profile is None else read_profile(profile, declared)
    requests = read_trace(trace, seed, format, skip_bad)
    with Progress("plan") as progress:
        try:
            if limited:
                from headway.domains.cascade.objectives import most_accurate
                from headway.profile import Profile

                found = most_accurate(
                    declared,
                    measured or Profile.from_rows(()),
                    requests,
                    devices,
                    usd_per_hour=budget_usd_per_hour,
                    feasibility=feasibility.value,
                    seed=seed,
                )
            else:
                found = make(
                    declared,
                    measured,
                    requests,
                    planner=planner.value,
                    feasibility=feasibility.value,
                    seed=seed,
                    budget=budget,
                    progress=progress.report,
                )
        except Infeasible as refusal:
            progress.close()
            if json:
                emit(refusal.to_dict(), True, str)
            say(f"infeasible: {refusal}")
            raise typer.Exit(INFEASIBLE) from None
    if output is not None:
        found.write(output)
    emit(found.to_dict(), json, lambda: plan_view(found))


def diff(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="A plan, or a spec that says what runs today.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="A plan.")],
    profile: Annotated[
        Path | None, typer.Option("--profile", help="What work costs in what runs today; else the plan's own rows.")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", envvar="HEADWAY_TRACE", help="What runs today is predicted on this trace; - is stdin."),
    ] = None,
    format: Format = None,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Say what changes between two plans, what it saves and risks."""
    from headway.plan.difference import diff
    from headway.report.terminal import diff_view

    new = read_plan(after)
    old = _today(before, profile, new)
    if before.suffix in SPECS:
        from headway.plan.difference import predict

        old = predict(old, None if trace is None else read_trace(trace, seed, format, skip_bad), seed)
    changes = diff(old, new)
    emit(changes, json, lambda: diff_view(changes))


def _today(path: Path, profile: Path | None, new: Plan) -> Plan:
    if path.suffix not in SPECS:
        return read_plan(path)
    from headway.plan.difference import current_plan

    return current_plan(read_spec(path), new.profile if profile is None else read_profile(profile), new.stages)


VERBS = (
    Verb(
        simulate,
        (
            "headway simulate plan.json --trace requests.csv --seed 2",
            "headway simulate plan.json --trace requests.csv --json > predicted.json",
        ),
    ),
    Verb(
        plan,
        (
            "headway plan headway.yaml --profile profile.csv --trace requests.csv --json > plan.json",
            "headway plan headway.yaml --profile profile.csv --trace requests.csv --planner greedy --feasibility trace",
            "headway plan answers.yaml --profile profile.csv --trace requests.csv --devices 2 -o answers-on-two.json",
        ),
    ),
    Verb(diff, ("headway diff current.json plan.json", "headway diff headway.yaml plan.json --trace requests.csv")),
)
