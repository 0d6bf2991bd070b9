"""The sections of a report, in reading order. Each returns its markup, or None when the story has nothing for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from headway.plan.plan import Plan
from headway.report import charts, curves, words
from headway.report import format as fmt
from headway.report.graph_view import NARROW, pipeline_drawing, wide_look
from headway.report.markup import Markup, join, table, tag
from headway.report.story import Story, Told, latencies

WIDTH, NARROW_WIDTH = 760.0, 360.0


def section(title: str, about: str | Iterable[str], *body: str) -> Markup:
    """Return a section: its title and a few sentences aside, its body beside them."""
    sentences = [about] if isinstance(about, str) else list(about)
    aside = tag("div", tag("h2", title), *(tag("p", sentence) for sentence in sentences), class_="about")
    return tag("section", aside, tag("div", *body, class_="body"))


def figure(draw: Callable[[float], Markup], *, key: Markup | None = None, data: Markup | None = None) -> Markup:
    """Return a chart drawn for wide and for narrow pages, with its figures as a table for those who cannot see it."""
    parts = [key] if key else []
    parts.append(tag("div", draw(WIDTH), class_="wide"))
    parts.append(tag("div", draw(NARROW_WIDTH), class_="narrow"))
    if data:
        parts.append(tag("details", tag("summary", "The figures as a table"), data))
    return tag("figure", *parts)


def pipeline(story: Story) -> Markup:
    """The leading plan's graph and stages."""
    plan = story.leading
    about = (
        "What runs where. A bar shows how busy a stage's replicas are on average; a label on an edge is the share of "
        "items that take it, and how many items each becomes."
    )
    when = " when it was planned" if _another_run(story) else ""
    said = [about, f"Predicted{when}: {'; '.join(words.prediction(plan))}."] if plan.predicted else about
    return section("The deployment", said, _graph(plan), _stage_table(plan))


def _another_run(story: Story) -> bool:
    """Whether the predicted outcome and the plan's own prediction are two predictions of one plan."""
    return story.production_plan is None and story.predicted is not None and bool(story.plan.predicted)


def _graph(plan: Plan, measured: Mapping[str, Any] | None = None) -> Markup:
    both = [
        tag("div", pipeline_drawing(plan, look, measured), class_=f"{name} pipeline")
        for name, look in (("wide", wide_look(plan.spec.graph)), ("narrow", NARROW))
    ]
    return tag("figure", *both)


def _stage_table(plan: Plan) -> Markup:
    keep = words.shown_columns(plan)
    rows = [[row[i] for i in keep] for row in words.stage_rows(plan)]
    head = [words.STAGE_COLUMNS[i] for i in keep]
    return table(head, rows, numeric=head.index("replicas"), phrases=("set up",))


def latency(story: Story) -> Markup | None:
    """The latency distribution, predicted and measured, against the SLO."""
    slo, before, after = story.plan.spec.slo, words.summary(story.predicted), words.summary(story.measured)
    before = before or story.plan.predicted
    series = [
        one
        for one in (_series("predicted", "a", story.predicted, before), _series("measured", "b", story.measured, after))
        if one is not None
    ]
    if not series:
        return None
    entries = [(one.class_, one.name) for one in series]
    if story.interval:
        entries.append(("box", "the prediction's own interval"))
    chart = figure(
        lambda width: charts.distribution(series, slo.latency_s, slo.percentile, story.interval, width),
        key=charts.legend(entries),
    )
    body = [chart, _compared(story, before, after)]
    about = [
        f"The promise: {words.promise(slo)}. A line that enters the tinted corner breaks it.",
        "Unanswered requests count as infinitely late, and nothing is left out as warm-up.",
    ]
    if _another_run(story):
        run = f"Predicted is a run of its own, of {words.request_counts(before)}: not that of the planner, above."
        about.append(run)
    if any(one.sparse for one in series):
        about.append("Where only percentiles are known, a dotted line joins them.")
    if after:
        about.append(f"Measured: {words.request_counts(after)}.")
    if story.production_plan:
        about.append("Both are for the plan made for this machine, which was simulated and served.")
        cost = fmt.usd_per_hour(story.plan.cost_usd_per_hour)
        busy = "measured" if after.get("stages") else "predicted"
        said = f"{words.capacity(story.plan)}, {cost}; bars show the {busy} utilization, the table the predicted one."
        body += [tag("h3", "The plan for this machine"), tag("p", said, class_="muted")]
        body += [_graph(story.plan, after.get("stages")), _stage_table(story.plan)]
    title = "Predicted against measured" if after else "Predicted latency"
    return section(title, about, *body)


def _series(name: str, class_: str, outcome: Told | None, figures: Mapping[str, Any]) -> charts.Series | None:
    known, whole = curves.percentiles_of(figures), latencies(outcome)
    tail = curves.tail(whole) if whole is not None else []
    return charts.Series(name, class_, tail, known, not tail) if known or tail else None


def _compared(story: Story, before: Mapping[str, Any], after: Mapping[str, Any]) -> Markup:
    rows = words.compared_rows(before, after)
    head, keep = ["", "predicted", "interval", "measured", "difference"], [0, 1, 2, 3, 4]
    full = [[label, b, words.interval_text(story.interval, label), a, d] for label, b, a, d in rows]
    if not story.interval:
        keep.remove(2)
    if not after:
        keep = [i for i in keep if i < 3]
    return table([head[i] for i in keep], [[row[i] for i in keep] for row in full])


def queue_waits(story: Story) -> Markup | None:
    """How long items wait at each stage."""
    before, after = words.summary(story.predicted).get("stages", {}), words.summary(story.measured).get("stages", {})
    before = before or story.plan.stage_predictions
    stages, rows = [], []
    for name in story.plan.spec.graph.order:
        bars = []
        for who, class_, found in (("predicted", "a", before.get(name)), ("measured", "b", after.get(name))):
            if found and found.get("queue_wait_p99_s") is not None:
                p50, p99 = found.get("queue_wait_p50_s"), found["queue_wait_p99_s"]
                bars.append((who, class_, p50, p99))
                busy = fmt.whole_percent(found.get("utilization"))
                rows.append([name, who, fmt.duration(p50), fmt.duration(p99), busy])
        if bars:
            stages.append((name, bars))
    if not stages:
        return None
    shown = {(class_, name) for _, bars in stages for name, class_, _, _ in bars}
    data = table(["stage", "", "P50", "P99", "utilization"], rows, numeric=2)
    about = "How long items wait at a stage before a replica takes them. Bars reach to the P99, a notch marks the P50."
    key = charts.legend(sorted(shown))
    return section("Queue waits", about, figure(lambda width: charts.waits(stages, width), key=key, data=data))


def costs(story: Story) -> Markup | None:
    """The plan's cost beside the baselines'."""
    plan = story.leading
    if not story.baselines:
        return None
    slo = plan.spec.slo
    own = charts.CostBar(
        "this plan", plan.cost_usd_per_hour, plan.feasible, words.missed(slo, plan.predicted), own=True
    )
    bars = [own]
    for name, facts in story.baselines:
        cost, share = facts.get("cost_usd_per_hour"), words.missed(slo, facts)
        if cost is not None:
            # One that breaks the promise though few are late, by its accuracy say, shall not be marked with its misses.
            few = words.kept(slo, facts)
            broken = "below the accuracy floor" if few and _below_floor(plan, facts) else "breaks the promise"
            bars.append(charts.CostBar(name, cost, facts.get("feasible"), share, broken=broken if few else ""))
    rows = words.comparison_rows([("this plan", words.plan_facts(plan)), *story.baselines])
    rows = [[*row[:6], row[7]] for row in rows]
    bound = plan.lower_bound_usd_per_hour
    chart = figure(lambda width: charts.cost_bars(bars, bound, width, f"hatch-{width:.0f}"))
    about = [
        "What the same promise costs when planned in other ways. Hatched plans break it, or are below the accuracy "
        "floor."
        if any(_below_floor(plan, facts) for _, facts in story.baselines)
        else "What the same promise costs when planned in other ways. Hatched plans break it.",
        f"This plan: {words.optimality(plan)}.",
    ]
    head = ["plan", "$/h", "against this", "misses", "P99", "keeps it", "note"]
    return section("Cost", about, chart, table(head, rows, last_is_text=True))


def _below_floor(plan: Plan, facts: Mapping[str, Any]) -> bool:
    accuracy, floor = facts.get("accuracy"), plan.spec.slo.accuracy
    return accuracy is not None and floor is not None and accuracy < floor


def frontier(story: Story) -> Markup | None:
    """How the cheapest cost moves with the SLO."""
    plan = story.leading
    points = words.frontier_points(plan)
    if len(points) < 2:
        return None
    slo_s, cost = plan.spec.slo.latency_s, plan.cost_usd_per_hour
    about = "What a tighter promise would cost, and what a looser one would save, planned anew for each point."
    data = table(["SLO", "$/h", ""], words.frontier_rows(plan), last_is_text=True)
    return section("Cost against the SLO", about, figure(lambda w: charts.frontier(points, slo_s, cost, w), data=data))


def traffic(story: Story) -> Markup | None:
    """The trace's rate over time."""
    trace = story.trace
    if trace is None or not trace.requests or not trace.has_length:
        return None
    bin_s, curve = curves.rate_over_time(trace)
    mean, peak = trace.rate_per_s, max(value for _, value in curve)
    about = (
        f"{fmt.count(trace.requests)} requests in {fmt.duration(trace.duration_s)}: {fmt.rate(mean)} on average, "
        f"{fmt.rate(peak)} at the peak, {fmt.times(peak / mean)} the average."
    )
    return section("Traffic", about, figure(lambda width: charts.rate(curve, bin_s, trace.duration_s, mean, width)))


def reasons(story: Story) -> Markup | None:
    """Why the plan is as it is."""
    plan = story.leading
    if not plan.reasons:
        return None
    items = [tag("li", tag("b", where), tag("span", text)) for where, text in words.reason_pairs(plan)]
    return section("Reasons", "Why the plan is as it is, by stage.", tag("ol", *items, class_="reasons"))


def profile(story: Story) -> Markup | None:
    """The profile rows that the plan rests on."""
    source = story.profile or story.leading.profile
    if not source.rows:
        return None
    figures = [
        [
            row.stage,
            row.variant,
            row.hardware,
            fmt.count(row.batch_size),
            *(fmt.duration(value) for value in (row.mean_s, row.p50_s, row.p95_s, row.p99_s)),
            fmt.count(row.samples),
            fmt.percent(row.accuracy),
            row.evidence,
        ]
        for row in source.rows
    ]
    head = ["stage", "variant", "hardware", "batch", "mean", "P50", "P95", "P99", "samples", "accuracy", "evidence"]
    shown = [i for i in range(len(head)) if any(row[i] not in (fmt.DASH, "default") for row in figures)]
    about = "How long a batch takes: what every prediction above rests on."
    kinds = {row.evidence for row in source.rows}
    if len(kinds) == 1:
        shown.remove(head.index("evidence"))
        about += f" Every row is {'a prior' if kinds == {'prior'} else kinds.pop()}."
    body = table([head[i] for i in shown], [[row[i] for i in shown] for row in figures], numeric=2 + (1 in shown))
    if len(figures) > 16:
        body = tag("details", tag("summary", f"All {len(figures)} rows"), body)
    problems = [tag("li", sentence) for sentence in words.profile_problems(source.stamp)]
    if problems:
        body = join([body, tag("h3", "What was not measured"), tag("ul", *problems, class_="warnings")])
    return section("Profile", about, body)


def provenance(story: Story) -> Markup:
    """Where the figures come from: seeds, hashes, versions, machine."""
    plan = story.leading
    facts: dict[str, Any] = {"plan": plan.hash, "profile": plan.profile.hash}
    if story.production_plan:
        facts["plan for this machine"] = story.plan.hash
    if story.trace is not None:
        facts["trace"] = story.trace.hash
    stamp = {name: value for name, value in plan.profile.stamp.items() if name != "problems"}
    sources = [plan.provenance, {"profile": stamp}]
    told = (("predicted", story.predicted), ("measured", story.measured))
    sources += [{name: words.summary(outcome).get("provenance", {})} for name, outcome in told]
    for source in (*sources, story.provenance):
        facts |= flatten(source)
    pairs = [part for key, value in facts.items() for part in (tag("dt", key), tag("dd", fmt.plain(value)))]
    notes = [tag("p", note) for note in story.notes]
    body = [tag("dl", *pairs, class_="provenance")]
    if notes:
        return section("Provenance", "", tag("div", join(notes), class_="notes"), *body)
    return section("Provenance", "Enough to make the same figures again.", *body)


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, keys joined by spaces, underscores read as spaces.

    >>> flatten({"machine": {"cpu_count": 2}})
    {'machine cpu count': 2}
    """
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        flat |= flatten(inner, name) if isinstance(inner, Mapping) else {name: inner}
    return flat
