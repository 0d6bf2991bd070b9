"""A cascade over time as charts that share one clock: load, gears, who answered, how rightly, how fast."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from headway.report import format as fmt
from headway.report.charts import time_ticks
from headway.report.markup import Markup, join, tag
from headway.report.svg import Frame, Scale, dot, drawing, line, polyline, rect, stepped, text
from headway.report.timeline import Timeline, Window

GAP = 34.0
"""Between one chart and the next, for its title."""
LEFT, RIGHT, FOOT = 52.0, 76.0, 44.0
LIGHTEST = 0.16

Draw = Callable[[Timeline, Frame, Scale], list[Markup]]


def over_time(timeline: Timeline, width: float) -> Markup:
    """Return the five charts below each other."""
    wide = width > 500
    panels: list[tuple[str, float, Draw]] = [
        ("requests per second", 84.0, _load),
        ("share of the time in each gear", 84.0, _gears),
        ("share of the answers by model", 64.0, _exits),
        ("share of the answers that are right", 96.0, _accuracy),
        (f"P{timeline.percentile:g} of the latency", 112.0, _latency),
    ]
    height = sum(GAP + tall for _, tall, _ in panels) + FOOT
    parts: list[Markup] = []
    top = 0.0
    for number, (title, tall, draw) in enumerate(panels):
        top += GAP
        frame = Frame(width, height, LEFT, RIGHT if wide else 12.0, top, height - top - tall)
        x = frame.x(timeline.windows[0].start_s, timeline.windows[-1].end_s)
        parts.append(text(0, top - 12, title, "axis-title"))
        parts += draw(timeline, frame, x)
        if number == len(panels) - 1:
            parts += frame.x_axis(x, time_ticks(timeline.duration_s, 8 if wide else 4), fmt.clock, "since the start")
        top += tall
    return drawing(width, height, "Load, gears, answers by model, accuracy and latency over time", parts)


def shade(rank: int, count: int) -> float:
    """Return how opaque the mark of one of several is, from the darkest for rank 0 to the lightest.

    >>> shade(0, 3), shade(2, 3), shade(0, 1)
    (0.95, 0.16, 0.95)
    """
    return round(0.95 - (0.95 - LIGHTEST) * rank / max(1, count - 1), 3)


def key(what: str, names: Sequence[str], class_: str) -> Markup:
    """Return a legend of what is stacked, from the darkest on: a swatch and a name for each."""
    swatches = [
        tag("span", tag("i", class_=f"key box {class_}", style=f"opacity:{shade(at, len(names)):g}"), name)
        for at, name in enumerate(names)
    ]
    return tag("p", join([tag("span", what, class_="muted"), *swatches], " "), class_="legend")


def _load(timeline: Timeline, frame: Frame, x: Scale) -> list[Markup]:
    peak = max(timeline.windows, key=lambda window: window.rate_per_s)
    y = frame.y(0.0, peak.rate_per_s * 1.1 or 1.0)
    corners = stepped([(x(w.start_s), y(w.rate_per_s)) for w in timeline.windows])
    corners.append((frame.x1, corners[-1][1]))
    parts = frame.y_axis(y, y.ticks(3), lambda value: f"{value:g}")
    parts.append(polyline([(frame.x0, frame.y1), *corners, (frame.x1, frame.y1)], "area", close="Z"))
    parts.append(polyline(corners, "curve thin a"))
    tip = f"peak {fmt.rate(peak.rate_per_s)}, {_when(peak)}"
    parts.append(dot(((x(peak.start_s) + x(peak.end_s)) / 2, y(peak.rate_per_s)), 4, "point a", tip))
    return [*parts, *_beside(frame, y(peak.rate_per_s), f"▲ {peak.rate_per_s:.3g}"), _base(frame)]


def _gears(timeline: Timeline, frame: Frame, x: Scale) -> list[Markup]:
    names = timeline.gears
    shares = [window.held for window in timeline.windows]
    return _stacked(timeline, frame, x, shares, names, "ramp")


def _exits(timeline: Timeline, frame: Frame, x: Scale) -> list[Markup]:
    # The dearest at the bottom and the darkest, as for gears.
    names = timeline.models[::-1]
    shares = [tuple(n / (window.answered or 1) for n in window.exits[::-1]) for window in timeline.windows]
    return _stacked(timeline, frame, x, shares, names, "ramp ink")


def _stacked(
    timeline: Timeline,
    frame: Frame,
    x: Scale,
    shares: Sequence[Sequence[float]],
    names: Sequence[str],
    class_: str,
) -> list[Markup]:
    y = frame.y(0.0, 1.0)
    parts = [rect(frame.x0, frame.y0, frame.x1 - frame.x0, frame.y1 - frame.y0, "empty")]
    for window, held in zip(timeline.windows, shares, strict=True):
        below = 0.0
        told = ", ".join(f"{name} {fmt.whole_percent(s)}" for name, s in zip(names, held, strict=True) if s > 0.005)
        for rank, share in enumerate(held):
            if share > 0:
                up, down = y(below + share), y(below)
                # Rounded as drawn, so that no seam is left between one window and the next.
                left, right = round(x(window.start_s), 1), round(x(window.end_s), 1)
                tip = tag("title", f"{_when(window)}: {told}")
                parts.append(
                    rect(left, up, right - left, down - up, class_, tip, fill_opacity=f"{shade(rank, len(names)):g}")
                )
            below += share
    return [*parts, *(text(frame.x0 - 8, y(at) + 4, fmt.percent(at), "tick", "end") for at in (0.0, 1.0)), _base(frame)]


def _accuracy(timeline: Timeline, frame: Frame, x: Scale) -> list[Markup]:
    seen = [(w, w.accuracy) for w in timeline.windows if w.accuracy is not None]
    floor = timeline.floor
    known = [a for _, a in seen] + ([floor] if floor is not None else [])
    low = min([*known, 0.98])
    y = frame.y(max(0.0, low - 0.15 * (1.0 - low)), 1.0)
    parts = []
    if floor is not None:
        parts.append(rect(frame.x0, y(floor), frame.x1 - frame.x0, frame.y1 - y(floor), "broken"))
    parts += frame.y_axis(y, y.ticks(3), fmt.percent)
    if floor is not None:
        parts += [
            line(frame.x0, y(floor), frame.x1, y(floor), "slo"),
            *_beside(frame, y(floor), "promised", "bad-text"),
        ]
    if timeline.accuracy is not None:
        parts.append(line(frame.x0, y(timeline.accuracy), frame.x1, y(timeline.accuracy), "mean"))
        away = floor is None or abs(y(floor) - y(timeline.accuracy)) >= 14
        parts += _beside(frame, y(timeline.accuracy), f"⌀ {fmt.percent(timeline.accuracy)}") if away else []
    points = [(_middle(w, x), y(a)) for w, a in seen]
    parts.append(polyline(points, "curve thin b"))
    for (window, accuracy), at in zip(seen, points, strict=True):
        tip = f"{_when(window)}: {fmt.percent(accuracy)} of {fmt.count(window.answered)} answers right"
        parts.append(dot(at, 2.5, "point b full", tip))
    return [*parts, _base(frame)]


def _latency(timeline: Timeline, frame: Frame, x: Scale) -> list[Markup]:
    slo_s, name = timeline.slo_s, f"P{timeline.percentile:g}"
    both = [
        v for w in timeline.windows for v in (w.latency_s, w.predicted_s) if v is not None and math.isfinite(v) and v
    ]
    high, low = max([*both, slo_s]), min([*both, slo_s])
    log = high > 12 * low
    y = frame.y(low / 1.15, high * 1.15, log=True) if log else frame.y(0.0, high * 1.1)
    parts = [rect(frame.x0, frame.y0, frame.x1 - frame.x0, y(slo_s) - frame.y0, "broken")]
    parts += frame.y_axis(y, y.ticks(4), fmt.duration)
    parts += _promised(frame, y(slo_s))
    ceiling = y.high
    for class_, told, values in (
        ("a", "predicted", [(w, w.predicted_s) for w in timeline.windows]),
        ("b", "measured", [(w, w.latency_s) for w in timeline.windows]),
    ):
        seen = [(w, value) for w, value in values if value is not None]
        points = [(_middle(w, x), y(min(value, ceiling))) for w, value in seen]
        parts.append(polyline(points, f"curve thin {class_}"))
        for (window, value), at in zip(seen, points, strict=True):
            tip = f"{_when(window)}: {name} {fmt.duration(value)} {told}, {fmt.count(window.requests)} requests"
            parts.append(dot(at, 2.5, f"point {class_} full", tip))
    return [*parts, _base(frame)]


def _promised(frame: Frame, y: float) -> list[Markup]:
    return [line(frame.x0, y, frame.x1, y, "slo"), *_beside(frame, y, "promised", "bad-text")]


def _beside(frame: Frame, y: float, words: str, class_: str = "figure small") -> list[Markup]:
    """Words behind the right border, where the page is wide enough for them."""
    return [text(frame.x1 + 6, y + 4, words, class_)] if frame.right >= RIGHT else []


def _base(frame: Frame) -> Markup:
    return line(frame.x0, frame.y1, frame.x1, frame.y1, "axis")


def _middle(window: Window, x: Scale) -> float:
    return (x(window.start_s) + x(window.end_s)) / 2


def _when(window: Window) -> str:
    return f"{fmt.clock(window.start_s)} to {fmt.clock(window.end_s)}"
