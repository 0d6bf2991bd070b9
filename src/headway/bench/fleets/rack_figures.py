"""The drawings of the page on RackSched's evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from headway.bench.fleets.rack_cases import EQUAL, SYSTEMS, WORKS
from headway.bench.fleets.racksched import FIGURES, LOADS, SERIES, SERIES_SYSTEMS, SERVERS, Found, Series, name_of
from headway.report.markup import Markup, tag
from headway.report.svg import LETTER, Frame, Point, dot, drawing, line, polyline, text
from headway.sim.estimate import Estimate

COLORS = {"random": "cg", "weighted-random": "cg2", "racksched": "il", "racksched-speed": "il2", "headway": "own",
          "central": "ideal"}  # fmt: skip
TITLES = {"switch-failure": "balancer down", "add-remove": "server joins, leaves", "server-failure": "server fails"}
"""Of the series, short enough to stand above a panel."""

STYLE: Final = """
svg{--ink:#1d1c1a;--muted:#68645c;--grid:#ece8df;--own:#0e6470;--il:#c2571a;--cg:#8d8778;background:#fff}
@media(prefers-color-scheme:dark){svg{--ink:#ebe8e1;--muted:#a19c92;--grid:#272b30;--own:#63bcc7;--il:#f09a62;
--cg:#8b9099;background:#15171a}}
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",Arial,sans-serif;fill:var(--ink)}
.tick,.axis-title{fill:var(--muted);font-size:11px}.strong{font-weight:600}
.grid{stroke:var(--grid)}.axis{stroke:var(--muted);stroke-opacity:.6}.curve{fill:none;stroke-width:2}
.event{stroke:var(--muted);stroke-dasharray:2 3}
.own{stroke:var(--own)}.il{stroke:var(--il)}.cg{stroke:var(--cg)}.il2{stroke:var(--il);stroke-dasharray:4 3}
.cg2{stroke:var(--cg);stroke-dasharray:4 3}.ideal{stroke:var(--ink);stroke-dasharray:1 3}
.own-fill{fill:var(--own)}.il-fill,.il2-fill{fill:var(--il)}.cg-fill,.cg2-fill{fill:var(--cg)}.ideal-fill{fill:var(--ink)}
"""
_PANEL = Frame(225.0, 230.0, left=50, right=14, top=40, bottom=44)
_WIDE = Frame(300.0, 220.0, left=50, right=14, top=28, bottom=44)

Lines = Mapping[str, Sequence[Point]]


def latencies(found: Found) -> Markup:
    """Return P99 against load for figures 10 and 11: workloads side by side, equal servers above unequal ones.

    Of the systems that have a colour; tables hold the others.
    """
    parts, top = _legend(list(COLORS))
    for row, (number, what) in enumerate((("10", "8 servers x 7 workers"), ("11", "4 x 7 and 4 x 4 workers"))):
        figure = FIGURES[number]
        for column, workload in enumerate(figure.works):
            where = (workload, name_of(figure.racks[0]))
            lines = {
                system: _known((at, found.estimate("p99_us", "load", *where, system, at)) for at in LOADS)
                for system in figure.systems
                if system in COLORS
            }
            inner = [text(0, 14, WORKS[workload].title, "strong"), text(0, 30, what, "tick"), *_against_load(lines)]
            parts.append(placed(inner, _PANEL.width * column, top + _PANEL.height * row))
    return drawing(900, top + 2 * _PANEL.height, "P99 by load, equal and unequal servers", parts)


def growth(found: Found) -> Markup:
    """Return what more servers are worth (figure 12): P99 at nine tenths of capacity, and requests carried."""
    systems = FIGURES["12"].systems
    parts, top = _legend(systems)
    work = WORKS["bimodal"]
    tails, most = {}, {}
    for system in systems:
        at = [(servers, ("bimodal", name_of(EQUAL[:1] * servers), system)) for servers in SERVERS]
        tails[system] = _known((x, found.estimate("p99_us", "load", *where, 0.9)) for x, where in at)
        shares = _known((x, found.estimate("carried", "carried", *where, 0.0)) for x, where in at)
        most[system] = [(x, share * x * EQUAL[0] / work.mean_s / 1e3) for x, share in shares]
    frame = Frame(450.0, 240.0, left=50, right=14, top=28, bottom=44)
    panels = (("P99 at 90% of capacity, µs", tails, "µs"), (f"thousand requests/s, P99 within {work.target_us:g} µs",
              most, "thousand requests/s"))  # fmt: skip
    for column, (title, lines, unit) in enumerate(panels):
        inner = _linear(frame, title, lines, (0.0, SERVERS[-1] + 0.5), SERVERS, "servers", unit)
        parts.append(placed(inner, frame.width * column, top))
    return drawing(900, top + frame.height, "P99 and load carried by the number of servers", parts)


def changes(found: Found) -> Markup:
    """Return what failures and reconfigurations do (figure 17): answers per second, window by window."""
    parts, top = _legend(SERIES_SYSTEMS)
    for column, (name, case) in enumerate(SERIES.items()):
        lines = {system: _answers(found, name, case, system) for system in SERIES_SYSTEMS}
        inner = _linear(
            _WIDE, f"{TITLES[name]}: thousand answers/s", lines, (0.0, case.seconds), (0.0, 0.2, 0.4, 0.6), "seconds",
            "thousand answers/s", [change.at_s for change in case.changes],
        )  # fmt: skip
        parts.append(placed(inner, _WIDE.width * column, top))
    return drawing(900, top + _WIDE.height, "Answers per second while servers and the balancer fail", parts)


def _answers(found: Found, name: str, case: Series, system: str) -> list[Point]:
    """Thousand answers per second: the mean over seeds of each window, at its middle.

    Without the last one, before whose end the last request has come.
    """
    points = []
    for same in zip(*found.windows(name, system), strict=True):
        rates = [result.answered_per_s or 0.0 for result in same]
        points.append((same[0].at - case.window_s / 2, math.fsum(rates) / len(rates) / 1e3))
    return points[:-1]


def _known(points: Iterable[tuple[float, Estimate | None]]) -> list[Point]:
    return [(x, one.mean) for x, one in points if one is not None and math.isfinite(one.mean)]


def placed(inner: Sequence[Markup], x: float, y: float) -> Markup:
    """Return a panel of a drawing, moved to its place.

    >>> placed([], 10.0, 0.0)
    '<g transform="translate(10,0)"></g>'
    """
    return tag("g", *inner, transform=f"translate({x:g},{y:g})")


def legend(titles: Iterable[tuple[str, str]]) -> tuple[list[Markup], float]:
    """Return the style and what each kind of line means, and where drawings may begin below that.

    `titles`: for each kind its class in `STYLE`, and what is said of it.
    """
    parts, x, y = [tag("style", Markup(STYLE))], 0.0, 12.0
    for kind, title in titles:
        width = 30 + LETTER * len(title)
        if x + width > 900:
            x, y = 0.0, y + 18
        parts += [line(x, y, x + 24, y, f"curve {kind}"), text(x + 30, y + 4, title, "")]
        x += width + 24
    return parts, y + 20


def _legend(systems: Sequence[str]) -> tuple[list[Markup], float]:
    return legend((COLORS[system], SYSTEMS[system].title) for system in systems)


def _against_load(lines: Lines) -> list[Markup]:
    """One panel: P99 on a logarithmic scale that ends where the best is still told from the worst."""
    every = [value for points in lines.values() for _, value in points]
    if not every:
        return []
    low = min(every) * 0.9
    x, y = _PANEL.x(LOADS[0] - 0.02, 1.0), _PANEL.y(low, low * 20, log=True)
    parts = _PANEL.y_axis(y, y.ticks(4), lambda value: f"{value:,.0f}")
    parts += _PANEL.x_axis(x, [0.3, 0.5, 0.7, 0.9], lambda value: f"{value:.0%}", "load (P99 in µs)")
    for system, points in lines.items():
        # What lies above the panel leaves it at its border instead of running along it.
        inside = [(at, value) for at, value in points if value <= low * 20]
        beyond = points[len(inside) : len(inside) + 1]
        parts.append(polyline([(x(at), y(value)) for at, value in (*inside, *beyond)], f"curve {COLORS[system]}"))
        for at, value in inside:
            tip = f"{SYSTEMS[system].title}: {value:,.0f} µs at {at:.0%}"
            parts.append(dot((x(at), y(value)), 2.5, f"{COLORS[system]}-fill", tip))
    return parts


def _linear(
    frame: Frame, title: str, lines: Lines, span: Point, ticks: Sequence[float], what: str, unit: str,
    events: Sequence[float] = (),
) -> list[Markup]:  # fmt: skip
    """One panel with both axes linear, the vertical one from 0; `events` are moments on the horizontal one."""
    every = [value for points in lines.values() for _, value in points]
    parts = [text(0, 14, title, "strong")]
    if not every:
        return parts
    x, y = frame.x(*span), frame.y(0.0, max(every) * 1.05)
    parts += frame.y_axis(y, y.ticks(4), lambda value: f"{value:,.0f}")
    parts += frame.x_axis(x, ticks, lambda value: f"{value:g}", what)
    parts += [line(x(at), frame.y0, x(at), frame.y1, "event") for at in events if at > 0.0]
    for system, points in lines.items():
        parts.append(polyline([(x(at), y(value)) for at, value in points], f"curve {COLORS[system]}"))
        for at, value in points:
            tip = f"{SYSTEMS[system].title}: {value:,.0f} {unit} at {at:g}"
            parts.append(dot((x(at), y(value)), 2.0, f"{COLORS[system]}-fill", tip))
    return parts
