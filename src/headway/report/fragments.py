"""Small HTML tables of a plan and an outcome for notebooks. They bring no style but what a table needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headway.plan.plan import Plan
from headway.report import format as fmt
from headway.report import words
from headway.report.markup import Markup, table, tag
from headway.sim.outcome import Outcome


def plan_fragment(plan: Plan) -> str:
    """Return a plan as a fragment of HTML: a sentence and a table of its stages.

    >>> from headway.testing.examples import tiny_plan
    >>> plan_fragment(tiny_plan()).startswith('<div class="headway"><p><strong>tiny</strong>')
    True
    """
    keep = words.shown_columns(plan)
    head = [words.STAGE_COLUMNS[i] for i in keep]
    rows = [[row[i] for i in keep] for row in words.stage_rows(plan)]
    cost = tag("strong", fmt.usd_per_hour(plan.cost_usd_per_hour))
    state = "" if plan.feasible else " Predicted to break the promise."
    said = f" for {words.promise(plan.spec.slo)}: {words.capacity(plan)}; {words.optimality(plan)}.{state}"
    return _fragment(
        tag("p", tag("strong", plan.spec.name), " · ", cost, said), table(head, rows, numeric=len(head) - 5)
    )


def outcome_fragment(outcome: Outcome | Mapping[str, Any]) -> str:
    """Return an outcome, or its JSON, as a fragment of HTML: a sentence, its percentiles, its stages."""
    figures = words.summary(outcome)
    kept = figures.get("slo_holds")
    verdict = fmt.DASH if kept is None else "promise kept" if kept else "promise broken"
    said = f" · {words.request_counts(figures)}; {fmt.percent(figures.get('miss_rate'))} missed; {verdict}."
    names = ("p50_s", "p95_s", "p99_s", "worst_5m_p99_s")
    row = [*(words.latency_text(figures, name) for name in names), fmt.usd(figures.get("cost_usd"))]
    whole = table(["P50", "P95", "P99", "worst 5 min P99", "cost"], [row], numeric=0)
    stages = [
        [
            name,
            fmt.count(stage.get("items")),
            fmt.whole_percent(stage.get("utilization")),
            fmt.duration(stage.get("queue_wait_p99_s")),
            fmt.usd(stage.get("cost_usd")),
        ]
        for name, stage in figures.get("stages", {}).items()
    ]
    parts = [tag("p", tag("strong", f"{figures.get('kind', 'simulated')} outcome"), said), whole]
    if stages:
        parts.append(table(["stage", "items", "utilization", "wait p99", "cost"], stages))
    return _fragment(*parts)


def _fragment(*parts: Markup) -> str:
    return str(tag("div", *parts, class_="headway"))
