"""The page of RackSched's evaluation: its tables, figure and sentences with figures are written from the results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from headway.bench.fleets.rack_cases import EQUAL, SYSTEMS, UNEQUAL, WORKS
from headway.bench.fleets.racksched import FIGURES, LOADS, SERIES, SERIES_SYSTEMS, SERVERS, Result, name_of
from headway.bench.page import NOT_COMPUTED, draw, rewrite, table, when_and_where
from headway.report import format as fmt
from headway.report.markup import Markup, tag
from headway.report.svg import Frame, dot, drawing, line, polyline, text
from headway.sim.estimate import Estimate

SHOWN = (0.5, 0.8, 0.9, 0.95)
"""The loads of tables; the figure has all."""
COLORS = {"random": "cg", "weighted-random": "cg2", "racksched": "il", "racksched-speed": "il2", "headway": "own",
          "central": "ideal"}  # fmt: skip


class Found:
    """The results, by what is asked for."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.results = list(results)
        self._at = {result.key: result for result in results}
        self.seeds = sorted({result.seed for result in results if result.experiment in ("load", "carried")})

    def values(self, field: str, experiment: str, workload: str, workers: str, system: str, at: float) -> list[float]:
        """Return a figure for each seed; none where a seed is missing."""
        keys = [(experiment, workload, workers, system, at, seed) for seed in self.seeds]
        if not keys or any(key not in self._at for key in keys):
            return []
        return [float(getattr(self._at[key], field)) for key in keys]

    def estimate(self, field: str, *where: object) -> Estimate | None:
        """Return a figure with its interval over seeds, None where it is not computed."""
        values = self.values(field, *where)  # type: ignore[arg-type]
        return Estimate.of(values) if values else None


def write(folder: Path, results: Sequence[Result]) -> None:
    """Fill `racksched.md` in a folder and draw its figure beside it. Raises HeadwayError when that fails."""
    if results:
        draw(folder / "racksched-latency.svg", latencies(Found(results)))
    rewrite(folder / "racksched.md", body(results))


def body(results: Sequence[Result]) -> Callable[[str], str]:
    """Return what says, by the name of a marked place, what stands there; it raises KeyError for an unknown name.

    >>> body([])("scale")
    'These results have not been computed.'
    """
    found = Found(results)
    writers: dict[str, Callable[[], str]] = {
        name: partial(writer, found)
        for name, writer in {"provenance": provenance, "headline": headline, "scale": scale, "series": series}.items()
    }
    for number in FIGURES:
        writers[f"tails-{number}"] = partial(tails, found, number)
        writers[f"carried-{number}"] = partial(carried, found, number)

    def at(name: str) -> str:
        writer = writers[name]
        return writer() if results else NOT_COMPUTED

    return at


def provenance(found: Found) -> str:
    """Return when and where it was computed."""
    counts = sorted({r.requests for r in found.results if r.experiment in ("load", "carried")})
    each = " or ".join(f"{count:,}" for count in counts)
    return (
        f"Computed {when_and_where(found.results)}. Intervals are 95%, over {len(found.seeds)} seeds of {each} "
        "requests for each load."
    )


def headline(found: Found) -> str:
    """Return the load carried by each policy as ratios to random, on unequal and on equal servers."""
    lines = []
    for what, rack in (("unequal servers (four with 7 workers, four with 4)", UNEQUAL), ("equal servers", EQUAL)):
        for system in ("racksched", "headway"):
            for baseline in ("random", "weighted-random"):
                parts = []
                for workload in ("exp", "bimodal", "halves", "trimodal"):
                    where = (workload, name_of(rack))
                    ours = found.values("carried", "carried", *where, system, 0.0)
                    theirs = found.values("carried", "carried", *where, baseline, 0.0)
                    if ours and theirs:
                        ratio = Estimate.of_ratios([a / b for a, b in zip(ours, theirs, strict=True)])
                        parts.append(f"{ratio.text()} ({WORKS[workload].title})")
                if parts:
                    lines.append(
                        f"- On {what}, {SYSTEMS[system].title} carries this many times the load of "
                        f"{SYSTEMS[baseline].title}: {'; '.join(parts)}."
                    )
    return "\n".join(lines)


def tails(found: Found, number: str) -> str:
    """Return P99 by load for one figure of the paper."""
    figure, rows = FIGURES[number], []
    for workload in figure.works:
        for rack in figure.racks:
            for system in figure.systems:
                cells = [found.estimate("p99_us", "load", workload, name_of(rack), system, at) for at in SHOWN]
                where = ("load", workload, name_of(rack), system, 0.9)
                cells.append(found.estimate("short_p99_us", *where))
                slowdown = _plain(found.estimate("slowdown", *where))
                rows.append([WORKS[workload].title, SYSTEMS[system].title, *(_us(one) for one in cells), slowdown])
    head = ["workload", "balancer", *(f"P99 at {at:.0%}" for at in SHOWN), "P99 of the shortest type at 90%",
            "P99 slowdown at 90%"]  # fmt: skip
    return table(head, rows, texts=2)


def carried(found: Found, number: str) -> str:
    """Return the load carried at the P99 target for one figure of the paper."""
    figure, rows = FIGURES[number], []
    for workload in figure.works:
        for rack in figure.racks:
            cells = [found.estimate("carried", "carried", workload, name_of(rack), s, 0.0) for s in figure.systems]
            rows.append([f"{WORKS[workload].title}, P99 within {WORKS[workload].target_us:g} µs",
                         *(_share(one) for one in cells)])  # fmt: skip
    return table(["workload and target", *(SYSTEMS[s].title for s in figure.systems)], rows)


def scale(found: Found) -> str:
    """Return how P99 and carried load change with the number of servers."""
    rows = []
    for servers in SERVERS:
        rack = name_of((7,) * servers)
        cells = [found.estimate("p99_us", "load", "bimodal", rack, s, 0.9) for s in FIGURES["12"].systems]
        most = [found.estimate("carried", "carried", "bimodal", rack, s, 0.0) for s in FIGURES["12"].systems]
        rows.append([f"{servers}", *(_us(one) for one in cells), *(_share(one) for one in most)])
    names = [SYSTEMS[s].title for s in FIGURES["12"].systems]
    return table(["servers", *(f"P99 at 90%: {n}" for n in names), *(f"carried: {n}" for n in names)], rows)


def series(found: Found) -> str:
    """Return what a failure or a reconfiguration costs: the windows before, during and after it."""
    rows = []
    for name, case in SERIES.items():
        for system in SERIES_SYSTEMS:
            mine = sorted((r for r in found.results if (r.experiment, r.system) == (name, system)), key=lambda r: r.at)
            if not mine:
                continue
            times = sorted({change.at_s for change in case.changes if change.at_s > 0.0})
            lost = sum(r.lost or 0.0 for r in mine)
            worst = max(mine, key=lambda r: r.p99_us if r.p99_us is not None and math.isfinite(r.p99_us) else 0.0)
            after = [r for r in mine if r.at - case.window_s >= times[-1] - 1e-9]
            recovered = next(
                (r.at - times[-1] for r in after if (r.answered_per_s or 0.0) >= 0.97 * case.rate_per_s), math.inf
            )
            before = [r.p99_us for r in mine if r.at <= times[0] and r.p99_us is not None]
            rows.append([name, SYSTEMS[system].title, f"{case.rate_per_s / 1e3:g}", f"{lost:,.0f}",
                         f"{sorted(before)[len(before) // 2]:.0f}", f"{worst.p99_us:.0f}",
                         f"{recovered * 1e3:.0f}"])  # fmt: skip
    head = ["what", "balancer", "thousand requests/s", "lost", "P99 before (µs)", "worst P99 of a window (µs)",
            "ms from the last change until a window answers 97% of what comes"]  # fmt: skip
    return table(head, rows, texts=2)


def _us(one: Estimate | None) -> str:
    return fmt.DASH if one is None else one.within(0.0).text(lambda value: f"{value:,.0f}")


def _share(one: Estimate | None) -> str:
    return fmt.DASH if one is None else one.within(0.0, 1.0).text()


def _plain(one: Estimate | None) -> str:
    return fmt.DASH if one is None else one.text()


_STYLE = """
svg{--ink:#1d1c1a;--muted:#68645c;--grid:#ece8df;--own:#0e6470;--il:#c2571a;--cg:#8d8778;background:#fff}
@media(prefers-color-scheme:dark){svg{--ink:#ebe8e1;--muted:#a19c92;--grid:#272b30;--own:#63bcc7;--il:#f09a62;
--cg:#8b9099;background:#15171a}}
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",Arial,sans-serif;fill:var(--ink)}
.tick,.axis-title{fill:var(--muted);font-size:11px}.strong{font-weight:600}
.grid{stroke:var(--grid)}.axis{stroke:var(--muted);stroke-opacity:.6}.curve{fill:none;stroke-width:2}
.own{stroke:var(--own)}.il{stroke:var(--il)}.cg{stroke:var(--cg)}.il2{stroke:var(--il);stroke-dasharray:4 3}
.cg2{stroke:var(--cg);stroke-dasharray:4 3}.ideal{stroke:var(--ink);stroke-dasharray:1 3}
.own-fill{fill:var(--own)}.il-fill,.il2-fill{fill:var(--il)}.cg-fill,.cg2-fill{fill:var(--cg)}.ideal-fill{fill:var(--ink)}
"""


def latencies(found: Found) -> Markup:
    """Return P99 against load for figures 10 and 11: workloads side by side, equal servers above unequal ones."""
    width, height, top = 225.0, 220.0, 48.0
    parts, at = [tag("style", Markup(_STYLE))], 0.0
    for number, system in enumerate(COLORS):
        x, y = 300.0 * (number % 3), 12.0 + 18.0 * (number // 3)
        parts += [line(x, y, x + 24, y, f"curve {COLORS[system]}"), text(x + 30, y + 4, SYSTEMS[system].title, "")]
    for row, (number_of, what) in enumerate((("10", "8 x 7 workers"), ("11", "4 x 7 and 4 x 4"))):
        figure = FIGURES[number_of]
        for column, workload in enumerate(figure.works):
            at = top + height * row
            inner = [text(0, 14, f"{WORKS[workload].title.split('(')[0]}, {what}", "strong")]
            frame = Frame(width, height, left=46, right=14, top=28, bottom=44)
            inner += _panel(found, workload, name_of(figure.racks[0]), figure.systems, frame)
            parts.append(tag("g", *inner, transform=f"translate({width * column:g},{at:g})"))
    return drawing(900, top + 2 * height, "P99 by load, equal and unequal servers", parts)


def _panel(found: Found, workload: str, rack: str, systems: Sequence[str], frame: Frame) -> list[Markup]:
    lines = {}
    for system in systems:
        known = [(at, found.estimate("p99_us", "load", workload, rack, system, at)) for at in LOADS]
        lines[system] = [(at, one.mean) for at, one in known if one is not None and math.isfinite(one.mean)]
    every = [value for points in lines.values() for _, value in points]
    if not every:
        return []
    low = min(every) * 0.9
    x, y = frame.x(LOADS[0] - 0.02, 1.0), frame.y(low, low * 20, log=True)
    parts = frame.y_axis(y, y.ticks(4), lambda value: f"{value:g}")
    parts += frame.x_axis(x, [0.3, 0.5, 0.7, 0.9], lambda value: f"{value:.0%}", "load (P99 in µs)")
    for system, points in lines.items():
        parts.append(polyline([(x(at), y(value)) for at, value in points], f"curve {COLORS[system]}"))
        for at, value in points:
            tip = f"{SYSTEMS[system].title}: {value:.0f} µs"
            parts.append(dot((x(at), y(value)), 2.5, f"{COLORS[system]}-fill", tip))
    return parts
