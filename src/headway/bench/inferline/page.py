"""The page of the reproduction: what stands at its marked places, and its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from headway.bench.inferline import figures
from headway.bench.inferline.figures import NAMES, PLAN_NAMES, SCHEME_NAMES, TITLES, TUNER_NAMES
from headway.bench.inferline.rows import Result
from headway.bench.inferline.summary import Cell, Table, tables
from headway.bench.inferline.tuning import TUNERS, scheme_name
from headway.bench.page import NOT_COMPUTED, draw, rewrite, table, when_and_where
from headway.report import format as fmt
from headway.report.markup import Markup
from headway.sim.estimate import Estimate

Tables = dict[str, Table]


def write(folder: Path, results: Sequence[Result]) -> None:
    """Fill `inferline.md` in a folder and draw its figures beside it. Raises HeadwayError when that fails."""
    known = tables(results)
    tuned = sorted({cell[1] for cell in known["tuning"].cells}) if "tuning" in known else []
    drawn: dict[str, Sequence[tuple[str, Callable[[Table], Markup]]]] = {
        "grid": (("cost", figures.costs), ("misses", figures.misses)),
        "slo": (("slo", figures.slos),),
        "tuning": [(f"tuning-{one}", partial(figures.attribution, pipeline=one)) for one in tuned],
    }
    for experiment, charts in drawn.items():
        for name, chart in charts if experiment in known else ():
            draw(folder / f"inferline-{name}.svg", chart(known[experiment]))
    rewrite(folder / "inferline.md", body(results))


def body(results: Sequence[Result]) -> Callable[[str], str]:
    """Return what says, by the name of a marked place, what stands there; it raises KeyError for an unknown name.

    >>> body([])("slo")
    'These results have not been computed.'
    """
    known = tables(results)

    def at(name: str) -> str:
        if name == "provenance":
            return _provenance(results, known) if results else NOT_COMPUTED
        experiment, writer = _WRITERS[name]
        return writer(known) if experiment in known else NOT_COMPUTED

    return at


def _share(one: Estimate) -> str:
    return one.within(0.0, 1.0).text(fmt.percent)


def _provenance(results: Sequence[Result], known: Tables) -> str:
    seeds = "; ".join(f"{name}: {', '.join(map(str, some.seeds))}" for name, some in sorted(known.items()))
    lone = "; a single seed gives none" if any(len(some.seeds) == 1 for some in known.values()) else ""
    said = f"Computed {when_and_where(results)}. Seeds by experiment: {seeds}."
    return f"{said} Intervals are 95%, over these seeds{lone}."


# The planners on Gamma traffic


def _planners(known: Tables) -> str:
    grid, rows = known["grid"], []
    for cv in sorted({cell[3] for cell in grid.cells}):
        cells = [cell for cell in grid.cells if cell[3] == cv]
        part = f"{cv:g}"
        for system in _ordered(grid):
            kept = sum(grid.misses(cell, system).mean <= figures.ALLOWED for cell in cells)
            rows.append(
                [part, NAMES[system], grid.cost_ratio(system, "inferline", cells).text(),
                 _share(grid.miss_rate(system, cells)), _share(grid.miss_rate(system, cells, "mean_miss_rate")),
                 f"{kept} of {len(cells)}"]
            )  # fmt: skip
    head = ["CV", "planner", "cost, InferLine = 1", "misses", "misses, service times constant", "cells that keep 1%"]
    return table(head, rows, texts=2)


def _ordered(some: Table) -> list[str]:
    return [name for name in NAMES if name in some.systems]


def _ratios(known: Tables) -> str:
    rows: list[list[str]] = []
    if "grid" in known:
        for cv in sorted({cell[3] for cell in known["grid"].cells}):
            cells = [cell for cell in known["grid"].cells if cell[3] == cv]
            rows += _ratio_rows(known["grid"], f"Gamma, CV {cv:g}", ("cg-mean", "cg-peak"), NAMES, cells)
    if "real" in known:
        rows += _ratio_rows(known["real"], "real arrivals", ("cg-mean", "cg-peak"), NAMES, known["real"].cells)
    if "tuning" in known:
        baselines = ("cg-mean+autoscale", "cg-peak+autoscale", "cg-mean+ds2", "cg-mean+ds2-pause")
        rows += _ratio_rows(known["tuning"], "shapes, tuned", baselines, SCHEME_NAMES, known["tuning"].cells)
    head = ["traffic", "baseline", "its cost / InferLine's", "its cost / Headway's",
            "its misses / InferLine's", "its misses / Headway's"]  # fmt: skip
    return table(head, rows, texts=2)


def _ratio_rows(
    some: Table, traffic: str, baselines: Sequence[str], names: dict[str, str], cells: Sequence[Cell]
) -> list[list[str]]:
    return [
        [traffic, names[baseline],
         *(some.cost_ratio(baseline, system, cells).text() for system in ("inferline", "headway")),
         *(some.miss_ratio(baseline, system, cells).text() for system in ("inferline", "headway"))]
        for baseline in baselines if baseline in some.systems
    ]  # fmt: skip


def _headline(known: Tables) -> str:
    grid, lines = known["grid"], []
    for system in ("inferline", "headway"):
        cell, most = grid.dearest("cg-peak", system)
        lines.append(
            f"- Cost, planners alone: CG-Peak costs up to **{most.text()} times** as much as {NAMES[system]} "
            f"({TITLES[cell[1]]}, {cell[2]:g}/s, CV {cell[3]:g}); the paper says up to 7.6 times for InferLine."
        )
    tuning = known.get("tuning")
    if tuning is not None:
        for system in ("inferline", "headway"):
            cell = max(tuning.cells, key=lambda c: tuning.miss_ratio("cg-mean+autoscale", system, [c]).mean)
            ratio, cost = (f("cg-mean+autoscale", system, [cell]) for f in (tuning.miss_ratio, tuning.cost_ratio))
            where = f"{TITLES[cell[1]]}, {cell[0]}"
            lines.append(
                f"- Misses, tuned: CG-Mean + AutoScale misses up to **{ratio.text()} times** as often as "
                f"{SCHEME_NAMES[system]} ({where}), at {cost.text()} times its cost; the paper says 34.5 times at "
                "1.6 times the cost, on a shape that is not public."
            )
    return "\n".join(lines)


def _cells(known: Tables) -> str:
    grid = known["grid"]
    systems, rows = _ordered(grid), []
    for cell in sorted(grid.cells, key=lambda c: (c[3], list(TITLES).index(c[1]), c[2])):
        figures_of = [f"{grid.cost(cell, s).mean:.2f} ({fmt.percent(grid.misses(cell, s).mean)})" for s in systems]
        rows.append([TITLES[cell[1]], f"{cell[3]:g}", f"{cell[2]:g}", *figures_of])
    return table(["pipeline", "CV", "rate/s", *(NAMES[s] for s in systems)], rows)


def _gaps(known: Tables) -> str:
    grid, parts = known["grid"], []
    for system in ("headway-trace", "headway"):
        gaps = [grid.gap(cell, system).mean for cell in grid.cells]
        proven = sum(gap <= 1e-9 for gap in gaps)
        text = f"{NAMES[system]} is proven optimal in {proven} of {len(gaps)} cells"
        parts.append(f"{text}; the mean gap to its bound is {fmt.percent(sum(gaps) / len(gaps))}")
    saved = grid.cost_ratio("inferline", "headway-trace")
    return f"{'. '.join(parts)}. On the given trace InferLine's plans cost {saved.text()} times Headway's."


# What the result depends on


def _varied(name: str, column: int, head: str, text: Callable[[float], str]) -> Callable[[Tables], str]:
    def varied(known: Tables) -> str:
        some, rows = known[name], []
        for cell in sorted(some.cells, key=lambda c: (c[1], c[3], c[column])):
            costs = [some.cost(cell, s).text(lambda v: f"{v:.2f}") for s in ("headway", "inferline")]
            ratios = [some.cost_ratio("cg-peak", s, [cell]).text() for s in ("inferline", "headway")]
            missed = [fmt.percent(some.misses(cell, s).mean) for s in ("headway", "inferline", "cg-mean", "cg-peak")]
            rows.append([TITLES[cell[1]], f"{cell[3]:g}", text(cell[column]), *costs, *ratios, " / ".join(missed)])
        columns = ["pipeline", "CV", head, "Headway $/h", "InferLine $/h", "CG-Peak / InferLine", "CG-Peak / Headway",
                   "misses: Headway / InferLine / CG-Mean / CG-Peak"]  # fmt: skip
        none = [f"{text(cell[column])}, CV {cell[3]:g}" for cell in some.without_plan]
        said = f"\n\nLeft out, because some planner finds no plan: {'; '.join(none)}." if none else ""
        return table(columns, rows) + said

    return varied


def _real(known: Tables) -> str:
    real, rows = known["real"], []
    for cell in sorted(real.cells, key=lambda c: (c[0], list(TITLES).index(c[1]))):
        figures_of = [f"{real.cost(cell, s).mean:.2f} ({_share(real.misses(cell, s))})" for s in _ordered(real)]
        rows.append([str(cell[0]).replace("_", " "), TITLES[cell[1]], *figures_of])
    return table(["arrivals", "pipeline", *(NAMES[s] for s in _ordered(real))], rows, texts=2)


# Planner times tuner


def _tuning(known: Tables) -> str:
    tuning, rows = known["tuning"], []
    schemes = figures.by_planner(tuning)
    for cell in sorted(tuning.cells, key=lambda c: (list(TITLES).index(c[1]), str(c[0]))):
        for tuned in TUNERS:
            names = [some.get(tuned) for some in schemes.values()]
            entries = ["" if name is None else _paid_and_missed(tuning, cell, name) for name in names]
            rows.append([f"{TITLES[cell[1]]}, {cell[0]}", TUNER_NAMES[tuned], *entries])
    return table(["pipeline, shape", "tuner", *(PLAN_NAMES[plan] for plan in schemes)], rows, texts=2)


def _paid_and_missed(some: Table, cell: Cell, name: str) -> str:
    """Dollars over the run and the share of misses, strong where the promise is kept."""
    missed = some.misses(cell, name).mean
    text = f"{some.cost(cell, name).mean:.2f} ({fmt.percent(missed)})"
    return f"**{text}**" if missed <= figures.ALLOWED else text


def _exchanged(known: Tables) -> str:
    """What a whole system would cost and miss with another planner, or another tuner."""
    tuning, rows = known["tuning"], list[list[str]]()
    for part, others in (("planner", PLAN_NAMES), ("tuner", TUNER_NAMES)):
        for other, called in others.items():
            rows.append([part, called])
            for system in ("headway", "inferline"):
                name = scheme_name(other, system) if part == "planner" else scheme_name(system, other)
                whole = {name, system} <= set(tuning.systems)
                rows[-1].append(tuning.cost_ratio(name, system).text() if whole else "")
                rows[-1].append(_share(tuning.miss_rate(name)) if whole else "")
    head = ["exchanged", "for", "cost, Headway + Headway = 1", "misses", "cost, InferLine + InferLine = 1", "misses"]
    return table(head, rows, texts=2)


_WRITERS: dict[str, tuple[str, Callable[[Tables], str]]] = {
    "headline": ("grid", _headline),
    "ratios": ("grid", _ratios),
    "planners": ("grid", _planners),
    "cells": ("grid", _cells),
    "gaps": ("grid", _gaps),
    "slo": ("slo", _varied("slo", 4, "promise", lambda ms: f"{ms:g} ms")),
    "price": ("price", _varied("price", 5, "K80 price", lambda usd: f"${usd:g}/h")),
    "batch": ("batch", _varied("batch", 6, "time per further item", lambda share: f"× {share:g}")),
    "real": ("real", _real),
    "exchanged": ("tuning", _exchanged),
    "tuning": ("tuning", _tuning),
}
"""By the name of a marked place: the experiment that it cannot do without, and what writes it."""
