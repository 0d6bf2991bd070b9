"""The charts of a report: each a function from figures to an SVG of a given width, in classes the page gives colors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headway.report import format as fmt
from headway.report.curves import Curve
from headway.report.graph_view import shorten
from headway.report.markup import Markup, join, tag
from headway.report.svg import (
    LETTER,
    Frame,
    Point,
    Scale,
    dot,
    drawing,
    hatch,
    line,
    polyline,
    rect,
    stepped,
    text,
)

_HOVER_POINTS = 32


@dataclass(frozen=True, slots=True)
class Series:
    """One line of the distribution chart. `sparse`: only percentiles are known, not every request."""

    name: str
    class_: str
    tail: Curve
    percentiles: Curve
    sparse: bool


def distribution(
    series: Sequence[Series], slo_s: float, percentile: float, interval: Mapping[str, Any] | None, width: float
) -> Markup:
    """Return the share of requests slower than a latency, both on logarithmic axes, against the promise.

    A line that enters the tinted corner, later than the SLO for more requests than it allows, breaks the promise.
    """
    frame = Frame(width, 380 if width > 500 else 320, left=52, right=40, top=28, bottom=44)
    seen = [x for s in series for x, _ in (*s.tail, *s.percentiles)]
    allowed = 1 - percentile / 100
    smallest = min((y for s in series for _, y in s.tail if y > 0), default=allowed)
    floor = max(1e-5, min(smallest / 1.5, allowed / 10))
    low = _floor_of(s for s in series)
    x = frame.x(min([low, slo_s]) / 1.1, max([*seen, slo_s]) * 1.15, log=True)
    y = frame.y(floor, 1.0, log=True)
    parts = [rect(x(slo_s), frame.y0, frame.x1 - x(slo_s), y(allowed) - frame.y0, "broken")]
    shares = [share for share in (1.0, 0.5, 0.1, 0.05, 0.01, 1e-3, 1e-4, 1e-5) if share >= floor * 0.999]
    parts += frame.y_axis(y, shares, fmt.percent)
    parts += [text(frame.x1 + 6, y(s) + 4, name, "tick") for s, name in ((0.5, "P50"), (0.05, "P95"), (0.01, "P99"))]
    parts += frame.x_axis(x, x.ticks(7 if width > 500 else 4), fmt.duration, "latency from the scheduled arrival")
    parts.append(text(0, 14, "requests slower than", "axis-title"))
    parts += _slo_mark(frame, x(slo_s), f"SLO {fmt.duration(slo_s)}")
    if frame.x1 - x(slo_s) > 96:
        parts.append(text(frame.x1 - 8, frame.y0 + 18, "breaks the promise", "bad-text", "end"))
    parts += _interval_marks(interval or {}, x, y)
    for one in series:
        parts += _series_marks(one, x, y, floor)
    return drawing(frame.width, frame.height, "Share of requests slower than a latency, against the SLO", parts)


def _floor_of(series: Any) -> float:
    """The left border: the fastest percent of requests is not worth a decade of the axis."""
    starts = []
    for one in series:
        slow = [x for x, y in one.tail if y <= 0.99 and x > 0] or [x for x, _ in one.percentiles]
        starts += slow[:1]
    return min(starts, default=math.inf)


def _slo_mark(frame: Frame, x: float, label: str) -> list[Markup]:
    near_right = x > frame.x1 - 8 * len(label)
    anchor = "end" if near_right else "start"
    return [
        line(x, frame.y0 - 8, x, frame.y1, "slo"),
        text(x + (-6 if near_right else 6), frame.y0 - 8, label, "bad-text strong", anchor),
    ]


def _interval_marks(interval: Mapping[str, Any], x: Scale, y: Scale) -> list[Markup]:
    marks = []
    for key, share in (("p50_s", 0.5), ("p95_s", 0.05), ("p99_s", 0.01)):
        if key in interval and interval[key] is not None:
            low, high = (float(bound) for bound in interval[key])
            if low > 0 and math.isfinite(high):
                tip = f"{key[:3].upper()} predicted between {fmt.duration(low)} and {fmt.duration(high)}"
                marks.append(rect(x(low), y(share) - 5, x(high) - x(low), 10, "interval", tag("title", tip), rx=3))
    return marks


def _series_marks(one: Series, x: Scale, y: Scale, floor: float) -> list[Markup]:
    ends = [(max(a, x.low), max(b, floor)) for a, b in one.tail]
    pixels = [(x(a), y(b)) for a, b in (ends or one.percentiles)]
    marks = [polyline(pixels, f"curve {one.class_}{' sparse' if one.sparse else ''}")] if len(pixels) > 1 else []
    for value, share in one.tail[:: max(1, len(one.tail) // _HOVER_POINTS)]:
        if share >= floor and value >= x.low:
            tip = f"{one.name}: {fmt.percent(share)} are slower than {fmt.duration(value)}"
            marks.append(dot((x(value), y(share)), 8, "hit", tip))
    for value, share in one.percentiles:
        tip = f"{one.name} P{100 - share * 100:.4g}: {fmt.duration(value)}"
        marks.append(dot((x(value), y(share)), 4.5, f"point {one.class_}", tip))
    return marks


@dataclass(frozen=True, slots=True)
class CostBar:
    """One bar of the cost chart; `feasible` None means that it is not known.

    `share` says how far it is from the promise, `broken` how a plan breaks it that does not do so by that.
    """

    name: str
    cost_usd_per_hour: float
    feasible: bool | None = True
    share: str = ""
    own: bool = False
    broken: str = ""


def cost_bars(bars: Sequence[CostBar], bound_usd_per_hour: float | None, width: float, identifier: str) -> Markup:
    """Return horizontal bars of dollars per hour; those that break the promise are hatched."""
    wide = width > 500
    left = min(220.0, max(LETTER * len(bar.name) for bar in bars) + 16) if wide else 0.0
    row = 40.0 if wide else 56.0
    height = row * len(bars) + 24
    room = 176.0 if wide else 132.0
    most = max([bar.cost_usd_per_hour for bar in bars] + [bound_usd_per_hour or 0.0]) or 1.0
    x = Scale(0.0, most, left, width - room)
    own = next((bar.cost_usd_per_hour for bar in bars if bar.own), None)
    parts: list[Markup] = [hatch(identifier)]
    said: list[Markup] = []
    bound = None if bound_usd_per_hour is None else x(bound_usd_per_hour)
    for index, bar in enumerate(bars):
        top = index * row + (8 if wide else 24)
        name = shorten(bar.name, left - 12 if wide else width, LETTER)
        said.append(text(0, top + 16 if wide else top - 6, name, "label strong" if bar.own else "label"))
        parts += _bar(bar, x, top, identifier)
        said += _bar_words(bar, x(bar.cost_usd_per_hour) + 8, top, own, bound if wide else None)
    if bound is not None:
        label, fits = f"lower bound {fmt.usd_per_hour(bound_usd_per_hour)}", bound + 150 < width
        parts.append(line(bound, 2 if wide else 16, bound, height - 18, "bound"))
        anchor = "middle" if fits and bound > 80 else "start" if fits else "end"
        parts.append(text(bound, height - 4, label, "tick", anchor))
    return drawing(width, height, "Cost per hour of the plan and of the alternatives", [*parts, *said])


def _bar(bar: CostBar, x: Scale, top: float, identifier: str) -> list[Markup]:
    end, broken = x(bar.cost_usd_per_hour), bar.feasible is False
    tone = "fill-own" if bar.own else "fill-other"
    tip = ", ".join(part for part in (f"{bar.name}: {fmt.usd_per_hour(bar.cost_usd_per_hour)}", bar.share) if part)
    marks = [rect(x.start, top, end - x.start, 24, "fill-broken" if broken else tone, tag("title", tip), rx=2)]
    if broken:
        marks.append(rect(x.start, top, end - x.start, 24, "", fill=f"url(#{identifier})", pointer_events="none", rx=2))
    return marks


def _bar_words(bar: CostBar, at: float, top: float, own: float | None, bound: float | None) -> list[Markup]:
    """What stands behind a bar; behind the line of the bound too where it would cross that."""
    cost = fmt.usd_per_hour(bar.cost_usd_per_hour)
    broken = bar.broken or bar.share or "breaks the promise"
    length = LETTER * (max(len(cost), len(broken)) if bar.feasible is False else len(cost) + 8)
    if bound is not None and at - 4 < bound < at + length:
        at = bound + 8
    if bar.feasible is False:
        return [text(at, top + 11, cost, "figure"), text(at, top + 25, broken, "bad-text small")]
    said = [text(at, top + 16, cost, "figure")]
    if not bar.own and own:
        change = fmt.change(bar.cost_usd_per_hour / own - 1)
        said.append(text(at + LETTER * 1.1 * (len(cost) + 1), top + 16, change, "muted small"))
    return said


def frontier(points: Sequence[tuple[float, float | None]], slo_s: float, cost: float, width: float) -> Markup:
    """Return how the cheapest cost moves with the SLO, as a staircase; SLOs without a plan are tinted."""
    frame = Frame(width, 300 if width > 500 else 260, left=60, right=24, top=28, bottom=44)
    known = [(s, c) for s, c in points if c is not None]
    every = [s for s, _ in points] + [slo_s]
    costs = [c for _, c in known] + [cost]
    spread = max(every) / min(every)
    pad = spread**0.06 if spread > 3 else 1.05
    x = frame.x(min(every) / pad, max(every) * pad, log=spread > 3)
    y = frame.y(0.0, max(costs) * 1.1)
    parts: list[Markup] = []
    impossible = [s for s, c in points if c is None]
    if impossible:
        edge = min([s for s, _ in known if s > max(impossible)], default=max(impossible))
        parts.append(rect(frame.x0, frame.y0, x(edge) - frame.x0, frame.y1 - frame.y0, "broken"))
        if x(edge) - frame.x0 > 96:
            parts.append(text(frame.x0 + 8, frame.y1 - 10, "no plan found", "bad-text"))
    parts += frame.y_axis(y, y.ticks(5), fmt.usd)
    parts += frame.x_axis(x, x.ticks(6 if width > 500 else 4), fmt.duration, "SLO on latency")
    parts.append(text(0, 14, "cheapest plan, $ per hour", "axis-title"))
    parts += _slo_mark(frame, x(slo_s), f"SLO {fmt.duration(slo_s)}")
    pixels: list[Point] = [(x(s), y(c)) for s, c in known]
    if len(pixels) > 1:
        parts.append(polyline(stepped(pixels), "curve a"))
    for (s, c), at in zip(known, pixels, strict=True):
        parts.append(dot(at, 4, "point a hollow", f"SLO {fmt.duration(s)}: {fmt.usd_per_hour(c)}"))
    parts.append(dot((x(slo_s), y(cost)), 6, "point a", f"this plan: {fmt.usd_per_hour(cost)}"))
    return drawing(frame.width, frame.height, "Cheapest cost against the SLO", parts)


def waits(stages: Sequence[tuple[str, list[tuple[str, str, float | None, float | None]]]], width: float) -> Markup:
    """Return queue waits per stage: a bar to the P99 with a notch at the P50, for each (name, class, p50, p99)."""
    wide = width > 500
    left = min(200.0, max(LETTER * 1.05 * len(name) for name, _ in stages) + 16) if wide else 0.0
    most = max((p99 for _, rows in stages for _, _, _, p99 in rows if p99 is not None), default=0.0) or 1e-3
    x = Scale(0.0, most, left, width - 84)
    parts, top = [], 4.0
    for name, rows in stages:
        parts.append(text(0, top + 12, shorten(name, left - 12 if wide else width, LETTER), "label"))
        top += 0 if wide else 20
        for who, class_, p50, p99 in rows:
            tip = f"{name}, {who}: P50 {fmt.duration(p50)}, P99 {fmt.duration(p99)}"
            if p99 is not None:
                parts.append(rect(left, top + 2, max(1.5, x(p99) - left), 12, f"bar {class_}", tag("title", tip), rx=2))
                if p50 and x(p50) > left + 4:
                    parts.append(line(x(p50), top + 2, x(p50), top + 14, "notch"))
            end = left if p99 is None else max(left + 1.5, x(p99))
            parts.append(text(end + 8, top + 12, fmt.duration(p99), "figure small"))
            top += 18
        top += 14
    return drawing(width, top - 8, "Queue wait per stage, P99 with a notch at P50", parts)


def rate(curve: Curve, bin_s: float, duration_s: float, mean_per_s: float, width: float) -> Markup:
    """Return the request rate over time as a filled staircase, with its mean and its peak."""
    frame = Frame(width, 220 if width > 500 else 200, left=48, right=56, top=28, bottom=44)
    peak_at, peak = max(curve, key=lambda point: point[1])
    x, y = frame.x(0.0, duration_s), frame.y(0.0, peak * 1.1 or 1.0)
    corners = stepped([*((x(t), y(r)) for t, r in curve), (x(duration_s), y(curve[-1][1]))])
    parts = frame.y_axis(y, y.ticks(4), lambda value: f"{value:g}")
    parts.append(polyline([(frame.x0, frame.y1), *corners, (frame.x1, frame.y1)], "area", close="Z"))
    parts.append(polyline(corners, "curve thin a"))
    parts += frame.x_axis(x, time_ticks(duration_s, 8 if width > 500 else 4), fmt.clock, "since the start")
    parts.append(text(0, 14, f"requests per second, {fmt.duration(bin_s)} bins", "axis-title"))
    parts.append(line(frame.x0, y(mean_per_s), frame.x1, y(mean_per_s), "mean"))
    parts.append(text(frame.x1 + 4, y(mean_per_s) + 4, f"⌀ {mean_per_s:.3g}", "figure small"))
    tip = f"peak {fmt.rate(peak)} in the {fmt.duration(bin_s)} from {fmt.duration(peak_at)}"
    parts.append(dot((x(min(peak_at + bin_s / 2, duration_s)), y(peak)), 4, "point a", tip))
    parts.append(text(frame.x1 + 4, y(peak) + 4, f"▲ {peak:.3g}", "figure small"))
    return drawing(frame.width, frame.height, "Request rate over time", parts)


def time_ticks(duration_s: float, wanted: int) -> list[float]:
    """Ticks that are round in the unit a reader of clocks uses."""
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
    step = next((s for s in steps if duration_s / s <= wanted), 86400.0 * math.ceil(duration_s / wanted / 86400))
    return [k * step for k in range(math.floor(duration_s / step + 1e-9) + 1)]


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """Return the key of a chart: (class, name) pairs."""
    keys = [tag("span", tag("i", class_=f"key {class_}"), name) for class_, name in entries]
    return tag("p", join(keys, " "), class_="legend")
