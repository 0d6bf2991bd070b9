"""The page of the reproduction: what stands at its marked places, and its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from headway.bench.cascadeserve import figures
from headway.bench.cascadeserve.cells import BASELINES, SYSTEMS, TOLERANCE, WANTED
from headway.bench.cascadeserve.figures import NAMES
from headway.bench.cascadeserve.rows import Result
from headway.bench.page import NOT_COMPUTED, draw, rewrite, table, when_and_where
from headway.report import format as fmt
from headway.sim.estimate import Estimate

PLANNERS = {"gears": "Headway", "four-passes": "Four passes, as published", "random": "At random, twice the time",
            "exhaustive": "Every plan"}  # fmt: skip

Problem = tuple[str, float, float, int]
Found = dict[Problem, dict[str, Result]]


def write(folder: Path, results: Sequence[Result]) -> None:
    """Fill `cascadeserve.md` in a folder and draw its figures beside it. Raises HeadwayError when that fails."""
    first = min((result.seed for result in results), default=0)
    cells = [r for r in results if (r.experiment, r.traffic, r.seed) == ("cells", "bursty", first)]
    spikes, ablation = (
        [r for r in results if (r.experiment, r.seed) == (name, first)] for name in ("spikes", "ablation")
    )
    if cells:
        draw(folder / "cascadeserve-devices.svg", figures.devices(cells))
    if spikes:
        draw(folder / "cascadeserve-spikes.svg", figures.spikes(spikes, spikes[0].latency_s))
    if ablation:
        draw(folder / "cascadeserve-ablation.svg", figures.ablation(ablation))
    rewrite(folder / "cascadeserve.md", body(results))


def body(results: Sequence[Result]) -> Callable[[str], str]:
    """Return what says, by the name of a marked place, what stands there; it raises KeyError for an unknown name.

    >>> body([])("devices")
    'These results have not been computed.'
    """

    def at(name: str) -> str:
        experiment, writer = _WRITERS[name]
        some = [result for result in results if experiment in ("", result.experiment)]
        return writer(some) if some else NOT_COMPUTED

    return at


def _provenance(results: Sequence[Result]) -> str:
    seeds = ", ".join(map(str, sorted({r.seed for r in results})))
    return f"Computed {when_and_where(results)}. Seeds: {seeds}. Intervals are 95%, over seeds; one gives none."


def _problems(results: Sequence[Result]) -> Found:
    found: Found = {}
    for r in results:
        found.setdefault((r.traffic, r.floor, r.latency_s, r.seed), {})[r.system] = r
    return {at: by for at, by in sorted(found.items()) if "gears" in by}


def _least(by: dict[str, Result]) -> float | None:
    return min((by[n].devices for n in BASELINES if n in by and by[n].devices is not None), default=None)  # type: ignore[type-var]


def _ratio(by: dict[str, Result], least: float | None) -> float | None:
    ours = by["gears"].devices
    return None if least is None or ours is None else least / ours


def _short(value: float | None) -> str:
    return fmt.DASH if value is None else f"{value:g}"


# Devices


def _headline(results: Sequence[Result]) -> str:
    """By traffic: the median over cells of how many times fewer devices gears need, formed seed by seed."""
    lines, found = [], _problems(results)
    for traffic in sorted({at[0] for at in found}):
        by_seed: dict[int, list[float]] = {}
        for at, by in found.items():
            ratio = _ratio(by, _least(by)) if at[0] == traffic else None
            if ratio is not None:
                by_seed.setdefault(at[3], []).append(ratio)
        every = [ratio for ratios in by_seed.values() for ratio in ratios]
        if every:
            medians = Estimate.of_ratios([median(ratios) for ratios in by_seed.values()])
            cells = ", ".join(str(len(ratios)) for ratios in by_seed.values())
            lines.append(
                f"- {traffic.replace('_', ' ')}: the better of one model and switching models needs "
                f"**{medians.text()} times** as many devices as gears (median over cells; {min(every):.3g} to "
                f"{max(every):.3g} times over all; cells by seed: {cells})."
            )
    return "\n".join(lines)


def _devices(results: Sequence[Result]) -> str:
    first = min(r.seed for r in results)
    rows = []
    for (traffic, floor, latency_s, seed), by in _problems(results).items():
        if (traffic, seed) == ("bursty", first):
            listed = [_short(by[name].devices) if name in by else fmt.DASH for name in SYSTEMS]
            if "cocktail" in by and by["cocktail"].mean_devices is not None:
                listed[SYSTEMS.index("cocktail")] += f" ({by['cocktail'].mean_devices:.3g})"
            ratio = _ratio(by, _least(by))
            rate = by["gears"].rate_per_s
            rows.append([fmt.percent(floor), f"{latency_s:g} s", _short(rate and round(rate)), *listed,
                         fmt.DASH if ratio is None else f"{ratio:.2f}"])  # fmt: skip
    head = ["accuracy", "P95", "requests/s", *(NAMES[name] for name in SYSTEMS), "baseline / gears"]
    return table(head, rows, texts=2)


def _exceptions(results: Sequence[Result]) -> str:
    """Where the load could not be set so that the better baseline needs 8 to 32 devices, or some system finds none."""
    said = []
    for (traffic, floor, latency_s, seed), by in _problems(results).items():
        least = _least(by)
        cell = f"{traffic.replace('_', ' ')}, {fmt.percent(floor)} within {latency_s:g} s, seed {seed}"
        if least is None:
            said.append(f"{cell} (no baseline keeps both promises)")
        elif not WANTED[0] <= least <= WANTED[1]:
            said.append(f"{cell} ({least:g} devices)")
    if not said:
        return "In every cell the better baseline needs 8 to 32 devices."
    return f"Cells at whose load the better baseline does not need 8 to 32 devices: {'; '.join(said)}."


def _accuracy(results: Sequence[Result]) -> str:
    """How far below its floor each system is at most on samples that no plan was made from."""
    rows = []
    for name in SYSTEMS:
        short = [r.floor - r.tested_accuracy for r in results if r.system == name and r.tested_accuracy is not None]
        if short:
            within = sum(value <= TOLERANCE for value in short)
            rows.append([NAMES[name], f"{100 * sum(short) / len(short):.2f}", f"{100 * max(short):.2f}",
                         f"{within} of {len(short)}"])  # fmt: skip
    head = ["system", "points below the floor, mean", "at most", f"cells within {100 * TOLERANCE:g} point"]
    return table(head, rows)


# The other experiments


def _ablation(results: Sequence[Result]) -> str:
    rows = []
    for given in sorted({r.given for r in results}):
        cells = []
        for name in ("static-model", "switching", "static-cascade", "gears"):
            reached = [r.accuracy for r in results if (r.given, r.system) == (given, name) and r.accuracy is not None]
            cells.append(Estimate.of(reached).text(fmt.percent) if reached else fmt.DASH)
        rows.append([f"{given}", *cells])
    head = ["devices", "neither", "no cascades", "no switching", "gears"]
    return table(head, rows)


def _spikes(results: Sequence[Result]) -> str:
    """By system: what it did with its plan in each seed, and in the worst second of each."""
    rows = []
    for name in NAMES:
        by_second = [r for r in results if r.system == name and r.p95_s is not None]
        whole = sorted((r for r in results if (r.system, r.at_s) == (name, 0)), key=lambda r: r.seed)
        played = [r for r in whole if r.p95_s is not None]
        worst = [max(r.p95_s or 0.0 for r in by_second if r.seed == one.seed and r.at_s > 0) for one in played]
        if whole:
            rows.append([NAMES[name], ", ".join(f"{r.given}" for r in whole), f"{len(played)} of {len(whole)}",
                         _over_seeds([r.p95_s for r in played], _seconds), _over_seeds(worst, _seconds),
                         _over_seeds([r.accuracy for r in played], fmt.percent)])  # fmt: skip
    head = ["system", "devices by seed", "has a plan", "P95", "P95 of the worst second", "accuracy"]
    return table(head, rows)


def _over_seeds(values: Sequence[float | None], form: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    return Estimate.of(known).within(0.0).text(form) if known else fmt.DASH


def _seconds(value: float) -> str:
    return f"{value:.3g} s"


def _planners(results: Sequence[Result]) -> str:
    rows = []
    for latency_s in sorted({r.latency_s for r in results}):
        for name, title in PLANNERS.items():
            some = [r for r in results if (r.latency_s, r.system) == (latency_s, name)]
            reached = [r.accuracy for r in some if r.accuracy is not None]
            taken = [r.seconds for r in some if r.seconds is not None]
            if some:
                right = Estimate.of(reached).text(fmt.percent) if reached else fmt.DASH
                time = f"{median(taken):.2g}" if taken else fmt.DASH
                rows.append([f"{latency_s:g} s", title, right, f"{len(reached)} of {len(some)}", time])
    return table(["P95", "planner", "accuracy", "finds a plan", "seconds"], rows, texts=2)


_WRITERS: dict[str, tuple[str, Callable[[Sequence[Result]], str]]] = {
    "provenance": ("", _provenance),
    "headline": ("cells", _headline),
    "devices": ("cells", _devices),
    "exceptions": ("cells", _exceptions),
    "accuracy": ("cells", _accuracy),
    "ablation": ("ablation", _ablation),
    "spikes": ("spikes", _spikes),
    "planners": ("planners", _planners),
}
"""By the name of a marked place: the experiment that it cannot do without, and what writes it."""
