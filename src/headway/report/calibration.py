"""A calibration for the terminal: what was fitted, and how far predictions are off before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from headway.report import format as fmt
from headway.report.tables import heading, pairs, table, warnings

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

_WHOLE = {"p50_s": "P50", "p95_s": "P95", "p99_s": "P99", "miss_rate": "miss rate"}
_STAGE = {
    "queue_wait_p50_s": "wait P50", "queue_wait_p95_s": "wait P95", "queue_wait_p99_s": "wait P99",
    "service_mean_s": "service", "utilization": "utilization",
}  # fmt: skip
Figure = Mapping[str, Any]
_SHARES = ("miss_rate", "utilization")


def calibration_view(found: Mapping[str, Any]) -> Group:
    """Return a calibration's JSON to be printed with Rich."""
    from rich.console import Group

    overheads, errors = found["overheads"], found["errors"]
    counts = found["requests"]
    facts = [
        ("requests", f"{fmt.count(counts['offered'])}, of which {fmt.count(counts['answered'])} were answered"),
        ("added per request", _estimate(overheads["request_s"])),
    ]
    replaced: dict[str, list[str]] = {}
    for row in found["refitted"]:
        replaced.setdefault(row["stage"], []).append(str(row["batch_size"]))
    fitted = [
        [name, _estimate(batch), fmt.count(batch["samples"]) if batch else fmt.DASH,
         ", ".join(replaced.get(name, [])) or "none", f"{found['scale_factors'][name]['value']:.3g}"]
        for name, batch in overheads["batch_s"].items()
    ]  # fmt: skip
    head = ["stage", "added per batch", "batches", "rows replaced", "items per request"]
    parts: list[RenderableType] = [heading(f"calibration of {found['name']}"), pairs(facts), table(head, fitted)]
    head = ["", "before", "after", "its interval", "measured", "error before", "after"]
    parts.append(table(head, list(_rows(errors["before"], errors["after"]))))
    if errors["test"] is not None:
        parts += [heading("another trace, predicted with what was fitted"), _tested(errors["test"])]
    return Group(*parts, *warnings(found["low_confidence"]))


def _rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[list[str]]:
    for label, name, was, now in _both(before, after):
        figures = [_figure(name, value) for value in (was["predicted"], now["predicted"], now["measured"])]
        errors = [_error(name, value) for value in (was, now)]
        yield [label, *figures[:2], _interval(name, now), figures[2], *errors]


def _tested(test: Mapping[str, Any]) -> RenderableType:
    rows = [
        [label, _figure(name, value["predicted"]), _interval(name, value), _figure(name, value["measured"]),
         _error(name, value)]
        for label, name, value, _ in _both(test, test)
    ]  # fmt: skip
    return table(["", "predicted", "its interval", "measured", "error"], rows)


def _both(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, str, Figure, Figure]]:
    """Each figure of two comparisons: how it is written, its name, and both values."""
    for name, label in _WHOLE.items():
        yield label, name, a[name], b[name]
    for stage, figures in a["stages"].items():
        for name, label in _STAGE.items():
            yield f"{stage} {label}", name, figures[name], b["stages"][stage][name]


def _estimate(value: Mapping[str, Any] | None) -> str:
    return fmt.DASH if value is None else f"{fmt.duration(value['value'])} ± {fmt.duration(value['half'])}"


def _interval(name: str, value: Mapping[str, Any]) -> str:
    return " to ".join(_figure(name, edge) for edge in value["interval"])


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
