"""The figures of the reproduction as SVG files that carry their own colors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from headway.bench.inferline.grid import SYSTEMS
from headway.bench.inferline.pipelines import PIPELINES
from headway.bench.inferline.summary import Table
from headway.bench.inferline.tuning import SCHEMES
from headway.report import format as fmt
from headway.report.markup import Markup, tag
from headway.report.svg import Frame, Scale, dot, drawing, line, polyline, rect, text
from headway.sim.estimate import Estimate

_STYLE = """
svg{--ink:#1d1c1a;--muted:#68645c;--grid:#ece8df;--own:#0e6470;--il:#c2571a;--cg:#8d8778;--bad:#b3372c;background:#fff}
@media(prefers-color-scheme:dark){svg{--ink:#ebe8e1;--muted:#a19c92;--grid:#272b30;--own:#63bcc7;--il:#f09a62;
--cg:#8b9099;--bad:#f0857a;background:#15171a}}
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",Arial,sans-serif;fill:var(--ink)}
.tick,.axis-title{fill:var(--muted);font-size:11px}.strong{font-weight:600}.bad-text{fill:var(--bad);font-size:11px}
.grid{stroke:var(--grid)}.axis{stroke:var(--muted);stroke-opacity:.6}.slo{stroke:var(--bad);stroke-dasharray:4 3}
.curve{fill:none;stroke-width:2}.whisker{stroke-width:1.2}.faint{stroke-dasharray:4 3}.faint2{stroke-dasharray:1 3}
.own{stroke:var(--own)}.il{stroke:var(--il)}.cg{stroke:var(--cg)}
.own-fill{fill:var(--own)}.il-fill{fill:var(--il)}.cg-fill{fill:var(--cg)}
"""

LOOKS = {
    "headway": "own", "headway-trace": "own faint", "inferline": "il", "cg-mean": "cg faint", "cg-peak": "cg",
}  # fmt: skip
NAMES = {
    "headway": "Headway", "headway-trace": "Headway, given trace", "inferline": "InferLine as published",
    "cg-mean": "CG-Mean", "cg-peak": "CG-Peak",
}  # fmt: skip
TITLES = {"image": "Image Processing", "video": "Video Monitoring", "social": "Social Media", "cascade": "TF Cascade"}
ALLOWED = 0.01
LEAST_SHOWN = 1e-4
"""The lowest miss rate of the axis; fewer, and none, stand on it."""

Panel = tuple[str, Mapping[str, Sequence[tuple[float, Estimate]]]]


def costs(table: Table) -> Markup:
    """Return dollars per hour against the rate, by pipeline and burstiness."""
    panels = _by_rate(table, table.cost)
    return _lines(panels, 4, "requests per second", "$ per hour", fmt.usd, "Cost of the plans by rate", log=False)


def misses(table: Table) -> Markup:
    """Return the share of live requests that miss against the rate, by pipeline and burstiness."""
    panels = _by_rate(table, table.misses)
    return _lines(panels, 4, "requests per second", "requests that miss", fmt.percent, "Misses by rate", log=True)


def slos(table: Table) -> Markup:
    """Return dollars per hour against the promise, by burstiness."""
    panels = []
    for cv in sorted({cell[3] for cell in table.cells}):
        some = sorted((cell for cell in table.cells if cell[3] == cv), key=lambda cell: cell[4])
        lines = {name: [(cell[4], table.cost(cell, name)) for cell in some] for name in LOOKS if name in table.systems}
        panels.append((f"{TITLES[some[0][1]]}, CV {cv:g}", lines))
    return _lines(panels, 2, "promise in ms", "$ per hour", fmt.usd, "Cost of the plans by promise", log=False)


def attribution(table: Table) -> Markup:
    """Return dollars over the run, and misses, of every planner with every tuner, by shape of traffic."""
    shapes = sorted(table.cells, key=lambda cell: str(cell[0]))
    left, column, row, top = 176.0, 116.0, 22.0, 52.0
    width, height = left + 2 * column * len(shapes) + 24, top + row * len(SCHEMES) + 34
    parts = [tag("style", Markup(_STYLE))]
    for at, name in enumerate(SCHEMES):
        parts.append(text(0, top + row * at + 15, SCHEME_NAMES[name], "strong" if name == "headway" else ""))
    for number, cell in enumerate(shapes):
        x0 = left + 2 * column * number
        most = max(table.cost(cell, name).mean for name in table.systems)
        cost = Scale(0.0, most, x0, x0 + column - 44)
        share = Scale(LEAST_SHOWN, 1.0, x0 + column + 6, x0 + 2 * column - 22, log=True)
        parts += [text(x0, 14, str(cell[0]), "strong"), text(x0, 34, "$ over the run", "axis-title")]
        parts.append(text(share.start, 34, "misses", "axis-title"))
        bottom = top + row * len(SCHEMES)
        for tick in (1e-4, 1e-2, 1.0):
            parts.append(line(share(tick), top - 6, share(tick), bottom, "slo" if tick == ALLOWED else "grid"))
            parts.append(text(share(tick), bottom + 14, fmt.percent(tick), "tick", "middle"))
        for at, name in enumerate(SCHEMES):
            y, look = top + row * at, _look(name)
            paid, missed = table.cost(cell, name), table.misses(cell, name)
            parts.append(rect(x0, y + 4, cost(paid.mean) - x0, 13, f"{look}-fill", rx=2))
            parts.append(text(cost(paid.mean) + 4, y + 15, f"{paid.mean:.2f}", "tick"))
            parts += _whisker(missed, share, y + 11, look, across=True)
            parts.append(
                dot((share(max(missed.mean, LEAST_SHOWN)), y + 11), 4, f"{look}-fill", fmt.percent(missed.mean))
            )
    return drawing(width, height, "Cost and misses by planner and tuner", parts)


SCHEME_NAMES = {
    "cg-mean": "CG-Mean, no tuner", "cg-peak": "CG-Peak, no tuner", "cg-mean+autoscale": "CG-Mean + AutoScale",
    "cg-peak+autoscale": "CG-Peak + AutoScale", "cg-mean+ds2": "CG-Mean + DS2, ideal",
    "cg-mean+ds2-pause": "CG-Mean + DS2, pausing", "inferline-plan": "InferLine, no tuner",
    "inferline-plan+autoscale": "InferLine + AutoScale", "inferline": "InferLine + InferLine",
    "inferline-plan+headway": "InferLine + Headway", "headway-plan": "Headway, no tuner",
    "headway-plan+inferline": "Headway + InferLine", "headway": "Headway + Headway",
}  # fmt: skip
"""Plan and tuner as they are called in tables and figures."""


def _look(scheme: str) -> str:
    return {"headway": "own", "inferline": "il"}.get(SCHEMES[scheme].plan, "cg")


def _by_rate(table: Table, figure: Callable[[tuple[object, ...], str], Estimate]) -> list[Panel]:
    panels: list[Panel] = []
    for cv in sorted({cell[3] for cell in table.cells}):
        for name in PIPELINES:
            some = sorted((c for c in table.cells if (c[1], c[3]) == (name, cv)), key=lambda cell: cell[2])
            lines = {s: [(cell[2], figure(cell, s)) for cell in some] for s in SYSTEMS if s in table.systems}
            panels.append((f"{TITLES[name]}, CV {cv:g}", lines))
    return panels


def _lines(
    panels: Sequence[Panel],
    columns: int,
    x_title: str,
    y_title: str,
    label: Callable[[float], str],
    what: str,
    *,
    log: bool,
) -> Markup:
    """Return small charts side by side, one line per system with its intervals, below one legend."""
    width, height, top = 900.0 / columns, 220.0, 30.0
    parts, at = [tag("style", Markup(_STYLE))], 0.0
    for system in panels[0][1]:
        parts += [polyline([(at, 12), (at + 24, 12)], f"curve {LOOKS[system]}"), text(at + 30, 16, NAMES[system], "")]
        at += 54 + 7.0 * len(NAMES[system])
    for number, (title, lines) in enumerate(panels):
        frame = Frame(width, height, left=46, right=14, top=42, bottom=44)
        x0, y0 = width * (number % columns), top + height * (number // columns)
        inner = [text(0, 14, title, "strong"), text(0, 30, y_title, "axis-title")]
        inner += _chart(frame, lines, x_title, label, log)
        parts.append(tag("g", *inner, transform=f"translate({x0:g},{y0:g})"))
    rows = -(-len(panels) // columns)
    return drawing(900, top + rows * height, what, parts)


def _chart(
    frame: Frame,
    lines: Mapping[str, Sequence[tuple[float, Estimate]]],
    x_title: str,
    label: Callable[[float], str],
    log: bool,
) -> list[Markup]:
    xs = sorted({x for points in lines.values() for x, _ in points})
    if not xs:
        return [text(frame.x0, frame.y0 + 20, "no plan", "bad-text")]
    most = max(one.mean for points in lines.values() for _, one in points)
    x = frame.x(min(xs) * 0.9, max(xs) * 1.05)
    y = frame.y(LEAST_SHOWN, 1.0, log=True) if log else frame.y(0.0, most * 1.1)
    parts = frame.y_axis(y, [1e-4, 1e-3, 1e-2, 1e-1, 1.0] if log else y.ticks(4), label)
    if log:
        parts.append(line(frame.x0, y(ALLOWED), frame.x1, y(ALLOWED), "slo"))
    parts += frame.x_axis(x, xs, lambda value: f"{value:g}", x_title)
    for system, points in lines.items():
        parts.append(polyline([(x(at), y(_shown(one.mean, log))) for at, one in points], f"curve {LOOKS[system]}"))
        for at, one in points:
            parts += _whisker(one, y, x(at), LOOKS[system].split()[0], across=False)
            tip = f"{NAMES[system]}: {label(one.mean)}"
            parts.append(dot((x(at), y(_shown(one.mean, log))), 3, f"{LOOKS[system].split()[0]}-fill", tip))
    return parts


def _shown(value: float, log: bool) -> float:
    return max(value, LEAST_SHOWN) if log else value


def _whisker(one: Estimate, scale: Scale, at: float, look: str, *, across: bool) -> list[Markup]:
    """The interval of an estimate, cut at the axis; nothing from a single seed."""
    if one.low != one.low:
        return []
    low, high = scale(max(one.low, scale.low)), scale(max(min(one.high, scale.high), scale.low))
    ends = (low, at, high, at) if across else (at, low, at, high)
    return [line(*ends, f"whisker {look}")]
