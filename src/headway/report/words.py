"""What a plan and an outcome say, as sentences and table rows, once for the terminal, the HTML file and notebooks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from headway.plan.plan import Plan, Reason
from headway.report import format as fmt
from headway.sim.outcome import Outcome
from headway.spec.model import Slo

STAGE_COLUMNS = ("stage", "variant", "hardware", "set up", "replicas", "batch", "utilization", "wait p99", "$/h")
SHOWN = ("variant", "hardware", "replicas", "devices", "max_batch_size", "servers")
"""Fields of a configuration that a table of stages shows in columns of their own, or that the spec says."""


def summary(outcome: Outcome | Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the summary of an outcome, be it one, its JSON, or nothing (an empty mapping)."""
    if outcome is None:
        return {}
    return outcome.to_dict() if isinstance(outcome, Outcome) else outcome


def promise(slo: Slo) -> str:
    """Return the promise as a phrase.

    >>> promise(Slo(latency="300ms", percentile=99))
    '99% of requests within 300 ms'
    """
    whole = f"{fmt.percent(slo.percentile / 100)} of requests within {fmt.duration(slo.latency_s)}"
    return whole + _in_windows(slo.window_s, slo.objective)


def promised(figures: Mapping[str, Any]) -> str:
    """Return the promise that an outcome's summary is held against, and whether it was kept.

    >>> promised({"slo_s": 0.1, "slo_percentile": 99.0, "slo_window_s": 10.0, "slo_objective": 0.5, "slo_holds": True})
    '99% within 100 ms in 50% of the windows of 10 s  kept'
    """
    whole = f"{fmt.percent(figures['slo_percentile'] / 100)} within {fmt.duration(figures['slo_s'])}"
    holds = figures.get("slo_holds")
    verdict = "" if holds is None else f"  {'kept' if holds else 'broken'}"
    return whole + _in_windows(figures.get("slo_window_s"), figures.get("slo_objective")) + verdict


def _in_windows(window_s: float | None, objective: float | None) -> str:
    if window_s is None or objective is None:
        return ""
    return f" in {fmt.percent(objective)} of the windows of {fmt.clock(window_s)}"


def percentile_key(percent: float) -> str | None:
    """Return the summary's field of a percentile, None when summaries do not carry it."""
    return {50.0: "p50_s", 95.0: "p95_s", 99.0: "p99_s"}.get(percent)


def answered(latency_s: float) -> str:
    """Return a latency in a sentence; an infinite one is that of a request that was not answered.

    >>> answered(0.3), answered(math.inf)
    ('300 ms', 'not answered in time')
    """
    return "not answered in time" if math.isinf(latency_s) else fmt.duration(latency_s)


def latency_text(figures: Mapping[str, Any], key: str) -> str:
    """Return a latency of a summary; one that is present but null is that of unanswered requests, so infinite."""
    if key in figures and figures[key] is None:
        return fmt.duration(math.inf)
    return fmt.duration(figures.get(key))


def kept(slo: Slo, figures: Mapping[str, Any]) -> bool | None:
    """Return whether a summary's figures keep the promise, None when they do not say."""
    if "slo_holds" in figures:
        return bool(figures["slo_holds"])
    miss_rate, windows = figures.get("miss_rate"), figures.get("windows_kept")
    if slo.window_s is not None:
        return None if windows is None or slo.objective is None else windows >= slo.objective - 1e-12
    return None if miss_rate is None else miss_rate <= 1 - slo.percentile / 100 + 1e-12


def missed(slo: Slo, figures: Mapping[str, Any]) -> str:
    """Return how far a summary is from a promise, as a phrase: the misses, or the windows in which it was kept.

    Empty where the figures do not say.

    >>> missed(Slo(latency="300ms", percentile=99), {"miss_rate": 0.02})
    '2% miss'
    >>> missed(Slo(latency="300ms", percentile=99, window="10s", objective="90%"), {"windows_kept": 0.75})
    'kept in 75% of windows'
    """
    windows, misses = figures.get("windows_kept"), figures.get("miss_rate")
    if slo.window_s is not None and windows is not None:
        return f"kept in {fmt.percent(windows)} of windows"
    return "" if misses is None else f"{fmt.percent(misses)} miss"


def percentiles(figures: Mapping[str, Any]) -> str:
    """Return a summary's percentiles as a phrase."""
    return ", ".join(f"{name} {latency_text(figures, f'{name.lower()}_s')}" for name in ("P50", "P95", "P99"))


def prediction(plan: Plan) -> list[str]:
    """Return what is predicted of a plan as clauses: percentiles, misses, and the worst that was seen."""
    figures, slo = plan.predicted, plan.spec.slo
    windows, allowed = slo.window_s is not None, fmt.percent(1 - slo.percentile / 100)
    share = fmt.percent(figures.get("miss_rate"))
    said = f"{share} miss ({allowed} allowed)"
    if windows:
        kept = fmt.percent(figures.get("windows_kept"))
        said = f"kept in {kept} of the windows ({fmt.percent(slo.objective)} needed); {share} of all requests miss"
    parts = [f"{percentiles(figures)}; {said}"]
    if "worst_5m_p99_s" in figures:
        parts.append(f"P99 {latency_text(figures, 'worst_5m_p99_s')} in the worst five minutes")
    traces = plan.provenance.get("resampled_traces")
    if traces and figures.get("windows_kept_p97") is not None:
        least = fmt.percent(figures["windows_kept_p97"])
        parts.append(f"kept in at least {least} of the windows on 97% of {traces} resampled traces")
    elif traces and not windows and figures.get("miss_rate_p97") is not None:
        parts.append(f"at most {fmt.percent(figures['miss_rate_p97'])} miss on 97% of {traces} resampled traces")
    return parts


def optimality(plan: Plan) -> str:
    """Return how far from the cheapest possible the plan can be, as a clause.

    >>> from headway.testing.examples import tiny_plan
    >>> optimality(tiny_plan())
    'no lower bound is known'
    """
    gap = plan.gap_ratio
    if gap is None:
        return "no lower bound is known"
    if gap < 0:
        return f"below the lower bound of {fmt.usd_per_hour(plan.lower_bound_usd_per_hour)} for keeping the promise"
    if gap == 0:
        return "proven cheapest in the space searched"
    return f"at most {fmt.percent(gap)} of the cost could still be saved"


def breaks_first(plan: Plan) -> str | None:
    """Return the stage that the plan's reasons name as the first to break under more traffic, or None."""
    reason = _headroom_reason(plan)
    return reason.stage if reason else None


def headroom(plan: Plan) -> str:
    """Return at which multiple of the traffic the promise breaks, and where first, as far as this is known."""
    reason = _headroom_reason(plan)
    if reason:
        return reason.text
    return "not known" if plan.headroom_ratio is None else f"holds up to {fmt.times(plan.headroom_ratio)} the traffic"


def _headroom_reason(plan: Plan) -> Reason | None:
    return next((reason for reason in plan.reasons if reason.code == "headroom"), None)


def reason_pairs(plan: Plan) -> list[tuple[str, str]]:
    """Return (stage or `plan`, sentence) for every reason; a sentence need not repeat the stage it stands beside."""
    return [
        (reason.stage or "plan", reason.text.removeprefix(f"{reason.stage}: ") if reason.stage else reason.text)
        for reason in plan.reasons
    ]


def capacity(plan: Plan) -> str:
    """Return what is deployed, as a phrase: replicas or devices, stages and hardware.

    >>> from headway.testing.examples import tiny_plan
    >>> capacity(tiny_plan())
    '4 replicas over 2 stages on cpu'
    """
    fields = [config.to_dict() for config in plan.stages.values()]
    stages = fmt.plural(len(fields), "stage")
    if not all(("replicas" in f or "devices" in f) and "hardware" in f for f in fields):
        return stages
    names = fmt.listing(list(dict.fromkeys(str(f["hardware"]) for f in fields)))
    counts = {word: [int(f[f"{word}s"]) for f in fields if f"{word}s" in f] for word in ("replica", "device")}
    held = [fmt.plural(sum(found), word) for word, found in counts.items() if found]
    if len(fields) == 1 and "max_batch_sizes" in fields[0]:
        models = list(fields[0]["max_batch_sizes"])
        return f"{fmt.plural(len(models), 'model')} ({fmt.listing(models)}) on {held[0]} of {names}"
    return f"{fmt.listing(held)} over {stages} on {names}"


def stage_rows(plan: Plan) -> list[list[str]]:
    """Return one row per stage in the order of `STAGE_COLUMNS`; what a kind of stage does not have is a dash."""
    rows = []
    for name in plan.spec.graph.order:
        config, predicted = plan.stages[name].to_dict(), plan.stage_predictions.get(name, {})
        rows.append(
            [
                name,
                fmt.plain(config.get("variant")),
                fmt.plain(config.get("hardware")),
                set_up(config),
                fmt.plain(config.get("replicas", config.get("devices"))),
                fmt.plain(config.get("max_batch_size", max(config.get("max_batch_sizes", {"": None}).values()))),
                fmt.whole_percent(predicted.get("utilization")),
                fmt.duration(predicted.get("queue_wait_p99_s")),
                fmt.usd(plan.stage_cost_usd_per_hour(name)),
            ]
        )
    return rows


def set_up(fields: Mapping[str, Any]) -> str:
    """Return what else a configuration says, as a phrase; empty where it says no more, or more than fits one.

    >>> set_up({"hardware": "gpu", "replicas": 2, "token_budget": 512, "order": "fcfs", "max_wait_s": None})
    'token budget 512, order fcfs'
    """
    if any(isinstance(value, list | dict) for value in fields.values()):
        return ""
    more = {name: value for name, value in fields.items() if name not in SHOWN and value}
    return ", ".join(
        f"{name.replace('_', ' ')} {value}" if isinstance(value, str | int) else _figure(name, value)
        for name, value in more.items()
    )


def shown_columns(plan: Plan) -> list[int]:
    """Return which of `STAGE_COLUMNS` say something: variants where there is a choice, more where there is more."""
    choice = any(name != "default" for name in plan.variants.values())
    more = any(set_up(config.to_dict()) for config in plan.stages.values())
    shown = {"variant": choice, "set up": more}
    return [index for index, name in enumerate(STAGE_COLUMNS) if shown.get(name, True)]


def plan_facts(plan: Plan) -> dict[str, Any]:
    """Return the facts of a plan in the form in which plans are set side by side."""
    return {
        "cost_usd_per_hour": plan.cost_usd_per_hour,
        "miss_rate": plan.predicted.get("miss_rate"),
        "p99_s": plan.predicted.get("p99_s"),
        "feasible": plan.feasible,
        "gap_ratio": plan.gap_ratio,
        "note": optimality(plan),
    }


def comparison_rows(named: Iterable[tuple[str, Mapping[str, Any]]]) -> list[list[str]]:
    """Return rows of (plan, cost, cost against the first, misses, P99, kept, gap, note)."""
    rows: list[list[str]] = []
    first: float | None = None
    for name, facts in named:
        cost = facts.get("cost_usd_per_hour")
        first = first if rows else cost
        against = fmt.change(relative(first, cost)) if rows else ""
        kept, gap = fmt.plain(facts.get("feasible")), fmt.percent(facts.get("gap_ratio"))
        misses, p99 = fmt.percent(facts.get("miss_rate")), latency_text(facts, "p99_s")
        rows.append([name, fmt.usd(cost), against, misses, p99, kept, gap, str(facts.get("note") or "")])
    return rows


def frontier_points(plan: Plan) -> list[tuple[float, float | None]]:
    """Return (SLO in seconds, cheapest cost in dollars per hour or None when no plan was found), by rising SLO."""
    points = [(float(point["slo_s"]), point.get("cost_usd_per_hour")) for point in plan.frontier]
    return sorted(points, key=lambda point: point[0])


def frontier_rows(plan: Plan) -> list[list[str]]:
    """Return rows of (SLO, cost, how sure this is), by rising SLO."""
    rows = []
    for point in sorted(plan.frontier, key=lambda point: float(point["slo_s"])):
        cost = point.get("cost_usd_per_hour")
        sure = "no plan found" if cost is None else "proven" if point.get("proven") else "best found"
        rows.append([fmt.duration(point["slo_s"]), fmt.usd(cost), sure])
    return rows


def compared_rows(predicted: Mapping[str, Any], measured: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return (figure, predicted, measured, difference relative to the prediction) for every figure that either has."""
    rows = []
    for label, key in (("P50", "p50_s"), ("P95", "p95_s"), ("P99", "p99_s"), ("worst 5 min P99", "worst_5m_p99_s")):
        if key in predicted or key in measured:
            difference = fmt.change(relative(predicted.get(key), measured.get(key)))
            rows.append((label, latency_text(predicted, key), latency_text(measured, key), difference))
    before, after = predicted.get("miss_rate"), measured.get("miss_rate")
    rows.append(("miss rate", fmt.percent(before), fmt.percent(after), _points(before, after)))
    before, after = predicted.get("windows_kept"), measured.get("windows_kept")
    if before is not None or after is not None:
        rows.append(("windows kept", fmt.percent(before), fmt.percent(after), _points(before, after)))
    before, after = predicted.get("accuracy"), measured.get("accuracy")
    if before is not None or after is not None:
        rows.append(("accuracy", fmt.percent(before), fmt.percent(after), _points(before, after)))
    costs = predicted.get("cost_usd"), measured.get("cost_usd")
    rows.append(("cost of the run", fmt.usd(costs[0]), fmt.usd(costs[1]), fmt.change(relative(*costs))))
    return rows


def interval_text(interval: Mapping[str, Any] | None, label: str) -> str:
    """Return the simulator's own interval of `P50`, `P95` or `P99`."""
    bounds = (interval or {}).get(f"{label.lower()}_s")
    return f"{fmt.duration(bounds[0])} to {fmt.duration(bounds[1])}" if bounds else fmt.DASH


def profile_problems(stamp: Mapping[str, Any]) -> list[str]:
    """Return what a profile's stamp says was not measured, as sentences: one for each reason, with all its places.

    >>> where = {"stage": "ocr", "hardware": "cpu"}
    >>> failed = [{"status": "failed", **where, "batch_size": size, "text": "no memory"} for size in (4, 8)]
    >>> profile_problems({"problems": failed})
    ['failed: ocr, cpu, 4; ocr, cpu, 8: no memory']
    """
    found: dict[tuple[str, str], list[str]] = {}
    for problem in stamp.get("problems", ()):
        where = [str(problem[key]) for key in ("stage", "variant", "hardware", "batch_size") if key in problem]
        found.setdefault((str(problem.get("status", "")), str(problem.get("text", ""))), []).append(", ".join(where))
    return [
        ": ".join(part for part in (status, "; ".join(places), text) if part)
        for (status, text), places in found.items()
    ]


def answered_rightly(figures: Mapping[str, Any]) -> str:
    """Return an outcome's accuracy, of a replay with labels with what it rests on and what was predicted of it.

    >>> answered_rightly({"accuracy": 0.9, "labeled": {"answers": 10, "right": 9, "predicted_accuracy": 0.95}})
    '90% of 10 labeled answers; 95% predicted'
    """
    share, labeled = figures.get("accuracy"), figures.get("labeled")
    if not labeled:
        return fmt.percent(share)
    if share is not None:
        said = f"{fmt.percent(share)} of {labeled['answers']:,} labeled answers"
    elif labeled.get("unread"):
        said = f"unknown: none of {labeled['unread']:,} labeled answers can be judged"
    else:
        said = "no answer with a label"
    predicted = labeled.get("predicted_accuracy")
    return said if predicted is None else f"{said}; {fmt.percent(predicted)} predicted"


def accuracy(share: float, floor: float | None) -> str:
    """Return an accuracy as a phrase, with what is promised of it.

    >>> accuracy(0.9, None), accuracy(0.934, 0.9)
    ('90%', '93.4% (at least 90% promised)')
    """
    return fmt.percent(share) + ("" if floor is None else f" (at least {fmt.percent(floor)} promised)")


def request_counts(figures: Mapping[str, Any]) -> str:
    """Return what became of the requests; what did not happen is left out."""
    counts = figures.get("requests", {})
    parts = [f"{fmt.count(counts.get('offered'))} offered", f"{fmt.count(counts.get('answered'))} answered"]
    parts += [
        f"{fmt.count(counts[key])} {key.replace('_', ' ')}"
        for key in ("late", "dropped", "rejected", "failed", "in_flight")
        if counts.get(key)
    ]
    return ", ".join(parts)


def stage_figures(figures: Mapping[str, Any]) -> list[str]:
    """Return what a kind of stage tells of itself as lines: one over all of its requests, and one for each class.

    >>> stage_figures({"ttft_p99_s": 0.5, "preemptions": 2.0, "chat.kept_ratio": 0.99})
    ['ttft p99 500 ms, preemptions 2', 'chat: kept 99%']
    """
    lines: dict[str, list[str]] = {}
    for name, value in figures.items():
        of, _, figure = name.rpartition(".")
        lines.setdefault(of, []).append(_figure(figure, value))
    return [f"{of}: {', '.join(parts)}" if of else ", ".join(parts) for of, parts in lines.items()]


def _figure(name: str, value: float | None) -> str:
    """A figure by its name, whose end is its unit; one that is null is infinite."""
    if name.endswith("_per_s"):
        return f"{name.removesuffix('_per_s').replace('_', ' ')} {fmt.rate(value)}"
    if name.endswith("_s"):
        return f"{name.removesuffix('_s').replace('_', ' ')} {fmt.duration(math.inf if value is None else value)}"
    if name.endswith("_ratio"):
        return f"{name.removesuffix('_ratio').replace('_', ' ')} {fmt.percent(value)}"
    return f"{name.replace('_', ' ')} {fmt.DASH if value is None else f'{value:.4g}'}"


def relative(before: float | None, after: float | None) -> float | None:
    """Return the change from `before` to `after` relative to `before`, None when it is not known."""
    return None if before is None or after is None or not before else after / before - 1


def _points(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return fmt.DASH
    points = (after - before) * 100
    return "±0 points" if abs(points) < 5e-3 else f"{'+' if points > 0 else '−'}{abs(points):.2f} points"
