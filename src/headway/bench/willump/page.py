"""The page of the reproduction: its tables and sentences with figures are written from rows, never by hand.

A page holds marked places, `<!-- results: NAME -->` to `<!-- end -->`, whose text is replaced; all else is prose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.bench import Row
from headway.files import write_atomic

BENCHES = ("features-cascade", "features-topk", "features-all")
_MARKED = re.compile(r"(<!-- results: ([a-z-]+) -->).*?(<!-- end -->)", re.DOTALL)
NOT_MEASURED = "This has not been measured."


@dataclass(frozen=True, slots=True)
class Result:
    """A benchmark's row as the file beside the page holds it; `place` is its place among the rows of its benchmark."""

    bench: str
    place: int
    name: str
    value: float
    unit: str
    baseline: float | None
    ratio: float | None
    bar: str
    seed: int
    date: str
    machine: str

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells this row from all others."""
        return self.bench, self.place, self.name, self.seed

    @property
    def inputs(self) -> str:
        """A row rests on nothing but its key."""
        return ""

    @classmethod
    def of(cls, bench: str, place: int, row: Row) -> Result:
        """Return a row as a result."""
        seed = 0 if row.seed is None else row.seed
        figures = (row.value, row.unit, row.baseline, row.ratio, row.bar or "")
        return cls(bench, place, row.name, *figures, seed, row.date, row.machine)


class Known:
    """Results by name; a name that was not measured is an error that the page turns into a sentence."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.all = {result.name: result for result in results}

    def __getitem__(self, name: str) -> Result:
        """Return the result of that name. Raises KeyError."""
        return self.all[name]

    def below(self, head: str) -> list[str]:
        """Return the first parts of names after a head, each once, in their order."""
        found = [name.removeprefix(head).split("/")[0] for name in self.all if name.startswith(head)]
        return list(dict.fromkeys(found))


def filled(page: str, results: Sequence[Result]) -> str:
    """Return a page with every marked place written anew. Raises KeyError for a place that is not known.

    >>> filled("<!-- results: top-k --><!-- end -->", []).count("not been measured")
    1
    """
    known = Known(results)

    def write(match: re.Match[str]) -> str:
        writer = _WRITERS[match[2]]
        try:
            body = writer(known)
        except (KeyError, IndexError):
            body = NOT_MEASURED
        return f"{match[1]}\n\n{body}\n\n{match[3]}"

    return _MARKED.sub(write, page)


def write(folder: Path, results: Sequence[Result]) -> None:
    """Fill `willump.md` in a folder. Raises HeadwayError when that fails."""
    page = folder / "willump.md"
    write_atomic(page, filled(page.read_text(encoding="utf-8"), results))


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _provenance(known: Known) -> str:
    machines = sorted({result.machine for result in known.all.values()})
    dates = sorted({result.date for result in known.all.values()})
    seeds = sorted({result.seed for result in known.all.values()})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"Measured {when} on {'; '.join(machines)}; seed {', '.join(map(str, seeds))}."


def _bars(known: Known) -> str:
    rows = []
    for one in known.all.values():
        if one.bar:
            judged = one.value if one.ratio is None else one.ratio
            met = "yes" if Row(one.name, one.value, one.unit, one.baseline, one.ratio, one.bar).met else "**no**"
            rows.append([f"`{one.name}`", _number(judged), one.bar, met])
    return _markdown(["row", "measured", "bar", "met"], rows)


def _cascades(known: Known) -> str:
    rows = []
    for name in known.below("features-cascade/"):
        head = f"features-cascade/{name}"
        speed, projected = known[f"{head}/throughput"], known[f"{head}/of-projected"]
        loss, error = known[f"{head}/loss"], known[f"{head}/loss-standard-error"]
        rows.append(
            [name, _number(speed.baseline), _number(speed.value), f"{_number(speed.ratio)} x",
             f"{_number(projected.baseline)} x", f"{known[f'{head}/answered-by-cheap-steps'].value:.0f} %",
             _number(known[f"{head}/loss-certified-worst"].value), f"{loss.value:+.2f} ± {error.value:.2f}",
             f"{known[f'{head}/accuracy'].value:.1f} %", _number(known[f"{head}/draws"].value)]
        )  # fmt: skip
    if not rows:
        raise KeyError("cascades")
    head_row = ["texts", "pipeline, rows/s", "cascade, rows/s", "faster", "projected", "answered by cheap steps",
                "loss certified, points", "loss measured, points", "accuracy", "folds"]  # fmt: skip
    return _markdown(head_row, rows)


def _compiled(known: Known) -> str:
    rows = []
    for name in known.below("features-cascade/"):
        alone, both = (known[f"features-cascade/{name}/{part}"] for part in ("compiled", "compiled-cascade"))
        faster = [f"{_number(part.ratio)} x" for part in (alone, both)]
        rows.append([name, *map(_number, (alone.baseline, alone.value)), faster[0], _number(both.value), faster[1]])
    if not rows:
        raise KeyError("compiled")
    head_row = [
        "texts",
        "pipeline, rows/s",
        "compiled pipeline, rows/s",
        "faster",
        "compiled cascade, rows/s",
        "faster",
    ]
    return _markdown(head_row, rows)


def _top_k(known: Known) -> str:
    rows = []
    for name in known.below("features-topk/"):
        head = f"features-topk/{name}"
        seconds, projected, kept = (known[f"{head}/{part}"] for part in ("seconds", "of-projected", "kept"))
        rows.append(
            [name, _number(kept.baseline), _number(kept.value), _number(seconds.baseline), _number(seconds.value),
             f"{_number(seconds.ratio)} x", f"{_number(projected.baseline)} x",
             *(f"{known[f'{head}/{part}'].value:.2f}" for part in
               ("draws-with-recall", "draws-calibrated-on-copies", "draws-of-copies", "least-recall"))]
        )  # fmt: skip
    if not rows:
        raise KeyError("top-k")
    head_row = ["rows", "pool", "kept", "exact, s", "filtered, s", "faster", "projected", "draws with the recall",
                "calibrated on copies", "asked of copies", "least recall"]  # fmt: skip
    return _markdown(head_row, rows)


def _ablation(head: str) -> Callable[[Known], str]:
    def table(known: Known) -> str:
        rows = []
        for name in known.below(head):
            if f"{head}{name}/mean" not in known.all:
                continue
            parts = [known[f"{head}{name}/{part}"] for part in ("median", "mean", "p99")]
            times = [one.value if name == "whole" else one.baseline for one in parts]
            ratio = "" if name == "whole" else f"{_number(parts[1].ratio)} x"
            rows.append([name.replace("-", " "), *map(_number, times), ratio])
        if not rows:
            raise KeyError(head)
        return _markdown(["way", "median, ms", "mean, ms", "p99, ms", "mean / that of the whole"], rows)

    return table


def _times(known: Known) -> str:
    ways = ("without-any", "whole")
    parts = dict.fromkeys(part for way in ways for part in known.below(f"features-all/time/{way}/"))
    rows = []
    for part in parts:
        found = [known.all.get(f"features-all/time/{way}/{part}") for way in ways]
        rows.append([part.replace("_", " "), *(_number(None if one is None else one.value) for one in found)])
    if not rows:
        raise KeyError("time")
    return _markdown(["of a query", "before, us", "after, us"], rows)


def _use(known: Known) -> str:
    rows = []
    for table in known.below("features-all/hit-rate/"):
        found = [known[f"features-all/{far}hit-rate/{table}"].value for far in ("", "far/")]
        rows.append([table.replace("_", " "), *(f"{value:.0%}" for value in found)])
    answered = [known[f"features-all/{far}answered-by-small"].value for far in ("", "far/")]
    rows.append(["*answered by the small model*", *(f"{value:.0%}" for value in answered)])
    return _markdown(["hits of the cache of", "near store", "far store"], rows)


def _auc(known: Known) -> str:
    auc, bound = known["features-all/auc"], known["features-all/auc-loss-bound"]
    loss = known["features-all/auc-loss"].value
    return (
        f"AUC of the full model {auc.baseline:.4f}, of the cascade {auc.value:.4f} on the test months: a loss of "
        f"{loss:+.4f}, bounded on the calibration month at {bound.value:.4f} (bootstrap, 95 %)."
    )


def _batches(known: Known) -> str:
    heads = [name for name in known.below("features-all/") if name.startswith(("joins-", "batch-", "aggregates"))]
    rows = []
    for head in heads:
        for way in known.below(f"features-all/{head}/"):
            one = known.all.get(f"features-all/{head}/{way}")
            if one is not None:
                ratio = "" if one.ratio is None else f"{_number(one.ratio)} x"
                rows.append([head.replace("-", " of "), way.replace("-", " "), _number(one.value), ratio])
    if not rows:
        raise KeyError("batches")
    return _markdown(["what", "way", "ms", "faster than pandas"], rows)


_WRITERS: dict[str, Callable[[Known], str]] = {
    "provenance": _provenance,
    "bars": _bars,
    "cascades": _cascades,
    "compiled": _compiled,
    "top-k": _top_k,
    "near": _ablation("features-all/"),
    "far": _ablation("features-all/far/"),
    "times": _times,
    "use": _use,
    "auc": _auc,
    "batches": _batches,
}
