"""The page of RackSched's evaluation: its tables, figure and sentences with figures are written from the results."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from headway.bench.fleets import rack_noise
from headway.bench.fleets.rack_cases import EQUAL, SYSTEMS, UNEQUAL, WORKS
from headway.bench.fleets.rack_figures import TITLES, changes, growth, latencies
from headway.bench.fleets.rack_noise import Cell
from headway.bench.fleets.racksched import (
    FIGURES,
    PROTOTYPE,
    SERIES,
    SERIES_SYSTEMS,
    SERVERS,
    Found,
    Result,
    Series,
    held,
    name_of,
)
from headway.bench.page import NOT_COMPUTED, draw, rewrite, table, when_and_where
from headway.report import format as fmt
from headway.sim.estimate import Estimate

SHOWN = (0.5, 0.8, 0.9, 0.95)
"""The loads of tables; the figure has all."""


def write(folder: Path, results: Sequence[Result]) -> None:
    """Fill `racksched.md` in a folder and draw its figures beside it. Raises HeadwayError when that fails."""
    if results:
        for name, drawn in (("latency", latencies), ("growth", growth), ("changes", changes)):
            draw(folder / f"racksched-{name}.svg", drawn(Found(results)))
    rewrite(folder / "racksched.md", body(results))


def body(results: Sequence[Result]) -> Callable[[str], str]:
    """Return what says, by the name of a marked place, what stands there; it raises KeyError for an unknown name.

    >>> body([])("scale")
    'These results have not been computed.'
    """
    found = Found(results)
    writers: dict[str, Callable[[], str]] = {
        name: partial(writer, found)
        for name, writer in {
            "provenance": provenance, "headline": headline, "scale": scale, "series": series, "prototype": prototype,
            "outside": outside,
        }.items()
    }  # fmt: skip
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
                         *(_of_capacity(one) for one in cells)])  # fmt: skip
    return table(["workload and target", *(SYSTEMS[s].title for s in figure.systems)], rows)


def scale(found: Found) -> str:
    """Return how P99 and carried load change with the number of servers."""
    rows = []
    for servers in SERVERS:
        rack = name_of((7,) * servers)
        cells = [found.estimate("p99_us", "load", "bimodal", rack, s, 0.9) for s in FIGURES["12"].systems]
        most = [found.estimate("carried", "carried", "bimodal", rack, s, 0.0) for s in FIGURES["12"].systems]
        rows.append([f"{servers}", *(_us(one) for one in cells), *(_of_capacity(one) for one in most)])
    names = [SYSTEMS[s].title for s in FIGURES["12"].systems]
    return table(["servers", *(f"P99 at 90%: {n}" for n in names), *(f"carried: {n}" for n in names)], rows)


def series(found: Found) -> str:
    """Return what a failure or a reconfiguration costs: the windows before, during and after it."""
    rows = []
    for name, case in SERIES.items():
        for system in SERIES_SYSTEMS:
            costs = [_cost(case, windows) for windows in found.windows(name, system)]
            if costs:
                lost, before, worst, recovered = (Estimate.of(values) for values in zip(*costs, strict=True))
                rows.append([TITLES[name], SYSTEMS[system].title, f"{case.rate_per_s / 1e3:g}", _us(lost), _us(before),
                             _us(worst), _us(recovered)])  # fmt: skip
    head = ["what", "balancer", "thousand requests/s", "requests lost", "P99 before (µs)", "worst P99 of a window (µs)",
            "ms from the last change until a window answers 97% of what comes"]  # fmt: skip
    return table(head, rows, texts=2)


def _cost(case: Series, windows: Sequence[Result]) -> tuple[float, float, float, float]:
    """Requests lost, the median P99 before the first change and the worst, and milliseconds until it is over."""
    times = sorted({change.at_s for change in case.changes if change.at_s > 0.0})
    before = sorted(r.p99_us for r in windows if r.at <= times[0] and r.p99_us is not None)
    worst = max(r.p99_us for r in windows if r.p99_us is not None and math.isfinite(r.p99_us))
    over = (r.at for r in windows if r.at - case.window_s >= times[-1] - 1e-9
            and (r.answered_per_s or 0.0) >= 0.97 * case.rate_per_s)  # fmt: skip
    lost = math.fsum(r.lost or 0.0 for r in windows)
    return lost, before[len(before) // 2], worst, (next(over, math.inf) - times[-1]) * 1e3


def prototype(found: Found) -> str:
    """Return how many of the prototype's figures are met, over our requests and over its own."""
    own, same = (held(found, experiment) for experiment in PROTOTYPE)
    if not own or not same:
        return NOT_COMPUTED
    left_out = sorted(rack_noise.left_out(own))
    in_turn = f"each of our {len(found.seeds)} seeds in turn takes the place of the printed one"
    others = f"{left_out[0]:.1%} to {left_out[-1]:.1%} of the cells lie where the others say"
    chance = rack_noise.chance_of_as_few(sum(cell.met(values) for cell, values in same.items()), len(same))
    by_chance = f"As few would by chance alone with a probability of {chance:.2g}"
    equal = rack_noise.equal(same)
    sure = f"{sum(equal)} of {len(equal)} cells whose balancer draws nothing are equal to the last digit printed"
    return "\n".join((
        f"- Over requests of our own, {_share(own)}. When {in_turn}, {others}.",
        f"- Over the very requests that the prototype drew, **{_share(same)}**. {by_chance}.",
        f"- Of these, **{sure}**.",
    ))  # fmt: skip


def _share(cells: Mapping[Cell, Sequence[float]]) -> str:
    met = sum(cell.met(values) for cell, values in cells.items())
    share = met / len(cells)
    return f"{met} of {len(cells)} cells ({share:.1%}) lie where one run falls with {rack_noise.EXPECTED:.0%}"


def outside(found: Found) -> str:
    """Return the cells that one run should not give, and what the prototype's own requests give there."""
    own, same = (held(found, experiment) for experiment in PROTOTYPE)
    rows = []
    for cell, values in own.items():
        if not (cell.met(values) and cell.met(same.get(cell, values))):
            what = f"P99 in µs at {cell.load:.0%}" if cell.load else f"carried, {name_of(cell.workers)}"
            again = _run(same[cell], cell) if cell in same else fmt.DASH
            rows.append([WORKS[cell.workload].title, SYSTEMS[cell.system].title, what, f"{cell.printed:g}",
                         _run(values, cell), again])  # fmt: skip
    head = ["workload", "balancer", "figure", "printed", "ours, one run", "ours, one run over the prototype's requests"]
    return table(head, rows, texts=3)


def _run(values: Sequence[float], cell: Cell) -> str:
    return rack_noise.one_more(values).text(lambda value: f"{value:,.0f}" if cell.load else f"{value:.3f}")


def _us(one: Estimate | None) -> str:
    return fmt.DASH if one is None else one.within(0.0).text(lambda value: f"{value:,.0f}")


def _of_capacity(one: Estimate | None) -> str:
    return fmt.DASH if one is None else one.within(0.0, 1.0).text()


def _plain(one: Estimate | None) -> str:
    return fmt.DASH if one is None else one.text()
