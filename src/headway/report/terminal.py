"""Plans and outcomes for the terminal: plain tables that need no color and fit 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from headway.plan.plan import Plan
from headway.plan.rejected import rejected_text
from headway.report import format as fmt
from headway.report import words
from headway.report.gearing import GEAR_COLUMNS, Gearing, gear_facts, gear_rows, gearings, use_facts
from headway.report.tables import heading, line, pairs, table, warnings
from headway.sim.outcome import Outcome

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

_BAR_WIDTH = 24


def plan_view(plan: Plan) -> Group:
    """Return a plan to be printed with Rich: what it costs and promises, its stages, its reasons, its frontier.

    >>> from headway.testing.examples import tiny_plan
    >>> len(plan_view(tiny_plan()).renderables)
    3
    """
    from rich.console import Group

    parts: list[RenderableType] = [*_headline(plan), _stage_table(plan)]
    for gearing in gearings(plan):
        parts += [heading(f"gears of {gearing.stage}"), _gear_table(gearing), pairs(gear_facts(gearing)), line("")]
    if plan.reasons:
        said = words.headroom(plan)
        parts += [heading("why"), pairs(pair for pair in words.reason_pairs(plan) if pair[1] != said)]
    points = words.frontier_points(plan)
    if points:
        parts += [heading("\ncheapest cost against the SLO"), _frontier_table(plan)]
    return Group(*parts, *warnings(plan.predicted.get("low_confidence", ())))


def outcome_view(outcome: Outcome | Mapping[str, Any]) -> Group:
    """Return an outcome, or its JSON, to be printed with Rich."""
    from rich.console import Group

    figures = words.summary(outcome)
    cost = f"{fmt.usd(figures.get('cost_usd'))}, initial start-up {fmt.usd(figures.get('startup_cost_usd'))}"
    missed, windows = fmt.percent(figures.get("miss_rate")), figures.get("windows_kept")
    facts = [
        ("requests", words.request_counts(figures)),
        ("promise", words.promised(figures)),
        ("latency", words.percentiles(figures)),
        *([] if windows is None else [("windows", f"kept in {fmt.percent(windows)} of them")]),
        ("miss rate", missed if windows is None else f"{missed} of all requests"),
        ("worst 5 min", f"P99 {words.latency_text(figures, 'worst_5m_p99_s')}"),
        ("cost", cost),
    ]
    if figures.get("accuracy") is not None or figures.get("labeled"):
        facts.append(("accuracy", words.answered_rightly(figures)))
    for name, stage in figures.get("stages", {}).items():
        facts += _fleet_facts(name, stage)
        facts += [(name, f"{what} {said}") for what, said in use_facts(stage.get("cascade"))]
    stages = [
        [
            name,
            fmt.count(stage.get("items")),
            f"{stage.get('mean_batch_size', 0):.1f}",
            fmt.whole_percent(stage.get("utilization")),
            fmt.duration(stage.get("queue_wait_p50_s")),
            fmt.duration(stage.get("queue_wait_p99_s")),
            fmt.usd(stage.get("cost_usd")),
        ]
        for name, stage in figures.get("stages", {}).items()
    ]
    head = ["stage", "items", "batch", "util.", "wait p50", "wait p99", "$"]
    title = heading(f"{figures.get('kind', 'simulated')} outcome")
    tables = [table(head, stages)] if stages else []
    return Group(title, pairs(facts), *tables, *warnings(figures.get("low_confidence", ())))


def comparison_view(named: Mapping[str, Mapping[str, Any]]) -> Group:
    """Return plans side by side, each by name with its facts; the first is what the others are compared with.

    Facts: `cost_usd_per_hour`, `miss_rate`, `p99_s`, `feasible`, `gap_ratio`, `note`; what is missing is a dash.
    """
    from rich.console import Group

    head = ["plan", "$/h", "against first", "misses", "P99", "keeps it", "gap"]
    rows = words.comparison_rows(named.items())
    notes = [(row[0], row[-1]) for row in rows if row[-1]]
    return Group(table(head, [row[:-1] for row in rows]), *([pairs(notes)] if notes else []))


def predicted_measured_view(
    predicted: Outcome | Mapping[str, Any],
    measured: Outcome | Mapping[str, Any],
    interval: Mapping[str, Any] | None = None,
) -> Group:
    """Return what was predicted beside what was measured; `interval` holds the simulator's own bounds in seconds."""
    from rich.console import Group

    before, after = words.summary(predicted), words.summary(measured)
    rows = [
        [label, was, words.interval_text(interval, label), became, difference]
        for label, was, became, difference in words.compared_rows(before, after)
    ]
    keep = [0, 1, 2, 3, 4] if interval else [0, 1, 3, 4]
    head = ["", "predicted", "interval", "measured", "difference"]
    whole = table([head[i] for i in keep], [[row[i] for i in keep] for row in rows])
    waits = _wait_rows(before.get("stages", {}), after.get("stages", {}))
    head = ["stage", "predicted wait p99", "measured", "predicted util.", "measured"]
    tables = [whole, table(head, waits)] if waits else [whole]
    used = [
        (name, f"{who} {what} {said}")
        for name in before.get("stages", {})
        for who, figures in (("predicted", before), ("measured", after))
        for what, said in use_facts(figures.get("stages", {}).get(name, {}).get("cascade"))
    ]
    return Group(*tables, *([pairs(used)] if used else []))


def diff_view(diff: Mapping[str, Any]) -> Group:
    """Return the difference of two plans: what changes per stage, what it saves and risks, on which evidence."""
    from rich.console import Group

    cost = diff.get("cost_usd_per_hour", {})
    saved = cost.get("saved")
    effect = f"saves {fmt.usd_per_hour(saved)}" if (saved or 0) >= 0 else f"costs {fmt.usd_per_hour(-saved)} more"
    ratio = fmt.change(words.relative(cost.get("from"), cost.get("to")))
    costs = f"{fmt.usd_per_hour(cost.get('from'))} → {fmt.usd_per_hour(cost.get('to'))}, {effect} ({ratio})"
    title = f"{_end(diff.get('from'))} → {_end(diff.get('to'))}"
    parts: list[RenderableType] = [heading(title), pairs([("cost", costs)])]
    rows = [
        [str(c["stage"]) or "promise", str(c["field"]), fmt.plain(c.get("from")), fmt.plain(c.get("to"))]
        for c in diff.get("changes", ())
    ]
    if rows:
        parts.append(table(["stage", "what", "from", "to"], rows, text_columns=("stage", "what")))
    else:
        parts.append(line("No stage changes."))
    predicted = diff.get("predicted", {})
    before, after = predicted.get("from") or {}, predicted.get("to") or {}
    if before or after:
        compared = [list(row) for row in words.compared_rows(before, after) if row[0] != "cost of the run"]
        parts.append(table(["predicted", "from", "to", "difference"], compared))
    for title, key in (("what it risks", "risks"), ("on which evidence", "evidence")):
        sentences = list(diff.get(key, ()))
        if sentences:
            parts += [heading(title), pairs(("·", sentence) for sentence in sentences)]
    return Group(*parts)


def _headline(plan: Plan) -> list[RenderableType]:
    slo, bound = plan.spec.slo, plan.lower_bound_usd_per_hour
    limit = "" if bound is None else f"lower bound {fmt.usd_per_hour(bound)}: "
    promised = words.promise(slo)
    facts = [
        ("deploy", words.capacity(plan)),
        ("cost", f"{fmt.usd_per_hour(plan.cost_usd_per_hour)}, {limit}{words.optimality(plan)}"),
        ("promise", promised if plan.feasible else f"{promised}: predicted to be broken"),
    ]
    if plan.predicted:
        facts.append(("predicted", "\n".join(words.prediction(plan))))
    for name, predicted in plan.stage_predictions.items():
        facts += _fleet_facts(name, predicted)
    facts.append(("headroom", words.headroom(plan)))
    accuracy = plan.accuracy if plan.accuracy is not None else plan.predicted.get("accuracy")
    if accuracy is not None:
        facts.append(("accuracy", words.accuracy(accuracy, plan.spec.slo.accuracy)))
    return [heading(plan.spec.name), pairs(facts)]


def _fleet_facts(name: str, stage: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a stage tells of itself, and why it rejected requests where it did."""
    said = words.stage_figures(stage.get("figures", {}))
    if stage.get("rejected"):
        said.append(rejected_text(stage["rejected"]))
    return [(name, each) for each in said]


def _stage_table(plan: Plan) -> Table:
    keep = words.shown_columns(plan)
    short = {"utilization": "util."}
    head = [short.get(words.STAGE_COLUMNS[i], words.STAGE_COLUMNS[i]) for i in keep]
    rows = [[row[i] for i in keep] for row in words.stage_rows(plan)]
    return table(head, rows, text_columns=("stage", "variant", "hardware", "set up"))


def _gear_table(gearing: Gearing) -> Table:
    rows = gear_rows(gearing)
    shown = [at for at in range(len(GEAR_COLUMNS)) if any(row[at] != fmt.DASH for row in rows)]
    head = [GEAR_COLUMNS[at] for at in shown]
    return table(head, [[row[at] for at in shown] for row in rows], text_columns=("asks",))


def _frontier_table(plan: Plan) -> Table:
    points = words.frontier_points(plan)
    most = max((cost for _, cost in points if cost is not None), default=0.0) or 1.0
    rows = []
    for (slo_s, cost), (slo, price, sure) in zip(points, words.frontier_rows(plan), strict=True):
        bar = "" if cost is None else "█" * max(1, round(_BAR_WIDTH * cost / most))
        said = f"{sure}, this plan" if slo_s == plan.spec.slo.latency_s else sure
        rows.append([slo, price, bar, said])
    return table(["SLO", "$/h", "", " "], rows, text_columns=("", " "))


def _end(end: Any) -> str:
    """One end of a difference: a plan's name and the begin of its hash, which tells two plans of one name apart."""
    if not isinstance(end, Mapping):
        return str(end)
    return f"{end.get('name')} ({str(end['plan_hash'])[:8]})" if end.get("plan_hash") else str(end.get("name"))


def _wait_rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for name in dict.fromkeys([*before, *after]):
        both = before.get(name, {}), after.get(name, {})
        waits = [fmt.duration(stage.get("queue_wait_p99_s")) for stage in both]
        used = [fmt.whole_percent(stage.get("utilization")) for stage in both]
        rows.append([name, *waits, *used])
    return rows
