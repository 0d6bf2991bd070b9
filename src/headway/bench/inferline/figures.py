"""The figures of the reproduction as SVG files that carry their own colors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from headway.bench.inferline.grid import SYSTEMS
from headway.bench.inferline.pipelines import PIPELINES
from headway.bench.inferline.summary import Table
from headway.bench.inferline.tuning import PLANNERS, TUNERS, scheme_name
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
.hollow{fill:none;stroke-width:1.6}
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


def attribution(table: Table, pipeline: str) -> Markup:
    """Return dollars over the run, and misses, of every planner with every tuner on a pipeline, by shape of traffic."""
    shapes = sorted((cell for cell in table.cells if cell[1] == pipeline), key=lambda cell: str(cell[0]))
    schemes = by_planner(table)
    left, column, row, gap, top = 116.0, 124.0, 17.0, 26.0, 40.0
    starts, y = {}, top
    for plan, some in schemes.items():
        starts[plan], y = y + gap, y + gap + row * len(some)
    width, bottom = left + 2 * column * len(shapes), y
    parts = [tag("style", Markup(_STYLE))]
    for number, cell in enumerate(shapes):
        x0 = left + 2 * column * number
        cost = Scale(0.0, max(table.cost(cell, name).mean for name in table.systems), x0, x0 + column - 44)
        share = Scale(LEAST_SHOWN, 1.0, x0 + column + 6, x0 + 2 * column - 26, log=True)
        parts += [text(x0, 14, str(cell[0]), "strong"), text(x0, 34, "$ over the run", "axis-title")]
        parts.append(text(share.start, 34, "misses", "axis-title"))
        for tick in (1e-4, 1e-2, 1.0):
            parts.append(line(share(tick), top + 4, share(tick), bottom, "slo" if tick == ALLOWED else "grid"))
            parts.append(text(share(tick), bottom + 14, fmt.percent(tick), "tick", "middle"))
        for plan, some in schemes.items():
            for at, name in enumerate(some.values()):
                parts += _scheme(table, cell, name, starts[plan] + row * at, (cost, share), _look(plan))
    for plan, some in schemes.items():
        parts.append(text(0, starts[plan] - 7, PLAN_NAMES[plan], "strong"))
        parts += [text(10, starts[plan] + row * at + 12, TUNER_NAMES[tuned], "") for at, tuned in enumerate(some)]
    return drawing(width, bottom + 24, f"Cost and misses by planner and tuner, {TITLES[pipeline]}", parts)


def _scheme(
    table: Table, cell: tuple[object, ...], name: str, y: float, scales: tuple[Scale, Scale], look: str
) -> list[Markup]:
    """One combination's bar and dot in one column; what keeps the promise has a full dot."""
    (cost, share), paid, missed = scales, table.cost(cell, name), table.misses(cell, name)
    kept = missed.mean <= ALLOWED
    at = (share(max(missed.mean, LEAST_SHOWN)), y + 8)
    return [
        rect(cost.start, y + 2, cost(paid.mean) - cost.start, 11, f"{look}-fill", rx=2),
        text(cost(paid.mean) + 4, y + 12, f"{paid.mean:.2f}", "tick"),
        *_whisker(missed, share, y + 8, look, across=True),
        dot(at, 4, f"{look}-fill" if kept else f"{look} hollow", fmt.percent(missed.mean)),
    ]


PLAN_NAMES = {"cg-mean": "CG-Mean", "cg-peak": "CG-Peak", "inferline": "InferLine", "headway": "Headway"}
TUNER_NAMES = {
    "none": "no tuner", "threshold": "Threshold", "ds2": "DS2, ideal", "ds2-pause": "DS2, pausing",
    "autoscale": "AutoScale", "inferline": "InferLine", "headway": "Headway",
}  # fmt: skip
SCHEME_NAMES = {
    scheme_name(plan, tuned): f"{PLAN_NAMES[plan]}{', ' if tuned == 'none' else ' + '}{TUNER_NAMES[tuned]}"
    for plan in PLANNERS for tuned in TUNERS
}  # fmt: skip
"""Plan and tuner as they are called in tables and figures."""


def by_planner(table: Table) -> dict[str, dict[str, str]]:
    """Return the combinations that a table has, by planner and then by tuner."""
    grid = {plan: {tuned: scheme_name(plan, tuned) for tuned in TUNERS} for plan in PLANNERS}
    some = {plan: {t: name for t, name in by.items() if name in table.systems} for plan, by in grid.items()}
    return {plan: by for plan, by in some.items() if by}


def _look(plan: str) -> str:
    return {"headway": "own", "inferline": "il"}.get(plan, "cg")


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
