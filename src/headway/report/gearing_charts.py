"""The gears of a plan over the load that they serve, and what was made of them: shares, and the gear over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headway.report import format as fmt
from headway.report.charts import time_ticks
from headway.report.gear_charts import shade
from headway.report.gearing import Gearing
from headway.report.markup import Markup, tag
from headway.report.svg import LETTER, Frame, Scale, drawing, line, polyline, rect, stepped, text

LEFT, RIGHT = 52.0, 76.0
BAR = 22.0
DARK = 0.5
"""From this opacity on a filled area is labeled in the color of the page."""

Spells = Sequence[Mapping[str, Any]]


def over_load(gearing: Gearing, floor: float | None, slo_s: float, width: float) -> Markup:
    """Return the predicted accuracy and latency of each gear over the rates that it serves."""
    wide = width > 500
    right = RIGHT if wide else 12.0
    height = 320.0
    upper = Frame(width, height, LEFT, right, 28.0, height - 148.0)
    lower = Frame(width, height, LEFT, right, 186.0, 44.0)
    x = upper.x(0.0, gearing.ranges_per_s[-1][1])
    known = [gear["accuracy"] for gear in gearing.gears if gear.get("accuracy") is not None]
    low = min([*known, *([] if floor is None else [floor]), 0.98])
    accuracy = upper.y(max(0.0, low - 0.25 * (1.0 - low)), 1.0)
    latest = max([gear.get("latency_s") or 0.0 for gear in gearing.gears] + [slo_s])
    latency = lower.y(0.0, latest * 1.15)
    parts: list[Markup] = [
        text(0, 14, "predicted share of the answers that are right", "axis-title"),
        text(0, 172, "predicted P95 at the gear's highest rate", "axis-title"),
    ]
    parts += upper.y_axis(accuracy, accuracy.ticks(3), fmt.percent) + lower.y_axis(
        latency, latency.ticks(3), fmt.duration
    )
    for frame, y, name in ((upper, accuracy, "accuracy"), (lower, latency, "latency_s")):
        parts += _columns(gearing, frame, x, y, name)
    for frame, at in ((upper, None if floor is None else accuracy(floor)), (lower, latency(slo_s))):
        if at is not None:
            parts.append(line(frame.x0, at, frame.x1, at, "slo"))
            parts += [text(frame.x1 + 6, at + 4, "promised", "bad-text small")] if wide else []
    parts.append(line(upper.x0, upper.y1, upper.x1, upper.y1, "axis"))
    parts += lower.x_axis(x, x.ticks(6 if wide else 4), lambda value: f"{value:g}", "requests per second")
    return drawing(width, height, "Accuracy and latency of each gear over the load that it serves", parts)


def _columns(gearing: Gearing, frame: Frame, x: Scale, y: Scale, name: str) -> list[Markup]:
    """A column per gear, as wide as its range of rates, with its number where there is room."""
    parts, count = [], len(gearing.gears)
    for at, (gear, (low, high)) in enumerate(zip(gearing.gears, gearing.ranges_per_s, strict=True)):
        value = gear.get(name)
        if value is None:
            continue
        shown = fmt.percent(value) if name == "accuracy" else fmt.duration(value)
        tip = f"gear {at + 1}, {low:.3g} to {fmt.rate(high)}: {gearing.names[at]}; {shown}"
        left, top, opacity = x(low), y(value), shade(at, count)
        wide = x(high) - left
        parts.append(
            rect(left + 0.5, top, wide - 1, frame.y1 - top, "ramp", tag("title", tip), fill_opacity=f"{opacity:g}")
        )
        if wide > 16 and frame.y1 - top > 18:
            class_ = "on-dark strong" if opacity >= DARK else "strong"
            parts.append(text(left + wide / 2, top + 15, str(at + 1), class_, "middle"))
    return parts


def shares(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], class_: str, label: str, width: float) -> Markup:
    """Return stacked bars, one per `(who, [(name, share)])`; the first name is the darkest."""
    left = 84.0
    x = Scale(0.0, 1.0, left, width - 4)
    parts: list[Markup] = []
    for number, (who, found) in enumerate(rows):
        top, below = number * (BAR + 8), 0.0
        parts += [text(0, top + 15, who, "label"), rect(left, top, x(1.0) - left, BAR, "empty")]
        for rank, (name, share) in enumerate(found):
            start, end, opacity = x(below), x(below + share), shade(rank, len(found))
            tip = tag("title", f"{who}: {name} {fmt.percent(share)}")
            parts.append(rect(start, top, end - start, BAR, class_, tip, fill_opacity=f"{opacity:g}"))
            said = fmt.whole_percent(share)
            if end - start > LETTER * len(said) + 8:
                dark = "on-dark small" if opacity >= DARK else "small"
                parts.append(text((start + end) / 2, top + 15, said, f"{dark} passive", "middle"))
            below += share
    return drawing(width, len(rows) * (BAR + 8) - 8, label, parts)


def over_time(told: Sequence[tuple[str, str, Spells]], gears: int, end_s: float, width: float) -> Markup:
    """Return the gear in force over time as staircases, one chart for each `(who, class, spells)`, over one clock."""
    wide, tall, gap = width > 500, max(64.0, 18.0 * gears), 34.0
    height = len(told) * (tall + gap) + 44
    parts: list[Markup] = []
    for number, (who, class_, spells) in enumerate(told):
        top = gap + number * (tall + gap)
        frame = Frame(width, height, LEFT, 12.0, top, height - top - tall)
        x, y = frame.x(0.0, end_s), frame.y(0.5, gears + 0.5)
        parts.append(text(0, top - 12, f"gear in force, {who}", "axis-title"))
        parts += frame.y_axis(y, range(1, gears + 1), str)
        steps = [(x(float(spell["from_s"])), y(min(int(spell["gear"]) + 1, gears))) for spell in spells]
        corners = stepped([*steps, (x(end_s), steps[-1][1])])
        foot = [(corners[0][0], frame.y1), *corners, (corners[-1][0], frame.y1)]
        parts += [polyline(foot, f"area {class_}", close="Z"), polyline(corners, f"curve thin {class_}")]
        parts.append(line(frame.x0, frame.y1, frame.x1, frame.y1, "axis"))
        if number == len(told) - 1:
            parts += frame.x_axis(x, time_ticks(end_s, 8 if wide else 4), fmt.clock, "since the start")
    return drawing(width, height, "The gear in force over time", parts)
