"""The report's sections on gears: what the plan has, and what simulation and measurement made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from headway.domains.cascade.record import CHANGES_TOLD
from headway.report import format as fmt
from headway.report import gearing_charts, words
from headway.report.gear_charts import key
from headway.report.gearing import (
    GEAR_COLUMNS,
    USE_COLUMNS,
    Gearing,
    exits,
    gear_facts,
    gear_rows,
    gearings,
    held,
    use_rows,
)
from headway.report.markup import Markup, join, table, tag
from headway.report.sections import figure, section
from headway.report.story import Story

PLANNED = (
    "A gear is a cascade for a range of load. The higher the load, the more is left to cheap models; the models stay "
    "where they are, so that a change of gear loads nothing. Gear 1 is the dearest."
)
USED = (
    "Gears change with the load, and with the gear who answers. Numbers are those of the plan's gears; the stronger a "
    "color, the dearer."
)


def planned(story: Story) -> Markup | None:
    """The gears of the leading plan: what each asks, up to which load, how rightly and how soon it answers."""
    plan = story.leading
    found = gearings(plan)
    body: list[str] = []
    for gearing in found:
        body += [tag("h3", gearing.stage)] if len(found) > 1 else []
        if any(gear.get("accuracy") is not None for gear in gearing.gears):
            # A pipeline's promise is not that of one of its stages.
            floor = plan.spec.slo.accuracy if len(plan.stages) == 1 else None
            draw = partial(gearing_charts.over_load, gearing, floor, plan.spec.slo.latency_s)
            body.append(figure(draw))
        body += [_gear_table(gearing), _facts(gearing)]
    return section("Gears", PLANNED, *body) if body else None


def used(story: Story) -> Markup | None:
    """Time in each gear, changes of gear and who answered, predicted and measured, for every cascade of the plan."""
    told = [("predicted", "a", _stages(story.predicted)), ("measured", "b", _stages(story.measured))]
    body: list[str] = []
    found = [
        gearing for gearing in gearings(story.plan) if any("cascade" in at.get(gearing.stage, {}) for *_, at in told)
    ]
    for gearing in found:
        runs = [(who, class_, at[gearing.stage]) for who, class_, at in told if "cascade" in at.get(gearing.stage, {})]
        body += [tag("h3", gearing.stage)] if len(found) > 1 else []
        body += _used(gearing, runs, over_time=story.timeline is None)
    return section("Gears in use", [USED, *_right(found, told)], *body) if body else None


def _stages(outcome: Any) -> Mapping[str, Any]:
    stages: Mapping[str, Any] = words.summary(outcome).get("stages", {})
    return stages


def _right(found: Sequence[Gearing], told: Sequence[tuple[str, str, Mapping[str, Any]]]) -> list[str]:
    """How rightly each cascade answered, as sentences."""
    said = []
    for gearing in found:
        parts = [
            f"{fmt.percent(stage['cascade']['accuracy'])} {who}"
            for who, _, stages in told
            if (stage := stages.get(gearing.stage, {})).get("cascade", {}).get("accuracy") is not None
        ]
        if parts:
            where = f" of {gearing.stage}" if len(found) > 1 else ""
            said.append(f"Right answers{where}: {', '.join(parts)}.")
    return said


def _used(gearing: Gearing, runs: Sequence[tuple[str, str, Mapping[str, Any]]], over_time: bool) -> list[Markup]:
    """One cascade's shares of time and of answers, its gear over time, and the same as tables."""
    names, models = gearing.names, gearing.models[::-1]
    times = [(who, _by_gear(stage["cascade"], len(names))) for who, _, stage in runs]
    answers = [(who, [(name, exits(stage["cascade"]).get(name, 0.0)) for name in models]) for who, _, stage in runs]
    numbers = [str(at + 1) for at in range(len(names))]
    parts = [
        figure(lambda width: gearing_charts.shares(times, "ramp", "Share of the time in each gear", width),
               key=key("time in gear", numbers, "ramp")),
        figure(lambda width: gearing_charts.shares(answers, "ramp ink", "Share of the answers by model", width),
               key=key("answers by", models, "ramp ink")),
    ]  # fmt: skip
    told = [
        (_changes(who, stage), class_, stage["gear_history"])
        for who, class_, stage in runs
        if stage.get("gear_history")
    ]
    if over_time and told and len(names) > 1:
        end_s = max(_end_s(stage) for _, _, stage in runs)
        parts.append(figure(lambda width: gearing_charts.over_time(told, len(names), end_s, width)))
    tables = [
        (tag("h3", f"Who answered, {who}"), table(list(USE_COLUMNS), use_rows(stage["cascade"])))
        for who, _, stage in runs
    ]
    parts.append(tag("details", tag("summary", "The figures as a table"), *(part for pair in tables for part in pair)))
    return parts


def _changes(who: str, stage: Mapping[str, Any]) -> str:
    switches = int(stage["cascade"]["switches"])
    cut = f", the first {CHANGES_TOLD:,} shown" if switches > len(stage["gear_history"]) - 1 else ""
    return f"{who}: {fmt.plural(switches, 'change')}{cut}"


def _by_gear(record: Mapping[str, Any], gears: int) -> list[tuple[str, float]]:
    """The share of the time in each gear, those for a lost device counted with the ones of the same number."""
    found = [0.0] * gears
    for (_, at), share in held(record).items():
        found[min(at, gears - 1)] += share
    return [(f"gear {at + 1}", share) for at, share in enumerate(found)]


def _end_s(stage: Mapping[str, Any]) -> float:
    history, whole_s = stage.get("gear_history") or [{"from_s": 0.0}], 0.0
    whole_s = sum(float(each["held_s"]) for each in stage["cascade"]["gears"])
    return max(float(history[0]["from_s"]) + whole_s, float(history[-1]["from_s"]))


def _gear_table(gearing: Gearing) -> Markup:
    rows, asked = gear_rows(gearing), GEAR_COLUMNS.index("asks")
    shown = [at for at in range(len(GEAR_COLUMNS)) if at != asked and any(row[at] != fmt.DASH for row in rows)]
    shown.append(asked)
    head = [GEAR_COLUMNS[at] for at in shown]
    return table(head, [[row[at] for at in shown] for row in rows], last_is_text=True)


def _facts(gearing: Gearing) -> Markup:
    pairs = [tag("li", tag("b", name), tag("span", said)) for name, said in gear_facts(gearing)]
    return join([tag("ol", *pairs, class_="reasons")])
