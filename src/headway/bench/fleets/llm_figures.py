"""The drawings of the page on LLM scheduling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from headway.bench.fleets.llm_cases import MAX_WAIT_S
from headway.bench.fleets.llm_cells import ORDER_LOADS, ROUTER_LOADS
from headway.bench.fleets.llm_rows import Rows, seconds
from headway.bench.fleets.rack_figures import legend, placed
from headway.report.markup import Markup
from headway.report.svg import Frame, Point, dot, drawing, polyline, text

BALANCERS = {"round-robin": "ideal", "random": "cg", "least-memory": "cg2", "power-of-d": "il2", "least-loaded": "il",
             "sal": "own"}  # fmt: skip
"""Those drawn, with their colors: what looks at requests, at memory, and at tokens."""
ORDERS = {"fcfs": "ideal", "sjf": "il", "hrrn": "il2", "mlfq": "cg", "larry": "own"}
_PANEL = Frame(300.0, 250.0, left=50, right=14, top=28, bottom=44)

Lines = Mapping[str, Sequence[Point]]
Panels = Sequence[tuple[str, Lines]]


def balancers(rows: Rows) -> Markup:
    """Return the mean time to the first token by rate, for each trace, with fresh reports."""
    panels = []
    for workload, loads in ROUTER_LOADS.items():
        each = {name: [("routers", workload, name, "fresh", load) for load in sorted(loads)] for name in BALANCERS}
        lines = {name: [(at[-1], rows.mean(*at, field="ttft_mean")) for at in cells] for name, cells in each.items()}
        panels.append((f"{workload}: TTFT mean in s", lines))
    title = "Mean time to the first token by rate, for each trace"
    return _drawn(title, panels, BALANCERS, "times as fast as recorded", log_x=False)


def orders(rows: Rows) -> Markup:
    """Return what an order gains in the mean and costs in the longest wait, and both with a maximum wait."""
    panels = []
    for load in ORDER_LOADS["conversation"]:
        lines = {}
        for name in ORDERS:
            cells = [("orders", "conversation", name, bound, load) for bound in ("none", f"{MAX_WAIT_S:g} s")]
            waits = [max(rows.values(*at, field="wait_max"), default=math.nan) for at in cells]
            lines[name] = [(rows.mean(*at, field="ttft_mean"), wait) for at, wait in zip(cells, waits, strict=True)]
        panels.append((f"load {load:g}: longest wait in s", lines))
    title = "Longest wait by mean time to the first token, without and with a maximum wait"
    return _drawn(title, panels, ORDERS, "TTFT mean in s", log_x=True)


def _drawn(title: str, panels: Panels, colors: Mapping[str, str], what: str, log_x: bool) -> Markup:
    parts, top = legend((color, name) for name, color in colors.items())
    for column, (head, lines) in enumerate(panels):
        known = {name: [at for at in points if all(map(math.isfinite, at))] for name, points in lines.items()}
        inner = [text(0, 14, head, "strong"), *_panel(known, colors, what, log_x)]
        parts.append(placed(inner, _PANEL.width * column, top))
    return drawing(900, top + _PANEL.height, title, parts)


def _panel(lines: Lines, colors: Mapping[str, str], what: str, log_x: bool) -> list[Markup]:
    """Lines and their points, upwards by the logarithm; a line's first point is the larger one."""
    places = [at for points in lines.values() for at in points]
    if not places:
        return []
    xs, ys = ([at[axis] for at in places] for axis in (0, 1))
    x = _PANEL.x(min(xs) * 0.95, max(xs) * 1.05, log=log_x)
    y = _PANEL.y(min(ys) * 0.9, max(ys) * 1.1, log=True)
    parts = _PANEL.y_axis(y, y.ticks(4), lambda value: f"{value:g}")
    parts += _PANEL.x_axis(x, x.ticks(4) if log_x else sorted(set(xs)), lambda value: f"{value:g}", what)
    for name, points in lines.items():
        color = colors[name]
        parts.append(polyline([(x(at), y(value)) for at, value in points], f"curve {color}"))
        for number, (at, value) in enumerate(points):
            radius = 4.0 if log_x and number == 0 else 2.5
            parts.append(dot((x(at), y(value)), radius, f"{color}-fill", f"{name}: {seconds(value)} at {seconds(at)}"))
    return parts
