"""`headway compare`: two outcomes side by side, or the policies of a fleet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headway.cli.deployed import read_deployed
from headway.cli.frame import Format, Json, Output, Seed, SkipBad, Verb, emit, read_trace, target
from headway.cli.progress import Progress
from headway.errors import HeadwayError

if TYPE_CHECKING:
    from headway.domains.fleet.compare import Choice, Contest
    from headway.plan.plan import Plan
    from headway.trace import Trace


def _axis(name: str, what: str) -> Any:
    return typer.Option(f"--{name}", metavar="NAMES", help=f"{what}: names separated by commas, or all.")


def compare(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="An outcome; or a plan or spec of a fleet, to compare its policies.")
    ],
    other: Annotated[Path | None, typer.Argument(metavar="[MEASURED]", help="Another outcome.")] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", envvar="HEADWAY_TRACE", help="What policies serve; - is stdin.")
    ] = None,
    rates: Annotated[
        str, typer.Option("--rates", metavar="NUMBERS", help="Multiples of the trace's rate, separated by commas.")
    ] = "1",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Traces resampled from the given one.")] = 5,
    routing: Annotated[str | None, _axis("routing", "Policies of the balancer")] = None,
    order: Annotated[str | None, _axis("order", "Orders of LLM engines")] = None,
    admission: Annotated[str | None, _axis("admission", "Rules of admission of LLM engines")] = None,
    queues: Annotated[str | None, _axis("queues", "Queues of servers with workers")] = None,
    quantum: Annotated[str | None, _axis("quantum", "Quanta of servers with workers")] = None,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", metavar="NAMES", help="Policies that the others are set beside; else FILE's own."),
    ] = None,
    profile: Annotated[
        Path | None, typer.Option("--profile", help="What work costs, for a spec that does not say it.")
    ] = None,
    format: Format = None,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    output: Output = None,
    json: Json = False,
) -> None:
    """Set two outcomes side by side, or the policies of a fleet.

    Two outcomes are compared figure by figure. Of a plan of a fleet, or a spec that says what runs, every combination
    of the policies named serves the same requests in simulation, at every rate; without any name, all policies of the
    balancer do. Figures have intervals over the seeds. Each policy stands beside itself with exact loads, which no
    balancer has, and beside the baseline on the same requests. The baseline names one policy for each of routing, order
    and admission (or routing, queues and quantum); those left out are FILE's own.
    """
    written_to = target(output, "the comparison")
    axes = {"routing": routing, "order": order, "admission": admission, "queues": queues, "quantum": quantum}
    wanted = {axis: _names(text) for axis, text in axes.items() if text is not None}
    if other is not None:
        if wanted or baseline is not None:
            option = next(iter(wanted), "baseline")
            raise HeadwayError(f"compare: --{option} is for the policies of one fleet, and two outcomes are given")
        _outcomes(file, other, written_to, json)
        return
    if trace is None:
        raise HeadwayError(f"compare: {file} alone; give another outcome, or --trace to compare a fleet's policies")
    deployed = read_deployed(file, profile)
    requests = read_trace(trace, seed, format, skip_bad)
    _policies(deployed, requests, wanted, _names(baseline or ""), _multiples(rates), seeds, seed, written_to, json)


def _names(text: str) -> list[str]:
    return [name for name in (part.strip() for part in text.split(",")) if name]


def _multiples(text: str) -> list[float]:
    try:
        found = [float(part) for part in _names(text)]
    except ValueError:
        found = []
    if not found:
        raise typer.BadParameter(f"--rates is {text!r}; write multiples of the trace's rate, such as 0.5,1,1.2")
    return found


def _outcomes(before: Path, after: Path, output: Path | None, json: bool) -> None:
    from headway.api import compare
    from headway.report.story import read_outcome
    from headway.report.terminal import predicted_measured_view

    one, two = read_outcome(before), read_outcome(after)
    compared = compare(one, two)
    _write(compared, output)
    emit(compared, json, lambda: predicted_measured_view(one, two))


def _policies(
    deployed: Plan,
    trace: Trace,
    wanted: Mapping[str, Sequence[str]],
    named: Sequence[str],
    rates: Sequence[float],
    seeds: int,
    seed: int,
    output: Path | None,
    json: bool,
) -> None:
    from headway.domains.fleet.compare import arrivals, choices, compare
    from headway.domains.fleet.deployed import contest_of
    from headway.plan.oracle import block_s, derive
    from headway.report.policies import compared, policies_view
    from headway.report.words import capacity

    contest = contest_of(deployed)
    baseline = _baseline(contest, named)
    chosen = choices(contest, wanted or {"routing": ["all"]})
    if baseline not in chosen:
        chosen.insert(0, baseline)
    block = block_s(trace, deployed.spec.slo.latency_s)
    traces = [trace.resample(block, derive(seed, number)) for number in range(seeds)]
    with Progress("compare") as progress:
        runs = compare(contest, traces, chosen, rates=rates, seed=seed, progress=progress.step)
    provenance = {
        "trace_hash": trace.hash, "requests": trace.requests, "rate_per_s": trace.rate_per_s, "block_s": block,
        "seed": seed, "plan_hash": deployed.hash,
    }  # fmt: skip
    found = compared(
        deployed.spec.name, capacity(deployed), runs, baseline, report_s=contest.report_s, provenance=provenance,
        rejected=contest.rejected(arrivals(trace)),
    )  # fmt: skip
    _write(found, output)
    emit(found, json, lambda: policies_view(found))


def _baseline(contest: Contest, named: Sequence[str]) -> Choice:
    from headway.domains.fleet.compare import choices

    axes = list(contest.axes)
    if len(named) > len(axes):
        raise HeadwayError(f"compare: --baseline names {len(named)} policies; at most one each for {', '.join(axes)}")
    return choices(contest, {axis: [name] for axis, name in zip(axes, named, strict=False)})[0]


def _write(value: Mapping[str, Any], output: Path | None) -> None:
    from headway.files import canonical_json, write_atomic

    if output is not None:
        write_atomic(output, canonical_json(value))


VERBS = (
    Verb(
        compare,
        (
            "headway compare predicted.json measured.json",
            "headway compare fleet.yaml --trace requests.csv --rates 0.5,1,1.2 --order fcfs,sjf,aged",
            "headway compare plan.json --trace requests.csv --routing all --admission all --baseline round-robin",
        ),
    ),
)
