"""A calibration for the terminal: what was fitted, and how far predictions are off before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headway.report import format as fmt
from headway.report.tables import heading, pairs, table, warnings

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

_WHOLE = {"p50_s": "P50", "p95_s": "P95", "p99_s": "P99", "miss_rate": "miss rate"}
_STAGE = {
    "queue_wait_p50_s": "wait P50", "queue_wait_p95_s": "wait P95", "queue_wait_p99_s": "wait P99",
    "service_p50_s": "batch P50", "service_p95_s": "batch P95", "service_p99_s": "batch P99", "utilization": "util.",
    "miss_rate": "misses",
}  # fmt: skip
Figure = Mapping[str, Any]
_SHARES = ("miss_rate", "utilization")


def calibration_view(found: Mapping[str, Any]) -> Group:
    """Return a calibration's JSON to be printed with Rich."""
    from rich.console import Group

    overheads, errors, counts = found["overheads"], found["errors"], found["requests"]
    facts = [
        ("requests", f"{fmt.count(counts['offered'])}, of which {fmt.count(counts['answered'])} were answered"),
        ("added per request", _estimate(overheads["request_s"])),
    ]
    parts: list[RenderableType] = [heading(f"calibration of {found['name']}"), pairs(facts), _fitted(found)]
    said = [("·", str(finding["text"])) for finding in found.get("findings", ())]
    if said:
        parts += [heading("what requests bring otherwise than predicted"), pairs(said)]
    parts += [heading("predicted after the fit, and how far off that was and is"), _errors(errors)]
    if errors["test"] is not None:
        parts += [heading("another trace, predicted with what was fitted"), _errors({"after": errors["test"]})]
    return Group(*parts, *warnings(found["low_confidence"]))


def _fitted(found: Mapping[str, Any]) -> RenderableType:
    replaced: dict[str, list[str]] = {}
    for row in found["refitted"]:
        replaced.setdefault(row["stage"], []).append(str(row["batch_size"]))
    rows = [
        [
            name,
            _estimate(batch),
            fmt.count(batch["samples"] if batch else None),
            ", ".join(replaced.get(name, [])) or "none",
            f"{found['scale_factors'][name]['value']:.3g}",
        ]
        for name, batch in found["overheads"]["batch_s"].items()
    ]
    return table(["stage", "added per batch", "batches", "rows replaced", "items per request"], rows)


def _errors(errors: Mapping[str, Any]) -> RenderableType:
    """What was predicted in the end and measured; with how far off it was before, where there is a before."""
    times = [when for when in ("before", "after") if when in errors]
    rows = []
    for label, name, figures in _figures([errors[when] for when in times]):
        last = figures[-1]
        off = [_error(name, figure) for figure in figures]
        rows.append(
            [label, _figure(name, last["predicted"]), _interval(name, last), _figure(name, last["measured"]), *off]
        )
    off = ["was off", "is off"] if len(times) == 2 else ["is off"]
    return table(["", "predicted", "interval", "measured", *off], rows)


def _figures(compared: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, list[Figure]]]:
    """Each figure: how it is written, its name, and its value in each of the comparisons."""
    for name, label in _WHOLE.items():
        yield label, name, [each[name] for each in compared]
    for stage in compared[0]["stages"]:
        for name, label in _STAGE.items():
            if name in compared[0]["stages"][stage]:
                yield f"{stage} {label}", name, [each["stages"][stage][name] for each in compared]


def _estimate(value: Figure | None) -> str:
    if value is None:
        return fmt.DASH
    # A server tells its times to the microsecond.
    return " ± ".join(fmt.duration(round(value[part], 6)) for part in ("value", "half"))


def _interval(name: str, value: Figure) -> str:
    """Both edges, with their unit once where they share it."""
    low, high = (_figure(name, edge) for edge in value["interval"])
    number, _, unit = low.partition(" ")
    return f"{number if unit and high.endswith(f' {unit}') else low} – {high}"


def _figure(name: str, value: float | None) -> str:
    return fmt.percent(value) if name in _SHARES else fmt.duration(value)


def _error(name: str, value: Figure) -> str:
    """Relative to what was measured; of waits and shares, which may be next to nothing, the plain difference."""
    if not name.startswith("queue_wait") and name not in _SHARES:
        return fmt.change(value["error_ratio"])
    difference = value["difference"]
    if not difference:
        return fmt.DASH if difference is None else "±0"
    return f"{'+' if difference > 0 else '−'}{_figure(name, abs(difference))}"
