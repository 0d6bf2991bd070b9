"""The figures of the reproduction as SVG files that carry their own colors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from headway.bench.cascadeserve.rows import Result
from headway.report import format as fmt
from headway.report.markup import Markup, tag
from headway.report.svg import Frame, dot, drawing, line, polyline, text

_STYLE = """
svg{--ink:#1d1c1a;--muted:#68645c;--grid:#ece8df;--own:#0e6470;--one:#8d8778;--sw:#c2571a;--sc:#5b7fb4;--en:#9a5ba6;
--bad:#b3372c;background:#fff}
@media(prefers-color-scheme:dark){svg{--ink:#ebe8e1;--muted:#a19c92;--grid:#272b30;--own:#63bcc7;--one:#8b9099;
--sw:#f09a62;--sc:#8fb0e0;--en:#cf9bd8;--bad:#f0857a;background:#15171a}}
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",Arial,sans-serif;fill:var(--ink)}
.tick,.axis-title{fill:var(--muted);font-size:11px}.strong{font-weight:600}
.grid{stroke:var(--grid)}.axis{stroke:var(--muted);stroke-opacity:.6}.slo{stroke:var(--bad);stroke-dasharray:4 3}
.curve{fill:none;stroke-width:2}.load{fill:none;stroke:var(--muted);stroke-width:1.2}
.own{stroke:var(--own)}.one{stroke:var(--one)}.sw{stroke:var(--sw)}.sc{stroke:var(--sc)}.en{stroke:var(--en)}
.own-fill{fill:var(--own)}.one-fill{fill:var(--one)}.sw-fill{fill:var(--sw)}.sc-fill{fill:var(--sc)}
.en-fill{fill:var(--en)}
"""

NAMES = {
    "gears": "Gears", "static-model": "One model", "switching": "Switching models", "static-cascade": "One cascade",
    "cocktail": "Ensembles, autoscaled",
}  # fmt: skip
LOOKS = {"gears": "own", "static-model": "one", "switching": "sw", "static-cascade": "sc", "cocktail": "en"}

Lines = Mapping[str, Sequence[tuple[float, float]]]


class Panel(NamedTuple):
    """One small chart: its title, lines by system, and where the promise lies, if it is shown."""

    title: str
    lines: Lines
    promise: float | None = None


class Axes(NamedTuple):
    """What the axes of a figure say, and how."""

    x: str
    y: str
    x_label: Callable[[float], str]
    y_label: Callable[[float], str]
    log_x: bool = False
    log_y: bool = False
    from_zero: bool = True


def devices(results: Sequence[Result]) -> Markup:
    """Return devices against the promised latency, one panel for each accuracy floor."""
    panels = []
    for floor in sorted({r.floor for r in results}):
        some = [r for r in results if r.floor == floor and r.devices is not None]
        panels.append(Panel(f"accuracy {fmt.percent(floor)}", _lines(some, lambda r: (r.latency_s, r.devices or 0.0))))
    axes = Axes("promised P95 in s", "devices", lambda v: f"{v:g}", lambda v: f"{v:g}", log_x=True, log_y=True)
    return _figure(panels, 3, axes, "Devices needed by accuracy and latency")


def spikes(results: Sequence[Result], promise_s: float) -> Markup:
    """Return latency and accuracy over time at equal numbers of devices."""
    some = [r for r in results if r.at_s > 0 and r.p95_s is not None]
    late = Panel("P95 by second", _lines(some, lambda r: (r.at_s, r.p95_s or 0.0)), promise_s)
    right = Panel("accuracy by second", _lines(some, lambda r: (r.at_s, r.accuracy or 0.0)), results[0].floor)
    seconds: Callable[[float], str] = lambda v: f"{v:g}"  # noqa: E731
    first = _figure([late], 1, Axes("s", "s", seconds, seconds, log_y=True), "Latency through spikes")
    second = _figure([right], 1, Axes("s", "of the requests", seconds, fmt.percent, from_zero=False), "Accuracy")
    parts = [tag("g", first), tag("g", second, transform="translate(0,270)")]
    return drawing(900, 540, "Latency and accuracy through spikes", parts)


def ablation(results: Sequence[Result]) -> Markup:
    """Return the accuracy that is reached in time against the number of devices."""
    some = [r for r in results if r.accuracy is not None]
    panels = [Panel("accuracy within the promise", _lines(some, lambda r: (r.given, r.accuracy or 0.0)))]
    axes = Axes("devices", "of the requests", lambda v: f"{v:g}", fmt.percent, from_zero=False)
    return _figure(panels, 1, axes, "Accuracy in time by devices")


def _lines(results: Sequence[Result], point: Callable[[Result], tuple[float, float]]) -> Lines:
    return {name: sorted(point(r) for r in results if r.system == name) for name in NAMES
            if any(r.system == name for r in results)}  # fmt: skip


def _figure(panels: Sequence[Panel], columns: int, axes: Axes, what: str) -> Markup:
    """Return small charts side by side, one line per system, below one legend."""
    width, height, top = 900.0 / columns, 230.0, 30.0
    parts, at = [tag("style", Markup(_STYLE))], 0.0
    for system in NAMES:
        if any(system in panel.lines for panel in panels):
            parts += [
                polyline([(at, 12), (at + 24, 12)], f"curve {LOOKS[system]}"),
                text(at + 30, 16, NAMES[system], ""),
            ]
            at += 54 + 7.0 * len(NAMES[system])
    for number, panel in enumerate(panels):
        frame = Frame(width, height, left=52, right=14, top=44, bottom=44)
        x0, y0 = width * (number % columns), top + height * (number // columns)
        inner = [text(0, 14, panel.title, "strong"), text(0, 30, axes.y, "axis-title"), *_chart(frame, panel, axes)]
        parts.append(tag("g", *inner, transform=f"translate({x0:g},{y0:g})"))
    return drawing(900, top + -(-len(panels) // columns) * height, what, parts)


def _chart(frame: Frame, panel: Panel, axes: Axes) -> list[Markup]:
    points = [point for line_points in panel.lines.values() for point in line_points]
    if not points:
        return [text(frame.x0, frame.y0 + 20, "no plan", "tick")]
    xs, ys = sorted({x for x, _ in points}), [y for _, y in points]
    low = min(ys) if axes.log_y or not axes.from_zero else 0.0
    spread = (max(ys) - low) or max(ys)
    x = frame.x(xs[0] * (0.9 if axes.log_x else 1.0), xs[-1] * 1.05, log=axes.log_x)
    y = frame.y(low * 0.9 if axes.log_y else low - (0.0 if axes.from_zero else 0.05 * spread),
                max(ys) * 1.1 if axes.log_y else max(ys) + 0.05 * spread, log=axes.log_y)  # fmt: skip
    parts = frame.y_axis(y, y.ticks(4), axes.y_label)
    if panel.promise is not None:
        parts.append(line(frame.x0, y(panel.promise), frame.x1, y(panel.promise), "slo"))
    parts += frame.x_axis(x, xs if len(xs) <= 8 else x.ticks(6), axes.x_label, axes.x)
    for system, line_points in panel.lines.items():
        parts.append(polyline([(x(a), y(b)) for a, b in line_points], f"curve {LOOKS[system]}"))
        if len(line_points) <= 12:
            parts += [
                dot((x(a), y(b)), 3, f"{LOOKS[system]}-fill", f"{NAMES[system]}: {b:.4g}") for a, b in line_points
            ]
    return parts
