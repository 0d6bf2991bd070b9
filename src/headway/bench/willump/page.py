"""The page of the reproduction: what stands at its marked places, written from rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.bench import Row
from headway.bench.page import NOT_COMPUTED, rewrite, table, when_and_where

BENCHES = ("features-cascade", "features-topk", "features-all")


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


def write(folder: Path, results: Sequence[Result]) -> None:
    """Fill `willump.md` in a folder. Raises HeadwayError when that fails."""
    rewrite(folder / "willump.md", body(results))


def body(results: Sequence[Result]) -> Callable[[str], str]:
    """Return what says, by the name of a marked place, what stands there; it raises KeyError for an unknown name.

    >>> body([])("top-k")
    'These results have not been computed.'
    """
    known = Known(results)

    def at(name: str) -> str:
        writer = _WRITERS[name]
        try:
            return writer(known) if results else NOT_COMPUTED
        except KeyError:
            return NOT_COMPUTED

    return at


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _provenance(known: Known) -> str:
    seeds = sorted({result.seed for result in known.all.values()})
    return f"Measured {when_and_where(list(known.all.values()))}; seed {', '.join(map(str, seeds))}."


def _bars(known: Known) -> str:
    rows = []
    for one in known.all.values():
        if one.bar:
            judged = one.value if one.ratio is None else one.ratio
            met = "yes" if Row(one.name, one.value, one.unit, one.baseline, one.ratio, one.bar).met else "**no**"
            rows.append([f"`{one.name}`", _number(judged), one.bar, met])
    return table(["row", "measured", "bar", "met"], rows)


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
    head_row = ["texts", "pipeline, rows/s", "cascade, rows/s", "faster", "projected", "answered by cheap steps",
                "loss certified, points", "loss measured, points", "accuracy", "folds"]  # fmt: skip
    return table(head_row, rows)


def _compiled(known: Known) -> str:
    rows = []
    for name in known.below("features-cascade/"):
        alone, both = (known[f"features-cascade/{name}/{part}"] for part in ("compiled", "compiled-cascade"))
        faster = [f"{_number(part.ratio)} x" for part in (alone, both)]
        rows.append([name, *map(_number, (alone.baseline, alone.value)), faster[0], _number(both.value), faster[1]])
    head_row = [
        "texts",
        "pipeline, rows/s",
        "compiled pipeline, rows/s",
        "faster",
        "compiled cascade, rows/s",
        "faster",
    ]
    return table(head_row, rows)


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
    head_row = ["rows", "pool", "kept", "exact, s", "filtered, s", "faster", "projected", "draws with the recall",
                "calibrated on copies", "asked of copies", "least recall"]  # fmt: skip
    return table(head_row, rows)


def _any_scores(known: Known) -> str:
    rows = []
    for name in known.below("features-topk/"):
        head = f"features-topk/{name}/any-scores"
        needed = known[f"{head}/rows-needed"]
        row = [name, _number(needed.value), _number(needed.baseline)]
        if f"{head}/kept" in known.all:
            parts = ("draws-with-recall", "least-recall", "kept", "calibration-rows")
            reached, least, kept, given = (known[f"{head}/{part}"] for part in parts)
            seconds, projected = (known.all.get(f"{head}/{part}") for part in ("seconds", "of-projected"))
            times = (None if seconds is None else seconds.ratio, None if projected is None else projected.baseline)
            row += [_number(given.value), _number(kept.value), *("" if x is None else f"{_number(x)} x" for x in times),
                    f"{reached.value:.2f}", f"{least.value:.2f}"]  # fmt: skip
        rows.append([*row, *[""] * (9 - len(row))])
    head_row = ["rows", "calibration rows needed", "there are", "given", "kept", "faster", "projected",
                "draws with the recall", "least recall"]  # fmt: skip
    return table(head_row, rows)


def _ablation(head: str) -> Callable[[Known], str]:
    def ways(known: Known) -> str:
        rows = []
        for name in known.below(head):
            if f"{head}{name}/mean" not in known.all:
                continue
            parts = [known[f"{head}{name}/{part}"] for part in ("median", "mean", "p99")]
            times = [one.value if name == "whole" else one.baseline for one in parts]
            ratio = "" if name == "whole" else f"{_number(parts[1].ratio)} x"
            rows.append([name.replace("-", " "), *map(_number, times), ratio])
        return table(["way", "median, ms", "mean, ms", "p99, ms", "mean / that of the whole"], rows)

    return ways


def _times(known: Known) -> str:
    ways = ("without-any", "whole")
    parts = dict.fromkeys(part for way in ways for part in known.below(f"features-all/time/{way}/"))
    rows = []
    for part in parts:
        found = [known.all.get(f"features-all/time/{way}/{part}") for way in ways]
        rows.append([part.replace("_", " "), *(_number(None if one is None else one.value) for one in found)])
    return table(["of a query", "before, us", "after, us"], rows)


def _use(known: Known) -> str:
    rows = []
    for name in known.below("features-all/hit-rate/"):
        found = [known[f"features-all/{far}hit-rate/{name}"].value for far in ("", "far/")]
        rows.append([name.replace("_", " "), *(f"{value:.0%}" for value in found)])
    answered = [known[f"features-all/{far}answered-by-small"].value for far in ("", "far/")]
    rows.append(["*answered by the small model*", *(f"{value:.0%}" for value in answered)])
    return table(["hits of the cache of", "near store", "far store"], rows)


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
    return table(["what", "way", "ms", "faster than pandas"], rows)


_WRITERS: dict[str, Callable[[Known], str]] = {
    "provenance": _provenance,
    "bars": _bars,
    "cascades": _cascades,
    "compiled": _compiled,
    "top-k": _top_k,
    "any-scores": _any_scores,
    "near": _ablation("features-all/"),
    "far": _ablation("features-all/far/"),
    "times": _times,
    "use": _use,
    "auc": _auc,
    "batches": _batches,
}
