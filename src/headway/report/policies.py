"""Policies of a fleet beside each other: figures over several traces with their intervals, as JSON and as tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headway.domains.fleet.compare import Choice, Figures, Run
from headway.plan.rejected import rejected_text
from headway.report import format as fmt
from headway.report.tables import heading, line, pairs, table
from headway.sim.estimate import Estimate
from headway.sim.outcome import number

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

SCHEMA = "headway.policies/1"

_TIMES = {"ttft_mean_s": "TTFT mean", "ttft_p99_s": "P99", "e2e_mean_s": "E2E mean", "e2e_p99_s": "P99"}
_PER_TOKEN = {"tpot_mean_s": "TPOT mean", "tpot_p99_s": "P99"}
_MEAN_OF = {"ttft_mean_s": "mean TTFT", "e2e_mean_s": "mean E2E"}
Value = Mapping[str, Any]


def compared(
    name: str,
    servers: str,
    runs: Sequence[Run],
    baseline: Choice,
    *,
    report_s: float | None,
    provenance: Value,
    rejected: Value | None = None,
) -> dict[str, Any]:
    """Return as JSON values what policies did, each beside the baseline on the same traces.

    `servers` says in words what serves. `report_s`: how old reports become, None where they come with every reply.
    `rejected`: which requests of the trace no policy can have served, as the outcome of a stage has it.
    """
    return {
        "schema": SCHEMA,
        "name": name,
        "servers": servers,
        "traces": 1 + max(run.trace for run in runs),
        "baseline": dict(baseline),
        "report_s": report_s,
        "rejected": dict(rejected or {}),
        "rows": list(_rows(runs, baseline)),
        "provenance": dict(provenance),
    }


def _rows(runs: Sequence[Run], baseline: Choice) -> Iterator[dict[str, Any]]:
    cells: dict[tuple[float, tuple[str, ...]], list[Run]] = {}
    for run in runs:
        cells.setdefault((run.rate, tuple(run.choice.values())), []).append(run)
    for (rate, _), mine in cells.items():
        theirs = cells[rate, tuple(baseline.values())]
        yield {
            "rate": rate,
            "policies": dict(mine[0].choice),
            "figures": {figure: _figure([run.reported[figure] for run in mine]) for figure in mine[0].reported},
            "stale_ratio": _ratios([(run.reported, run.exact) for run in mine]),
            "baseline_ratio": _ratios(
                [(run.reported, other.reported) for run, other in zip(mine, theirs, strict=True)]
            ),
        }


def _figure(values: Sequence[float]) -> dict[str, float | None]:
    return {**_estimate(Estimate.of(values)), "most": number(max(values))}


def _ratios(sides: Sequence[tuple[Figures, Figures]]) -> dict[str, dict[str, float | None]]:
    """How many times the second side's figures the first side's are: geometric means over the traces."""
    return {
        figure: _estimate(Estimate.of_ratios([_over(one[figure], two[figure]) for one, two in sides]))
        for figure in sides[0][0]
        if figure.endswith("_s")
    }


def _over(one: float, two: float) -> float:
    """How many times `two` is `one`; not a number where both are infinite, which are not equal for that."""
    if math.isinf(one) and math.isinf(two):
        return math.nan
    if one == two:
        return 1.0
    return one / two if two else math.inf


def _estimate(one: Estimate) -> dict[str, float | None]:
    return {"mean": number(one.mean), "low": number(one.low), "high": number(one.high)}


def policies_view(value: Value) -> Group:
    """Return compared policies to be printed with Rich: three tables for every rate."""
    from rich.console import Group

    rows = value["rows"]
    head = next(iter(rows[0]["figures"]))
    fixed = {axis for axis in value["baseline"] if len({row["policies"][axis] for row in rows}) == 1}
    facts = [
        ("servers", str(value["servers"])),
        *((axis, str(name)) for axis, name in value["baseline"].items() if axis in fixed),
    ]
    parts: list[RenderableType] = [heading(value["name"]), pairs(facts)]
    for rate in dict.fromkeys(row["rate"] for row in rows):
        here = sorted((row for row in rows if row["rate"] == rate), key=lambda row: _rank(row["figures"][head]))
        named = [(_name(row, fixed), row) for row in here]
        parts += [heading(f"\n{rate:g} × the trace's rate"), *_tables(named, head, value["baseline"])]
    return Group(*parts, line(_legend(value, head, fixed)))


def _rank(figure: Value) -> float:
    return math.inf if figure["mean"] is None else float(figure["mean"])


def _name(row: Value, fixed: set[str]) -> str:
    free = [str(name) for axis, name in row["policies"].items() if axis not in fixed]
    return ", ".join(free or row["policies"].values())


def _tables(named: Sequence[tuple[str, Value]], head: str, baseline: Value) -> list[Table]:
    """Times; what no comparison should lack; and the rest: three tables, so that names stay whole in 80 columns."""
    told = named[0][1]["figures"]
    kept: dict[str, Callable[[Value], str]] = {
        "goodput": lambda row: _within(row["figures"]["goodput_per_s"], fmt.rate),
        "longest wait": lambda row: fmt.duration(row["figures"]["wait_max_s"]["most"]),
        "stale loads": lambda row: _change(row["stale_ratio"][head]),
        "baseline": lambda row: "is this" if row["policies"] == baseline else _change(row["baseline_ratio"][head]),
    }
    rest: dict[str, Callable[[Value], str]] = {
        "preempted": lambda row: fmt.percent(row["figures"]["preemptions_per_request"]["mean"])
    }
    if any(_rejected(row) for _, row in named):
        rest["rejected"] = lambda row: fmt.percent(_rejected(row))
    if "slowdown_p99" in told:
        rest["slowdown P99"] = lambda row: fmt.times(row["figures"]["slowdown_p99"]["mean"])
    if "wasted_ratio" in told:
        rest["wasted"] = lambda row: fmt.percent(row["figures"]["wasted_ratio"]["mean"])
    return [_table(named, _TIMES, {}), _table(named, {}, kept), _table(named, _PER_TOKEN, rest)]


def _table(
    named: Sequence[tuple[str, Value]], times: Mapping[str, str], columns: Mapping[str, Callable[[Value], str]]
) -> Table:
    shown = [figure for figure in times if figure in named[0][1]["figures"]]
    body = [
        [name, *(_time(row, figure) for figure in shown), *(cell(row) for cell in columns.values())]
        for name, row in named
    ]
    return table(["policies", *(times[figure] for figure in shown), *columns], body)


def _time(row: Value, figure: str) -> str:
    if row["figures"][figure]["mean"] is None and _rejected(row):
        return fmt.duration(math.inf)
    return _within(row["figures"][figure], fmt.duration, spread=figure.endswith("_mean_s"))


def _rejected(row: Value) -> float:
    """The share of requests that were never answered."""
    return float(row["figures"].get("rejected_ratio", {}).get("mean") or 0.0)


def _within(figure: Value, form: Callable[[float | None], str], *, spread: bool = True) -> str:
    """A figure with half its interval's width, relative, where it has one."""
    mean, low, high = figure["mean"], figure["low"], figure["high"]
    if not (spread and mean and low is not None):
        return form(mean)
    return f"{form(mean)} ±{50 * (high - low) / mean:.0f}%"


def _change(ratio: Value) -> str:
    """A relative change, with half its interval's width in percentage points."""
    mean, low, high = ratio["mean"], ratio["low"], ratio["high"]
    if mean is None:
        return fmt.DASH
    said, half = fmt.change(mean - 1.0), 0.0 if low is None else 50 * (high - low)
    return f"{said} ±{half:.2g}" if half >= 0.05 else said


def _legend(value: Value, head: str, fixed: set[str]) -> str:
    age = "as replies bring them" if value["report_s"] is None else f"up to {fmt.duration(value['report_s'])} old"
    than = ", ".join(str(name) for axis, name in value["baseline"].items() if axis not in fixed)
    beside = f"; baseline: with these policies instead of {than}" if than else ""
    several = value["traces"] > 1
    spread = f"±: 95 % over {value['traces']} resampled traces; " if several else "One resampled trace, no intervals; "
    refused = ""
    if any(map(_rejected, value["rows"])):
        why = f" In the trace: {rejected_text(value['rejected'])}." if value.get("rejected") else ""
        refused = f" Rejected: never answered, so a miss in P99 and goodput; means are of what was answered.{why}"
    return (
        f"{spread}longest wait: {'on any of them' if several else 'of any request'}. Changes of the {_MEAN_OF[head]}: "
        f"stale loads: with loads {age} instead of exact ones{beside}.{refused}"
    )
